//! Two trees and what was built from the older one -> one patch for each file that differs, in an order fixed by a seed.
//!
//! A patch must stand alone, as a fix does that somebody sends: what changed in headers with the file is in it, and so
//! is what changed in other files and without which it would not compile or link. Which hunks those are is told by names
//! ([`super::text`]). Of the file itself all are in the patch, or only those that belong together ([`super::fixes`]).
//! Two that lead to patches of the same files, or of the same hunks, make one case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::fixes::{self, Fixes};
use super::pieces::FileChange;
use super::text::{Change, Names};
use super::units::Units;

/// More files than this are not one fix: the file goes alone with its headers.
const MOST_FILES: usize = 12;

/// One patch.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file it is about.
    pub file: PathBuf,
    /// Which of the file's fixes it is, where they are apart.
    pub fix: Option<usize>,
    /// All files in it.
    pub files: BTreeSet<PathBuf>,
    /// The patch.
    pub patch: String,
}

impl Case {
    /// The file's name as a file's name.
    pub fn name(&self) -> String {
        let file = self.file.display().to_string().replace('/', "_").trim_end_matches(".c").to_owned();
        self.fix.map_or(file.clone(), |fix| format!("{file}-{fix}"))
    }
}

/// All that the patches are made of.
pub struct Corpus {
    units: Units,
    changes: BTreeMap<PathBuf, FileChange>,
    old: PathBuf,
}

impl Corpus {
    /// Reads the changes of those differing files that matter to what was built.
    pub fn read(units: Units, old: &Path, new: &Path, differing: &[PathBuf]) -> Result<Corpus> {
        let read: BTreeSet<&PathBuf> = units.reads.values().flatten().collect();
        let mut changes: BTreeMap<PathBuf, FileChange> = BTreeMap::new();
        let (mut before, mut after) = (Names::new(), Names::new());
        for path in differing {
            if read.contains(path) || (is_header(path) && !old.join(path).exists()) {
                let (change, sides) = FileChange::read(old, new, path)?;
                sides.add_to(&mut before, &mut after);
                changes.insert(path.clone(), change);
            }
        }
        let pieces = changes.values().flat_map(|change| &change.pieces);
        let brought: BTreeSet<String> = pieces.flat_map(|piece| piece.names.brought_alone().cloned()).collect();
        for part in changes.values_mut().flat_map(FileChange::parts) {
            part.keep_own(&before, &after, &brought);
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
            let hunks = self.together(file, &[(0..self.changes[file].pieces.len()).collect()], 0);
            seen.insert(hunks.keys().cloned().collect()).then(|| self.case(file, None, &hunks))
        });
        cases.take(count).collect()
    }

    /// The same for single fixes: the hunks of a file that belong together.
    pub fn pick_fixes(&self, seed: u64, count: usize) -> Vec<Case> {
        let fixes: BTreeMap<&PathBuf, Fixes> =
            self.candidates().into_iter().map(|file| (file, fixes::apart(&self.changes[file].pieces))).collect();
        let mut order: Vec<(&PathBuf, usize)> =
            fixes.iter().flat_map(|(file, all)| (0..all.len()).map(|at| (*file, at))).collect();
        shuffle(&mut order, seed);
        let mut seen: BTreeSet<Hunks> = BTreeSet::new();
        let cases = order.into_iter().filter_map(|(file, at)| {
            let hunks = self.together(file, &fixes[file], at);
            seen.insert(hunks.clone()).then(|| self.case(file, Some(at), &hunks))
        });
        cases.take(count).collect()
    }

    /// The case of one file, or of one of its fixes.
    fn case(&self, file: &Path, fix: Option<usize>, hunks: &Hunks) -> Case {
        let mut patch = format!("{}: as in the newer release\n", file.display());
        if hunks.len() > 1 {
            patch.push_str("\nWith what changed together with it:\n");
            for other in hunks.keys().filter(|f| *f != file) {
                let _ = writeln!(patch, "  {}", other.display());
            }
        }
        patch.push_str("---\n");
        hunks.iter().for_each(|(f, pieces)| patch.push_str(&self.changes[f].only(pieces)));
        Case { file: file.to_path_buf(), fix, files: hunks.keys().cloned().collect(), patch }
    }

    /// What changes together with one of the fixes of `file`.
    fn together(&self, file: &Path, fixes: &[BTreeSet<usize>], fix: usize) -> Hunks {
        let subject = &self.changes[file];
        let mut found: Hunks = [(file.to_path_buf(), fixes[fix].clone())].into();
        let mut next = match fixes.len() {
            1 => self.needed(file, file, &subject.whole),
            _ => fixes[fix].iter().flat_map(|at| self.needed(file, file, &subject.pieces[*at].names)).collect(),
        };
        let only_headers: Vec<_> = next.iter().filter(|(path, _)| is_header(path)).cloned().collect();
        while let Some((path, at)) = next.pop() {
            if found.entry(path.clone()).or_default().insert(at) {
                if path == file {
                    // What a header's change asks of the file brings the rest of its fix.
                    let all = fixes.iter().find(|fix| fix.contains(&at)).into_iter().flatten();
                    next.extend(all.map(|at| (path.clone(), *at)));
                }
                let pieces = &self.changes[&path].pieces;
                let (names, functions) = (&pieces[at].names, &pieces[at].functions);
                // Half a function's change is worse than none.
                let same_function = |other: &usize| !pieces[*other].functions.is_disjoint(functions);
                next.extend((0..pieces.len()).filter(same_function).map(|other| (path.clone(), other)));
                next.extend(self.needed(file, &path, names));
            }
        }
        if found.keys().filter(|f| !is_header(f)).count() > MOST_FILES {
            found = [(file.to_path_buf(), fixes[fix].clone())].into();
            only_headers.into_iter().for_each(|(path, at)| _ = found.entry(path).or_default().insert(at));
        }
        found
    }

    /// What a change of `path`, in a patch about `file`, does not compile or link without.
    fn needed(&self, file: &Path, path: &Path, change: &Change) -> Vec<(PathBuf, usize)> {
        let reads = self.units.reads.get(path);
        let mut found = Vec::new();
        for (other, theirs) in self.changes.iter().filter(|(other, _)| *other != file || path != file) {
            let built = self.units.reads.get(other);
            let belongs = |piece: &Change| match (is_header(path), is_header(other)) {
                _ if other == path => piece.belongs_to(change) || change.belongs_to(piece),
                (true, true) => self.units.reads[file].contains(other) && piece.shares(change),
                (false, true) => {
                    let is_new = !self.old.join(other).exists();
                    let included = change.includes.iter().any(|name| other.ends_with(Path::new(name)));
                    (is_new && included) || (reads.is_some_and(|r| r.contains(other)) && piece.belongs_to(change))
                }
                (true, false) => built.is_some_and(|r| r.contains(path)) && piece.needed_by(change, true),
                (false, false) => built.is_some() && piece.needed_by(change, false),
            };
            let pieces = theirs.pieces.iter().enumerate().filter(|(_, piece)| belongs(&piece.names));
            found.extend(pieces.map(|(at, _)| (other.clone(), at)));
        }
        found
    }
}

/// Hunks of files, by their numbers.
type Hunks = BTreeMap<PathBuf, BTreeSet<usize>>;

fn is_header(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "h")
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
