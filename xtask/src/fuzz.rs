//! `cargo xtask fuzz [TARGET]... [--seconds N]`: coverage-guided inputs for the parsers, and for diff -> emit -> re-read.
//!
//! In: targets of `fuzz/`, all by default. Out: a line for each, with executions and the time; a crash, a hang or too much
//! memory is an error that names the input. Neither nightly Rust nor cargo-fuzz is needed: libFuzzer wants the
//! compiler's coverage only, which stable has, and no sanitizer, since there is no unsafe code to find fault with.
//! What was found interesting is kept in the cache, so that the next run goes on from there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{Args, dirs};

/// The targets; each is `fuzz/fuzz_targets/NAME.rs`.
const TARGETS: &[&str] = &["elf", "patch", "symvers", "kallsyms", "cmd", "emit"];

/// What libFuzzer needs of the compiler: where code goes, and what it compares with.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// For instrumented code build scripts and macros must not be: naming a machine keeps the two apart.
const MACHINE: &str = "x86_64-unknown-linux-gnu";

/// How the seeds are compiled: roughly as the kernel is.
const CFLAGS: &[&str] = &[
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fms-extensions",
    "-fno-common",
    "-fno-PIE",
    "-mcmodel=kernel",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-fcf-protection=branch",
    "-fno-jump-tables",
    "-pg",
    "-mfentry",
    "-mrecord-mcount",
    "-ffunction-sections",
    "-fdata-sections",
    "-w",
];

/// Seconds that one input may take, and megabytes the process.
const HANG: u32 = 10;
const MEMORY: u32 = 2048;

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let (mut seconds, mut targets) = (300u32, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => seconds = words.next().and_then(|s| s.parse().ok()).context("`--seconds` needs a number")?,
            name if TARGETS.contains(&name) => targets.push(name),
            _ => bail!("usage: cargo xtask fuzz [{}]... [--seconds N]", TARGETS.join("|")),
        }
    }
    if targets.is_empty() {
        targets = TARGETS.to_vec();
    }
    let programs = build()?;
    let cache = dirs::dev_cache()?.join("fuzz");
    let mut failed = Vec::new();
    for name in targets {
        let corpus = cache.join(name);
        seed(name, &corpus)?;
        match fuzz(&programs.join(name), name, &corpus, &cache, seconds) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzzing found something: {}", failed.join(", ")) }
}

/// Builds the instrumented programs, and says where they are.
fn build() -> Result<PathBuf> {
    let dir = dirs::root().join("fuzz");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => dir.join(target).join("fuzz"),
        None => dir.join("target"),
    };
    let status = Command::new(cargo)
        .args(["build", "--release", "--target", MACHINE, "--target-dir"])
        .arg(&target)
        .current_dir(&dir)
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("failed to run cargo")?;
    if !status.success() {
        bail!("failed to build the fuzz targets");
    }
    Ok(target.join(MACHINE).join("release"))
}

fn fuzz(program: &Path, name: &str, corpus: &Path, cache: &Path, seconds: u32) -> Result<String> {
    let found = cache.join("found").join(name);
    dirs::create(&found)?;
    let log = cache.join(format!("{name}.log"));
    let start = Instant::now();
    let status = Command::new(program)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={HANG}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .args(["-print_final_stats=1", "-max_len=65536"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg(corpus)
        .stdout(Stdio::null())
        .stderr(File::create(&log).with_context(|| format!("failed to write `{}`", log.display()))?)
        .status()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let text = dirs::read(&log)?;
    if !status.success() {
        let last: Vec<&str> = text
            .lines()
            .filter(|l| l.contains("panicked") || l.contains("SUMMARY") || l.contains("Test unit"))
            .collect();
        bail!("{name}: {status}: {}; `{}`", last.join("; "), log.display());
    }
    let stat = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("?").trim().to_owned();
    Ok(format!(
        "{name:<10} {:>5} s {:>12} executions, {} MB at most",
        start.elapsed().as_secs(),
        stat("stat::number_of_executed_units:"),
        stat("stat::peak_rss_mb:")
    ))
}

/// Gives a target something to start from: samples of the repository, and what its fixtures compile to.
fn seed(name: &str, corpus: &Path) -> Result<()> {
    dirs::create(corpus)?;
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    match name {
        "elf" | "emit" => {
            for (fixture, before, after) in pairs()? {
                if name == "elf" {
                    seeds.push((fixture, after));
                } else {
                    seeds.push((fixture, [&(before.len() as u32).to_le_bytes(), &before[..], &after[..]].concat()));
                }
            }
        }
        "patch" => {
            seeds.extend(files(&dirs::root().join("tests/patches"))?.into_iter().filter(|(n, _)| n.ends_with(".patch")))
        }
        _ => seeds.extend(files(&dirs::root().join("fuzz/seeds").join(name))?),
    }
    for (seed, bytes) in seeds {
        dirs::write(&corpus.join(format!("seed-{seed}")), bytes)?;
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("failed to read `{}`", dir.display()))?;
    let files = entries.flatten().filter(|e| e.path().is_file());
    files.map(|e| Ok((e.file_name().to_string_lossy().into_owned(), fs::read(e.path())?))).collect()
}

/// A fixture: its name and both objects.
type Pair = (String, Vec<u8>, Vec<u8>);

/// Both objects of each fixture that is one file and plain C.
fn pairs() -> Result<Vec<Pair>> {
    let fixtures = dirs::root().join("tests/fixtures");
    let work = dirs::scratch("fuzz")?;
    let compile = |source: &Path| -> Option<Vec<u8>> {
        let object = work.path().join("unit.o");
        let mut command = Command::new("gcc");
        command.args(CFLAGS).arg("-I").arg(&fixtures).args(["-c", "-o"]).arg(&object).arg(source);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        status.success().then(|| fs::read(&object).ok())?
    };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(&fixtures)?.flatten() {
        let dir = entry.path();
        if let Some((before, after)) = compile(&dir.join("before.c")).zip(compile(&dir.join("after.c"))) {
            pairs.push((entry.file_name().to_string_lossy().into_owned(), before, after));
        }
    }
    if pairs.is_empty() {
        bail!("failed to compile any fixture");
    }
    pairs.sort();
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that is not in the list is never run; one without a file does not build.
    #[test]
    fn every_target_is_listed() {
        let mut found: Vec<String> = files(&dirs::root().join("fuzz/fuzz_targets"))
            .expect("the targets")
            .into_iter()
            .map(|(name, _)| name.trim_end_matches(".rs").to_owned())
            .collect();
        found.sort();
        let mut listed = TARGETS.to_vec();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
