//! The commands of the people who build klp-build; one file a task, and this table is their index.
//!
//! What a task needs beyond the repository (kernels, packages, a guest) it fetches through apt and
//! keeps under the user's cache directory, so that the second run is quick and works offline.

mod apt;
mod bench;
mod build;
mod compare_upstream;
mod corpus;
mod debian13;
mod demo;
mod dirs;
mod fuzz;
mod guest;
mod initramfs;
mod kernel;
mod kernels;
mod launchers;
mod layout;
mod many;
mod matrix;
mod mutate;
mod releases;
mod report;
mod runtime;
mod sources;
mod test;
mod tidy;
mod verify;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// What a task gets: the words after its name.
type Args<'a> = &'a [String];

/// A task's function.
type Task = fn(Args<'_>) -> Result<()>;

/// Name, function, and the line that `cargo xtask help` prints.
const TASKS: &[(&str, Task, &str)] = &[
    (
        "demo",
        demo::run,
        "build a livepatch for Debian's stock 6.12 kernel, load it in QEMU, show the change, unload it; --sets: two sets side by side",
    ),
    ("test", test::run, "pass all tests; --quick stops before the kernels, --long adds the slow kernels"),
    ("tidy", tidy::run, "formatting, lints, layout rules, licence lines"),
    ("kernel", kernel::run, "prepare a kernel and print its paths: kernel NAME [--refresh]"),
    ("vm", vm::run, "boot a kernel in QEMU: vm --kernel NAME [--module X.ko]... [SCRIPT]"),
    ("mutate", mutate::run, "edit real kernel files at random: every change must be seen; --noop: and no other (slow)"),
    ("fuzz", fuzz::run, "coverage-guided inputs for the parsers: fuzz [TARGET]... [--seconds N]"),
    ("compare-upstream", compare_upstream::run, "build the patches with the kernel's own klp-build and compare (slow)"),
    ("bench", bench::run, "ours beside upstream's klp-build: time and memory, written to BENCHMARKS.md (slow)"),
    (
        "corpus",
        releases::run,
        "fixes between two point releases as livepatches: corpus [--count N] [--seed N] [--only TEXT] ... (hours)",
    ),
    (
        "runtime",
        runtime::run,
        "the Rust core in a kernel: runtime install|remove --kernel DIR [--sets], build, selftests",
    ),
    (
        "debian13",
        debian13::run,
        "Debian 13's stock kernel, patched in a Debian 13 of its own (debootstrap; needs root)",
    ),
    ("verify", verify::task, "the proof against kernels, as files and while they run in QEMU; live: the second part"),
    ("help", help, "print this list"),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("help", String::as_str);
    match dispatch(name, args.get(1..).unwrap_or_default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(name: &str, args: Args<'_>) -> Result<()> {
    match TASKS.iter().find(|(task, ..)| *task == name) {
        Some((_, run, _)) => run(args),
        None => bail!("no task `{name}`; `cargo xtask help` lists them"),
    }
}

fn help(_: Args<'_>) -> Result<()> {
    println!("cargo xtask TASK [OPTIONS]\n");
    for (name, _, help) in TASKS {
        println!("  {name:<18} {help}");
    }
    println!("\nkernels: {}", kernels::names().join(", "));
    Ok(())
}
