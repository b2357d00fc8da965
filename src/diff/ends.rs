//! The end of one datum, or the start of the next one?
//!
//! In: two sides and their twins. Out: the patched side's references to such a place, settled or in doubt. Compilers write
//! `p < array + N` as a comparison with the place where the array ends, through the section's symbol; where several data
//! share a section (`.data..read_mostly`, per-CPU data, which `-fdata-sections` does not part), another variable starts
//! there. As long as the original has the same two side by side both readings lead to one address. Where the patch put
//! something between them, or took it away, one of them is wrong: the loop's end would be the module's own variable.
//! A variable without bytes (a `local_lock_t` without lockdep) ends where it starts, and is no different.

use super::arch::{How, Use};
use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::tables::Tables;
use super::twins::Twins;
use crate::elf::SectionId;
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::stt;

/// What became of references to where one datum ends and another one starts, by section and offset of the reference.
#[derive(Debug, Default)]
pub struct Ends {
    /// They mean the end: the reference says so now.
    pub settled: HashSet<(SectionId, u64)>,
    /// The datum that ends, and the one that starts.
    pub in_doubt: HashMap<(SectionId, u64), (AtomId, AtomId)>,
}

/// Which reading each is; what means the end of a datum is changed to say so.
pub fn settle(old: &Side<'_>, new: &mut Side<'_>, twins: &Twins, (old_tables, new_tables): (&Tables, &Tables)) -> Ends {
    let mut ends = Ends::default();
    let borders = moved_borders(old, new, twins);
    // Elsewhere a use by address cannot be told from a read, and every read would be in doubt.
    if borders.is_empty() || new.object.e_machine != 62 {
        return ends;
    }
    let mut changes: Vec<(SectionId, usize, Target)> = Vec::new();
    for user in new.ids().filter(|id| is_user(new, *id) && !new_tables.parent.contains_key(id)) {
        let parts = new_tables.all_parts(user);
        let mine: Vec<&Ref> = parts.iter().flat_map(|part| new.refs_of(*part)).collect();
        let before: Vec<&Ref> = twins
            .backward
            .get(&user)
            .map_or_else(Vec::new, |twin| old_tables.all_parts(*twin))
            .into_iter()
            .flat_map(|part| old.refs_of(part))
            .collect();
        let user = User { old, new, twins, before, mine };
        for part in parts {
            let section = new.atom(part).section;
            let first = new.atom(part).relocs.0 as usize;
            for (i, r) in new.refs_of(part).iter().enumerate() {
                let Target::Atom(next, offset) = r.target else { continue };
                let key = (section, r.reloc.r_offset);
                for array in borders.get(&next).into_iter().flatten().copied() {
                    match user.reading(r, array, (next, offset)) {
                        Reading::Start => continue,
                        Reading::End => {
                            changes.push((section, first + i, Target::Atom(array, size(new, array) + offset)));
                            ends.settled.insert(key);
                        }
                        Reading::Doubt => {
                            ends.in_doubt.insert(key, (array, next));
                        }
                    }
                    break;
                }
            }
        }
    }
    for (section, index, target) in changes {
        new.refs[section.index()][index].target = target;
    }
    ends
}

/// Patched data that starts where others end, and those; but for what the original has side by side as well.
fn moved_borders(old: &Side<'_>, new: &Side<'_>, twins: &Twins) -> HashMap<AtomId, Vec<AtomId>> {
    let is_plain = |id: AtomId| new.atom(id).kind == Kind::Data && !new.is_private(id) && new.rule(id).is_none();
    let stays = |array: AtomId, next: AtomId| {
        let (Some(a), Some(b)) = (twins.backward.get(&array), twins.backward.get(&next)) else { return false };
        old.atom(*a).section == old.atom(*b).section && old.atom(*a).end == old.atom(*b).start
    };
    let mut borders: HashMap<AtomId, Vec<AtomId>> = HashMap::default();
    for atoms in &new.of_section {
        for (i, next) in atoms.iter().copied().enumerate().filter(|(_, id)| size(new, *id) > 0 && is_plain(*id)) {
            // Those without bytes, and what is in front of them.
            let touching = atoms[..i].iter().rev().copied().take_while(|id| new.atom(*id).end == new.atom(next).start);
            let moved: Vec<AtomId> = touching.filter(|id| is_plain(*id) && !stays(*id, next)).collect();
            if !moved.is_empty() {
                borders.insert(next, moved);
            }
        }
    }
    borders
}

fn is_user(side: &Side<'_>, id: AtomId) -> bool {
    matches!(side.atom(id).kind, Kind::Function | Kind::Data)
}

fn size(side: &Side<'_>, id: AtomId) -> i64 {
    (side.atom(id).end - side.atom(id).start) as i64
}

/// What a reference to a border means.
enum Reading {
    /// What starts there.
    Start,
    /// The end of what ends there.
    End,
    /// One of them.
    Doubt,
}

/// Whoever refers to a border, with all that it refers to on both sides.
struct User<'a, 'o> {
    old: &'a Side<'o>,
    new: &'a Side<'o>,
    twins: &'a Twins,
    before: Vec<&'a Ref>,
    mine: Vec<&'a Ref>,
}

impl User<'_, '_> {
    /// What a reference to the place where `array` ends and `next` starts means: what the original has at either place
    /// says so. A loop over a member ends as far behind the end as the member lies behind the start.
    fn reading(&self, r: &Ref, array: AtomId, (next, offset): (AtomId, i64)) -> Reading {
        let through_section = r.reloc.symbol.is_some_and(|s| self.new.object.symbol(s).st_type == stt::SECTION);
        let is_empty = size(self.new, array) == 0;
        if !through_section || offset < 0 || is_empty && offset > 0 || matches!(r.usage, Use::Read | Use::Branch) {
            return Reading::Start;
        }
        let end = self.in_original(array, size(self.new, array) + offset);
        let at_end = self.seen(r.usage, end);
        let at_start = self.seen(r.usage, self.in_original(next, offset));
        if at_start > 0 && at_end == 0 {
            return Reading::Start;
        }
        // What the original has there may be what is meant instead; where it still is, nothing else need be.
        let held = end.and_then(|end| self.held(end));
        let still = held.and_then(|(id, at)| Some(Target::Atom(*self.twins.forward.get(&id)?, at)));
        let still = still.map_or(0, |target| self.count(r.usage, target));
        let now = self.count(r.usage, r.target);
        let starts = self.takes_start(r.usage, array, offset);
        // Which of two variables lies in front nobody asks, and nobody counts through a single number.
        let is_sure = match (held, r.usage) {
            (None, _) | (_, Use::Compared(How::Order)) => true,
            (_, Use::Compared(How::Same)) => starts,
            (Some((id, _)), Use::Indexed) => size(self.old, id) <= 8,
            _ => false,
        };
        if at_start == 0 && at_end > 0 && now + still <= at_end && is_sure {
            return Reading::End;
        }
        let in_doubt = match r.usage {
            Use::Compared(How::Same | How::Order) => true,
            // That a new variable is indexed, or its address taken, is nothing unusual.
            Use::Indexed => at_end > still && now > at_start,
            _ => starts || is_empty && at_end > still && now > at_start,
        };
        if in_doubt { Reading::Doubt } else { Reading::Start }
    }

    /// Whether the user takes the address of the array as well, as a loop over it does.
    fn takes_start(&self, usage: Use, array: AtomId, offset: i64) -> bool {
        self.mine.iter().any(|m| match m.target {
            Target::Atom(id, at) if id == array && (offset == 0 || at == offset) => {
                m.usage == Use::Address || usage == Use::Address && matches!(m.usage, Use::Compared(_))
            }
            _ => false,
        })
    }

    /// Where the original has what lies at an offset of a patched datum.
    fn in_original(&self, id: AtomId, offset: i64) -> Option<(SectionId, i64)> {
        let twin = self.old.atom(*self.twins.backward.get(&id)?);
        Some((twin.section, twin.start as i64 + offset))
    }

    /// How often the original refers to a place in such a way.
    fn seen(&self, usage: Use, place: Option<(SectionId, i64)>) -> usize {
        let there = |b: &&&Ref| place.is_some() && is_alike(b.usage, usage) && place_of(self.old, b) == place;
        self.before.iter().filter(there).count()
    }

    /// How often the patched side refers to something in such a way.
    fn count(&self, usage: Use, target: Target) -> usize {
        self.mine.iter().filter(|m| is_alike(m.usage, usage) && m.target == target).count()
    }

    /// What covers a place of the original, and where in it that is.
    fn held(&self, (section, at): (SectionId, i64)) -> Option<(AtomId, i64)> {
        let id = self.old.find(section, at)?;
        let atom = self.old.atom(id);
        (atom.start as i64..atom.end as i64).contains(&at).then_some((id, at - atom.start as i64))
    }
}

/// Whether two uses may be of one comparison: which flags are read may change with the code around it.
fn is_alike(a: Use, b: Use) -> bool {
    let is_order = |usage: Use| matches!(usage, Use::Compared(How::Same | How::Order));
    a == b || is_order(a) && is_order(b)
}

fn place_of(side: &Side<'_>, r: &Ref) -> Option<(SectionId, i64)> {
    match r.target {
        Target::Atom(id, offset) => Some((side.atom(id).section, side.atom(id).start as i64 + offset)),
        _ => None,
    }
}
