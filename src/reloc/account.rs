//! The account: every carried reference ends in exactly one bucket, and the buckets add up.

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
            "dropped" => account.dropped += 1,
            "carried" => account.carried += 1,
            "constant" => account.constant += 1,
            "exported" => account.exported += 1,
            "linked" => account.linked += 1,
            "livepatch" => account.livepatch += 1,
            "weak" => account.weak += 1,
            _ => account.refused += 1,
        }
    }
    account
}

/// The account's field that counts the reference.
fn bucket(r: &CarriedRef, resolved: &Resolved) -> &'static str {
    if resolved.dropped_entries.contains_key(&r.atom) {
        return "dropped";
    }
    match &r.dest {
        Dest::Carried(..) => "carried",
        Dest::Constant(_) => "constant",
        Dest::Outside(outside, _) => match resolved.symbols.get(outside) {
            Some(Resolution::Exported) => "exported",
            Some(Resolution::Linked) => "linked",
            Some(Resolution::Livepatch(_)) => "livepatch",
            Some(Resolution::WeakZero) => "weak",
            None => "refused",
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
    pub bucket: &'static str,
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
