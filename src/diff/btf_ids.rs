//! Sets of type identifiers, which the kernel asks at run time what a BPF program may do.
//!
//! In: two sides. Out: a refusal for each set whose members changed. The identifiers are zero in an object; what they will
//! be of is in the names of symbols, `__BTF_ID__func__name__123`, with a counter that every edit shifts
//! (include/linux/btf_ids.h). The kernel's own link fills them in, and nobody does so for a livepatch.

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::Side;
use crate::elf::object::stt;
use crate::elf::{Place, SectionId};
use crate::error::{Reason, Refusal};

/// The section.
pub const SECTION: &str = ".BTF_ids";

/// What a symbol of a member is called; one of a set itself goes on with `set__` or `set8__`.
const PREFIX: &str = "__BTF_ID__";

/// Refuses sets and lists that both sides have, with other members.
pub fn changes(old: &Side<'_>, new: &Side<'_>, refusals: &mut Vec<Refusal>) {
    let (before, after) = (sets(old), sets(new));
    for (name, is) in &after {
        let Some(was) = before.get(name).filter(|was| *was != is) else { continue };
        let names = |of: &[Member]| of.iter().filter_map(|m| m.name.clone()).collect::<BTreeSet<_>>();
        let (was, is) = (names(was), names(is));
        let list = |names: Vec<&String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let (come, gone) = (list(is.difference(&was).collect()), list(was.difference(&is).collect()));
        let what = match (come.is_empty(), gone.is_empty()) {
            (false, true) => format!("{come} would be new"),
            (true, false) => format!("{gone} would be gone"),
            (false, false) => format!("{come} instead of {gone}"),
            (true, true) => "their order or their flags differ".to_owned(),
        };
        refusals.push(
            Refusal::new(
                Reason::DataChanged,
                format!(
                    "changed set `{name}` in `{SECTION}`: the running kernel keeps the identifiers it has ({what})"
                ),
                "leave the set as it is, or change the code that asks it",
            )
            .symbol(*name)
            .at(SECTION, 0),
        );
    }
}

/// A member: what it is the identifier of, and what the object has there (flags).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    name: Option<String>,
    bytes: Vec<u8>,
}

/// Name of each set or list -> its members; in a set they are sorted by the kernel's link, so that their order says nothing.
fn sets<'s>(side: &'s Side<'_>) -> BTreeMap<&'s str, Vec<Member>> {
    let mut all = BTreeMap::new();
    for section in side.object.section_ids().filter(|id| side.object.section(*id).name == SECTION) {
        of_section(side, section, &mut all);
    }
    all
}

fn of_section<'s>(side: &'s Side<'_>, section: SectionId, all: &mut BTreeMap<&'s str, Vec<Member>>) {
    let symbols =
        side.object.symbols.iter().filter(|s| s.place == Place::Section(section) && s.st_type != stt::SECTION);
    // Of several at one place the name of the set comes first.
    let mut symbols: Vec<(u64, bool, &str)> =
        symbols.map(|s| (s.st_value, s.name.starts_with(PREFIX), s.name.as_str())).collect();
    symbols.sort_unstable();
    let data = &side.object.section(section).data;
    let mut current: Option<(&str, bool)> = None;
    for (i, (at, is_member, name)) in symbols.iter().enumerate() {
        if !is_member {
            current = Some((name, false));
            all.entry(name).or_default();
            continue;
        }
        let Some((of, is_set)) = &mut current else { continue };
        let what = &name[PREFIX.len()..];
        if what.starts_with("set__") || what.starts_with("set8__") {
            *is_set = true;
            continue;
        }
        let end = symbols.get(i + 1).map_or(data.len(), |(next, ..)| *next as usize);
        let bytes = data.get(*at as usize..end).unwrap_or(&[]).to_vec();
        let name = what.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        let members: &mut Vec<Member> = all.entry(of).or_default();
        members.push(Member { name: Some(name.to_owned()), bytes });
        if *is_set {
            members.sort_unstable();
        }
    }
}
