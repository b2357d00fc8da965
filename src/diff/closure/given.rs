//! What the carried code gives away: somebody may keep it, and use it after the module is gone.
//!
//! In: the walk of [`closure`](super), a reference and where it leads. Out: new functions, and tables of functions, whose addresses
//! are taken. A table that stands for another one of the kernel's is worse than a new one: objects of both kinds will be there.

use super::Walk;
use crate::diff::arch::Use;
use crate::diff::atoms::{AtomId, Kind, Ref, Target};
use crate::diff::constants::{is_private_constant, is_table_of_functions};
use crate::diff::verdict::Verdict;

impl Walk<'_, '_> {
    /// Whether this is the address of a new function, for somebody to call it by later.
    pub(super) fn gives_away(&self, from: AtomId, r: &Ref, target: AtomId, offset: i64) -> bool {
        let tables = &self.diff.new_tables;
        self.carried.get(&target) == Some(&Verdict::New)
            && offset == self.symbol_offset(target)
            && r.usage != Use::Branch
            && self.side().atom(from).kind != Kind::Entry
            && tables.whole(from) != target
    }

    /// Whether this is the address of a table of functions, for somebody to keep in an object.
    pub(super) fn hands_out(&self, from: AtomId, r: &Ref, target: AtomId) -> bool {
        let side = self.side();
        let is_own = || is_private_constant(side, target) || !self.diff.twins.backward.contains_key(&target);
        side.atom(target).kind == Kind::Data
            && !r.usage.is_access()
            && side.atom(from).kind != Kind::Entry
            && from != target
            && !side.is_writable(target)
            && side.rule(target).is_none()
            && is_own()
            && is_table_of_functions(side, target)
    }

    /// Notes a table that is handed out; what is new in it says so itself.
    pub(super) fn hand_out(&mut self, from: AtomId, table: AtomId) {
        let is_new = |r: &Ref| match r.target {
            Target::Atom(function, _) => self.carried.get(&function) == Some(&Verdict::New),
            _ => false,
        };
        if self.diff.data.replaced.contains(&table) {
            self.out.held.push(table);
        } else if !self.side().refs_of(table).iter().any(is_new) {
            self.out.given_away.push((table, from));
        }
    }
}
