//! `cargo xtask demo --sets`: two livepatches side by side, and a new version of one that leaves the other alone.
//!
//! In: patches from examples/, the kernel with the runtime and replace sets. Out: what the guest shows at each step; the
//! demo fails when a step does not show what sets promise. The modules are made by klp-build with `-s`, so that
//! one number is seen from the command line to sysfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::build;
use super::config::Config;
use crate::guest::{CASE, alarms};
use crate::vm::Guest;
use crate::{build as tool, dirs};

/// Module, set, patch.
const LIVEPATCHES: &[(&str, &str, &str)] = &[
    ("livepatch-version", "1", "version.patch"),
    ("livepatch-meminfo", "2", "meminfo.patch"),
    ("livepatch-meminfo-v2", "2", "meminfo-v2.patch"),
    ("livepatch-state", "3", "state.patch"),
];

/// What the files say, and the log of the state.
const SHOW: &str = "cat /proc/uptime > /dev/null; cut -d' ' -f3- /proc/uptime | grep . ; cut -c1-40 /proc/version; sed -n 3p /proc/meminfo; \
                    for p in /sys/kernel/livepatch/*/; do [ -d $p ] && echo \"$(basename $p): set $(cat $p/replace_set), \
                    enabled $(cat $p/enabled)\"; done; \
                    dmesg | sed -n 's/.*uptime: /log: /p'";

/// The task.
pub fn run() -> Result<()> {
    let klp_build = tool::klp_build()?;
    let built = build::build(Config::Sets)?;
    let objdir = build::objdir(Config::Sets)?;
    let dir = dirs::dev_cache()?.join("demo");
    dirs::create(&dir)?;
    let mut modules = Vec::new();
    for (name, set, patch) in LIVEPATCHES {
        println!("* klp-build -s {set} -o {name}.ko examples/{patch}");
        let patch = dirs::root().join("examples").join(patch);
        modules.push(livepatch(&klp_build, &built.source, &objdir, &dir.join(format!("{name}.ko")), set, &patch)?);
    }
    println!("* boot the kernel with the runtime, load, replace, look");
    let mut guest = Guest::new(&built.image)?;
    guest.file("/case.sh", CASE);
    for ((name, ..), module) in LIVEPATCHES.iter().zip(&modules) {
        guest.module(&format!("/{name}.ko"), module)?;
    }
    let steps = [
        ("before", String::new()),
        ("set 1 and set 2 loaded", "load /livepatch-version.ko && load /livepatch-meminfo.ko || exit 1;".to_owned()),
        ("a second version of set 2 loaded", "load /livepatch-meminfo-v2.ko || exit 1;".to_owned()),
        ("set 1 disabled", "unload /livepatch-version.ko || exit 1;".to_owned()),
        ("set 3 loaded: its state owns a shadow variable", "load /livepatch-state.ko || exit 1;".to_owned()),
        ("set 3 disabled", "unload /livepatch-state.ko || exit 1;".to_owned()),
    ];
    let mut script = ". /case.sh\necho 'klp-case begin demo' > /dev/kmsg\n".to_owned();
    for (title, commands) in &steps {
        script += &format!("{commands} echo '@@{title}'; {SHOW}\n");
    }
    script += "echo 'klp-case end demo' > /dev/kmsg\n";
    let run = guest.run(&script)?;
    for line in run.output.lines() {
        match line.strip_prefix("@@") {
            Some(title) => println!("\n  {title}"),
            None => println!("    {line}"),
        }
    }
    ensure!(run.status == Some(0), "failed to load the livepatches in the guest; see above");
    judge(&run.output)?;
    let (ended, alarms) = alarms("demo", &run.console);
    ensure!(ended && alarms.is_empty(), "the kernel's log is not clean:\n{}", alarms.join("\n"));
    println!("\n  no warning in the kernel log\n\ndemo passed");
    Ok(())
}

/// Makes a livepatch of a set from a source patch.
pub fn livepatch(
    klp_build: &Path,
    source: &Path,
    objdir: &Path,
    module: &Path,
    set: &str,
    patch: &Path,
) -> Result<PathBuf> {
    std::fs::remove_file(module).ok();
    let status = Command::new(klp_build)
        .args(["--replace-set", set, "--kernel"])
        .arg(source)
        .arg("--objdir")
        .arg(objdir)
        .arg("--output")
        .arg(module)
        .arg(patch)
        .status()
        .context("failed to run `klp-build`")?;
    ensure!(status.success() && module.exists(), "failed to build `{}`: {status}", module.display());
    Ok(module.to_path_buf())
}

/// What each part must show: (version changed, label of meminfo, livepatches in sysfs).
fn judge(output: &str) -> Result<()> {
    let parts: Vec<&str> = output.split("@@").skip(1).collect();
    let [before, both, replaced, one, state, last] = parts[..] else { bail!("failed to read the guest's output") };
    let expected = [
        (before, false, "MemAvailable:", &[][..]),
        (both, true, "MemUsable:", &["livepatch_version: set 1", "livepatch_meminfo: set 2"][..]),
        (replaced, true, "MemReallyUsable:", &["livepatch_version: set 1", "livepatch_meminfo_v2: set 2"][..]),
        (one, false, "MemReallyUsable:", &["livepatch_meminfo_v2: set 2"][..]),
        (state, false, "read 2 times", &["livepatch_meminfo_v2: set 2", "livepatch_state: set 3"][..]),
        (last, false, "log: state 77 begins", &["livepatch_meminfo_v2: set 2"][..]),
        (last, false, "log: state 77 ends", &["livepatch_meminfo_v2: set 2"][..]),
        (last, false, "log: 2 reads are forgotten", &["livepatch_meminfo_v2: set 2"][..]),
    ];
    for (part, version, label, loaded) in expected {
        let title = part.lines().next().unwrap_or_default();
        ensure!(part.contains("livepatched Linux") == version, "/proc/version is not as it should be: {title}");
        ensure!(part.contains(label), "`{label}` should be seen: {title}");
        ensure!(part.matches(": set ").count() == loaded.len(), "other livepatches are loaded: {title}");
        for livepatch in loaded {
            ensure!(part.contains(livepatch), "`{livepatch}` is not loaded: {title}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demo cannot pass when a new version takes the other set away, or leaves the old version.
    #[test]
    fn judges_what_sets_promise() {
        let part = |title: &str, version: &str, label: &str, loaded: &[&str]| {
            let loaded: String = loaded.iter().map(|l| format!("{l}, enabled 1\n")).collect();
            format!("@@{title}\n{version} version 7\n{label}  1 kB\n{loaded}")
        };
        let (v, m, m2) = ("livepatch_version: set 1", "livepatch_meminfo: set 2", "livepatch_meminfo_v2: set 2");
        let before = part("a", "Linux", "MemAvailable:", &[]);
        let both = part("b", "livepatched Linux", "MemUsable:", &[v, m]);
        let one = part("d", "Linux", "MemReallyUsable:", &[m2]);
        let state = part("e", "Linux", "1.0 1.0 read 2 times", &[m2, "livepatch_state: set 3"]);
        let log = "log: state 77 begins\nlog: 2 reads are forgotten\nlog: state 77 ends";
        let last = [one, state, part("f", "Linux", log, &[m2])].concat();
        let good = part("c", "livepatched Linux", "MemReallyUsable:", &[v, m2]);
        assert!(judge(&[&before, &both, &good, &last].map(String::as_str).concat()).is_ok());
        for bad in [
            part("c", "Linux", "MemReallyUsable:", &[m2]),
            part("c", "livepatched Linux", "MemUsable:", &[v, m2]),
            part("c", "livepatched Linux", "MemReallyUsable:", &[v, m, m2]),
        ] {
            assert!(judge(&[&before, &both, &bad, &last].map(String::as_str).concat()).is_err(), "{bad}");
        }
    }
}
