//! What the livepatch gives away: somebody may use it after the module is gone.
//!
//! In: a closure. Out: a warning for each that gives away new functions or tables of functions, and the tables that are kept in the
//! place of others. The address of a *changed* function stays the original's, so that only new ones are in question;
//! whether what takes the address keeps it, only a person can tell. Whoever had a table of operations of the kernel's, and now has
//! one of the module's, keeps it: that module must stay.

use std::collections::{BTreeMap, BTreeSet};

use super::closure::Closure;
use super::verdict::Diff;

/// What to say of them.
pub fn warnings(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let mut by_user: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (given, user) in &closure.given_away {
        let given = diff.patched.name(*given);
        by_user.entry(diff.patched.name(diff.new_tables.whole(*user))).or_default().insert(format!("`{given}`"));
    }
    let warn = |(user, given): (&str, BTreeSet<String>)| {
        let (is, its) = if given.len() == 1 { ("is", "its address") } else { ("are", "their addresses") };
        format!(
            "{} {is} new, and `{user}` gives away {its}: what keeps it (a timer, a work item, an RCU callback, an object with \
             operations) has to be done with it before the module is removed",
            given.into_iter().collect::<Vec<_>>().join(", ")
        )
    };
    let mut all: Vec<String> = by_user.into_iter().map(warn).collect();
    let held: Vec<String> = held(diff, closure).into_iter().map(|name| format!("`{name}`")).collect();
    if !held.is_empty() {
        all.push(format!(
            "the contents of {} changed: what took its address before keeps the old ones, and since others may take the \
             new one, the module can be disabled but never be removed",
            held.join(", ")
        ));
    }
    all
}

/// Names of the carried tables whose address somebody may keep, and has kept the kernel's of.
pub fn held(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let own = closure.held.iter().map(|id| diff.patched.name(*id));
    let all: BTreeSet<&str> = diff.data.held.iter().map(String::as_str).chain(own).collect();
    all.into_iter().map(str::to_owned).collect()
}
