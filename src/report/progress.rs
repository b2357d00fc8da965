//! One progress line on a terminal, nothing elsewhere; with `--verbose`, a line per step instead.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{human, say};

/// Shows what a run is doing.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    verbose: bool,
    start: Instant,
}

impl Progress {
    /// Progress of a run that starts now.
    pub fn new(verbose: bool, quiet: bool) -> Progress {
        let show = !verbose && !quiet && human::is_terminal();
        let bar = if show { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        if show {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar, label: String::new(), verbose, start: Instant::now() }
    }

    /// The same progress for one of several runs at once: its steps carry its name.
    pub fn of(&self, label: &str) -> Progress {
        let Progress { bar, verbose, start, .. } = self;
        Progress { bar: bar.clone(), label: format!("{label}: "), verbose: *verbose, start: *start }
    }

    /// Says what is done next.
    pub fn step(&self, what: &str) {
        let label = &self.label;
        self.bar.set_message(format!("{label}{what}"));
        if self.verbose {
            say(format_args!("[{:6.2}s] {label}{what}", self.start.elapsed().as_secs_f64()));
        }
    }

    /// Says what must be known while the run goes on, and not only if it ends well.
    pub fn note(&self, what: &str) {
        let note = human::Style::of_stderr().paint("36", "note");
        self.bar.suspend(|| say(format_args!("{note}: {}{what}", self.label)));
    }

    /// Takes the line away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}
