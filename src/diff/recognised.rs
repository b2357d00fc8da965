//! Data by whose addresses code recognises things: `thing->type == &plain`, `dev->mode == &modes[1]`, `dev->mode - modes`.
//!
//! In: one side. Out: those data. Another copy of one would not be recognised. Hard because a walk over a table compares
//! addresses as well: its end lies behind the table, and whoever takes the table's address itself walks over its own copy.

use super::arch::{How, Use};
use super::atoms::{AtomId, Kind, Side, Target};
use super::tables::Tables;
use crate::elf::id::HashSet;

/// All data of one side whose addresses tell something.
pub(super) fn recognised(side: &Side<'_>, tables: &Tables) -> HashSet<AtomId> {
    let mut found = HashSet::default();
    let (mut walked, mut ends) = (HashSet::default(), HashSet::default());
    for id in side.ids() {
        for r in side.refs_of(id) {
            let Target::Atom(target, offset) = r.target else { continue };
            let atom = side.atom(target);
            if atom.kind != Kind::Data {
                continue;
            }
            let is_inside = (0..(atom.end - atom.start).max(1) as i64).contains(&offset);
            match r.usage {
                Use::Compared(how) if is_inside || how == How::Distance => {
                    found.insert(target);
                }
                Use::Compared(_) => {
                    ends.insert((tables.whole(id), target));
                }
                Use::Address if is_inside => {
                    walked.insert((tables.whole(id), target));
                }
                _ => {}
            }
        }
    }
    found.extend(ends.difference(&walked).map(|(_, data)| *data));
    found
}
