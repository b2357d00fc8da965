//! One progress line on a terminal, nothing elsewhere; with `--verbose`, a line per step instead.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

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
        let show = !verbose && !quiet && std::io::stderr().is_terminal();
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
            eprintln!("[{:6.2}s] {label}{what}", self.start.elapsed().as_secs_f64());
        }
    }

    /// Takes the line away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}
