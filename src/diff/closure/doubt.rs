//! Is it worth asking whose a static local is?
//!
//! In: a comparison. Out: whether anything that travels may use one that two functions could have declared. To ask costs two more
//! compiles of the unit, so only what the code leads to counts, by way of the functions' own constants as well.

use super::closure;
use crate::diff::atoms::{AtomId, Kind, Target};
use crate::diff::names;
use crate::diff::verdict::Diff;
use crate::elf::id::HashSet;
use crate::error::Reason;

/// Whether something that travels uses a static local which could be one of several of the original's, so that it is
/// worth asking debug information whose they are; or one that was taken to be the original's because it has its name and
/// its users. A variable that was removed and one that was added may have both in common.
pub fn asks_for_owners(diff: &Diff<'_>) -> bool {
    let (side, tables) = (&diff.patched, &diff.new_tables);
    let has_numbered_state = |target: &AtomId| {
        side.atom(*target).kind == Kind::Data
            && side.is_writable(*target)
            && names::is_numbered(side.name(*target))
            && diff.twins.backward.contains_key(target)
    };
    let mut open: Vec<AtomId> =
        diff.carried_functions().into_keys().flat_map(|function| tables.all_parts(function)).collect();
    let mut seen: HashSet<AtomId> = open.iter().copied().collect();
    let mut uses_state = false;
    while let Some(atom) = open.pop().filter(|_| !uses_state) {
        for r in side.refs_of(atom) {
            let Target::Atom(target, _) = r.target else { continue };
            uses_state |= has_numbered_state(&target);
            // A constant of the function's own that leads there: `static int *const counts[] = { &count }`.
            if side.is_private(target) && seen.insert(target) {
                open.push(target);
            }
        }
    }
    uses_state
        || !diff.twins.ambiguous.is_empty()
            && closure(diff).refusals.iter().any(|refusal| refusal.reason == Reason::AmbiguousTwin)
}
