//! `cargo xtask tidy`: formatting, lints, the layout rules, licences, and that nothing names a workplace.

use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{Args, dirs, layout};

/// Names that tie the repository to one machine or one mirror. Put together here so that this file is clean.
const FORBIDDEN: &[(&str, &str)] = &[
    ("deb.debian.", "org"),
    ("security.debian.", "org"),
    ("snapshot.debian.", "org"),
    ("index.crates.", "io"),
    ("static.crates.", "io"),
    ("/ro", "ot/"),
    ("/wo", "rk/"),
];

/// The task. Everything that is wrong is reported, not the first.
pub fn run(_: Args<'_>) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(dirs::root());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut failed = Vec::new();
    let findings = layout::check(&dirs::root());
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    let places = places(&sh)?;
    for error in findings.errors.iter().chain(&places) {
        eprintln!("error: {error}");
    }
    if !findings.errors.is_empty() || !places.is_empty() {
        failed.push("layout");
    }
    if cmd!(sh, "{cargo} fmt --all --check").run().is_err() {
        failed.push("fmt");
    }
    if cmd!(sh, "{cargo} clippy --quiet --workspace --all-targets -- -D warnings").run().is_err() {
        failed.push("clippy");
    }
    if failed.is_empty() { Ok(()) } else { bail!("tidy failed: {}", failed.join(", ")) }
}

/// Lines of tracked files that name a host or somebody's directories.
fn places(sh: &Shell) -> Result<Vec<String>> {
    let files = cmd!(sh, "git ls-files -co --exclude-standard").quiet().read().context("failed to list the files")?;
    let mut found = Vec::new();
    for file in files.lines() {
        // Cargo.lock names the index it was made from; fixtures quote other people's files.
        if file == "Cargo.lock" || file.starts_with("tests/fixtures/") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(dirs::root().join(Path::new(file))) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (a, b) in FORBIDDEN {
                if line.contains(&format!("{a}{b}")) {
                    found.push(format!("{file}:{}: names `{a}{b}`: no hosts, no workplace paths", number + 1));
                }
            }
        }
    }
    Ok(found)
}
