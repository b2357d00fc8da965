//! `cargo xtask debian13`: Debian 13's stock kernel, patched in a Debian 13 of its own, whose compiler is gcc 14.
//!
//! In: the machine's mirror. Out: a system in a directory (debootstrap), with the kernel, its headers, its source and
//! compiler as packages; klp-build runs in it as a person would run it there, and the module is loaded in QEMU into that
//! very kernel. Needs root, and says so: debootstrap makes device nodes, and chroot(2) is for root. What it mounts is in
//! a mount namespace of its own and goes with the process, however that ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::guest::{self, Case};
use crate::kernel::{self, Kernel};
use crate::{Args, apt, build, dirs, sources, vm};

const SUITE: &str = "trixie";

/// The kernel, and its source; and what tells types apart in it.
const PACKAGES: &[&str] = &["linux-image-amd64", "linux-headers-amd64", "linux-source-6.12", "pahole"];

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask debian13");
    }
    let sh = Shell::new()?;
    if cmd!(sh, "id -u").quiet().read()? != "0" {
        bail!("failed to make a Debian 13: it takes root (device nodes and chroot); run this as root or with sudo");
    }
    apt::install(&[vm::PACKAGES, &["debootstrap"]].concat())?;
    let klp_build = build::klp_build()?;
    let dir = dirs::dev_cache()?.join("debian-13");
    let system = System { root: dir.join("root"), proxy: proxy(&sh) };
    dirs::complete(&system.root, |root| system.at(root).make())?;
    let kernel = system.kernel()?;
    println!("* Debian 13, kernel {}, {}", kernel.release, system.run_in("gcc --version | head -n 1")?.trim());
    for (file, name) in
        [(klp_build, "usr/local/bin/klp-build"), (dirs::root().join("examples/meminfo.patch"), "root/meminfo.patch")]
    {
        let to = system.root.join(name);
        std::fs::copy(&file, &to)
            .with_context(|| format!("failed to copy `{}` to `{}`", file.display(), to.display()))?;
    }
    let release = &kernel.release;
    let said = system.run_in(&format!(
        "cd /root && rm -f *.ko && klp-build -v --release={release} -k /usr/src/linux-source-6.12 -o livepatch-meminfo.ko meminfo.patch 2>&1"
    ))?;
    print!("{said}");
    ensure!(said.contains("verified: 1 function"), "failed to verify the patched function against the kernel's image");
    let case = Case {
        snippets: vec![("observe", "grep -q MemUsable: /proc/meminfo\n".to_owned())],
        ..Case::load(&system.root.join("root/livepatch-meminfo.ko"))?
    };
    let (_, results) = guest::run_cases(&kernel, &[case])?;
    for result in &results {
        println!("* {}", result.summary());
    }
    ensure!(
        !results.is_empty() && results.iter().all(guest::CaseResult::passed),
        "failed to load and unload the livepatch"
    );
    Ok(())
}

/// The proxy that the machine's apt uses.
fn proxy(sh: &Shell) -> Option<String> {
    let said = cmd!(sh, "apt-config shell PROXY Acquire::http::Proxy").quiet().read().ok()?;
    let value = said.trim().strip_prefix("PROXY=")?.trim_matches('\'').to_owned();
    Some(value).filter(|v| v.starts_with("http"))
}

/// A Debian in a directory.
struct System {
    root: PathBuf,
    proxy: Option<String>,
}

impl System {
    fn at(&self, root: &Path) -> System {
        System { root: root.to_path_buf(), proxy: self.proxy.clone() }
    }

    /// A command with mounts and processes of its own, which end with it.
    fn apart(&self, proc: bool) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        if proc {
            command.arg(format!("--mount-proc={}", self.root.join("proc").display()));
        }
        command.args(["env", "-i", "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]);
        command.arg("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // No initramfs: the guest brings its own.
        command.arg("INITRD=No");
        if let Some(proxy) = &self.proxy {
            command.arg(format!("http_proxy={proxy}"));
        }
        command
    }

    /// Installs the system and the packages.
    fn make(&self) -> Result<()> {
        let (mirror, keyring) = sources::mirror()?;
        eprintln!("making a Debian 13 in {}", self.root.display());
        let mut command = self.apart(false);
        command.args(["debootstrap", "--variant=minbase", "--include=ca-certificates"]);
        command.args(keyring.map(|file| format!("--keyring={file}")));
        command.args([SUITE]).arg(&self.root).arg(mirror);
        checked(&mut command, "debootstrap")?;
        self.run_in("apt-get -qq update")?;
        self.run_in(&format!(
            "apt-get -qq -y install --no-install-recommends {}",
            [PACKAGES, kernel::KBUILD_PACKAGES].concat().join(" ")
        ))?;
        self.run_in("apt-get clean")?;
        self.run_in("cd /usr/src && tar -xf linux-source-6.12.tar.xz && rm linux-source-6.12.tar.xz")?;
        Ok(())
    }

    /// What a shell in the system prints.
    fn run_in(&self, script: &str) -> Result<String> {
        let mut command = self.apart(true);
        command.arg("chroot").arg(&self.root).args(["sh", "-c", script]);
        checked(&mut command, script)
    }

    fn kernel(&self) -> Result<Kernel> {
        let list = self.run_in("ls /boot")?;
        let release = list.lines().filter_map(|l| l.strip_prefix("vmlinuz-")).next_back();
        let release = release.context("failed to find a kernel in the new system's /boot")?.to_owned();
        let headers = self.root.join(format!("usr/src/linux-headers-{release}"));
        Ok(Kernel {
            source: self.root.join("usr/src/linux-source-6.12"),
            image: self.root.join(format!("boot/vmlinuz-{release}")),
            modules: self.root.join(format!("usr/lib/modules/{release}")),
            config: headers.join(".config"),
            symvers: headers.join("Module.symvers"),
            symbols: self.root.join(format!("boot/vmlinuz-{release}")),
            objdir: headers,
            release,
            stock: true,
        })
    }
}

/// Runs a command and gives what it printed; its own words when it fails.
fn checked(command: &mut Command, what: &str) -> Result<String> {
    let out = command.output().context("failed to run `unshare`")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !out.status.success() {
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        bail!("failed to run `{what}`: {}\n{}", out.status, vm::tail(&said, 20));
    }
    Ok(text(&out.stdout))
}
