//! Constant tables of a file whose contents changed, and that only functions read: those functions change with them.
//!
//! In: a comparison and the function verdicts. Out: the verdicts with such readers changed, and the tables that therefore
//! travel. The running kernel keeps its own table for everything else; so this is right only where nothing but code leads to
//! it: not another datum, and no code that ran at boot and may have handed its address on. Tables with addresses of functions
//! are left alone: those are registered, and what was registered before would go on using the old ones. So are tables whose
//! address is compared: what holds the old address would no longer be recognised.

use super::arch::Use;
use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::compare::{Compare, Difference};
use super::names;
use super::recognised::recognised;
use super::tables::Tables;
use super::verdict::{FunctionVerdict, Verdict};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::shf;

/// The uses of each datum: by which whole function or other atom, and how.
type Uses = HashMap<AtomId, Vec<(AtomId, Use)>>;

/// Marks the readers of changed constant tables as changed; the tables, on the patched side, that travel with them.
pub fn spread(
    compare: &Compare<'_, '_>,
    (old_tables, new_tables): (&Tables, &Tables),
    functions: &mut [FunctionVerdict],
) -> HashSet<AtomId> {
    let (old, new) = (compare.original, compare.patched);
    let mut out = HashSet::default();
    let changed: Vec<(AtomId, AtomId)> = new
        .ids()
        .filter(|id| is_table(new, *id))
        .filter_map(|id| Some((*compare.twins.backward.get(&id)?, id)))
        .filter(|(twin, _)| is_table(old, *twin))
        .filter(|(twin, id)| compare.difference(*twin, *id).is_some())
        .collect();
    if changed.is_empty() {
        return out;
    }
    let (old_uses, new_uses) = (uses(old, old_tables), uses(new, new_tables));
    let (old_known, new_known) = (recognised(old, old_tables), recognised(new, new_tables));
    for (twin, id) in changed.into_iter().filter(|(a, b)| !old_known.contains(a) && !new_known.contains(b)) {
        let (Some(before), Some(after)) = (readers(old, &old_uses, twin), readers(new, &new_uses, id)) else {
            continue;
        };
        if before.is_empty() || after.is_empty() {
            continue;
        }
        for function in functions.iter_mut().filter(|f| f.verdict == Verdict::Same) {
            let reads = function.original.is_some_and(|f| before.contains(&f))
                || function.patched.is_some_and(|f| after.contains(&f));
            if reads {
                function.verdict = Verdict::Changed;
                let what = format!("reads `{}`, whose contents changed", new.name(id));
                function.why = Some(Difference { original: 0, patched: 0, what });
            }
        }
        out.insert(id);
    }
    out
}

/// A constant of this file with a name of its own, without addresses of functions.
pub(super) fn is_table(side: &Side<'_>, id: AtomId) -> bool {
    let atom = side.atom(id);
    atom.kind == Kind::Data
        && side.object.section(atom.section).sh_flags & shf::ALLOC != 0
        && !side.is_private(id)
        && !side.is_writable(id)
        && !side.is_global(id)
        && !side.is_init(id)
        && !names::is_exit_section(side.section_name(id))
        && side.rule(id).is_none()
        && !holds_function(side, id)
}

/// Whether a table has addresses of functions, as far as can be told.
pub(super) fn holds_function(side: &Side<'_>, id: AtomId) -> bool {
    side.refs_of(id).iter().any(|r| match r.target {
        Target::Atom(target, _) => side.atom(target).kind == Kind::Function,
        // What an undefined symbol is cannot be told.
        Target::Symbol(..) => true,
        Target::Nothing(_) => false,
    })
}

/// Whether anything that is loaded has the table's address, or takes it, other than to read from it.
pub(super) fn is_given(side: &Side<'_>, id: AtomId) -> bool {
    let takes = |r: &Ref| !r.usage.is_access() && matches!(r.target, Target::Atom(target, _) if target == id);
    side.ids()
        .filter(|user| *user != id && side.object.section(side.atom(*user).section).sh_flags & shf::ALLOC != 0)
        .any(|user| side.refs_of(user).iter().any(takes))
}

fn uses(side: &Side<'_>, tables: &Tables) -> Uses {
    let mut uses = Uses::default();
    for id in side.ids() {
        for r in side.refs_of(id) {
            if let Target::Atom(target, _) = r.target
                && side.atom(target).kind == Kind::Data
            {
                uses.entry(target).or_default().push((tables.whole(id), r.usage));
            }
        }
    }
    uses
}

/// The functions that read a table; nothing when anything else leads to it. Code that is gone after boot does not count when
/// it only read from it: it has done so.
fn readers(side: &Side<'_>, uses: &Uses, table: AtomId) -> Option<HashSet<AtomId>> {
    let mut readers = HashSet::default();
    for (user, usage) in uses.get(&table).into_iter().flatten() {
        let section = side.section_name(*user);
        if section.starts_with(".discard.") {
            continue;
        }
        if !side.is_function(*user) {
            return None;
        }
        if !names::is_init_section(section) && !names::is_exit_section(section) {
            readers.insert(*user);
        } else if !usage.is_access() {
            return None;
        }
    }
    Some(readers)
}

/// Names of those carried tables whose address the carried code takes: somebody may keep it.
pub fn held(side: &Side<'_>, tables: &Tables, carried: &HashSet<AtomId>) -> Vec<String> {
    let uses = uses(side, tables);
    let is_held = |id: &&AtomId| uses.get(*id).is_some_and(|all| all.iter().any(|(_, usage)| !usage.is_access()));
    let mut names: Vec<String> = carried.iter().filter(is_held).map(|id| side.name(*id).to_owned()).collect();
    names.sort();
    names
}
