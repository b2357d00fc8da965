//! Livepatch cases -> verdicts: several are loaded, looked at and unloaded in one boot, each judged by itself.
//!
//! tests/boot/case.sh is the half that runs in the guest. A case passes when every step of it did what it should
//! and the kernel said nothing alarming in between; a case that takes the guest down is told from those after it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::kernel::{Kernel, load_order};
use crate::vm::{Guest, Run};

/// The guest's half: `load`, `unload`, `run_case`.
pub const CASE: &str = include_str!("../../tests/boot/case.sh");

/// What the kernel must not say while a livepatch comes, works and goes.
const ALARMS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Call Trace",
    "kernel BUG at",
    "Kernel panic",
    "general protection fault",
    "Unknown symbol",
    "invalid relocation",
    "disagrees about version",
    "Unpatched return thunk",
];

/// A livepatch to load and how to see that it works; the snippets are shell, see tests/boot/case.sh.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// For people, and the directory in the guest.
    pub name: String,
    /// Livepatch modules, in order.
    pub modules: Vec<PathBuf>,
    /// Modules of the kernel that are loaded before the setup snippet, with what they depend on.
    pub needs: Vec<String>,
    /// The kernel's modules come after the livepatch, and the setup snippet after them.
    pub late: bool,
    /// Further files for the guest: path there, path here.
    pub files: Vec<(String, PathBuf)>,
    /// The snippets by their name.
    pub snippets: Vec<(&'static str, String)>,
}

impl Case {
    /// Only load and unload.
    pub fn load(module: &Path) -> Result<Case> {
        let name = module.file_stem().context("failed to name a module")?.to_string_lossy().into_owned();
        Ok(Case { name, modules: vec![module.to_path_buf()], ..Case::default() })
    }
}

/// One step's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// As case.sh calls it.
    pub name: String,
    /// 0 is right.
    pub status: i32,
    /// What it printed.
    pub output: String,
}

/// One case's answer.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// In order; the first that failed is what went wrong.
    pub steps: Vec<Step>,
    /// Lines of the kernel's log that must not be there.
    pub alarms: Vec<String>,
    /// The end was reached.
    pub ended: bool,
}

impl CaseResult {
    /// Nothing went wrong.
    pub fn passed(&self) -> bool {
        self.ended && self.alarms.is_empty() && self.steps.iter().all(|s| s.status == 0)
    }

    /// One line for the table; why, if it failed.
    pub fn summary(&self) -> String {
        if self.passed() {
            return format!(
                "{}: ok ({})",
                self.name,
                self.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        let mut why = Vec::new();
        for step in self.steps.iter().filter(|s| s.status != 0) {
            why.push(format!("{} failed: {}", step.name, step.output.trim().replace('\n', " / ")));
        }
        why.extend(self.alarms.iter().map(|line| format!("kernel log: {line}")));
        if !self.ended {
            why.push("the guest did not get to the end of it".into());
        }
        format!("{}: FAILED: {}", self.name, why.join("; "))
    }
}

/// Boots `kernel` once and runs `cases` in it, in order. When one takes the guest down, the ones after it are
/// run in another boot, so that each has an answer of its own.
pub fn run_cases(kernel: &Kernel, cases: &[Case]) -> Result<(Run, Vec<CaseResult>)> {
    let mut results: Vec<CaseResult> = Vec::new();
    let mut last;
    loop {
        let rest = &cases[results.len()..];
        let run = boot(kernel, rest)?;
        let from = results.len();
        for case in rest {
            let result = judge(&case.name, &run);
            let ended = result.ended;
            results.push(result);
            if !ended {
                break;
            }
        }
        last = run;
        if results.len() >= cases.len() || results.len() == from {
            return Ok((last, results));
        }
    }
}

fn boot(kernel: &Kernel, cases: &[Case]) -> Result<Run> {
    let mut guest = Guest::new(&kernel.image)?;
    guest.timeout(Duration::from_secs(90 + 30 * cases.len() as u64));
    guest.file("/case.sh", CASE);
    let mut script = String::from(". /case.sh\n");
    for case in cases {
        let dir = format!("/cases/{}", case.name);
        let mut modules = String::new();
        for file in &case.modules {
            let name = file.file_name().context("failed to name a module")?.to_string_lossy();
            let path = format!("{dir}/{name}");
            guest.module(&path, file)?;
            modules.push_str(&format!("{path}\n"));
        }
        guest.file(&format!("{dir}/modules"), modules);
        let (mut setup, mut absent) = (String::new(), String::new());
        for file in load_order(kernel, &case.needs)? {
            let name = file.file_name().context("failed to name a module")?.to_string_lossy().into_owned();
            let name = format!("{}.ko", name.split(".ko").next().unwrap_or_default());
            let loaded = name.trim_end_matches(".ko").replace('-', "_");
            guest.module(&format!("/modules/{name}"), &file)?;
            setup.push_str(&format!("[ -d /sys/module/{loaded} ] || insmod /modules/{name} || exit 1\n"));
            // Users before what they use.
            absent.insert_str(0, &format!("[ ! -d /sys/module/{loaded} ] || rmmod {loaded} || exit 1\n"));
        }
        for (path, file) in &case.files {
            guest.copy(path, file)?;
        }
        for (name, text) in &case.snippets {
            if *name == "setup" {
                setup.push_str(text);
            } else {
                guest.file(&format!("{dir}/{name}"), text.clone());
            }
        }
        if case.late {
            guest.file(&format!("{dir}/setup"), absent);
        }
        if !setup.is_empty() {
            guest.file(&format!("{dir}/{}", if case.late { "late" } else { "setup" }), setup);
        }
        script.push_str(&format!("run_case {dir}\n"));
    }
    guest.try_run(&(script + "true\n"))
}

/// What the two serial lines say about one case.
fn judge(name: &str, run: &Run) -> CaseResult {
    let mut steps = Vec::new();
    let (mut inside, mut output) = (false, String::new());
    for line in run.output.lines() {
        if let Some(case) = line.strip_prefix("@@case ") {
            inside = case == name;
            output.clear();
        } else if let Some(step) = line.strip_prefix("@@step ").filter(|_| inside) {
            let (step, status) = step.rsplit_once(' ').unwrap_or((step, "1"));
            let status = status.parse().unwrap_or(1);
            steps.push(Step { name: step.to_owned(), status, output: std::mem::take(&mut output) });
        } else if inside {
            output.push_str(line);
            output.push('\n');
        }
    }
    let (ended, alarms) = alarms(name, &run.console);
    CaseResult { name: name.to_owned(), steps, alarms, ended }
}

/// Whether the log has the end of a case, and the lines of the case that must not be there.
pub fn alarms(name: &str, console: &str) -> (bool, Vec<String>) {
    let (mut inside, mut ended, mut alarms) = (false, false, Vec::new());
    for line in console.lines() {
        if line.ends_with(&format!("klp-case begin {name}")) {
            inside = true;
        } else if line.ends_with(&format!("klp-case end {name}")) {
            inside = false;
            ended = true;
        } else if inside && alarming(line) {
            alarms.push(line.trim().to_owned());
        }
    }
    (ended, alarms)
}

fn alarming(line: &str) -> bool {
    // Names stand in quotes, and may be of a failover.
    let said = |text: &str| text.split('\'').step_by(2).any(|part| part.contains("fail"));
    let livepatch = line.find("livepatch: ").is_some_and(|at| said(&line[at..]));
    livepatch || ALARMS.iter().any(|alarm| line.contains(alarm))
}

/// Boots the kernel and asks it for its symbols, which the package does not have.
pub fn kallsyms(kernel: &Kernel) -> Result<String> {
    eprintln!("reading the symbol table of {} in QEMU", kernel.release);
    let mut guest = Guest::new(&kernel.image)?;
    guest.timeout(Duration::from_secs(300));
    let run = guest.run("cat /proc/kallsyms")?;
    anyhow::ensure!(
        run.output.contains(" T _text\n") && !run.output.contains("\n0000000000000000 T _text"),
        "failed to read /proc/kallsyms in the guest:\n{}",
        crate::vm::tail(&run.output, 5)
    );
    Ok(run.output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(output: &str, console: &str) -> Run {
        Run { console: console.into(), output: output.into(), status: Some(0), time: Duration::ZERO }
    }

    /// A warning belongs to the case it came in, not to the one before or after.
    #[test]
    fn alarms_belong_to_their_case() {
        let console = "[1.0] klp-case begin a\n[1.1] livepatch: enabling patch 'a'\n[1.2] klp-case end a\n\
                       [1.3] klp-case begin b\n[1.4] WARNING: CPU: 0\n[1.5] livepatch: failed to x\n[1.6] klp-case end b\n";
        let output = "@@case a\n@@step load 0\n@@case b\nhello\n@@step load 0\n";
        let run = run(output, console);
        assert!(judge("a", &run).passed());
        let b = judge("b", &run);
        assert!(!b.passed());
        assert_eq!(b.alarms.len(), 2);
        assert_eq!(b.steps[0].output, "hello\n");
    }

    /// A livepatch of a failover driver is no failure.
    #[test]
    fn names_are_no_alarms() {
        assert!(!alarming("[1.0] livepatch: 'livepatch_net_failover': patching complete"));
        assert!(alarming("[1.0] livepatch: 'livepatch_x': failed to patch object 'ext4'"));
        assert!(alarming("[1.0] livepatch: failed to initialize patch 'livepatch_x' for module 'ext4'"));
    }

    /// A case that never ends is a failure even if every step that ran was fine.
    #[test]
    fn a_guest_that_dies_fails_the_case() {
        let run = run("@@case a\n@@step load 0\n", "[1.0] klp-case begin a\n");
        assert!(!judge("a", &run).passed());
    }

    /// A step that failed shows what it printed.
    #[test]
    fn failed_steps_are_shown() {
        let run = run("@@case a\ninsmod: bad\n@@step load 1\n", "x klp-case begin a\nx klp-case end a\n");
        assert_eq!(judge("a", &run).summary(), "a: FAILED: load failed: insmod: bad");
    }
}
