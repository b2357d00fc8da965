//! `klp-build check MODULE.ko...`: would they load on this kernel, beside what is loaded there, and what would come of it?

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::kernel::Kernels;
use super::{document, put, read_module, status};
use crate::check::live::Watched;
use crate::check::peers::Peer;
use crate::check::{self, Candidate, Checked, Finding, Live, Severity, Verdict, loaded};
use crate::inspect;
use crate::kernel::Kernel;
use crate::report::{Outcome, SCHEMA, human, say};

/// Which modules, for which kernel, beside what.
#[derive(Debug, Args)]
pub(super) struct Opts {
    /// Livepatch modules, in the order in which they would be loaded.
    #[arg(value_name = "MODULE.ko", required = true)]
    files: Vec<PathBuf>,
    /// What is loaded already: /sys/kernel/livepatch or a copy of it, or a module's file, which tells more; several times.
    #[arg(long, value_name = "DIR|MODULE.ko")]
    loaded: Vec<PathBuf>,
    /// A copy of /sys/kernel/debug/kprobes/list.
    #[arg(long, value_name = "FILE")]
    kprobes: Option<PathBuf>,
    /// A copy of /sys/kernel/tracing/enabled_functions.
    #[arg(long, value_name = "FILE")]
    traced: Option<PathBuf>,
    /// Print the report as JSON (docs/json.md).
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kernel: Kernels,
}

/// The report for machines.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    outcome: Outcome,
    kernel: &'a str,
    modules: &'a [Verdict],
    refusals: Vec<&'a Finding>,
    warnings: Vec<&'a Finding>,
    notes: &'a [String],
}

/// Checks, prints, and gives the exit status.
pub(super) fn run(opts: &Opts) -> Result<u8> {
    let kernel = Kernel::open(&opts.kernel.one("check", None)?)?;
    let candidates = opts.files.iter().map(|path| candidate(path)).collect::<Result<Vec<_>>>()?;
    let live = live(opts, &kernel)?;
    let checked = check::check(&kernel, &candidates, &live)?;
    let refused = checked.verdicts.iter().any(|verdict| !verdict.loads);
    talk(&checked);
    if opts.json {
        let of = |severity| checked.findings.iter().filter(|f| f.severity == severity).collect();
        let report = Report {
            schema: SCHEMA,
            outcome: if refused { Outcome::Refused } else { Outcome::Done },
            kernel: kernel.release(),
            modules: &checked.verdicts,
            refusals: of(Severity::Error),
            warnings: of(Severity::Warning),
            notes: &checked.notes,
        };
        document(&report)?;
    } else {
        let mut out = Vec::new();
        for verdict in &checked.verdicts {
            let would = match (verdict.loads, verdict.is_known) {
                (true, _) => "would load on",
                (false, true) => "would be refused by",
                (false, false) => "cannot be judged for",
            };
            writeln!(out, "{}: {would} {}", verdict.file, kernel.release())?;
            verdict.replaces.iter().try_for_each(|name| writeln!(out, "  replaces `{name}`"))?;
        }
        put(&out)?;
    }
    Ok(if refused { status::REFUSED } else { status::DONE })
}

fn talk(checked: &Checked) {
    let style = human::Style::of_stderr();
    for Finding { severity, what, .. } in &checked.findings {
        let (colour, word) = match severity {
            Severity::Error => ("1;31", "refused"),
            Severity::Warning => ("1;33", "warning"),
        };
        say(format_args!("{}: {what}", style.paint(colour, word)));
        say(format_args!("  {}: {}", style.paint("1", "advice"), what.advice));
    }
    for note in &checked.notes {
        say(format_args!("{}: {note}", style.paint("36", "note")));
    }
}

fn candidate(path: &Path) -> Result<Candidate> {
    let (bytes, object) = read_module(path)?;
    let Some(found) = inspect::inspect(&object) else {
        bail!("`{}` is not a livepatch module: its .modinfo does not say `livepatch=Y`", path.display());
    };
    // scripts/sign-file.c ends a signed module with this line.
    let is_signed = bytes.ends_with(b"~Module signature appended~\n");
    Ok(Candidate { file: path.display().to_string(), object, is_signed, found })
}

fn live(opts: &Opts, kernel: &Kernel) -> Result<Live> {
    let has = kernel.abi().replace;
    let mut peers: Vec<Peer> = Vec::new();
    let (directories, files): (Vec<_>, Vec<_>) = opts.loaded.iter().partition(|path| path.is_dir());
    for dir in directories {
        peers.extend(loaded::read(dir, has)?);
    }
    for path in files {
        let peer = Peer::of(&candidate(path)?.found, has);
        match peers.iter_mut().find(|known| known.name == peer.name) {
            Some(known) => known.learn(peer),
            None => peers.push(peer),
        }
    }
    let mut watched = Watched::default();
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()));
    let what = |path: &Path| format!("failed to understand `{}`", path.display());
    if let Some(path) = &opts.kprobes {
        watched.kprobes(&read(path)?).with_context(|| what(path))?;
    }
    if let Some(path) = &opts.traced {
        watched.traced(&read(path)?).with_context(|| what(path))?;
    }
    Ok(Live { peers, watched })
}
