//! `klp-build cache`: what is kept from run to run, and how to be rid of it.
//!
//! Two things are: objects of unpatched units, bounded in bytes, and the private build directories of kernels that are only
//! configured, bounded in number. Both are safe to take away at any time: a run that misses something makes it again.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{document, put, status};
use crate::compile::{ObjectCache, size};
use crate::kernel::trees::{self, Trees};
use crate::report::SCHEMA;

/// What to do with the cache.
#[derive(Debug, Args)]
pub(super) struct Opts {
    #[command(subcommand)]
    what: Option<What>,
    /// Print it as JSON (docs/json.md).
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Where it is, what is in it, and its bounds (the default).
    Show,
    /// Take out what was not used for longest, down to the bounds, and what killed runs left.
    Prune {
        /// Bytes of objects to keep, with K, M or G [default: the bound].
        #[arg(long, value_name = "SIZE")]
        to: Option<String>,
    },
    /// Take everything out that no run is using.
    Clear,
}

#[derive(Serialize)]
struct Shown<'a> {
    schema: u32,
    objects: Objects<'a>,
    trees: Kept<'a>,
}

#[derive(Serialize)]
struct Objects<'a> {
    directory: &'a Path,
    entries: usize,
    bytes: u64,
    limit_bytes: u64,
}

#[derive(Serialize)]
struct Kept<'a> {
    directory: &'a Path,
    entries: usize,
    bytes: u64,
    limit_entries: usize,
}

/// Does it, shows what is there then, and gives the exit status.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let Some(objects) = ObjectCache::of_user()? else {
        bail!("failed to find the user's cache directory: set HOME or XDG_CACHE_HOME");
    };
    let trees = Trees::of_user().context("failed to find the user's cache directory")?;
    match &opts.what {
        None | Some(What::Show) => {}
        Some(What::Prune { to }) => {
            match to {
                None => objects.trim(),
                Some(text) => {
                    let limit = size(text).with_context(|| format!("failed to understand `--to {text}`"))?;
                    ObjectCache::new(objects.dir(), limit).trim();
                }
            }
            trees.trim(trees::LIMIT);
        }
        Some(What::Clear) => {
            objects.clear();
            trees.trim(0);
        }
    }
    let (held, kept) = (objects.usage(), trees.usage());
    let shown = Shown {
        schema: SCHEMA,
        objects: Objects {
            directory: objects.dir(),
            entries: held.entries,
            bytes: held.bytes,
            limit_bytes: objects.limit(),
        },
        trees: Kept { directory: trees.dir(), entries: kept.entries, bytes: kept.bytes, limit_entries: trees::LIMIT },
    };
    if opts.json {
        document(&shown)?;
    } else {
        let mut out = Vec::new();
        text(&shown, &mut out)?;
        put(&out)?;
    }
    Ok(status::DONE)
}

fn text(shown: &Shown<'_>, out: &mut dyn Write) -> std::io::Result<()> {
    let Shown { objects, trees, .. } = shown;
    writeln!(out, "objects: {}", objects.directory.display())?;
    writeln!(out, "  {}, {} of {}", count(objects.entries), bytes(objects.bytes), bytes(objects.limit_bytes))?;
    writeln!(out, "build directories: {}", trees.directory.display())?;
    writeln!(out, "  {} of {}, {}", count(trees.entries), trees.limit_entries, bytes(trees.bytes))
}

fn count(entries: usize) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes for people.
    #[test]
    fn sizes() {
        assert_eq!([bytes(0), bytes(2048), bytes(3 << 29)], ["0 bytes", "2.0 KiB", "1.5 GiB"]);
        assert_eq!([count(0), count(1)], ["0 entries", "1 entry"]);
    }
}
