//! The pipeline: each stage once, in order; a stage takes what came before by reference and returns a new value.
//!
//! In: a checked request. Out: the report of the run, with the module written when there is one. Every
//! stage's refusals are collected; the run goes on as long as what follows still means something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;

use crate::compile::{self, Compiled, ObjectCache};
use crate::diff::{self, Diff};
use crate::elf::{self, Object};
use crate::emit::init::{self, ReplaceMode};
use crate::emit::plan::{Plan, UnitPatch};
use crate::emit::{self, finish, link, readback};
use crate::error::{Reason, Refusal};
use crate::kernel::symtab::SymbolTable;
use crate::kernel::unit::Unit;
use crate::kernel::{self, Kernel};
use crate::patch::{self, Applied};
use crate::reloc::{self, World};
use crate::report::progress::Progress;
use crate::report::{ModuleReport, Outcome, Report};
use crate::request::{Replace, Request};
use crate::verify::{self, Evidence, Loaded};

/// Bytes of original objects kept in the cache.
const CACHE_LIMIT: u64 = 2 << 30;

/// Builds a livepatch.
///
/// # Errors
///
/// For broken input, I/O, and failed tools ([`crate::error::ToolFailure`]); a "no" is in the report.
pub fn build(request: &Request, progress: &Progress) -> Result<Report> {
    let mut report = Report::new();
    request.check()?;
    progress.step("reading the patch");
    let patches = read_patches(&request.patches)?;
    let screened = patch::screen(patches.iter().map(|p| p.path.as_path()));
    report.notes.extend(screened.notes);
    report.refusals.extend(screened.refusals);

    progress.step("reading the kernel tree");
    let kernel = Kernel::open(&request.kernel)?;
    report.kernel = Some(kernel.release().to_owned());
    let replace = replace_mode(request.replace, &kernel, &mut report.refusals);
    let applied = patch::apply(&patches, |path| read_source(kernel.source(), path))?;
    report.notes.extend(applied.notes.iter().cloned());
    report.warnings.extend(applied.warnings.iter().cloned());
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let units = reach(&kernel, &applied, &mut report)?;
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let work = tempfile::Builder::new().prefix("klp-build-").tempdir().context("failed to make a work directory")?;
    // What the originals are checked against is read while the compilers run.
    let (objects, loaded) = std::thread::scope(|scope| {
        let loaded = scope.spawn(|| if request.no_verify { Ok(BTreeMap::new()) } else { load(&kernel, &units) });
        let objects = compile_units(&kernel, &units, &applied, request, work.path(), progress, &mut report);
        (objects, loaded.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let objects = objects?;

    progress.step("comparing");
    let diffs = compare(&units, &objects, &mut report)?;
    if diffs.iter().all(|(_, d)| d.is_empty()) && report.refusals.is_empty() {
        report.outcome = Outcome::Unchanged;
        return Ok(report);
    }
    let loaded = loaded?;
    verify(&kernel, &units, &diffs, request, &loaded, &mut report)?;
    let parts = resolve(&kernel, &units, &diffs, &loaded, &mut report)?;
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let plan = emit::plan::plan(parts, kernel.symvers());
    if plan.tables.is_empty() {
        report.refusals.push(Refusal::new(
            Reason::NeverRuns,
            "the patch only adds code that nothing in the kernel calls: no existing function changed",
            "change the function that should call the new code, or declare a callback",
        ));
        return Ok(refused(report));
    }

    progress.step("linking the module");
    let objtool = unit_objtool(&kernel, &units);
    let module = make_module(&kernel, request, &plan, replace, objtool, work.path(), &mut report)?;
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let (module, signed) = sign_module(&kernel, request, module, work.path())?;
    write_module(&request.output, &module)?;
    report.module = Some(ModuleReport {
        path: request.output.display().to_string(),
        name: request.name.clone(),
        replace_set: match replace {
            ReplaceMode::Set(set) => Some(set),
            _ => None,
        },
        replace: match (replace, kernel.abi().replace) {
            (ReplaceMode::All, _) => Some(true),
            (ReplaceMode::Nothing, kernel::abi::Replace::Boolean) => Some(false),
            _ => None,
        },
        signed,
    });
    if request.keep_tmp {
        report.notes.push(format!("kept `{}`", work.keep().display()));
    }
    Ok(report)
}

fn refused(mut report: Report) -> Report {
    report.outcome = Outcome::Refused;
    report
}

fn read_patches(paths: &[PathBuf]) -> Result<Vec<patch::FilePatch>> {
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        all.extend(patch::parse(&text, &path.display().to_string())?);
    }
    Ok(all)
}

fn read_source(root: &Path, path: &Path) -> Result<Option<Vec<u8>>> {
    let full = root.join(path);
    match fs::read(&full) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow!(error).context(format!("failed to read `{}`", full.display()))),
    }
}

fn replace_mode(asked: Replace, kernel: &Kernel, refusals: &mut Vec<Refusal>) -> ReplaceMode {
    use kernel::abi::Replace as Has;
    match (asked, kernel.abi().replace) {
        (Replace::Set(set), Has::Set) => ReplaceMode::Set(set),
        (Replace::Default, Has::Set) => ReplaceMode::Set(1),
        (Replace::Default, Has::Boolean) => ReplaceMode::All,
        (Replace::Nothing, Has::Boolean) | (_, Has::None)
            if asked != Replace::Set(0) && !matches!(asked, Replace::Set(_)) =>
        {
            ReplaceMode::Nothing
        }
        (Replace::Set(set), _) => {
            refusals.push(Refusal::new(
                Reason::KernelLacks,
                format!(
                    "replace set {set} was asked for, but this kernel's `struct klp_patch` has no `replace_set`: it has \
                     the boolean `replace`, which replaces all livepatches or none"
                ),
                "leave out -s to replace all livepatches, use --no-replace to replace none, or use a kernel with replace sets",
            ));
            ReplaceMode::Nothing
        }
        (Replace::Nothing, _) => {
            refusals.push(Refusal::new(
                Reason::KernelLacks,
                "--no-replace was asked for, but on this kernel a livepatch always replaces those of its own set",
                "give this livepatch a set of its own (-s N): livepatches of two sets stay side by side",
            ));
            ReplaceMode::Nothing
        }
        (Replace::Default, Has::None) => ReplaceMode::Nothing,
    }
}

/// The units that the touched files reach, or why they reach none.
fn reach(kernel: &Kernel, applied: &Applied, report: &mut Report) -> Result<Vec<Unit>> {
    let touched: Vec<PathBuf> = applied
        .files
        .iter()
        .map(|f| f.path.clone())
        .filter(|path| matches!(patch::classify(path), patch::Verdict::Code))
        .collect();
    if touched.is_empty() {
        return Ok(Vec::new());
    }
    let reach = kernel.units_reached_by(&touched)?;
    report.refusals.extend(reach.refusals);
    for outside in &reach.outside {
        report.notes.push(format!(
            "`{}` also reads a touched file and is left out: {:?}",
            outside.target.display(),
            outside.why
        ));
    }
    Ok(reach.units)
}

/// Both objects of each unit that has different tokens on the two sides.
fn compile_units(
    kernel: &Kernel,
    units: &[Unit],
    applied: &Applied,
    request: &Request,
    work: &Path,
    progress: &Progress,
    report: &mut Report,
) -> Result<Vec<(usize, Object, Object)>> {
    let tree = compile::Tree { source: kernel.source().to_path_buf(), objdir: kernel.objdir().to_path_buf() };
    let cache = ObjectCache::default_dir().map(|dir| ObjectCache::new(&dir, CACHE_LIMIT));
    let options = compile::Options {
        jobs: request.jobs,
        launcher: request.launcher.clone(),
        cache: cache.as_ref(),
        work,
        progress: &|what| progress.step(what),
    };
    let compiled = compile::compile_units(units, &tree, applied, &options)?;
    for unit in &compiled {
        if !unit.warnings.trim().is_empty() {
            report.warnings.push(format!("the compiler says of the patched source:\n{}", unit.warnings.trim_end()));
        }
    }
    let read = |path: &Path| -> Result<Object> {
        let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        elf::read(&bytes).with_context(|| format!("failed to read the object `{}`", path.display()))
    };
    let objects = |unit: &Compiled| -> Result<Option<(usize, Object, Object)>> {
        Ok(match &unit.outcome {
            compile::Outcome::Same => None,
            compile::Outcome::Pair { original, patched } => Some((unit.unit, read(original)?, read(patched)?)),
            compile::Outcome::New { patched } => {
                let patched = read(patched)?;
                let original =
                    Object { sections: Vec::new(), symbols: Vec::new(), has_groups: false, ..patched.clone() };
                Some((unit.unit, original, patched))
            }
        })
    };
    compiled.par_iter().filter_map(|unit| objects(unit).transpose()).collect()
}

/// The verdict on each pair, in the order of the units.
fn compare<'o>(
    units: &[Unit],
    objects: &'o [(usize, Object, Object)],
    report: &mut Report,
) -> Result<Vec<(usize, Diff<'o>)>> {
    let options = diff::Options { require_call_sites: true };
    let diffs: Vec<(usize, Diff<'o>)> = objects
        .par_iter()
        .map(|(unit, original, patched)| {
            let diff = diff::diff(original, patched, options)
                .with_context(|| format!("failed to compare `{}`", units[*unit].target.display()))?;
            Ok((*unit, diff))
        })
        .collect::<Result<_>>()?;
    for (unit, diff) in &diffs {
        let unit = &units[*unit];
        report.add(&unit.object, Some(&unit.source.display().to_string()), diff);
        report.refusals.extend(diff.refusals.iter().cloned().map(|r| r.object(&unit.object)));
    }
    Ok(diffs)
}

/// What the units' objects are checked against, where it is known.
fn load(kernel: &Kernel, units: &[Unit]) -> Result<BTreeMap<String, Loaded>> {
    let objects: BTreeSet<&str> = units.iter().map(|unit| unit.object.as_str()).collect();
    let load = |object: &str| -> Result<Option<(String, Loaded)>> {
        Ok(verify::load(kernel, object)?.map(|loaded| (object.to_owned(), loaded)))
    };
    objects.into_iter().filter_map(|object| load(object).transpose()).collect()
}

/// Whether the kernel holds what the functions to be replaced were compiled to.
fn verify(
    kernel: &Kernel,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    request: &Request,
    loaded: &BTreeMap<String, Loaded>,
    report: &mut Report,
) -> Result<()> {
    if request.no_verify {
        report.warnings.push(
            "NOT VERIFIED, as --no-verify asks: nothing says that the kernel holds the code that this patch was compiled \
             against; if it does not, the livepatch can crash it"
                .to_owned(),
        );
        return Ok(());
    }
    let mut verified = 0;
    for (index, diff) in diffs {
        let unit = &units[*index];
        let changed = diff.functions.iter().filter(|f| f.verdict == diff::Verdict::Changed);
        let which: Vec<_> = changed.filter_map(|f| f.original).collect();
        if which.is_empty() {
            continue;
        }
        let Some(loaded) = loaded.get(&unit.object) else {
            report.warnings.push(format!(
                "not verified: no image of `{}` is known to check `{}` against (--image, --modules)",
                unit.object,
                unit.source.display()
            ));
            continue;
        };
        match verify::verify_unit(&diff.original, &which, loaded) {
            Err(error) => report.warnings.push(format!("not verified: {error:#}")),
            Ok(findings) => {
                verified += findings.iter().filter(|f| f.is_equal() && which.contains(&f.atom)).count();
                let evidence = Evidence::gather(loaded, diff.original.object, kernel.release());
                report.refusals.extend(findings.iter().filter_map(|f| f.refusal(&unit.object, &evidence)));
            }
        }
    }
    report.verified = Some(verified);
    report.notes.push(format!("verified: {verified} functions are in the kernel as they were compiled here"));
    Ok(())
}

/// Closure, references and patch object of each unit.
fn resolve(
    kernel: &Kernel,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    loaded: &BTreeMap<String, Loaded>,
    report: &mut Report,
) -> Result<Vec<UnitPatch>> {
    let new_globals: BTreeSet<String> = diffs.iter().flat_map(|(_, d)| d.new_global_names()).collect();
    let vmlinux = kernel.symbols("vmlinux").context("failed to read the kernel's symbols")?;
    let mut parts = Vec::new();
    for (index, diff) in diffs.iter().filter(|(_, d)| !d.is_empty()) {
        let unit = &units[*index];
        let own: Arc<SymbolTable> =
            if unit.object == "vmlinux" { vmlinux.clone() } else { kernel.symbols(&unit.object)? };
        let depends = depends(kernel, unit, diff);
        let world = World {
            object: &unit.object,
            symvers: kernel.symvers(),
            vmlinux: Some(&vmlinux),
            own: Some(&own),
            depends: &depends,
            new_globals: &new_globals,
        };
        let closure = diff::closure::closure(diff);
        let resolved = reloc::resolve(diff, &closure, &world);
        if let Some(loaded) = loaded.get(&unit.object) {
            let evidence = Evidence::gather(loaded, diff.original.object, kernel.release());
            let (_, wrong) = verify::data::sizes(diff.original.object, &closure, loaded, &evidence);
            report.refusals.extend(wrong.into_iter().map(|r| r.object(&unit.object)));
        }
        report
            .refusals
            .extend(closure.refusals.iter().chain(&resolved.refusals).cloned().map(|r| r.object(&unit.object)));
        report.warnings.extend(resolved.warnings.iter().cloned());
        if !resolved.account.adds_up() {
            return Err(anyhow!("the account of `{}` does not add up: {:?}", unit.target.display(), resolved.account));
        }
        report.account.add(&resolved.account);
        let patch = emit::object::build(diff, &closure, &resolved, &world);
        report.refusals.extend(patch.refusals.iter().cloned().map(|r| r.object(&unit.object)));
        let object = report.object(&unit.object);
        for replacement in &patch.replacements {
            let name = &replacement.old_name;
            if let Some(found) =
                object.functions.iter_mut().find(|f| f.function == *name && f.unit.as_deref() == unit.source.to_str())
            {
                found.sympos = Some(replacement.sympos);
            }
        }
        object.callbacks.extend(patch.callbacks.iter().map(|c| c.kind.to_owned()));
        parts.push(UnitPatch { target: unit.target.display().to_string(), object: unit.object.clone(), patch });
    }
    report.refusals.dedup_by(|a, b| a.message == b.message && a.object == b.object);
    Ok(parts)
}

/// objtool's arguments, where kbuild runs it on units and not on a linked module: without unwind data made
/// there, a livepatch's functions could not be unwound (scripts/Makefile.lib, `delay-objtool`).
fn unit_objtool(kernel: &Kernel, units: &[Unit]) -> Option<Vec<String>> {
    const DELAYED_BY: [&str; 3] = ["LTO_CLANG", "X86_KERNEL_IBT", "KLP_BUILD"];
    if DELAYED_BY.iter().any(|option| kernel.config().is_y(option)) {
        return None;
    }
    units.iter().find_map(|unit| unit.objtool.clone())
}

/// Modules whose exports the patched module already uses: of this unit, and those it says it depends on.
fn depends(kernel: &Kernel, unit: &Unit, diff: &Diff<'_>) -> BTreeSet<String> {
    let mut depends = BTreeSet::new();
    for symbol in &diff.original.object.symbols {
        if symbol.place == elf::Place::Undefined
            && let Some(export) = kernel.symvers().get(&symbol.name)
            && export.object != "vmlinux"
        {
            depends.insert(export.object.clone());
        }
    }
    let file = kernel.module_file(&unit.object).and_then(|path| fs::read(path).ok());
    if let Some(module) = file.and_then(|bytes| elf::read(&bytes).ok()) {
        depends.extend(
            readback::modinfo(&module, "depends").flat_map(|d| d.split(',').map(str::to_owned).collect::<Vec<_>>()),
        );
    }
    depends
}

/// Links, finishes and checks the module.
fn make_module(
    kernel: &Kernel,
    request: &Request,
    plan: &Plan,
    replace: ReplaceMode,
    objtool: Option<Vec<String>>,
    work: &Path,
    report: &mut Report,
) -> Result<Vec<u8>> {
    let dir = work.join("module");
    fs::create_dir(&dir).with_context(|| format!("failed to make `{}`", dir.display()))?;
    let names: Vec<String> = request.patches.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
    let description = format!("Livepatch of {}", names.join(", "));
    // The number is also in the tables; here tools can read it without knowing the kernel's structures.
    let info: Vec<(String, String)> = match replace {
        ReplaceMode::Set(set) => vec![("replace_set".to_owned(), set.to_string())],
        ReplaceMode::All | ReplaceMode::Nothing => Vec::new(),
    };
    let text = init::render(&request.name, &description, &plan.tables, replace, &info);
    let objtool = objtool.map(|args| {
        let program = kernel.module_build_dir().join("tools/objtool/objtool").display().to_string();
        std::iter::once(program).chain(args).collect()
    });
    let how = link::Link {
        name: &request.name,
        build_dir: kernel.module_build_dir(),
        make_vars: kernel.make_vars(),
        jobs: request.jobs,
        objtool,
    };
    let path = link::link(plan, &text, &how, &dir)?;
    let bytes = fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let linked = elf::read(&bytes).context("failed to read the linked module")?;
    let module = finish::finish(linked, &plan.link_names).context("failed to finish the module")?;
    let bytes = elf::write(&module).context("failed to write the module")?;
    report.refusals.extend(readback::check(&bytes, plan, kernel.symvers())?);
    if kernel.config().is_y("UNWINDER_ORC") {
        report.refusals.extend(readback::unwindable(&module));
    }
    Ok(bytes)
}

/// Signs the module where there is a key.
fn sign_module(kernel: &Kernel, request: &Request, module: Vec<u8>, work: &Path) -> Result<(Vec<u8>, bool)> {
    let Some(pair) = emit::sign::choose(kernel, request.sign.as_ref()) else { return Ok((module, false)) };
    let path = work.join("to-sign.ko");
    fs::write(&path, &module).with_context(|| format!("failed to write `{}`", path.display()))?;
    emit::sign::sign(kernel, &pair, &path)?;
    let signed = fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok((signed, true))
}

/// Writes the module in one step: a reader sees the old file or the new one, never a part.
fn write_module(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(".klp-build-").tempfile_in(dir)?;
        std::io::Write::write_all(&mut file, bytes)?;
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("failed to write `{}`", path.display()))
}
