//! `cargo xtask kernel NAME`: from an entry of tests/kernels.toml to a kernel on disk, with its paths.
//!
//! A built kernel is complete when the file beside its build directory says which configuration and source
//! made it; an unpacked one when it has its final name. What is complete is never touched again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;
use xshell::{Shell, cmd};

use crate::apt::{self, Apt};
use crate::dirs;
use crate::kernels::{self, Kind, names};
use crate::sources::Suite;
use crate::{Args, guest};

/// What kbuild needs to build a module, or one unit.
pub const KBUILD_PACKAGES: &[&str] = &[
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "openssl",
    "perl",
    "python3",
    "kmod",
    "xz-utils",
];

/// What compiling a kernel here takes besides.
const BUILD_PACKAGES: &[&str] = &["gcc-12", "zstd", "binutils", "pahole"];

/// Installs what compiling a kernel, or a module for one, takes.
pub fn install_build_packages() -> Result<()> {
    apt::install(&[KBUILD_PACKAGES, BUILD_PACKAGES].concat())
}

/// A kernel that is ready to be patched and booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Source tree; never written to.
    pub source: PathBuf,
    /// Build directory (`O=`), or the headers of a distribution's kernel.
    pub objdir: PathBuf,
    /// bzImage or vmlinuz.
    pub image: PathBuf,
    /// Directory that holds its modules.
    pub modules: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its Module.symvers.
    pub symvers: PathBuf,
    /// Its symbol table: vmlinux where it was built here, else a dump of /proc/kallsyms.
    pub symbols: PathBuf,
    /// Not built here.
    pub stock: bool,
}

impl Kernel {
    /// The options that tell klp-build about it.
    pub fn options(&self) -> Vec<String> {
        let text = |p: &Path| p.display().to_string();
        let mut words = vec!["--kernel".into(), text(&self.source), "--objdir".into(), text(&self.objdir)];
        if self.stock {
            words.push(format!("--release={}", self.release));
            for (option, path) in [
                ("--config", &self.config),
                ("--symvers", &self.symvers),
                ("--symbols", &self.symbols),
                ("--image", &self.image),
                ("--modules", &self.modules),
            ] {
                words.extend([option.into(), text(path)]);
            }
        }
        words
    }
}

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    let refresh = args.iter().any(|a| a == "--refresh");
    let wanted: Vec<&String> = args.iter().filter(|a| *a != "--refresh").collect();
    let [name] = wanted[..] else { bail!("usage: cargo xtask kernel NAME [--refresh], one of {}", names().join(", ")) };
    let kernel = prepare(name, refresh)?;
    for (what, path) in [
        ("source", &kernel.source),
        ("objdir", &kernel.objdir),
        ("image", &kernel.image),
        ("modules", &kernel.modules),
        ("config", &kernel.config),
        ("symvers", &kernel.symvers),
        ("symbols", &kernel.symbols),
    ] {
        println!("{what:<8} {}", path.display());
    }
    println!("release  {}", kernel.release);
    println!("options  {}", kernel.options().join(" "));
    Ok(())
}

/// Makes the kernel `name` if it is not there yet; `refresh` asks apt for a newer point release.
pub fn prepare(name: &str, refresh: bool) -> Result<Kernel> {
    let (name, spec) = kernels::find(name)?;
    match spec.kind() {
        Kind::Built { source, suite, config, make, packages } => {
            apt::install(&packages.iter().map(String::as_str).collect::<Vec<_>>())?;
            let source = unpack_source(source, suite, refresh)?;
            let version =
                dirs::read(&source.with_extension(version_suffix(&source.to_string_lossy()))).unwrap_or_default();
            let folder = dirs::root().join("tests/kernels");
            build(&Plan {
                name,
                base: "tinyconfig",
                fragments: &config.iter().map(|file| folder.join(file)).collect::<Vec<_>>(),
                make,
                source: &source,
                version: version.trim(),
                objdir: &dirs::dev_cache()?.join("build").join(name),
            })
        }
        Kind::Stock { image, headers, source } => stock(name, image, headers, source, refresh),
        Kind::Task => bail!("the kernel `{name}` is made by `cargo xtask {}`", spec.when),
    }
}

/// The unpacked source of a kernel that is built from one; nothing may be written there.
pub fn source(name: &str) -> Result<PathBuf> {
    match kernels::find(name)?.1.kind() {
        Kind::Built { source, suite, .. } => unpack_source(source, suite, false),
        _ => bail!("the kernel `{name}` is not built from source"),
    }
}

/// Downloads a `linux-source-X.Y` package and unpacks the tarball in it.
fn unpack_source(package: &str, suite: Suite, refresh: bool) -> Result<PathBuf> {
    let dest = dirs::dev_cache()?.join("src").join(package);
    if refresh && dest.exists() {
        let version = dirs::read(&dest.with_extension(version_suffix(package))).unwrap_or_default();
        let newest = Apt::open(suite, true)?.version(package)?;
        if version.trim() == newest {
            return Ok(dest);
        }
        let _lock = dirs::lock_path(&dest)?;
        remove(&dest)?;
    }
    dirs::complete(&dest, |dir| {
        let apt = Apt::open(suite, false)?;
        let version = apt.version(package)?;
        unpack_tarball(&apt, package, dir)?;
        dirs::write(&dest.with_extension(version_suffix(package)), version)
    })?;
    Ok(dest)
}

/// `linux-source-7.3` has a dot, so that its version file is `linux-source-7.3.version`.
fn version_suffix(package: &str) -> String {
    format!("{}.version", package.rsplit('.').next().unwrap_or_default())
}

fn unpack_tarball(apt: &Apt, package: &str, dir: &Path) -> Result<()> {
    let deb = tempfile::Builder::new().prefix(".deb-").tempdir_in(dir)?;
    apt.unpack(&[package.to_owned()], deb.path())?;
    let tarball = deb.path().join(format!("usr/src/{package}.tar.xz"));
    let sh = Shell::new()?;
    eprintln!("unpacking {package}");
    cmd!(sh, "tar -xf {tarball} --strip-components=1 -C {dir}")
        .quiet()
        .run()
        .with_context(|| format!("failed to unpack `{}`", tarball.display()))
}

/// A kernel to be built.
pub struct Plan<'a> {
    /// For messages, and for the lock.
    pub name: &'a str,
    /// The configuration that the fragment is merged over: a target of the kernel's Makefile.
    pub base: &'a str,
    /// Files of options: each wins over those before it, and over the base.
    pub fragments: &'a [PathBuf],
    /// Variables for make: another compiler, say.
    pub make: &'a [String],
    /// Source tree.
    pub source: &'a Path,
    /// Which source it is; another one makes another build.
    pub version: &'a str,
    /// Build directory; the stamp and the log lie beside it.
    pub objdir: &'a Path,
}

/// Configures and builds with `O=`; the same configuration and source are never built twice.
pub fn build(plan: &Plan<'_>) -> Result<Kernel> {
    let (source, objdir) = (plan.source, plan.objdir);
    let beside = objdir.file_name().context("failed to name a build directory")?.to_string_lossy().into_owned();
    let done = objdir.with_file_name(format!("{beside}.complete"));
    let _lock = dirs::lock(&format!("build-{}", plan.name))?;
    let fragments = plan.fragments.iter().map(|file| dirs::read(file)).collect::<Result<Vec<_>>>()?;
    let wanted = fragments.into_iter().reduce(|all, next| merge(&all, &next)).unwrap_or_default();
    let stamp = format!("{}\n{wanted}{}", plan.version, plan.make.join(" "));
    if dirs::read(&done).ok().as_deref() != Some(stamp.as_str()) && !built_by_hand(objdir, &done, &wanted) {
        install_build_packages()?;
        configure_and_make(plan, &objdir.with_file_name(format!("{beside}.log")), &wanted)?;
        let missing = not_taken(&wanted, &dirs::read(&objdir.join(".config"))?);
        if !missing.is_empty() {
            eprintln!("warning: {} does not take from its configuration: {}", plan.name, missing.join(" "));
        }
    }
    dirs::write(&done, stamp)?;
    let release = dirs::read(&objdir.join("include/config/kernel.release"))?.trim().to_owned();
    Ok(Kernel {
        release,
        source: source.to_path_buf(),
        image: objdir.join("arch/x86/boot/bzImage"),
        modules: objdir.to_path_buf(),
        config: objdir.join(".config"),
        symvers: objdir.join("Module.symvers"),
        symbols: objdir.join("vmlinux"),
        objdir: objdir.to_path_buf(),
        stock: false,
    })
}

fn configure_and_make(plan: &Plan<'_>, log: &Path, fragment: &str) -> Result<()> {
    let Plan { name, base, source, objdir, make: variables, .. } = *plan;
    dirs::create(objdir)?;
    let sh = Shell::new()?;
    sh.change_dir(source);
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let out = format!("O={}", objdir.display());
    let who = ["KBUILD_BUILD_TIMESTAMP=2026-01-01", "KBUILD_BUILD_USER=klp", "KBUILD_BUILD_HOST=build"];
    eprintln!("building {name} in {} (minutes; log {})", objdir.display(), log.display());
    let make = |target: &[&str]| -> Result<()> {
        let file = fs::File::options().create(true).append(true).open(log)?;
        // Not through xshell: its output goes to a file, and only its tail is of interest when it fails.
        let status = std::process::Command::new("make")
            .current_dir(source)
            .arg(&out)
            .arg(format!("-j{jobs}"))
            .args(who)
            .args(variables)
            .args(target)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("failed to run `make`")?;
        if !status.success() {
            let text = dirs::read(log)?;
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            bail!("failed to build {name}: {status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    };
    fs::remove_file(log).ok();
    make(&[base])?;
    let config = objdir.join(".config");
    dirs::write(&config, merge(&dirs::read(&config)?, fragment))?;
    make(&["olddefconfig"])?;
    make(&[])
}

/// `base` with the options of `fragment` in place of its own.
fn merge(base: &str, fragment: &str) -> String {
    let named: Vec<&str> = options(fragment).map(|(name, _)| name).collect();
    let mut text = String::new();
    for line in base.lines() {
        let name = line.trim_start_matches("# ").split(['=', ' ']).next().unwrap_or_default();
        if !named.contains(&name) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text + fragment
}

fn options(config: &str) -> impl Iterator<Item = (&str, &str)> {
    config.lines().filter(|l| l.starts_with("CONFIG_")).filter_map(|l| l.split_once('='))
}

/// Options of the fragment that Kconfig did not take.
fn not_taken<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let has = |line: &str| config.lines().any(|l| l == line);
    options(fragment)
        .filter(|(name, value)| match *value {
            "n" => has(&format!("{name}=y")) || has(&format!("{name}=m")),
            value => !has(&format!("{name}={value}")),
        })
        .map(|(name, _)| name)
        .collect()
}

/// A complete build that somebody made with the same commands: everything is there and the options agree.
fn built_by_hand(objdir: &Path, done: &Path, fragment: &str) -> bool {
    if done.exists() {
        return false;
    }
    let parts =
        [".config", "vmlinux", "Module.symvers", "modules.order", "arch/x86/boot/bzImage"].map(|p| objdir.join(p));
    let Ok(config) = dirs::read(&parts[0]) else { return false };
    let modules = dirs::read(&parts[3]).unwrap_or_default();
    let kos = modules.lines().map(|l| objdir.join(l.strip_suffix(".o").unwrap_or(l)).with_extension("ko"));
    parts.iter().cloned().chain(kos).all(|p| p.exists()) && not_taken(fragment, &config).is_empty()
}

/// Downloads the packages of a distribution's kernel and unpacks them under one root, all of one version.
fn stock(name: &str, image: &str, headers: &str, source: &str, refresh: bool) -> Result<Kernel> {
    install_build_packages()?;
    let dir = dirs::dev_cache()?.join(name);
    let dest = dir.join("root");
    let release_file = dest.join("release");
    if refresh && dest.exists() {
        let newest = Apt::open(Suite::Own, true)?.dependency(image, "linux-image-")?;
        if newest.strip_prefix("linux-image-") == Some(dirs::read(&release_file)?.trim()) {
            eprintln!("{newest} is the newest");
        } else {
            let _lock = dirs::lock_path(&dest)?;
            remove(&dest)?;
        }
    }
    dirs::complete(&dest, |root| {
        let apt = Apt::open(Suite::Own, false)?;
        let image = apt.dependency(image, "linux-image-")?;
        let headers = apt.dependency(headers, "linux-headers-")?;
        let release = image.trim_start_matches("linux-image-").to_owned();
        let common = apt.dependency(&headers, "linux-headers-")?;
        let kbuild = apt.dependency(&headers, "linux-kbuild-")?;
        apt.unpack(&[image, headers, common, kbuild], root)?;
        let tree = root.join("usr/src").join(source);
        dirs::create(&tree)?;
        unpack_tarball(&apt, source, &tree)?;
        relocate_headers(root, &release)?;
        dirs::write(&root.join("release"), release)
    })?;
    let release = dirs::read(&release_file)?.trim().to_owned();
    let root = dest;
    // Also what somebody unpacked over it since.
    relocate_headers(&root, &release)?;
    let objdir = root.join(format!("usr/src/linux-headers-{release}"));
    let kernel = Kernel {
        source: root.join("usr/src").join(source),
        image: root.join(format!("boot/vmlinuz-{release}")),
        modules: root.join(format!("lib/modules/{release}")),
        // Not the one in /boot: Debian takes the salt and the key options out of it.
        config: objdir.join(".config"),
        symvers: objdir.join("Module.symvers"),
        symbols: dir.join(format!("kallsyms-{release}")),
        objdir,
        release,
        stock: true,
    };
    if !kernel.symbols.exists() {
        // Debian's System.map is a stub that points at a debug package of a gigabyte; the kernel itself knows.
        let text = guest::kallsyms(&kernel)?;
        dirs::write(&kernel.symbols, text)?;
    }
    Ok(kernel)
}

/// Unpacked headers name each other by absolute path in two places, a Makefile and two links; both become relative.
fn relocate_headers(root: &Path, release: &str) -> Result<()> {
    let makefile = root.join(format!("usr/src/linux-headers-{release}/Makefile"));
    let text = dirs::read(&makefile)?;
    let relative = text.replace("include /usr/src/", "include $(dir $(lastword $(MAKEFILE_LIST)))../");
    if relative.contains(" /usr/src/") {
        bail!("failed to relocate `{}`: it names other files than the common headers", makefile.display());
    }
    if relative != text {
        dirs::write(&makefile, relative)?;
    }
    for name in ["build", "source"] {
        let link = root.join("lib/modules").join(release).join(name);
        let Ok(target) = fs::read_link(&link) else { continue };
        let Ok(below_root) = target.strip_prefix("/") else { continue };
        fs::remove_file(&link)
            .and_then(|()| std::os::unix::fs::symlink(Path::new("../../..").join(below_root), &link))
            .with_context(|| format!("failed to link `{}`", link.display()))?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("failed to remove `{}`", dir.display()))
}

/// The file of module `name`, under any of the suffixes that kernels are shipped with.
pub fn find_module(kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let plain = name.replace('-', "_");
    let is_it = |file: &str| {
        let stem = file.split_once(".ko").filter(|(_, rest)| matches!(*rest, "" | ".xz" | ".gz" | ".zst"));
        stem.is_some_and(|(stem, _)| stem.replace('-', "_") == plain)
    };
    WalkDir::new(&kernel.modules)
        .into_iter()
        .flatten()
        .find(|e| e.file_name().to_str().is_some_and(is_it))
        .map(walkdir::DirEntry::into_path)
        .with_context(|| format!("failed to find module `{name}` in `{}`", kernel.modules.display()))
}

/// Module files in the order in which they must be loaded so that `names` can be, each once.
pub fn load_order(kernel: &Kernel, names: &[String]) -> Result<Vec<PathBuf>> {
    fn visit(kernel: &Kernel, sh: &Shell, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let file = find_module(kernel, name)?;
        if order.contains(&file) {
            return Ok(());
        }
        let depends = cmd!(sh, "/sbin/modinfo -F depends {file}").quiet().read();
        let depends = depends.with_context(|| format!("failed to read dependencies of `{}`", file.display()))?;
        for dependency in depends.trim().split(',').filter(|d| !d.is_empty()) {
            visit(kernel, sh, dependency, order)?;
        }
        order.push(file);
        Ok(())
    }
    let (sh, mut order) = (Shell::new()?, Vec::new());
    for name in names {
        visit(kernel, &sh, name, &mut order)?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fragment wins over what it is merged into, also over "is not set".
    #[test]
    fn fragment_wins() {
        let merged = merge("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_AB=y\n", "CONFIG_A=m\nCONFIG_B=y\n");
        assert_eq!(merged, "CONFIG_AB=y\nCONFIG_A=m\nCONFIG_B=y\n");
    }

    /// A kernel that silently lacks what a test needs must be noticed.
    #[test]
    fn missing_options_are_named() {
        let config = "CONFIG_A=y\nCONFIG_C=y\n# CONFIG_D is not set\n";
        assert_eq!(not_taken("CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=n\n", config), ["CONFIG_B", "CONFIG_C"]);
    }

    /// The version file stands beside the source tree, not inside it.
    #[test]
    fn version_file_name() {
        let dest = Path::new("/c/src/linux-source-7.3");
        assert_eq!(
            dest.with_extension(version_suffix("linux-source-7.3")),
            Path::new("/c/src/linux-source-7.3.version")
        );
    }
}
