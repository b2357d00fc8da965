//! Objects of unpatched units, kept from run to run by what went into them.
//!
//! In: everything that decides an object's bytes. Out: the object, if some run has made it before. The key is a
//! hash of the compiler's identity, the command without its outputs, the files that it names as a compiler's own, the
//! working directory (debug information names it) and the preprocessed text. An object that names no directory of its tree
//! has a second key, in which the tree's directories are blanked: another copy of the tree finds it, too. Several runs use
//! the cache at once: files appear by rename only, and are copied out, so that no run depends on a file that another one may
//! evict. The bound is in bytes, checked after every compile; what was not used for longest goes first.

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
const FORMAT: &str = "klp-build object 2";

/// Bytes of objects that are kept, unless `KLP_BUILD_CACHE_SIZE` says otherwise.
const LIMIT: u64 = 2 << 30;

/// What an object is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// In this tree.
    pub(super) here: String,
    /// In any copy of it.
    pub(super) anywhere: String,
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Objects.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
}

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

    /// The user's, with its bound; none without a home.
    ///
    /// # Errors
    ///
    /// When `KLP_BUILD_CACHE_SIZE` is no size.
    pub fn of_user() -> Result<Option<ObjectCache>> {
        let limit = match std::env::var("KLP_BUILD_CACHE_SIZE") {
            Ok(text) => size(&text).with_context(|| format!("failed to understand KLP_BUILD_CACHE_SIZE=`{text}`"))?,
            Err(_) => LIMIT,
        };
        Ok(ObjectCache::default_dir().map(|dir| ObjectCache::new(&dir, limit)))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its bound, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The user's: `$XDG_CACHE_HOME/klp-build/objects`, else under `~/.cache`; none without a home.
    pub fn default_dir() -> Option<PathBuf> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(base.join("klp-build/objects"))
    }

    /// The keys of an object: `base` is the command without outputs, `neutral` blanks the tree's directories.
    pub(super) fn keys(
        &self,
        base: &[String],
        cwd: &Path,
        preprocessed: &[u8],
        neutral: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Result<Keys> {
        let compiler = self.compiler(base)?;
        let named = named_files(base, cwd);
        let key = |of: &dyn Fn(&[u8]) -> Vec<u8>| {
            let mut hasher = blake3::Hasher::new();
            let mut field = |bytes: &[u8]| {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            };
            field(FORMAT.as_bytes());
            field(compiler.as_bytes());
            field(&of(cwd.as_os_str().as_encoded_bytes()));
            base.iter().for_each(|arg| field(&of(arg.as_bytes())));
            named.iter().for_each(|digest| field(digest.as_bytes()));
            field(&of(preprocessed));
            hasher.finalize().to_hex().to_string()
        };
        Ok(Keys { here: key(&|bytes| bytes.to_vec()), anywhere: key(&neutral) })
    }

    /// Who compiles: the program's file and what it says of itself, and the files of the compiler proper and the assembler.
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
        let parts = [ask("-print-prog-name=cc1")?, ask("-print-prog-name=as")?].map(|name| name.trim().to_owned());
        for name in program.iter().cloned().chain(parts) {
            identity.push_str(&stamp(&name));
        }
        // Where gcc looks for its parts (its manual, "Environment Variables Affecting GCC").
        for name in ["GCC_EXEC_PREFIX", "COMPILER_PATH", "LIBRARY_PATH"] {
            identity.push_str(&format!("\n{name}={:?}", std::env::var_os(name)));
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

    /// What is in it.
    pub fn usage(&self) -> Usage {
        let objects = self.files().into_iter().filter(|(_, _, path)| is_object(path));
        objects.fold(Usage::default(), |sum, (_, size, _)| Usage { entries: sum.entries + 1, bytes: sum.bytes + size })
    }

    /// Takes all objects out; runs that are under way compile again what they do not find.
    pub fn clear(&self) {
        self.trim_to(0);
    }

    /// Evicts what was not used for longest until the bound is met; also leftovers of runs that were killed.
    pub fn trim(&self) {
        self.trim_to(self.limit);
    }

    /// Time of the last use, size and place of every file.
    fn files(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        walkdir::WalkDir::new(&self.dir)
            .into_iter()
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_file())
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.into_path()))
            })
            .collect()
    }

    fn trim_to(&self, limit: u64) {
        let mut files = self.files();
        let hour_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
        files.retain(|(time, _, path)| {
            let leftover = *time < hour_ago && !is_object(path);
            !(leftover && fs::remove_file(path).is_ok())
        });
        // What another run is writing is not ours to take, and counts when it is done.
        files.retain(|(_, _, path)| is_object(path));
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

fn is_object(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix == "o")
}

/// A size in bytes, or in K, M, G of 1024.
///
/// # Errors
///
/// When it is none.
pub fn size(text: &str) -> Result<u64> {
    let text = text.trim();
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().context("expected a number, with K, M or G behind it or without")?;
    number.checked_mul(1 << unit).context("it is too large")
}

/// Contents of the files that options name and that are no text of the unit: plugins, which hold the seed of a randomised
/// layout, lists, profiles, specs.
fn named_files(base: &[String], cwd: &Path) -> Vec<String> {
    let value = |arg: &String| {
        let (option, value) = arg.split_once('=')?;
        let path = cwd.join(value);
        (option.starts_with('-') && !option.starts_with("-D") && path.is_file()).then_some(path)
    };
    let digest = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap_or_default();
        blake3::hash(&bytes).to_hex().to_string()
    };
    base.iter().filter_map(value).map(digest).collect()
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
            cache.keys(&base, Path::new(cwd), text.as_bytes(), <[u8]>::to_vec).unwrap().here
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

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    /// Protects from another compiler: its driver, the program behind it, and the plugins that it loads all count.
    #[test]
    fn another_compiler() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let driver = |version: &str| {
            let cc1 = at("cc1").display().to_string();
            format!(
                "#!/bin/sh\ncase $1 in --version) echo {version};; -print-prog-name=cc1) echo {cc1};; *) echo as;; esac\n"
            )
        };
        write("gcc", &driver("one"));
        write("cc1", "first");
        write("plugin.so", "seed 1");
        let base = words(&format!("{} -O2 -fplugin=plugin.so x.c", at("gcc").display()));
        // A run asks a compiler once, so each key is that of a run of its own.
        let key = || {
            let cache = ObjectCache::new(Path::new("/nowhere"), 0);
            cache.keys(&base, dir.path(), b"int x;", <[u8]>::to_vec).unwrap()
        };
        let mut seen = vec![key()];
        assert_eq!(seen[0], key());
        write("gcc", &driver("two"));
        seen.push(key());
        write("cc1", "another one");
        seen.push(key());
        write("plugin.so", "seed 2");
        seen.push(key());
        for (i, a) in seen.iter().enumerate() {
            for b in &seen[i + 1..] {
                assert!(a.here != b.here && a.anywhere != b.anywhere, "{seen:?}");
            }
        }
    }

    /// Protects runs at the same time: whoever reads gets a whole object of that key or none, while others write, trim and
    /// clear.
    #[test]
    fn many_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (at, dir) = (&at, dir.path());
                scope.spawn(move || {
                    let cache = ObjectCache::new(at, 40_000);
                    let (object, out) = (dir.join(format!("{thread}.o")), dir.join(format!("{thread}.out")));
                    for round in 0..120u8 {
                        let number = round % 5;
                        let contents = vec![number; 10_000];
                        fs::write(&object, &contents).unwrap();
                        cache.put(&format!("aa{number}"), &object).unwrap();
                        if cache.get(&format!("aa{number}"), &out) {
                            assert!(fs::read(&out).unwrap() == contents, "thread {thread}, round {round}");
                        }
                        match round % 40 {
                            39 => cache.clear(),
                            _ => cache.trim(),
                        }
                    }
                });
            }
        });
        let cache = ObjectCache::new(&at, 40_000);
        cache.trim();
        assert!(cache.usage().bytes <= 40_000, "{:?}", cache.usage());
        cache.clear();
        assert_eq!(cache.usage(), Usage::default());
    }

    /// What another run is just writing is left alone; what a killed one left long ago is not.
    #[test]
    fn leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ObjectCache::new(dir.path(), 100);
        let (young, old) = (dir.path().join(".new-young"), dir.path().join(".new-old"));
        for path in [&young, &old] {
            fs::write(path, [0; 50]).unwrap();
        }
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(7200);
        fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        cache.clear();
        assert!(young.exists() && !old.exists());
    }

    /// Sizes as people write them.
    #[test]
    fn sizes() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!((size("3k").unwrap(), size("2M").unwrap(), size(" 1G ").unwrap()), (3072, 2 << 20, 1 << 30));
        for wrong in ["", "G", "1T", "-1", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
