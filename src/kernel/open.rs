//! From what the user named to a [`Kernel`]: everything that is wrong with it is said at once, with advice.
//!
//! First the parts are found ([`super::parts`], [`super::release`]), then each is read and checked, and only
//! when nothing is wrong a private build directory is prepared, where one is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::abi::Abi;
use super::compiler::Compiler;
use super::config::Config;
use super::configured::{self, Recipe};
use super::module_files::ModuleFiles;
use super::parts::{self, Parts, Problems};
use super::release;
use super::symvers::Symvers;
use super::tree::Kernel;
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

impl Kernel {
    /// Reads the kernel that the request names, and prepares a private build directory when it is not built.
    pub fn open(request: &KernelRequest) -> Result<Kernel> {
        let parts = match &request.release {
            Some(release) => release::of_release(request, release.as_deref())?,
            None => parts::of_tree(request)?,
        };
        let mut make_vars = make_variables(&request.make_vars);
        let jobs = match request.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        let facts = Facts::read(&parts, &make_vars)?;
        // kbuild would call `gcc`, which may be another one than the kernel's.
        if !["CC", "LLVM"].iter().any(|name| variable(&make_vars, name).is_some()) {
            let cross = variable(&make_vars, "CROSS_COMPILE").unwrap_or_default();
            make_vars.extend(facts.compiler.make_variable(&facts.config, &cross));
        }
        let private = match &parts.built {
            Some(_) => None,
            None => Some(configured::prepare(Recipe {
                source: &parts.source,
                config_text: &facts.config_text,
                config: &facts.config,
                symvers: &parts.symvers,
                compiler: &facts.compiler,
                make_vars: &make_vars,
                release: parts.release.as_deref(),
                jobs,
            })?),
        };
        let (source, objdir) = match (&private, parts.built) {
            (Some(private), _) => (private.source.clone(), private.objdir.clone()),
            (None, built) => (parts.source.clone(), built.unwrap_or(parts.source)),
        };
        let release = match parts.release {
            Some(release) => release,
            None => read(&objdir.join("include/config/kernel.release"))?.trim().to_owned(),
        };
        let built = if private.is_some() { None } else { ModuleFiles::of_build(&objdir) };
        let module_names = built.as_ref().map(|modules| modules.names().map(str::to_owned).collect());
        let module_files = match &parts.modules {
            Some(dir) => ModuleFiles::below(dir),
            None => built.unwrap_or_default(),
        };
        Ok(Kernel {
            module_build_dir: parts.headers.unwrap_or_else(|| objdir.clone()),
            image: parts.image,
            jobs,
            source,
            objdir,
            release,
            config: facts.config,
            symvers: facts.symvers,
            symvers_path: parts.symvers,
            abi: facts.abi,
            compiler: facts.compiler,
            make_vars,
            symbol_source: facts.symbols,
            module_files,
            running: parts.running,
            module_names,
            private,
            tables: Default::default(),
            text_tables: Default::default(),
        })
    }
}

/// What the parts say.
struct Facts {
    config_text: String,
    config: Config,
    abi: Abi,
    symvers: Symvers,
    symbols: PathBuf,
    compiler: Compiler,
}

impl Facts {
    /// Reads and checks all parts; problems come before refusals, and neither hides the other.
    fn read(parts: &Parts, make_vars: &[(String, String)]) -> Result<Facts> {
        let mut problems = Problems::default();
        let mut refusals: Vec<Refusal> = Vec::new();
        let config = problems.take(
            read(&parts.config).and_then(|text| {
                let config =
                    Config::parse(&text).with_context(|| format!("failed to parse `{}`", parts.config.display()))?;
                Ok((text, config))
            }),
            "configure the tree first, or name the kernel's configuration with --config",
        );
        if let (Some((_, config)), Some(objdir)) = (&config, &parts.built) {
            check_config_of_build(config, objdir, &mut problems);
        }
        let header = parts.source.join("include/linux/livepatch.h");
        let abi = config.as_ref().and_then(|(_, config)| {
            let abi = read(&header).and_then(|text| {
                Abi::parse(&text, config).with_context(|| format!("failed to understand `{}`", header.display()))
            });
            // Without LIVEPATCH the header has no structures; that refusal says it better.
            if abi.is_err() && !config.is_y("LIVEPATCH") {
                return None;
            }
            problems.take(abi, "klp-build reads the livepatch interface from this header; is the source tree complete?")
        });
        let symvers = problems.take(
            Symvers::read(&parts.symvers),
            "build the kernel first, or name the Module.symvers of the kernel that runs with --symvers",
        );
        if parts.symbols.is_none() {
            problems.add(
                "no symbols of the kernel: neither `vmlinux` nor `System.map` is in the build directory",
                "build the kernel first, or name its symbols with --symbols or its image with --image",
            );
        }
        let compiler = config.as_ref().and_then(|(_, config)| {
            refusals.extend(config.refusals());
            let compiler = Compiler::choose(config, |name| variable(make_vars, name));
            let compiler =
                problems.take(compiler, "install the compiler that built the kernel, or name it with CC=")?;
            refusals.extend(compiler.refusal(config));
            Some(compiler)
        });
        for path in [&parts.image, &parts.symbols].into_iter().flatten().filter(|path| !path.is_file()) {
            let shown = path.display();
            let what = match path.exists() {
                true => format!("failed to read `{shown}`: it is not a regular file"),
                false => format!("failed to find `{shown}`"),
            };
            problems.add(what, "check the path");
        }
        for path in parts.modules.iter().filter(|path| !path.is_dir()) {
            problems.add(format!("failed to find the directory `{}`", path.display()), "check --modules");
        }
        if problems.0.is_empty() && !refusals.is_empty() {
            return Err(Refused(refusals).into());
        }
        problems.0.extend(refusals.into_iter().map(|r| (r.to_string(), r.advice)));
        match (config, abi, symvers, parts.symbols.clone(), compiler) {
            (Some((config_text, config)), Some(abi), Some(symvers), Some(symbols), Some(compiler))
                if problems.0.is_empty() =>
            {
                Ok(Facts { config_text, config, abi, symvers, symbols, compiler })
            }
            _ => Err(problems.into()),
        }
    }
}

/// The objects were made with include/config/auto.conf (Makefile, `syncconfig`); `.config` may have changed since.
fn check_config_of_build(config: &Config, objdir: &Path, problems: &mut Problems) {
    let advice = "build the kernel again with this configuration, or put back the one it was built with";
    let used = read(&objdir.join("include/config/auto.conf")).and_then(|text| Config::parse(&text));
    let Some(used) = problems.take(used, "build the kernel first") else { return };
    let changes = configured::changes(&used, config);
    if !changes.is_empty() {
        let shown = changes[..changes.len().min(5)].join(", ");
        problems.add(format!("the configuration was changed after the kernel was built: {shown}"), advice);
    }
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

    /// Objects of one configuration must not be patched under another.
    #[test]
    fn changed_configuration() {
        let dir = tree(Some("CONFIG_X86_64=y\nCONFIG_B=y\n"));
        for (file, text) in
            [("init/.main.o.cmd", ""), ("Module.symvers", ""), ("include/config/auto.conf", "CONFIG_X86_64=y\n")]
        {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert!(open(dir.path()).contains("CONFIG_B=n -> y"), "{}", open(dir.path()));
    }

    /// A kernel without livepatching is told so even when the tree is not built either.
    #[test]
    fn refusals_are_not_hidden_by_problems() {
        let text = open(tree(Some("CONFIG_X86_64=y\nCONFIG_MODULES=y\n")).path());
        assert!(text.contains("CONFIG_LIVEPATCH") && text.contains("Module.symvers"), "{text}");
    }
}
