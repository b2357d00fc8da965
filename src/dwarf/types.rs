//! Would the patched code and the running kernel agree on where a member is, what it means, and of which type a variable is?
//!
//! In: both objects of a unit, compiled with debug information, and what the livepatch replaces of it. Out: a refusal
//! for each type, variable and enumeration that objects may have as it was. All code of a unit that depends on a layout is
//! recompiled, so it is replaced; what stays behind are objects that were made before, and tasks that still run the old code
//! ([`super::judge`] says what that means for each).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::changes::Sides;
use super::enums::{self, Numbers};
use super::info::Debug;
use super::judge;
use super::layout::{self, Layouts};
use super::prototypes;
use super::uses::{self, Users};
use super::variables::{self, Variables};
use crate::elf::Object;
use crate::error::Refusal;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// A refusal for each type that running code and objects may have in its old layout, and each variable of another type.
    pub refusals: Vec<Refusal>,
    /// Types that changed and can do no harm, or that were allowed.
    pub warnings: Vec<String>,
}

/// What the livepatch does with a unit.
#[derive(Clone, Copy)]
pub struct Replaced<'a> {
    /// Functions of the original that it replaces, or that are gone.
    pub functions: &'a BTreeSet<String>,
    /// Types, variables and enumerations that may change: `struct foo`, or only `foo`.
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
    let sides = Sides { old: &old.layouts, new: &new.layouts };
    for change in sides.changes() {
        judge::layout(&change, old, replaced, findings);
    }
    for (name, what) in variables::changed(&old.variables, &new.variables, sides) {
        judge::variable(name, &what, replaced, findings);
    }
    judge::numbers(&enums::renumbered(&old.numbers, &new.numbers), old, replaced, findings);
    judge::renamed_members(sides, old, replaced, findings);
    judge::types_that_went(sides, old, new, replaced, findings);
    for (name, before) in old.prototypes.iter().filter(|(name, _)| (replaced.exported)(name)) {
        if let Some(after) = new.prototypes.get(name).filter(|after| *after != before) {
            findings.warnings.push(format!(
                "exported `{name}` was `{before}` and is `{after}`: modules that were built before still call the old one"
            ));
        }
    }
}

/// What debug information says of one source file.
pub(super) struct Types {
    pub layouts: Layouts,
    pub variables: Variables,
    pub numbers: Numbers,
    pub users: BTreeMap<String, Users>,
    pub prototypes: BTreeMap<String, String>,
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
            variables: variables::variables(unit, debug)?,
            numbers: enums::numbers(unit)?,
            users: uses::uses(unit)?,
            prototypes: prototypes::prototypes(unit)?,
        };
        files.insert((name, before), types);
    }
    Ok(files)
}
