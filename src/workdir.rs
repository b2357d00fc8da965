//! The private work directory of a run: gone when the run ends, also when an earlier run was killed.
//!
//! A directory's name holds the number of the process that made it; directories of processes that are
//! no more, left by SIGKILL, are removed by the next run of the same user.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Start of the names.
const PREFIX: &str = "klp-build-";

/// Makes the directory, after sweeping what killed runs left.
///
/// # Errors
///
/// When it cannot be made.
pub fn create(keep: bool) -> Result<WorkDir> {
    let parent = std::env::temp_dir();
    sweep(&parent);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent);
    let dir = dir.with_context(|| format!("failed to make a work directory in `{}`", parent.display()))?;
    Ok(if keep { WorkDir::Kept(dir.keep()) } else { WorkDir::Temporary(dir) })
}

/// A work directory.
#[derive(Debug)]
pub enum WorkDir {
    /// Removed when dropped.
    Temporary(TempDir),
    /// Stays, as asked for; its name is not one that is swept.
    Kept(PathBuf),
}

impl WorkDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            WorkDir::Temporary(dir) => dir.path(),
            WorkDir::Kept(path) => path,
        }
    }
}

/// Removes the directories of processes that are gone. What cannot be removed is another user's, or is
/// being removed by another run: neither matters here.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else { continue };
        let Some(pid) = rest.split('-').next().and_then(|p| p.parse::<u32>().ok()) else { continue };
        let kept = entry.path().join(KEPT).exists();
        if !kept && !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Marks a directory that a person wants to keep.
const KEPT: &str = ".kept";

impl WorkDir {
    /// Marks a kept directory, so that no later run sweeps it.
    ///
    /// # Errors
    ///
    /// When the mark cannot be written.
    pub fn mark(&self) -> Result<()> {
        if let WorkDir::Kept(path) = self {
            std::fs::write(path.join(KEPT), b"").with_context(|| format!("failed to write to `{}`", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the disk: what a killed run left is removed, what a running one uses is not.
    #[test]
    fn sweeps_only_the_dead() {
        let parent = tempfile::tempdir().unwrap();
        // No process has the highest number that fits.
        let dead = parent.path().join(format!("{PREFIX}{}-x", u32::MAX));
        let alive = parent.path().join(format!("{PREFIX}{}-x", std::process::id()));
        let other = parent.path().join("klp-building");
        for dir in [&dead, &alive, &other] {
            std::fs::create_dir(dir).unwrap();
        }
        sweep(parent.path());
        assert!(!dead.exists());
        assert!(alive.exists() && other.exists());
    }
}
