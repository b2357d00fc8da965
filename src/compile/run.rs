//! Child processes that can be stopped: each in a process group of its own, all known here.
//!
//! In: a command. Out: what it printed. Hard because a compiler driver starts children of its own, so killing
//! the driver is not enough, and because a run that a person interrupts must not leave compilers behind that
//! write into directories being removed. Signals set a flag and kill the groups; the run then ends by
//! ordinary errors, and temporary directories go the ordinary way. A run that does not see the flag is ended soon after.
//! Either way the process ends as by the signal, so that a shell ends its loop over many patches, too.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// The signal that asked the run to end; 0 when none did.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// What kbuild would take from the environment, and with it another directory, configuration or other flags than it is given.
const OF_ANOTHER_BUILD: [&str; 11] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "O",
    "KBUILD_OUTPUT",
    "KBUILD_EXTMOD",
    "KBUILD_EXTMOD_OUTPUT",
    "KBUILD_EXTRA_SYMBOLS",
    "KCONFIG_CONFIG",
    "KCFLAGS",
    "KAFLAGS",
];

/// kbuild's make, without what a make above us or a shell that builds another kernel would lend it; messages in English.
pub fn kbuild() -> Command {
    let mut make = Command::new("make");
    for name in OF_ANOTHER_BUILD {
        make.env_remove(name);
    }
    make.env("LC_ALL", "C");
    make
}

/// Runs a command to its end, with no input, and gives what it printed; the exit status is the caller's to judge.
pub fn output(command: &mut Command) -> Result<Output> {
    output_holding(command, Stdio::null())
}

/// The same for a command that must keep a lock: the locked file is its input, so that the lock lasts as long
/// as any of its processes, also when this one is killed and they go on.
pub fn output_locked(command: &mut Command, lock: &File) -> Result<Output> {
    let lock = lock.try_clone().context("failed to share a lock")?;
    output_holding(command, Stdio::from(lock))
}

fn output_holding(command: &mut Command, input: Stdio) -> Result<Output> {
    use std::os::unix::process::CommandExt;
    command.process_group(0).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let child = {
        // Under the lock, so that no child starts after the others were killed.
        let mut groups = GROUPS.lock().unwrap_or_else(|poison| poison.into_inner());
        if interrupted() {
            bail!("interrupted");
        }
        let child = command.spawn().with_context(|| format!("failed to run `{name}`"));
        // A command keeps what it was given for its child: a lock must not last as long as the command does.
        command.stdin(Stdio::null());
        let child = child?;
        groups.insert(child.id());
        child
    };
    let id = child.id();
    let output = child.wait_with_output();
    GROUPS.lock().unwrap_or_else(|poison| poison.into_inner()).remove(&id);
    if interrupted() {
        bail!("interrupted");
    }
    output.with_context(|| format!("failed to read what `{name}` prints"))
}

/// Whether a signal asked the run to end.
pub fn interrupted() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}

/// Ends the run: kills all children with their children, and lets no new one start. Whether there were any.
fn interrupt(signal: i32) -> bool {
    SIGNAL.store(signal, Ordering::SeqCst);
    let groups = GROUPS.lock().unwrap_or_else(|poison| poison.into_inner());
    for pid in groups.iter().filter_map(|&id| Pid::from_raw(id as i32)) {
        // A group that is gone already is what we want.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    !groups.is_empty()
}

/// How long an interrupted run has to end by itself: to see that its children were killed, and to take away its files.
const GRACE: Duration = Duration::from_secs(3);

/// Makes SIGINT, SIGTERM and SIGHUP end the run, with what it started and what it made, unless they are ignored. For the program's `main`, once.
///
/// What waits for something else than a child (a patch from a pipe that nobody writes to) sees no flag. So the process is ended after a
/// while, or by a second signal; at once where no child runs and `has_begun` says that nothing was made. `clean` is done before.
///
/// # Errors
///
/// When signals cannot be caught.
pub fn on_signals(has_begun: fn() -> bool, clean: fn()) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = signal_hook::iterator::Signals::new(heeded).context("failed to catch signals")?;
    std::thread::spawn(move || {
        let end = move || {
            clean();
            end_by_signal();
        };
        for signal in signals.forever() {
            let again = interrupted();
            let had_children = interrupt(signal);
            if again || !(had_children || has_begun()) {
                end();
            }
            std::thread::spawn(move || {
                std::thread::sleep(GRACE);
                end();
            });
        }
    });
    Ok(())
}

/// The signals that whoever started this process had it ignore, as nohup(1) does, by their bits (proc(5), `SigIgn`).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Ends the process as the signal would have that interrupted the run, if one did: a shell sees status 130 for Ctrl-C.
pub fn end_by_signal() {
    if interrupted() {
        // Where that fails, the process ends with the status that it would end with otherwise.
        let _ = signal_hook::low_level::emulate_default_handler(SIGNAL.load(Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects every make from the variables of another build.
    #[test]
    fn of_another_build() {
        let make = kbuild();
        let removed = |name: &str| make.get_envs().any(|(n, value)| n == name && value.is_none());
        assert!(["O", "KBUILD_OUTPUT", "KCONFIG_CONFIG", "MAKEFLAGS", "KCFLAGS"].into_iter().all(removed));
    }

    /// Protects a private build directory from a make that outlives its run: the lock is the child's, too.
    #[test]
    fn a_child_keeps_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = File::create(&path).unwrap();
        lock.lock().unwrap();
        let mut command = Command::new("sh");
        // The child says when it runs, then waits for us.
        command.args(["-c", "touch started; while [ ! -e done ]; do sleep 0.05; done"]).current_dir(dir.path());
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let lock = lock;
                output_locked(&mut command, &lock).map(|_| drop(lock))
            });
            while !dir.path().join("started").exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let other = File::open(&path).unwrap();
            assert!(other.try_lock().is_err());
            std::fs::write(dir.path().join("done"), b"").unwrap();
            run.join().unwrap().unwrap();
            other.lock().unwrap();
        });
    }
}
