//! The proof against the image, on real kernels: what is in them is found, what is not is refused.
//!
//! In: the built linux 7 and Debian's stock 6.12, as files and while they run. Out: a score. A check that always said yes
//! would pass every build; so each way in which a compiled original can differ from the kernel is tried, and must be
//! found. tests/verify.rs has the same in small, without a kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::guest::CASE;
use crate::kernel::{Kernel, load_order};
use crate::matrix::Score;
use crate::vm::Guest;
use crate::{Args, build, dirs, kernel};

/// Units of a stock kernel that have every kind of place that boot rewrites.
const LIVE_UNITS: &[&str] = &["fs/proc/meminfo.c", "fs/dcache.c", "kernel/fork.c"];

/// A kernel that runs: how it was booted.
struct Boot {
    what: &'static str,
    processor: Option<&'static str>,
    append: &'static str,
}

const BOOTS: &[Boot] = &[
    Boot { what: "running", processor: None, append: "" },
    // Accounting of call depths: calls go to the padding before functions.
    Boot {
        what: "running, retbleed=stuff",
        processor: Some("Skylake-Client"),
        append: "spectre_v2=retpoline retbleed=stuff",
    },
];

/// The task: `verify [live]`, both parts or the second one.
pub fn task(args: Args<'_>) -> Result<()> {
    let mut score = Score::default();
    match args {
        [] => score = run()?,
        [part] if part == "live" => live(&mut score)?,
        _ => anyhow::bail!("usage: cargo xtask verify [live]"),
    }
    ensure!(score.failed == 0, "{} of {} failed", score.failed, score.passed + score.failed);
    Ok(())
}

/// Runs all cases.
pub fn run() -> Result<Score> {
    let mut score = Score::default();
    files(&mut score)?;
    live(&mut score)?;
    Ok(score)
}

/// klp-build's answer: exit status, and what it printed.
fn verify(klp_build: &Path, args: &[String]) -> Result<(Option<i32>, String)> {
    let out = Command::new(klp_build).arg("verify").args(args).output();
    let out = out.with_context(|| format!("failed to run `{}`", klp_build.display()))?;
    Ok((out.status.code(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))))
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// One case: the status, and texts that must be in the answer.
fn case(score: &mut Score, klp_build: &Path, what: &str, args: &[String], status: i32, texts: &[&str]) -> Result<()> {
    let (got, said) = verify(klp_build, args)?;
    let missing: Vec<&&str> = texts.iter().filter(|t| !said.contains(**t)).collect();
    let right = got == Some(status) && missing.is_empty();
    *(if right { &mut score.passed } else { &mut score.failed }) += 1;
    println!("  {what:<60} {}", if right { "ok" } else { "FAILED" });
    if !right {
        let end = said.lines().take(40).collect::<Vec<_>>().join("\n      ");
        println!("      status {got:?}, not {status}; without {missing:?}\n      {end}");
    }
    Ok(())
}

/// Kernels as files.
fn files(score: &mut Score) -> Result<()> {
    let built = kernel::prepare("linux-7", false)?;
    let stock = kernel::prepare("debian-6.12", false)?;
    let klp_build = build::klp_build()?;
    let scratch = dirs::scratch("verify")?;
    let header = scratch.path().join("other-option.h");
    dirs::write(&header, "#define CONFIG_CMA 1\n")?;
    let include = format!("--flag={}", header.display());
    for name in ["debian-6.12", "debian-6.1"] {
        println!("\nverify ({name})");
        let kernel = kernel::prepare(name, false)?;
        let mut options = kernel.options();
        let at = options.iter().position(|w| w == "--symbols").context("failed to find an option of a stock kernel")?;
        // As on a machine where nobody may read /proc/kallsyms, and System.map is a notice.
        options.drain(at..at + 2);
        let unit = [options, words(&["fs/proc/meminfo.c"])].concat();
        case(score, &klp_build, "the symbols that the image has itself", &unit, 0, &[])?;
    }
    println!("\nverify (linux-7)");
    let with = |more: &[&str]| [built.options(), words(more)].concat();
    let path = |path: &Path| path.display().to_string();
    case(
        score,
        &klp_build,
        "units of vmlinux and of a module",
        &with(&["fs/proc/meminfo.c", "kernel/fork.c", "fs/ext4/inode.c"]),
        0,
        &[],
    )?;
    case(score, &klp_build, "another optimisation level", &with(&["--flag=-O1", "fs/proc/cmdline.c"]), 1, &[])?;
    let option = with(&["--flag=-include", &include, "fs/proc/meminfo.c"]);
    case(score, &klp_build, "another option of the configuration", &option, 1, &["meminfo_proc_show+"])?;
    // The symbols are the other kernel's, or the image is: neither fits.
    let symbols = with(&["--symbols", &path(&stock.symbols), "fs/proc/meminfo.c"]);
    case(score, &klp_build, "symbols of another build", &symbols, 1, &["does not belong to the image"])?;
    let image = with(&["--image", &path(&stock.image), "fs/proc/meminfo.c"]);
    case(score, &klp_build, "image of another build", &image, 1, &["does not belong to the image"])?;
    let image = with(&["--image", &path(&stock.image), "--symbols", &path(&stock.symbols), "fs/proc/meminfo.c"]);
    case(score, &klp_build, "image and symbols of another build", &image, 1, &["meminfo_proc_show"])
}

/// Kernels while they run, in QEMU: their memory is copied before and after a livepatch is loaded.
fn live(score: &mut Score) -> Result<()> {
    let kernel = kernel::prepare("debian-6.12", false)?;
    let klp_build = build::klp_build()?;
    let scratch = dirs::scratch("live")?;
    let module = scratch.path().join("livepatch-meminfo.ko");
    let patch = dirs::root().join("examples/meminfo.patch");
    let status = Command::new(&klp_build)
        .args(kernel.options())
        .arg("--output")
        .args([&module, &patch])
        .status()
        .with_context(|| format!("failed to run `{}`", klp_build.display()))?;
    ensure!(status.success(), "failed to build a livepatch for {}: {status}", kernel.release);
    println!("\nverify (debian-6.12, /proc/kcore)");
    for boot in BOOTS {
        let copies = copy_memory(&kernel, &klp_build, &module, boot, scratch.path())?;
        let mut args = kernel.options();
        // The later of an option given twice would not win: they are replaced.
        for (option, file) in [("--symbols", &copies.kallsyms), ("--image", &copies.before)] {
            let at = args.iter().position(|w| w == option).context("failed to find an option of a stock kernel")?;
            args[at + 1] = file.display().to_string();
        }
        let before = [args.clone(), words(LIVE_UNITS)].concat();
        case(score, &klp_build, &format!("{}: units are equal", boot.what), &before, 0, &[])?;
        let other = [args.clone(), words(&["--flag=-O1", "fs/proc/cmdline.c"])].concat();
        case(
            score,
            &klp_build,
            &format!("{}: another optimisation level", boot.what),
            &other,
            1,
            &["cmdline_proc_show"],
        )?;
        let at = args.iter().position(|w| w == "--image").context("failed to find `--image`")?;
        args[at + 1] = copies.after.display().to_string();
        let after = [args.clone(), words(LIVE_UNITS)].concat();
        let said = "meminfo_proc_show: is live-patched already by `livepatch_meminfo`";
        case(score, &klp_build, &format!("{}: a replaced function is named", boot.what), &after, 1, &[said])?;
        // Its file's symbols have other addresses, and those of another build are refused.
        let wrong = args.iter().position(|w| w == "--symbols").context("failed to find `--symbols`")?;
        args[wrong + 1] = kernel::prepare("linux-7", false)?.symbols.display().to_string();
        args.push("fs/proc/meminfo.c".to_owned());
        case(score, &klp_build, &format!("{}: symbols of another build", boot.what), &args, 1, &[])?;
    }
    Ok(())
}

/// What came out of a guest.
struct Copies {
    before: PathBuf,
    after: PathBuf,
    kallsyms: PathBuf,
}

/// Boots the kernel with KASLR, and lets klp-build copy its memory onto disks.
fn copy_memory(kernel: &Kernel, klp_build: &Path, module: &Path, boot: &Boot, dir: &Path) -> Result<Copies> {
    const SIZE: u64 = 256 << 20;
    let disk = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::File::create(&path).and_then(|f| f.set_len(SIZE)).with_context(|| format!("failed to write `{name}`"))?;
        Ok(path)
    };
    let copies = Copies { before: disk("before")?, after: disk("after")?, kallsyms: disk("kallsyms")? };
    let mut guest = Guest::new(&kernel.image)?;
    guest.moved().append(boot.append).timeout(Duration::from_secs(1800));
    if let Some(processor) = boot.processor {
        guest.processor(processor);
    }
    for file in [&copies.before, &copies.after, &copies.kallsyms] {
        guest.disk(file);
    }
    // A build with debug information is three times as large as the guest's memory likes.
    let small = dir.join("klp-build");
    let sh = Shell::new()?;
    cmd!(sh, "strip -o {small} {klp_build}").quiet().run().context("failed to strip klp-build")?;
    guest.program("/bin/klp-build", &small)?;
    guest.file("/case.sh", CASE);
    guest.module("/livepatch-meminfo.ko", module)?;
    let mut script = ". /case.sh\nset -e\n".to_owned();
    for file in load_order(kernel, &words(&["virtio_blk"]))? {
        let name = file.file_name().context("failed to name a module")?.to_string_lossy().into_owned();
        let name = name.split(".ko").next().unwrap_or_default();
        guest.module(&format!("/modules/{name}.ko"), &file)?;
        script.push_str(&format!("insmod /modules/{name}.ko\n"));
    }
    script.push_str(
        "wait_for '[ -b /dev/vdc ]'\nklp-build snapshot /dev/vda\nload /livepatch-meminfo.ko\ngrep MemUsable /proc/meminfo\n\
         cat /proc/kallsyms > /tmp/kallsyms\nklp-build snapshot --kallsyms /tmp/kallsyms /dev/vdb\n\
         cat /tmp/kallsyms > /dev/vdc\nsync\n",
    );
    let run = guest.run(&script)?;
    ensure!(run.status == Some(0), "failed to copy the guest's memory:\n{}", crate::vm::tail(&run.output, 20));
    // A disk has no end of file.
    let text = fs::read(&copies.kallsyms)?;
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    fs::write(&copies.kallsyms, &text[..end]).context("failed to write the symbols")?;
    Ok(copies)
}
