//! `cargo xtask bench [OPTIONS]`: ours beside upstream's klp-build, on one tree, in one run; `runtime`: the two cores.
//!
//! In: the built linux 7, upstream's own tree of the same source and configuration, the stock kernel. Out: BENCHMARKS.md.
//! The floor is what no tool can do without: the unit compiled once by the kernel's own command, and a module
//! linked by kbuild. Upstream's first patch rebuilds its kernel twice: `--first` asks for it.

mod measure;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::compare_upstream::Upstream;
use crate::kernel::{self, Kernel};
use crate::{Args, apt, dirs};
use measure::{Contender, Cost, medians};

/// Rows: name, patches of tests/patches, what upstream is asked to do.
const ROWS: &[(&str, &[&str])] = &[
    ("next patch, one file", &["02-meminfo-string"]),
    ("next patch, a module", &["20-module-ext4-special"]),
    ("three stacked patches", &["01-cmdline-string", "02-meminfo-string", "24-cold-add"]),
];

/// Bodies of inline functions in headers, by how many units of linux-7 read them; one run of each, since upstream takes minutes.
const HEADERS: &[(&str, &[&str])] = &[
    ("a header that 12 files read", &["../bench/header-12"]),
    ("a header that 188 files read", &["32-header-inline"]),
    ("a header that 1,142 files read", &["../bench/header-1142"]),
];

struct Bench {
    klp_build: PathBuf,
    kernel: Kernel,
    upstream: PathBuf,
    work: tempfile::TempDir,
    runs: usize,
    only: Option<String>,
    table: String,
}

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    if args == ["runtime"] {
        return crate::runtime::run(&["bench".to_owned()]);
    }
    let (mut runs, mut first, mut only) = (5, false, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => runs = words.next().and_then(|n| n.parse().ok()).context("`--runs` needs a number")?,
            "--first" => first = true,
            "--only" => only = Some(words.next().context("`--only` needs a part of a row's name")?.clone()),
            _ => bail!("usage: cargo xtask bench [--runs N] [--first] [--only ROW] | bench runtime"),
        }
    }
    kernel::install_build_packages()?;
    apt::install(crate::compare_upstream::PACKAGES)?;
    apt::install(&["time"])?;
    let kernel = kernel::prepare("linux-7", false)?;
    let _lock = dirs::lock("upstream")?;
    let upstream = Upstream::new(&kernel)?.tree().to_path_buf();
    let mut bench = Bench {
        klp_build: release_build()?,
        kernel,
        upstream,
        work: dirs::scratch("bench")?,
        runs,
        only,
        table: String::new(),
    };
    bench.head()?;
    if !bench.upstream.join("klp-tmp/1-orig/.complete").exists() {
        eprintln!("upstream builds its original kernel first: minutes");
        bench.theirs(ROWS[0].1, true)?.status().context("failed to run upstream's klp-build")?;
    }
    for (name, patches) in ROWS {
        bench.patches(name, patches, runs)?;
    }
    for (name, patches) in HEADERS {
        bench.untouched_cache(name, patches)?;
        bench.patches(name, patches, 1)?;
    }
    if first {
        bench.first()?;
    }
    bench.objects()?;
    bench.stock()?;
    bench.tail();
    if bench.only.is_none() {
        dirs::write(&dirs::root().join("BENCHMARKS.md"), &bench.table)?;
    }
    print!("{}", bench.table);
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
    fn wanted(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| row.contains(only.as_str()))
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

    fn patches(&mut self, row: &str, patches: &[&str], runs: usize) -> Result<()> {
        if !self.wanted(row) {
            return Ok(());
        }
        eprintln!("{row}");
        // What is kept from run to run is there before the first one is measured.
        self.ours(patches).output().context("failed to run `klp-build`")?;
        let contenders = [
            Contender { name: "ours", command: Box::new(|| Ok(vec![self.ours(patches)])) },
            Contender { name: "upstream -S 2", command: Box::new(|| Ok(vec![self.theirs(patches, false)?])) },
            Contender { name: "floor", command: Box::new(|| self.floor()) },
        ];
        let costs = medians(&contenders, runs)?;
        drop(contenders);
        self.row(row, costs[0], Some(costs[1]), Some(costs[2]));
        Ok(())
    }

    /// Ours alone, with nothing kept from earlier runs.
    fn untouched_cache(&mut self, row: &str, patches: &[&str]) -> Result<()> {
        if !self.wanted(row) {
            return Ok(());
        }
        eprintln!("{row}, the first time");
        let costs = medians(&[Contender { name: "ours", command: Box::new(|| self.without_cache(patches)) }], 1)?;
        self.row(&format!("{row}, the first time"), costs[0], None, None);
        Ok(())
    }

    fn without_cache(&self, patches: &[&str]) -> Result<Vec<Command>> {
        let cache = self.work.path().join("cache");
        std::fs::remove_dir_all(&cache).ok();
        dirs::create(&cache)?;
        let mut command = self.ours(patches);
        command.env("XDG_CACHE_HOME", cache);
        Ok(vec![command])
    }

    /// With nothing kept, on a built tree: ours once with an empty cache, upstream's with its two kernel builds.
    fn first(&mut self) -> Result<()> {
        let row = "first patch on a built tree";
        if !self.wanted(row) {
            return Ok(());
        }
        eprintln!("{row}");
        let patches = ROWS[0].1;
        let costs = medians(
            &[
                Contender { name: "ours", command: Box::new(|| self.without_cache(patches)) },
                Contender { name: "upstream", command: Box::new(|| Ok(vec![self.theirs(patches, true)?])) },
            ],
            1,
        )?;
        self.row(row, costs[0], Some(costs[1]), None);
        Ok(())
    }

    /// Two whole vmlinux.o: our diff against checksums of both and their comparison.
    fn objects(&mut self) -> Result<()> {
        let row = "diff of two whole vmlinux.o";
        if !self.wanted(row) {
            return Ok(());
        }
        eprintln!("{row}");
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
            Contender { name: "ours", command: Box::new(ours) },
            Contender { name: "objtool klp", command: Box::new(theirs) },
        ];
        let costs = medians(&contenders, self.runs)?;
        drop(contenders);
        self.row(row, costs[0], Some(costs[1]), None);
        Ok(())
    }

    /// The distribution's kernel, which upstream's tool cannot do.
    fn stock(&mut self) -> Result<()> {
        let row = "stock Debian 6.12, next patch";
        if !self.wanted(row) {
            return Ok(());
        }
        eprintln!("{row}");
        let kernel = kernel::prepare("debian-6.12", false)?;
        let ours = || -> Result<Vec<Command>> {
            let mut command = Command::new(&self.klp_build);
            command.args(kernel.options()).arg("--output").arg(self.work.path().join("stock.ko"));
            command.arg(patch_file("02-meminfo-string"));
            Ok(vec![command])
        };
        ours()?.remove(0).output().context("failed to run `klp-build`")?;
        let costs = medians(&[Contender { name: "ours", command: Box::new(ours) }], self.runs)?;
        self.row(row, costs[0], None, None);
        Ok(())
    }

    fn head(&mut self) -> Result<()> {
        let sh = Shell::new()?;
        let compiler = cmd!(sh, "gcc --version").quiet().read()?;
        let cpu = dirs::read(Path::new("/proc/cpuinfo"))?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let table = &mut self.table;
        writeln!(
            table,
            "# How long it takes\n\nMade by `cargo xtask bench`; medians of {} runs in turn.\n",
            self.runs
        )?;
        writeln!(table, "* machine: {processors} processors,{}", model.trim_start().trim_start_matches(':'))?;
        writeln!(table, "* kernel: {} with tests/kernels/linux-7.config", self.kernel.release)?;
        writeln!(table, "* compiler: {}", compiler.lines().next().unwrap_or_default())?;
        writeln!(
            table,
            "* floor: the unit compiled once by the kernel's own command, and an empty module linked by kbuild\n"
        )?;
        writeln!(table, "| | ours | upstream | ratio | floor | ours over floor | memory, ours | memory, upstream |")?;
        writeln!(table, "|---|---|---|---|---|---|---|---|")?;
        Ok(())
    }

    fn row(&mut self, name: &str, ours: Cost, theirs: Option<Cost>, floor: Option<Cost>) {
        let seconds = |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| format!("{:.2} s", cost.seconds));
        let memory = |cost: Option<Cost>| cost.map_or("-".to_owned(), |cost| format!("{} MB", cost.memory >> 20));
        let ratio = |cost: Option<Cost>| cost.map(|cost| cost.seconds / ours.seconds);
        let line = [
            name.to_owned(),
            seconds(Some(ours)),
            seconds(theirs),
            ratio(theirs).map_or("-".to_owned(), |ratio| format!("{ratio:.1}x")),
            seconds(floor),
            ratio(floor).map_or("-".to_owned(), |ratio| format!("{:.2}x", 1.0 / ratio)),
            memory(Some(ours)),
            memory(theirs),
        ];
        self.table += &format!("| {} |\n", line.join(" | "));
    }

    fn tail(&mut self) {
        self.table += "\nUpstream's `-S 2` has its original kernel built already and rebuilds what the patch reaches, in its own tree; \
                       its first patch builds the whole kernel twice. Ours compiles each unit twice and never a kernel. The \
                       floor is that of one small file (fs/proc/meminfo.c) in every row.\n";
    }
}

fn object_dir(object: &Path) -> &Path {
    object.parent().unwrap_or(object)
}
