//! The pipeline: each stage once, in order; a stage takes what came before by reference and returns a new value.
//!
//! In: a checked request. Out: the report of the run, with the module written when there is one. Every
//! stage's refusals are collected; the run goes on as long as what follows still means something.

mod added;
mod compare;
mod indirect;
mod inputs;
mod lines;
mod many;
mod module;
mod moved;
mod outside;
mod owners;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::compile::run;
use crate::elf::{self, Object};
use crate::emit;
use crate::emit::init::ReplaceMode;
use crate::error::{Reason, Refusal};
use crate::kernel::{self, Kernel};
use crate::patch;
use crate::report::progress::Progress;
use crate::report::{ModuleReport, Outcome, Report};
use crate::request::Request;
use crate::workdir;

pub use many::{Built, many};

/// Builds a livepatch.
///
/// # Errors
///
/// For broken input, I/O, and failed tools ([`crate::error::ToolFailure`]); a "no" is in the report.
pub fn build(request: &Request, progress: &Progress) -> Result<Report> {
    request.check(false)?;
    progress.step("reading the patch");
    let patches = inputs::read_patches(&request.patches)?;
    progress.step("reading the kernel tree");
    let kernel = Kernel::open(&request.kernel)?;
    build_for(&kernel, &patches, request, progress)
}

/// The same for patches that were read and a kernel that was opened.
///
/// A module that an earlier run wrote there stays when there is none of this run: it may be the one that is loaded, or the last
/// that was good. But who does not look at the exit status would take it for the new one, so it is named.
fn build_for(kernel: &Kernel, patches: &[patch::FilePatch], request: &Request, progress: &Progress) -> Result<Report> {
    let mut report = collect(kernel, patches, request, progress)?;
    if report.module.is_none() && !request.no_link && request.output.exists() {
        let path = request.output.display();
        report.warnings.push(format!("`{path}` is from before: this run wrote no module"));
    }
    Ok(report)
}

fn collect(kernel: &Kernel, patches: &[patch::FilePatch], request: &Request, progress: &Progress) -> Result<Report> {
    let mut report = Report::new();
    let named = patches.iter().flat_map(patch::FilePatch::changes).filter(|path| !added::is_makefile(path));
    let screened = patch::screen(named.collect::<BTreeSet<_>>());
    report.notes.extend(screened.notes);
    report.refusals.extend(screened.refusals);
    report.kernel = Some(kernel.release().to_owned());
    let replace = inputs::replace_mode(request.replace, kernel, &mut report.refusals);
    let applied = patch::apply(patches, |path| inputs::read_source(kernel.source(), path))?;
    report.notes.extend(applied.notes.iter().cloned());
    report.warnings.extend(applied.warnings.iter().cloned());
    let added = added::find(kernel, &applied)?;
    report.notes.extend(added.notes);
    report.refusals.extend(added.refusals);
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let (mut units, outside) = inputs::reach(kernel, &applied, &mut report)?;
    units.extend(added.units);
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let work = workdir::create(request.keep_tmp)?;
    if request.keep_tmp {
        // At once: whoever asks for it wants to look at what fails.
        progress.note(&format!("the work directory is kept: `{}`", work.path().display()));
        report.work_directory = Some(work.path().display().to_string());
    }
    let bench = inputs::Workbench { kernel, applied: &applied, request, work: work.path(), progress };
    outside::look(bench, &outside, &mut report)?;
    report.refusals.extend(types::early(bench, &units)?);
    if !report.refusals.is_empty() {
        // The answer is no: what the patch's own files say against it is soon known, what all readers of its headers say is not.
        units.retain(|unit| applied.get(&unit.source).is_some());
    }
    if units.is_empty() && !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    // What the originals are checked against is read while the compilers run.
    let (compiles, loaded) = std::thread::scope(|scope| {
        let loaded =
            scope.spawn(|| if request.no_verify { Ok(BTreeMap::new()) } else { compare::load(kernel, &units) });
        let compiles = inputs::compile_units(bench, &units);
        (compiles, loaded.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let compiles = compiles?;
    report.warnings.extend(compiles.warnings.iter().cloned());

    progress.step("comparing");
    let diffs = compare::compare(bench, &units, &compiles.pairs, &mut report)?;
    if diffs.iter().all(|(_, d)| d.is_empty()) && report.refusals.is_empty() {
        report.outcome = Outcome::Unchanged;
        return Ok(report);
    }
    if request.explain {
        let roots = [work.path(), kernel.source()];
        lines::explain(&units, &compiles, &diffs, patches, &roots, &mut report)?;
    }
    types::check(kernel, &units, &compiles, &diffs, request, &mut report)?;
    let loaded = loaded?;
    compare::verify(kernel, &units, &diffs, request, &loaded, &mut report)?;
    let parts = compare::resolve(kernel, &units, &diffs, request, &loaded, &mut report)?;
    lines::locate(bench, &units, &diffs, &[work.path(), kernel.source()], &mut report)?;
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    let plan = emit::plan::plan(parts, kernel.symvers());
    report.refusals.extend(emit::states::refusals(&plan.states, kernel.abi()));
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    if plan.tables.is_empty() {
        report.refusals.push(Refusal::new(
            Reason::NeverRuns,
            "the patch only adds code that nothing in the kernel calls: no existing function changed",
            "change the function that should call the new code, or declare a callback",
        ));
        return Ok(refused(report));
    }
    if request.no_link {
        return Ok(report);
    }

    progress.step("linking the module");
    let objtool = module::unit_objtool(kernel, &units);
    let module = module::make_module(kernel, request, &plan, replace, objtool, work.path(), &mut report)?;
    if !report.refusals.is_empty() {
        return Ok(refused(report));
    }
    if run::interrupted() {
        bail!("interrupted");
    }
    let (module, signed) = module::sign_module(kernel, request, module, work.path())?;
    module::write_module(&request.output, &module)?;
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
    Ok(report)
}

fn read_object(path: &Path) -> Result<Object> {
    let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    elf::read(&bytes).with_context(|| format!("failed to read the object `{}`", path.display()))
}

fn refused(mut report: Report) -> Report {
    report.outcome = Outcome::Refused;
    report
}
