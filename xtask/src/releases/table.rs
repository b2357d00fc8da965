//! Results -> the table by outcome and by reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::cases::Case;
use super::run::{Done, Outcome};

/// Everything about the results, for people; each case that is no module is listed with what was said.
pub fn table(results: &[(&Case, Done)]) -> String {
    let mut out = String::new();
    let of = |outcome: Outcome| results.iter().filter(move |(_, d)| d.outcome == outcome);
    let _ = writeln!(out, "{} patches", results.len());
    for outcome in Outcome::ALL {
        let _ = writeln!(out, "  {:<30} {:>4}", outcome.words(), of(outcome).count());
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        of(outcome).for_each(|(_, d)| *reasons.entry(d.reasons.join(" + ")).or_default() += 1);
        for (reason, count) in reasons.iter().filter(|(reason, _)| !reason.is_empty()) {
            let _ = writeln!(out, "      {reason:<40} {count:>4}");
        }
    }
    let built = of(Outcome::Built).count();
    let tried = built + of(Outcome::Refused).count() + of(Outcome::Error).count();
    let _ = writeln!(
        out,
        "{built} of {tried} patches that change code of this kernel are modules: {:.1} in 100",
        100.0 * built as f64 / tried.max(1) as f64
    );
    let mut seconds: Vec<f64> = of(Outcome::Built).map(|(_, d)| d.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    if let Some(last) = seconds.last() {
        let _ = writeln!(out, "seconds for a module: median {:.1}, longest {last:.1}", seconds[seconds.len() / 2]);
    }
    out
}

/// One line for a case, with what was said below it.
pub fn lines(case: &Case, done: &Done) -> String {
    let more = if case.files.len() > 1 { format!(" (+{} files)", case.files.len() - 1) } else { String::new() };
    let mut out = format!("{}{more}: {}, {:.1} s", case.file.display(), done.outcome.words(), done.seconds);
    for message in &done.messages {
        let _ = write!(out, "\n    {message}");
    }
    out
}
