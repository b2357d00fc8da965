//! From what the user named to a [`Kernel`]: everything that is wrong with it is said at once, with advice.
//!
//! A person may stand in the source tree, in a build directory, or name either; kbuild leaves a `source` link
//! and a Makefile that includes the source's in every `O=` directory (Makefile, `outputmakefile`), and that is
//! what tells them apart. Which tree the compile commands were made from matters: their paths are absolute.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::abi::Abi;
use super::cmd::normalize;
use super::compiler::Compiler;
use super::config::Config;
use super::symvers::Symvers;
use super::tree::{Kernel, find_modules, modules_of_build};
use crate::error::{Refusal, Refused};

/// Where the kernel is, as far as the user said.
#[derive(Debug, Clone, Default)]
pub struct KernelRequest {
    /// Source tree; the current directory when nothing is named.
    pub source: Option<PathBuf>,
    /// Build directory; the source tree when not named.
    pub objdir: Option<PathBuf>,
    /// An installed kernel: its release, or the running one's.
    pub release: Option<Option<String>>,
    /// Configuration in place of the build directory's.
    pub config: Option<PathBuf>,
    /// `Module.symvers` in place of the build directory's.
    pub symvers: Option<PathBuf>,
    /// vmlinux, System.map or a dump of /proc/kallsyms.
    pub symbols: Option<PathBuf>,
    /// Kernel image to check against.
    pub image: Option<PathBuf>,
    /// Directory with the modules' files.
    pub modules: Option<PathBuf>,
    /// `--make VAR=VALUE`.
    pub make_vars: Vec<(String, String)>,
    /// Jobs at a time; 0 for the number of processors.
    pub jobs: usize,
}

/// What is wrong with the inputs, all of it: (what, what to do).
#[derive(Debug, Default)]
pub struct Problems(pub Vec<(String, String)>);

impl Problems {
    fn add(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.0.push((what.into(), advice.into()));
    }

    /// Takes a value, or notes why there is none.
    fn take<T>(&mut self, result: Result<T>, advice: &str) -> Option<T> {
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

impl Kernel {
    /// Reads the kernel that the request names.
    pub fn open(request: &KernelRequest) -> Result<Kernel> {
        let (source, objdir) = directories(request)?;
        let mut problems = Problems::default();
        let mut refusals: Vec<Refusal> = Vec::new();
        let make_vars = make_variables(&request.make_vars);

        let config_path = request.config.clone().unwrap_or_else(|| objdir.join(".config"));
        let config = problems.take(
            read(&config_path).and_then(|text| {
                Config::parse(&text).with_context(|| format!("failed to parse `{}`", config_path.display()))
            }),
            "configure the tree first, or name the kernel's configuration with --config",
        );
        let header = source.join("include/linux/livepatch.h");
        let abi = config.as_ref().and_then(|config| {
            let abi = read(&header).and_then(|text| {
                Abi::parse(&text, config).with_context(|| format!("failed to understand `{}`", header.display()))
            });
            // Without LIVEPATCH the header has no structures; that refusal says it better.
            if abi.is_err() && !config.is_y("LIVEPATCH") {
                return None;
            }
            problems.take(abi, "klp-build reads the livepatch interface from this header; is the source tree complete?")
        });
        let symvers_path = request.symvers.clone().unwrap_or_else(|| objdir.join("Module.symvers"));
        let symvers =
            problems.take(Symvers::read(&symvers_path), "build the kernel first, or name the file with --symvers");
        let symbol_source = request
            .symbols
            .clone()
            .or_else(|| ["vmlinux", "System.map"].iter().map(|name| objdir.join(name)).find(|path| path.is_file()));
        if symbol_source.is_none() {
            problems.add(
                format!("no symbols: neither `vmlinux` nor `System.map` is in `{}`", objdir.display()),
                "build the kernel first, or name its symbols with --symbols",
            );
        }
        let release = problems.take(
            read(&objdir.join("include/config/kernel.release")).map(|text| text.trim().to_owned()),
            "the build directory was not prepared; build the kernel first",
        );
        let compiler = config.as_ref().and_then(|config| {
            refusals.extend(config.refusals());
            let compiler = Compiler::choose(config, |name| variable(&make_vars, name));
            let compiler =
                problems.take(compiler, "install the compiler that built the kernel, or name it with CC=")?;
            refusals.extend(compiler.refusal(config));
            Some(compiler)
        });
        for path in [&request.image, &request.symbols].into_iter().flatten().filter(|path| !path.is_file()) {
            problems.add(format!("failed to find `{}`", path.display()), "check the path");
        }
        if !problems.0.is_empty() {
            problems.0.extend(refusals.into_iter().map(|r| (r.to_string(), r.advice)));
            return Err(problems.into());
        }
        if !refusals.is_empty() {
            return Err(Refused(refusals).into());
        }
        let (Some(config), Some(abi), Some(symvers), Some(symbol_source), Some(release), Some(compiler)) =
            (config, abi, symvers, symbol_source, release, compiler)
        else {
            return Err(problems.into());
        };
        let built = modules_of_build(&objdir);
        let module_names = built.as_ref().map(|modules| modules.keys().cloned().collect());
        let module_files = match &request.modules {
            Some(dir) => find_modules(dir),
            None => built.unwrap_or_default(),
        };
        Ok(Kernel {
            module_build_dir: objdir.clone(),
            image: request.image.clone().or_else(|| Some(objdir.join("vmlinux")).filter(|path| path.is_file())),
            jobs: match request.jobs {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                jobs => jobs,
            },
            source,
            objdir,
            release,
            config,
            symvers,
            symvers_path,
            abi,
            compiler,
            make_vars,
            symbol_source,
            module_files,
            module_names,
            tables: Default::default(),
            text_tables: Default::default(),
        })
    }
}

/// Source tree and build directory, absolute and canonical.
fn directories(request: &KernelRequest) -> Result<(PathBuf, PathBuf)> {
    let mut problems = Problems::default();
    let canonical =
        |path: &Path| path.canonicalize().with_context(|| format!("failed to find the directory `{}`", path.display()));
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
        (None, None) => unreachable!("one of both is always set"),
    };
    if !is_source(&source) {
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

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))
}

/// The environment's variables that kbuild takes, then the request's, which win.
fn make_variables(named: &[(String, String)]) -> Vec<(String, String)> {
    const TAKEN: [&str; 5] = ["ARCH", "CROSS_COMPILE", "LLVM", "LLVM_IAS", "CC"];
    let mut list: Vec<(String, String)> = TAKEN
        .iter()
        .filter(|name| !named.iter().any(|(n, _)| n == *name))
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    list.extend(named.iter().cloned());
    list
}

fn variable(list: &[(String, String)], name: &str) -> Option<String> {
    list.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(config: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["Kbuild", "scripts/Kbuild.include", "include/linux/kernel.h"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        if let Some(config) = config {
            std::fs::write(dir.path().join(".config"), config).unwrap();
        }
        dir
    }

    fn open(dir: &Path) -> String {
        let request = KernelRequest { source: Some(dir.to_owned()), ..KernelRequest::default() };
        Kernel::open(&request).unwrap_err().to_string()
    }

    /// A directory that is no kernel says so, whatever else is missing in it.
    #[test]
    fn not_a_kernel() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).contains("is not a Linux source tree"));
    }

    /// No .config, no exports, no symbols: one run tells all, not the first.
    #[test]
    fn everything_missing_at_once() {
        let text = open(tree(None).path());
        for part in [".config`", "Module.symvers`", "neither `vmlinux` nor `System.map`"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    /// A kernel without livepatching is told so even when the tree is not built either.
    #[test]
    fn refusals_are_not_hidden_by_problems() {
        let text = open(tree(Some("CONFIG_X86_64=y\nCONFIG_MODULES=y\n")).path());
        assert!(text.contains("CONFIG_LIVEPATCH") && text.contains("Module.symvers"), "{text}");
    }
}
