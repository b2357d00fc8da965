//! Compiles that read a touched file and are no unit -> what of the patch a livepatch cannot bring there.
//!
//! Most of them do not matter: what boots the kernel has run, what is not linked is not there. Assembly and the vDSO do. Whether
//! the patch changes them, compiling both sides tells: of most headers they use nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::inputs::{self, Workbench};
use crate::error::{Reason, Refusal};
use crate::kernel::unit::Unit;
use crate::kernel::units::{Outside, Why};
use crate::report::Report;

/// Refuses what would be missed, and says what is left out.
pub(super) fn look(bench: Workbench<'_>, outside: &[Outside], report: &mut Report) -> Result<()> {
    let matter: Vec<&Outside> = outside.iter().filter(|o| o.unit.is_some()).collect();
    let units: Vec<Unit> = matter.iter().filter_map(|o| o.unit.clone()).collect();
    let differing = if units.is_empty() { BTreeSet::new() } else { inputs::differing(bench, &units)? };
    let mut left_out: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (at, found) in matter.iter().enumerate().filter(|(at, _)| differing.contains(at)) {
        let reads: Vec<String> = found.reads.iter().map(|path| format!("`{}`", path.display())).collect();
        let (reads, source) = (reads.join(", "), units[at].source.display());
        if found.why == Why::Vdso {
            report.warnings.push(format!(
                "the code of `{source}` in the vDSO changes with {reads}: programs keep what they have mapped"
            ));
        } else {
            report.refusals.push(Refusal::new(
                Reason::UnsupportedFile,
                format!("`{source}` changes with {reads}, and it is assembly, which ftrace cannot redirect"),
                "keep what assembly uses as it is, and change what C code uses under another name",
            ));
        }
    }
    for found in outside {
        let what = match found.why {
            Why::OtherImage => ("it runs before or beside the kernel", "they run before or beside the kernel"),
            Why::Rust => ("it is Rust code", "they are Rust code"),
            Why::NotLinked => {
                ("it is in no object of this configuration", "they are in no object of this configuration")
            }
            Why::Assembly | Why::Vdso => continue,
        };
        left_out.entry(what).or_default().push(format!("`{}`", found.target.display()));
    }
    report.notes.extend(left_out.into_iter().map(|((it, they), targets)| match targets.len() - 1 {
        0 => format!("{} also reads a touched file and is left out: {it}", targets[0]),
        more => format!("{} and {more} more also read a touched file and are left out: {they}", targets[0]),
    }));
    Ok(())
}
