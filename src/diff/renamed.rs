//! Variables that are gone while others like them have come: perhaps one thing under another name.
//!
//! In: a comparison and what travels. Out: a warning for each. A name is what says that a variable is the running kernel's; a new
//! one starts with its initial value, and what the kernel holds in the old one is not looked at any more.

use super::atoms::{AtomId, Kind, Side};
use super::closure::Closure;
use super::users::{users, users_of};
use super::verdict::Diff;

/// What to say of them.
pub fn warnings(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let (old, new, twins) = (&diff.original, &diff.patched, &diff.twins);
    let has_state = |side: &Side<'_>, id: AtomId| {
        side.atom(id).kind == Kind::Data
            && side.is_writable(id)
            && !side.is_private(id)
            && !side.is_gone(id)
            && side.rule(id).is_none()
    };
    let is_new = |id: AtomId| has_state(new, id) && !twins.backward.contains_key(&id);
    let come: Vec<AtomId> = closure.atoms.iter().copied().filter(|id| is_new(*id)).collect();
    if come.is_empty() {
        return Vec::new();
    }
    let is_lost = |id: AtomId| has_state(old, id) && !twins.forward.contains_key(&id);
    let lost: Vec<AtomId> = old.ids().filter(|id| is_lost(*id)).collect();
    let (old_users, new_users) = (users(old, is_lost), users(new, is_new));
    let size = |side: &Side<'_>, id: AtomId| side.atom(id).end - side.atom(id).start;
    let mut found = Vec::new();
    for id in come {
        let of = users_of(&new_users, id);
        let alike = |other: &&AtomId| {
            size(old, **other) == size(new, id)
                && old.refs_of(**other).len() == new.refs_of(id).len()
                && users_of(&old_users, **other) == of
        };
        let Some(other) = lost.iter().find(alike).filter(|_| !of.is_empty()) else { continue };
        found.push(format!(
            "`{}` is new, and `{}` of the same size and the same users is gone: if that is another name for one thing, what the \
             running kernel holds in it is lost",
            new.name(id),
            old.name(*other)
        ));
    }
    found
}
