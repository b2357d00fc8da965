//! `cargo xtask mutate [--noop] [--seed N] [--count N] [--jobs N] [--only FILE.c] [--kernel NAME]`: is every change seen, and no other?
//!
//! In: a built kernel and a seed. Out: a table. Without `--noop`, single-line changes of meaning are made to real
//! functions, one at a time, until `--count` of them have an effect; klp-build has to report each function that a second
//! opinion, which shares nothing with it, finds changed. With `--noop`, edits that mean nothing are made to `--count`
//! files; klp-build has to find nothing. What fails is kept as a patch and named.

mod edits;
mod noop;
mod object;
mod random;
mod tokens;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::kernel::{self, Kernel};
use crate::matrix::Score;
use crate::report::{self, Report};
use crate::{Args, build, dirs};
use object::{Effect, Object, plain};
use random::Random;
use tokens::Source;
use units::Unit;

/// What `cargo xtask test --long` runs; another seed is another test.
const SEED: u64 = 20_261_121;
/// How many changes with an effect, and how many files with no-op edits.
const COUNT: usize = 300;
/// Changes made to one unit, each to another function.
const PER_UNIT: usize = 3;
/// Places tried for one change, since not every one compiles or matters.
const TRIES: usize = 4;

struct Options {
    seed: u64,
    count: usize,
    jobs: usize,
    noop: bool,
    only: Option<String>,
    kernel: String,
}

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let mut options =
        Options { seed: SEED, count: COUNT, jobs: 2, noop: false, only: None, kernel: "linux-7".to_owned() };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("`{word}` needs a value"));
        match word.as_str() {
            "--noop" => options.noop = true,
            "--seed" => options.seed = value()?.parse().context("`--seed` needs a number")?,
            "--count" => options.count = value()?.parse().context("`--count` needs a number")?,
            "--jobs" => options.jobs = value()?.parse().context("`--jobs` needs a number")?,
            "--only" => options.only = Some(value()?.clone()),
            "--kernel" => options.kernel = value()?.clone(),
            _ => bail!(
                "usage: cargo xtask mutate [--noop] [--seed N] [--count N] [--jobs N] [--only FILE.c] [--kernel NAME]"
            ),
        }
    }
    let score = with(&options)?;
    if score.failed > 0 {
        bail!("klp-build was wrong about {} edits", score.failed);
    }
    Ok(())
}

/// Both directions on the built linux 7, for the whole test.
pub fn test() -> Result<Score> {
    let mut score = Score::default();
    for noop in [false, true] {
        let options = Options { seed: SEED, count: COUNT, jobs: 2, noop, only: None, kernel: "linux-7".to_owned() };
        score.add(&with(&options)?);
    }
    Ok(score)
}

/// What came of one edit.
enum Answer {
    /// Seen, as changed functions.
    Reported,
    /// Seen, and refused for these reasons.
    Refused(BTreeSet<String>),
    /// For a no-op: nothing was found. For a change: the compiler made the same of it.
    Nothing,
    /// The compiler makes other code of an edit that means nothing, and klp-build says so.
    OtherCode(String),
    /// klp-build is wrong.
    Wrong(String),
}

/// Counts by kind and answer.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<(&'static str, String), usize>,
    wrong: Vec<String>,
    remarks: Vec<String>,
    functions: BTreeSet<(PathBuf, String)>,
    files: usize,
    right: usize,
}

/// What a worker needs.
struct Bench<'a> {
    options: &'a Options,
    kernel: &'a Kernel,
    klp_build: &'a Path,
    /// Where patches of what went wrong are kept.
    kept: &'a Path,
    tally: Mutex<Tally>,
    /// Edits that count.
    done: AtomicUsize,
}

fn with(options: &Options) -> Result<Score> {
    let kernel = kernel::prepare(&options.kernel, false)?;
    let klp_build = build::klp_build()?;
    let mut units = units::all(&kernel)?;
    Random::new(options.seed).shuffle(&mut units);
    if let Some(only) = &options.only {
        units.retain(|unit| unit.source.to_string_lossy().contains(only.as_str()));
    }
    let kept = dirs::dev_cache()?.join("mutate");
    dirs::create(&kept)?;
    let bench = Bench {
        options,
        kernel: &kernel,
        klp_build: &klp_build,
        kept: &kept,
        tally: Mutex::default(),
        done: AtomicUsize::new(0),
    };
    let (next, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || -> Result<()> {
        let work = dirs::scratch("mutate")?;
        while bench.done.load(Ordering::Relaxed) < options.count && !broken.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = units.get(at) else { break };
            let result =
                if options.noop { bench.leave(unit, work.path()) } else { bench.change(at, unit, work.path()) };
            result.inspect_err(|_| broken.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let tally = bench.tally.into_inner().unwrap_or_else(|poison| poison.into_inner());
    Ok(print(options, &kernel, &tally))
}

fn print(options: &Options, kernel: &Kernel, tally: &Tally) -> Score {
    let what = if options.noop { "no-op edits" } else { "changes" };
    println!("\nmutate: {what}, {} ({}), seed {}", options.kernel, kernel.release, options.seed);
    for ((kind, answer), count) in &tally.counts {
        println!("  {kind:<24} {answer:<40} {count:>5}");
    }
    if options.noop {
        println!("  {} files, {} edits as expected, {} WRONG", tally.files, tally.right, tally.wrong.len());
    } else {
        let functions = tally.functions.len();
        println!(
            "  {functions} functions in {} files, {} changes seen, {} WRONG",
            tally.files,
            tally.right,
            tally.wrong.len()
        );
    }
    tally.remarks.iter().for_each(|remark| println!("  {remark}"));
    tally.wrong.iter().for_each(|wrong| println!("  WRONG: {wrong}"));
    Score { passed: tally.right, failed: tally.wrong.len() }
}

impl Bench<'_> {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The unit's own sequence: what is done to it does not hang on who comes first.
    fn random(&self, unit: &Unit) -> Random {
        let path = unit.source.to_string_lossy();
        let hash =
            path.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random::new(self.options.seed ^ hash)
    }

    fn source(&self, unit: &Unit) -> Result<Source> {
        let path = self.kernel.source.join(&unit.source);
        Ok(Source::new(std::fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?))
    }

    /// klp-build's answer to a patch of this unit, and the patch.
    fn ask(&self, unit: &Unit, old: &[u8], new: &[u8], work: &Path) -> Result<(Report, PathBuf)> {
        let patch = work.join("edit.patch");
        dirs::write(&patch, units::patch(&unit.source, old, new))?;
        let mut args = self.kernel.options();
        args.extend(["--no-link", "--no-verify", "--jobs", "1", "--output"].map(str::to_owned));
        args.extend([work.join("never.ko").display().to_string(), patch.display().to_string()]);
        Ok((report::run(self.klp_build, &args)?, patch))
    }

    /// Keeps a patch under a name that says what it is about.
    fn keep(&self, unit: &Unit, kind: &str, patch: &Path) -> Result<PathBuf> {
        let name = format!("{} {kind} {}", unit.source.display(), self.options.seed).replace(['/', ' ', '.'], "-");
        let path = self.kept.join(format!("{name}.patch"));
        std::fs::copy(patch, &path).with_context(|| format!("failed to write `{}`", path.display()))?;
        Ok(path)
    }

    /// Changes of meaning, in up to [`PER_UNIT`] functions.
    fn change(&self, index: usize, unit: &Unit, work: &Path) -> Result<()> {
        let (source, mut random) = (self.source(unit)?, self.random(unit));
        let mut candidates = edits::candidates(&source, &mut random);
        random.shuffle(&mut candidates);
        let Some(original) = unit.compile(self.kernel, &source.text, work)? else {
            self.tally().remarks.push(format!("{}: does not compile as it is", unit.source.display()));
            return Ok(());
        };
        let mut used: BTreeSet<String> = BTreeSet::new();
        for slot in 0..PER_UNIT {
            let kind = edits::KINDS[(index * PER_UNIT + slot) % edits::KINDS.len()];
            let mut tries = 0;
            while tries < TRIES
                && let Some(at) = candidates.iter().position(|e| e.kind == kind && !used.contains(&e.owner))
            {
                let edit = candidates.swap_remove(at);
                tries += 1;
                let text = edit.apply(&source.text);
                let Some(changed) = unit.compile(self.kernel, &text, work)? else { continue };
                let effect = original.effect(&changed);
                let (report, patch) = self.ask(unit, &source.text, &text, work)?;
                if report.reasons.contains("unsupported-file") {
                    return Ok(());
                }
                let (answer, remark) = judge(&original, &changed, &effect, &report);
                let counts = !matches!(answer, Answer::Nothing);
                self.count(unit, edit.kind, answer, &patch)?;
                let mut tally = self.tally();
                if let Some(remark) = remark {
                    tally.remarks.push(format!("{}: {}: {remark}", unit.source.display(), edit.owner));
                }
                if counts {
                    tally.functions.insert((unit.source.clone(), edit.owner.clone()));
                    used.insert(edit.owner);
                    self.done.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        self.tally().files += usize::from(!used.is_empty());
        Ok(())
    }

    /// Edits without meaning: those of lines and comments, then all together; each by itself where that is not clean.
    fn leave(&self, unit: &Unit, work: &Path) -> Result<()> {
        let (source, mut random) = (self.source(unit)?, self.random(unit));
        let mut original: Option<Object> = None;
        let (quiet, loud) = noop::EDITS.split_at(noop::QUIET);
        let lines = chain(&source, quiet, &mut random);
        let mut edits: Vec<(&'static str, Vec<u8>)> =
            lines.map(|text| ("lines and comments", text)).into_iter().collect();
        let made: Vec<(&'static str, noop::Make)> =
            loud.iter().filter(|(_, make)| make(&source, &mut self.random(unit)).is_some()).copied().collect();
        // What moves goes first: it needs two functions side by side.
        let all =
            chain(&source, &made, &mut self.random(unit)).and_then(|t| chain(&Source::new(t), quiet, &mut random));
        let together = match &all {
            Some(text) => self.ask(unit, &source.text, text, work)?.0.status == Some(4),
            None => false,
        };
        if !together {
            let one = |(name, make): &(&'static str, noop::Make)| Some((*name, make(&source, &mut self.random(unit))?));
            edits.extend(made.iter().filter_map(one));
            edits.extend(all.map(|text| ("all together", text)));
        }
        let mut edited = together;
        for (name, text) in edits {
            let (report, patch) = self.ask(unit, &source.text, &text, work)?;
            let answer = match report.status {
                Some(4) => Answer::Nothing,
                // Not taken by the compiler: the edit was none.
                Some(3) if name != "lines and comments" => continue,
                Some(1) if report.reasons.contains("unsupported-file") => return Ok(()),
                _ => {
                    if original.is_none() {
                        original = unit.compile(self.kernel, &source.text, work)?;
                    }
                    let changed = unit.compile(self.kernel, &text, work)?;
                    let effect = original.as_ref().zip(changed.as_ref()).map(|(a, b)| a.effect(b));
                    match effect.filter(|e| !e.is_empty()) {
                        Some(effect) if name != "lines and comments" => {
                            let path = self.keep(unit, name, &patch)?;
                            Answer::OtherCode(format!("{} ({})", show(&effect), path.display()))
                        }
                        _ => Answer::Wrong(said(&report)),
                    }
                }
            };
            edited = true;
            self.count(unit, name, answer, &patch)?;
        }
        if edited {
            let names = if together { made.iter().map(|(name, _)| *name).collect() } else { Vec::new() };
            for name in names {
                self.count(unit, name, Answer::Nothing, Path::new(""))?;
            }
            self.tally().files += 1;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn count(&self, unit: &Unit, kind: &'static str, answer: Answer, patch: &Path) -> Result<()> {
        let kept = match &answer {
            Answer::Wrong(_) => Some(self.keep(unit, kind, patch)?),
            _ => None,
        };
        let mut tally = self.tally();
        let mut add = |what: String| *tally.counts.entry((kind, what)).or_default() += 1;
        match answer {
            Answer::Reported => add("reported".into()),
            Answer::Refused(reasons) => {
                add(format!("refused: {}", reasons.into_iter().collect::<Vec<_>>().join(", ")));
            }
            Answer::Nothing if self.options.noop => add("no change".into()),
            Answer::Nothing => {
                add("no effect in the object".into());
                return Ok(());
            }
            Answer::OtherCode(what) => {
                add("the compiler makes other code".into());
                tally.remarks.push(format!("{}: {kind}: other code: {what}", unit.source.display()));
                return Ok(());
            }
            Answer::Wrong(what) => {
                add("WRONG".into());
                let kept = kept.unwrap_or_default();
                let line = format!("{}: {kind}: {what} ({})", unit.source.display(), kept.display());
                eprintln!("{line}");
                tally.wrong.push(line);
                return Ok(());
            }
        }
        tally.right += 1;
        let right = tally.right;
        if right.is_multiple_of(25) {
            eprintln!("mutate: {right} as expected, {} wrong", tally.wrong.len());
        }
        Ok(())
    }
}

/// One edit after the other, as far as the text has places for them.
fn chain(source: &Source, edits: &[(&'static str, noop::Make)], random: &mut Random) -> Option<Vec<u8>> {
    let mut text = None;
    for (_, make) in edits {
        let so_far = Source::new(text.clone().unwrap_or_else(|| source.text.clone()));
        text = make(&so_far, random).or(text);
    }
    text
}

/// Whether klp-build saw what the second opinion saw; a remark where it saw more.
fn judge(original: &Object, changed: &Object, effect: &Effect, report: &Report) -> (Answer, Option<String>) {
    let seen: BTreeSet<String> =
        report.changed.values().chain(report.new.values()).flatten().map(|name| plain(name)).collect();
    match report.status {
        Some(4) if effect.is_empty() => (Answer::Nothing, None),
        Some(4) => (Answer::Wrong(format!("MISS: nothing is reported, but {} changed", show(effect))), None),
        Some(1) if report.reasons.is_empty() => (Answer::Wrong(said(report)), None),
        Some(0 | 1) => {
            let (before, after) = (original.functions(), changed.functions());
            // A function that is gone has nothing to report: its callers have changed.
            let expected = effect.functions.iter().filter(|name| after.contains(*name) || !before.contains(*name));
            let missed: Vec<&str> = expected.filter(|name| !seen.contains(*name)).map(String::as_str).collect();
            let more: Vec<&str> = seen.difference(&effect.functions).map(String::as_str).collect();
            // Where only tables that speak about functions differ, the second opinion does not know whose entries those are.
            let knows = !effect.functions.is_empty();
            let remark = (knows && !more.is_empty()).then(|| format!("reported besides: {}", more.join(" ")));
            let answer = match (missed.is_empty(), report.status) {
                (_, Some(1)) => Answer::Refused(report.reasons.clone()),
                (true, _) if effect.is_empty() => Answer::Wrong(format!("nothing changed, but {}", said(report))),
                (true, _) => Answer::Reported,
                (false, _) => Answer::Wrong(format!("MISS: {} not reported", missed.join(" "))),
            };
            (answer, remark)
        }
        _ => (Answer::Wrong(said(report)), None),
    }
}

fn show(effect: &Effect) -> String {
    let all: Vec<&str> = effect.functions.iter().chain(&effect.others).map(String::as_str).take(8).collect();
    all.join(" ")
}

fn said(report: &Report) -> String {
    let status = report.status.map_or("killed".to_owned(), |s| format!("exit status {s}"));
    let first = report.stderr.lines().find(|l| l.contains("error") || l.contains('[')).unwrap_or_default();
    format!("{status}, changed {}: {first}", report::show(&report.changed))
}
