//! One command -> seconds and peak memory; several runs of it -> their median.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{dirs, vm};

/// What one run cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Wall clock.
    pub seconds: f64,
    /// Peak resident memory of its largest process, in bytes.
    pub memory: u64,
}

/// A step of a row: a name, and how to run it once.
pub(super) struct Contender<'a> {
    /// Column of the table.
    pub name: &'static str,
    /// Made anew for every run.
    pub command: Box<dyn Fn() -> Result<Vec<Command>> + 'a>,
}

impl Contender<'_> {
    /// Its commands once, one after the other: their time together, and the most memory of any.
    pub(super) fn measure(&self) -> Result<Cost> {
        let mut sum = Cost { seconds: 0.0, memory: 0 };
        for command in (self.command)()? {
            let cost = measure(command).with_context(|| format!("failed to measure {}", self.name))?;
            sum = Cost { seconds: sum.seconds + cost.seconds, memory: sum.memory.max(cost.memory) };
        }
        eprintln!("  {}: {:.2} s", self.name, sum.seconds);
        Ok(sum)
    }
}

/// The middle one by time, with the most memory of any.
pub(super) fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let memory = costs.iter().map(|cost| cost.memory).max().unwrap_or(0);
    Cost { seconds: costs[costs.len() / 2].seconds, memory }
}

/// Runs a command to its end under GNU time, which reports the memory of the processes it waited for.
fn measure(command: Command) -> Result<Cost> {
    let scratch = dirs::scratch("measure")?;
    let report = scratch.path().join("memory");
    let mut timed = Command::new("/usr/bin/time");
    timed.arg("--format=%M").arg("--output").arg(&report).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    timed.current_dir(command.get_current_dir().unwrap_or(Path::new(".")));
    let start = Instant::now();
    let output = timed.stdin(Stdio::null()).output().context("failed to run `time`")?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`{}` ended with {}:\n{}", command.get_program().to_string_lossy(), output.status, vm::tail(&text, 12));
    }
    let text = dirs::read(&report)?;
    let kilobytes: u64 = text.trim().lines().last().unwrap_or_default().parse().context("failed to read memory")?;
    Ok(Cost { seconds, memory: kilobytes << 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median is of time; memory is the most that any run took.
    #[test]
    fn medians_of_time() {
        let cost = |seconds, memory| Cost { seconds, memory };
        assert_eq!(median(vec![cost(9.0, 1), cost(1.0, 7), cost(2.0, 3)]), cost(2.0, 7));
    }
}
