//! `klp-build verify FILE.c...` (hidden): is every function of these files in the kernel as it compiles here?
//!
//! In: a kernel and source files. Out: a line per function that is not, and counts. Tests call it; so may a
//! person who wants to know whether a compiler fits a kernel before there is a patch.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::kernel::Kernels;
use super::{document, put, status};
use crate::compile;
use crate::diff::atoms::Side;
use crate::elf;
use crate::kernel::Kernel;
use crate::verify::{self, Finding, Loaded, Outcome};

/// Which files of which kernel.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// Source files, relative to the source tree.
    #[arg(value_name = "FILE.c", required = true)]
    files: Vec<PathBuf>,
    /// Another option for the compiler, to see that it is noticed.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    flag: Vec<String>,
    /// Jobs at a time [default: the number of processors].
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kernel: Kernels,
}

/// One file's answer.
#[derive(Serialize)]
struct Answer {
    unit: String,
    object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    equal: usize,
    findings: Vec<Finding>,
}

/// Compiles, verifies, prints; status 1 when a function is not as compiled.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let request = opts.kernel.one("verify", opts.jobs)?;
    let kernel = Kernel::open(&request)?;
    let mut units = kernel.units_reached_by(&opts.files)?.units;
    units.retain(|unit| opts.files.contains(&unit.source));
    for unit in &mut units {
        unit.command.extend(opts.flag.iter().cloned());
    }
    let work = tempfile::Builder::new().prefix("klp-build-").tempdir().context("failed to make a work directory")?;
    let tree = compile::Tree { source: kernel.source().to_path_buf(), objdir: kernel.objdir().to_path_buf() };
    let options = compile::Options {
        jobs: request.jobs,
        debug: false,
        launcher: Vec::new(),
        cache: None,
        work: work.path(),
        progress: &|_| (),
    };
    let objects = compile::compile_originals(&units, &tree, &options)?;
    let mut loaded: HashMap<String, Loaded> = HashMap::new();
    let mut answers = Vec::new();
    for (unit, object) in units.iter().zip(objects) {
        if !loaded.contains_key(&unit.object) {
            let found = verify::load(&kernel, &unit.object)?;
            loaded.insert(
                unit.object.clone(),
                found.context("failed to verify: no image is known; name one with --image")?,
            );
        }
        let found = object.and_then(|path| verify_object(&path, &loaded[&unit.object]));
        let (all, error) = match found {
            Ok(all) => (all, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let equal = all.iter().filter(|f| f.is_equal()).count();
        let findings = all.into_iter().filter(|f| !f.is_equal()).collect();
        let answer =
            Answer { unit: unit.source.display().to_string(), object: unit.object.clone(), error, equal, findings };
        answers.push(answer);
    }
    if opts.json {
        document(&answers)?;
    } else {
        let mut out = Vec::new();
        answers.iter().try_for_each(|answer| print(answer, &mut out))?;
        put(&out)?;
    }
    // Another file's definition, and what is freed after boot, are no code of this unit that anything could replace.
    let harmless = |f: &Finding| matches!(f.outcome, Outcome::Overridden | Outcome::Freed);
    let clean = answers.iter().all(|a| a.error.is_none() && a.findings.iter().all(harmless));
    Ok(if clean { status::DONE } else { status::REFUSED })
}

fn verify_object(path: &std::path::Path, loaded: &Loaded) -> Result<Vec<Finding>> {
    let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let object = elf::read(&bytes).context("failed to read the object")?;
    let side = Side::new(&object).context("failed to verify: this machine's code is not known")?;
    verify::verify_unit(&side, &verify::functions(&side), loaded)
}

fn print(answer: &Answer, out: &mut dyn Write) -> std::io::Result<()> {
    if let Some(error) = &answer.error {
        return writeln!(out, "{}: {}: {error}", answer.object, answer.unit);
    }
    writeln!(out, "{}: {}: {} equal, {} not", answer.object, answer.unit, answer.equal, answer.findings.len())?;
    for finding in &answer.findings {
        match &finding.outcome {
            Outcome::Equal { .. } => {}
            Outcome::Replaced { by, .. } => writeln!(out, "  {}: {by}", finding.function)?,
            Outcome::Freed => writeln!(out, "  {}: freed after boot", finding.function)?,
            Outcome::Overridden => writeln!(out, "  {}: weak, and overridden by another file's", finding.function)?,
            Outcome::NotFound { why } => writeln!(out, "  {}: not found: {why}", finding.function)?,
            Outcome::Differs(d) => {
                writeln!(out, "  {}+{:#x}: {}", finding.function, d.offset, d.what)?;
                d.original.iter().try_for_each(|line| writeln!(out, "    compiled    {line}"))?;
                d.image.iter().try_for_each(|line| writeln!(out, "    the kernel  {line}"))?;
            }
        }
    }
    Ok(())
}
