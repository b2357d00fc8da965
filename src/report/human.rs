//! A report as text: findings a line each, refusals with their advice, the module last.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};

use super::{Outcome, Report, say};
use crate::diff::verdict::Verdict;
use crate::reloc::account::Bucket;

/// Writes the findings and, when there is one, the module: what belongs on standard output.
///
/// # Errors
///
/// When the stream does not take it.
pub fn result(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    findings(report, out)?;
    if let Some(module) = &report.module {
        writeln!(out, "{}", module.path)?;
    } else if report.outcome == Outcome::Unchanged {
        writeln!(out, "nothing changed")?;
    }
    Ok(())
}

/// Writes what changed, a line each.
///
/// # Errors
///
/// When the stream does not take it.
pub fn findings(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for object in &report.objects {
        for function in &object.functions {
            match function.verdict {
                Verdict::Changed => writeln!(out, "{}: changed function: {}", object.name, function.function)?,
                Verdict::New => writeln!(out, "{}: new function: {}", object.name, function.function)?,
                Verdict::Same | Verdict::Removed => {}
            }
        }
        for callback in &object.callbacks {
            writeln!(out, "{}: callback: {callback}", object.name)?;
        }
    }
    Ok(())
}

/// Writes warnings and refusals: what belongs on standard error.
pub fn talk(report: &Report, verbose: bool) {
    let style = Style::of_stderr();
    if verbose {
        for note in &report.notes {
            say(format_args!("{}: {note}", style.paint("36", "note")));
        }
        for object in &report.objects {
            for function in object.functions.iter().filter(|f| f.verdict == Verdict::Removed) {
                say(format_args!(
                    "{}: {}: removed function: {}",
                    style.paint("36", "note"),
                    object.name,
                    function.function
                ));
            }
        }
    }
    for warning in &report.warnings {
        say(format_args!("{}: {warning}", style.paint("1;33", "warning")));
    }
    for refusal in &report.refusals {
        say(format_args!("{}: {refusal}", style.paint("1;31", "refused")));
        if let Some(section) = &refusal.section {
            let offset = refusal.offset.map_or(String::new(), |o| format!(" at {o:#x}"));
            say(format_args!("  in: {section}{offset}"));
        }
        say(format_args!("  {}: {}", style.paint("1", "advice"), refusal.advice));
    }
}

/// First changed place of each function, for `-f`.
pub fn first_changed(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for object in &report.objects {
        for function in &object.functions {
            if let (Verdict::Changed, Some(why)) = (function.verdict, &function.why) {
                let at = function.offset.map_or(String::new(), |o| format!("+{o:#x}"));
                writeln!(out, "{}: {}{at}: {why}", object.name, function.function)?;
                if let Some(source) = &function.source {
                    writeln!(out, "  {source}")?;
                }
            }
        }
    }
    Ok(())
}

/// Writes where each reference went, for `-d`: a line of totals for each object, then a line for each reference.
///
/// # Errors
///
/// When the stream does not take it.
pub fn references(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for (object, references) in &report.references {
        let mut totals: BTreeMap<Bucket, usize> = BTreeMap::new();
        references.iter().for_each(|r| *totals.entry(r.bucket).or_default() += 1);
        let totals: Vec<String> = totals.iter().map(|(bucket, count)| format!("{count} {bucket}")).collect();
        let noun = if references.len() == 1 { "reference" } else { "references" };
        let list = if totals.is_empty() { String::new() } else { format!(": {}", totals.join(", ")) };
        writeln!(out, "{object}: {} {noun}{list}", references.len())?;
        for r in references {
            writeln!(out, "  {:9} {}+{:#x} -> {}", r.bucket, r.function, r.offset, r.symbol)?;
        }
    }
    Ok(())
}

/// Whether standard error is a terminal that understands more than lines of text.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal() && can_more(std::env::var_os("TERM").as_deref())
}

fn can_more(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term != "dumb")
}

fn asks_for_none(no_color: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty())
}

/// Colour where a person looks on.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For standard error: colour on a terminal that has any, unless NO_COLOR asks for none (no-color.org).
    pub fn of_stderr() -> Style {
        Style { colour: !asks_for_none(std::env::var_os("NO_COLOR").as_deref()) && is_terminal() }
    }

    /// The text in an SGR colour.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal in an editor gets no escape sequences, and nobody who asked for none.
    #[test]
    fn colours() {
        let of = |value: &'static str| Some(OsStr::new(value));
        assert!(can_more(None) && can_more(of("xterm")) && !can_more(of("dumb")));
        assert!(!asks_for_none(None) && !asks_for_none(of("")) && asks_for_none(of("1")));
    }
}
