//! New functions whose addresses the livepatch gives away: somebody may call them after the module is gone.
//!
//! In: a closure. Out: a warning for each. The address of a *changed* function stays the original's, so that only new
//! ones are in question; whether what takes the address keeps it, only a person can tell.

use std::collections::{BTreeMap, BTreeSet};

use super::closure::Closure;
use super::verdict::Diff;

/// What to say of them.
pub fn warnings(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let mut by_function: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (function, user) in &closure.given_away {
        let user = diff.patched.name(diff.new_tables.whole(*user));
        by_function.entry(diff.patched.name(*function)).or_default().insert(format!("`{user}`"));
    }
    let warn = |(function, users): (&str, BTreeSet<String>)| {
        format!(
            "`{function}` is new, and {} gives away its address: what keeps it (a timer, a work item, an RCU callback) has to \
             be done with it before the module is removed",
            users.into_iter().collect::<Vec<_>>().join(", ")
        )
    };
    by_function.into_iter().map(warn).collect()
}
