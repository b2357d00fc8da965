//! The modules of the corpus in the kernel that they were made for: each is loaded, the kernel used, and unloaded again.
//!
//! In: cases whose modules are there. Out: how many came, worked and went with nothing alarming in the kernel's log. What a fix
//! changes is not looked at: that takes a reader for each. A livepatch that makes the kernel stumble over everyday
//! work is seen. Those that were through it are not taken again, so that a run goes on where one stopped.

use anyhow::{Context, Result, ensure};

use super::cases::Case;
use super::run::{Done, Outcome, Runner};
use crate::guest;
use crate::kernel::Kernel;
use crate::{dirs, vm};

/// Modules for one boot: a guest that goes down takes only so many answers along.
const PER_BOOT: usize = 25;

/// Everyday work of a kernel, as far as busybox can ask for it.
const SMOKE: &str = r#"set -e
d=$(mktemp -d)
mount -t tmpfs none $d
dd if=/dev/zero of=$d/a bs=64k count=16 2>/dev/null
cp $d/a $d/b; ln $d/a $d/c; mv $d/b $d/e; mkfifo $d/p; truncate -s 1000 $d/a; sync
(echo hello > $d/p) & [ "$(cat $d/p)" = hello ]
wait
find /proc/self /proc/sys /sys/kernel /sys/class -type f -name '[a-m]*' 2>/dev/null | head -300 | while read f; do head -c 64 $f; done >/dev/null 2>&1 || true
cat /proc/meminfo /proc/interrupts /proc/stat /proc/mounts /proc/net/tcp /proc/net/dev /proc/slabinfo /proc/vmstat >/dev/null
ping -c 1 -W 2 127.0.0.1 >/dev/null
(nc -l -p 7777 > $d/got & sleep 0.2; echo over tcp | nc -w 1 127.0.0.1 7777; wait) </dev/null || true
for i in 1 2 3 4 5 6 7 8; do (sleep 0.01) & done; wait
umount $d
rmdir $d
"#;

/// Loads the modules that are there.
pub fn run(kernel: &Kernel, runner: &Runner<'_>, cases: &[&Case], again: bool) -> Result<()> {
    let kept = |case: &&Case| -> Option<(String, Done)> { Some((case.name(), runner.kept(case, true)?)) };
    let built = cases.iter().filter_map(kept).filter(|(_, done)| done.outcome == Outcome::Built);
    let mut load = Vec::new();
    let (mut stays, mut before) = (Vec::new(), 0);
    for (name, _) in built {
        if !again && runner.loaded(&name).exists() {
            before += 1;
            continue;
        }
        // A module that somebody may have an address of has no exit function: it cannot be unloaded.
        if dirs::read(&runner.dir.join(&name).join("stderr"))?.contains("never be removed") {
            stays.push(name);
            continue;
        }
        let snippets = vec![("smoke", SMOKE.to_owned())];
        let case = guest::Case { snippets, ..guest::Case::load(&runner.module(&name))? };
        load.push((name, case));
    }
    ensure!(!load.is_empty() || before > 0, "no module is there: run `cargo xtask corpus` first");
    let mut failed = 0;
    for part in load.chunks(PER_BOOT) {
        let (names, part): (Vec<&String>, Vec<guest::Case>) =
            part.iter().map(|(name, case)| (name, case.clone())).unzip();
        let (run, results) = guest::run_cases(kernel, &part).context("failed to boot the older release")?;
        for (name, result) in names.iter().zip(&results).filter(|(_, result)| result.passed()) {
            dirs::write(&runner.loaded(name), result.summary())?;
        }
        let wrong = results.iter().filter(|result| !result.passed()).count();
        results.iter().for_each(|result| println!("{}", result.summary()));
        if wrong > 0 {
            eprintln!("{}", vm::tail(&run.console, 40));
        }
        failed += wrong;
    }
    println!(
        "{} of {} modules came, worked and went, {before} of them in runs before; not tried, since they stay: {stays:?}",
        load.len() + before - failed,
        load.len() + before
    );
    ensure!(failed == 0, "{failed} modules did not come, work and go");
    Ok(())
}
