//! The options that say which kernel is meant, shared by the subcommands that need one.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::kernel::KernelRequest;

/// Which kernel.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel")]
pub(super) struct KernelOpts {
    /// Kernel source tree [default: the current directory].
    #[arg(short, long, value_name = "DIR")]
    kernel: Option<PathBuf>,
    /// Its build directory (O=), built or merely configured [default: the source tree].
    #[arg(short = 'O', long, value_name = "DIR")]
    objdir: Option<PathBuf>,
    /// An installed distribution kernel [default when left out: the running one].
    #[arg(long, value_name = "KVER", num_args = 0..=1, require_equals = true)]
    release: Option<Option<String>>,
    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its Module.symvers.
    #[arg(long, value_name = "FILE")]
    symvers: Option<PathBuf>,
    /// Its symbol table: vmlinux, System.map, or a copy of /proc/kallsyms.
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// Its image: vmlinuz, vmlinux, or /proc/kcore.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The directory with its modules.
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// A variable for make, as kbuild takes it (CC, LLVM, ARCH, CROSS_COMPILE are taken from the environment).
    #[arg(long, value_name = "VAR=VALUE")]
    make: Vec<String>,
}

impl KernelOpts {
    /// The checked request.
    pub(super) fn request(&self, jobs: Option<usize>) -> Result<KernelRequest> {
        let mut make_vars = Vec::new();
        for variable in ["ARCH", "CROSS_COMPILE", "LLVM", "CC"] {
            if let Ok(value) = std::env::var(variable) {
                make_vars.push((variable.to_owned(), value));
            }
        }
        for variable in &self.make {
            match variable.split_once('=') {
                Some((name, value)) if !name.is_empty() => make_vars.push((name.to_owned(), value.to_owned())),
                _ => bail!("failed to understand `--make {variable}`: it is not VAR=VALUE"),
            }
        }
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(KernelRequest {
            source: self.kernel.clone(),
            objdir: self.objdir.clone(),
            release: self.release.clone(),
            config: self.config.clone(),
            symvers: self.symvers.clone(),
            symbols: self.symbols.clone(),
            image: self.image.clone(),
            modules: self.modules.clone(),
            make_vars,
            jobs: jobs.filter(|j| *j > 0).unwrap_or_else(processors),
        })
    }
}
