//! Objects of unpatched units, kept from run to run by what went into them.
//!
//! In: everything that decides an object's bytes. Out: the object, if some run has made it before. The key is a
//! hash of the compiler's identity, the command without its outputs, the working directory (debug information
//! names it) and the preprocessed text. Several runs use the cache at once: files appear by rename only,
//! and are copied out, so that no run depends on a file that another one may evict.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::run;

/// Changes when the meaning of a key does.
const FORMAT: &str = "klp-build object 1";

/// The cache directory and its bound.
pub struct ObjectCache {
    dir: PathBuf,
    limit: u64,
    compilers: Mutex<HashMap<Vec<String>, String>>,
}

impl ObjectCache {
    /// A cache in `dir`, made when needed, of at most about `limit` bytes.
    pub fn new(dir: &Path, limit: u64) -> ObjectCache {
        ObjectCache { dir: dir.to_path_buf(), limit, compilers: Mutex::default() }
    }

    /// The user's: `$XDG_CACHE_HOME/klp-build/objects`, else under `~/.cache`; none without a home.
    pub fn default_dir() -> Option<PathBuf> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(base.join("klp-build/objects"))
    }

    /// The key of an object: `base` is the command without outputs.
    pub(super) fn key(&self, base: &[String], cwd: &Path, preprocessed: &[u8]) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(FORMAT.as_bytes());
        field(self.compiler(base)?.as_bytes());
        field(cwd.as_os_str().as_encoded_bytes());
        base.iter().for_each(|arg| field(arg.as_bytes()));
        field(preprocessed);
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Who compiles: the program's file and what it says of itself, and the assembler's.
    fn compiler(&self, base: &[String]) -> Result<String> {
        let options = base.iter().position(|arg| arg.starts_with('-')).unwrap_or(base.len());
        let program = base[..options].to_vec();
        if let Some(known) = self.compilers.lock().unwrap_or_else(|poison| poison.into_inner()).get(&program) {
            return Ok(known.clone());
        }
        let ask = |option: &str| -> Result<String> {
            let output = run::output(Command::new(&program[0]).args(&program[1..]).arg(option))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let mut identity = ask("--version")?;
        for name in program.iter().cloned().chain([ask("-print-prog-name=as")?.trim().to_string()]) {
            identity.push_str(&stamp(&name));
        }
        self.compilers.lock().unwrap_or_else(|poison| poison.into_inner()).insert(program, identity.clone());
        Ok(identity)
    }

    /// Copies an object out, if it is there.
    pub(super) fn get(&self, key: &str, to: &Path) -> bool {
        self.get_bytes(key).is_some_and(|object| fs::write(to, object).is_ok())
    }

    /// What is kept under a key.
    pub(super) fn get_bytes(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut stored = fs::read(&path).ok()?;
        // A file that a crash cut short, or a disk altered, is none.
        let (bytes, digest) = stored.split_last_chunk::<{ blake3::OUT_LEN }>()?;
        if blake3::hash(bytes).as_bytes() != digest {
            return None;
        }
        stored.truncate(bytes.len());
        // Used now: the last to be evicted. Failing to say so is no reason to compile.
        let _ = fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(stored)
    }

    /// Keeps an object.
    pub(super) fn put(&self, key: &str, object: &Path) -> Result<()> {
        let bytes = fs::read(object).with_context(|| format!("failed to cache `{}`", object.display()))?;
        self.put_bytes(key, &bytes)
    }

    /// Keeps something under a key.
    pub(super) fn put_bytes(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(key);
        let what = || format!("failed to cache `{}`", path.display());
        let dir = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir).with_context(what)?;
        let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).with_context(what)?;
        temporary.write_all(bytes).with_context(what)?;
        temporary.write_all(blake3::hash(bytes).as_bytes()).with_context(what)?;
        temporary.persist(&path).map_err(|error| error.error).with_context(what)?;
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(&key[..2]).join(format!("{}.o", &key[2..]))
    }

    /// Evicts what was not used for longest until the bound is met; also leftovers of runs that were killed.
    pub(super) fn trim(&self) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = walkdir::WalkDir::new(&self.dir)
            .into_iter()
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_file())
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.into_path()))
            })
            .collect();
        let hour_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
        files.retain(|(time, _, path)| {
            let leftover = *time < hour_ago && path.extension().is_none_or(|suffix| suffix != "o");
            !(leftover && fs::remove_file(path).is_ok())
        });
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

/// Path, size and time of a program: another one, or a rebuilt one, has another stamp.
fn stamp(name: &str) -> String {
    let path = if name.contains('/') {
        Some(PathBuf::from(name))
    } else {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| path.is_file())
    };
    let Some(path) = path.and_then(|path| fs::canonicalize(path).ok()) else { return format!("\n{name}") };
    let meta = fs::metadata(&path).ok();
    format!("\n{} {:?} {:?}", path.display(), meta.as_ref().map(|m| m.len()), meta.and_then(|m| m.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least recently used objects go first, and nothing goes while there is room.
    #[test]
    fn bounded() {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("x.o");
        fs::write(&object, [7; 100]).unwrap();
        let cache = ObjectCache::new(&dir.path().join("cache"), 300);
        let long_ago = |seconds| SystemTime::now() - std::time::Duration::from_secs(seconds);
        for (key, age) in [("aa1", 30), ("bb2", 20), ("cc3", 10)] {
            cache.put(key, &object).unwrap();
            fs::File::options().write(true).open(cache.path(key)).unwrap().set_modified(long_ago(age)).unwrap();
        }
        let out = dir.path().join("out.o");
        assert!(cache.get("aa1", &out) && fs::read(&out).unwrap() == [7; 100]);
        cache.trim();
        assert!(!cache.get("bb2", &out), "the one that was not used goes");
        assert!(cache.get("aa1", &out) && cache.get("cc3", &out));
        assert!(!cache.get("dd4", &out));
        fs::write(cache.path("cc3"), [7; 90]).unwrap();
        assert!(!cache.get("cc3", &out), "a damaged file is none");
    }

    /// Command, directory and text all count, and their borders too.
    #[test]
    fn keys() {
        let cache = ObjectCache::new(Path::new("/nowhere"), 0);
        let key = |command: &str, cwd: &str, text: &str| {
            let base: Vec<String> = command.split(' ').map(String::from).collect();
            cache.key(&base, Path::new(cwd), text.as_bytes()).unwrap()
        };
        let one = key("gcc -O2 x.c", "/a", "int x;");
        assert_eq!(one, key("gcc -O2 x.c", "/a", "int x;"));
        for other in [
            key("gcc -O1 x.c", "/a", "int x;"),
            key("gcc -O2 x.c", "/b", "int x;"),
            key("gcc -O2 x.c", "/a", "int y;"),
            key("gcc -O2x .c", "/a", "int x;"),
        ] {
            assert_ne!(one, other);
        }
    }
}
