//! Settle the readers of a header without running anything: by what is known of their originals from earlier runs.
//!
//! In: units and touched files. Out: the units whose code cannot differ. What is kept of an original is which `static
//! inline` functions nothing in it uses ([`super::unused`]); it is found again by the command, the compiler and the contents of every
//! file that the unit reads. It settles a unit when the patch changes nothing of what the unit reads but the bodies of such functions
//! ([`super::bodies`]), and no macro in the new bodies can end one ([`super::macros`]). All else takes the long way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Result;
use rayon::prelude::*;

use super::bodies::{Bodies, changed_bodies};
use super::macros::Macros;
use super::{ObjectCache, Tree, command, deps, is_c, unused};
use crate::kernel::unit::Unit;
use crate::patch::Applied;

/// What decides without a compiler.
pub(super) struct Skip<'a> {
    cache: &'a ObjectCache,
    tree: &'a Tree,
    /// By touched file: the functions of which nothing but the body changes; `None` when more changes.
    bodies: BTreeMap<&'a Path, Option<Bodies>>,
    /// Fingerprint of every file that a unit in question reads.
    contents: HashMap<PathBuf, [u8; 32]>,
    /// When entries of a directory came or went: a new file can take the place of one that is read.
    listings: HashMap<PathBuf, u128>,
}

impl<'a> Skip<'a> {
    /// Prepares; `None` when no unit can be settled this way.
    pub(super) fn new<'u>(
        units: impl Iterator<Item = &'u Unit>,
        touched: &'a Applied,
        tree: &'a Tree,
        cache: Option<&'a ObjectCache>,
    ) -> Option<Skip<'a>> {
        let cache = cache?;
        let mut bodies: BTreeMap<&Path, Option<Bodies>> = BTreeMap::new();
        for file in &touched.files {
            let both = file.original.as_deref().zip(file.patched.as_deref());
            let header = file.path.extension().is_some_and(|suffix| suffix == "h");
            let changed = both.filter(|_| header).and_then(|(original, patched)| changed_bodies(original, patched));
            bodies.insert(&file.path, changed);
        }
        if bodies.values().all(Option::is_none) {
            return None;
        }
        let skip = Skip { cache, tree, bodies, contents: HashMap::new(), listings: HashMap::new() };
        let open: Vec<&Unit> = units.filter(|unit| skip.changed(unit).is_some()).collect();
        let files: BTreeSet<PathBuf> = open.iter().flat_map(|unit| skip.files(unit)).collect();
        let words: BTreeSet<Vec<u8>> =
            skip.bodies.values().flatten().flat_map(|bodies| bodies.values().flatten()).cloned().collect();
        let macros = Macros::read(&files, open.iter().map(|unit| unit.command.as_slice()))?;
        if open.is_empty() || !macros.are_harmless(&words) {
            return None;
        }
        let contents = |path: &PathBuf| Some((path.clone(), *blake3::hash(&fs::read(path).ok()?).as_bytes()));
        let contents = files.par_iter().filter_map(contents).collect();
        let directories: BTreeSet<&Path> = files.iter().filter_map(|path| path.parent()).collect();
        let listing = |path: &Path| {
            let time = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
            Some((path.to_path_buf(), time.duration_since(UNIX_EPOCH).ok()?.as_nanos()))
        };
        let listings = directories.into_iter().filter_map(listing).collect();
        Some(Skip { contents, listings, ..skip })
    }

    /// What the unit reads: what the build has recorded, and what fixdep takes out of that (scripts/basic/fixdep.c).
    fn files(&self, unit: &Unit) -> BTreeSet<PathBuf> {
        let config = self.tree.objdir.join("include/generated/autoconf.h");
        unit.deps.iter().map(|dep| self.tree.source.join(dep)).chain([config]).collect()
    }

    /// The functions that the patch changes for this unit; `None` when it changes more than bodies, or nothing that the unit reads.
    fn changed(&self, unit: &Unit) -> Option<BTreeSet<&[u8]>> {
        if !is_c(unit) {
            return None;
        }
        let mut names = BTreeSet::new();
        let mut reads = false;
        for dep in unit.deps.iter().chain([&unit.source]) {
            if let Some(bodies) = self.bodies.get(dep.as_path()) {
                names.extend(bodies.as_ref()?.keys().map(Vec::as_slice));
                reads = true;
            }
        }
        // A unit that is here for another reason than what its records say is not to be judged by them.
        reads.then_some(names)
    }

    /// Whether the unit can be settled by what its original uses.
    pub(super) fn may_settle(&self, unit: &Unit) -> bool {
        self.changed(unit).is_some()
    }

    /// Whether the unit's code is known not to differ.
    pub(super) fn settles(&self, unit: &Unit, cwd: &Path) -> bool {
        let settled = || {
            let names = self.changed(unit)?;
            let known = self.cache.get_bytes(&self.key(unit, cwd).ok()??)?;
            let known: BTreeSet<&[u8]> = known.chunks_exact(HASH).collect();
            Some(names.iter().all(|name| known.contains(&hash(name)[..])))
        };
        settled().unwrap_or(false)
    }

    /// Settles the unit by its preprocessed original, if that read what the build's records say it reads; what it says is kept
    /// for later runs.
    pub(super) fn learn(&self, unit: &Unit, cwd: &Path, folded: &[u8], dependencies: &str) -> bool {
        let Some(names) = self.changed(unit) else { return false };
        let canonical = |path: PathBuf| fs::canonicalize(cwd.join(path)).ok();
        let read: Option<BTreeSet<PathBuf>> = deps::parse(dependencies).into_iter().map(canonical).collect();
        let recorded: Option<BTreeSet<PathBuf>> = self.files(unit).into_iter().map(canonical).collect();
        if read.is_none() || read != recorded {
            return false;
        }
        let unreached = unused::unreached(folded);
        if let Ok(Some(key)) = self.key(unit, cwd) {
            let known: Vec<u8> = unreached.iter().flat_map(|name| hash(name)).collect();
            // A cache that cannot be written costs time, nothing else.
            let _ = self.cache.put_bytes(&key, &known);
        }
        names.iter().all(|name| unreached.contains(name))
    }

    /// What decides which functions the unit uses; `None` when something of it is not known.
    fn key(&self, unit: &Unit, cwd: &Path) -> Result<Option<String>> {
        let mut text = b"which inline functions are not used, 2\n".to_vec();
        let mut directories = BTreeSet::new();
        for path in self.files(unit) {
            let Some(content) = self.contents.get(&path) else { return Ok(None) };
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(0);
            text.extend_from_slice(content);
            directories.extend(path.parent().map(Path::to_path_buf));
        }
        for directory in directories {
            let Some(listing) = self.listings.get(&directory) else { return Ok(None) };
            text.extend_from_slice(directory.as_os_str().as_encoded_bytes());
            text.push(0);
            text.extend_from_slice(&listing.to_le_bytes());
        }
        let base = command::without_outputs(&unit.command)?;
        Ok(Some(self.cache.keys(&base, cwd, &text, <[u8]>::to_vec)?.here))
    }
}

const HASH: usize = 16;

fn hash(name: &[u8]) -> [u8; HASH] {
    let mut short = [0; HASH];
    short.copy_from_slice(&blake3::hash(name).as_bytes()[..HASH]);
    short
}

#[cfg(test)]
#[path = "skip_tests.rs"]
mod tests;
