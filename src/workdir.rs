//! The private work directory of a run: gone when the run ends, also when an earlier run was killed.
//!
//! Each run holds a lock in its directory; what SIGKILL left has one that is free, and the next run of the same user removes it.
//! A process number would not tell: another container that shares /tmp has numbers of its own.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Start of the names.
const PREFIX: &str = "klp-build-";

/// The file in a directory that its run has locked.
const LOCK: &str = ".lock";

/// The file in a directory that a person wants to keep.
const KEPT: &str = ".kept";

/// The directories of this process that are to go with it.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

static WAS_MADE: AtomicBool = AtomicBool::new(false);

/// Makes the directory, after sweeping what killed runs left.
///
/// # Errors
///
/// When it cannot be made.
pub fn create(keep: bool) -> Result<WorkDir> {
    let parent = std::env::temp_dir();
    sweep(&parent);
    WAS_MADE.store(true, Ordering::SeqCst);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    loop {
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent);
        let dir = dir.with_context(|| format!("failed to make a work directory in `{}`", parent.display()))?;
        if keep {
            if mark(dir.path(), KEPT)?.is_some() {
                return Ok(WorkDir::Kept(dir.keep()));
            }
        } else if let Some(lock) = hold(dir.path())? {
            live().push(dir.path().to_owned());
            return Ok(WorkDir::Temporary(dir, lock));
        }
    }
}

/// Makes a file in a directory just made; none when another run's sweep was quicker and took that away, as it was empty.
fn mark(dir: &Path, name: &str) -> Result<Option<File>> {
    let path = dir.join(name);
    match File::create_new(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to write `{}`", path.display())),
    }
}

/// Locks a directory just made; none when another run's sweep was quicker.
fn hold(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    let Some(file) = mark(dir, LOCK)? else { return Ok(None) };
    if file.lock().is_err() {
        // A file system without locks: with no file to lock, nobody takes the directory for an abandoned one.
        let _ = fs::remove_file(&path);
        return Ok(Some(file));
    }
    let same = fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
    Ok(same.then_some(file))
}

/// Whether this process has made one, be it gone or not.
pub fn was_made() -> bool {
    WAS_MADE.load(Ordering::SeqCst)
}

/// Removes the directories of this process: for a process that ends without returning from what it does.
pub fn remove_live() {
    for dir in live().drain(..) {
        // What still runs in other threads may write into it meanwhile.
        for _ in 0..3 {
            if fs::remove_dir_all(&dir).is_ok() {
                break;
            }
        }
    }
}

fn live() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// A work directory.
#[derive(Debug)]
pub enum WorkDir {
    /// Removed when dropped; the lock is held until then.
    Temporary(TempDir, File),
    /// Stays, as asked for; it has no lock that could be found free.
    Kept(PathBuf),
}

impl WorkDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            WorkDir::Temporary(dir, _) => dir.path(),
            WorkDir::Kept(path) => path,
        }
    }
}

/// Removes the directories that no run holds. What cannot be removed is another user's, or is being removed by another run:
/// neither matters here.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else { continue };
        if rest.split('-').next().is_none_or(|pid| pid.parse::<u32>().is_err()) || entry.path().join(KEPT).exists() {
            continue;
        }
        match File::options().read(true).write(true).open(entry.path().join(LOCK)) {
            // Held until the directory is gone: who has just made it and waits for the lock sees that (`hold`).
            Ok(lock) if lock.try_lock().is_ok() => drop(fs::remove_dir_all(entry.path())),
            Ok(_) => {}
            // One that was killed before it had a lock is empty; any other is not removed by this.
            Err(_) => drop(fs::remove_dir(entry.path())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the disk, and other runs: what a killed run left is removed, what a living one uses is not, whatever number its
    /// process has here.
    #[test]
    fn sweeps_only_the_dead() {
        let parent = tempfile::tempdir().unwrap();
        let at = |pid: u32, name: &str| parent.path().join(format!("{PREFIX}{pid}-{name}"));
        // No process has the highest number that fits.
        let (alive, dead, halfway) = (at(u32::MAX, "alive"), at(1, "dead"), at(1, "halfway"));
        let (kept, unlocked, other) = (at(u32::MAX, "kept"), at(u32::MAX, "old"), parent.path().join("klp-building"));
        for dir in [&dead, &alive, &halfway, &kept, &unlocked, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(kept.join(KEPT), "").unwrap();
        fs::write(unlocked.join("x.o"), "").unwrap();
        let lock = hold(&alive).unwrap().unwrap();
        drop(hold(&dead).unwrap().unwrap());
        // A child that another test starts at this moment has the file, too, until it is the program that it is to be.
        let swept = |dir: &Path| {
            (0..200).any(|_| {
                sweep(parent.path());
                std::thread::sleep(std::time::Duration::from_millis(5));
                !dir.exists()
            })
        };
        assert!(swept(&dead) && !halfway.exists());
        assert!(alive.exists() && kept.exists() && unlocked.exists() && other.exists());
        drop(lock);
        assert!(swept(&alive));
    }

    /// One that is taken away before it is locked is made anew.
    #[test]
    fn a_sweep_that_is_quicker() {
        let parent = tempfile::tempdir().unwrap();
        assert!(hold(&parent.path().join("gone")).unwrap().is_none());
    }
}
