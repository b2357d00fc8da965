//! Who refers to a datum: what tells apart variables that have no lasting name.
//!
//! In: a side. Out: for each wanted datum the stems of its users, and the first use. Users are named by stem, since their
//! own names may be renumbered as well.

use std::collections::BTreeSet;

use super::atoms::{AtomId, Kind, Side, Target};
use super::names;
use crate::elf::id::HashMap;

/// Who refers to a datum.
#[derive(Debug, Default)]
pub(super) struct UsersOf {
    /// Stems of the functions (or data), `.cold` parts counted as their parents.
    pub names: BTreeSet<String>,
    /// The first of them, and where in it.
    pub first_use: (String, u64),
}

/// Datum -> its users.
pub(super) type Users = HashMap<AtomId, UsersOf>;

/// The stems of a datum's users.
pub(super) fn users_of(users: &Users, id: AtomId) -> &BTreeSet<String> {
    static NO_ONE: BTreeSet<String> = BTreeSet::new();
    users.get(&id).map_or(&NO_ONE, |u| &u.names)
}

/// The users of everything that is `wanted`; a table's entry counts as the function it is about.
pub(super) fn users(side: &Side<'_>, wanted: impl Fn(AtomId) -> bool) -> Users {
    let mut users = Users::default();
    // Asked for every reference, ten times as often as there are atoms.
    let is_wanted: Vec<bool> =
        side.ids().map(|id| matches!(side.atom(id).kind, Kind::Data | Kind::Function) && wanted(id)).collect();
    for id in side.ids() {
        let user = match side.atom(id).kind {
            Kind::Function | Kind::Data => id,
            Kind::Entry => match side.refs_of(id).first().map(|r| r.target) {
                Some(Target::Atom(function, _)) if side.atom(function).kind == Kind::Function => function,
                _ => continue,
            },
            _ => continue,
        };
        let mut stem: Option<String> = None;
        for r in side.refs_of(id) {
            if let Target::Atom(target, _) = r.target
                && is_wanted[target.index()]
                && target != user
            {
                let name = stem.get_or_insert_with(|| {
                    let name = names::stem(side.name(user));
                    name.split('.').next().unwrap_or_default().to_owned()
                });
                let at = (name.clone(), r.reloc.r_offset - side.atom(id).start);
                let entry = users.entry(target).or_default();
                if entry.names.is_empty() || at < entry.first_use {
                    entry.first_use = at;
                }
                if !entry.names.contains(name) {
                    entry.names.insert(name.clone());
                }
            }
        }
    }
    users
}
