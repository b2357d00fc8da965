//! Constants that are private to the code that uses them, and still have an identity: somebody may hold their address.
//!
//! In: a comparison. Out: for each such patched constant the original's own one, so that no copy of it travels. A table of
//! functions has an identity (`static const struct file_operations` in a function), and so has whatever code compares an
//! address with. Everything else is as good as a copy.

use std::borrow::Cow;

use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::closure::naming_offset;
use super::compare::Compare;
use super::files::{FileKey, Files};
use super::names;
use super::readers::holds_function;
use super::recognised::recognised;
use super::tables::Tables;
use super::users::{users, users_of};
use crate::elf::id::{HashMap, HashSet};

/// What was found.
#[derive(Debug, Default)]
pub struct Constants {
    /// Patched -> original.
    pub originals: HashMap<AtomId, AtomId>,
    /// Patched ones whose address is compared, and which of these they are cannot be told.
    pub in_doubt: HashMap<AtomId, Vec<AtomId>>,
    /// Patched tables that travel, where code had others of the kernel's for them before.
    pub replaced: HashSet<AtomId>,
}

/// Finds the original of each constant that has an identity but no lasting name.
pub fn find(compare: &Compare<'_, '_>, (old_tables, new_tables): (&Tables, &Tables)) -> Constants {
    let (old, new) = (compare.original, compare.patched);
    let files = Files::new(old, new);
    let mut found = Constants::default();
    let mut theirs: HashMap<(Cow<'_, str>, Option<FileKey>), Vec<AtomId>> = HashMap::default();
    for id in old.ids().filter(|id| is_private_constant(old, *id)) {
        theirs.entry((names::stem(old.name(id)), files.of_old(old, id))).or_default().push(id);
    }
    if theirs.is_empty() {
        return found;
    }
    let (old_compared, new_compared) = rayon::join(|| recognised(old, old_tables), || recognised(new, new_tables));
    let (old_users, new_users) =
        rayon::join(|| users(old, |id| is_private_constant(old, id)), || users(new, |id| is_private_constant(new, id)));
    for id in new.ids().filter(|id| is_private_constant(new, *id)) {
        let Some(all) = theirs.get(&(names::stem(new.name(id)), files.of_new(new, id))) else { continue };
        let of_same_users = |old: &&AtomId| users_of(&old_users, **old) == users_of(&new_users, id);
        let shares_user = |old: &&AtomId| !users_of(&old_users, **old).is_disjoint(users_of(&new_users, id));
        let meant: Vec<AtomId> = all.iter().copied().filter(|old| shares_user(&old)).collect();
        let is_compared = new_compared.contains(&id) || meant.iter().any(|old| old_compared.contains(old));
        if !is_compared && !is_table(new, id) {
            continue;
        }
        let equal: Vec<AtomId> = all
            .iter()
            .copied()
            .filter(|other| is_compared || is_table(old, *other))
            .filter(|old| compare.same(*old, id))
            .collect();
        let shared: Vec<&AtomId> = equal.iter().filter(of_same_users).collect();
        match (shared.as_slice(), equal.as_slice()) {
            ([one], _) => {
                found.originals.insert(id, **one);
            }
            ([], [one]) if is_compared && meant.contains(one) => {
                found.originals.insert(id, *one);
            }
            _ if is_compared && !meant.is_empty() => {
                found.in_doubt.insert(id, meant);
            }
            _ if !meant.is_empty() => {
                found.replaced.insert(id);
            }
            _ => {}
        }
    }
    found
}

/// A constant that would travel as a copy, with a name of the source.
pub(super) fn is_private_constant(side: &Side<'_>, id: AtomId) -> bool {
    side.atom(id).kind == Kind::Data
        && side.is_private(id)
        && !side.is_writable(id)
        && side.rule(id).is_none()
        && (names::has_own_stem(side.name(id)) || side.name(id).starts_with("__compound_literal"))
}

/// A table of functions' addresses; what a name stands for that the object does not define cannot be told.
pub(super) fn is_table_of_functions(side: &Side<'_>, id: AtomId) -> bool {
    holds_function(side, id) && leads_outwards(side, id)
}

/// A table that leads somewhere.
fn is_table(side: &Side<'_>, id: AtomId) -> bool {
    names::has_own_stem(side.name(id)) && !side.refs_of(id).is_empty() && leads_outwards(side, id)
}

/// Whether nothing in a table leads into a function, past its entry. One of labels belongs to its very function.
fn leads_outwards(side: &Side<'_>, id: AtomId) -> bool {
    let outwards = |r: &Ref| match r.target {
        Target::Atom(atom, offset) => side.atom(atom).kind != Kind::Function || offset == naming_offset(side, atom),
        _ => true,
    };
    side.refs_of(id).iter().all(outwards)
}
