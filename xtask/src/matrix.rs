//! The patch corpus on a built kernel -> a table of verdicts: klp-build's answer, then the module in a guest.
//!
//! The kernel tree is fingerprinted before and after: a tool that leaves a byte or a time stamp there fails,
//! whatever else it did. The modules of a kernel run in few boots, one case each.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use walkdir::WalkDir;
use xshell::{Shell, cmd};

use crate::corpus::{self, Expect, Item};
use crate::guest::{self, Case};
use crate::kernel::{self, Kernel};
use crate::{build, dirs, report};

/// How many livepatches one boot tries; more would make one stuck guest cost too much.
const CASES_A_BOOT: usize = 10;

/// The two rows that are about no patch.
const DISTURBED: &str = "two runs at once";
const UNTOUCHED: &str = "kernel tree untouched";

/// Passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// Did what was expected.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
}

impl Score {
    /// Adds another part's score.
    pub fn add(&mut self, part: &Score) {
        self.passed += part.passed;
        self.failed += part.failed;
    }

    /// Prints a line of the table and counts it.
    fn row(&mut self, name: &str, facts: &str, problems: &[String]) {
        println!("  {name:<28} {facts:<17}  {}", if problems.is_empty() { "ok" } else { "FAILED" });
        for problem in problems {
            println!("      {problem}");
        }
        if problems.is_empty() {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Runs the corpus, or those patches whose name contains one of `only`, on kernel `name`.
pub fn run(name: &str, only: &[String]) -> Result<Score> {
    let kernel = kernel::prepare(name, false)?;
    let klp_build = build::klp_build()?;
    let items: Vec<Item> = corpus::for_kernel(name)?
        .into_iter()
        .filter(|item| only.is_empty() || only.iter().any(|o| item.name.contains(o.as_str())))
        .collect();
    let out = dirs::scratch("matrix")?;
    let before = fingerprint(&kernel);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    let mut cases = Vec::new();
    for item in &items {
        let start = Instant::now();
        let (differences, module) = build_one(&klp_build, &kernel, item, out.path())?;
        seconds.insert(item.name.clone(), start.elapsed().as_secs_f64());
        let said = if differences.is_empty() { "as expected" } else { "NOT as expected" };
        eprintln!("{name}: {}: {said} ({:.1} s)", item.name, seconds[&item.name]);
        wrong.insert(item.name.clone(), differences);
        if let Some(module) = module {
            cases.push(case(item, module, out.path())?);
        }
    }
    let mut score = Score::default();
    if let Some(item) = items.iter().find(|i| i.entry.expect == Expect::Patch) {
        wrong.insert(DISTURBED.into(), disturb(&klp_build, &kernel, item, out.path())?);
    }
    let mut touched = differing(&before, &fingerprint(&kernel));
    touched.truncate(10);
    wrong.insert(UNTOUCHED.into(), touched);
    for chunk in cases.chunks(CASES_A_BOOT) {
        eprintln!("{name}: booting for {} livepatches", chunk.len());
        let (_, results) = guest::run_cases(&kernel, chunk)?;
        for result in results.into_iter().filter(|r| !r.passed()) {
            wrong.entry(result.name.clone()).or_default().push(result.summary());
        }
    }
    println!("\n{name} ({})", kernel.release);
    for item in &items {
        let expect = format!("{:?}", item.entry.expect).to_lowercase();
        score.row(&item.name, &format!("{expect:<9} {:>5.1} s", seconds[&item.name]), &wrong[&item.name]);
    }
    for name in [DISTURBED, UNTOUCHED] {
        score.row(name, "", wrong.get(name).map_or(&[], Vec::as_slice));
    }
    Ok(score)
}

/// klp-build's answer to one patch: what is wrong with it, and the module if there is one to load.
fn build_one(klp_build: &Path, kernel: &Kernel, item: &Item, out: &Path) -> Result<(Vec<String>, Option<PathBuf>)> {
    let module = out.join(format!("livepatch-{}.ko", item.name));
    let mut args = kernel.options();
    args.extend(["--output".into(), module.display().to_string(), item.patch.display().to_string()]);
    let report = match report::run(klp_build, &args) {
        Ok(report) => report,
        Err(error) => return Ok((vec![format!("{error:#}")], None)),
    };
    let mut differences = item.entry.differences(&report);
    let there = module.exists();
    if item.entry.expect == Expect::Patch && report.status == Some(0) && !there {
        differences.push("exit status 0, but there is no module".into());
    }
    if item.entry.expect != Expect::Patch && there {
        differences.push("a module was left behind".into());
    }
    let load = item.entry.expect == Expect::Patch && there;
    Ok((differences, load.then_some(module)))
}

/// What must leave no trace in the tree either: runs killed in the middle, at several points, and two at once. The
/// two must both succeed, and must not be the worse for what the killed ones left in caches.
fn disturb(klp_build: &Path, kernel: &Kernel, item: &Item, out: &Path) -> Result<Vec<String>> {
    let start = |module: &str| -> Result<Child> {
        let mut command = Command::new(klp_build);
        command.args(kernel.options()).arg("--output").arg(out.join(module)).arg(&item.patch);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("failed to run `{}`", klp_build.display()))
    };
    for millis in [200, 600, 1500] {
        let mut run = start("killed.ko")?;
        std::thread::sleep(Duration::from_millis(millis));
        run.kill().ok();
        run.wait()?;
    }
    let mut problems = Vec::new();
    for (module, mut run) in [("one.ko", start("one.ko")?), ("two.ko", start("two.ko")?)] {
        let status = run.wait()?;
        if !status.success() || !out.join(module).exists() {
            problems.push(format!("{module}: {status}"));
        }
    }
    Ok(problems)
}

fn case(item: &Item, module: PathBuf, work: &Path) -> Result<Case> {
    let mut files = vec![("/probe".to_owned(), probe(work)?)];
    if item.entry.modules.iter().any(|m| m == "loop") {
        files.push(("/disk".to_owned(), disk(work)?));
    }
    let snippets = item.entry.snippets();
    Ok(Case { name: item.name.clone(), modules: vec![module], needs: item.entry.modules.clone(), files, snippets })
}

/// The guest's helper, compiled once.
fn probe(work: &Path) -> Result<PathBuf> {
    let program = work.join("probe");
    if !program.exists() {
        let source = dirs::root().join("tests/boot/probe.c");
        let sh = Shell::new()?;
        cmd!(sh, "gcc -static -O1 -Wall -o {program} {source}").quiet().run().context("failed to compile the probe")?;
    }
    Ok(program)
}

/// An empty ext4 file system.
fn disk(work: &Path) -> Result<PathBuf> {
    let image = work.join("disk");
    if !image.exists() {
        std::fs::File::create(&image)?.set_len(8 << 20)?;
        let sh = Shell::new()?;
        cmd!(sh, "/sbin/mkfs.ext4 -q -F -b 1024 {image}").quiet().run().context("failed to make a file system")?;
    }
    Ok(image)
}

/// Size, mode, and both time stamps of everything in the source and the build directory.
fn fingerprint(kernel: &Kernel) -> BTreeMap<PathBuf, [i64; 6]> {
    let mut files = BTreeMap::new();
    for top in [&kernel.source, &kernel.objdir] {
        for entry in WalkDir::new(top).into_iter().flatten() {
            if let Ok(meta) = entry.metadata() {
                let facts = [
                    meta.len() as i64,
                    meta.mode().into(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.ctime(),
                    meta.ctime_nsec(),
                ];
                files.insert(entry.into_path(), facts);
            }
        }
    }
    files
}

/// What appeared, went, or changed.
fn differing(before: &BTreeMap<PathBuf, [i64; 6]>, after: &BTreeMap<PathBuf, [i64; 6]>) -> Vec<String> {
    let gone = before.iter().filter(|(path, facts)| after.get(*path) != Some(facts));
    let come = after.iter().filter(|(path, _)| !before.contains_key(*path));
    gone.chain(come).map(|(path, _)| path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check that the tree is untouched sees new, lost and rewritten files.
    #[test]
    fn touched_files_are_seen() {
        let tree = |files: &[(&str, i64)]| -> BTreeMap<PathBuf, [i64; 6]> {
            files.iter().map(|(name, time)| (PathBuf::from(name), [0, 0, 0, 0, *time, 0])).collect()
        };
        let before = tree(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(differing(&before, &before), Vec::<String>::new());
        assert_eq!(differing(&before, &tree(&[("a", 1), ("b", 2), ("d", 1)])), ["b", "c", "d"]);
    }
}
