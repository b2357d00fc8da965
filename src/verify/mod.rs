//! Is the original that was compiled what the kernel holds? Each function to be replaced, instruction by instruction.
//!
//! In: the original object of a unit and what was loaded ([`Loaded`]: the kernel's image, or a module's file, with its
//! symbols). Out: per function a [`Finding`]. Only then does a livepatch replace what its patch was written against.
//! Hard because the image is not the unit: references are resolved, objtool and the linker rewrote instructions
//! ([`walk`] normalises exactly those, by the tables that describe them), and the unit was compiled with other
//! sections, so that branches may have another length. What is left over is a difference, never ignored.

mod callable;
mod calls;
pub mod data;
mod entries;
pub mod evidence;
mod live;
mod loaded;
mod module;
mod place;
mod show;
mod sites;
mod walk;

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::diff::atoms::{AtomId, Kind, Side};
use crate::elf;
use crate::error::{Reason, Refusal, Refused};
use crate::kernel::image::Image;
use crate::kernel::kcore::Kcore;
use crate::kernel::{Kernel, codec};
use crate::reloc::unit_symbols::unit_symbols;
pub use callable::Entry;
pub use evidence::Evidence;
pub use loaded::{Livepatches, Loaded, Memory};

/// What became of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    /// The kernel holds this code.
    Equal {
        /// Where.
        address: u64,
    },
    /// It holds something else.
    Differs(Difference),
    /// The kernel that runs holds this code, and calls another in its place.
    Replaced {
        /// Where the original is.
        address: u64,
        /// By what, for people.
        by: String,
    },
    /// It was code for boot only, and the kernel that runs has freed it.
    Freed,
    /// The unit's definition is weak, and the kernel has another unit's in its place.
    Overridden,
    /// The kernel has no such function.
    NotFound {
        /// Why not, as far as can be told.
        why: String,
    },
}

/// The first difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Bytes from the start of the function in the compiled original.
    pub offset: u64,
    /// Where the image's function starts.
    pub address: u64,
    /// What differs, for people.
    pub what: String,
    /// Instructions of the compiled original around the place; the differing one starts with `>`.
    pub original: Vec<String>,
    /// Instructions of the image.
    pub image: Vec<String>,
}

/// The answer for one function.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Its name.
    pub function: String,
    /// The atom of the original.
    #[serde(skip)]
    pub atom: AtomId,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Finding {
    /// Whether the kernel holds the function.
    pub fn is_equal(&self) -> bool {
        matches!(self.outcome, Outcome::Equal { .. })
    }

    /// The refusal, unless it is equal.
    pub fn refusal(&self, object: &str, evidence: &Evidence) -> Option<Refusal> {
        let message = match &self.outcome {
            Outcome::Equal { .. } => return None,
            Outcome::Overridden => {
                format!(
                    "`{}` of this file is weak, and not what the kernel has: another file's took its place",
                    self.function
                )
            }
            Outcome::Replaced { by, .. } => {
                let message = format!("`{}` {by}", self.function);
                let advice = "disable that first; or check against the kernel's file (--image /boot/vmlinuz-...), which holds \
                              no livepatches, if the new one is to come after it or to take its place";
                let refusal = Refusal::new(Reason::ImageMismatch, message, advice).object(object);
                return Some(refusal.symbol(&self.function));
            }
            Outcome::Freed => {
                format!("`{}` is for boot only: the kernel that runs has freed it", self.function)
            }
            Outcome::NotFound { why } => format!("`{}` as compiled is not in the kernel: {why}", self.function),
            Outcome::Differs(d) => {
                let indent = |lines: &[String]| lines.iter().map(|l| format!("\n      {l}")).collect::<String>();
                format!(
                    "`{}` as compiled is not what the kernel holds, at +{:#x}: {}\n    compiled:{}\n    the kernel:{}",
                    self.function,
                    d.offset,
                    d.what,
                    indent(&d.original),
                    indent(&d.image)
                )
            }
        };
        let refusal = Refusal::new(Reason::ImageMismatch, message, evidence.advice()).object(object);
        Some(refusal.symbol(&self.function))
    }
}

/// Verifies functions of a unit, and the cold parts that they jump to. `Err` when this machine's code cannot be read.
pub fn verify_unit(original: &Side<'_>, which: &[AtomId], loaded: &Loaded) -> anyhow::Result<Vec<Finding>> {
    const EM_X86_64: u16 = 62;
    anyhow::ensure!(
        original.object.e_machine == EM_X86_64,
        "code of machine {} cannot be checked against an image",
        original.object.e_machine
    );
    let symbols = unit_symbols(original.object);
    let unit = place::Unit::new(original, loaded, &symbols);
    let mut open: Vec<AtomId> = which.to_vec();
    let mut seen: HashSet<AtomId> = open.iter().copied().collect();
    let mut findings = Vec::new();
    while let Some(atom) = open.pop() {
        let (outcome, parts) = walk::function(&unit, atom);
        findings.push(Finding { function: original.name(atom).to_owned(), atom, outcome });
        open.extend(parts.into_iter().filter(|part| seen.insert(*part)));
    }
    for (atom, difference) in walk::wrong_inside(&unit) {
        if let Some(finding) = findings.iter_mut().find(|f| f.atom == atom && f.is_equal()) {
            finding.outcome = Outcome::Differs(difference);
        }
    }
    findings.sort_by_key(|f| f.atom);
    Ok(findings)
}

/// What is to be checked against for an object of a kernel; `None` when no image is known.
///
/// # Errors
///
/// When the image or the symbols cannot be read, or do not belong together.
pub fn load(kernel: &Kernel, object: &str) -> anyhow::Result<Option<Loaded>> {
    if object == "vmlinux" {
        let Some(path) = kernel.image() else { return Ok(None) };
        let table = kernel.symbols("vmlinux").context("failed to read the kernel's symbols")?;
        return match Kcore::open(path)? {
            Some(core) => Loaded::running(core, table, livepatches(kernel, path)?).map(Some),
            None => {
                let image = Image::read(path)?;
                let wrong = kernel.running().and_then(|running| {
                    let banner = evidence::banner(image.segments().map(|(_, bytes)| bytes));
                    running.is_not_image(image.segments().map(|(_, bytes)| bytes), banner.as_deref())
                });
                wrong.map_or(Ok(()), |what| Err(not_what_runs(path, &what, "--image")))?;
                Loaded::kernel(image, table).map(Some)
            }
        };
    }
    let Some(path) = kernel.module_file(object)? else { return Ok(None) };
    let read = || {
        let bytes = codec::plain(std::fs::read(path)?)?;
        let wrong = kernel.running().and_then(|running| running.is_not_module(object, &bytes));
        wrong.map_or(Ok(()), |what| Err(not_what_runs(path, &what, "--modules")))?;
        Loaded::module(&elf::read(&bytes)?)
    };
    read().with_context(|| format!("failed to read the module `{}`", path.display())).map(Some)
}

/// A file was changed since this machine loaded what runs.
fn not_what_runs(path: &Path, what: &str, option: &str) -> anyhow::Error {
    let message = format!("`{}` is not what this machine runs: {what}", path.display());
    let advice = format!(
        "boot what is installed, or load the module again; to build for the file all the same, name it with {option}"
    );
    Refused(vec![Refusal::new(Reason::ImageMismatch, message, advice)]).into()
}

/// Who has replaced functions of the kernel that runs: itself says so for this machine, and a copy's symbols tell of others.
fn livepatches(kernel: &Kernel, image: &Path) -> anyhow::Result<Livepatches> {
    if image == Path::new("/proc/kcore") {
        return Ok(Livepatches::of_this_machine(Path::new("/sys/kernel/livepatch")));
    }
    Ok(Livepatches::from_modules(kernel.symbols_of_loaded_modules()?))
}

/// All functions of a unit, for statistics.
pub fn functions(side: &Side<'_>) -> Vec<AtomId> {
    side.ids().filter(|id| side.atom(*id).kind == Kind::Function).collect()
}

#[cfg(test)]
mod tests;
