//! The patch corpus on a built kernel -> a table of verdicts: klp-build's answer, then the module in a guest.
//!
//! The kernel tree is fingerprinted before and after: a tool that leaves a byte or a time stamp there fails,
//! whatever else it did. The modules of a kernel run in few boots, one case each.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
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

/// The rows that are about no patch of their own.
const DISTURBED: &str = "two runs at once";
const UNTOUCHED: &str = "kernel tree untouched";
const SIGNED: &str = "signed";
const INTERRUPTED: &str = "interrupted";

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
    pub fn row(&mut self, name: &str, facts: &str, problems: &[String]) {
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
            let case = case(item, module, out.path())?;
            // A livepatch of a module may come before the module.
            if item.entry.patches_a_module() {
                let name = late_name(item);
                wrong.insert(name.clone(), Vec::new());
                cases.push(Case { name, late: true, ..case.clone() });
            }
            cases.push(case);
        }
    }
    let mut score = Score::default();
    if let Some(item) = items.iter().find(|i| i.entry.expect == Expect::Patch) {
        wrong.insert(DISTURBED.into(), disturb(&klp_build, &kernel, item, out.path())?);
        wrong.insert(INTERRUPTED.into(), interrupt(&klp_build, &kernel, item, out.path())?);
    }
    // A distribution's packages bring the signing tool, and not the key.
    let signed = items.iter().find(|item| item.entry.expect == Expect::Patch).filter(|_| kernel.stock);
    if let Some(item) = signed {
        let (problems, module) = sign(&klp_build, &kernel, item, out.path())?;
        wrong.insert(SIGNED.into(), problems);
        cases.push(Case { name: SIGNED.into(), ..case(item, module, out.path())? });
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
        if let Some(problems) = wrong.get(&late_name(item)) {
            score.row(&late_name(item), "", problems);
        }
    }
    for name in [DISTURBED, INTERRUPTED, SIGNED, UNTOUCHED] {
        if let Some(problems) = wrong.get(name) {
            score.row(name, "", problems);
        }
    }
    Ok(score)
}

/// The case in which the livepatch is there first.
fn late_name(item: &Item) -> String {
    format!("{}-late", item.name)
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
    if load {
        // The module that was just made must pass the check that stands alone.
        let checked = Command::new(klp_build).arg("check").args(kernel.options()).arg(&module).output();
        let checked = checked.with_context(|| format!("failed to run `{}`", klp_build.display()))?;
        if !checked.status.success() {
            let text = String::from_utf8_lossy(&checked.stderr);
            differences.push(format!("klp-build check: {}: {}", checked.status, text.trim().replace('\n', "; ")));
        }
    }
    Ok((differences, load.then_some(module)))
}

/// What must leave no trace in the tree either: runs killed in the middle, at several points, and two at once. The
/// two must both succeed, must not be the worse for what the killed ones left in caches, and make the same bytes.
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
    let mut made = Vec::new();
    for side in ["one", "two"] {
        std::fs::create_dir_all(out.join(side))?;
    }
    for (module, mut run) in [("one/twice.ko", start("one/twice.ko")?), ("two/twice.ko", start("two/twice.ko")?)] {
        let status = run.wait()?;
        made.push(std::fs::read(out.join(module)).ok());
        if !status.success() || made.last().is_some_and(Option::is_none) {
            problems.push(format!("{module}: {status}"));
        }
    }
    if made[0] != made[1] {
        problems.push("the two modules are not the same, byte for byte".into());
    }
    Ok(problems)
}

/// Ctrl-C at several points: the run ends by the signal, unless it was done before, and leaves no file, no process, no module. That it
/// leaves the tree alone is seen with all the others.
fn interrupt(klp_build: &Path, kernel: &Kernel, item: &Item, out: &Path) -> Result<Vec<String>> {
    let (tmp, module) = (out.join("interrupted-tmp"), out.join("interrupted.ko"));
    dirs::create(&tmp)?;
    let mut problems = Vec::new();
    for millis in [150, 500, 1200, 2500, 5000] {
        // A script that runs this in its background has it ignore the signal.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(klp_build).args(kernel.options());
        command.arg("--output").arg(&module).arg(&item.patch).env("TMPDIR", &tmp);
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(millis));
        let pid = run.id().to_string();
        let sh = Shell::new()?;
        cmd!(sh, "kill -INT {pid}").quiet().ignore_stderr().ignore_status().run()?;
        let start = Instant::now();
        let status = loop {
            match run.try_wait()? {
                Some(status) => break status,
                None if start.elapsed() > Duration::from_secs(30) => {
                    run.kill().ok();
                    break run.wait()?;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut wrong = |what: String| problems.push(format!("after {millis} ms: {what}"));
        match (status.code(), status.signal()) {
            (_, Some(2)) if module.exists() => wrong("a module is there".into()),
            (Some(0), _) if !module.exists() => wrong("no module is there".into()),
            (Some(0), _) | (_, Some(2)) => {}
            _ => wrong(status.to_string()),
        }
        std::fs::remove_file(&module).ok();
        for left in std::fs::read_dir(&tmp)?.flatten() {
            wrong(format!("`{}` is left", left.path().display()));
        }
        for process in std::fs::read_dir("/proc")?.flatten() {
            let given = std::fs::read(process.path().join("environ")).unwrap_or_default();
            if String::from_utf8_lossy(&given).contains(&*tmp.to_string_lossy()) {
                wrong(format!("process {} is left", process.path().display()));
            }
        }
    }
    Ok(problems)
}

/// A module signed with a key of ours: what is wrong with it, and its file.
fn sign(klp_build: &Path, kernel: &Kernel, item: &Item, out: &Path) -> Result<(Vec<String>, PathBuf)> {
    let (key, cert) = (out.join("key.pem"), out.join("cert.pem"));
    let sh = Shell::new()?;
    let subject = ["-subj", "/CN=livepatch test", "-newkey", "rsa:2048", "-days", "2"];
    cmd!(sh, "openssl req -x509 -nodes {subject...} -keyout {key} -out {cert}")
        .quiet()
        .ignore_stderr()
        .run()
        .context("failed to make a signing key")?;
    let module = out.join("livepatch-signed.ko");
    let mut args = kernel.options();
    let texts = |paths: [&Path; 3]| paths.map(|path| path.display().to_string());
    let [key, cert, output] = texts([&key, &cert, &module]);
    args.extend(["--sign-key".into(), key, "--sign-cert".into(), cert, "--output".into(), output]);
    args.push(item.patch.display().to_string());
    let mut problems = Vec::new();
    let report = report::run(klp_build, &args)?;
    if report.status != Some(0) {
        problems.push(format!("exit status {:?}", report.status));
    }
    // scripts/sign-file.c ends a signed module with this line.
    if !std::fs::read(&module).unwrap_or_default().ends_with(b"~Module signature appended~\n") {
        problems.push("the module carries no signature".into());
    }
    Ok((problems, module))
}

fn case(item: &Item, module: PathBuf, work: &Path) -> Result<Case> {
    let mut files = vec![("/probe".to_owned(), probe(work)?)];
    if item.entry.modules.iter().any(|m| m == "loop") {
        files.push(("/disk".to_owned(), disk(work)?));
    }
    let snippets = item.entry.snippets();
    let needs = item.entry.modules.clone();
    Ok(Case { name: item.name.clone(), modules: vec![module], needs, files, snippets, ..Case::default() })
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
