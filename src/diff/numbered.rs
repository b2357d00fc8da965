//! Names that a recompilation renumbers: which of several `count.N` is which.
//!
//! In: two sides, and what certain names have paired already. Out: more pairs; groups on trial; and what is ambiguous. Levels 3 to 6
//! of [`twins`](super::twins), in the order written there. Hard because nothing in an object says whose a static local is once its
//! function is inlined: users, sizes, contents and debug information are asked, each only for what it can tell.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::atoms::{AtomId, Kind, Side, Target};
use super::files::{FileKey, Files};
use super::twins::{Twins, candidates};
use super::users::{Users, users_of};
use super::{Owner, Owners, names};
use crate::elf::id::HashMap;

/// Levels 3 to 6 for one kind.
pub(super) fn pair_numbered(
    (original, patched): (&Side<'_>, &Side<'_>),
    twins: &mut Twins,
    kind: Kind,
    files: &Files,
    (old_users, new_users): (&Users, &Users),
    owners: Option<Owners<'_>>,
) {
    let mut theirs: BTreeMap<(Cow<'_, str>, Option<FileKey>), Vec<AtomId>> = BTreeMap::new();
    for id in open(original, &twins.forward, kind) {
        theirs.entry((names::stem(original.name(id)), files.of_old(original, id))).or_default().push(id);
    }
    let mut ours: BTreeMap<(Cow<'_, str>, Option<FileKey>), Vec<AtomId>> = BTreeMap::new();
    for id in open(patched, &twins.backward, kind) {
        ours.entry((names::stem(patched.name(id)), files.of_new(patched, id))).or_default().push(id);
    }
    for (key, old) in &theirs {
        let Some(new) = ours.get(key) else { continue };
        let texts = |side, all: &[AtomId]| all.iter().all(|id| is_text_for_tracers(side, *id));
        if texts(original, old) && texts(patched, new) {
            pair_texts((original, patched), twins, (old, new));
            continue;
        }
        if let ([old], [new]) = (old.as_slice(), new.as_slice()) {
            let (a, b) = (users_of(old_users, *old), users_of(new_users, *new));
            let has_state = original.is_writable(*old) || patched.is_writable(*new);
            let told = owners.filter(|_| has_state).and_then(|o| o.agree(original.name(*old), patched.name(*new)));
            if told == Some(false) {
                twins.ambiguous.insert(*new, vec![*old]);
            } else if told == Some(true)
                || kind == Kind::Function
                || !a.is_disjoint(b)
                || (a.is_empty() && b.is_empty())
            {
                twins.pair(*old, *new);
            } else {
                twins.ambiguous.insert(*new, vec![*old]);
            }
            continue;
        }
        let groups = owners.and_then(|owners| by_owner((original, patched), (old, new), owners));
        for (old, new) in groups.as_ref().into_iter().flatten() {
            match (old.as_slice(), new.as_slice()) {
                ([one], [other]) => twins.pair(*one, *other),
                (old, new) => pair_levels((original, patched), twins, (old, new), (old_users, new_users)),
            }
        }
        if groups.is_none() {
            pair_levels((original, patched), twins, (old, new), (old_users, new_users));
        }
        let rest: Vec<AtomId> = old.iter().copied().filter(|id| !twins.forward.contains_key(id)).collect();
        if !rest.is_empty() {
            for id in new.iter().copied().filter(|id| !twins.backward.contains_key(id)) {
                twins.ambiguous.insert(id, rest.clone());
            }
        }
    }
}

impl Owners<'_> {
    /// Whether two variables are declared in functions of one name, and mean the same.
    fn agree(&self, old: &str, new: &str) -> Option<bool> {
        let ((function, meaning), (other, other_meaning)) = (self.original.get(old)?, self.patched.get(new)?);
        // What a pointer leads to may have got a name.
        let is_any = |text: &str| text == "void *";
        let are_pointers = meaning.ends_with('*') && other_meaning.ends_with('*');
        let same = meaning == other_meaning || (are_pointers && (is_any(meaning) || is_any(other_meaning)));
        Some(function == other && same)
    }
}

/// Splits candidates of one stem by the functions that declare them and by what they mean, where that is known of all.
fn by_owner(
    (original, patched): (&Side<'_>, &Side<'_>),
    (old, new): (&[AtomId], &[AtomId]),
    owners: Owners<'_>,
) -> Option<Vec<(Vec<AtomId>, Vec<AtomId>)>> {
    let mut groups: BTreeMap<&Owner, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    for id in old {
        groups.entry(owners.original.get(original.name(*id))?).or_default().0.push(*id);
    }
    for id in new {
        groups.entry(owners.patched.get(patched.name(*id))?).or_default().1.push(*id);
    }
    Some(groups.into_values().collect())
}

fn open<'s>(side: &'s Side<'_>, taken: &'s HashMap<AtomId, AtomId>, kind: Kind) -> impl Iterator<Item = AtomId> + 's {
    candidates(side).filter(move |id| side.atom(*id).kind == kind && !taken.contains_key(id))
}

fn pair_levels(
    (original, patched): (&Side<'_>, &Side<'_>),
    twins: &mut Twins,
    candidates: (&[AtomId], &[AtomId]),
    users: (&Users, &Users),
) {
    // Several variables of the same users: neither contents, which may change, nor what is left over says which is which.
    let mut alike: BTreeMap<_, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    let key = |side: &Side<'_>, users: &Users, id: AtomId| {
        let atom = side.atom(id);
        (atom.kind == Kind::Data && side.is_writable(id)).then(|| (users_of(users, id).clone(), atom.end - atom.start))
    };
    for id in candidates.0 {
        key(original, users.0, *id).into_iter().for_each(|key| alike.entry(key).or_default().0.push(*id));
    }
    for id in candidates.1 {
        key(patched, users.1, *id).into_iter().for_each(|key| alike.entry(key).or_default().1.push(*id));
    }
    alike.retain(|_, (old, new)| old.len() > 1 || new.len() > 1);
    for level in 0..3 {
        pair_level(original, patched, twins, candidates, level, users);
    }
    for (old, new) in alike.into_values() {
        let of_old = old.iter().filter_map(|id| Some((*id, *twins.forward.get(id)?)));
        let of_new = new.iter().filter_map(|id| Some((*twins.backward.get(id)?, *id)));
        let group: BTreeMap<AtomId, AtomId> = of_old.chain(of_new).collect();
        twins.on_trial.push(group.into_iter().collect());
    }
}

/// One of the levels 4 and 5: pairs what alone has its signature.
fn pair_level(
    original: &Side<'_>,
    patched: &Side<'_>,
    twins: &mut Twins,
    (old, new): (&[AtomId], &[AtomId]),
    level: usize,
    (old_users, new_users): (&Users, &Users),
) {
    let old: Vec<AtomId> = old.iter().copied().filter(|id| !twins.forward.contains_key(id)).collect();
    let new: Vec<AtomId> = new.iter().copied().filter(|id| !twins.backward.contains_key(id)).collect();
    let outer = |side: &Side<'_>, users: &Users, id: AtomId| {
        let size = side.atom(id).end - side.atom(id).start;
        (users_of(users, id).clone(), (level < 2).then_some(size))
    };
    let mut map: BTreeMap<_, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    let mut balance: BTreeMap<_, i64> = BTreeMap::new();
    for id in old {
        let outer = outer(original, old_users, id);
        *balance.entry(outer.clone()).or_default() += 1;
        map.entry((outer, (level == 0).then(|| shape(original, id)))).or_default().0.push(id);
    }
    for id in new {
        let outer = outer(patched, new_users, id);
        *balance.entry(outer.clone()).or_default() -= 1;
        map.entry((outer, (level == 0).then(|| shape(patched, id)))).or_default().1.push(id);
    }
    for ((outer, _), (mut old, mut new)) in map {
        if old.is_empty() || old.len() != new.len() {
            continue;
        }
        let is_data = original.atom(old[0]).kind == Kind::Data;
        if is_data && level == 0 && balance[&outer] != 0 {
            continue;
        }
        if old.len() == 1 {
            twins.pair(old[0], new[0]);
        } else if is_data && level < 2 && !outer.0.is_empty() {
            let by_use = |users: &Users, id: &AtomId| users.get(id).map(|u| u.first_use.clone());
            old.sort_by_key(|id| by_use(old_users, id));
            new.sort_by_key(|id| by_use(new_users, id));
            let group: Vec<(AtomId, AtomId)> = old.into_iter().zip(new).collect();
            group.iter().for_each(|(a, b)| twins.pair(*a, *b));
            twins.on_trial.push(group);
        } else if !is_data && level == 0 {
            // Equal code with equal users: each is as good as the other.
            old.into_iter().zip(new).for_each(|(a, b)| twins.pair(a, b));
        }
    }
}

/// A pointer by which trace tools find a text that the code records by its address, and that nobody writes
/// (`tracepoint_string` in include/linux/tracepoint.h).
fn is_text_for_tracers(side: &Side<'_>, id: AtomId) -> bool {
    side.section_name(id) == "__tracepoint_str"
}

/// Two with one text mean the same, whoever uses them; a text that the original has not is a new one.
fn pair_texts((original, patched): (&Side<'_>, &Side<'_>), twins: &mut Twins, (old, new): (&[AtomId], &[AtomId])) {
    let mut by_text: HashMap<_, Vec<AtomId>> = HashMap::default();
    for id in old.iter().rev() {
        by_text.entry(shape(original, *id)).or_default().push(*id);
    }
    for id in new {
        if let Some(twin) = by_text.get_mut(&shape(patched, *id)).and_then(Vec::pop) {
            twins.pair(twin, *id);
        }
    }
}

/// Contents as far as they do not depend on the rest of the object: bytes, and the stems of what is referred to.
fn shape(side: &Side<'_>, id: AtomId) -> (Vec<u8>, Vec<(u64, String, i64)>) {
    let start = side.atom(id).start;
    let refs = side.refs_of(id).iter().map(|r| {
        let (name, addend) = match r.target {
            Target::Atom(atom, offset) => match side.atom(atom).kind {
                Kind::Text => (String::from_utf8_lossy(side.bytes(atom)).into_owned(), offset),
                Kind::Function | Kind::Data => (names::stem(side.name(atom)).into_owned(), offset),
                _ => (String::new(), 0),
            },
            Target::Symbol(symbol, addend) => (side.object.symbol(symbol).name.clone(), addend),
            Target::Nothing(addend) => (String::new(), addend),
        };
        (r.reloc.r_offset - start, name, addend)
    });
    (side.bytes(id).to_vec(), refs.collect())
}
