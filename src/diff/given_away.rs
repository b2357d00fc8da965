//! New functions whose addresses the livepatch gives away: somebody may call them after the module is gone.
//!
//! In: a closure. Out: a warning for each that gives one away. The address of a *changed* function stays the original's, so that only new
//! ones are in question; whether what takes the address keeps it, only a person can tell.

use std::collections::{BTreeMap, BTreeSet};

use super::closure::Closure;
use super::verdict::Diff;

/// What to say of them.
pub fn warnings(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let mut by_user: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (function, user) in &closure.given_away {
        let function = diff.patched.name(*function);
        by_user.entry(diff.patched.name(diff.new_tables.whole(*user))).or_default().insert(format!("`{function}`"));
    }
    let warn = |(user, functions): (&str, BTreeSet<String>)| {
        let (is, its) = if functions.len() == 1 { ("is", "its address") } else { ("are", "their addresses") };
        format!(
            "{} {is} new, and `{user}` gives away {its}: what keeps it (a timer, a work item, an RCU callback, an object with \
             operations) has to be done with it before the module is removed",
            functions.into_iter().collect::<Vec<_>>().join(", ")
        )
    };
    by_user.into_iter().map(warn).collect()
}
