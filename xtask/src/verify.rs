//! The proof against the image, on a built kernel: what is in it is found, what is not is refused.
//!
//! In: a kernel. Out: a score. A check that always said yes would pass every build; so each way in which a
//! compiled original can differ from the kernel is tried, and must be found.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::matrix::Score;
use crate::{build, dirs, kernel};

/// Runs all cases on the built linux 7.
pub fn run() -> Result<Score> {
    let kernel = kernel::prepare("linux-7", false)?;
    let klp_build = build::klp_build()?;
    let scratch = dirs::scratch("verify")?;
    let header = scratch.path().join("other-option.h");
    dirs::write(&header, "#define CONFIG_CMA 1\n")?;
    let include = format!("--flag={}", header.display());
    let cases: &[(&str, &[&str], bool)] = &[
        ("units of vmlinux and of a module", &["fs/proc/meminfo.c", "kernel/fork.c", "fs/ext4/inode.c"], true),
        ("another optimisation level", &["--flag=-O1", "fs/proc/cmdline.c"], false),
        ("another option of the configuration", &["--flag=-include", &include, "fs/proc/meminfo.c"], false),
    ];
    let mut score = Score::default();
    println!("\nverify (linux-7)");
    for (what, args, equal) in cases {
        let status = Command::new(&klp_build)
            .arg("verify")
            .args(kernel.options())
            .args(*args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("failed to run `{}`", klp_build.display()))?;
        let right = status.code() == Some(if *equal { 0 } else { 1 });
        *(if right { &mut score.passed } else { &mut score.failed }) += 1;
        println!("  {what:<40} {}", if right { "ok".to_owned() } else { format!("FAILED: {status}") });
    }
    Ok(score)
}
