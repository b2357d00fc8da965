//! What each round of a row cost, kept: a bench takes hours, and one that was stopped goes on where it stopped.
//!
//! A round is every contender of a row once, one after the other, so that a busy moment of the machine hits all of them.
//! Rounds belong to one program, kernel, compiler and machine; with any other of these they are forgotten.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::measure::{Contender, Cost, median};
use crate::dirs;

/// One round: the contenders' costs by name.
type Round = BTreeMap<String, Cost>;

/// All that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rounds {
    /// Program, kernel, compiler, machine.
    of: Vec<String>,
    /// By row.
    rows: BTreeMap<String, Vec<Round>>,
    #[serde(skip)]
    file: PathBuf,
}

impl Rounds {
    /// Those that `file` holds, when they are of the same program and machine (`of`).
    pub(super) fn open(file: PathBuf, of: Vec<String>) -> Rounds {
        let kept = dirs::read(&file).ok().and_then(|text| serde_json::from_str::<Rounds>(&text).ok());
        let rows = kept.filter(|kept| kept.of == of).map(|kept| kept.rows).unwrap_or_default();
        Rounds { of, rows, file }
    }

    /// How many rounds of a row there are.
    pub(super) fn count(&self, row: &str) -> usize {
        self.rows.get(row).map_or(0, Vec::len)
    }

    /// Runs the contenders in turn until the row has `runs` rounds; each round is kept as soon as it is whole.
    pub(super) fn fill(&mut self, row: &str, contenders: &[Contender<'_>], runs: usize) -> Result<()> {
        while self.count(row) < runs {
            eprintln!("{row}, round {} of {runs}", self.count(row) + 1);
            let mut round = Round::new();
            for contender in contenders {
                round.insert(contender.name.to_owned(), contender.measure()?);
            }
            self.rows.entry(row.to_owned()).or_default().push(round);
            dirs::write(&self.file, serde_json::to_string_pretty(self)?)?;
        }
        Ok(())
    }

    /// The median of a contender in a row; nothing when it was not measured.
    pub(super) fn median(&self, row: &str, contender: &str) -> Option<Cost> {
        let rounds = self.rows.get(row)?;
        let costs: Vec<Cost> = rounds.iter().filter_map(|round| round.get(contender).copied()).collect();
        (!costs.is_empty()).then(|| median(costs))
    }
}

/// Tells one build of a program from any other, by its bytes.
pub(super) fn fingerprint(program: &Path) -> Result<String> {
    let bytes = std::fs::read(program).with_context(|| format!("failed to read `{}`", program.display()))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A bench that was stopped measures the rounds that are missing, and those of another program are forgotten.
    #[test]
    fn goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rounds.json");
        let open = |program: &str| Rounds::open(file.clone(), vec![program.to_owned()]);
        let contender = || [Contender { name: "ours", command: Box::new(|| Ok(vec![Command::new("/bin/true")])) }];
        open("a").fill("row", &contender(), 2).unwrap();
        let mut again = open("a");
        assert_eq!(again.count("row"), 2);
        again.fill("row", &contender(), 3).unwrap();
        assert_eq!(open("a").count("row"), 3);
        assert!(open("a").median("row", "ours").is_some() && open("a").median("row", "upstream").is_none());
        assert_eq!(open("b").count("row"), 0);
    }
}
