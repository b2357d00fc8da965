//! `cargo xtask test [--quick] [--long] [--on KERNEL] [--only NAME]...`: the whole ladder, cheapest rung first.
//!
//! tidy, then `cargo test`, then the kernels in QEMU. `--only` runs the kernel stage alone, for the patches whose
//! name contains NAME, and `--on` the patches of one kernel of tests/kernels.toml. Every rung runs even if one before it failed, so that one run shows all there is.

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{Args, apt, dirs, kernel, kernels, launchers, many, matrix, mutate, runtime, tidy, verify, vm};

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let (mut quick, mut long, mut on, mut only) = (false, false, None, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--long" => long = true,
            "--on" => on = Some(words.next().context("`--on` needs the name of a kernel")?.as_str()),
            "--only" => only.push(words.next().context("`--only` needs a part of a patch's name")?.clone()),
            _ => bail!("usage: cargo xtask test [--quick] [--long] [--on KERNEL] [--only NAME]..."),
        }
    }
    kernel::install_build_packages()?;
    // For tests/payloads.rs.
    apt::install(&["bzip2", "gzip", "lz4", "lzop", "zstd"])?;
    if long {
        // For the fixtures that are about other compilers.
        apt::install(&["clang", "clang-19", "gcc-aarch64-linux-gnu"])?;
    }
    if let Some(on) = on {
        apt::install(vm::PACKAGES)?;
        let score = matrix::run(kernels::find(on)?.0, &only)?;
        println!("{} passed, {} failed", score.passed, score.failed);
        return if score.failed > 0 { bail!("tests failed on {on}") } else { Ok(()) };
    }
    let mut failed = Vec::new();
    let mut rung = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    };
    if only.is_empty() {
        rung("tidy", tidy::run(&[]));
        rung("cargo test", cargo_test(long));
    }
    let score = if quick { matrix::Score::default() } else { kernels(long, &only)? };
    if !quick && only.is_empty() {
        rung("runtime", runtime::test());
    }
    if score.failed > 0 {
        failed.push("kernels");
    }
    if failed.is_empty() { Ok(()) } else { bail!("tests failed: {}", failed.join(", ")) }
}

/// Everything that boots a kernel but the runtime; `--only several-kernels` and `--only launchers` run those alone.
fn kernels(long: bool, only: &[String]) -> Result<matrix::Score> {
    apt::install(vm::PACKAGES)?;
    let mut score = matrix::Score::default();
    let mut add = |name: &str, result: Result<matrix::Score>| match result {
        Ok(part) => score.add(&part),
        Err(error) => {
            eprintln!("error: {name}: {error:#}");
            score.failed += 1;
        }
    };
    for name in kernels::tested(long)? {
        add(name, matrix::run(name, only));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only.as_str()));
    if wanted("several-kernels") {
        add("several kernels", many::run());
    }
    if wanted("launchers") {
        add("launchers", launchers::run());
    }
    if only.is_empty() {
        add("verify", verify::run());
    }
    if long && only.is_empty() {
        add("mutate", mutate::test());
    }
    println!("{} passed, {} failed", score.passed, score.failed);
    Ok(score)
}

fn cargo_test(long: bool) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(dirs::root());
    if long {
        // tests/fixtures.rs: properties over every object of a built kernel.
        sh.set_var("KLP_OBJECTS", kernel::prepare("linux-7", false)?.objdir);
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    cmd!(sh, "{cargo} test --workspace").run().context("failed to pass `cargo test`")
}
