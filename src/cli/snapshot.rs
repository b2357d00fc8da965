//! `klp-build snapshot FILE` (hidden): copies what `--image` needs of the kernel that runs, to check it elsewhere.
//!
//! In: /proc/kcore and /proc/kallsyms of this machine. Out: a core file with the kernel's code and data and with the
//! pages of its modules and trampolines that have symbols. The file holds kernel memory: it is as secret as that.

use std::fs::OpenOptions;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::status;
use crate::kernel::kcore::Kcore;
use crate::kernel::text_table;

/// Bytes after a symbol that are copied with it: a trampoline has one symbol only.
const REACH: u64 = 4096;

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// The file to write, or a block device.
    #[arg(value_name = "FILE")]
    output: PathBuf,
    /// The memory to copy from.
    #[arg(long, value_name = "FILE", default_value = "/proc/kcore")]
    kcore: PathBuf,
    /// Its symbols.
    #[arg(long, value_name = "FILE", default_value = "/proc/kallsyms")]
    kallsyms: PathBuf,
}

/// Copies.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let core = Kcore::open(&opts.kcore)?
        .with_context(|| format!("failed to read `{}`: it is no core file", opts.kcore.display()))?;
    let symbols = read_symbols(&opts.kallsyms)?;
    let text = symbols.vmlinux.unique("_text").context("failed to copy: the symbols have no `_text`")?.address;
    let size = core.size_from(text).context("failed to copy: the memory has no kernel where its symbols say")?;
    let own = std::iter::once(text..text.saturating_add(size));
    let others = symbols.modules.values().flat_map(|table| &table.symbols);
    let ranges: Vec<Range<u64>> = own.chain(others.map(|s| s.address..s.address.saturating_add(REACH))).collect();
    // Not created anew when it is a device.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&opts.output)
        .with_context(|| format!("failed to write `{}`", opts.output.display()))?;
    core.copy(&ranges, &mut file)
        .and_then(|()| Ok(file.sync_all()?))
        .with_context(|| format!("failed to copy the kernel's memory to `{}`", opts.output.display()))?;
    Ok(status::DONE)
}

fn read_symbols(path: &Path) -> Result<text_table::TextTables> {
    std::fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| text_table::parse(&text))
        .with_context(|| format!("failed to read symbols from `{}`", path.display()))
}
