//! Where each part of the kernel is: what the user named in, one path for each part out, all problems at once.
//!
//! A person may stand in the source tree, in a build directory, or name either; kbuild leaves a `source` link
//! and a Makefile that includes the source's in every `O=` directory (Makefile, `outputmakefile`), and that is
//! what tells them apart. Which tree the compile commands were made from matters: their paths are absolute.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cmd::normalize;
use super::open::KernelRequest;
use super::running::Running;

/// What is wrong with the inputs, all of it: (what, what to do).
#[derive(Debug, Default)]
pub struct Problems(pub Vec<(String, String)>);

impl Problems {
    /// Notes a problem.
    pub(super) fn add(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.0.push((what.into(), advice.into()));
    }

    /// Takes a value, or notes why there is none.
    pub(super) fn take<T>(&mut self, result: Result<T>, advice: &str) -> Option<T> {
        result.map_err(|error| self.add(format!("{error:#}"), advice)).ok()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (what, advice)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{what}\n  {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The parts of one kernel, each where it was found or named.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Source tree: absolute, canonical.
    pub(super) source: PathBuf,
    /// Build directory with finished objects: absolute, canonical; `None` when units must be made privately.
    pub(super) built: Option<PathBuf>,
    /// Directory for module builds, when it is neither of the above.
    pub(super) headers: Option<PathBuf>,
    /// Configuration.
    pub(super) config: PathBuf,
    /// Exports.
    pub(super) symvers: PathBuf,
    /// Symbols of vmlinux.
    pub(super) symbols: Option<PathBuf>,
    /// Image to check against.
    pub(super) image: Option<PathBuf>,
    /// Directory with module files.
    pub(super) modules: Option<PathBuf>,
    /// Release, when known before anything is prepared.
    pub(super) release: Option<String>,
    /// What runs here, when this is to be it.
    pub(super) running: Option<Running>,
}

/// The parts of a tree that is built or configured, in place or with `O=`.
pub(super) fn of_tree(request: &KernelRequest) -> Result<Parts> {
    let (source, objdir) = directories(request)?;
    let there = |path: PathBuf| Some(path).filter(|path| path.is_file());
    // kbuild compiles init/main.c for every kernel; its command file says that objects were made here.
    let is_built = objdir.join("init/.main.o.cmd").is_file() && objdir.join("Module.symvers").is_file();
    let release = std::fs::read_to_string(objdir.join("include/config/kernel.release")).ok();
    let image = request.image.clone().or_else(|| there(objdir.join("vmlinux")));
    let symbols = request
        .symbols
        .clone()
        .or_else(|| there(objdir.join("vmlinux")))
        .or_else(|| there(objdir.join("System.map")))
        .or_else(|| symbols_of_image(image.as_deref()));
    Ok(Parts {
        config: request.config.clone().unwrap_or_else(|| objdir.join(".config")),
        symvers: request.symvers.clone().unwrap_or_else(|| objdir.join("Module.symvers")),
        symbols,
        image,
        modules: request.modules.clone(),
        release: release.map(|text| text.trim().to_owned()),
        // Objects of one configuration say nothing about another.
        built: (is_built && request.config.is_none()).then_some(objdir),
        headers: None,
        running: None,
        source,
    })
}

/// The file that has an image's symbols: itself, but memory of the kernel that runs has them beside it.
pub(super) fn symbols_of_image(image: Option<&Path>) -> Option<PathBuf> {
    let image = image?;
    Some(if image.ends_with("proc/kcore") { image.with_file_name("kallsyms") } else { image.to_owned() })
}

/// The source tree of an installed kernel: `-k`, or the current directory when it is one.
pub(super) fn source_tree(request: &KernelRequest) -> Result<PathBuf> {
    let named = match &request.source {
        Some(path) => path.clone(),
        None => std::env::current_dir().context("failed to find the current directory")?,
    };
    let source = canonical(&named)?;
    anyhow::ensure!(is_source(&source), "`{}` is not a Linux source tree", source.display());
    Ok(source)
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("failed to find the directory `{}`", path.display()))
}

/// Source tree and build directory, absolute and canonical.
fn directories(request: &KernelRequest) -> Result<(PathBuf, PathBuf)> {
    let mut problems = Problems::default();
    let named = match (&request.source, &request.objdir) {
        (None, None) => Some(std::env::current_dir().context("failed to find the current directory")?),
        (source, _) => source.clone(),
    };
    let source = named.and_then(|path| problems.take(canonical(&path), "name the kernel's source tree with -k"));
    let objdir = request
        .objdir
        .as_ref()
        .and_then(|path| problems.take(canonical(path), "name the kernel's build directory with -O"));
    if !problems.0.is_empty() {
        return Err(problems.into());
    }
    let (source, objdir) = match (source, objdir) {
        // A build directory may be named, or stood in, as if it were the tree.
        (Some(dir), None) => match source_of(&dir) {
            Some(source) if !is_source(&dir) => (source, dir),
            _ => (dir.clone(), dir),
        },
        (None, Some(objdir)) => (source_of(&objdir).unwrap_or_else(|| objdir.clone()), objdir),
        (Some(source), Some(objdir)) => (source, objdir),
        (None, None) => anyhow::bail!("neither a source tree nor a build directory is named"),
    };
    if let Err(error) = std::fs::read_dir(&source) {
        let what = format!("failed to read the directory `{}`: {error}", source.display());
        problems.add(what, "name the kernel's source tree, which you may read, with -k");
    } else if !is_source(&source) {
        problems.add(
            format!("`{}` is not a Linux source tree", source.display()),
            "run klp-build in the kernel's source tree, or name it with -k",
        );
    } else if let Some(other) = source_of(&objdir).filter(|other| *other != source) {
        problems.add(
            format!(
                "`{}` was made from the source tree `{}`, not `{}`",
                objdir.display(),
                other.display(),
                source.display()
            ),
            "name the tree that the kernel was built from with -k, or leave -k out",
        );
    }
    if !problems.0.is_empty() {
        return Err(problems.into());
    }
    Ok((source, objdir))
}

fn is_source(dir: &Path) -> bool {
    ["Kbuild", "scripts/Kbuild.include", "include/linux/kernel.h"].iter().all(|file| dir.join(file).is_file())
}

/// The source tree that an `O=` directory was made from: its `source` link, or the Makefile in it.
fn source_of(objdir: &Path) -> Option<PathBuf> {
    if let Ok(source) = objdir.join("source").canonicalize() {
        return Some(source);
    }
    let text = std::fs::read_to_string(objdir.join("Makefile")).ok()?;
    let included = text.lines().find_map(|line| line.strip_prefix("include ")?.trim().strip_suffix("/Makefile"))?;
    let source = normalize(&objdir.join(included));
    source.is_absolute().then_some(source)?.canonicalize().ok()
}
