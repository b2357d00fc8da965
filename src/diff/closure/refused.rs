//! References that cannot travel, and what to say of each.
//!
//! In: the walk of [`closure`](super), where the reference stands and where it leads. Out: a refusal with the user's name, the thing's
//! name and the way out.

use super::{Walk, naming_offset};
use crate::diff::atoms::{AtomId, Ref, Target};
use crate::diff::btf_ids;
use crate::error::{Reason, Refusal};

impl Walk<'_, '_> {
    pub(super) fn nameless(&self, from: AtomId, r: &Ref, target: AtomId, what: &str) -> Box<Refusal> {
        let side = self.side();
        let (user, section) = (side.name(from), side.section_name(target));
        Box::new(
            Refusal::new(
                Reason::UnresolvedSymbol,
                format!("`{user}` refers to {what} in `{section}`, which has no name in the running kernel"),
                "patch a function that calls it instead, or compile with -ffunction-sections -fdata-sections",
            )
            .symbol(user)
            .at(side.section_name(from), r.reloc.r_offset),
        )
    }

    pub(super) fn gone(&self, from: AtomId, r: &Ref, target: AtomId) -> Box<Refusal> {
        let side = self.side();
        let (user, name, section) = (side.name(from), side.name(target), side.section_name(target));
        Box::new(
            Refusal::new(
                Reason::InitSection,
                format!("`{user}` refers to `{name}` in `{section}`, which is gone in the running kernel"),
                "take the reference out of the patch",
            )
            .symbol(user)
            .at(side.section_name(from), r.reloc.r_offset),
        )
    }

    pub(super) fn unfilled(&self, from: AtomId, r: &Ref, target: AtomId) -> Box<Refusal> {
        let side = self.side();
        let (user, name) = (side.name(from), side.name(target));
        Box::new(
            Refusal::new(
                Reason::UnresolvedSymbol,
                format!(
                    "`{user}` refers to the new set `{name}` in `{}`, which nobody fills in for a livepatch",
                    btf_ids::SECTION
                ),
                "ask for what the code needs in another way: the kernel's own link alone knows these identifiers",
            )
            .symbol(user)
            .at(side.section_name(from), r.reloc.r_offset),
        )
    }

    pub(super) fn unread(&self, function: AtomId, place: u64) -> Refusal {
        let side = self.side();
        let (name, section) = (side.name(function), side.section_name(function));
        Refusal::new(
            Reason::UnknownRelocation,
            format!(
                "`{name}` has an instruction that is not understood, and shares `{section}` with others: what it says of them \
                 cannot be told"
            ),
            "change a function that calls it instead",
        )
        .symbol(name)
        .at(section, place)
    }

    /// The changed function that the kernel's own datum leads into, past its entry, as a table of labels does: from there
    /// on the old code would run.
    pub(super) fn leads_inside(&self, target: AtomId) -> Option<AtomId> {
        let (twins, original) = (&self.diff.twins, &self.diff.original);
        let twin = *twins.backward.get(&target).or_else(|| twins.constants.get(&target))?;
        original.refs_of(twin).iter().find_map(|r| {
            let Target::Atom(part, offset) = r.target else { return None };
            let whole = self.diff.old_tables.whole(part);
            let is_inside = original.is_function(part) && (part != whole || offset != naming_offset(original, part));
            twins.forward.get(&whole).copied().filter(|function| is_inside && self.carried.contains_key(function))
        })
    }

    pub(super) fn old_body(&self, from: AtomId, r: &Ref, table: AtomId, function: AtomId) -> Box<Refusal> {
        let side = self.side();
        let (user, table, function) = (side.name(from), side.name(table), side.name(function));
        Box::new(
            Refusal::new(
                Reason::DataChanged,
                format!("`{user}` uses the kernel's `{table}`, which leads into the old code of `{function}`"),
                format!("make `{table}` a `static const` table of `{function}` in the patch: then it travels along"),
            )
            .symbol(user)
            .at(side.section_name(from), r.reloc.r_offset),
        )
    }

    pub(super) fn doubtful_end(&self, from: AtomId, r: &Ref, array: AtomId, next: AtomId) -> Refusal {
        let side = self.side();
        let is_empty = side.atom(array).end == side.atom(array).start;
        let what = if is_empty { "" } else { "the end of " };
        let (user, array, next) = (side.name(from), side.name(array), side.name(next));
        Refusal::new(
            Reason::AmbiguousTwin,
            format!("`{user}` refers to {what}`{array}` or to `{next}`, which starts there: which cannot be told"),
            format!("put what is new elsewhere in the file, so that no other variable is next to `{array}`"),
        )
        .symbol(user)
        .at(side.section_name(from), r.reloc.r_offset)
    }

    pub(super) fn ambiguous(&self, from: AtomId, target: AtomId, candidates: &[AtomId]) -> Refusal {
        let side = self.side();
        let named: Vec<&str> = candidates.iter().map(|id| self.diff.original.name(*id)).collect();
        let name = side.name(target);
        Refusal::new(
            Reason::AmbiguousTwin,
            format!(
                "`{}` uses `{name}`, and which variable of the running kernel that is cannot be told: {}",
                side.name(from),
                named.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            ),
            "do not add, remove or move same-named static variables in one patch; give the new one another name",
        )
        .symbol(name)
    }
}
