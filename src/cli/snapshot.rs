//! `klp-build snapshot FILE` (hidden): copies what `--image` needs of the kernel that runs, to check it elsewhere.
//!
//! In: /proc/kcore and /proc/kallsyms of this machine. Out: a core file with the kernel's code and data and with the
//! pages of its modules and trampolines that have symbols. The file holds kernel memory: it is as secret as that.

use std::fs::OpenOptions;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::status;
use crate::kernel::kcore::Kcore;

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
    let text = std::fs::read_to_string(&opts.kallsyms)
        .with_context(|| format!("failed to read symbols from `{}`", opts.kallsyms.display()))?;
    let (start, others) = addresses(&text);
    let start = start.filter(|start| *start > 0).context(
        "failed to copy: the symbols have no address of `_text`; read them as root, with kernel.kptr_restrict at 0 or 1",
    )?;
    let size = core.size_from(start).context("failed to copy: the memory has no kernel where its symbols say")?;
    let own = std::iter::once(start..start.saturating_add(size));
    let ranges: Vec<Range<u64>> = own.chain(others.into_iter().map(|at| at..at.saturating_add(REACH))).collect();
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

/// Where `_text` is, and everything that is not the kernel's own. Not parsed as a table: this runs on the machine that is
/// looked at, and has no use for two hundred thousand names.
fn addresses(kallsyms: &str) -> (Option<u64>, Vec<u64>) {
    let address = |line: &str| u64::from_str_radix(line.split(' ').next()?, 16).ok();
    let text = kallsyms.lines().find(|line| line.ends_with(" _text")).and_then(address);
    let others = kallsyms.lines().filter(|line| line.contains('\t')).filter_map(address).filter(|at| *at > 0);
    (text, others.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules and trampolines are copied with the kernel; without addresses there is nothing to copy.
    #[test]
    fn what_is_copied() {
        let text = "ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81000010 t show\n\
                    ffffffffc0000000 t show\t[livepatch_x]\nffffffffc0002000 t ftrace_trampoline\t[__builtin__ftrace]\n";
        assert_eq!(addresses(text), (Some(0xffff_ffff_8100_0000), vec![0xffff_ffff_c000_0000, 0xffff_ffff_c000_2000]));
        assert_eq!(addresses("0000000000000000 T _text\n0000000000000000 t show\t[x]\n"), (Some(0), vec![]));
    }
}
