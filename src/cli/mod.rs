//! The command line: one file per subcommand, each with its options and a `run`.
//!
//! `klp-build PATCH...` builds, without a subcommand's name, as upstream's tool does.

mod build;
mod cache;
mod check;
mod completions;
mod diff;
mod inspect;
mod kernel;
mod many;
mod snapshot;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::elf;
use crate::error::{Refused, ToolFailure};
use crate::kernel::codec;
use crate::report::{Outcome, Report, human};

/// Exit statuses, a contract with scripts.
pub mod status {
    /// Done: the module is there, or a verdict was reached.
    pub const DONE: u8 = 0;
    /// The inputs were understood, and the answer is no.
    pub const REFUSED: u8 = 1;
    /// Usage, I/O, or broken input.
    pub const BROKEN: u8 = 2;
    /// The compiler or kbuild failed.
    pub const TOOL_FAILED: u8 = 3;
    /// The patch changes no code, so there is no module.
    pub const UNCHANGED: u8 = 4;
}

const AFTER_HELP: &str = "\
Examples:
  Build a livepatch for the kernel tree in the current directory, replacing what set 2 had:
    $ klp-build -s 2 fix.patch
    vmlinux: changed function: meminfo_proc_show
    livepatch-fix.ko

  For a tree that was built elsewhere, with one job:
    $ klp-build -k ~/linux -O ~/build -j 1 -o livepatch-fix.ko fix.patch

  What two objects differ in:
    $ klp-build diff meminfo.orig.o meminfo.o

Exit status:
  0  done: the module is there (diff: a verdict was reached, also \"nothing changed\")
  1  refused: the inputs were understood and the answer is no
  2  usage, I/O, or a broken input
  3  the compiler or kbuild failed
  4  the patch changes no code, so there is no module";

/// Turns a source patch into a livepatch module for the kernel that runs.
#[derive(Debug, Parser)]
#[command(name = "klp-build", version, disable_version_flag = true, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    build: build::Opts,
    /// Print the version.
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: (),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The function-by-function verdict on two objects; no kernel is needed.
    Diff(diff::Opts),
    /// What a livepatch module patches: of any tool's making.
    Inspect(inspect::Opts),
    /// Would a livepatch module load on a kernel, and what does it conflict with?
    Check(check::Opts),
    /// What is kept from run to run: show it, prune it, clear it.
    Cache(cache::Opts),
    /// Does the kernel hold what these source files compile to? For tests and for reports of trouble.
    #[command(hide = true)]
    Verify(verify::Opts),
    /// Copy the memory of the kernel that runs as far as `--image` needs it, to check it on another machine.
    #[command(hide = true)]
    Snapshot(snapshot::Opts),
    /// Print a completion script for a shell, or the manual page.
    Completions(completions::Opts),
}

/// Runs the program and gives its exit status.
pub fn main() -> ExitCode {
    if let Err(error) = crate::compile::run::on_signals() {
        eprintln!("error: {error:#}");
        return ExitCode::from(status::BROKEN);
    }
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Diff(opts)) => diff::run(opts),
        Some(Command::Inspect(opts)) => inspect::run(opts),
        Some(Command::Check(opts)) => check::run(opts),
        Some(Command::Cache(opts)) => cache::run(opts),
        Some(Command::Verify(opts)) => verify::run(opts),
        Some(Command::Snapshot(opts)) => snapshot::run(opts),
        Some(Command::Completions(opts)) => completions::run(opts),
        None => build::run(&cli.build),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => ExitCode::from(failed(&error)),
    }
}

/// Says what went wrong, outermost first, and gives the exit status of its kind.
fn failed(error: &anyhow::Error) -> u8 {
    if error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    {
        return status::BROKEN;
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        let report = Report { refusals: refused.0.clone(), outcome: Outcome::Refused, ..Report::new() };
        human::talk(&report, false);
        return status::REFUSED;
    }
    let style = human::Style::of_stderr();
    let mut chain = error.chain();
    if let Some(first) = chain.next() {
        eprintln!("{}: {first}", style.paint("1;31", "error"));
    }
    for cause in chain {
        eprintln!("  caused by: {cause}");
    }
    status_of(error)
}

/// The exit status of an error's kind.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Refused>().is_some() {
        return status::REFUSED;
    }
    let tool = error.chain().any(|e| e.downcast_ref::<ToolFailure>().is_some());
    if tool { status::TOOL_FAILED } else { status::BROKEN }
}

/// Prints a report as asked for, and gives its exit status.
fn print(report: &Report, json: bool, verbose: bool, unchanged: u8) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    human::talk(report, verbose);
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        std::io::Write::write_all(&mut out, b"\n")?;
    } else {
        human::result(report, &mut out)?;
    }
    Ok(match report.outcome {
        Outcome::Done => status::DONE,
        Outcome::Refused => status::REFUSED,
        Outcome::Unchanged => unchanged,
        Outcome::Failed => status::BROKEN,
    })
}

/// A module's bytes, unpacked where the file is compressed, and what they are.
fn read_module(path: &Path) -> anyhow::Result<(Vec<u8>, elf::Object)> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let read = |bytes: Vec<u8>| -> anyhow::Result<_> {
        let bytes = codec::plain(bytes)?;
        let module = elf::read(&bytes)?;
        Ok((bytes, module))
    };
    read(bytes).with_context(|| format!("failed to read the module `{}`", path.display()))
}

/// The command's definition, for completions and the manual page.
fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the definition itself: clap finds clashes of names only when asked.
    #[test]
    fn definition_is_sound() {
        definition().debug_assert();
    }
}
