//! The account: every carried reference ends in exactly one bucket, and the buckets add up.

use std::fmt;

use serde::Serialize;

use super::{Resolution, Resolved};
use crate::diff::closure::{CarriedRef, Closure, Dest};
use crate::diff::verdict::Diff;

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
    let mut account = Account {
        seen: closure.refs.len() + closure.refusals.len(),
        refused: closure.refusals.len(),
        ..Account::default()
    };
    for r in &closure.refs {
        match bucket(r, resolved) {
            Bucket::Dropped => account.dropped += 1,
            Bucket::Carried => account.carried += 1,
            Bucket::Constant => account.constant += 1,
            Bucket::Exported => account.exported += 1,
            Bucket::Linked => account.linked += 1,
            Bucket::Livepatch => account.livepatch += 1,
            Bucket::Weak => account.weak += 1,
            Bucket::Refused => account.refused += 1,
        }
    }
    account
}

/// Where a reference went: the account has a field for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// To something carried along.
    Carried,
    /// A constant.
    Constant,
    /// In a table entry left out.
    Dropped,
    /// To an exported symbol.
    Exported,
    /// To a symbol that another unit of this livepatch defines.
    Linked,
    /// A livepatch relocation.
    Livepatch,
    /// Nowhere.
    Refused,
    /// An undefined weak symbol.
    Weak,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Bucket::Carried => "carried",
            Bucket::Constant => "constant",
            Bucket::Dropped => "dropped",
            Bucket::Exported => "exported",
            Bucket::Linked => "linked",
            Bucket::Livepatch => "livepatch",
            Bucket::Refused => "refused",
            Bucket::Weak => "weak",
        })
    }
}

fn bucket(r: &CarriedRef, resolved: &Resolved) -> Bucket {
    if resolved.dropped_entries.contains_key(&r.atom) {
        return Bucket::Dropped;
    }
    match &r.dest {
        Dest::Carried(..) => Bucket::Carried,
        Dest::Constant(_) => Bucket::Constant,
        Dest::Outside(outside, _) => match resolved.symbols.get(outside) {
            Some(Resolution::Exported) => Bucket::Exported,
            Some(Resolution::Linked) => Bucket::Linked,
            Some(Resolution::Livepatch(_)) => Bucket::Livepatch,
            Some(Resolution::WeakZero) => Bucket::Weak,
            None => Bucket::Refused,
        },
    }
}

/// One reference, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The function, variable or table that it stands in.
    pub function: String,
    /// Where in that, in bytes.
    pub offset: u64,
    /// What it refers to.
    pub symbol: String,
    /// Where it went: the account's field.
    pub bucket: Bucket,
}

/// The references that the account counts, in the order of what is carried. Those that could not be followed are refusals.
pub fn list(diff: &Diff<'_>, closure: &Closure, resolved: &Resolved) -> Vec<Reference> {
    let side = &diff.patched;
    let reference = |r: &CarriedRef| Reference {
        function: side.name(r.atom).to_owned(),
        offset: r.reference.reloc.r_offset.saturating_sub(side.atom(r.atom).start),
        symbol: match &r.dest {
            Dest::Carried(target, _) => side.name(*target).to_owned(),
            Dest::Constant(value) => format!("{value:#x}"),
            Dest::Outside(outside, _) => match resolved.symbols.get(outside) {
                Some(Resolution::Livepatch(symbol)) => format!("{}.{},{}", symbol.object, symbol.name, symbol.sympos),
                _ => outside.name.clone(),
            },
        },
        bucket: bucket(r, resolved),
    };
    closure.refs.iter().map(reference).collect()
}
