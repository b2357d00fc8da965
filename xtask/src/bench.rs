//! `cargo xtask bench [OPTIONS]`: ours beside upstream's klp-build, on one tree, in one run; `runtime`: the two cores.
//!
//! In: the built linux 7, upstream's own tree of the same source and configuration, the stock kernel. Out: BENCHMARKS.md.
//! The floor is what no tool can do without: the unit compiled once by the kernel's own command, and a module
//! linked by kbuild. Upstream's first patch builds its kernel twice, so all rounds take hours: they are kept as they
//! come, a bench that was stopped goes on, and `--table` writes down what there is.

mod measure;
mod report;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::compare_upstream::Upstream;
use crate::kernel::{self, Kernel};
use crate::{Args, apt, dirs};
use measure::Contender;
use report::{FLOOR, Machine, OURS, Report, UPSTREAM};
use rounds::Rounds;

/// Rows: name, patches of tests/patches, what upstream is asked to do.
const ROWS: &[(&str, &[&str])] = &[
    ("next patch, one file", &["02-meminfo-string"]),
    ("next patch, a module", &["20-module-ext4-special"]),
    ("three stacked patches", &["01-cmdline-string", "02-meminfo-string", "24-cold-add"]),
];

/// Bodies of inline functions in headers, by how many units of linux-7 read them.
const HEADERS: &[(&str, &[&str])] = &[
    ("a header that 11 files read", &["../bench/header-11"]),
    ("a header that 188 files read", &["32-header-inline"]),
    ("a header that 1,142 files read", &["../bench/header-1142"]),
];

/// What the commands need.
struct Bench {
    klp_build: PathBuf,
    kernel: Kernel,
    upstream: PathBuf,
    work: tempfile::TempDir,
}

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    if args == ["runtime"] {
        return crate::runtime::run(&["bench".to_owned()]);
    }
    let (mut runs, mut table_only, mut only) = (5, false, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => runs = words.next().and_then(|n| n.parse().ok()).context("`--runs` needs a number")?,
            "--table" => table_only = true,
            "--only" => only = Some(words.next().context("`--only` needs a part of a row's name")?.clone()),
            _ => bail!("usage: cargo xtask bench [--runs N] [--only ROW] [--table] | bench runtime"),
        }
    }
    kernel::install_build_packages()?;
    apt::install(crate::compare_upstream::PACKAGES)?;
    apt::install(&["time"])?;
    let kernel = kernel::prepare("linux-7", false)?;
    let _lock = dirs::lock("upstream")?;
    let upstream = Upstream::new(&kernel)?.tree().to_path_buf();
    let bench = Bench { klp_build: release_build()?, kernel, upstream, work: dirs::scratch("bench")? };
    let machine = Machine::this()?;
    let of = [rounds::fingerprint(&bench.klp_build)?, bench.kernel.release.clone(), machine.compiler.clone()];
    let of = of.into_iter().chain([machine.processors.clone()]).collect();
    let rounds = Rounds::open(dirs::dev_cache()?.join("bench.json"), of);
    let mut report = Report::new(rounds, if table_only { 0 } else { runs }, only);
    bench.rows(&mut report)?;
    let text = report.text(&bench.kernel.release, &machine);
    if report.is_whole() {
        dirs::write(&dirs::root().join("BENCHMARKS.md"), &text)?;
    }
    print!("{text}");
    Ok(())
}

fn release_build() -> Result<PathBuf> {
    let sh = Shell::new()?;
    sh.change_dir(dirs::root());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    cmd!(sh, "{cargo} build --release --bin klp-build").run().context("failed to build `klp-build`")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| dirs::root().join("target"), PathBuf::from);
    Ok(target.join("release/klp-build"))
}

fn patch_file(name: &str) -> PathBuf {
    dirs::root().join("tests/patches").join(name).with_extension("patch")
}

impl Bench {
    /// All rows; those that take longest come last.
    fn rows(&self, report: &mut Report) -> Result<()> {
        if report.measures() && !self.upstream.join("klp-tmp/1-orig/.complete").exists() {
            eprintln!("upstream builds its original kernel first: minutes");
            self.theirs(ROWS[0].1, true)?.status().context("failed to run upstream's klp-build")?;
        }
        for (row, patches) in ROWS {
            self.patches(report, row, patches)?;
        }
        self.stock(report)?;
        self.objects(report)?;
        for (row, patches) in HEADERS {
            self.untouched_cache(report, row, patches)?;
            self.patches(report, row, patches)?;
        }
        self.first(report)
    }

    /// Ours on the built tree.
    fn ours(&self, patches: &[&str]) -> Command {
        let mut command = Command::new(&self.klp_build);
        command.args(self.kernel.options()).arg("--output").arg(self.work.path().join("ours.ko"));
        command.args(patches.iter().map(|name| patch_file(name)));
        command
    }

    /// Upstream's, with its original kernel built already or not.
    fn theirs(&self, patches: &[&str], first: bool) -> Result<Command> {
        let mut command = Command::new("scripts/livepatch/klp-build");
        command.current_dir(&self.upstream).arg("-T");
        if !first {
            command.args(["-S", "2"]);
        }
        command.arg("-o").arg(self.work.path().join("livepatch-theirs.ko"));
        command.args(patches.iter().map(|name| patch_file(name)));
        let variables = [("USER", "klp"), ("HOST", "build"), ("TIMESTAMP", "2026-01-01")];
        command.envs(variables.map(|(name, value)| (format!("KBUILD_BUILD_{name}"), value)));
        Ok(command)
    }

    /// The unit by the kernel's own command, and a module with nothing in it by kbuild.
    fn floor(&self) -> Result<Vec<Command>> {
        let record = dirs::read(&self.kernel.objdir.join("fs/proc/.meminfo.o.cmd"))?;
        let command = record.lines().next().and_then(|line| line.split_once(" := ")).map(|(_, command)| command);
        let command = command.context("failed to read how fs/proc/meminfo.o was compiled")?;
        let compile = command.split(" ; ").next().unwrap_or(command).split(" && ").next().unwrap_or(command);
        let compile = compile.replace(" -o fs/proc/meminfo.o", &format!(" -o {}/floor.o", self.work.path().display()));
        let compile = compile.replace("-Wp,-MMD,fs/proc/.meminfo.o.d", "");
        let mut unit = Command::new("sh");
        unit.current_dir(&self.kernel.objdir).args(["-c", &compile]);
        let dir = self.work.path().join("module");
        std::fs::remove_dir_all(&dir).ok();
        dirs::create(&dir)?;
        dirs::write(&dir.join("Kbuild"), "obj-m := floor.o\n")?;
        dirs::write(
            &dir.join("floor.c"),
            "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\nMODULE_DESCRIPTION(\"-\");\n",
        )?;
        let mut module = Command::new("make");
        module.args(["-s", "-j2", "-C"]).arg(&self.kernel.objdir).arg(format!("M={}", dir.display())).arg("modules");
        Ok(vec![unit, module])
    }

    /// Both tools with everything kept from earlier runs.
    fn patches(&self, report: &mut Report, row: &str, patches: &[&str]) -> Result<()> {
        let contenders = [
            Contender { name: OURS, command: Box::new(|| Ok(vec![self.ours(patches)])) },
            Contender { name: UPSTREAM, command: Box::new(|| Ok(vec![self.theirs(patches, false)?])) },
            Contender { name: FLOOR, command: Box::new(|| self.floor()) },
        ];
        report.row(row, Some(self.ours(patches)), &contenders)
    }

    /// Ours alone, with nothing kept from earlier runs.
    fn untouched_cache(&self, report: &mut Report, row: &str, patches: &[&str]) -> Result<()> {
        let contenders = [Contender { name: OURS, command: Box::new(|| self.without_cache(patches)) }];
        report.row(&format!("{row}, the first time"), None, &contenders)
    }

    fn without_cache(&self, patches: &[&str]) -> Result<Vec<Command>> {
        let cache = self.work.path().join("cache");
        std::fs::remove_dir_all(&cache).ok();
        dirs::create(&cache)?;
        let mut command = self.ours(patches);
        command.env("XDG_CACHE_HOME", cache);
        Ok(vec![command])
    }

    /// With nothing kept, on a built tree: ours with an empty cache, upstream's with its two kernel builds.
    fn first(&self, report: &mut Report) -> Result<()> {
        let patches = ROWS[0].1;
        let contenders = [
            Contender { name: OURS, command: Box::new(|| self.without_cache(patches)) },
            Contender { name: UPSTREAM, command: Box::new(|| Ok(vec![self.theirs(patches, true)?])) },
        ];
        report.row("first patch on a built tree", None, &contenders)
    }

    /// Two whole vmlinux.o: our diff against checksums of both and their comparison.
    fn objects(&self, report: &mut Report) -> Result<()> {
        let (original, patched) = ("klp-tmp/1-orig/vmlinux.o", "klp-tmp/2-patched/vmlinux.o");
        let [original, patched] = [original, patched].map(|path| self.upstream.join(path));
        let ours = || -> Result<Vec<Command>> {
            let mut command = Command::new(&self.klp_build);
            command.arg("diff").arg("--symvers").arg(&self.kernel.symvers).arg(&original).arg(&patched);
            Ok(vec![command])
        };
        let theirs = || -> Result<Vec<Command>> {
            let objtool = self.upstream.join("tools/objtool/objtool");
            let dir = self.work.path().join("objects");
            let mut commands = Vec::new();
            let mut sides = Vec::new();
            for (side, object) in [("original", &original), ("patched", &patched)] {
                dirs::create(&dir.join(side))?;
                let copy = dir.join(side).join("vmlinux.o");
                std::fs::copy(object, &copy).context("failed to copy an object")?;
                let mut command = Command::new(&objtool);
                command.args(["klp", "checksum"]).arg(&copy);
                commands.push(command);
                sides.push(copy);
            }
            let vmlinux = object_dir(&original).join("vmlinux");
            if vmlinux.exists() {
                std::fs::copy(vmlinux, dir.join("original/vmlinux")).context("failed to copy vmlinux")?;
            }
            std::fs::copy(self.upstream.join("Module.symvers"), dir.join("original/Module.symvers")).ok();
            let mut command = Command::new(&objtool);
            command.current_dir(dir.join("original")).args(["klp", "diff", "vmlinux.o"]).arg(&sides[1]);
            command.arg(dir.join("out.o"));
            commands.push(command);
            Ok(commands)
        };
        let contenders = [
            Contender { name: OURS, command: Box::new(ours) },
            Contender { name: UPSTREAM, command: Box::new(theirs) },
        ];
        report.row("diff of two whole vmlinux.o", None, &contenders)
    }

    /// The distribution's kernel, which upstream's tool cannot do.
    fn stock(&self, report: &mut Report) -> Result<()> {
        let kernel = kernel::prepare("debian-6.12", false)?;
        let ours = || {
            let mut command = Command::new(&self.klp_build);
            command.args(kernel.options()).arg("--output").arg(self.work.path().join("stock.ko"));
            command.arg(patch_file("02-meminfo-string"));
            command
        };
        let contenders = [Contender { name: OURS, command: Box::new(|| Ok(vec![ours()])) }];
        report.row("stock Debian 6.12, next patch", Some(ours()), &contenders)
    }
}

fn object_dir(object: &Path) -> &Path {
    object.parent().unwrap_or(object)
}
