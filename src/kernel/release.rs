//! An installed distribution kernel: its release in, the paths of its parts out.
//!
//! Packages put the same parts in a few places: configuration and image in /boot (or below /lib/modules, as
//! kernel-install does), headers behind /lib/modules/VER/build, debug symbols below /usr/lib/debug. Debian's
//! /boot/System.map is a one-line notice, so a map counts only when it has kernel text in it; when no table is
//! readable, the image itself is the table ([`super::kallsyms_image`]). Anything named by hand wins.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::open::KernelRequest;
use super::parts::{Parts, Problems, source_tree, symbols_of_image};
use super::running::Running;

/// The parts of the installed kernel `release`, or of the running one.
pub(super) fn of_release(request: &KernelRequest, release: Option<&str>) -> Result<Parts> {
    let running = running_release();
    let is_running = running.as_deref().ok() == release || release.is_none();
    let release = match release {
        Some(release) => release.to_owned(),
        None => running?,
    };
    find(request, Path::new("/"), &release, is_running)
}

fn running_release() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("failed to read the running kernel's release from `/proc/sys/kernel/osrelease`")
        .map(|text| text.trim().to_owned())
}

/// Finds the parts below a file system root.
fn find(request: &KernelRequest, root: &Path, release: &str, is_running: bool) -> Result<Parts> {
    let mut problems = Problems::default();
    let first = |candidates: &[String]| -> Option<PathBuf> {
        candidates.iter().map(|path| root.join(path)).find(|path| path.exists())
    };
    let modules = first(&[format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")]);
    let headers = request
        .objdir
        .clone()
        .or_else(|| first(&[format!("lib/modules/{release}/build"), format!("usr/src/linux-headers-{release}")]));
    let in_headers = |name: &str| headers.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file());
    let config = request
        .config
        .clone()
        .or_else(|| first(&[format!("boot/config-{release}"), format!("lib/modules/{release}/config")]))
        .or_else(|| in_headers(".config"));
    if config.is_none() {
        problems.add(
            format!("no configuration of kernel {release}: neither `/boot/config-{release}` nor in its headers"),
            "install the kernel's image or headers package, or name the file with --config",
        );
    }
    let symvers = request
        .symvers
        .clone()
        .or_else(|| in_headers("Module.symvers"))
        .or_else(|| first(&[format!("lib/modules/{release}/symvers"), format!("boot/symvers-{release}")]));
    if symvers.is_none() {
        problems.add(
            format!("no exports of kernel {release}: no `Module.symvers` in its headers"),
            format!(
                "install the headers (Debian: apt-get install linux-headers-{release}), or name the file with --symvers"
            ),
        );
    }
    let debug = first(&[
        format!("usr/lib/debug/boot/vmlinux-{release}"),
        format!("usr/lib/debug/lib/modules/{release}/vmlinux"),
    ]);
    let image = request.image.clone().or_else(|| {
        first(&[format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")])
            .or_else(|| debug.clone())
            // Some machines boot from elsewhere; what runs is then the only image there is.
            .or_else(|| first(&["proc/kcore".to_owned()]).filter(|_| is_running))
    });
    let live = is_running.then(|| root.join("proc/kallsyms")).filter(|path| has_addresses(path));
    let symbols = request
        .symbols
        .clone()
        .or(debug)
        .or_else(|| {
            first(&[format!("boot/System.map-{release}"), format!("lib/modules/{release}/System.map")])
                .filter(|path| has_addresses(path))
        })
        .or_else(|| symbols_of_image(image.as_deref()))
        .or(live);
    if symbols.is_none() {
        problems.add(
            format!("no symbols of kernel {release}: no image, System.map or debug vmlinux"),
            "install the kernel's image package, or name one of them with --image or --symbols",
        );
    }
    let source = problems.take(
        source_tree(request),
        "unpack the kernel's source (Debian: linux-source-VERSION, then tar xf /usr/src/linux-source-VERSION.tar.xz) and name it with -k",
    );
    match (config, symvers, source) {
        (Some(config), Some(symvers), Some(source)) if problems.0.is_empty() => Ok(Parts {
            source,
            built: None,
            headers: headers.filter(|dir| dir.join("scripts").is_dir() && dir.join("Makefile").is_file()),
            config,
            symvers,
            symbols,
            image,
            modules: request.modules.clone().or(modules),
            release: Some(release.to_owned()),
            running: is_running.then(|| Running::below(root, request.image.is_none(), request.modules.is_none())),
        }),
        _ => Err(problems.into()),
    }
}

/// Whether a System.map or kallsyms names kernel text at an address: not a notice, not all zeros.
fn has_addresses(path: &Path) -> bool {
    use std::io::Read;
    let mut head = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(1 << 20).read_to_string(&mut head));
    let is_text = |line: &str| {
        let mut fields = line.split(' ');
        fields.next().and_then(|a| u64::from_str_radix(a, 16).ok()).is_some_and(|a| a >> 63 == 1)
            && fields.next().is_some_and(|letter| letter.eq_ignore_ascii_case("t"))
    };
    (read.is_ok() || !head.is_empty()) && head.lines().any(is_text)
}

#[cfg(test)]
mod tests {
    use super::super::samples::put;
    use super::*;

    /// Debian's layout is found by the release alone, and its System.map, a notice, is passed over for the image.
    #[test]
    fn debian() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for file in ["Kbuild", "scripts/Kbuild.include", "include/linux/kernel.h"] {
            put(root, &format!("src/{file}"), "");
        }
        put(root, "boot/config-6.1-x", "CONFIG_A=y\n");
        put(root, "boot/vmlinuz-6.1-x", "image");
        put(root, "boot/System.map-6.1-x", "ffffffffffffffff B The real System.map is in the -dbg package\n");
        put(root, "usr/src/linux-headers-6.1-x/Module.symvers", "");
        let request = KernelRequest { source: Some(root.join("src")), ..KernelRequest::default() };
        let parts = find(&request, root, "6.1-x", false).unwrap();
        assert_eq!(parts.symbols, Some(root.join("boot/vmlinuz-6.1-x")));
        assert_eq!(parts.symvers, root.join("usr/src/linux-headers-6.1-x/Module.symvers"));
        assert_eq!(parts.headers, None);
    }

    /// Without a vmlinuz the running kernel's memory is the image, with its own symbols; another release's is never.
    #[test]
    fn the_running_kernel_is_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for file in
            ["src/Kbuild", "src/scripts/Kbuild.include", "src/include/linux/kernel.h", "proc/kcore", "proc/kallsyms"]
        {
            put(root, file, "");
        }
        put(root, "boot/config-6.1-x", "CONFIG_A=y\n");
        put(root, "usr/src/linux-headers-6.1-x/Module.symvers", "");
        let request = KernelRequest { source: Some(root.join("src")), ..KernelRequest::default() };
        let parts = find(&request, root, "6.1-x", true).unwrap();
        assert_eq!((parts.image, parts.symbols), (Some(root.join("proc/kcore")), Some(root.join("proc/kallsyms"))));
        assert!(find(&request, root, "6.1-x", false).is_err());
        put(root, "boot/vmlinuz-6.1-x", "image");
        assert_eq!(find(&request, root, "6.1-x", true).unwrap().image, Some(root.join("boot/vmlinuz-6.1-x")));
    }

    /// Everything that is not installed is named in one message.
    #[test]
    fn nothing_installed() {
        let dir = tempfile::tempdir().unwrap();
        let request = KernelRequest { source: Some(dir.path().to_owned()), ..KernelRequest::default() };
        let text = find(&request, dir.path(), "6.1-x", false).unwrap_err().to_string();
        for part in ["no configuration", "no exports", "no symbols", "not a Linux source tree"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}
