//! What runs on the machine and concerns a function to be replaced: probes, other redirections, tasks that never leave it.
//!
//! In: copies of /sys/kernel/debug/kprobes/list and /sys/kernel/tracing/enabled_functions. Out: findings. Only one user of
//! ftrace may redirect a function (kernel/trace/ftrace.c, FTRACE_OPS_FL_IPMODIFY), so a second one is refused; a kprobe inside
//! the old code stays, and is never hit again (Documentation/livepatch/livepatch.rst, "Limitations").

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::peers::{Addresses, Peer};
use super::{Finding, about};
use crate::error::Reason;
use crate::inspect::Inspection;

/// Functions that somebody watches, as (object, name).
#[derive(Debug, Default, Clone)]
pub struct Watched {
    /// With a kprobe: (object, name, offset in the function).
    pub probed: BTreeSet<(String, String, u64)>,
    /// Redirected by a user of ftrace.
    pub redirected: BTreeSet<(String, String)>,
}

impl Watched {
    /// Adds a copy of /sys/kernel/debug/kprobes/list.
    ///
    /// # Errors
    ///
    /// When a line is none of that file.
    pub fn kprobes(&mut self, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            // kernel/kprobes.c report_probe: address, kind, function+0xoffset, module, flags.
            let mut words = line.split_whitespace();
            let place = words.nth(2).and_then(|place| place.split_once("+0x"));
            let place = place.and_then(|(name, offset)| {
                let offset = offset.split('/').next()?;
                Some((name, u64::from_str_radix(offset, 16).ok()?))
            });
            let Some((name, offset)) = place else { bail!("line {}: no probe: `{line}`", number + 1) };
            if line.contains("[GONE]") {
                continue;
            }
            let module = words.next().filter(|word| !flag(word));
            let module = module.map_or("vmlinux", |word| word.trim_matches(['[', ']']));
            self.probed.insert((module.to_owned(), name.to_owned(), offset));
        }
        Ok(())
    }

    /// Adds a copy of /sys/kernel/tracing/enabled_functions.
    ///
    /// # Errors
    ///
    /// When a line is none of that file.
    pub fn traced(&mut self, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            // kernel/trace/ftrace.c t_show: function, module in brackets, count in parentheses, flags, trampoline.
            let Some((head, flags)) = line.split_once(" (").and_then(|(a, b)| Some((a, b.split_once(')')?.1))) else {
                bail!("line {}: no traced function: `{line}`", number + 1);
            };
            let mut words = head.split_whitespace();
            let name = words.next().unwrap_or_default();
            let module = words.next().map_or("vmlinux", |word| word.trim_matches(['[', ']']));
            let flags = flags.split(['\t', ':']).next().unwrap_or_default();
            if flags.split_whitespace().any(|flag| flag == "I") {
                self.redirected.insert((module.to_owned(), name.to_owned()));
            }
        }
        Ok(())
    }
}

fn flag(word: &str) -> bool {
    ["[DISABLED]", "[OPTIMIZED]", "[FTRACE]"].iter().any(|known| word.starts_with(known))
}

/// What is to be said of the functions that a module replaces.
pub fn of(found: &Inspection, loaded: &[Peer], watched: &Watched, addresses: Addresses<'_>) -> Vec<Finding> {
    let mut out = Vec::new();
    let module = found.name.replace('-', "_");
    for object in &found.objects {
        for function in &object.functions {
            let name = &function.function;
            let key = (object.name.clone(), name.clone());
            let say = |reason, message: String, advice| about(reason, &object.name, name, message, advice);
            // A livepatch redirects its functions in the same way, and gives way to the next one.
            let by_livepatch = |peer: &Peer| peer.objects.is_none() || peer.patches(&object.name, function, addresses);
            if watched.redirected.contains(&key) && !loaded.iter().any(by_livepatch) {
                out.push(Finding::error(
                    &module,
                    say(
                        Reason::FunctionBusy,
                        format!("`{name}` is redirected already, and not by a livepatch"),
                        "take out what redirects it (a kprobe with a post handler, fault injection, a BPF program)",
                    ),
                ));
            }
            for (_, _, offset) in watched.probed.iter().filter(|(o, n, _)| (o, n) == (&key.0, &key.1)) {
                let message = match offset {
                    0 => format!("a kprobe is at the start of `{name}`: if it has a post handler the kernel refuses"),
                    _ => format!(
                        "a kprobe is at `{name}+{offset:#x}`: the livepatch's code runs instead, and it is not hit"
                    ),
                };
                let advice = "take the probe out, and set it again in the livepatch's function";
                out.push(Finding::warning(&module, say(Reason::Probed, message, advice)));
            }
            if let Some(why) = always_running(&object.name, name) {
                let advice = "patch what it calls instead, or plan for a forced transition";
                out.push(Finding::warning(&module, say(Reason::AlwaysRunning, why, advice)));
            }
        }
    }
    out
}

/// Functions in which some task is, always: a task switches when it is in no function that changes, and these are the main
/// loops of kernel threads and what all of them sleep in. By name, since names are all that a finished module tells.
const LOOPS: [&str; 24] = [
    "kthread",
    "kthreadd",
    "kthread_worker_fn",
    "worker_thread",
    "rescuer_thread",
    "smpboot_thread_fn",
    "rcu_gp_kthread",
    "rcu_gp_fqs_loop",
    "rcu_tasks_kthread",
    "irq_thread",
    "kswapd",
    "kcompactd",
    "khugepaged",
    "ksm_scan_thread",
    "oom_reaper",
    "watchdog",
    "kauditd_thread",
    "devtmpfsd",
    "kjournald2",
    "cpu_startup_entry",
    "do_idle",
    "nbcon_kthread_func",
    "napi_threaded_poll",
    "io_wq_worker",
];
const SLEEPS: [&str; 4] = ["schedule", "__schedule", "schedule_timeout", "schedule_preempt_disabled"];

/// Why a transition that changes this function may not end, if so.
pub fn always_running(object: &str, function: &str) -> Option<String> {
    let base = function.split('.').next().unwrap_or(function);
    match object {
        "vmlinux" if SLEEPS.contains(&base) => Some(format!(
            "every sleeping task is in `{function}`: kernel threads never leave it, so the transition may not end"
        )),
        "vmlinux" | "jbd2" if LOOPS.contains(&base) => {
            Some(format!("a kernel thread never leaves `{function}`, so the transition may not end"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own forms of both files, with modules, flags and what looks like a flag.
    #[test]
    fn files_of_the_kernel() {
        let mut watched = Watched::default();
        watched
            .kprobes(
                "ffffffff81234560  k  do_exit+0x0    [FTRACE]\nffffffff81234571  r  vfs_read+0x11    [DISABLED][OPTIMIZED]\n\
                 ffffffffc0000010  k  ext4_sync_file+0x10  ext4 \nffffffffc0000020  k  gone+0x0  x [GONE]\n",
            )
            .unwrap();
        let probed: Vec<String> = watched.probed.iter().map(|(o, f, at)| format!("{o}:{f}+{at}")).collect();
        assert_eq!(probed, ["ext4:ext4_sync_file+16", "vmlinux:do_exit+0", "vmlinux:vfs_read+17"]);
        watched
            .traced(
                "do_exit (1) R I     M \ttramp: 0xffffffffa0000000 (klp_ftrace_handler+0x0/0x10) ->I+0x0/0x1\n\
                 vfs_read (2)             \n\next4_sync_file [ext4] (1)   I D \n",
            )
            .unwrap();
        let redirected: Vec<String> = watched.redirected.iter().map(|(o, f)| format!("{o}:{f}")).collect();
        assert_eq!(redirected, ["ext4:ext4_sync_file", "vmlinux:do_exit"]);
        assert!(watched.kprobes("what is this\n").is_err() && watched.traced("what is this\n").is_err());
    }

    /// Loops are known also as clones; a function of another object that has the name is another function.
    #[test]
    fn loops() {
        assert!(always_running("vmlinux", "worker_thread").is_some());
        assert!(always_running("vmlinux", "do_idle.isra.0").is_some());
        assert!(always_running("vmlinux", "__schedule").is_some());
        assert!(always_running("kvm", "watchdog").is_none());
        assert!(always_running("vmlinux", "meminfo_proc_show").is_none());
    }
}
