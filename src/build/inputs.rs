//! From the request to two objects per unit: patches, sources, what the module replaces, units, compiles.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;

use super::read_object;
use crate::compile::{self, Compiled, ObjectCache};
use crate::elf::Object;
use crate::emit::init::ReplaceMode;
use crate::error::{Reason, Refusal};
use crate::kernel::unit::Unit;
use crate::kernel::units::Outside;
use crate::kernel::{self, Kernel};
use crate::patch::{self, Applied};
use crate::report::Report;
use crate::report::progress::Progress;
use crate::request::{Replace, Request};

pub(super) fn read_patches(paths: &[PathBuf]) -> Result<Vec<patch::FilePatch>> {
    let mut all = Vec::new();
    for path in paths {
        let (text, name) = match path.as_os_str() == "-" {
            true => {
                let mut text = Vec::new();
                std::io::stdin().read_to_end(&mut text).context("failed to read the patch from standard input")?;
                (text, "standard input".to_owned())
            }
            false => {
                let name = path.display().to_string();
                (fs::read(path).with_context(|| format!("failed to read `{name}`"))?, name)
            }
        };
        all.extend(patch::parse(&text, &name)?);
    }
    Ok(all)
}

pub(super) fn read_source(root: &Path, path: &Path) -> Result<Option<Vec<u8>>> {
    let full = root.join(path);
    match fs::read(&full) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow!(error).context(format!("failed to read `{}`", full.display()))),
    }
}

pub(super) fn replace_mode(asked: Replace, kernel: &Kernel, refusals: &mut Vec<Refusal>) -> ReplaceMode {
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
        (Replace::Set(set), Has::None) => {
            refusals.push(Refusal::new(
                Reason::KernelLacks,
                format!(
                    "replace set {set} was asked for, but this kernel's `struct klp_patch` has neither `replace_set` nor \
                     `replace`: a livepatch there replaces no other"
                ),
                "leave out -s, or use a kernel with replace sets",
            ));
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

/// The units that the touched files reach, or why they reach none; and who else reads them.
pub(super) fn reach(kernel: &Kernel, applied: &Applied, report: &mut Report) -> Result<(Vec<Unit>, Vec<Outside>)> {
    let touched: Vec<PathBuf> = applied
        .files
        .iter()
        .map(|f| f.path.clone())
        .filter(|path| matches!(patch::classify(path), patch::Verdict::Code))
        .collect();
    if touched.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let reach = kernel.units_reached_by(&touched)?;
    report.refusals.extend(reach.refusals);
    for generated in &reach.generated {
        let from: Vec<String> = generated.from.iter().map(|path| format!("`{}`", path.display())).collect();
        report.warnings.push(format!(
            "`{}` is generated from {}, which the patch changes: what was generated before is used",
            generated.file.display(),
            from.join(", ")
        ));
    }
    Ok((reach.units, reach.outside))
}

/// What the compilers made.
pub(super) struct Compiles {
    /// Both objects of each unit that has different tokens on the two sides.
    pub pairs: Vec<(usize, Object, Object)>,
    /// Both sides with debug information: of a unit for each change that may have changed layouts, or of all with `-f`.
    pub debug: Vec<(usize, PathBuf, PathBuf)>,
    /// What the compilers say of the patched source.
    pub warnings: Vec<String>,
}

/// What every compile of a run needs.
#[derive(Clone, Copy)]
pub(super) struct Workbench<'a> {
    pub kernel: &'a Kernel,
    pub applied: &'a Applied,
    pub request: &'a Request,
    pub work: &'a Path,
    pub progress: &'a Progress,
}

/// Compiles the units that have different tokens on the two sides.
pub(super) fn compile_units(bench: Workbench<'_>, units: &[Unit]) -> Result<Compiles> {
    compile(bench, units, bench.request.explain)
}

/// The same, with debug information for each.
pub(super) fn compile_with_lines(bench: Workbench<'_>, units: &[Unit]) -> Result<Compiles> {
    compile(bench, units, true)
}

fn compile(bench: Workbench<'_>, units: &[Unit], debug: bool) -> Result<Compiles> {
    let compiled =
        with_options(bench, debug, |tree, options| compile::compile_units(units, tree, bench.applied, options))?;
    let said = compiled.iter().map(|unit| unit.warnings.trim_end()).filter(|text| !text.is_empty());
    let warnings = said.map(|text| format!("the compiler says of the patched source:\n{text}")).collect();
    let objects = |unit: &Compiled| -> Result<Option<(usize, Object, Object)>> {
        Ok(match &unit.outcome {
            compile::Outcome::Same => None,
            compile::Outcome::Pair { original, patched } => {
                Some((unit.unit, read_object(original)?, read_object(patched)?))
            }
            compile::Outcome::New { patched } => {
                let patched = read_object(patched)?;
                let original =
                    Object { sections: Vec::new(), symbols: Vec::new(), has_groups: false, ..patched.clone() };
                Some((unit.unit, original, patched))
            }
        })
    };
    let pairs = compiled.par_iter().filter_map(|unit| objects(unit).transpose()).collect::<Result<_>>()?;
    let debug =
        compiled.into_iter().filter_map(|unit| unit.debug.map(|(original, patched)| (unit.unit, original, patched)));
    Ok(Compiles { pairs, debug: debug.collect(), warnings })
}

/// Which of these compiles, C or assembly for whatever image, come out otherwise on the patched side.
pub(super) fn differing(bench: Workbench<'_>, units: &[Unit]) -> Result<BTreeSet<usize>> {
    let compiled =
        with_options(bench, false, |tree, options| compile::compile_units(units, tree, bench.applied, options))?;
    let bytes = |path: &Path| fs::read(path).with_context(|| format!("failed to read `{}`", path.display()));
    let mut differing = BTreeSet::new();
    for unit in compiled {
        let same = match &unit.outcome {
            compile::Outcome::Same => true,
            compile::Outcome::Pair { original, patched } => bytes(original)? == bytes(patched)?,
            compile::Outcome::New { .. } => false,
        };
        if !same {
            differing.insert(unit.unit);
        }
    }
    Ok(differing)
}

fn with_options<T>(
    bench: Workbench<'_>,
    debug: bool,
    compile: impl FnOnce(&compile::Tree, &compile::Options<'_>) -> Result<T>,
) -> Result<T> {
    let Workbench { kernel, request, work, progress, .. } = bench;
    let tree = compile::Tree { source: kernel.source().to_path_buf(), objdir: kernel.objdir().to_path_buf() };
    let cache = ObjectCache::of_user()?;
    let options = compile::Options {
        jobs: request.jobs,
        launcher: request.launcher.clone(),
        cache: cache.as_ref(),
        debug,
        work,
        progress: &|what| progress.step(what),
    };
    compile(&tree, &options)
}
