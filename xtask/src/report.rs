//! What klp-build says with `--json` -> the parts that tests compare: functions by object, refusal codes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// Names by object ("vmlinux", "ext4").
pub type ByObject = BTreeMap<String, BTreeSet<String>>;

/// One run of klp-build.
#[derive(Debug, Default)]
pub struct Report {
    /// Exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Verdict "changed".
    pub changed: ByObject,
    /// Verdict "new".
    pub new: ByObject,
    /// The codes of all refusals.
    pub reasons: BTreeSet<String>,
    /// What the refusals say.
    pub messages: Vec<String>,
    /// What went to stderr, for people.
    pub stderr: String,
}

/// How long one patch may take; `timeout` ends a run that hangs with status 124.
const LIMIT: &str = "1200";

/// Runs klp-build with `--json` and reads the report, if it printed one.
pub fn run(klp_build: &Path, args: &[String]) -> Result<Report> {
    let output = Command::new("timeout")
        .args(["--kill-after=5", LIMIT])
        .arg(klp_build)
        .arg("--json")
        .args(args)
        .output()
        .with_context(|| format!("failed to run `{}`", klp_build.display()))?;
    let mut report = Report { status: output.status.code(), ..Report::default() };
    report.stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !stdout.trim().is_empty() {
        let json: Value = serde_json::from_str(&stdout)
            .with_context(|| format!("failed to read the report of klp-build: {}", stdout.trim_end()))?;
        report.fill(&json);
    }
    Ok(report)
}

impl Report {
    fn fill(&mut self, json: &Value) {
        for object in json["objects"].as_array().into_iter().flatten() {
            let name = object["name"].as_str().unwrap_or_default();
            for function in object["functions"].as_array().into_iter().flatten() {
                let into = match function["verdict"].as_str() {
                    Some("changed") => &mut self.changed,
                    Some("new") => &mut self.new,
                    _ => continue,
                };
                let function = function["function"].as_str().unwrap_or_default();
                into.entry(name.to_owned()).or_default().insert(function.to_owned());
            }
        }
        for refusal in json["refusals"].as_array().into_iter().flatten() {
            self.reasons.insert(refusal["reason"].as_str().unwrap_or_default().to_owned());
            self.messages.push(refusal["message"].as_str().unwrap_or_default().to_owned());
        }
    }
}

/// `vmlinux: a b; ext4: c`, or `-`.
pub fn show(names: &ByObject) -> String {
    if names.is_empty() {
        return "-".into();
    }
    let objects = names
        .iter()
        .map(|(object, names)| format!("{object}: {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(" ")));
    objects.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields that design.md promises are the ones that are read; "same" and "removed" are not findings.
    #[test]
    fn reads_the_documented_fields() {
        let json = serde_json::json!({
            "objects": [{"name": "vmlinux", "functions": [
                {"function": "a", "verdict": "changed"}, {"function": "b", "verdict": "new"},
                {"function": "c", "verdict": "same"}, {"function": "d", "verdict": "removed"}]}],
            "refusals": [{"reason": "init-section", "symbol": "x", "message": "no"}],
        });
        let mut report = Report::default();
        report.fill(&json);
        assert_eq!(show(&report.changed), "vmlinux: a");
        assert_eq!(show(&report.new), "vmlinux: b");
        assert!(report.reasons.contains("init-section") && report.messages == ["no"]);
    }
}
