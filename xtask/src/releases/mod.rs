//! `cargo xtask corpus`: the fixes between two packaged point releases as livepatches for the older one.
//!
//! In: a kernel series. Out: for a sample of the differing files, how many become modules, and why the others do
//! not. The sample is fixed by a seed, every case's patch, output and module stay in the cache, and a
//! run that was interrupted goes on where it stopped. tests/CORPUS.md is what was read from it.

mod cases;
mod fixes;
mod load;
mod packages;
mod pieces;
mod run;
mod table;
mod text;
mod units;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::kernel::Kernel;
use crate::{Args, build, dirs, kernel};
use cases::{Case, Corpus};
use packages::Release;
use run::{Done, Runner};

const USAGE: &str = "usage: cargo xtask corpus [--package linux-source-X.Y] [--from VERSION] [--to VERSION] \
    [--back KERNEL] [--count N] [--seed N] [--jobs N] [--only TEXT] [--by-fix] [--again] [--failed] [--newer-source] [--load] [--list] [--table]";

/// What the task is asked.
struct Options {
    package: String,
    from: Option<String>,
    to: Option<String>,
    /// Take the fixes back from this kernel of tests/kernels.toml, which has them, instead of building the older release.
    back: Option<String>,
    count: usize,
    seed: u64,
    jobs: usize,
    /// A patch is the hunks of a file that belong together, and not the file's whole change.
    by_fix: bool,
    /// Only cases whose name has this.
    only: Option<String>,
    /// Run also what has a result of this very program.
    again: bool,
    /// Run only what is no module yet; the modules of earlier builds of klp-build count.
    failed: bool,
    /// Take the newer source for the older kernel's: nothing may become a module.
    newer_source: bool,
    /// Load the modules that are there in QEMU.
    load: bool,
    /// Print the cases and stop.
    list: bool,
    /// Print the table of the results that are there and stop.
    table: bool,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Options> {
        let mut options = Options {
            package: "linux-source-7.2".into(),
            from: None,
            to: None,
            back: None,
            count: 240,
            seed: 1,
            jobs: 2,
            by_fix: false,
            only: None,
            again: false,
            failed: false,
            newer_source: false,
            load: false,
            list: false,
            table: false,
        };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().context(USAGE);
            match word.as_str() {
                "--package" => options.package = value()?,
                "--from" => options.from = Some(value()?),
                "--to" => options.to = Some(value()?),
                "--back" => options.back = Some(value()?),
                "--count" => options.count = value()?.parse().context(USAGE)?,
                "--seed" => options.seed = value()?.parse().context(USAGE)?,
                "--jobs" => options.jobs = value()?.parse().context(USAGE)?,
                "--only" => options.only = Some(value()?),
                "--by-fix" => options.by_fix = true,
                "--again" => options.again = true,
                "--failed" => options.failed = true,
                "--newer-source" => options.newer_source = true,
                "--load" => options.load = true,
                "--list" => options.list = true,
                "--table" => options.table = true,
                _ => bail!(USAGE),
            }
        }
        Ok(options)
    }
}

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let options = Options::parse(args)?;
    let (old, new) = packages::two(&options.package, options.from.as_deref(), options.to.as_deref())?;
    eprintln!("{} {} -> {}", options.package, old.version, new.version);
    let kernel = match &options.back {
        Some(name) => kernel::prepare(name, false)?,
        None => build_older(&options.package, &old)?,
    };
    let (before, after) = if options.back.is_some() || options.newer_source { (&new, &old) } else { (&old, &new) };
    let units = units::Units::read(&kernel)?;
    let differing = packages::differing(&before.source, &after.source)?;
    let (built, differ) = (units.count, differing.len());
    let corpus = Corpus::read(units, &before.source, &after.source, &differing)?;
    let candidates = corpus.candidates().len();
    eprintln!("{built} units; {differ} files differ, {candidates} of them are `.c` files that were built");
    let mut cases = match options.by_fix {
        true => corpus.pick_fixes(options.seed, usize::MAX),
        false => corpus.pick(options.seed, usize::MAX),
    };
    if options.back.is_some() {
        // That kernel is of another series: not every fix is in it word for word.
        cases.retain(|case| applies(case, &kernel.source));
        eprintln!("{} patches apply to {}", cases.len(), kernel.release);
    }
    cases.truncate(options.count);
    let named =
        |case: &Case, text: &str| [case.name(), case.file.display().to_string()].iter().any(|n| n.contains(text));
    let wanted = |case: &&Case| options.only.as_ref().is_none_or(|only| named(case, only));
    let cases: Vec<&Case> = cases.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no patch among these has `{}` in its name", options.only.as_deref().unwrap_or(""));
    if options.list {
        for case in &cases {
            let with: Vec<String> =
                case.files.iter().filter(|f| **f != case.file).map(|f| f.display().to_string()).collect();
            println!("{} {}", case.file.display(), with.join(" "));
        }
        return Ok(());
    }
    let klp_build = build::klp_build()?;
    let [from, to] = [before, after].map(|release| packages::directory(&release.version));
    let mut on = options.back.as_ref().map(|name| format!("-on-{name}")).unwrap_or_default();
    if options.by_fix {
        on.push_str("-by-fix");
    }
    if options.newer_source {
        on.push_str("-with-newer-source");
    }
    let runner = Runner {
        klp_build: &klp_build,
        options: if options.newer_source { with_source(&kernel, &new.source) } else { kernel.options() },
        dir: old.source.with_file_name(format!("{from}-to-{to}{on}")),
        stamp: run::stamp(&klp_build)?,
        threads: (std::thread::available_parallelism().map_or(1, usize::from) / options.jobs.max(1)).max(1),
        again: options.again,
    };
    if options.load {
        return load::run(&kernel, &runner, &cases, options.again);
    }
    let results = if options.table {
        cases.iter().filter_map(|case| Some((*case, runner.kept(case, true)?))).collect()
    } else {
        run_all(&runner, &cases, &options)?
    };
    for (case, done) in results.iter().filter(|(_, d)| !d.messages.is_empty()) {
        println!("{}", table::lines(case, done));
    }
    println!("\n{}\n(each case is in {})", table::table(&results), runner.dir.display());
    let wrong = |(_, done): &&(&Case, Done)| options.newer_source && done.outcome == run::Outcome::Built;
    let wrong: Vec<String> = results.iter().filter(wrong).map(|(case, _)| case.name()).collect();
    ensure!(wrong.is_empty(), "modules of a source that is not the kernel's: {wrong:?}");
    Ok(())
}

/// A built kernel as somebody has it who takes another release's source for its own.
fn with_source(kernel: &Kernel, source: &Path) -> Vec<String> {
    let files = [
        ("--kernel", source),
        ("--config", &kernel.config),
        ("--symvers", &kernel.symvers),
        ("--symbols", &kernel.symbols),
        ("--image", &kernel.symbols),
        ("--modules", &kernel.modules),
    ];
    files.into_iter().flat_map(|(option, path)| [option.to_owned(), path.display().to_string()]).collect()
}

/// The older release, built with the configuration of the corpus.
fn build_older(package: &str, old: &Release) -> Result<Kernel> {
    let name = format!("build-{}", packages::directory(&old.version));
    kernel::build(&kernel::Plan {
        name: &format!("{package}-{}", old.version),
        base: "x86_64_defconfig",
        fragments: &[dirs::root().join("tests/kernels/releases.config")],
        make: &[],
        source: &old.source,
        version: &old.version,
        objdir: &old.source.with_file_name(name),
    })
}

/// Whether a patch fits a source tree as it is.
fn applies(case: &Case, source: &Path) -> bool {
    let Ok(sh) = Shell::new() else { return false };
    let run = cmd!(sh, "patch -p1 --dry-run --force --fuzz=0 -s -d {source}").stdin(&case.patch).quiet();
    run.ignore_stdout().ignore_stderr().run().is_ok()
}

/// All cases, some at a time; what is said about each is printed as it comes.
fn run_all<'c>(runner: &Runner<'_>, cases: &[&'c Case], options: &Options) -> Result<Vec<(&'c Case, Done)>> {
    let next = AtomicUsize::new(0);
    // Small ones first: one whose headers everybody reads takes as long as a hundred others.
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|&at| cases[at].files.len());
    let results: Mutex<Vec<(usize, Done)>> = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            let case = cases[at];
            let kept = runner.kept(case, true).filter(|d| options.failed && d.outcome == run::Outcome::Built);
            let done = match kept {
                Some(done) => done,
                None => runner.run(case).with_context(|| format!("failed to run the case `{}`", case.name()))?,
            };
            eprintln!("[{}/{}] {}", at + 1, cases.len(), table::lines(case, &done));
            results.lock().expect("no worker panics while it holds this").push((at, done));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no worker panics"))
    })?;
    let mut results = results.into_inner().expect("no worker panicked");
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(at, done)| (cases[at], done)).collect())
}
