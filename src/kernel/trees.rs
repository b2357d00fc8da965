//! The private build directories that are kept: how many, and which of them may go.
//!
//! In: the user's cache directory. Out: what is there; on request the ones that were not used for longest are gone. Hard because
//! other runs use them: each holds a shared lock on the directory's `used` file for as long as it lives, and what is locked stays.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// How many are kept.
pub const LIMIT: usize = 8;

/// All of a user's.
#[derive(Debug, Clone)]
pub struct Trees {
    dir: PathBuf,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Build directories.
    pub entries: usize,
    /// Their bytes; what they link to is not theirs.
    pub bytes: u64,
}

impl Trees {
    /// The user's: `$XDG_CACHE_HOME/klp-build/trees`, else under `~/.cache`; none without a home.
    pub fn of_user() -> Option<Trees> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Trees { dir: cache.join("klp-build/trees") })
    }

    /// Those in a directory.
    pub fn at(dir: &Path) -> Trees {
        Trees { dir: dir.to_owned() }
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is there.
    pub fn usage(&self) -> Usage {
        let bytes = |path: &Path| -> u64 {
            walkdir::WalkDir::new(path).into_iter().flatten().filter_map(|e| Some(e.metadata().ok()?.len())).sum()
        };
        self.list()
            .iter()
            .fold(Usage::default(), |sum, (_, path)| Usage { entries: sum.entries + 1, bytes: sum.bytes + bytes(path) })
    }

    /// Last use and place of each, oldest first.
    fn list(&self) -> Vec<(SystemTime, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut list: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| {
                let path = entry.path();
                let time = |name: &str| fs::metadata(path.join(name)).and_then(|meta| meta.modified()).ok();
                (time("used").or_else(|| time("lock")).unwrap_or(SystemTime::UNIX_EPOCH), path)
            })
            .collect();
        list.sort();
        list
    }

    /// Removes those that were not used for longest, until so many are left or all that are left are in use.
    pub fn trim(&self, limit: usize) {
        let list = self.list();
        let mut left = list.len();
        for (_, path) in list {
            if left <= limit {
                break;
            }
            if remove(&path) {
                left -= 1;
            }
        }
    }

    /// Takes one of them into use, made if it is not there: it stays until the file is closed.
    ///
    /// # Errors
    ///
    /// When it cannot be made or locked.
    pub fn hold(&self, name: &str) -> Result<(PathBuf, File)> {
        let home = self.dir.join(name);
        let what = || format!("failed to take `{}` into use", home.display());
        loop {
            fs::create_dir_all(&home).with_context(what)?;
            let path = home.join("used");
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = match file {
                Ok(file) => file,
                // Another run has just removed the directory.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(what),
            };
            file.lock_shared().with_context(what)?;
            // The file that is locked must be the one that is there: its directory may have been removed meanwhile.
            let same =
                fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
            if same {
                file.set_modified(SystemTime::now()).with_context(what)?;
                return Ok((home, file));
            }
        }
    }
}

/// Removes one that nobody uses.
fn remove(home: &Path) -> bool {
    let path = home.join("used");
    let Ok(file) = File::options().read(true).write(true).create(true).truncate(false).open(&path) else {
        return false;
    };
    if file.try_lock().is_err() {
        return false;
    }
    // A make that outlived its run still holds the other lock (configured.rs).
    if File::open(home.join("lock")).is_ok_and(|lock| lock.try_lock().is_err()) {
        return false;
    }
    fs::remove_dir_all(home).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The bound holds, the oldest go, and one that a run uses never does.
    #[test]
    fn bounded() {
        let dir = tempfile::tempdir().unwrap();
        let trees = Trees::at(dir.path());
        let mut held = Vec::new();
        for (age, name) in ["a", "b", "c", "d"].iter().enumerate() {
            let (home, file) = trees.hold(name).unwrap();
            fs::write(home.join("object"), [0; 100]).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(100 - age as u64)).unwrap();
            held.push(file);
        }
        trees.trim(0);
        assert_eq!(trees.usage().entries, 4, "all are in use");
        // Closing alone may be too late: a process that another test starts has all open files until it runs its program.
        let release = |files: Vec<File>| files.iter().for_each(|file| file.unlock().unwrap());
        release(held.split_off(1));
        trees.trim(2);
        let left =
            || trees.list().into_iter().map(|(_, path)| path.file_name().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(left(), ["a", "d"]);
        assert!(trees.usage().bytes >= 200);
        // Being used again makes the oldest the newest.
        release(held);
        release(vec![trees.hold("a").unwrap().1]);
        trees.trim(1);
        assert_eq!(left(), ["a"]);
    }

    /// A run that waits while its directory is removed gets a new one, not a lock on nothing.
    #[test]
    fn removed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let trees = Trees::at(dir.path());
        drop(trees.hold("a").unwrap());
        let lock = File::options().write(true).open(dir.path().join("a/used")).unwrap();
        lock.lock().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| trees.hold("a").unwrap());
            std::thread::sleep(Duration::from_millis(100));
            fs::remove_dir_all(dir.path().join("a")).unwrap();
            drop(lock);
            let (home, _file) = waiting.join().unwrap();
            assert!(home.join("used").is_file());
        });
    }
}
