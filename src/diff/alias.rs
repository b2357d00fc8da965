//! Names that mean something else than before: an alias that was given another target, or became a thing of its own.
//!
//! In: a comparison. Out: a refusal for each. Atoms are twins by the first of their names; what other files mean by one of
//! the others follows the kernel's own symbol, which nothing can make lead elsewhere.

use super::atoms::{AtomId, Kind, Side};
use super::compare::Compare;
use crate::elf::id::HashMap;
use crate::elf::object::stb;
use crate::error::{Reason, Refusal};

/// Refuses every name that both sides define, visible to other files, for things that are no twins.
pub fn check(compare: &Compare<'_, '_>, refusals: &mut Vec<Refusal>) {
    let (old, new) = (compare.original, compare.patched);
    let before: HashMap<&str, (AtomId, i64)> = global_names(old).map(|(name, id, at)| (name, (id, at))).collect();
    for (name, id, at) in global_names(new) {
        let Some((was, was_at)) = before.get(name).copied() else { continue };
        let twins = compare.twins;
        let same = twins.backward.get(&id) == Some(&was) || twins.revived.get(&id) == Some(&was);
        // Code under a label of assembly moves with what is in front of it.
        if same && (at == was_at || at.min(was_at) > 0 && new.atom(id).kind == Kind::Function) {
            continue;
        }
        refusals.push(refusal(name, (old, was), (new, id)));
    }
}

/// Names of functions and data that other files can mean: the atom, and the place in it from its first symbol on.
fn global_names<'s>(side: &'s Side<'_>) -> impl Iterator<Item = (&'s str, AtomId, i64)> {
    let things = side.ids().filter(|id| matches!(side.atom(*id).kind, Kind::Function | Kind::Data));
    things.filter(|id| side.rule(*id).is_none()).flat_map(|id| {
        let symbols = side.atom(id).symbols.iter().map(|s| side.object.symbol(*s));
        let first = symbols.clone().next().map_or(0, |s| s.st_value);
        symbols
            .filter(|s| s.st_bind != stb::LOCAL)
            .map(move |s| (s.name.as_str(), id, s.st_value as i64 - first as i64))
    })
}

fn refusal(name: &str, (old, was): (&Side<'_>, AtomId), (new, is): (&Side<'_>, AtomId)) -> Refusal {
    let others = |side: &Side<'_>, id: AtomId| {
        let names = side.atom(id).symbols.iter().map(|s| side.object.symbol(*s).name.as_str());
        let names: Vec<String> = names.filter(|other| *other != name).map(|other| format!("`{other}`")).collect();
        names
    };
    let describe = |names: Vec<String>| match names.as_slice() {
        [] => "a thing of its own".to_owned(),
        names => format!("another name of {}", names.join(", ")),
    };
    let (before, after) = (describe(others(old, was)), describe(others(new, is)));
    let reason = if new.atom(is).kind == Kind::Function { Reason::NotHookable } else { Reason::DataChanged };
    Refusal::new(
        reason,
        format!("`{name}` is {before} in the running kernel and would be {after}: nothing can lead the name elsewhere"),
        "leave the alias as it is, and change what calls or uses it",
    )
    .symbol(name)
    .at(new.section_name(is), new.atom(is).start)
}
