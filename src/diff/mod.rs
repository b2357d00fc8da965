//! Two objects -> what changed, and what must travel with it. Pure functions: no file is touched here.
//!
//! `diff` runs the steps in order: cut both objects into atoms, pair them, compare functions with all
//! that special sections say about them, compare data, look at what is registered with the kernel.

pub mod arch;
pub mod atoms;
pub mod closure;
pub mod compare;
mod data;
mod entries;
mod functions;
pub mod names;
mod registered;
pub mod special;
pub mod tables;
pub mod twins;
pub mod verdict;

use crate::elf::Object;
use crate::error::{Reason, Refusal};
use atoms::Side;
use compare::Compare;
use tables::Tables;
pub use verdict::{Diff, FunctionVerdict, Verdict};

/// What the comparison may assume.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Refuse a changed function without an ftrace call site also when *no* function of the object has one.
    pub require_call_sites: bool,
}

/// Compares two objects.
///
/// # Errors
///
/// When the objects are not of one supported architecture; everything else is in the returned [`Diff`].
pub fn diff<'o>(original: &'o Object, patched: &'o Object, options: Options) -> anyhow::Result<Diff<'o>> {
    if original.e_machine != patched.e_machine || original.little_endian != patched.little_endian {
        anyhow::bail!(
            "the objects are for different machines ({} and {})",
            original.e_machine,
            patched.e_machine
        );
    }
    let (Some(old), Some(new)) = (Side::new(original), Side::new(patched)) else {
        anyhow::bail!("machine {} is not supported (x86-64 and AArch64 are)", original.e_machine);
    };
    let twins = twins::correlate(&old, &new);
    let old_tables = Tables::new(&old);
    let new_tables = Tables::new(&new);
    let mut refusals: Vec<Refusal> = Vec::new();
    refusals.extend(new.problems.iter().chain(&new_tables.problems).cloned());

    let compare = Compare::new(&old, &new, &twins);
    let mut functions = functions::verdicts(&compare, &old_tables, &new_tables);
    functions::spread_unhookable(&compare, &old_tables, &new_tables, &mut functions, options, &mut refusals);
    let data = data::changes(&compare, &functions, &mut refusals);
    registered::additions(&old, &new, &twins, &mut refusals);
    if old.object.has_groups != new.object.has_groups {
        refusals.push(Refusal::new(
            Reason::UnknownSection,
            "the patch adds or removes section groups (COMDAT)",
            "build the kernel without the option that makes them",
        ));
    }
    drop(compare);
    Ok(Diff { original: old, patched: new, twins, old_tables, new_tables, functions, data, refusals })
}
