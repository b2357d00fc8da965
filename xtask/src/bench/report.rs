//! Rounds -> the table of BENCHMARKS.md: which rows are measured, and a line for each that was.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::measure::{Contender, Cost};
use super::rounds::Rounds;
use crate::dirs;

/// Columns of the table.
pub(super) const OURS: &str = "ours";
/// The kernel's klp-build, or its objtool.
pub(super) const UPSTREAM: &str = "upstream";
/// What no tool can do without.
pub(super) const FLOOR: &str = "floor";

/// What the figures are of, besides the program and the kernel.
pub(super) struct Machine {
    pub compiler: String,
    pub processors: String,
}

impl Machine {
    /// The one that runs this.
    pub(super) fn this() -> Result<Machine> {
        let sh = Shell::new()?;
        let compiler = cmd!(sh, "gcc --version").quiet().read()?.lines().next().unwrap_or_default().to_owned();
        let cpu = dirs::read(Path::new("/proc/cpuinfo"))?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Machine {
            compiler,
            processors: format!("{count} processors,{}", model.trim_start().trim_start_matches(':')),
        })
    }
}

/// The table in the making.
pub(super) struct Report {
    rounds: Rounds,
    runs: usize,
    only: Option<String>,
    lines: String,
}

impl Report {
    /// With `runs` of 0 nothing is measured: what is there is written down.
    pub(super) fn new(rounds: Rounds, runs: usize, only: Option<String>) -> Report {
        Report { rounds, runs, only, lines: String::new() }
    }

    /// Whether anything is to be run.
    pub(super) fn measures(&self) -> bool {
        self.runs > 0
    }

    /// Whether the table has every row of which there are rounds, and there are any: an empty one replaces nothing.
    pub(super) fn is_whole(&self) -> bool {
        self.only.is_none() && !self.lines.is_empty()
    }

    /// Measures the rounds that a row lacks, unless nobody asked for it, and adds its line. `warm` is run before: what
    /// is kept from run to run is there before the first one is measured.
    pub(super) fn row(&mut self, row: &str, warm: Option<Command>, contenders: &[Contender<'_>]) -> Result<()> {
        if self.only.as_ref().is_some_and(|only| !row.contains(only.as_str())) {
            return Ok(());
        }
        if let Some(mut warm) = warm.filter(|_| self.rounds.count(row) < self.runs) {
            warm.output().context("failed to run `klp-build`")?;
        }
        self.rounds.fill(row, contenders, self.runs)?;
        if let Some(ours) = self.rounds.median(row, OURS) {
            let [theirs, floor] = [UPSTREAM, FLOOR].map(|contender| self.rounds.median(row, contender));
            self.lines += &line(row, self.rounds.count(row), ours, theirs, floor);
        }
        Ok(())
    }

    /// The whole document.
    pub(super) fn text(&self, release: &str, machine: &Machine) -> String {
        let mut text =
            "# How long it takes\n\nMade by `cargo xtask bench`: medians of as many rounds as the table says, \
                        the contenders in turn.\n\n"
                .to_owned();
        writeln!(text, "* machine: {}", machine.processors).ok();
        writeln!(text, "* kernel: {release} with tests/kernels/linux-7.config").ok();
        writeln!(text, "* compiler: {}", machine.compiler).ok();
        text += "* floor: the unit compiled once by the kernel's own command, and an empty module linked by kbuild\n\n";
        text += "| | rounds | ours | upstream | ratio | floor | ours over floor | memory, ours | memory, upstream |\n";
        text += "|---|---|---|---|---|---|---|---|---|\n";
        text += &self.lines;
        text += "\nUpstream's `-S 2` has its original kernel built already and rebuilds what the patch reaches, in its own \
                 tree; its first patch builds the whole kernel, and then again what the patch reaches. Ours compiles each \
                 unit twice and never a kernel. The floor is that of one small file (fs/proc/meminfo.c) in every row. The \
                 first time, a header's readers are all preprocessed, on both sides; what is learnt of them is kept, so \
                 that the next patch of bodies in it compiles the users only.\n";
        text
    }
}

fn line(row: &str, rounds: usize, ours: Cost, theirs: Option<Cost>, floor: Option<Cost>) -> String {
    let seconds = |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| format!("{:.2} s", cost.seconds));
    let memory = |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| format!("{} MB", cost.memory >> 20));
    let ratio = |cost: Option<Cost>| cost.map(|cost| cost.seconds / ours.seconds);
    let cells = [
        row.to_owned(),
        rounds.to_string(),
        seconds(Some(ours)),
        seconds(theirs),
        ratio(theirs).map_or("-".to_owned(), |ratio| format!("{ratio:.1}x")),
        seconds(floor),
        ratio(floor).map_or("-".to_owned(), |ratio| format!("{:.2}x", 1.0 / ratio)),
        memory(Some(ours)),
        memory(theirs),
    ];
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After the program was built anew, `--table` knows nothing, and must not take what BENCHMARKS.md has.
    #[test]
    fn nothing_measured_replaces_nothing() {
        let rounds = Rounds::open("/nonexistent".into(), Vec::new());
        let mut report = Report::new(rounds, 0, None);
        report.row("next patch", None, &[]).unwrap();
        assert!(!report.is_whole());
    }

    /// Who reads the table reads ratios: upstream's over ours, and ours over the floor.
    #[test]
    fn ratios_are_the_right_way_round() {
        let cost = |seconds| Cost { seconds, memory: 100 << 20 };
        let line = line("next patch", 5, cost(2.0), Some(cost(40.0)), Some(cost(1.0)));
        assert_eq!(line, "| next patch | 5 | 2.00 s | 40.00 s | 20.0x | 1.00 s | 2.00x | 100 MB | 100 MB |\n");
    }
}
