//! Find the readers of a header whose files do not have a name which the patch is about.
//!
//! In: units and touched files. Out: the units whose code cannot differ unless a macro pastes such a name together, which is left to
//! ask ([`super::poison`]). It holds when the headers' changes are all about names ([`super::names`]), no file of the unit has one of them, no
//! macro makes something else of what changed, and the lists of what the unit reads are still true: none of these
//! files is younger than the object. What is in doubt is preprocessed on both sides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use rayon::prelude::*;

use super::items::words;
use super::macros::Macros;
use super::names::{Names, changed_names};
use super::plain::plain;
use super::poison::Poison;
use super::{Tree, is_c};
use crate::kernel::unit::Unit;
use crate::patch::Applied;

/// What decides by reading.
pub(super) struct Mentions<'a> {
    tree: &'a Tree,
    /// By touched file: the names of its change; `None` when it is about more than names.
    touched: BTreeMap<&'a Path, Option<Names>>,
    /// All names.
    names: BTreeSet<Vec<u8>>,
    /// By file: whether it has one of the names, and when it was written.
    files: HashMap<PathBuf, (bool, SystemTime)>,
}

impl<'a> Mentions<'a> {
    /// Reads what the units read; `None` when none can be settled this way.
    pub(super) fn new(units: &[&Unit], touched: &'a Applied, tree: &'a Tree) -> Option<Mentions<'a>> {
        let mut changes: BTreeMap<&Path, Option<Names>> = BTreeMap::new();
        for file in &touched.files {
            let both = file.original.as_deref().zip(file.patched.as_deref());
            let header = file.path.extension().is_some_and(|suffix| suffix == "h");
            let names = both.filter(|_| header).and_then(|(original, patched)| changed_names(original, patched));
            changes.insert(&file.path, names);
        }
        let names = changes.values().flatten().flat_map(|names| &names.all).cloned().collect();
        let mut mentions = Mentions { tree, touched: changes, names, files: HashMap::new() };
        let open: Vec<&Unit> = units.iter().copied().filter(|unit| mentions.is_about_names(unit)).collect();
        // A few are preprocessed sooner than all that they read is searched.
        const FEW: usize = 4;
        if open.len() <= FEW {
            return None;
        }
        let read = |path: PathBuf| Some((path.clone(), mentions.read(&path)?));
        mentions.files = mentions.paths(&open).into_par_iter().map(read).collect::<Option<_>>()?;
        let open: Vec<&Unit> = open.into_iter().filter(|unit| mentions.may_settle(unit)).collect();
        if open.len() <= FEW {
            return None;
        }
        let paths = mentions.paths(&open);
        let mut macros = Macros::read(&paths, open.iter().map(|unit| unit.command.as_slice()))?;
        touched.files.iter().filter_map(|file| file.patched.as_deref()).for_each(|text| macros.add(text));
        let changes = || mentions.touched.values().flatten();
        let is_known = |names: &Names| {
            macros.are_plain(&names.heads)
                && macros.are_harmless(&names.bodies)
                && !names.variables.iter().any(|name| macros.is_macro(name))
                && (names.variables.is_empty() || !macros.is_macro(b"extern"))
                // What declares something by a macro that comes with it may declare something else.
                && [0, 1].iter().all(|side| changes().all(|other| other.sides[*side].0.is_disjoint(&names.sides[*side].1)))
        };
        changes().all(is_known).then_some(mentions)
    }

    /// What units that may be settled are asked about the names with; made in `work`, which is not there yet.
    pub(super) fn poison(&self, work: &Path) -> Result<Poison> {
        let headers = self.touched.iter();
        let headers = headers.map(|(path, names)| (path.to_path_buf(), names.as_ref().map(|names| &names.without[..])));
        Poison::new(&self.names, headers.collect(), self.tree, work)
    }

    /// Whether the unit's code is known not to differ, unless one of the names is pasted together.
    pub(super) fn may_settle(&self, unit: &Unit) -> bool {
        let object = || modified(&self.tree.objdir.join(&unit.target));
        self.is_about_names(unit)
            && object().is_some_and(|built| {
                self.reads(unit)
                    .all(|path| self.files.get(&path).is_some_and(|(mentions, written)| !mentions && *written <= built))
            })
            && !unit.command.iter().any(|argument| words(argument.as_bytes()).any(|word| self.names.contains(word)))
    }

    /// Whether all that the patch changes of what the unit reads, by the records of its build, has names.
    fn is_about_names(&self, unit: &Unit) -> bool {
        // In assembly a name is something else.
        if !is_c(unit) {
            return false;
        }
        let mut touched = unit.deps.iter().chain([&unit.source]).filter_map(|dep| self.touched.get(dep.as_path()));
        let mut any = false;
        touched.all(|names| {
            any = true;
            names.is_some()
        }) && any
    }

    /// What the build has recorded, and what fixdep takes out of that (scripts/basic/fixdep.c).
    fn reads(&self, unit: &Unit) -> impl Iterator<Item = PathBuf> {
        unit.deps.iter().map(|dep| self.tree.source.join(dep)).chain([self.config()])
    }

    fn paths(&self, units: &[&Unit]) -> BTreeSet<PathBuf> {
        units.iter().flat_map(|unit| self.reads(unit)).collect()
    }

    fn config(&self) -> PathBuf {
        self.tree.objdir.join("include/generated/autoconf.h")
    }

    fn read(&self, path: &Path) -> Option<(bool, SystemTime)> {
        let written = match path == self.config() {
            true => config_changed(&self.tree.objdir).or_else(|| modified(path))?,
            false => modified(path)?,
        };
        let touched = path.strip_prefix(&self.tree.source).ok().and_then(|path| self.touched.get(path));
        let text = plain(&fs::read(path).ok()?);
        let mentions = match touched {
            Some(names) => names.as_ref()?.rest.iter().any(|word| self.names.contains(word)),
            None => words(&text).any(|word| self.names.contains(word)),
        };
        Some((mentions, written))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// When an option last changed: each has a file in include/config/, which is touched then (scripts/kconfig/confdata.c).
/// autoconf.h itself is written anew by every `make oldconfig`.
fn config_changed(objdir: &Path) -> Option<SystemTime> {
    let is_option =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let files = walkdir::WalkDir::new(objdir.join("include/config")).into_iter().flatten();
    let options =
        files.filter(|entry| entry.file_type().is_file() && entry.file_name().to_str().is_some_and(is_option));
    options.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

#[cfg(test)]
#[path = "mentions_tests.rs"]
mod tests;
