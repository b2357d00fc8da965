//! The file that a run was asked for: there in one step, or not at all.
//!
//! In: a path, bytes. A reader sees the old file or the new one, never a part. What is no ordinary file (a pipe, /dev/stdout) can be
//! neither replaced nor removed, and is written to.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result};

/// What was promised and is not written yet. Held while there is a file that has not yet its name.
static PROMISED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Says that a file is there after the run only when this run wrote it: what an earlier one wrote goes by [`settle`] or [`stop`].
pub fn promise(path: &Path) {
    *promised() = Some(path.to_path_buf());
}

/// Removes what an earlier run wrote in the place of a promised file, unless the promise was kept.
///
/// # Errors
///
/// When it stays.
pub fn settle() -> Result<()> {
    promised().take().map_or(Ok(()), |path| remove(&path))
}

/// The same when no file is half written, and lets none begin: for a process that ends without returning from what it does.
pub fn stop() -> MutexGuard<'static, Option<PathBuf>> {
    let mut promised = promised();
    if let Some(path) = promised.take() {
        // There is nobody left to tell.
        let _ = remove(&path);
    }
    promised
}

fn promised() -> MutexGuard<'static, Option<PathBuf>> {
    PROMISED.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Writes a file, by way of another one beside it.
///
/// # Errors
///
/// When it cannot be written; what was there before is there still.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let target = match fs::metadata(path) {
            Ok(meta) if !meta.is_file() => return Ok(fs::write(path, bytes)?),
            // Behind a link: the link stays, and what it leads to is replaced.
            Ok(_) => fs::canonicalize(path)?,
            Err(_) => path.to_path_buf(),
        };
        let mut promised = promised();
        let mut file = tempfile::Builder::new().prefix(".klp-build-").tempfile_in(folder(&target))?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(&target)?;
        promised.take_if(|there| *there == path);
        Ok(())
    };
    write().with_context(|| format!("failed to write `{}`", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    fs::remove_file(path).with_context(|| format!("failed to remove `{}`, which an earlier run wrote", path.display()))
}

/// Where it lies.
pub fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects readers, links and devices: a file is replaced whole, a link leads where it led, a device is never replaced.
    #[test]
    fn kinds_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("a"), b"one").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        write(&at("link"), b"two").unwrap();
        assert_eq!(fs::read(at("a")).unwrap(), b"two");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        let null = Path::new("/dev/null");
        write(null, b"gone").unwrap();
        remove(null).unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
        assert!(write(&at("no/such"), b"").is_err());
        remove(&at("a")).unwrap();
        remove(&at("a")).unwrap();
        assert!(!at("a").exists());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["link"]);
    }
}
