//! The end of one datum, or the start of the next one?
//!
//! In: two sides and their twins. Out: the patched side's references to such a place, settled or in doubt. Compilers write
//! `p < array + N` as a comparison with the place where the array ends, through the section's symbol; where several data
//! share a section (`.data..read_mostly`, per-CPU data, which `-fdata-sections` does not part), another variable starts
//! there. As long as the original has the same two side by side both readings lead to one address. Where the patch put
//! something between them, or took it away, one of them is wrong: the loop's end would be the module's own variable.

use super::arch::Use;
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
        for part in parts {
            let section = new.atom(part).section;
            let first = new.atom(part).relocs.0 as usize;
            for (i, r) in new.refs_of(part).iter().enumerate() {
                let Target::Atom(next, offset) = r.target else { continue };
                let Some(array) = borders.get(&next).copied() else { continue };
                if !may_be_end(new, r, offset, array, &mine) {
                    continue;
                }
                let size = (new.atom(array).end - new.atom(array).start) as i64;
                let led = |to: AtomId, offset: i64| {
                    let to = twins.backward.get(&to)?;
                    Some((old.atom(*to).section, old.atom(*to).start as i64 + offset))
                };
                let seen = |place: Option<(SectionId, i64)>| {
                    let there = |b: &&&Ref| place.is_some() && b.usage == r.usage && place_of(old, b) == place;
                    before.iter().filter(there).count()
                };
                let end = led(array, size + offset);
                let (at_start, at_end) = (seen(led(next, offset)), seen(end));
                let now = mine.iter().filter(|m| m.usage == r.usage && m.target == r.target).count();
                let key = (section, r.reloc.r_offset);
                if at_start > 0 && at_end == 0 {
                    // As before.
                } else if at_start == 0
                    && at_end > 0
                    && now <= at_end
                    && (r.usage == Use::Compared || !starts(old, end))
                {
                    changes.push((section, first + i, Target::Atom(array, size + offset)));
                    ends.settled.insert(key);
                } else {
                    ends.in_doubt.insert(key, (array, next));
                }
            }
        }
    }
    for (section, index, target) in changes {
        new.refs[section.index()][index].target = target;
    }
    ends
}

/// Patched data that starts where another datum ends, and that one; but for those the original has side by side as well.
fn moved_borders(old: &Side<'_>, new: &Side<'_>, twins: &Twins) -> HashMap<AtomId, AtomId> {
    let is_plain = |id: AtomId| {
        let atom = new.atom(id);
        atom.kind == Kind::Data && atom.end > atom.start && !new.is_private(id) && new.rule(id).is_none()
    };
    let stays = |array: AtomId, next: AtomId| {
        let (Some(a), Some(b)) = (twins.backward.get(&array), twins.backward.get(&next)) else { return false };
        old.atom(*a).section == old.atom(*b).section && old.atom(*a).end == old.atom(*b).start
    };
    let mut borders = HashMap::default();
    for pair in new.of_section.iter().flat_map(|atoms| atoms.windows(2)) {
        let (array, next) = (pair[0], pair[1]);
        if new.atom(array).end == new.atom(next).start && is_plain(array) && is_plain(next) && !stays(array, next) {
            borders.insert(next, array);
        }
    }
    borders
}

fn is_user(side: &Side<'_>, id: AtomId) -> bool {
    matches!(side.atom(id).kind, Kind::Function | Kind::Data)
}

/// Whether a reference to what starts behind the array may mean the array's end: its user takes the array's address as
/// well. A loop over a member ends as far behind the end as the member lies behind the start.
fn may_be_end(side: &Side<'_>, r: &Ref, offset: i64, array: AtomId, mine: &[&Ref]) -> bool {
    let through_section = r.reloc.symbol.is_some_and(|s| side.object.symbol(s).st_type == stt::SECTION);
    let by_address = match r.usage {
        Use::Compared => offset >= 0,
        // A loop whose end is in a register has it by address.
        Use::Address => offset >= 0,
        Use::Read | Use::Branch => false,
    };
    let starts = |m: &&Ref| match m.target {
        Target::Atom(id, at) => id == array && m.usage == Use::Address && (offset == 0 || at == offset),
        _ => false,
    };
    through_section && by_address && mine.iter().any(starts)
}

/// Whether something starts at a place of the original.
fn starts(side: &Side<'_>, place: Option<(SectionId, i64)>) -> bool {
    place.is_some_and(|(section, at)| {
        side.of_section[section.index()].iter().any(|id| side.atom(*id).start as i64 == at)
    })
}

fn place_of(side: &Side<'_>, r: &Ref) -> Option<(SectionId, i64)> {
    match r.target {
        Target::Atom(id, offset) => Some((side.atom(id).section, side.atom(id).start as i64 + offset)),
        _ => None,
    }
}
