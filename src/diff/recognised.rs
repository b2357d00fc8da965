//! Data by whose addresses code recognises things: `thing->type == &plain`, `dev->mode == &modes[1]`, `dev->mode - modes`.
//!
//! In: one side. Out: those data. Another copy of one would not be recognised. Hard because a walk over a table compares
//! addresses as well: its end lies behind the table, and whoever takes the table's address itself walks over its own copy.

use super::arch::{How, Use};
use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::tables::Tables;
use crate::elf::id::HashSet;

/// All data of one side whose addresses tell something.
pub(super) fn recognised(side: &Side<'_>, tables: &Tables) -> HashSet<AtomId> {
    let mut found = HashSet::default();
    let mut ends = HashSet::default();
    for (user, r, target, is_inside) in addresses(side) {
        match r.usage {
            Use::Compared(how) if is_inside || how == How::Distance => {
                found.insert(target);
            }
            Use::Compared(_) => {
                ends.insert((tables.whole(user), target));
            }
            _ => {}
        }
    }
    // Few are compared with their ends, and most references are addresses.
    if !ends.is_empty() {
        let walks = addresses(side).filter(|(_, r, _, is_inside)| r.usage == Use::Address && *is_inside);
        for (user, _, target, _) in walks {
            ends.remove(&(tables.whole(user), target));
        }
    }
    found.extend(ends.into_iter().map(|(_, data)| data));
    found
}

/// References to data: whose, which, to what, and whether into it and not behind it.
fn addresses<'s>(side: &'s Side<'_>) -> impl Iterator<Item = (AtomId, &'s Ref, AtomId, bool)> + 's {
    side.ids().flat_map(move |id| {
        side.refs_of(id).iter().filter_map(move |r| {
            let Target::Atom(target, offset) = r.target else { return None };
            let atom = side.atom(target);
            let is_inside = (0..(atom.end - atom.start).max(1) as i64).contains(&offset);
            (atom.kind == Kind::Data).then_some((id, r, target, is_inside))
        })
    })
}
