//! Has the tree changed while it was read?
//!
//! In: the files that units read, noted when a call begins. Out: one that is not what it was then. A unit is read several times: by
//! those who settle without a compiler, preprocessed, compiled, once more with debug information; and what was seen in one reading is
//! believed of the others. An object that was made of another text than the preprocessed one would stay in the cache, under that
//! text's key, for good. Files are compared with themselves, not with the clock: one that is dated in the future is no change.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Tree;
use crate::kernel::unit::Unit;

/// What tells a file from what it was: another file by its number, another text by its time or size. `None` when it is not there.
type Stamp = Option<[i64; 5]>;

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some([meta.dev() as i64, meta.ino() as i64, meta.size() as i64, meta.mtime(), meta.mtime_nsec()])
}

/// The files of all units of a call, as they were.
pub(super) struct Watch<'a> {
    source: &'a Path,
    config: PathBuf,
    noted: HashMap<&'a [u8], Stamp>,
    config_noted: Stamp,
}

/// Files that a unit read although its build has not recorded them, as they were when it was preprocessed.
#[derive(Default)]
pub(super) struct Others(Vec<(PathBuf, Stamp)>);

impl<'a> Watch<'a> {
    /// Notes what the build has recorded of the units.
    pub(super) fn new(units: &'a [Unit], tree: &'a Tree) -> Watch<'a> {
        let mut noted = HashMap::new();
        for path in units.iter().flat_map(recorded) {
            noted.entry(path.as_os_str().as_encoded_bytes()).or_insert_with(|| stamp(&tree.source.join(path)));
        }
        // What fixdep takes out of the records (scripts/basic/fixdep.c).
        let config = tree.objdir.join("include/generated/autoconf.h");
        let config_noted = stamp(&config);
        Watch { source: &tree.source, config, noted, config_noted }
    }

    /// Notes which of these files the records do not have.
    pub(super) fn others(&self, unit: &Unit, read: impl Iterator<Item = PathBuf>) -> Others {
        let noted = |path: &Path| self.noted.get(path.as_os_str().as_encoded_bytes()).copied().flatten();
        let known: HashSet<[i64; 5]> = recorded(unit).filter_map(|path| noted(path)).chain(self.config_noted).collect();
        let others = read.map(|path| (stamp(&path), path));
        Others(
            others
                .filter(|(stamp, _)| stamp.is_none_or(|stamp| !known.contains(&stamp)))
                .map(|(s, p)| (p, s))
                .collect(),
        )
    }

    /// A file of the unit that is not what it was.
    pub(super) fn changed(&self, unit: &Unit, others: &Others) -> Option<PathBuf> {
        let noted = |path: &&PathBuf| self.noted.get(path.as_os_str().as_encoded_bytes());
        let of_records =
            recorded(unit).find(|path| noted(path).is_some_and(|was| stamp(&self.source.join(path)) != *was));
        let of_others = || others.0.iter().find(|(path, was)| stamp(path) != *was).map(|(path, _)| path);
        let config = || (stamp(&self.config) != self.config_noted).then_some(&self.config);
        of_records.or_else(of_others).or_else(config).cloned()
    }
}

fn recorded(unit: &Unit) -> impl Iterator<Item = &PathBuf> {
    unit.deps.iter().chain([&unit.source])
}

/// What there is to say when a file has changed.
pub(super) fn message(path: &Path) -> String {
    format!("`{}` changed while the tree was read: run again", path.display())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
