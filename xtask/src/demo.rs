//! `cargo xtask demo`: from a machine with nothing but cargo to a stock kernel that runs a livepatch.
//!
//! Every step says what it does and how long it took. The demo fails if the change cannot be seen, if it does not
//! go away again, or if the kernel says anything alarming: what it prints is evidence, not decoration.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::{CASE, alarms};
use crate::vm::Guest;
use crate::{Args, build, dirs, kernel, runtime};

/// Debian's own 6.12, as apt offers it.
const KERNEL: &str = "debian-6.12";

/// The line of /proc/meminfo that examples/meminfo.patch changes.
const SHOW: &str = "sed -n 1,4p /proc/meminfo";
const BEFORE: &str = "MemAvailable:";
const LOADED: &str = "MemUsable:";

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    match args {
        [] => {}
        [sets] if sets == "--sets" => return runtime::demo(),
        _ => bail!("usage: cargo xtask demo [--sets]"),
    }
    let start = Instant::now();
    let klp_build = timed("build klp-build", build::klp_build)?;
    let kernel = timed("get Debian's kernel: image, headers, source", || kernel::prepare(KERNEL, false))?;
    println!("    stock kernel {}, {}", kernel.release, kernel.image.display());

    let dir = dirs::dev_cache()?.join("demo");
    dirs::create(&dir)?;
    let module = dir.join("livepatch-meminfo.ko");
    std::fs::remove_file(&module).ok();
    let patch = dirs::root().join("examples/meminfo.patch");
    let mut options = kernel.options();
    options.extend(["--output".into(), module.display().to_string(), patch.display().to_string()]);
    println!("    klp-build {}", options.join(" ").replace(" --", " \\\n        --"));
    timed("build the livepatch", || {
        let status = Command::new(&klp_build).args(&options).status().context("failed to run `klp-build`")?;
        ensure!(status.success(), "failed to build the livepatch: {status}");
        ensure!(module.exists(), "failed to find `{}`, which klp-build says it made", module.display());
        Ok(())
    })?;

    let script = format!(
        ". /case.sh\n\
         echo '@@before the livepatch'; uname -sr; {SHOW}\n\
         echo 'klp-case begin demo' > /dev/kmsg\n\
         echo '@@livepatch loaded'; load /livepatch-meminfo.ko || exit 1\n\
         cd /sys/kernel/livepatch; grep -H . */enabled; cd /; {SHOW}\n\
         echo '@@livepatch disabled and removed'; unload /livepatch-meminfo.ko || exit 1\n\
         ls /sys/kernel/livepatch; {SHOW}\n\
         echo 'klp-case end demo' > /dev/kmsg\n"
    );
    let run = timed("boot that kernel in QEMU, load, look, disable, remove", || {
        let mut guest = Guest::new(&kernel.image)?;
        guest.file("/case.sh", CASE);
        guest.module("/livepatch-meminfo.ko", &module)?;
        guest.run(&script)
    })?;
    println!("\nin the guest:");
    for line in run.output.lines() {
        match line.strip_prefix("@@") {
            Some(title) => println!("  {title}"),
            None => println!("    {line}"),
        }
    }
    println!("  kernel log");
    for line in run.console.lines().filter(|l| l.contains("livepatch")) {
        println!("    {line}");
    }
    ensure!(run.status == Some(0), "failed to load and unload the livepatch in the guest; see above");
    judge(&run.output)?;
    let (ended, alarms) = alarms("demo", &run.console);
    ensure!(ended && alarms.is_empty(), "the kernel's log is not clean:\n{}", alarms.join("\n"));
    println!("  no warning in the kernel log\n\ndemo passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The old label before and after, the new one between.
fn judge(output: &str) -> Result<()> {
    let parts: Vec<&str> = output.split("@@").skip(1).collect();
    let [before, loaded, after] = parts[..] else { bail!("failed to read the guest's output") };
    for (what, text, has, lacks) in
        [("before", before, BEFORE, LOADED), ("while loaded", loaded, LOADED, BEFORE), ("after", after, BEFORE, LOADED)]
    {
        ensure!(text.contains(has) && !text.contains(lacks), "/proc/meminfo should say `{has}` {what}, and does not");
    }
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("* {what}");
    let start = Instant::now();
    let result = work()?;
    println!("    {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demo cannot pass when nothing changes, or when the change stays.
    #[test]
    fn judges_what_it_shows() {
        let text = |labels: [&str; 3]| labels.map(|l| format!("@@part\n{l}  1 kB\n")).concat();
        assert!(judge(&text([BEFORE, LOADED, BEFORE])).is_ok());
        assert!(judge(&text([BEFORE, BEFORE, BEFORE])).is_err());
        assert!(judge(&text([BEFORE, LOADED, LOADED])).is_err());
        assert!(judge("").is_err());
    }
}
