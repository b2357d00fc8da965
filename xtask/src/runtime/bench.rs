//! The Rust core beside the C core: instructions a patched call takes, and how long a transition takes.
//!
//! In: the two kernels, from one tree. Out: a table. Hard because times on a busy machine say little: the guest's clock
//! counts instructions (`-icount`), so that its nanoseconds are instructions and the same on every machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::build;
use super::config::Config;
use crate::initramfs::Initramfs;
use crate::{dirs, vm};

/// How many functions the patches of the table patch.
const SIZES: &[usize] = &[1, 100, 500];
/// Sleeping threads.
const THREADS: usize = 2000;
/// How often each thing is measured; the table has the middle one.
const ROUNDS: usize = 3;
/// Calls of one patched function that are timed.
const CALLS: usize = 100_000;

/// What one kernel did.
struct Figures {
    /// Instructions of a call: not patched, patched.
    calls: (f64, f64),
    /// Microseconds (thousands of instructions) to patch and to unpatch, by number of functions.
    transitions: Vec<(usize, f64, f64)>,
}

/// The task.
pub fn run() -> Result<()> {
    let c = measure(Config::C)?;
    let rust = measure(Config::Stock)?;
    println!("| | C core | Rust core |\n|---|---|---|");
    println!("| instructions a call takes, not patched | {:.1} | {:.1} |", c.calls.0, rust.calls.0);
    println!("| instructions a patched call takes | {:.1} | {:.1} |", c.calls.1, rust.calls.1);
    for (c, rust) in c.transitions.iter().zip(&rust.transitions) {
        println!("| {THREADS} threads, {} functions, patch | {:.0} us | {:.0} us |", c.0, c.1, rust.1);
        println!("| {THREADS} threads, {} functions, unpatch | {:.0} us | {:.0} us |", c.0, c.2, rust.2);
    }
    Ok(())
}

fn measure(config: Config) -> Result<Figures> {
    let built = build::build(config)?;
    let dir = built.modules.with_file_name("bench");
    fs::remove_dir_all(&dir).ok();
    dirs::create(&dir)?;
    let mut makefile = String::from("obj-m += klp_bench.o\n");
    dirs::write(&dir.join("klp_bench.c"), target(*SIZES.last().unwrap_or(&1)))?;
    for &size in SIZES {
        dirs::write(&dir.join(format!("klp_bench_{size}.c")), livepatch(size))?;
        makefile += &format!("obj-m += klp_bench_{size}.o\n");
    }
    dirs::write(&dir.join("Makefile"), makefile)?;
    build::modules(config, &dir)?;
    let console = boot(&built.image, &dir)?;
    figures(&console).with_context(|| {
        format!("failed to read the figures of the {} kernel:\n{}", config.name(), vm::tail(&console, 30))
    })
}

/// A module with functions to patch; reading /proc/klp_bench times calls of the first.
fn target(size: usize) -> String {
    let mut text = String::from(
        "#include <linux/module.h>\n#include <linux/proc_fs.h>\n#include <linux/seq_file.h>\n#include <linux/ktime.h>\n",
    );
    for i in 0..size {
        text += &format!(
            "noinline int klp_bench_f{i}(int x); noinline int klp_bench_f{i}(int x) {{ barrier(); return x + {i}; }}\n"
        );
    }
    text += &format!(
        "static int show(struct seq_file *m, void *v)\n{{\n\tu64 start = ktime_get_ns(), end;\n\tint sum = 0;\n\
         \tfor (int i = 0; i < {CALLS}; i++)\n\t\tsum += klp_bench_f0(i);\n\tend = ktime_get_ns();\n\
         \tpr_info(\"bench: calls %llu\\n\", end - start);\n\tseq_printf(m, \"%d\\n\", sum);\n\treturn 0;\n}}\n\
         static int __init start(void) {{ return proc_create_single(\"klp_bench\", 0, NULL, show) ? 0 : -ENOMEM; }}\n\
         static void __exit stop(void) {{ remove_proc_entry(\"klp_bench\", NULL); }}\n\
         module_init(start); module_exit(stop);\nMODULE_LICENSE(\"GPL\"); MODULE_DESCRIPTION(\"bench\");\n"
    );
    text
}

/// A livepatch of the first functions of that module.
fn livepatch(size: usize) -> String {
    let mut text = String::from("#include <linux/module.h>\n#include <linux/livepatch.h>\n");
    let mut table = String::new();
    for i in 0..size {
        text += &format!("static noinline int new_f{i}(int x) {{ barrier(); return x + {i} + 1; }}\n");
        table += &format!("\t{{ .old_name = \"klp_bench_f{i}\", .new_func = new_f{i} }},\n");
    }
    text += &format!(
        "static struct klp_func funcs[] = {{\n{table}\t{{}}\n}};\n\
         static struct klp_object objs[] = {{ {{ .name = \"klp_bench\", .funcs = funcs }}, {{}} }};\n\
         static struct klp_patch patch = {{ .mod = THIS_MODULE, .objs = objs }};\n\
         static int __init start(void) {{ return klp_enable_patch(&patch); }}\nstatic void __exit stop(void) {{}}\n\
         module_init(start); module_exit(stop);\nMODULE_LICENSE(\"GPL\"); MODULE_INFO(livepatch, \"Y\"); MODULE_DESCRIPTION(\"bench\");\n"
    );
    text
}

fn boot(image: &Path, modules: &Path) -> Result<String> {
    let sh = Shell::new()?;
    let work = tempfile::Builder::new().prefix("klp-bench-").tempdir()?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("failed to read `{}`", path.display()));
    let mut fs_ = Initramfs::new();
    fs_.program("/bin/busybox", read(Path::new("/bin/busybox"))?);
    fs_.program("/init", include_str!("../../../tests/boot/init.sh"));
    let (threads, source) = (work.path().join("threads"), dirs::root().join("runtime/tests/threads.c"));
    cmd!(sh, "gcc -O2 -static -pthread -o {threads} {source}").quiet().run()?;
    fs_.program("/threads", read(&threads)?);
    // "completing" is a debug line; what follows it when unpatching is ftrace's own work, the same for both cores.
    let mut script = String::from(
        "echo 'file kernel/livepatch/* +p' > /sys/kernel/debug/dynamic_debug/control\n\
         echo 'func klp_try_switch_task -p' > /sys/kernel/debug/dynamic_debug/control\n",
    );
    script += &format!(
        "insmod /modules/klp_bench.ko\nfor round in $(seq {ROUNDS}); do cat /proc/klp_bench >/dev/null; done\n/threads {THREADS} sleep > /ready &\nuntil grep -q ready /ready; do sleep 1; done\n"
    );
    fs_.file("/modules/klp_bench.ko", read(&modules.join("klp_bench.ko"))?);
    for size in SIZES {
        let name = format!("klp_bench_{size}");
        fs_.file(&format!("/modules/{name}.ko"), read(&modules.join(format!("{name}.ko")))?);
        script += &format!(
            "for round in $(seq {ROUNDS}); do\ninsmod /modules/{name}.ko\nuntil grep -q 0 /sys/kernel/livepatch/{name}/transition; do sleep 1; done\n\
             cat /proc/klp_bench >/dev/null\necho 0 > /sys/kernel/livepatch/{name}/enabled\n\
             while [ -e /sys/kernel/livepatch/{name} ]; do sleep 1; done\nsleep 1\nrmmod {name}\ndone\n"
        );
    }
    fs_.program("/script", script);
    let path = |name: &str| work.path().join(name);
    fs::write(path("initramfs"), fs_.into_bytes())?;
    let start = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
            "-cpu",
            "max,la57=off",
            "-smp",
            "1",
            "-m",
            "1024",
        ])
        .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-kernel"])
        .arg(image)
        .arg("-initrd")
        .arg(path("initramfs"))
        .args(["-append", "console=ttyS0 panic=-1 nokaslr ignore_loglevel tsc=reliable rdinit=/init"])
        .arg("-serial")
        .arg(format!("file:{}", path("console").display()))
        .arg("-serial")
        .arg(format!("file:{}", path("output").display()))
        .stdin(Stdio::null())
        .spawn()
        .context("failed to run `qemu-system-x86_64`")?;
    loop {
        match qemu.try_wait()? {
            Some(_) => break,
            None if start.elapsed() > Duration::from_secs(1800) => {
                qemu.kill()?;
                qemu.wait()?;
                bail!("the guest did not end:\n{}", vm::tail(&dirs::read(&path("console"))?, 30));
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    dirs::read(&path("console"))
}

/// `[   12.345678] text` -> seconds, text.
fn stamped(line: &str) -> Option<(f64, &str)> {
    let (stamp, text) = line.trim().strip_prefix('[')?.split_once(']')?;
    Some((stamp.trim().parse().ok()?, text.trim()))
}

fn figures(console: &str) -> Option<Figures> {
    let lines: Vec<(f64, &str)> = console.lines().filter_map(stamped).collect();
    let calls: Vec<f64> = lines
        .iter()
        .filter_map(|(_, text)| text.split_once("bench: calls ")?.1.parse::<f64>().ok())
        .map(|ns| ns / CALLS as f64)
        .collect();
    let (plain, patched) = calls.split_at_checked(ROUNDS)?;
    let mut transitions = Vec::new();
    for &size in SIZES {
        let span = |what: &str| -> Option<f64> {
            let at = |word: &str| -> Vec<f64> {
                let text = format!("'klp_bench_{size}': {word} {what} transition");
                lines.iter().filter(|line| line.1.contains(&text)).map(|line| line.0).collect()
            };
            let (starts, ends) = (at("starting"), at("completing"));
            median(&starts.iter().zip(&ends).map(|(start, end)| (end - start) * 1e6).collect::<Vec<f64>>())
        };
        transitions.push((size, span("patching")?, span("unpatching")?));
    }
    Some(Figures { calls: (median(plain)?, median(patched)?), transitions })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times come from the kernel's stamps, calls from the module's own line, first those without a patch; one odd value
    /// does not matter.
    #[test]
    fn reads_figures() {
        let mut log: String = [200_000, 900_000, 200_000, 9_000_000, 9_000_000, 1_000_000]
            .map(|ns| format!("[    1.0] klp_bench: bench: calls {ns}\n"))
            .concat();
        for (i, size) in SIZES.iter().enumerate() {
            for (j, what) in ["patching", "unpatching"].iter().enumerate() {
                let t = 10 * (i * 2 + j);
                log += &format!("[{t:>5}.000000] livepatch: 'klp_bench_{size}': starting {what} transition\n");
                log += &format!("[{t:>5}.000250] livepatch: 'klp_bench_{size}': completing {what} transition\n");
            }
        }
        let figures = figures(&log).unwrap();
        assert_eq!(figures.calls, (2.0, 90.0));
        assert!(figures.transitions.iter().all(|t| (t.1 - 250.0).abs() < 1.0 && (t.2 - 250.0).abs() < 1.0));
    }
}
