//! The rules of replace sets, end to end: source patches, klp-build with `-s`, modules, the kernel with the runtime.
//!
//! In: patches of tests and examples. Out: what runtime/tests/rules.sh says of them. Hard because only this sees what the
//! kernel's own test modules cannot show: that the tables klp-build emits are the ones the runtime decides by.

use anyhow::{Result, ensure};

use super::config::Config;
use super::{build, demo};
use crate::guest::{CASE, alarms};
use crate::vm::{self, Guest};
use crate::{build as tool, dirs};

/// Module (named klp-NAME), set, patch.
const LIVEPATCHES: &[(&str, &str, &str)] = &[
    ("version", "1", "examples/version.patch"),
    ("slow", "2", "runtime/tests/patches/slow.patch"),
    ("meminfo", "2", "runtime/tests/patches/meminfo.patch"),
    ("apart", "3", "examples/meminfo.patch"),
    ("state", "4", "runtime/tests/patches/state.patch"),
    ("refused", "5", "runtime/tests/patches/refused.patch"),
];

/// How many parts the script has; each says "ok" once.
const PARTS: usize = 7;

/// The task.
pub fn run() -> Result<()> {
    let klp_build = tool::klp_build()?;
    let built = build::build(Config::Sets)?;
    let objdir = build::objdir(Config::Sets)?;
    let dir = dirs::dev_cache()?.join("rules");
    dirs::create(&dir)?;
    let mut guest = Guest::new(&built.image)?;
    guest.counted();
    guest.file("/case.sh", CASE);
    guest.file("/rules.sh", include_str!("../../../runtime/tests/rules.sh"));
    for (name, set, patch) in LIVEPATCHES {
        let module = demo::livepatch(
            &klp_build,
            &built.source,
            &objdir,
            &dir.join(format!("klp-{name}.ko")),
            set,
            &dirs::root().join(patch),
        )?;
        guest.module(&format!("/klp-{name}.ko"), &module)?;
    }
    let script = ". /case.sh\necho 'klp-case begin rules' > /dev/kmsg\nsh -c '. /case.sh; . /rules.sh'\nstatus=$?\n\
                  echo 'klp-case end rules' > /dev/kmsg\nexit $status\n";
    let run = guest.run(script)?;
    print!("{}", run.output);
    ensure!(run.status == Some(0), "a rule does not hold; the log ends:\n{}", vm::tail(&run.console, 30));
    ensure!(run.output.matches(": ok\n").count() == PARTS, "a part of the script did not run");
    let (ended, alarms) = alarms("rules", &run.console);
    ensure!(
        ended && alarms.iter().all(|line| is_wanted(line)),
        "the kernel's log is not clean:\n{}",
        alarms.join("\n")
    );
    println!("sets   the rules hold");
    Ok(())
}

/// What the script provokes: a callback that says no, and the patch that is therefore not enabled.
fn is_wanted(line: &str) -> bool {
    line.contains("state 602") || line.ends_with("failed to enable patch 'klp_refused'")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The script's own failures are no alarm, everything else is.
    #[test]
    fn knows_what_it_provokes() {
        assert!(is_wanted("[1.0] livepatch: pre-patch callback failed for state 602 of patch 'klp_refused' (-19)"));
        assert!(is_wanted("[1.0] livepatch: failed to enable patch 'klp_refused'"));
        assert!(!is_wanted("[1.0] livepatch: failed to enable patch 'klp_meminfo'"));
        assert!(!is_wanted("[1.0] WARNING: CPU: 0"));
        let script = include_str!("../../../runtime/tests/rules.sh");
        assert_eq!(script.matches(": ok\"").count(), PARTS);
        assert!(LIVEPATCHES.iter().all(|(name, ..)| script.contains(&format!("/klp-{name}.ko"))));
    }
}
