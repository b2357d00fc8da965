//! The kernel with the runtime, built in the cache.
//!
//! In: the linux 7 source that the tool's tests use, and runtime/. Out: an image and the kernel's livepatch test modules,
//! for each of the two configurations. Hard because a kernel build is minutes: one object directory serves both
//! configurations one after the other, results are kept apart, and nothing is built again for the same inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::config::Config;
use super::{hot, tree};
use crate::{apt, dirs, kernel};

/// What a kernel with CONFIG_RUST needs beyond a compiler: rustc with the sources of its library, and bindgen's libclang.
const PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "libclang-19-dev"];
/// A compiler of the same LLVM as that rustc: CONFIG_RUST allows KASAN with clang only.
const CLANG: &str = "clang-22";
/// The bindgen that the kernel's documentation asks for or newer; not a Debian 12 package.
const BINDGEN: &str = "0.72.1";

/// A kernel with the runtime.
pub struct Built {
    /// The bootable image.
    pub image: PathBuf,
    /// The source tree with the runtime in it.
    pub source: PathBuf,
    /// The test modules.
    pub modules: PathBuf,
}

/// A tree that was built in place, with its test modules there or elsewhere.
pub fn by_hand(tree: &Path, modules: Option<PathBuf>) -> Result<Built> {
    let image = tree.join("arch/x86/boot/bzImage");
    if !image.exists() {
        bail!("failed to find a built kernel in `{}`", tree.display());
    }
    let modules = modules.unwrap_or_else(|| tree.join("tools/testing/selftests/livepatch/test_modules"));
    Ok(Built { image, source: tree.to_path_buf(), modules })
}

/// Builds it unless it is there.
pub fn build(config: Config) -> Result<Built> {
    let dir = dirs::dev_cache()?.join("runtime");
    let dest = dir.join(config.name());
    let source = dir.join("source");
    let built = Built { image: dest.join("bzImage"), modules: dest.join("modules"), source: source.clone() };
    let pristine = kernel::source("linux-7")?;
    let fragment = config.fragment()?;
    let stamp = stamp(&fragment)?;
    let done = dest.join("stamp");
    let is_done = || dirs::read(&done).ok().as_deref() == Some(stamp.as_str());
    // What is there can be used while another kernel is built.
    if is_done() {
        return Ok(built);
    }
    let _lock = dirs::lock("runtime")?;
    if is_done() {
        return Ok(built);
    }
    let make = Make::of(&dir, config)?;
    self::source(&dir, &pristine)?;
    make.kernel(&source, &fragment)?;
    // With debug assertions, and with a checker in each access, every path can panic: that is what they are for.
    if matches!(config, Config::Stock | Config::Sets) {
        hot::check(&make.objdir.join("kernel/livepatch/klp.o"))?;
    }
    fs::remove_file(&done).ok();
    dirs::create(&built.modules)?;
    copy(&make.objdir.join("arch/x86/boot/bzImage"), &built.image)?;
    copy(&make.objdir.join(".config"), &dest.join("config"))?;
    make.modules(&source, config, &built.modules)?;
    dirs::write(&done, stamp)?;
    Ok(built)
}

/// Builds the livepatch core of a tree with the runtime in it, configured without Rust: it has to be the C core.
pub fn without_rust() -> Result<()> {
    let dir = dirs::dev_cache()?.join("runtime");
    let pristine = kernel::source("linux-7")?;
    let _lock = dirs::lock("runtime")?;
    let fragment = Config::C.fragment()?.replace("CONFIG_RUST=y", "# CONFIG_RUST is not set");
    let done = dir.join("no-rust-stamp");
    let stamp = stamp(&fragment)?;
    if dirs::read(&done).ok().as_deref() == Some(stamp.as_str()) {
        return Ok(());
    }
    let make = Make::prepare(&dir, "build-no-rust", "no-rust")?;
    let source = source(&dir, &pristine)?;
    make.configure(&source, &fragment)?;
    make.run(&source, &["prepare".into(), "kernel/livepatch/".into()])?;
    let built = make.objdir.join("kernel/livepatch");
    let is_c = ["core.o", "patch.o", "shadow.o", "state.o", "transition.o"];
    if let Some(missing) = is_c.iter().find(|name| !built.join(name).exists()) {
        bail!("failed to find the C core's {missing} in `{}`", built.display());
    }
    if built.join("klp.o").exists() || built.join("glue.o").exists() {
        bail!("the Rust core was built without CONFIG_RUST in `{}`", built.display());
    }
    dirs::write(&done, stamp)
}

/// The source tree that the kernels of this file are built from, with the runtime as it is now.
fn source(dir: &Path, pristine: &Path) -> Result<PathBuf> {
    let source = dir.join("source");
    if !source.exists() {
        eprintln!("copying the kernel source");
        dirs::complete(&source, |part| {
            let sh = Shell::new()?;
            cmd!(sh, "cp -a --reflink=auto {pristine}/. {part}").quiet().run()?;
            Ok(())
        })?;
    }
    tree::install(&source, false)?;
    Ok(source)
}

/// The object directory, holding that configuration: it may have been another's since the kernel was built.
pub fn objdir(config: Config) -> Result<PathBuf> {
    let runtime = dirs::dev_cache()?.join("runtime");
    let _lock = dirs::lock("runtime")?;
    let make = Make::of(&runtime, config)?;
    make.kernel(&runtime.join("source"), &config.fragment()?)?;
    Ok(make.objdir)
}

/// Builds the external modules in a directory for that kernel.
pub fn modules(config: Config, dir: &Path) -> Result<()> {
    let runtime = dirs::dev_cache()?.join("runtime");
    let _lock = dirs::lock("runtime")?;
    let make = Make::of(&runtime, config)?;
    // The object directory may be another configuration's by now.
    make.kernel(&runtime.join("source"), &config.fragment()?)?;
    make.run(&runtime.join("source"), &[format!("M={}", dir.display()), "modules".into()])
}

/// All that decides what comes out: the configuration, the runtime's files, the set tests' modules.
fn stamp(fragment: &str) -> Result<String> {
    let mut stamp = fragment.to_owned();
    let mut dirs_left: Vec<PathBuf> =
        ["kernel", "engine/src", "tests/modules"].map(|dir| dirs::root().join("runtime").join(dir)).to_vec();
    while let Some(dir) = dirs_left.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&dir)
            .with_context(|| format!("failed to read `{}`", dir.display()))?
            .flatten()
            .map(|e| e.path())
            .collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                dirs_left.push(path);
            } else {
                // Another checkout of the same files is the same runtime.
                let name = path.strip_prefix(dirs::root()).unwrap_or(&path);
                stamp += &format!("\n== {}\n{}", name.display(), dirs::read(&path)?);
            }
        }
    }
    Ok(stamp)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("failed to copy `{}`", from.display()))?;
    Ok(())
}

/// make with the Rust tools on every call: Kconfig drops CONFIG_RUST silently when one call lacks them.
struct Make {
    objdir: PathBuf,
    log: PathBuf,
    variables: Vec<String>,
    libclang: PathBuf,
}

impl Make {
    fn of(dir: &Path, config: Config) -> Result<Make> {
        let mut make = Make::prepare(dir, config.objdir(), config.name())?;
        if config.has_kasan() {
            apt::install(&[CLANG])?;
            make.variables.push(format!("CC={CLANG}"));
        }
        Ok(make)
    }

    fn prepare(dir: &Path, objdir: &str, name: &str) -> Result<Make> {
        kernel::install_build_packages()?;
        apt::install(PACKAGES)?;
        let tools = dir.with_file_name("tools");
        let bindgen = tools.join("bin/bindgen");
        if !bindgen.exists() {
            let sh = Shell::new()?;
            let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
            cmd!(sh, "{cargo} install --quiet --locked bindgen-cli --version {BINDGEN} --root {tools}")
                .run()
                .context("failed to install `bindgen-cli`")?;
        }
        let variables = ["RUSTC=/usr/bin/rustc", "HOSTRUSTC=/usr/bin/rustc", "RUSTDOC=/usr/bin/rustdoc"];
        let mut variables: Vec<String> = variables.map(str::to_owned).to_vec();
        variables.push(format!("BINDGEN={}", bindgen.display()));
        variables.extend(
            ["KBUILD_BUILD_TIMESTAMP=2026-01-01", "KBUILD_BUILD_USER=klp", "KBUILD_BUILD_HOST=build"]
                .map(str::to_owned),
        );
        let objdir = dir.join(objdir);
        dirs::create(&objdir)?;
        Ok(Make { objdir, log: dir.join(format!("{name}.log")), variables, libclang: libclang()? })
    }

    fn run(&self, source: &Path, targets: &[String]) -> Result<()> {
        let file = fs::File::options().create(true).append(true).open(&self.log)?;
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let status = Command::new("make")
            .current_dir(source)
            .env("LIBCLANG_PATH", &self.libclang)
            // rustup's and cargo's settings are for the tool's toolchain, not for the kernel's.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .arg(format!("O={}", self.objdir.display()))
            .arg(format!("-j{jobs}"))
            .args(&self.variables)
            .args(targets)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("failed to run `make`")?;
        if !status.success() {
            let text = dirs::read(&self.log)?;
            let lines: Vec<&str> = text.lines().collect();
            bail!(
                "failed to build the kernel with the runtime: {status}\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
        Ok(())
    }

    fn kernel(&self, source: &Path, fragment: &str) -> Result<()> {
        self.configure(source, fragment)?;
        self.run(source, &[])
    }

    fn configure(&self, source: &Path, fragment: &str) -> Result<()> {
        eprintln!("building the kernel with the runtime (minutes; log {})", self.log.display());
        fs::remove_file(&self.log).ok();
        self.run(source, &["tinyconfig".into()])?;
        let config = self.objdir.join(".config");
        let base = dirs::read(&config)?;
        let named: Vec<&str> = fragment.lines().filter_map(option_of).collect();
        let kept = base.lines().filter(|line| !option_of(line).is_some_and(|name| named.contains(&name)));
        let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
        text += fragment;
        dirs::write(&config, text)?;
        let with_rust = fragment.lines().any(|line| line == "CONFIG_RUST=y");
        if with_rust {
            self.run(source, &["rustavailable".into()])?;
        }
        self.run(source, &["olddefconfig".into()])?;
        let taken = dirs::read(&config)?;
        if !with_rust && taken.lines().any(|line| line == "CONFIG_RUST=y") {
            bail!("failed to configure the kernel without Rust");
        }
        // What depends on CONFIG_RUST is not there to be unset.
        let asked = fragment.lines().filter(|line| with_rust || !line.contains("RUST"));
        for option in asked.filter(|line| {
            line.contains("LIVEPATCH") || line.contains("RUST=y") || line.contains("PROVE") || line.contains("KASAN")
        }) {
            if !taken.lines().any(|line| line == option) {
                bail!(
                    "failed to configure the kernel with {option}; `make rustavailable` in {} says why",
                    source.display()
                );
            }
        }
        Ok(())
    }

    /// The kernel's test modules, adapted to sets where the kernel has them, and our own.
    fn modules(&self, source: &Path, config: Config, dest: &Path) -> Result<()> {
        let work = self.objdir.with_file_name(format!("modules-{}", config.name()));
        fs::remove_dir_all(&work).ok();
        dirs::create(&work)?;
        let theirs = source.join("tools/testing/selftests/livepatch/test_modules");
        let mut names = Vec::new();
        let mut sources: Vec<PathBuf> = Vec::new();
        let mut places = vec![theirs];
        if config.has_sets() {
            places.push(dirs::root().join("runtime/tests/modules"));
        }
        for place in places {
            let entries = fs::read_dir(&place).with_context(|| format!("failed to read `{}`", place.display()))?;
            sources.extend(
                entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "c" || e == "h")),
            );
        }
        for path in sources {
            let file = path.file_name().context("a source file has no name")?.to_string_lossy().into_owned();
            let name = path.file_stem().context("a source file has no name")?.to_string_lossy().into_owned();
            let text = dirs::read(&path)?;
            let text = if config.has_sets() { to_sets(&text) } else { text };
            dirs::write(&work.join(&file), text)?;
            if file.ends_with(".c") {
                names.push(name);
            }
        }
        names.sort();
        let objects: String = names.iter().map(|name| format!("obj-m += {name}.o\n")).collect();
        dirs::write(&work.join("Makefile"), objects)?;
        self.run(source, &[format!("M={}", work.display()), "modules".into()])?;
        for name in names {
            copy(&work.join(format!("{name}.ko")), &dest.join(format!("{name}.ko")))?;
        }
        Ok(())
    }
}

/// The kernel's test modules say "replace all" with a boolean; here that is set 1, and "replace nothing" a set of its own.
fn to_sets(text: &str) -> String {
    text.replace(".replace = true,", ".replace_set = 1,")
        .replace("patch.replace = replace;", "patch.replace_set = replace;")
        .replace("module_param(replace, int, 0644);", "module_param(replace, uint, 0644);")
        .replace("static int replace;", "static unsigned int replace;")
}

fn option_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    line.starts_with("CONFIG_").then(|| line.split(['=', ' ']).next())?
}

/// Where the newest libclang is.
fn libclang() -> Result<PathBuf> {
    let entries = fs::read_dir("/usr/lib").context("failed to read `/usr/lib`")?;
    let version = |path: &Path| -> Option<u32> {
        let name = path.file_name()?.to_str()?.strip_prefix("llvm-")?.parse().ok()?;
        let mut libs = fs::read_dir(path.join("lib")).ok()?.flatten();
        libs.any(|e| is_libclang(&e.file_name().to_string_lossy())).then_some(name)
    };
    let newest = entries.flatten().map(|e| e.path()).filter_map(|p| Some((version(&p)?, p))).max();
    Ok(newest.context("failed to find libclang below `/usr/lib/llvm-*`")?.1.join("lib"))
}

/// `libclang.so`, `libclang-19.so.1`; not `libclang-cpp.so` or the compiler's own runtime.
fn is_libclang(name: &str) -> bool {
    let rest = name.strip_prefix("libclang").and_then(|rest| rest.split_once(".so"));
    rest.is_some_and(|(version, _)| version.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}
