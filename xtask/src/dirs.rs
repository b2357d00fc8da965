//! Where things are: the repository, and the cache that holds packages, sources and kernels.
//!
//! Everything in the cache is made under a temporary name beside its place and renamed last, so what
//! has its final name is complete, also after Ctrl-C or a lost machine; a lock keeps two runs apart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is in the repository").to_path_buf()
}

/// `~/.cache/klp-build/dev`, made if it is not there.
pub fn dev_cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| Path::new(v).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("failed to find a cache directory: HOME is not set")?)
            .join(".cache"),
    };
    let dir = base.join("klp-build/dev");
    create(&dir)?;
    Ok(dir)
}

/// `mkdir -p` with the path in the error.
pub fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create `{}`", dir.display()))
}

/// Reads a text file, with the path in the error.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let dir = path.parent().context("failed to write `/`")?;
    let put = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        std::io::Write::write_all(&mut file, content.as_ref())?;
        // Temporary files are private by default; what goes into the cache is as readable as the rest of it.
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    put().with_context(|| format!("failed to write `{}`", path.display()))
}

/// Held while one thing in the cache is made; a second run waits and then finds it done.
pub struct Lock {
    _file: File,
}

/// Takes the lock `name` of the cache. The kernel drops it with the process, however that ends.
pub fn lock(name: &str) -> Result<Lock> {
    let dir = dev_cache()?.join("lock");
    create(&dir)?;
    let path = dir.join(name.replace('/', "_"));
    let take = || -> std::io::Result<File> {
        let file = File::create(&path)?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another run that prepares {name}");
            file.lock()?;
        }
        Ok(file)
    };
    let file = take().with_context(|| format!("failed to lock `{}`", path.display()))?;
    Ok(Lock { _file: file })
}

/// The lock of a place in the cache.
pub fn lock_path(path: &Path) -> Result<Lock> {
    let cache = dev_cache()?;
    lock(&path.strip_prefix(&cache).unwrap_or(path).display().to_string())
}

/// Fills a temporary directory with `fill` and gives it its final name `dest`; nothing to do if that exists.
pub fn complete(dest: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = dest.parent().context("failed to create `/`")?;
    create(parent)?;
    let name = dest.file_name().context("failed to name a directory")?.to_string_lossy().into_owned();
    let _lock = lock_path(dest)?;
    if dest.exists() {
        return Ok(());
    }
    // What an interrupted run left behind; the lock says that nobody is using it.
    let prefix = format!(".{name}.part-");
    for entry in fs::read_dir(parent)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let part = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?;
    fs::set_permissions(part.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fill(part.path())?;
    let path = part.keep();
    fs::rename(&path, dest).with_context(|| format!("failed to rename `{}` to `{}`", path.display(), dest.display()))
}
