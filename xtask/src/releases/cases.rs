//! Two trees and what was built from the older one -> one patch for each file that differs, in an order fixed by a seed.
//!
//! A patch must stand alone, as a fix does that somebody sends: the headers that changed with the file are in it, and so
//! are the other files without which it would not compile or link. Which those are is told by names ([`super::text`]); two
//! files that lead to the same patch make one case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::text::Change;
use super::units::Units;

/// More files than this are not one fix: the file goes alone with its headers.
const MOST_FILES: usize = 12;

/// One patch.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file it is about.
    pub file: PathBuf,
    /// All files in it.
    pub files: BTreeSet<PathBuf>,
    /// The patch.
    pub patch: String,
}

impl Case {
    /// The file's name as a file's name.
    pub fn name(&self) -> String {
        self.file.display().to_string().replace('/', "_").trim_end_matches(".c").to_owned()
    }
}

/// All that the patches are made of.
pub struct Corpus {
    units: Units,
    changes: BTreeMap<PathBuf, Change>,
    old: PathBuf,
}

impl Corpus {
    /// Reads the changes of those differing files that matter to what was built.
    pub fn read(units: Units, old: &Path, new: &Path, differing: &[PathBuf]) -> Result<Corpus> {
        let read: BTreeSet<&PathBuf> = units.reads.values().flatten().collect();
        let mut changes = BTreeMap::new();
        for path in differing {
            let is_header = path.extension().is_some_and(|e| e == "h");
            if read.contains(path) || (is_header && !old.join(path).exists()) {
                changes.insert(path.clone(), Change::read(old, new, path)?);
            }
        }
        Ok(Corpus { units, changes, old: old.to_path_buf() })
    }

    /// The differing `.c` files that were built.
    pub fn candidates(&self) -> Vec<&PathBuf> {
        self.changes.keys().filter(|path| self.units.reads.contains_key(*path)).collect()
    }

    /// At most `count` patches: candidates in the order that `seed` gives.
    pub fn pick(&self, seed: u64, count: usize) -> Vec<Case> {
        let mut order = self.candidates();
        shuffle(&mut order, seed);
        let mut seen: BTreeSet<BTreeSet<PathBuf>> = BTreeSet::new();
        let cases = order.into_iter().filter_map(|file| {
            let files = self.together(file);
            seen.insert(files.clone()).then(|| self.case(file, files))
        });
        cases.take(count).collect()
    }

    /// The case of one file.
    fn case(&self, file: &Path, files: BTreeSet<PathBuf>) -> Case {
        let mut patch = format!("{}: as in the newer release\n", file.display());
        if files.len() > 1 {
            patch.push_str("\nWith what changed together with it:\n");
            for other in files.iter().filter(|f| *f != file) {
                let _ = writeln!(patch, "  {}", other.display());
            }
        }
        patch.push_str("---\n");
        files.iter().for_each(|f| patch.push_str(&self.changes[f].diff));
        Case { file: file.to_path_buf(), files, patch }
    }

    /// The files that change together with `file`, itself included.
    fn together(&self, file: &Path) -> BTreeSet<PathBuf> {
        let mut files: BTreeSet<PathBuf> = [file.to_path_buf()].into();
        let mut next = vec![file.to_path_buf()];
        while let Some(path) = next.pop() {
            let found = if path.extension().is_some_and(|e| e == "c") {
                self.headers(&path).into_iter().chain(self.sources(&path, file)).collect::<Vec<_>>()
            } else {
                self.sources(&path, file)
            };
            for other in found {
                if files.insert(other.clone()) {
                    next.push(other);
                }
            }
        }
        if files.iter().filter(|f| f.extension().is_some_and(|e| e == "c")).count() > MOST_FILES {
            files = [file.to_path_buf()].into_iter().chain(self.headers(file)).collect();
        }
        files
    }

    /// Changed headers of `file`'s units, and new ones that it begins to include, which belong to its change.
    fn headers(&self, file: &Path) -> Vec<PathBuf> {
        let change = &self.changes[file];
        let Some(reads) = self.units.reads.get(file) else { return Vec::new() };
        let headers = self.changes.iter().filter(|(path, header)| {
            if path.extension().is_none_or(|e| e != "h") {
                return false;
            }
            let is_new = !self.old.join(path).exists();
            let included = change.includes.iter().any(|name| path.ends_with(Path::new(name)));
            (reads.contains(*path) && header.belongs_to(change)) || (is_new && included)
        });
        headers.map(|(path, _)| path.clone()).collect()
    }

    /// Changed `.c` files without which the change of `path` does not link or compile.
    fn sources(&self, path: &Path, about: &Path) -> Vec<PathBuf> {
        let change = &self.changes[path];
        let is_header = path.extension().is_some_and(|e| e == "h");
        let sources = self.changes.iter().filter(|(other, theirs)| {
            let built = self.units.reads.get(*other);
            let reads = built.is_some_and(|reads| !is_header || reads.contains(path));
            reads && *other != about && theirs.needed_by(change, is_header)
        });
        sources.map(|(other, _)| other.clone()).collect()
    }
}

/// Fisher and Yates' shuffle, with splitmix64 for chance: the same order on every machine.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for at in (1..items.len()).rev() {
        items.swap(at, (random() % (at as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed alone decides the order, and another one gives another.
    #[test]
    fn order_is_fixed_by_the_seed() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            shuffle(&mut items, seed);
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
