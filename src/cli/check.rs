//! `klp-build check MODULE.ko...`: would it load on this kernel, and do several conflict?

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::kernel::KernelOpts;
use super::{print, status};
use crate::kernel::Kernel;
use crate::report::{Outcome, Report};
use crate::{check, elf, inspect};

/// Which modules, for which kernel.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// Livepatch modules; several are checked against each other, too.
    #[arg(value_name = "MODULE.ko", required = true)]
    files: Vec<PathBuf>,
    /// Print the report as JSON (docs/json.md).
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kernel: KernelOpts,
}

/// Checks, prints, and gives the exit status.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let kernel = Kernel::open(&opts.kernel.request(None)?)?;
    let mut report = Report::new();
    report.kernel = Some(kernel.release().to_owned());
    let mut inspections = Vec::new();
    for path in &opts.files {
        let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let module = elf::read(&bytes).with_context(|| format!("failed to read the module `{}`", path.display()))?;
        let Some(found) = inspect::inspect(&module) else {
            bail!("`{}` is not a livepatch module: its .modinfo does not say `livepatch=Y`", path.display());
        };
        report.refusals.extend(check::check(&kernel, &module, &found)?);
        inspections.push(found);
    }
    report.refusals.extend(check::conflicts(&inspections));
    if report.refusals.is_empty() {
        if !opts.json {
            opts.files.iter().for_each(|m| println!("{}: would load on {}", m.display(), kernel.release()));
        }
    } else {
        report.outcome = Outcome::Refused;
    }
    print(&report, opts.json, false, status::DONE)
}
