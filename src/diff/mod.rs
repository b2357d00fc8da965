//! Two objects -> what changed, and what must travel with it. Pure functions: no file is touched here.
//!
//! `diff` runs the steps in order: cut both objects into atoms, pair them, compare functions with all
//! that special sections say about them, compare data, look at what is registered with the kernel.

mod alias;
pub mod alloc_tags;
pub mod arch;
pub mod atoms;
mod btf_ids;
pub mod closure;
pub mod compare;
mod constants;
mod cut;
mod data;
mod ends;
mod entries;
mod files;
pub mod functions;
mod given_away;
pub mod moved_calls;
pub mod names;
mod numbered;
mod readers;
mod recognised;
mod refs;
mod registered;
mod renamed;
pub mod special;
mod strays;
pub mod tables;
pub mod twins;
mod users;
pub mod verdict;

use std::collections::BTreeMap;

use crate::elf::Object;
use crate::elf::Section;
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
    /// Let changed constant tables travel, and change every function that reads them.
    pub carry_tables: bool,
    /// The objects are built into the kernel's image, where code for unloading never runs.
    pub built_in: bool,
    /// The kernel makes the counters of a module's allocation tags when it loads the module ([`alloc_tags`]).
    pub makes_counters: bool,
}

/// The function that declares a static local, and what the local's bytes mean.
pub type Owner = (String, String);

/// The owner of each static local, by the local's symbol, on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Owners<'a> {
    /// Of the original.
    pub original: &'a BTreeMap<String, Owner>,
    /// Of the patched side.
    pub patched: &'a BTreeMap<String, Owner>,
}

/// Compares two objects.
///
/// # Errors
///
/// When the objects are not of one supported architecture; everything else is in the returned [`Diff`].
pub fn diff<'o>(original: &'o Object, patched: &'o Object, options: Options) -> anyhow::Result<Diff<'o>> {
    diff_with_owners(original, patched, options, None)
}

/// The same, with what debug information says of static locals: worth asking for where
/// [`closure::asks_for_owners`].
///
/// # Errors
///
/// As [`diff`].
pub fn diff_with_owners<'o>(
    original: &'o Object,
    patched: &'o Object,
    options: Options,
    owners: Option<Owners<'_>>,
) -> anyhow::Result<Diff<'o>> {
    if original.e_machine != patched.e_machine || original.little_endian != patched.little_endian {
        anyhow::bail!("the objects are for different machines ({} and {})", original.e_machine, patched.e_machine);
    }
    let (Some(mut old), Some(mut new)) = rayon::join(|| Side::new(original), || Side::new(patched)) else {
        anyhow::bail!("machine {} is not supported (x86-64 and AArch64 are)", original.e_machine);
    };
    (old.has_exit, new.has_exit) = (!options.built_in, !options.built_in);
    let mut twins = twins::correlate(&old, &new, owners);
    let (old_tables, new_tables) = rayon::join(|| Tables::new(&old), || Tables::new(&new));
    let mut refusals: Vec<Refusal> = Vec::new();
    twins.part_from_boot(&old, &new, &new_tables);
    twins.ends = ends::settle(&old, &mut new, &twins, (&old_tables, &new_tables));

    let compare = Compare::new(&old, &new, &twins);
    let mut functions = functions::verdicts(&compare, &old_tables, &new_tables);
    let travelling = if options.carry_tables {
        readers::spread(&compare, (&old_tables, &new_tables), &mut functions)
    } else {
        Default::default()
    };
    let mut notes = functions::drop_unloading(&new, &mut functions, options);
    notes.extend(functions::revived(&new, &twins));
    functions::spread_unhookable(&compare, &old_tables, &new_tables, &mut functions, options, &mut refusals);
    let warnings = functions::special_sections(&compare, &functions, &mut refusals);
    let mut data = data::changes(&compare, (&old_tables, &new_tables), &functions, &travelling, &mut refusals);
    registered::additions(&old, &new, &mut refusals);
    notes.extend(registered::removals(&old, &new));
    let (strays, constants) = rayon::join(
        || strays::find(&Compare::new(&old, &new, &twins), (&old_tables, &new_tables), &functions),
        || constants::find(&Compare::new(&old, &new, &twins), (&old_tables, &new_tables)),
    );
    refusals.extend(strays);
    unread(&old, (&old_tables, &new_tables), &new, &functions, &mut refusals);
    alias::check(&compare, &mut refusals);
    btf_ids::changes(&old, &new, &mut refusals);
    data.replaced = constants.replaced;
    if old.object.has_groups != new.object.has_groups {
        refusals.push(Refusal::new(
            Reason::UnknownSection,
            "the patch adds or removes section groups (COMDAT)",
            "build the kernel without the option that makes them",
        ));
    }
    drop(compare);
    twins.constants = constants.originals;
    twins.ambiguous.extend(constants.in_doubt);
    twins.end_trials(&new, &new_tables, &functions);
    let (elsewhere, moved_away) = Default::default();
    Ok(Diff {
        original: old,
        patched: new,
        twins,
        old_tables,
        new_tables,
        functions,
        data,
        elsewhere,
        moved_away,
        notes,
        warnings,
        refusals,
        makes_counters: options.makes_counters,
    })
}

/// What to say of a global function that is gone.
pub fn removed_warning(object: &str, name: &str) -> String {
    format!(
        "{object}: `{name}` is taken out, and the running kernel keeps it: whatever is not compiled again still calls it, also \
         where another file's weak `{name}` was to take its place"
    )
}

/// What a person has to think about in what travels: nothing in the code tells whether it is right.
pub fn warnings(diff: &Diff<'_>, closure: &closure::Closure) -> Vec<String> {
    let mut all = given_away::warnings(diff, closure);
    all.extend(renamed::warnings(diff, closure));
    all
}

/// Names of the carried tables that somebody may keep in the place of the kernel's: the module must stay.
pub fn held(diff: &Diff<'_>, closure: &closure::Closure) -> Vec<String> {
    given_away::held(diff, closure)
}

/// What could not be read matters as soon as anything changed: a function's entry may be in it.
fn unread(
    old: &Side<'_>,
    (old_tables, new_tables): (&Tables, &Tables),
    new: &Side<'_>,
    functions: &[FunctionVerdict],
    refusals: &mut Vec<Refusal>,
) {
    let problems: Vec<&Refusal> = new.problems.iter().chain(&new_tables.problems).collect();
    let before = old.problems.len() + old_tables.problems.len();
    let changed = functions.iter().any(|f| f.verdict != Verdict::Same) || !refusals.is_empty();
    let equal = |p: &&Refusal| {
        let find = |side: &Side<'_>| -> Option<Section> {
            let name = p.section.as_deref()?;
            side.object.section_named(name).map(|id| side.object.section(id).clone())
        };
        match (find(old), find(new)) {
            (Some(a), Some(b)) => a.data == b.data && a.relocs.len() == b.relocs.len(),
            _ => false,
        }
    };
    if changed || problems.len() != before || !problems.iter().all(equal) {
        refusals.extend(problems.into_iter().cloned());
    }
}
