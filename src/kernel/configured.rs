//! A kernel that is configured but not built here: source, configuration and exports in, a private build
//! directory out in which kbuild can make single units. Nothing of the user's is written.
//!
//! kbuild is the only one that knows a unit's flags, so it is asked: `make O=<private> fs/proc/meminfo.o`, after
//! `olddefconfig` and `modules_prepare` once. The directory is kept in the user's cache under a name made of source,
//! configuration and compiler; a lock keeps two runs apart and a marker, written last, says that it is
//! complete. What is hard: the configuration must come out as it went in. kbuild re-evaluates it for the tools it
//! finds, and where those differ (no pahole: no BTF, and `struct module` has another layout) the result would be
//! silently wrong, so every option that changed is a refusal. A source tree that was built in place is refused by
//! kbuild for `O=`; a tree of links without its generated files takes its place.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::compiler::Compiler;
use super::config::Config;
use super::trees::{self, Trees};
use crate::compile::run;
use crate::error::{Reason, Refusal, Refused, ToolFailure};
use crate::report::say;

/// A private build directory that is ready to make units in.
#[derive(Debug)]
pub struct Private {
    /// The source tree it was made from: the user's, or links to it.
    pub source: PathBuf,
    /// The build directory.
    pub objdir: PathBuf,
    /// Variables for every make in it.
    pub make_vars: Vec<(String, String)>,
    /// Says that it is in use, for as long as it is open.
    _used: File,
}

/// What a private build directory is made of.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// The user's source tree.
    pub source: &'a Path,
    /// Text of the kernel's configuration.
    pub config_text: &'a str,
    /// The same, parsed.
    pub config: &'a Config,
    /// The exports, for module builds in the directory.
    pub symvers: &'a Path,
    /// The compiler that built the kernel.
    pub compiler: &'a Compiler,
    /// The user's make variables.
    pub make_vars: &'a [(String, String)],
    /// The kernel's release, when it is known from elsewhere.
    pub release: Option<&'a str>,
    /// Jobs at a time.
    pub jobs: usize,
}

/// Makes the private build directory, or finds the one made before.
pub fn prepare(recipe: Recipe<'_>) -> Result<Private> {
    let trees = Trees::of_user().context("failed to find the user's cache directory: set HOME or XDG_CACHE_HOME")?;
    let private = prepare_in(&trees, recipe)?;
    trees.trim(trees::LIMIT);
    Ok(private)
}

fn prepare_in(trees: &Trees, recipe: Recipe<'_>) -> Result<Private> {
    let (home, used) = trees.hold(&name(recipe)?)?;
    let lock = lock(&home)?;
    let source = match is_dirty(recipe.source) {
        true => home.join("source"),
        false => recipe.source.to_owned(),
    };
    let objdir = home.join("build");
    let make_vars = make_vars(recipe, &home)?;
    let private = Private { source, objdir, make_vars, _used: used };
    let marker = home.join("ready");
    if marker.is_file() {
        return Ok(private);
    }
    // Whatever an interrupted run left is not trusted.
    for path in [&private.objdir, &home.join("source")] {
        if path.exists() {
            fs::remove_dir_all(path).with_context(|| format!("failed to remove `{}`", path.display()))?;
        }
    }
    fs::create_dir_all(&private.objdir).with_context(|| format!("failed to create `{}`", private.objdir.display()))?;
    if private.source != recipe.source {
        link_sources(recipe.source, &private.source)?;
    }
    write(&private.objdir.join(".config"), recipe.config_text)?;
    private.make_locked(&lock, &["olddefconfig"], "configure a private build directory", recipe.jobs)?;
    refuse_changes(recipe.config, &private.objdir.join(".config"))?;
    private.make_locked(&lock, &["modules_prepare"], "prepare a private build directory", recipe.jobs)?;
    let symvers = private.objdir.join("Module.symvers");
    fs::copy(recipe.symvers, &symvers).with_context(|| format!("failed to copy `{}`", recipe.symvers.display()))?;
    write(&marker, "")?;
    Ok(private)
}

impl Private {
    /// Runs make for some goals in the directory, alone in it.
    pub fn make(&self, goals: &[&str], doing: &str, jobs: usize) -> Result<String> {
        let home = self.objdir.parent().context("failed to find the lock of a private build directory")?;
        self.make_locked(&lock(home)?, goals, doing, jobs)
    }

    fn make_locked(&self, lock: &File, goals: &[&str], doing: &str, jobs: usize) -> Result<String> {
        let mut command = run::kbuild();
        command
            .arg("-C")
            .arg(&self.source)
            .arg(format!("O={}", self.objdir.display()))
            .arg(format!("-j{}", jobs.max(1)));
        command.args(self.make_vars.iter().map(|(name, value)| format!("{name}={value}"))).args(goals);
        // A compiler that is killed leaves its temporary files; the next one to have the lock takes them away.
        let tmp = self.objdir.with_file_name("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).with_context(|| format!("failed to remove `{}`", tmp.display()))?;
        }
        fs::create_dir_all(&tmp).with_context(|| format!("failed to create `{}`", tmp.display()))?;
        let output = run::output_locked(command.env("TMPDIR", &tmp), lock)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = text.lines().collect();
            let output = lines[lines.len().saturating_sub(30)..].join("\n");
            return Err(ToolFailure { doing: doing.to_owned(), output }.into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Takes the lock of a private build directory: two makes in one would undo each other's work. It is free again
/// when the file is closed everywhere, so a make that outlives a killed run still holds it.
fn lock(home: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(home.join("lock"));
    let file = options.with_context(|| format!("failed to lock `{}`", home.display()))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("failed to lock `{}`", home.display()));
            }
        }
        // A lock that is waited for in the kernel would not see that the run is to end.
        if run::interrupted() {
            bail!("interrupted");
        }
        if !said {
            say(format_args!("note: waiting for another run, which has locked `{}`", home.display()));
            said = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A name that is the same only for the same source, configuration, exports, compiler and variables.
fn name(recipe: Recipe<'_>) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(recipe.source.as_os_str().as_encoded_bytes());
    // Which version of the source this is: kbuild itself notices edits of single files.
    for file in ["Makefile", "Kconfig", ".git/HEAD"] {
        add(&fs::read(recipe.source.join(file)).unwrap_or_default());
    }
    let makefile = fs::metadata(recipe.source.join("Makefile")).and_then(|m| m.modified());
    add(format!("{:?}", makefile.ok()).as_bytes());
    add(recipe.config_text.as_bytes());
    add(&fs::read(recipe.symvers).with_context(|| format!("failed to read `{}`", recipe.symvers.display()))?);
    add(recipe.compiler.command.join(" ").as_bytes());
    add(recipe.compiler.version.as_bytes());
    add(recipe.release.unwrap_or_default().as_bytes());
    for (name, value) in recipe.make_vars {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    Ok(hash.finalize().to_hex()[..24].to_owned())
}

/// The variables for make: the user's, the compiler, the release, and tools that answer as recorded.
fn make_vars(recipe: Recipe<'_>, home: &Path) -> Result<Vec<(String, String)>> {
    let mut vars = recipe.make_vars.to_vec();
    let mut add = |name: &str, value: String| {
        if !vars.iter().any(|(n, _)| n == name) {
            vars.push((name.to_owned(), value));
        }
    };
    if !recipe.config.is_y("CC_IS_CLANG") {
        add("CC", recipe.compiler.command.join(" "));
    }
    if let Some(release) = recipe.release {
        add("KERNELRELEASE", release.to_owned());
    }
    // pahole makes BTF of a linked vmlinux; for units only its recorded version counts, since options and
    // with them structure members hang on it (init/Kconfig PAHOLE_VERSION, CONFIG_DEBUG_INFO_BTF_MODULES).
    if let Some(version) = recipe.config.get("PAHOLE_VERSION").and_then(|v| v.parse::<u32>().ok()).filter(|v| *v > 0) {
        let path = home.join("pahole");
        write(&path, &format!("#!/bin/sh\necho v{}.{:02}\n", version / 100, version % 100))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("failed to make `{}` executable", path.display()))?;
        add("PAHOLE", path.display().to_string());
    }
    Ok(vars)
}

/// Refuses when kbuild made another configuration out of the given one.
fn refuse_changes(wanted: &Config, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let changes = changes(wanted, &Config::parse(&text)?);
    if changes.is_empty() {
        return Ok(());
    }
    let shown = changes.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = if changes.len() > 8 { format!(" and {} more", changes.len() - 8) } else { String::new() };
    Err(Refused(vec![Refusal::new(
        Reason::BuildSystem,
        format!("kbuild does not keep the kernel's configuration with the tools of this machine: {shown}{more}"),
        "install the tools that the kernel was configured with, and check that source and configuration belong together",
    )])
    .into())
}

/// Options that differ, as `NAME=old -> new`, but for those that only record tools.
pub(super) fn changes(wanted: &Config, found: &Config) -> Vec<String> {
    // Strings and numbers that describe a tool; whatever depends on them differs by itself.
    let record = |name: &str| {
        name.ends_with("_VERSION_TEXT")
            || ["AS_VERSION", "LD_VERSION", "LLD_VERSION", "GCC_VERSION", "CLANG_VERSION", "RUSTC_VERSION", "RUSTC_LLVM_VERSION", "PAHOLE_VERSION"]
                .contains(&name)
            // What a Rust compiler could do decides nothing in a kernel without Rust code.
            || name.starts_with("RUSTC_") || name.starts_with("HAVE_RUST") || name == "RUST_IS_AVAILABLE"
    };
    // Keys and salt of the packager, which distributions take out of the configuration they ship; they end in
    // certificates, signatures and a note (certs/Kconfig, init/Kconfig BUILD_SALT), never in a unit's code.
    let packaging = |name: &str| {
        ["BUILD_SALT", "MODULE_SIG_ALL", "MODULE_SIG_KEY", "SYSTEM_TRUSTED_KEYS", "SYSTEM_REVOCATION_KEYS"]
            .contains(&name)
    };
    let names: std::collections::BTreeSet<&str> = wanted.names().chain(found.names()).collect();
    names
        .into_iter()
        .filter(|name| wanted.get(name) != found.get(name) && !record(name) && !packaging(name))
        .map(|name| format!("CONFIG_{name}={} -> {}", wanted.get(name).unwrap_or("n"), found.get(name).unwrap_or("n")))
        .collect()
}

/// Whether kbuild would refuse the tree as the source of an `O=` build (Makefile, `outputmakefile`).
fn is_dirty(source: &Path) -> bool {
    [".config", "include/config", "arch/x86/include/generated"].iter().any(|path| source.join(path).exists())
}

/// A tree of links to the source's files, without what a build in place left there.
fn link_sources(source: &Path, links: &Path) -> Result<()> {
    let generated = |path: &Path, name: &str| {
        matches!(path.to_str(), Some(".config" | "include/config" | "include/generated" | ".git"))
            || path.ends_with("include/generated")
            || name.starts_with('.') && (name.ends_with(".cmd") || name.ends_with(".d"))
            || [".o", ".a", ".ko", ".mod", ".order", ".symvers"].iter().any(|suffix| name.ends_with(suffix))
    };
    let walk = walkdir::WalkDir::new(source).into_iter().filter_entry(|entry| {
        let relative = entry.path().strip_prefix(source).unwrap_or(entry.path());
        entry.depth() == 0 || !generated(relative, &entry.file_name().to_string_lossy())
    });
    for entry in walk {
        let entry = entry.with_context(|| format!("failed to list `{}`", source.display()))?;
        let link = links.join(entry.path().strip_prefix(source).unwrap_or(entry.path()));
        let made = match entry.file_type().is_dir() {
            true => fs::create_dir_all(&link),
            false => std::os::unix::fs::symlink(entry.path(), &link),
        };
        made.with_context(|| format!("failed to create `{}`", link.display()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

/// The objects that kbuild would make in a directory, as targets relative to the build directory.
///
/// `make foo.o` makes any `foo.c` it finds, configured or not, and so cannot be asked whether it is part of the kernel;
/// a dry run of the whole directory can.
pub fn objects_in(private: &Private, dir: &Path, jobs: usize) -> Result<std::collections::HashSet<PathBuf>> {
    let goal = format!("{}/", dir.display());
    let output = private.make(&["-n", &goal], &format!("list the objects of `{goal}`"), jobs)?;
    let objects: std::collections::HashSet<PathBuf> = output
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| c == '\'' || c == '"' || c == ';'))
        .filter(|word| word.ends_with(".o") && Path::new(word).parent() == Some(dir))
        .map(PathBuf::from)
        .collect();
    if objects.is_empty() && output.is_empty() {
        bail!("failed to list the objects of `{goal}`: make printed nothing");
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An option that a missing tool flips is seen; a record of the tool's version alone is not a change.
    #[test]
    fn config_changes() {
        let config = |text: &str| Config::parse(text).unwrap();
        let wanted = config("CONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"x-gcc 1\"\nCONFIG_DEBUG_INFO_BTF=y\n");
        let found = config("CONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"gcc 1\"\nCONFIG_B=m\n");
        assert_eq!(changes(&wanted, &found), ["CONFIG_B=n -> m", "CONFIG_DEBUG_INFO_BTF=y -> n"]);
    }

    /// Links stand for sources only: an object or a generated header of the dirty tree would be taken for ours.
    #[test]
    fn link_farm() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("src");
        for file in
            ["Makefile", "fs/a.c", "fs/a.o", "fs/.a.o.cmd", ".config", "include/generated/x.h", "include/linux/y.h"]
        {
            let path = source.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert!(is_dirty(&source));
        let links = dir.path().join("links");
        link_sources(&source, &links).unwrap();
        assert!(!is_dirty(&links));
        for (file, there) in
            [("fs/a.c", true), ("include/linux/y.h", true), ("fs/a.o", false), ("include/generated", false)]
        {
            assert_eq!(links.join(file).exists(), there, "{file}");
        }
    }
}
