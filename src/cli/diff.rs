//! `klp-build diff ORIG.o PATCHED.o`: the verdict on two objects, and the patch object on request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{print, status};
use crate::diff::{self, Owners, closure, moved_calls};
use crate::dwarf::locals;
use crate::dwarf::types::{self, Replaced};
use crate::elf::{self, Object};
use crate::emit::{patch_object, readback};
use crate::kernel::symvers::{self, Symvers};
use crate::output;
use crate::reloc::indirect::Gate;
use crate::reloc::{self, World, classify};
use crate::report::{Outcome, Report};

/// Two objects, and what is known of the kernel.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// The object of the unpatched source.
    #[arg(value_name = "ORIG.o")]
    original: PathBuf,
    /// The object of the patched source.
    #[arg(value_name = "PATCHED.o")]
    patched: PathBuf,
    /// Write the functions that changed, and all they need, as an object; when nothing changed, or it is refused, there is none.
    #[arg(short, long, value_name = "OUT.o")]
    output: Option<PathBuf>,
    /// Module.symvers of the unpatched kernel: what is exported is not made a livepatch symbol.
    #[arg(long, value_name = "FILE")]
    symvers: Option<PathBuf>,
    /// The kernel object both belong to [default: `name=` in .modinfo, else vmlinux].
    #[arg(long, value_name = "NAME", value_parser = kernel_object)]
    object: Option<String>,
    /// Let a changed constant table travel with every function that reads it, where only functions do.
    #[arg(long)]
    carry_tables: bool,
    /// Let the layout of this type change (`struct foo`), the type of this variable, the numbers of this `enum`; may be given
    /// several times.
    #[arg(long, value_name = "TYPE")]
    allow_layout_change: Vec<String>,
    /// Print the report as JSON (docs/json.md).
    #[arg(long)]
    pub(super) json: bool,
    /// Say what is worth knowing besides.
    #[arg(short, long)]
    verbose: bool,
}

/// A kernel object's name as the kernel has it, of a name or a file's name: `kvm-intel` is `kvm_intel`. What the loader could not
/// read is refused later, with a code.
fn kernel_object(text: &str) -> Result<String, String> {
    let name = symvers::module_name(text);
    if name.is_empty() {
        return Err("it is `vmlinux` or a module's name".to_owned());
    }
    Ok(name)
}

/// Compares, prints, writes, and gives the exit status.
///
/// Whoever finds the output after a run may take it for that run's, so it is there only when this one wrote it.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let Some(output) = &opts.output else { return compare(opts) };
    let inputs = [Some(&opts.original), Some(&opts.patched), opts.symvers.as_ref()];
    if let Some(input) = inputs.into_iter().flatten().find(|input| is_same_file(input, output)) {
        bail!("`-o {}` would overwrite the input `{}`", output.display(), input.display());
    }
    output::promise(output);
    let status = compare(opts);
    let settled = output::settle();
    // What went wrong first is what is said.
    let status = status?;
    settled?;
    Ok(status)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

fn compare(opts: &Opts) -> Result<u8> {
    let (original, patched) = rayon::join(|| read(&opts.original), || read(&opts.patched));
    let (original, patched) = (original?, patched?);
    let symvers = match &opts.symvers {
        Some(path) => Symvers::read(path)?,
        None => Symvers::default(),
    };
    let name = opts.object.clone().unwrap_or_else(|| object_name(&original));
    let built_in = opts.object.as_deref() == Some("vmlinux");
    let options = diff::Options { carry_tables: opts.carry_tables, built_in, ..diff::Options::default() };
    let failed = || format!("failed to compare `{}` and `{}`", opts.original.display(), opts.patched.display());
    let mut diff = diff::diff(&original, &patched, options).with_context(failed)?;
    if closure::asks_for_owners(&diff)
        && let (Some(before), Some(after)) = (locals::owners(&original)?, locals::owners(&patched)?)
    {
        let owners = Some(Owners { original: &before, patched: &after });
        diff = diff::diff_with_owners(&original, &patched, options, owners).with_context(failed)?;
    }
    let mut report = Report::new();
    report.add(&name, None, &diff);
    report.notes.extend(diff.notes.iter().map(|note| format!("{name}: {note}")));
    report.warnings.extend(diff.warnings.iter().map(|warning| format!("{name}: {warning}")));
    report.warnings.extend(diff.removed_globals().map(|function| diff::removed_warning(&name, function)));
    report.refusals.extend(diff.refusals.iter().cloned().map(|r| r.object(&name)));
    let mut written = None;
    if diff.is_empty() {
        report.outcome = Outcome::Unchanged;
    } else {
        let depends = depends(&original, &symvers);
        let world = World {
            object: &name,
            symvers: &symvers,
            vmlinux: None,
            own: None,
            depends: &depends,
            new_globals: &diff.new_global_names(),
            gate: Gate::of_object(&original),
            theirs: &BTreeMap::new(),
        };
        let closure = closure::closure(&diff);
        let resolved = reloc::resolve(&diff, &closure, &world);
        report.refusals.extend(classify::defined_elsewhere(&diff).into_iter().map(|r| r.object(&name)));
        let patch = patch_object::build(&diff, &closure, &resolved);
        let refusals = closure.refusals.iter().chain(&resolved.refusals).chain(&patch.refusals);
        report.refusals.extend(refusals.cloned().map(|r| r.object(&name)));
        report.warnings.extend(resolved.warnings.iter().cloned());
        report.warnings.extend(diff::warnings(&diff, &closure).iter().map(|warning| format!("{name}: {warning}")));
        report.warnings.extend(moved_calls::warnings([&diff]));
        report.account.add(&resolved.account);
        report.object(&name).callbacks.extend(patch.callbacks.iter().map(|c| c.kind.to_owned()));
        written = Some(patch.object);
        let exported = |name: &str| symvers.get(name).is_some();
        let functions = diff.replaced_names();
        let replaced = Replaced { functions: &functions, allowed: &opts.allow_layout_change, exported: &exported };
        let findings =
            types::check(&original, &patched, replaced).context("failed to compare the types of the objects")?;
        report.refusals.extend(findings.refusals.into_iter().map(|r| r.object(&name)));
        report.warnings.extend(findings.warnings);
    }
    let mut said = BTreeSet::new();
    report.refusals.retain(|r| said.insert((r.reason, r.message.clone())));
    if !report.refusals.is_empty() {
        report.outcome = Outcome::Refused;
    } else if let (Some(path), Some(object)) = (&opts.output, &written) {
        let bytes = elf::write(object).context("failed to write the patch object")?;
        output::write(path, &bytes)?;
    }
    let status = print(&report, opts.json, opts.verbose, status::DONE);
    // The process ends: to give back a million pieces of memory one by one would take a tenth of its time.
    std::mem::forget((report, diff));
    std::mem::forget((original, patched));
    status
}

fn read(path: &Path) -> Result<Object> {
    let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    elf::read(&bytes).with_context(|| format!("failed to read the object `{}`", path.display()))
}

fn object_name(object: &Object) -> String {
    readback::modinfo(object, "name").next().unwrap_or_else(|| "vmlinux".to_owned())
}

/// Modules whose exports the original object uses already, or says it depends on.
fn depends(original: &Object, symvers: &Symvers) -> BTreeSet<String> {
    let undefined = original.symbols.iter().filter(|s| s.place == elf::Place::Undefined);
    let mut depends: BTreeSet<String> =
        undefined.filter_map(|s| symvers.get(&s.name)).map(|export| export.object.clone()).collect();
    for list in readback::modinfo(original, "depends") {
        depends.extend(list.split(',').map(str::to_owned));
    }
    depends
}
