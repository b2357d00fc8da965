//! The report on several kernels: a line for each, then what there is to say of each, or one JSON document.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::{document, put, report_of, status, status_of};
use crate::build::Built;
use crate::report::{Outcome, Report, SCHEMA, human, say};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// As JSON.
    pub json: bool,
    /// With notes.
    pub verbose: bool,
    /// With first differences.
    pub explain: bool,
    /// With where each reference went.
    pub debug: bool,
}

/// One kernel's part: the report that a run for it alone would print, and what only several need.
#[derive(Serialize)]
struct Part {
    label: String,
    status: u8,
    #[serde(flatten)]
    report: Report,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    outcome: Outcome,
    status: u8,
    kernels: &'a [Part],
}

/// Prints the reports, and gives the exit status of all.
pub(super) fn print(built: &[Built], how: How) -> Result<u8> {
    let parts: Vec<Part> = built.iter().map(part).collect();
    let worst = worst(&parts);
    for part in &parts {
        talk(part, how);
    }
    if how.json {
        document(&Document { schema: SCHEMA, outcome: worst.report.outcome, status: worst.status, kernels: &parts })?;
    } else {
        let mut out = Vec::new();
        text(&parts, &mut out)?;
        put(&out)?;
    }
    Ok(worst.status)
}

fn part(built: &Built) -> Part {
    let label = built.label.clone();
    match &built.report {
        Ok(report) => {
            let status = match report.outcome {
                Outcome::Done => status::DONE,
                Outcome::Refused => status::REFUSED,
                Outcome::Unchanged => status::UNCHANGED,
                Outcome::Failed => status::BROKEN,
            };
            Part { label, status, report: report.clone() }
        }
        Err(error) => Part { label, status: status_of(error), report: report_of(error) },
    }
}

/// The kernel whose status is that of the run: 0 only when each has its module.
fn worst(parts: &[Part]) -> &Part {
    const ORDER: [u8; 5] = [status::DONE, status::UNCHANGED, status::REFUSED, status::TOOL_FAILED, status::BROKEN];
    let rank = |part: &&Part| ORDER.iter().position(|status| *status == part.status);
    parts.iter().max_by_key(rank).expect("several kernels")
}

fn talk(part: &Part, how: How) {
    let report = &part.report;
    let has_notes = how.verbose && !report.notes.is_empty();
    if report.error.is_empty()
        && report.warnings.is_empty()
        && report.refusals.is_empty()
        && !has_notes
        && !how.explain
        && !how.debug
    {
        return;
    }
    let style = human::Style::of_stderr();
    say(format_args!("{}:", style.paint("1", &part.label)));
    let mut error = report.error.iter();
    if let Some(first) = error.next() {
        say(format_args!("{}: {first}", style.paint("1;31", "error")));
    }
    error.for_each(|cause| say(format_args!("  caused by: {cause}")));
    if how.debug {
        let _ = human::references(report, &mut std::io::stderr().lock());
    }
    if how.explain {
        let _ = human::first_changed(report, &mut std::io::stderr().lock());
    }
    human::talk(report, how.verbose);
}

fn text(parts: &[Part], out: &mut dyn Write) -> Result<()> {
    let mut details = Vec::new();
    for part in parts {
        let (label, report) = (&part.label, &part.report);
        match (report.outcome, &report.module) {
            (Outcome::Done, Some(module)) => writeln!(out, "{label}: {}", module.path)?,
            (Outcome::Done, None) => writeln!(out, "{label}: done")?,
            (Outcome::Unchanged, _) => writeln!(out, "{label}: nothing changed")?,
            (Outcome::Failed, _) => writeln!(out, "{label}: failed")?,
            (Outcome::Refused, _) => {
                let count = report.refusals.len();
                writeln!(out, "{label}: refused for {count} reason{}", if count == 1 { "" } else { "s" })?;
            }
        }
        let mut text = Vec::new();
        human::findings(report, &mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        details.extend(text.lines().map(|line| format!("{label}: {line}")));
    }
    if !details.is_empty() {
        writeln!(out)?;
    }
    for line in details {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Reason, Refusal, Refused, ToolFailure};
    use crate::report::ModuleReport;

    fn built(label: &str, report: Result<Report>) -> Built {
        Built { label: label.to_owned(), report }
    }

    fn done(label: &str) -> Built {
        let module = ModuleReport {
            path: format!("{label}/x.ko"),
            name: "x".to_owned(),
            replace_set: None,
            replace: Some(true),
            signed: false,
        };
        built(label, Ok(Report { module: Some(module), ..Report::new() }))
    }

    fn failed(tool: bool) -> Built {
        let error = anyhow::anyhow!("no such tree").context("failed to open it");
        let tool_error = ToolFailure { doing: "link".to_owned(), output: String::new() };
        built("bad", Err(if tool { tool_error.into() } else { error }))
    }

    fn refused() -> Built {
        let refusal = Refusal::new(Reason::InitSection, "x", "y");
        built("old", Err(Refused(vec![refusal]).into()))
    }

    fn unchanged() -> Built {
        built("same", Ok(Report { outcome: Outcome::Unchanged, ..Report::new() }))
    }

    /// Protects scripts: 0 means a module for each kernel, and nothing worse is hidden by what went well.
    #[test]
    fn the_worst_decides() {
        let status = |built: &[Built]| worst(&built.iter().map(part).collect::<Vec<_>>()).status;
        assert_eq!(status(&[done("a"), done("b")]), 0);
        assert_eq!(status(&[done("a"), unchanged()]), 4);
        assert_eq!(status(&[refused(), unchanged(), done("a")]), 1);
        assert_eq!(status(&[failed(true), refused()]), 3);
        assert_eq!(status(&[failed(true), failed(false), done("a")]), 2);
    }

    /// A line for each kernel in the order named, whatever came of it.
    #[test]
    fn lines() {
        let parts: Vec<Part> = [done("a"), refused(), unchanged(), failed(false)].iter().map(part).collect();
        let mut out = Vec::new();
        text(&parts, &mut out).unwrap();
        let expected = "a: a/x.ko\nold: refused for 1 reason\nsame: nothing changed\nbad: failed\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(parts[3].report.error, ["failed to open it", "no such tree"]);
    }
}
