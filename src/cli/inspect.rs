//! `klp-build inspect MODULE.ko`: what a livepatch module patches, whoever made it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::{document, put, read_module, status};
use crate::inspect::{self, Inspection};
use crate::report::SCHEMA;

/// Which module.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// The livepatch module.
    #[arg(value_name = "MODULE.ko")]
    module: PathBuf,
    /// Print it as JSON (docs/json.md).
    #[arg(long)]
    pub(super) json: bool,
}

/// The report for machines.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    found: &'a Inspection,
}

/// Reads, prints, and gives the exit status.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let (_, module) = read_module(&opts.module)?;
    let Some(found) = inspect::inspect(&module) else {
        bail!("`{}` is not a livepatch module: its .modinfo does not say `livepatch=Y`", opts.module.display());
    };
    if opts.json {
        document(&Document { schema: SCHEMA, found: &found })?;
    } else {
        let mut out = Vec::new();
        text(&found, &mut out)?;
        put(&out)?;
    }
    Ok(status::DONE)
}

fn text(found: &Inspection, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "module: {}", found.name)?;
    if let Some(vermagic) = &found.vermagic {
        writeln!(out, "built for: {vermagic}")?;
    }
    match (found.replace_set, found.replace, found.replace_member) {
        (Some(set), ..) => writeln!(out, "replaces: set {set}")?,
        (None, Some(true), _) => writeln!(out, "replaces: all livepatches")?,
        (None, Some(false), _) => writeln!(out, "replaces: none")?,
        (None, None, Some(0)) => writeln!(out, "replaces: none, or set 0 on a kernel with sets")?,
        (None, None, Some(set)) => writeln!(out, "replaces: all livepatches, or set {set} on a kernel with sets")?,
        (None, None, None) => writeln!(out, "replaces: not known, its tables do not say")?,
    }
    for state in &found.states {
        writeln!(out, "state: {}, version {}", state.id, state.version)?;
        if state.shadow {
            writeln!(out, "  owns the shadow variable {}", state.id)?;
        }
        for callback in &state.callbacks {
            writeln!(out, "  callback: {callback}")?;
        }
    }
    if found.states_unknown && !found.objects_unknown {
        writeln!(out, "states: there is a table of them that is not understood")?;
    }
    if found.objects_unknown {
        writeln!(out, "objects: not known, its tables are of no form that is understood")?;
    }
    for object in &found.objects {
        writeln!(out, "object: {}", object.name)?;
        for function in &object.functions {
            writeln!(out, "  function: {},{}", function.function, function.sympos)?;
        }
        for callback in &object.callbacks {
            writeln!(out, "  callback: {callback}")?;
        }
    }
    for relocation in &found.relocations {
        writeln!(
            out,
            "relocations: {} in {} for {}: {}",
            relocation.count,
            relocation.section,
            relocation.object,
            relocation.symbols.join(" ")
        )?;
    }
    for refusal in &found.broken_rules {
        writeln!(out, "breaks a rule of the loader: {}", refusal.message)?;
    }
    Ok(())
}
