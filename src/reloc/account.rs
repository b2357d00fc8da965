//! The account: every carried reference ends in exactly one bucket, and the buckets add up.

use serde::Serialize;

use super::{Resolution, Resolved};
use crate::diff::closure::{Closure, Dest};

/// How many references went where.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct Account {
    /// References seen in what is carried.
    pub seen: usize,
    /// To something carried along.
    pub carried: usize,
    /// To an exported symbol, resolved by the module loader.
    pub exported: usize,
    /// To a symbol that another unit of this livepatch defines.
    pub linked: usize,
    /// Livepatch relocations.
    pub livepatch: usize,
    /// Constants.
    pub constant: usize,
    /// Undefined weak symbols, which stay zero.
    pub weak: usize,
    /// In table entries left out with a stated reason.
    pub dropped: usize,
    /// Refused with a reason.
    pub refused: usize,
}

impl Account {
    /// Whether every reference is in one bucket.
    pub fn adds_up(&self) -> bool {
        self.seen
            == self.carried
                + self.exported
                + self.linked
                + self.livepatch
                + self.constant
                + self.weak
                + self.dropped
                + self.refused
    }

    /// Adds another unit's account.
    pub fn add(&mut self, other: &Account) {
        self.seen += other.seen;
        self.carried += other.carried;
        self.exported += other.exported;
        self.linked += other.linked;
        self.livepatch += other.livepatch;
        self.constant += other.constant;
        self.weak += other.weak;
        self.dropped += other.dropped;
        self.refused += other.refused;
    }
}

/// Counts a closure's references. References that could not be followed are the closure's refusals.
pub(super) fn account(closure: &Closure, resolved: &Resolved) -> Account {
    let mut account =
        Account { seen: closure.refs.len() + closure.refusals.len(), refused: closure.refusals.len(), ..Account::default() };
    for r in &closure.refs {
        if resolved.dropped_entries.contains_key(&r.atom) {
            account.dropped += 1;
            continue;
        }
        match &r.dest {
            Dest::Carried(..) => account.carried += 1,
            Dest::Constant(_) => account.constant += 1,
            Dest::Outside(outside, _) => match resolved.symbols.get(outside) {
                Some(Resolution::Exported) => account.exported += 1,
                Some(Resolution::Linked) => account.linked += 1,
                Some(Resolution::Livepatch(_)) => account.livepatch += 1,
                Some(Resolution::WeakZero) => account.weak += 1,
                None => account.refused += 1,
            },
        }
    }
    account
}
