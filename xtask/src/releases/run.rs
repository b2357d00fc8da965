//! One case -> what klp-build makes of it, kept in the case's directory so that a second run goes on where one stopped.
//!
//! A result belongs to the very program that gave it: another klp-build, or another patch, and the case is run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cases::Case;
use crate::dirs;

/// Seconds that one patch may take.
const LIMIT: u32 = 1200;

/// What came of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A module, and `klp-build check` says that the kernel would load it.
    Built,
    /// The patch changes no code of this kernel.
    Nothing,
    /// Refused, with reasons.
    Refused,
    /// The patched files do not compile: the patch is not whole.
    Incomplete,
    /// Anything else: a crash, a time limit, a module that does not check.
    Error,
}

impl Outcome {
    /// All of them, in the order of the table.
    pub const ALL: [Outcome; 5] =
        [Outcome::Built, Outcome::Nothing, Outcome::Refused, Outcome::Incomplete, Outcome::Error];

    /// For the table.
    pub fn words(self) -> &'static str {
        match self {
            Outcome::Built => "built and checked",
            Outcome::Nothing => "nothing to do",
            Outcome::Refused => "refused",
            Outcome::Incomplete => "not whole (does not compile)",
            Outcome::Error => "error",
        }
    }
}

/// A case's result, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// What came of it.
    pub outcome: Outcome,
    /// Codes of the refusals, without repetition.
    pub reasons: Vec<String>,
    /// The refusals' texts, or the error's first lines.
    pub messages: Vec<String>,
    /// Functions that the module replaces.
    pub changed: usize,
    /// Wall clock.
    pub seconds: f64,
    /// What gave this answer.
    stamp: String,
}

/// How to run cases.
pub struct Runner<'a> {
    /// The program.
    pub klp_build: &'a Path,
    /// What tells klp-build about the kernel.
    pub options: Vec<String>,
    /// Where each case has its directory.
    pub dir: PathBuf,
    /// Says which program it is.
    pub stamp: String,
    /// Compilers that one case may run at a time.
    pub threads: usize,
    /// Also run what has an answer.
    pub again: bool,
}

/// Size and time of a program: another build of it has another stamp.
pub fn stamp(program: &Path) -> Result<String> {
    let meta = fs::metadata(program).with_context(|| format!("failed to read `{}`", program.display()))?;
    Ok(format!("{} {:?}", meta.len(), meta.modified()?.duration_since(std::time::UNIX_EPOCH)?))
}

impl Runner<'_> {
    /// A kept result, of this program and this patch unless `any` says that older ones will do.
    pub fn kept(&self, case: &Case, any: bool) -> Option<Done> {
        let dir = self.dir.join(case.name());
        let done: Done = serde_json::from_str(&dirs::read(&dir.join("result.json")).ok()?).ok()?;
        let same = dirs::read(&dir.join("fix.patch")).is_ok_and(|p| p == case.patch);
        (same && (any || done.stamp == self.stamp)).then_some(done)
    }

    /// Where the module of a case goes.
    pub fn module(&self, name: &str) -> PathBuf {
        self.dir.join(name).join(format!("livepatch-{}.ko", name.chars().take(40).collect::<String>()))
    }

    /// Says that the module of a case was loaded, and went.
    pub fn loaded(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("loaded")
    }

    /// Runs a case, or gives the result that is there.
    pub fn run(&self, case: &Case) -> Result<Done> {
        if !self.again
            && let Some(done) = self.kept(case, false).filter(|d| d.outcome != Outcome::Error)
        {
            return Ok(done);
        }
        let dir = self.dir.join(case.name());
        dirs::create(&dir)?;
        fs::remove_file(dir.join("result.json")).ok();
        let patch = dir.join("fix.patch");
        dirs::write(&patch, &case.patch)?;
        let module = self.module(&case.name());
        fs::remove_file(&module).ok();
        fs::remove_file(self.loaded(&case.name())).ok();
        let start = Instant::now();
        let mut args = vec!["--json".to_owned(), format!("-j{}", self.threads), "--carry-tables".into()];
        args.extend(self.options.iter().cloned());
        args.extend(["--output".into(), module.display().to_string(), patch.display().to_string()]);
        let (status, stdout, stderr) = self.klp_build(&args)?;
        let seconds = start.elapsed().as_secs_f64();
        dirs::write(&dir.join("report.json"), &stdout)?;
        dirs::write(&dir.join("stderr"), &stderr)?;
        let json: Value = serde_json::from_str(&stdout).unwrap_or_default();
        let mut done = Done {
            outcome: Outcome::Error,
            reasons: Vec::new(),
            messages: first_lines(&stderr),
            changed: 0,
            seconds,
            stamp: self.stamp.clone(),
        };
        match status {
            Some(0) if module.exists() => {
                let mut args = vec!["check".to_owned()];
                args.extend(self.options.iter().cloned());
                args.push(module.display().to_string());
                let (status, stdout, stderr) = self.klp_build(&args)?;
                dirs::write(&dir.join("check"), format!("{stdout}{stderr}"))?;
                if status == Some(0) {
                    done.outcome = Outcome::Built;
                    done.messages.clear();
                } else {
                    done.messages = first_lines(&format!("check: {stdout}{stderr}"));
                }
            }
            Some(1) => {
                done.outcome = Outcome::Refused;
                fill(&mut done, &json);
            }
            Some(3) if stderr.contains("failed to compile") || stderr.contains("failed to preprocess") => {
                done.outcome = Outcome::Incomplete;
            }
            Some(4) => {
                done.outcome = Outcome::Nothing;
                done.messages.clear();
            }
            Some(124 | 137) => done.messages = vec![format!("not done after {LIMIT} s")],
            _ => {}
        }
        let functions = json["objects"].as_array().into_iter().flatten();
        let functions = functions.flat_map(|o| o["functions"].as_array().into_iter().flatten());
        done.changed = functions.filter(|f| f["verdict"] == "changed").count();
        dirs::write(&dir.join("result.json"), serde_json::to_string_pretty(&done)?)?;
        Ok(done)
    }

    /// Status, stdout and stderr of a run that gives way to everything else on the machine.
    fn klp_build(&self, args: &[String]) -> Result<(Option<i32>, String, String)> {
        let output = Command::new("nice")
            .args(["-n", "10", "timeout", "--kill-after=5"])
            .arg(LIMIT.to_string())
            .arg(self.klp_build)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to run `{}`", self.klp_build.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }
}

fn fill(done: &mut Done, json: &Value) {
    let refusals = json["refusals"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    done.reasons = refusals.iter().map(|r| text(&r["reason"])).collect();
    done.reasons.sort();
    done.reasons.dedup();
    if !refusals.is_empty() {
        done.messages = refusals.iter().map(|r| format!("{} [{}]", text(&r["message"]), text(&r["reason"]))).collect();
    }
}

fn first_lines(text: &str) -> Vec<String> {
    text.lines().filter(|l| !l.trim().is_empty()).take(8).map(str::to_owned).collect()
}
