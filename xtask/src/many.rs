//! One patch for two kernels in one call, and the check of what came of it against what a guest has loaded.
//!
//! In: a built kernel and a distribution's. Out: a score. What `/sys/kernel/livepatch` looks like is the kernel's to say, so the
//! copy that `klp-build check` reads is taken from a guest in which the module is loaded.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::guest::{self, Case};
use crate::kernel::{self, Kernel};
use crate::matrix::Score;
use crate::{build, dirs};

/// The kernels: one that is built here, one of the distribution's.
const KERNELS: [&str; 2] = ["linux-7", "debian-6.12"];

/// What it does to /proc/meminfo is seen in the guest.
const PATCH: &str = "02-meminfo-string.patch";
const OBSERVE: &str = "grep -q ^MEMAVAILABLE: /proc/meminfo";
/// Another one, which leaves /proc/meminfo alone.
const OTHER: &str = "01-cmdline-string.patch";

/// Prints the tree of loaded livepatches, a line each.
const COPY: &str = "cd /sys/kernel/livepatch; find . -mindepth 1 -type d | sed 's/^/@@dir /'; \
                    for f in */enabled */replace */transition */stack_order; do [ ! -f $f ] || echo \"@@file $f $(cat $f)\"; done";

/// Runs all cases.
pub fn run() -> Result<Score> {
    let kernels = KERNELS.iter().map(|name| kernel::prepare(name, false)).collect::<Result<Vec<_>>>()?;
    let klp_build = build::klp_build()?;
    let scratch = dirs::scratch("many")?;
    let mut score = Score::default();
    println!("\nseveral kernels ({})", KERNELS.join(", "));
    let modules = two_kernels(&klp_build, &kernels, scratch.path(), &mut score)?;
    for (kernel, module) in kernels.iter().zip(&modules) {
        let snippets = vec![("observe", OBSERVE.to_owned()), ("loaded", COPY.to_owned())];
        let case = Case { snippets, ..Case::load(module)? };
        let (run, results) = guest::run_cases(kernel, &[case])?;
        let problems = results.iter().filter(|r| !r.passed()).map(|r| r.summary()).collect::<Vec<_>>();
        score.row("loads and works", &kernel.release, &problems);
        if !problems.is_empty() {
            eprintln!("{}\n{}", crate::vm::tail(&run.output, 20), crate::vm::tail(&run.console, 20));
        }
        let text = results.iter().flat_map(|r| &r.steps).find(|step| step.name == "loaded").map(|step| &step.output);
        let copy = scratch.path().join(format!("sys-{}", kernel.release));
        write_copy(text.map_or("", String::as_str), &copy)?;
        let problems = beside(&klp_build, kernel, &copy, scratch.path())?;
        score.row("check, beside what is loaded", &kernel.release, &problems);
    }
    let output = check(&klp_build, &kernels[0], &[modules[1].as_path()])?;
    let problems = expect(&output, 1, &["[other-kernel]"]);
    score.row("check, on another kernel", &kernels[0].release, &problems);
    Ok(score)
}

/// Builds the patch for all kernels in one call, and gives the modules in their order.
fn two_kernels(klp_build: &Path, kernels: &[Kernel], out: &Path, score: &mut Score) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(klp_build);
    command.args(["--json", "--output"]).arg(out.join("livepatch-many.ko"));
    command.args(kernels.iter().flat_map(Kernel::options));
    let output =
        command.arg(dirs::root().join("tests/patches").join(PATCH)).output().context("failed to run klp-build")?;
    let mut problems = expect(&output, 0, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut modules = Vec::new();
    for (at, kernel) in kernels.iter().enumerate() {
        let part = &report["kernels"][at];
        if part["label"] != kernel.release.as_str() || part["outcome"] != "done" || part["verified"] != 1 {
            problems.push(format!("{}: {} {} {}", kernel.release, part["label"], part["outcome"], part["error"]));
        }
        let expected = out.join(&kernel.release).join("livepatch-many.ko");
        if part["module"]["path"] != expected.display().to_string() || !expected.is_file() {
            problems.push(format!("{}: the module is not at `{}`", kernel.release, expected.display()));
        }
        modules.push(expected);
    }
    score.row("one patch, two kernels", "", &problems);
    Ok(modules)
}

/// What a guest printed -> files.
fn write_copy(text: &str, copy: &Path) -> Result<()> {
    dirs::create(copy)?;
    for line in text.lines() {
        if let Some(dir) = line.strip_prefix("@@dir ") {
            dirs::create(&copy.join(dir))?;
        } else if let Some((file, value)) = line.strip_prefix("@@file ").and_then(|rest| rest.split_once(' ')) {
            dirs::write(&copy.join(file), value)?;
        }
    }
    Ok(())
}

/// A livepatch without the fix that is loaded: it would replace it, and `check` must say so.
fn beside(klp_build: &Path, kernel: &Kernel, copy: &Path, out: &Path) -> Result<Vec<String>> {
    let other = out.join(format!("livepatch-other-{}.ko", kernel.release));
    let mut command = Command::new(klp_build);
    command.args(kernel.options()).arg("--output").arg(&other).arg(dirs::root().join("tests/patches").join(OTHER));
    let mut problems = expect(&command.output().context("failed to run klp-build")?, 0, &[]);
    let output = check(klp_build, kernel, &[Path::new("--loaded"), copy, &other])?;
    problems.extend(expect(&output, 0, &["does not patch `meminfo_proc_show,1`", "[fix-dropped]"]));
    if !String::from_utf8_lossy(&output.stdout).contains("replaces `livepatch_many`") {
        problems.push("it does not say what is replaced".to_owned());
    }
    Ok(problems)
}

fn check(klp_build: &Path, kernel: &Kernel, args: &[&Path]) -> Result<Output> {
    let mut command = Command::new(klp_build);
    command.arg("check").args(kernel.options()).args(args).output().context("failed to run klp-build")
}

/// What is wrong with a run: another status, or a text that it does not say on standard error.
fn expect(output: &Output, status: i32, texts: &[&str]) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut problems = Vec::new();
    if output.status.code() != Some(status) {
        problems.push(format!("{}: {}", output.status, said.trim().replace('\n', "; ")));
    }
    let missing = texts.iter().filter(|text| !said.contains(**text));
    problems.extend(missing.map(|text| format!("it does not say `{text}`: {}", said.trim().replace('\n', "; "))));
    problems
}
