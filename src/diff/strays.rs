//! What no function and no datum leads to: entries of tables that nobody here knows, and code that is no function.
//!
//! In: a comparison and the function verdicts. Out: a refusal for everything of that kind that is new, changed, gone, or
//! speaks about a function that changed. It would be lost in silence otherwise: what travels is found by
//! following references, and the kernel finds such entries by their section. What is gone stays in the running kernel's
//! table, where it is found as before.

use super::atoms::{AtomId, Kind, Side, Target};
use super::closure::naming_offset;
use super::compare::Compare;
use super::special::Rule;
use super::tables::Tables;
use super::verdict::{FunctionVerdict, Verdict};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, sht};
use crate::error::{Reason, Refusal};

/// Refuses strays that would be lost.
pub fn find(
    compare: &Compare<'_, '_>,
    (old_tables, tables): (&Tables, &Tables),
    functions: &[FunctionVerdict],
) -> Vec<Refusal> {
    let (old, new) = (compare.original, compare.patched);
    let mut refusals = Vec::new();
    let reached = reached(new);
    let changed: HashSet<AtomId> = functions
        .iter()
        .filter(|f| matches!(f.verdict, Verdict::Changed | Verdict::New))
        .filter_map(|f| f.patched)
        .collect();
    let mut before: HashMap<&str, Vec<AtomId>> = HashMap::default();
    let has_twin = |id: &AtomId| old.atom(*id).kind == Kind::Data && compare.twins.forward.contains_key(id);
    for id in old.ids().filter(|id| is_stray(old, *id) && !has_twin(id)) {
        before.entry(old.section_name(id)).or_default().push(id);
    }
    // Sections with something new.
    let mut told: HashSet<&str> = HashSet::default();
    // What a table says of a function is compared with the function.
    let owned = |id: AtomId| tables.owner.get(&id).is_some_and(|owner| new.is_function(*owner));
    for id in new.ids().filter(|id| is_stray(new, *id) && !owned(*id)) {
        let section = new.section_name(id);
        let is_code = new.object.section(new.atom(id).section).sh_flags & shf::EXECINSTR != 0;
        if is_code && new.rule(id).is_none() {
            // Labels in assembly: the code under them is compared, and cannot be redirected.
            let twin = compare.twins.backward.get(&id).copied();
            if twin.is_some_and(|twin| compare.difference(twin, id).is_none()) {
                continue;
            }
            let candidates = before.entry(section).or_default();
            let equal = candidates.iter().position(|other| compare.same(*other, id));
            if let (None, Some(at)) = (twin, equal) {
                candidates.remove(at);
                continue;
            }
            let message = format!("code in `{section}` that belongs to no function changed");
            refusals.push(refusal(new, id, Reason::NotHookable, message));
            continue;
        }
        if reached[id.index()] {
            continue;
        }
        let about = new.refs_of(id).iter().find_map(|r| match r.target {
            Target::Atom(target, offset)
                if new.atom(target).kind == Kind::Function && changed.contains(&tables.whole(target)) =>
            {
                // A named datum may hold a function's address like any other table of operations.
                let address = offset == naming_offset(new, target) && new.atom(id).kind == Kind::Data;
                (!address).then(|| new.name(tables.whole(target)))
            }
            _ => None,
        });
        // PCI quirks (DECLARE_PCI_FIXUP_* of include/linux/pci.h): an address of a function, which stays the original's.
        let is_quirk = section.starts_with(".pci_fixup");
        if let Some(function) = about
            && !is_quirk
        {
            let message = format!("an entry of `{section}` speaks about `{function}`, and what it says is not known");
            refusals.push(refusal(new, id, Reason::UnknownSection, message));
            told.insert(section);
            continue;
        }
        if compare.twins.backward.contains_key(&id) {
            // Its contents are compared with all other data.
            continue;
        }
        let candidates = before.entry(section).or_default();
        if let Some(at) = candidates.iter().position(|other| compare.same(*other, id)) {
            candidates.remove(at);
            continue;
        }
        if is_quirk {
            refusals.push(new_quirk(new, id, tables, functions));
            told.insert(section);
            continue;
        }
        let found = match new.atom(id).kind {
            Kind::Data if is_ordinary(section) => {
                let message = format!("nothing refers to the new datum `{}`: it would never be used", new.name(id));
                refusal(new, id, Reason::NeverRuns, message)
            }
            Kind::Data => {
                let message =
                    format!("`{}` in `{section}` is new, and how the kernel uses it is not known", new.name(id));
                refusal(new, id, Reason::UnknownSection, message)
            }
            Kind::Entry => {
                let message = format!("an entry of `{section}` about code that belongs to no function changed");
                refusal(new, id, Reason::UnknownSection, message)
            }
            _ => {
                let message = format!("`{section}` holds something new without a name, which nothing refers to");
                refusal(new, id, Reason::UnknownSection, message)
            }
        };
        refusals.push(found);
        told.insert(section);
    }
    let old_owned = |id: AtomId| old_tables.owner.contains_key(&id);
    let old_reached = self::reached(old);
    let is_left = |id: &AtomId| !old_reached[id.index()] && !old_owned(*id) && is_read_later(old, *id);
    // What has no name counts as changed where there is something new.
    let is_changed = |id: &AtomId| old.atom(*id).kind == Kind::Anonymous && told.contains(old.section_name(*id));
    let mut left: Vec<AtomId> = before.into_values().flatten().filter(|id| is_left(id) && !is_changed(id)).collect();
    left.sort_unstable();
    refusals.extend(left.into_iter().map(|id| gone(old, id, old_tables)));
    refusals
}

/// Whether the kernel may still read this when boot is over: an entry of a table that only the linker collects.
fn is_read_later(side: &Side<'_>, id: AtomId) -> bool {
    let section = side.object.section(side.atom(id).section);
    matches!(side.atom(id).kind, Kind::Data | Kind::Anonymous)
        && section.sh_flags & shf::EXECINSTR == 0
        && section.sh_type != sht::NOTE
        && !is_ordinary(&section.name)
        && !side.is_gone(id)
        && !section.name.ends_with(".init")
        // Texts for tools.
        && section.name != "__tracepoint_str"
}

/// An entry that the patch takes out of a table.
fn gone(side: &Side<'_>, id: AtomId, tables: &Tables) -> Refusal {
    let section = side.section_name(id);
    let leads_to = side.refs_of(id).iter().filter_map(|r| match r.target {
        Target::Atom(target, _) if matches!(side.atom(target).kind, Kind::Function | Kind::Data) => {
            Some(format!("`{}`", side.name(tables.whole(target))))
        }
        _ => None,
    });
    let mut leads_to: Vec<String> = leads_to.collect();
    leads_to.dedup();
    let named = match side.atom(id).symbols.is_empty() {
        true => "an entry".to_owned(),
        false => format!("`{}`", side.name(id)),
    };
    let of = if leads_to.is_empty() { String::new() } else { format!(" (of {})", leads_to.join(", ")) };
    let message = format!("{named}{of} is taken out of `{section}`, and stays in the running kernel's table");
    let advice = "leave it there, and make what it leads to do nothing; or undo its effect in a callback";
    let found = Refusal::new(Reason::NeverRuns, message, advice).at(section, side.atom(id).start);
    if side.atom(id).symbols.is_empty() { found } else { found.symbol(side.name(id)) }
}

/// A quirk, with the new functions that the section leads to: what it consists of has no names of its own.
fn new_quirk(side: &Side<'_>, id: AtomId, tables: &Tables, functions: &[FunctionVerdict]) -> Refusal {
    let new: HashSet<AtomId> =
        functions.iter().filter(|f| f.verdict == Verdict::New).filter_map(|f| f.patched).collect();
    let leads_to = side.refs_of(id).iter().filter_map(|r| match r.target {
        Target::Atom(target, _) => Some(tables.whole(target)),
        _ => None,
    });
    let names: Vec<String> =
        leads_to.filter(|target| new.contains(target)).map(|target| format!("`{}`", side.name(target))).collect();
    let of = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let section = side.section_name(id);
    Refusal::new(
        Reason::NeverRuns,
        format!("a PCI quirk{of} in `{section}` is new or changed: the kernel looks for quirks in its own table only"),
        "do in a callback what it does, for the devices that are there, or leave it out of the patch",
    )
    .at(section, side.atom(id).start)
}

fn refusal(side: &Side<'_>, id: AtomId, reason: Reason, message: String) -> Refusal {
    let found = Refusal::new(reason, message, "leave it out of the patch, or do its effect in a callback");
    let found = found.at(side.section_name(id), side.atom(id).start);
    if side.atom(id).symbols.is_empty() { found } else { found.symbol(side.name(id)) }
}

/// Data and code that the kernel keeps, that no rule is about, and that only a reference could lead to.
fn is_stray(side: &Side<'_>, id: AtomId) -> bool {
    let atom = side.atom(id);
    let section = side.object.section(atom.section);
    let rule = side.rule(id);
    let kept = section.sh_flags & shf::ALLOC != 0;
    kept && match atom.kind {
        // Of a table about code, the entries that are about no function.
        Kind::Entry => matches!(rule, Some(Rule::CodeTable(_))),
        _ if rule.is_some() => false,
        Kind::Anonymous => true,
        Kind::Function => !side.is_function(id),
        // Other files may refer to what is global, but not because of what a section of its own makes of it.
        Kind::Data => (!side.is_global(id) || !is_ordinary(&section.name)) && !side.is_gone(id),
        _ => false,
    }
}

/// Everything that something other than itself refers to. A table's entry that nothing refers to counts as well: it
/// travels with its function.
fn reached(side: &Side<'_>) -> Vec<bool> {
    let mut reached = vec![false; side.atoms.len()];
    for id in side.ids() {
        for r in side.refs_of(id) {
            if let Target::Atom(target, _) = r.target
                && target != id
                && !std::mem::replace(&mut reached[target.index()], true)
                && side.atom(target).kind == Kind::Anonymous
            {
                // A run that is pointed into is one thing.
                side.anonymous_run(target).into_iter().for_each(|part| reached[part.index()] = true);
            }
        }
    }
    reached
}

fn is_ordinary(section: &str) -> bool {
    [".data", ".bss", ".rodata", ".sdata", ".sbss"].iter().any(|s| {
        section.strip_prefix(s).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with("1"))
    })
}
