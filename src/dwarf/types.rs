//! Would the patched code and the running kernel agree on where a member is?
//!
//! In: both objects of a unit, compiled with debug information, and what the livepatch replaces of it. Out: a refusal
//! for each type with another layout. All code of a unit that depends on a layout is recompiled, so it is
//! replaced; what stays behind are objects that were made before, and tasks that still run the old code. Only a
//! type whose objects all live on the stack of functions that are replaced together is safe, and gives a warning.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::info::Debug;
use super::layout::{self, Change, Layout};
use super::prototypes;
use super::uses::{self, Users};
use crate::elf::Object;
use crate::error::{Reason, Refusal};

/// Most members and users that a message names.
const NAMED: usize = 6;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// A refusal for each type that running code and objects may have in its old layout.
    pub refusals: Vec<Refusal>,
    /// Types that changed and can do no harm, or that were allowed.
    pub warnings: Vec<String>,
}

/// What the livepatch does with a unit.
#[derive(Clone, Copy)]
pub struct Replaced<'a> {
    /// Functions of the original that it replaces, or that are gone.
    pub functions: &'a BTreeSet<String>,
    /// Types that may change: `struct foo`, or only `foo`.
    pub allowed: &'a [String],
    /// Whether a function is exported, and so has callers that nobody can list.
    pub exported: &'a dyn Fn(&str) -> bool,
}

/// Compares the layouts of the types that both objects' debug information describes.
///
/// # Errors
///
/// When debug information is damaged or of an unknown kind.
pub fn check(original: &Object, patched: &Object, replaced: Replaced<'_>) -> Result<Findings> {
    let (Some(original), Some(patched)) = (Debug::read(original)?, Debug::read(patched)?) else {
        return Ok(Findings::default());
    };
    let old = side(&original).context("failed to read the original's debug information")?;
    let new = side(&patched).context("failed to read the patched side's debug information")?;
    let mut findings = Findings::default();
    // File by file: two files of one object may have different types of one name.
    for (file, old) in &old {
        if let Some(new) = new.get(file) {
            compare(old, new, replaced, &mut findings);
        }
    }
    let mut said = BTreeSet::new();
    findings.refusals.retain(|refusal| said.insert(refusal.message.clone()));
    findings.warnings.retain(|warning| said.insert(warning.clone()));
    Ok(findings)
}

fn compare(old: &Types, new: &Types, replaced: Replaced<'_>, findings: &mut Findings) {
    for change in layout::changes(&old.layouts, &new.layouts) {
        judge(&change, &old.layouts, &old.users, replaced, findings);
    }
    for (name, before) in old.prototypes.iter().filter(|(name, _)| (replaced.exported)(name)) {
        if let Some(after) = new.prototypes.get(name).filter(|after| *after != before) {
            findings.warnings.push(format!(
                "exported `{name}` was `{before}` and is `{after}`: modules that were built before still call the old one"
            ));
        }
    }
}

/// What debug information says of one source file.
struct Types {
    layouts: BTreeMap<String, Layout>,
    users: BTreeMap<String, Users>,
    prototypes: BTreeMap<String, String>,
}

/// One side, by the name of the source file without its folder, and which of several of that name it is: the two sides are
/// compiled in different places.
fn side(debug: &Debug) -> Result<BTreeMap<(String, usize), Types>> {
    let dwarf = debug.dwarf();
    let mut files: BTreeMap<(String, usize), Types> = BTreeMap::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let path = unit.name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let unit = unit.unit_ref(&dwarf);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let before = files.keys().filter(|(other, _)| *other == name).count();
        let types = Types {
            layouts: layout::layouts(unit)?,
            users: uses::uses(unit)?,
            prototypes: prototypes::prototypes(unit)?,
        };
        files.insert((name, before), types);
    }
    Ok(files)
}

fn judge(
    change: &Change,
    layouts: &BTreeMap<String, Layout>,
    users: &BTreeMap<String, Users>,
    replaced: Replaced<'_>,
    findings: &mut Findings,
) {
    let mut what = change.what.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if change.what.len() > NAMED {
        what.push_str(&format!("; and {} more", change.what.len() - NAMED));
    }
    let bare = change.name.rsplit(' ').next().unwrap_or(&change.name);
    if replaced.allowed.iter().any(|name| *name == change.name || name == bare) {
        findings.warnings.push(format!("`{}` has another layout, as was allowed: {what}", change.name));
        return;
    }
    // Whoever uses a type that holds this one uses this one.
    let mut all = users.get(&change.name).cloned().unwrap_or_default();
    for holder in layout::holders(&change.name, layouts) {
        let more = users.get(&holder).cloned().unwrap_or_default();
        all.functions.extend(more.functions);
        all.variables.extend(more.variables);
        all.types.extend(more.types);
    }
    // No user at all is no comfort: a cast of a `void *` leaves no variable of the type behind.
    let private = change.file.ends_with(".c");
    let outside: BTreeSet<&String> = all.functions.difference(replaced.functions).collect();
    let on_stack_only = !all.on_stack.is_empty() && all.variables.is_empty() && all.types.is_empty();
    if private && on_stack_only && outside.is_empty() {
        findings.warnings.push(format!(
            "`{}` has another layout ({what}); all objects of it that can be seen are on the stack of functions that \
             the livepatch replaces: make sure that none is handed to another task",
            change.name
        ));
        return;
    }
    let mut who = Vec::new();
    let mut list = |what: &str, names: Vec<&String>| {
        if !names.is_empty() {
            let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
            let names: Vec<_> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
            who.push(format!("{what} {}{more}", names.join(", ")));
        }
    };
    list("functions that stay", outside.into_iter().collect());
    list("variables", all.variables.iter().collect());
    list("types", all.types.iter().chain(&change.holders).collect::<BTreeSet<_>>().into_iter().collect());
    if who.is_empty() {
        who.push("objects that were made before the livepatch was enabled".to_owned());
    }
    findings.refusals.push(
        Refusal::new(
            Reason::LayoutChanged,
            format!("the layout of `{}` changes, and the old one is used by {}: {what}", change.name, who.join("; ")),
            format!(
                "keep the type and put new data into a shadow variable (klp_shadow_alloc); if no object of it is shared \
                 or outlives the change, --allow-layout-change '{}'",
                change.name
            ),
        )
        .symbol(change.name.clone()),
    );
}
