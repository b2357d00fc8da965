//! The command line: one file per subcommand, each with its options and a `run`.
//!
//! `klp-build PATCH...` builds, without a subcommand's name, as upstream's tool does.

mod arguments;
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

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::compile::run;
use crate::error::{Refused, ToolFailure};
use crate::kernel::codec;
use crate::report::{Outcome, Report, human, say};
use crate::{elf, kernel as kernels, output, patch, workdir};

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
// As getopt(3) reads the options of upstream's tool: a repeated one counts as it was given last, and names may be cut short.
#[command(args_override_self = true, infer_long_args = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the version.
    #[arg(short = 'V', long, action = clap::ArgAction::Version, display_order = 900)]
    version: (),
    #[command(flatten)]
    build: build::Opts,
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
    let line = arguments::complete(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(&line) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() {
                if line.iter().any(|argument| argument == "--json") {
                    let text = error.render().to_string();
                    let what: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
                    let what = what.join(" ").trim_start_matches("error: ").to_owned();
                    let _ = document(&Report { error: vec![what], outcome: Outcome::Failed, ..Report::new() });
                }
                if line.get(1).is_some_and(|first| first.as_encoded_bytes().starts_with(b"-")) {
                    line.iter().skip(2).for_each(advise);
                }
                return ExitCode::from(status::BROKEN);
            }
            return ExitCode::from(status::DONE);
        }
    };
    let is_caught = run::on_signals(workdir::was_made, || {
        workdir::remove_live();
        // Held until the end.
        std::mem::forget(output::stop());
    });
    if let Err(error) = is_caught {
        return ExitCode::from(failed(&error, false));
    }
    let (result, json) = match &cli.command {
        Some(Command::Diff(opts)) => (diff::run(opts), opts.json),
        Some(Command::Inspect(opts)) => (inspect::run(opts), opts.json),
        Some(Command::Check(opts)) => (check::run(opts), opts.json),
        Some(Command::Cache(opts)) => (cache::run(opts), opts.json),
        Some(Command::Verify(opts)) => (verify::run(opts), opts.json),
        Some(Command::Snapshot(opts)) => (snapshot::run(opts), false),
        Some(Command::Completions(opts)) => (completions::run(opts), false),
        None => (build::run(&cli.build), cli.build.json),
    };
    let status = result.unwrap_or_else(|error| {
        let status = failed(&error, json);
        if cli.command.is_none() {
            cli.build.patches.iter().for_each(|patch| advise(patch.as_os_str()));
            if let Some(patch) = cli.build.patches.first() {
                advise_instead(patch.as_os_str());
            }
        }
        status
    });
    if status != status::DONE {
        run::end_by_signal();
    }
    ExitCode::from(status)
}

/// Says where a subcommand's options stand, when its name was taken for a patch because options stand before it.
fn advise(argument: impl AsRef<OsStr>) {
    let argument = Path::new(argument.as_ref());
    if !argument.exists() && subcommands().iter().any(|name| Path::new(name) == argument) {
        let name = argument.display();
        say(format_args!("  options of `{name}` stand behind its name: klp-build {name} [OPTIONS] ..."));
    }
}

/// Says which subcommands there are, when a word that is no file stands for the first patch: it may be meant as one.
fn advise_instead(patch: &OsStr) {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase());
    let (names, word) = (subcommands(), patch.to_str().filter(|text| is_word(text)));
    if let Some(word) = word.filter(|word| !names.iter().any(|name| name == word) && !Path::new(word).exists()) {
        say(format_args!("  nor is there a subcommand `{word}`: they are {}", names.join(", ")));
    }
}

/// The names that `--help` shows.
fn subcommands() -> Vec<String> {
    let definition = definition();
    let shown = definition.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// Says what went wrong, outermost first, and gives the exit status of its kind. As JSON too, where that was asked for: who reads it
/// finds a document, whatever happened.
fn failed(error: &anyhow::Error, json: bool) -> u8 {
    let is_unwritable = error.downcast_ref::<Unwritable>().is_some();
    let mut causes = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
    if is_unwritable && causes.any(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        // Who read it knows.
        return status::BROKEN;
    }
    let report = report_of(error);
    human::talk(&report, false);
    if report.outcome == Outcome::Failed {
        say_error(error);
    }
    if json && !is_unwritable {
        let _ = document(&report);
    }
    status_of(error)
}

fn say_error(error: &anyhow::Error) {
    let word = human::Style::of_stderr().paint("1;31", "error");
    let mut chain = error.chain();
    if let Some(first) = chain.next() {
        for problem in problems(first).unwrap_or_else(|| vec![first.to_string()]) {
            say(format_args!("{word}: {problem}"));
        }
    }
    for cause in chain {
        match problems(cause) {
            Some(problems) => problems.iter().for_each(|problem| say(format_args!("  caused by: {problem}"))),
            None => say(format_args!("  caused by: {cause}")),
        }
    }
}

/// The single problems of an error that is several.
fn problems(error: &(dyn std::error::Error + 'static)) -> Option<Vec<String>> {
    if let Some(patch::Problems(all)) = error.downcast_ref() {
        return Some(all.clone());
    }
    let kernels::parts::Problems(all) = error.downcast_ref()?;
    Some(all.iter().map(|(what, advice)| format!("{what}\n  {advice}")).collect())
}

/// The report on a run that an error ended.
fn report_of(error: &anyhow::Error) -> Report {
    match error.downcast_ref::<Refused>() {
        Some(refused) => Report { refusals: refused.0.clone(), outcome: Outcome::Refused, ..Report::new() },
        None => {
            let error = error.chain().map(ToString::to_string).collect();
            Report { error, outcome: Outcome::Failed, ..Report::new() }
        }
    }
}

/// The exit status of an error's kind.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Refused>().is_some() {
        return status::REFUSED;
    }
    let tool = error.chain().any(|e| e.downcast_ref::<ToolFailure>().is_some());
    if tool { status::TOOL_FAILED } else { status::BROKEN }
}

/// Standard output takes nothing more.
#[derive(Debug)]
struct Unwritable;

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to write to standard output")
    }
}

/// Writes to standard output.
fn put(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).context(Unwritable)
}

/// Writes a JSON document to standard output.
fn document(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    put(&text)
}

/// Prints a report as asked for, and gives its exit status.
fn print(report: &Report, json: bool, verbose: bool, unchanged: u8) -> anyhow::Result<u8> {
    human::talk(report, verbose);
    if json {
        document(report)?;
    } else {
        let mut out = Vec::new();
        human::result(report, &mut out)?;
        put(&out)?;
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

    /// Command lines for upstream's tool mean the same: repeated options, short forms of long ones, names of steps.
    #[test]
    fn as_upstream_reads_them() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for line in ["x -vv p", "x -j1 -j2 p", "x --verb --keep p", "x -S checksum p", "x -S 3 -S kmod p", "x - p"] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|e| e.to_string()));
        }
        assert!(parse("x -S 9 p").is_err());
        assert!(parse("x --sym f p").is_err(), "--symvers or --symbols");
    }
}
