//! The kernel runtime's tasks: put it into a kernel tree and take it out, build that kernel, run its tests in QEMU.
//!
//! In: a pristine linux 7 source tree. Out: one whose CONFIG_LIVEPATCH is the Rust core, a booted kernel, a verdict per
//! test script. Hard because the kernel's own build needs a matching set of Rust tools on every call, and its selftests
//! need a user space that prints what GNU's tools print.

mod bench;
mod build;
mod config;
mod demo;
mod hot;
mod rules;
mod selftests;
mod tree;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::Args;
pub use config::Config;
pub use demo::run as demo;

const USAGE: &str = "usage: cargo xtask runtime install --kernel DIR [--sets] | remove --kernel DIR | bench | no-rust | rules | \
                     build [CONFIG] | selftests [CONFIG] [--built TREE [--modules DIR]] [NAME]...; CONFIG is --sets, --debug or --kasan, two of them, or --c-core";

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let (mut kernel, mut built, mut config, mut names) = (None, None, Config::Stock, Vec::new());
    let (mut modules, mut sets) = (None, false);
    let mut words = args.iter();
    let what = words.next().context(USAGE)?;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kernel" => kernel = Some(PathBuf::from(words.next().context(USAGE)?)),
            "--modules" => modules = Some(PathBuf::from(words.next().context(USAGE)?)),
            "--sets" => sets = true,
            "--debug" => config = Config::Debug,
            "--kasan" => config = Config::Kasan,
            "--c-core" => config = Config::C,
            "--built" => built = Some(PathBuf::from(words.next().context(USAGE)?)),
            name if !name.starts_with('-') => names.push(name.to_owned()),
            _ => bail!(USAGE),
        }
    }
    let config = if sets { config.with_sets() } else { config };
    match what.as_str() {
        "install" => tree::install(&kernel.context(USAGE)?, sets),
        "remove" => tree::remove(&kernel.context(USAGE)?),
        "build" => {
            let built = build::build(config)?;
            println!("{}", built.image.display());
            Ok(())
        }
        "bench" => bench::run(),
        "rules" => rules::run(),
        "no-rust" => build::without_rust(),
        "selftests" => match built {
            Some(tree) => selftests::run_in(&build::by_hand(&tree, modules)?, config, &names),
            None => selftests::run(config, &names),
        },
        _ => bail!(USAGE),
    }
}

/// Everything: the C core where there is no Rust, the kernel built with both configurations, the upstream selftests and
/// the set scripts run, and the rules of sets with livepatches that klp-build makes.
pub fn test() -> Result<()> {
    build::without_rust()?;
    selftests::run(Config::Stock, &[])?;
    selftests::run(Config::Sets, &[])?;
    rules::run()
}
