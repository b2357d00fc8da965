//! What a type, a variable or an enumeration that changed means for a running kernel.
//!
//! In: what differs between the two sides ([`super::changes`], [`super::variables`], [`super::enums`]), who uses it, and which
//! functions are replaced. Out: refusals and warnings. Objects that were made before have the old layout and hold old numbers.
//! Only a type whose objects all live on the stack of functions that are replaced together is safe, and gives a warning; that is
//! hard to see, as a cast of a `void *` leaves no trace: any other way to an object speaks against it.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{Change, Sides, holders};
use super::enums::Renumbered;
use super::layout::{is_of_function, without_function};
use super::types::{Findings, Replaced, Types};
use super::uses::Users;
use super::variables::Name;
use crate::error::{Reason, Refusal};

/// Most members and users that a message names.
const NAMED: usize = 6;

/// A type with another layout.
pub(super) fn layout(change: &Change, old: &Types, replaced: Replaced<'_>, findings: &mut Findings) {
    let what = some_of(&change.what, "; ");
    let plain = without_function(&change.name);
    if is_allowed(plain, replaced) {
        findings.warnings.push(format!("`{}` has another layout, as was allowed: {what}", change.name));
        return;
    }
    let all = users(&change.name, old);
    let outside: Vec<String> = all.functions.difference(replaced.functions).cloned().collect();
    if change.private && is_on_stack_only(&all) && outside.is_empty() {
        findings.warnings.push(format!(
            "`{}` has another layout ({what}); all objects of it that can be seen are on the stack of functions that \
             the livepatch replaces: make sure that none is handed to another task",
            change.name
        ));
        return;
    }
    let mut who = Vec::new();
    let mut list = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            who.push(format!("{what} {}", some_of(&quoted(names), ", ")));
        }
    };
    list("functions that stay", outside);
    if change.private && !all.on_stack.is_empty() {
        list("functions that have its address from somewhere", all.pointed_to.into_iter().collect());
    }
    list("variables", all.variables.into_iter().collect());
    list("types", all.types.union(&change.holders).cloned().collect());
    if who.is_empty() {
        who.push("objects that were made before the livepatch was enabled".to_owned());
    }
    findings.refusals.push(
        Refusal::new(
            Reason::LayoutChanged,
            format!("the layout of `{}` changes, and the old one is used by {}: {what}", change.name, who.join("; ")),
            format!(
                "keep the type and put new data into a shadow variable (klp_shadow_alloc); if no object of it is shared \
                 or outlives the change, --allow-layout-change '{plain}'"
            ),
        )
        .symbol(plain),
    );
}

/// A variable of another type: it keeps what was stored as the old one.
pub(super) fn variable(name: &Name, what: &[String], replaced: Replaced<'_>, findings: &mut Findings) {
    let what = some_of(what, "; ");
    let shown = match &name.function {
        Some(function) => format!("variable `{}` of `{function}`", name.name),
        None => format!("variable `{}`", name.name),
    };
    if is_allowed(&name.name, replaced) {
        findings.warnings.push(format!("{shown} is of another type, as was allowed: {what}"));
        return;
    }
    findings.refusals.push(
        Refusal::new(
            Reason::LayoutChanged,
            format!("the type of {shown} changes, and it holds what was stored as the old one: {what}"),
            format!(
                "leave it as it is and add a new variable beside it; if what it holds means the same as the new type, \
                 --allow-layout-change '{}'",
                name.name
            ),
        )
        .symbol(name.name.clone()),
    );
}

/// Names of enumerations that have another number.
pub(super) fn numbers(all: &[Renumbered<'_>], old: &Types, replaced: Replaced<'_>, findings: &mut Findings) {
    let mut by_enumeration: BTreeMap<&str, Vec<&Renumbered<'_>>> = BTreeMap::new();
    for named in all {
        by_enumeration.entry(&named.old.of).or_default().push(named);
    }
    for (of, named) in by_enumeration {
        let keepers = keepers(of, old, replaced);
        let counts = named.iter().all(|named| named.old.counts && named.new.counts);
        let unnamed = named.iter().any(|named| named.old.of == named.new.of && !of.contains(' '));
        // A constant that is alone in its enumeration is a `#define`; a count that nothing stores, its own enumeration's affair.
        if keepers.is_empty() && (counts || (unnamed && named.iter().all(|named| named.old.among == 1))) {
            continue;
        }
        let mut named = named;
        named.sort_by_key(|named| named.old.value);
        let lines: Vec<String> = named
            .iter()
            .filter(|named| counts || !(named.old.counts && named.new.counts))
            .map(|named| format!("`{}` was {}, and is {}", named.name, named.old.value, named.new.value))
            .collect();
        let what = some_of(&lines, "; ");
        let shown = match old.numbers.contains_key(of) {
            true => format!("the enumeration of `{of}`"),
            false => format!("`{of}`"),
        };
        if keepers.is_empty() {
            findings.warnings.push(format!(
                "numbers of {shown} change: {what}; make sure that nothing holds an old one as a plain integer"
            ));
        } else if counts {
            findings.warnings.push(format!(
                "numbers of {shown} change: {what}; make sure that nothing holds it as a mark of its own: it would hold the old one"
            ));
        } else if is_allowed(of, replaced) {
            findings.warnings.push(format!("numbers of {shown} change, as was allowed: {what}"));
        } else {
            findings.refusals.push(
                Refusal::new(
                    Reason::LayoutChanged,
                    format!(
                        "numbers of {shown} change, and objects that exist hold the old ones, which {} have room for: {what}",
                        some_of(&quoted(keepers), ", ")
                    ),
                    format!(
                        "leave the numbers that there are and give new names those behind them; if none is held in an object \
                         that outlives the change, --allow-layout-change '{of}'"
                    ),
                )
                .symbol(of.to_owned()),
            );
        }
    }
}

/// Types and variables that hold numbers of an enumeration for longer than a call.
fn keepers(of: &str, old: &Types, replaced: Replaced<'_>) -> BTreeSet<String> {
    let holds = |layout: &super::layout::Layout| layout.members.values().any(|m| m.numbers.as_deref() == Some(of));
    let outlives = |name: &String, file: &str| {
        let all = users(name, old);
        let private = file.ends_with(".c") || is_of_function(name);
        !(private && is_on_stack_only(&all) && all.functions.is_subset(replaced.functions))
    };
    let types = old.layouts.of.iter().filter(|(name, layout)| holds(layout) && outlives(name, &layout.file));
    let variables = old.variables.iter().filter(|(_, layouts)| layouts.iter().any(holds));
    types.map(|(name, _)| name.clone()).chain(variables.map(|(name, _)| name.name.clone())).collect()
}

/// Members that only have another name, of types that replaced functions use: the new one may mean something else.
pub(super) fn renamed_members(sides: Sides<'_>, old: &Types, replaced: Replaced<'_>, findings: &mut Findings) {
    for (name, before) in &sides.old.of {
        let Some(after) = sides.new.of.get(name) else { continue };
        let renamed = sides.renamed(before, after);
        if renamed.is_empty() || is_allowed(without_function(name), replaced) {
            continue;
        }
        let all = users(name, old);
        if all.functions.is_disjoint(replaced.functions) || is_on_stack_only(&all) {
            continue;
        }
        let lines: Vec<String> = renamed.iter().map(|(was, is)| format!("`{was}` is `{is}` now")).collect();
        findings.warnings.push(format!(
            "members of `{name}` have other names: {}; objects that exist hold what was stored under the old ones: make sure that \
             it means the same",
            some_of(&lines, "; ")
        ));
    }
}

/// Types that functions used on one side only, with another one in their place: objects of the old one may be taken for those.
pub(super) fn types_that_went(
    sides: Sides<'_>,
    old: &Types,
    new: &Types,
    replaced: Replaced<'_>,
    findings: &mut Findings,
) {
    if !sides.is_complete() {
        return;
    }
    let come: Vec<&String> = sides.new.of.keys().filter(|name| !sides.old.known.contains(*name)).collect();
    for gone in sides.old.of.keys().filter(|name| !sides.new.known.contains(*name)) {
        let all = users(gone, old);
        let uses = |name: &String| {
            let after = users(name, new).functions;
            all.functions.intersection(&after).any(|function| replaced.functions.contains(function))
        };
        let instead: Vec<&String> = come.iter().copied().filter(|name| uses(name)).collect();
        let same = instead.iter().any(|name| sides.same_type(gone, name));
        if let (Some(name), false, false) = (instead.first(), same, is_on_stack_only(&all)) {
            findings.warnings.push(format!(
                "`{gone}` is gone, and functions that used it use `{name}`, which has other members: make sure that none takes an \
                 object that exists for one of the new type"
            ));
        }
    }
}

/// Who uses a type: whoever uses one that holds it uses it.
fn users(name: &str, types: &Types) -> Users {
    let mut all = types.users.get(without_function(name)).cloned().unwrap_or_default();
    for holder in holders(name, &types.layouts) {
        let more = types.users.get(&holder).cloned().unwrap_or_default();
        all.functions.extend(more.functions);
        all.pointed_to.extend(more.pointed_to);
        all.variables.extend(more.variables);
        all.types.extend(more.types);
    }
    all
}

/// Whether all objects of a type that can be seen are on stacks. No user at all is no comfort: a cast leaves no variable
/// of the type behind; neither is a pointer that a function has from somewhere.
fn is_on_stack_only(all: &Users) -> bool {
    !all.on_stack.is_empty() && all.pointed_to.is_empty() && all.variables.is_empty() && all.types.is_empty()
}

/// Whether a name was given on the command line: `struct foo`, or only `foo`.
fn is_allowed(name: &str, replaced: Replaced<'_>) -> bool {
    let bare = name.rsplit(' ').next().unwrap_or(name);
    replaced.allowed.iter().any(|allowed| allowed == name || allowed == bare)
}

fn quoted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().map(|name| format!("`{name}`")).collect()
}

/// The first of several, and how many more there are.
fn some_of(all: &[String], between: &str) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(between);
    if all.len() > NAMED {
        let and = if between == ", " { " and" } else { "; and" };
        text.push_str(&format!("{and} {} more", all.len() - NAMED));
    }
    text
}
