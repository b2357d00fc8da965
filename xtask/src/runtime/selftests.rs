//! Livepatch test scripts in a booted kernel.
//!
//! In: an image, test modules, scripts (the kernel's own, unmodified, and ours). Out: one line per script, and the log of
//! what failed. Hard because the scripts compare the kernel's log word for word, and error texts of insmod and rmmod with
//! it: the guest gets this machine's GNU tools with their libraries, not busybox.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::build::{self, Built};
use super::config::Config;
use crate::vm::{self, Guest};
use crate::{apt, dirs};

/// Debian packages of the tools below.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "procps",
    "kmod",
    "util-linux",
    "grep",
    "sed",
    "mawk",
    "diffutils",
    "findutils",
    "libc-bin",
    "gcc",
];

/// What the scripts run, by the name they run it by.
const TOOLS: &[&str] = &[
    "awk", "cat", "cp", "cut", "date", "diff", "dmesg", "env", "find", "getconf", "grep", "head", "id", "insmod", "ls",
    "mkdir", "modinfo", "realpath", "rm", "rmmod", "sed", "seq", "sleep", "sort", "stat", "sysctl", "sync", "tail",
    "tr", "uname", "wc",
];

/// Lines in the log that no test may leave behind.
const SPLATS: &[&str] = &[
    "WARNING: ",
    "BUG",
    "Oops",
    "INFO: task ",
    "INFO: rcu",
    "INFO: trying to register non-static key",
    "possible circular locking",
    "inconsistent lock state",
    "suspicious RCU",
    "sleeping function",
    "corruption",
    "ODEBUG",
    "new suspected memory leaks",
];

/// Builds the kernel if needed, boots it, runs the scripts whose name contains one of `names` (all without any).
pub fn run(config: Config, names: &[String]) -> Result<()> {
    let built = build::build(config)?;
    run_in(&built, config, names)
}

/// The same in a kernel that is there.
pub fn run_in(built: &Built, config: Config, names: &[String]) -> Result<()> {
    apt::install(PACKAGES)?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    let scripts: Vec<(String, PathBuf)> =
        scripts(built, config)?.into_iter().filter(|(name, _)| wanted(name)).collect();
    let (guest, script) = guest(built, config, &scripts)?;
    let run = guest.try_run(&script)?;
    let log = built.image.with_extension("log");
    dirs::write(&log, format!("{}\n---- output\n{}", run.console, run.output))?;
    let mut failed = Vec::new();
    for (name, _) in &scripts {
        let mark = format!("@@result {name} ");
        let result = run.output.lines().find_map(|line| line.strip_prefix(&mark));
        let verdict = match result.map(|r| r.split_once(' ').unwrap_or((r, ""))) {
            Some(("0", seconds)) => format!("pass  {seconds} s"),
            Some(("4", _)) => "skip".to_owned(),
            Some((status, seconds)) => format!("FAIL  status {status}, {seconds} s"),
            None => "FAIL  did not end".to_owned(),
        };
        println!("{:<6} {name:<22} {verdict}", config.name());
        if !verdict.starts_with("pass") {
            failed.push(name.clone());
        }
    }
    let splats = splats(&run.console);
    for line in &splats {
        println!("{:<6} splat: {line}", config.name());
    }
    println!(
        "{:<6} {} of {} scripts passed, {:.0} s, log {}",
        config.name(),
        scripts.len() - failed.len(),
        scripts.len(),
        run.time.as_secs_f64(),
        log.display()
    );
    if run.status.is_none() {
        bail!("the guest went down; its log ends:\n{}", vm::tail(&run.console, 40));
    }
    if !failed.is_empty() {
        bail!("livepatch scripts failed: {}\n{}", failed.join(", "), vm::tail(&run.output, 60));
    }
    let leaks: Vec<&str> = run.output.split_once("@@leaks").map_or(Vec::new(), |(_, leaks)| leaks.lines().collect());
    if leaks.iter().any(|line| line.starts_with("unreferenced object")) {
        bail!("memory leaked:\n{}", leaks.join("\n"));
    }
    if !splats.is_empty() {
        bail!("the kernel's log has {} warnings", splats.len());
    }
    Ok(())
}

/// Warnings of the kernel. test-shadow-vars and test-kprobe provoke none on purpose; a duplicate shadow variable would.
fn splats(console: &str) -> Vec<String> {
    console.lines().filter(|line| SPLATS.iter().any(|splat| line.contains(splat))).map(str::to_owned).collect()
}

fn scripts(built: &Built, config: Config) -> Result<Vec<(String, PathBuf)>> {
    let dir = if config.has_sets() {
        dirs::root().join("runtime/tests")
    } else {
        built.source.join("tools/testing/selftests/livepatch")
    };
    let entries = fs::read_dir(&dir).with_context(|| format!("failed to read `{}`", dir.display()))?;
    let mut scripts: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|e| e.path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".sh")?.to_owned();
            name.starts_with("test-").then_some((name, path))
        })
        .collect();
    scripts.sort();
    Ok(scripts)
}

/// A guest with tools, modules and scripts, and what it runs.
fn guest(built: &Built, config: Config, scripts: &[(String, PathBuf)]) -> Result<(Guest, String)> {
    let mut guest = Guest::new(&built.image)?;
    guest.counted();
    let minutes: u64 = std::env::var("MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(3);
    guest.timeout(Duration::from_secs(60 * minutes + 240 * scripts.len() as u64));
    let read = |path: &Path| fs::read(path).with_context(|| format!("failed to read `{}`", path.display()));
    let sh = Shell::new()?;
    let mut libraries = BTreeSet::new();
    for tool in TOOLS {
        let path = which(tool)?;
        guest.file(&format!("/host/bin/{tool}"), read(&path)?);
        libraries.extend(needs(&sh, &path)?);
    }
    let bash = which("bash")?;
    guest.file("/bin/bash", read(&bash)?);
    guest.file("/bin/stat", read(&which("stat")?)?);
    libraries.extend(needs(&sh, &bash)?);
    let selftests = built.source.join("tools/testing/selftests/livepatch");
    let work = tempfile::Builder::new().prefix("klp-selftests-").tempdir()?;
    let getpid = work.path().join("test_klp-call_getpid");
    let source = selftests.join("test_klp-call_getpid.c");
    cmd!(sh, "gcc -O2 -o {getpid} {source}").quiet().run().context("failed to compile a test program")?;
    guest.file("/selftests/test_klp-call_getpid", read(&getpid)?);
    libraries.extend(needs(&sh, &getpid)?);
    for name in ["threads", "stress"] {
        let program = work.path().join(name);
        let source = dirs::root().join(format!("runtime/tests/{name}.c"));
        cmd!(sh, "gcc -O2 -pthread -o {program} {source}").quiet().run().context("failed to compile a test program")?;
        guest.file(&format!("/selftests/{name}"), read(&program)?);
        libraries.extend(needs(&sh, &program)?);
    }
    for library in &libraries {
        guest.file(&library.to_string_lossy(), read(library)?);
    }
    guest.file("/selftests/functions.sh", read(&selftests.join("functions.sh"))?);
    let shared = dirs::root().join("runtime/tests/set-functions.sh");
    guest.file("/selftests/set-functions.sh", read(&shared)?);
    let modules =
        fs::read_dir(&built.modules).with_context(|| format!("failed to read `{}`", built.modules.display()))?;
    for module in modules.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "ko")) {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        guest.file(&format!("/selftests/test_modules/{name}"), read(&module)?);
    }
    let mut script = String::from(
        "chmod -R +x /host /bin/bash /bin/stat /lib* /selftests /usr 2>/dev/null\n\
         export PATH=/host/bin:/bin:/sbin\n\
         ln -s /proc/self/fd /dev/fd\n\
         mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null\n\
         mkdir -p /lib/modules/$(uname -r)/build\n\
         cd /selftests\n",
    );
    if config.has_kmemleak() {
        // What was allocated before the scripts is not theirs.
        script += "echo scan > /sys/kernel/debug/kmemleak; echo clear > /sys/kernel/debug/kmemleak\n";
    }
    // How long a stress run is, from our environment to the guest's.
    for name in ["THREADS", "CYCLES", "SEED"] {
        if let Ok(value) = std::env::var(name) {
            script +=
                &format!("export {name}={}\n", value.parse::<u32>().context("THREADS, CYCLES and SEED are numbers")?);
        }
    }
    for (name, path) in scripts {
        guest.file(&format!("/selftests/{name}.sh"), read(path)?);
        script += &format!(
            "chmod +x {name}.sh; start=$(date +%s); ./{name}.sh; status=$?\n\
             echo \"@@result {name} $status $(( $(date +%s) - start ))\"\n"
        );
    }
    if config.has_kmemleak() {
        // Twice: memory counts as leaked when it is old and two scans have missed it.
        script += "sleep 6; echo scan > /sys/kernel/debug/kmemleak; sleep 6; echo scan > /sys/kernel/debug/kmemleak\n\
                   echo @@leaks; cat /sys/kernel/debug/kmemleak\n";
    }
    Ok((guest, script))
}

fn which(tool: &str) -> Result<PathBuf> {
    let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let found = places.iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.exists());
    found.with_context(|| format!("failed to find `{tool}`"))
}

/// The libraries a program is linked with, and its loader.
fn needs(sh: &Shell, program: &Path) -> Result<Vec<PathBuf>> {
    let text = cmd!(sh, "ldd {program}").quiet().ignore_status().ignore_stderr().read()?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock report, a warning and a hung task are found; ordinary lines are not.
    #[test]
    fn finds_splats() {
        let log =
            "[ 1.0] livepatch: 'x': patching complete\n[ 2.0] WARNING: CPU: 0 at f\n[ 3.0] INFO: task sh:1 blocked\n";
        assert_eq!(splats(log).len(), 2);
    }
}
