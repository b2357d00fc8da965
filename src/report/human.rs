//! A report as text: findings a line each, refusals with their advice, the module last.

use std::io::{IsTerminal, Write};

use super::{Outcome, Report};
use crate::diff::verdict::Verdict;

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
            eprintln!("{}: {note}", style.paint("36", "note"));
        }
        for object in &report.objects {
            for function in object.functions.iter().filter(|f| f.verdict == Verdict::Removed) {
                eprintln!("{}: {}: removed function: {}", style.paint("36", "note"), object.name, function.function);
            }
        }
    }
    for warning in &report.warnings {
        eprintln!("{}: {warning}", style.paint("1;33", "warning"));
    }
    for refusal in &report.refusals {
        eprintln!("{}: {refusal}", style.paint("1;31", "refused"));
        if let Some(section) = &refusal.section {
            let offset = refusal.offset.map_or(String::new(), |o| format!(" at {o:#x}"));
            eprintln!("  in: {section}{offset}");
        }
        eprintln!("  {}: {}", style.paint("1", "advice"), refusal.advice);
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

/// Colour where a person looks on.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For standard error: colour on a terminal, unless NO_COLOR asks for none (no-color.org).
    pub fn of_stderr() -> Style {
        let asked_off = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Style { colour: !asked_off && std::io::stderr().is_terminal() }
    }

    /// The text in an SGR colour.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
