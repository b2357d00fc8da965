//! Which touched files can be livepatched at all: by their names, before anything is compiled.
//!
//! In: paths relative to the kernel tree. Out: code, not code (a note), or a refusal that says why. Only what a
//! name proves is decided here. Code that runs before, beside or outside the kernel image (boot stubs,
//! realmode, vDSO, host tools) is never in an object that a livepatch can hook; ftrace has no say in
//! assembly; and build files change what is compiled, not a function.

use std::path::Path;

use crate::error::{Reason, Refusal};

/// What a file name says about a change to it.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// C code: compile and see.
    Code,
    /// Never compiled: the change is left out, for this reason.
    Ignored(&'static str),
    /// Cannot be livepatched.
    Refused(Refusal),
}

/// What the touched files add up to.
#[derive(Debug, Clone, Default)]
pub struct Screened {
    /// A note per file that is left out.
    pub notes: Vec<String>,
    /// All files that cannot be livepatched.
    pub refusals: Vec<Refusal>,
}

/// Classifies all touched files of a run.
pub fn screen<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Screened {
    let mut out = Screened::default();
    for path in paths {
        match classify(path) {
            Verdict::Code => {}
            Verdict::Ignored(why) => out.notes.push(format!("`{}` is left out: {why}", path.display())),
            Verdict::Refused(refusal) => out.refusals.push(refusal),
        }
    }
    out
}

/// Classifies one file.
pub fn classify(path: &Path) -> Verdict {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let Some((&file, dirs)) = parts.split_last() else {
        return refuse(Reason::UnsupportedFile, path, "has a name that is not text", LEAVE_OUT);
    };
    if let Some(why) = not_code(file, dirs) {
        return Verdict::Ignored(why);
    }
    let place = by_place(file, dirs).or_else(|| by_name(file));
    match place {
        Some((reason, why, advice)) => refuse(reason, path, why, advice),
        None => Verdict::Code,
    }
}

const LEAVE_OUT: &str = "leave this file out of the patch";
const REBOOT: &str = "leave this file out of the patch; a change to it needs a new kernel and a reboot";
const IN_C: &str = "make the change in C code that calls it, or leave this file out of the patch";

type Why = (Reason, &'static str, &'static str);

fn refuse(reason: Reason, path: &Path, why: &str, advice: &str) -> Verdict {
    Verdict::Refused(Refusal::new(reason, format!("`{}` {why}", path.display()), advice))
}

/// Files that no build of a kernel compiles.
fn not_code(file: &str, dirs: &[&str]) -> Option<&'static str> {
    let top = dirs.first().copied().unwrap_or_default();
    let suffix = file.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    if matches!(top, "Documentation" | "LICENSES") || matches!(suffix, "rst" | "md" | "svg") {
        return Some("it is documentation");
    }
    // Programs are generated from some texts (arch/x86/lib/x86-opcode-map.txt), so the suffix alone says nothing.
    let stem = file.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let is_text = matches!(suffix, "" | "txt");
    if (is_text && matches!(&*stem, "MAINTAINERS" | "CREDITS" | "COPYING" | "README" | "TODO" | "CHANGES" | "NOTES"))
        || (suffix == "txt" && dirs.contains(&"Documentation"))
    {
        return Some("it is documentation");
    }
    if dirs.starts_with(&["drivers", "gpu", "drm", "ci"]) && !build_file(file) {
        return Some("it is for tests of the drivers");
    }
    if matches!(
        file,
        ".gitignore" | ".gitattributes" | ".mailmap" | ".clang-format" | ".editorconfig" | ".rustfmt.toml"
    ) {
        return Some("it is for the version control or an editor");
    }
    if dirs.len() >= 2 && dirs[0] == "arch" && (dirs.last() == Some(&"configs") || file == "defconfig") {
        return Some("it is a default configuration; the kernel is configured already");
    }
    None
}

/// Refusals by where a file is.
fn by_place(file: &str, dirs: &[&str]) -> Option<Why> {
    let has = |name: &str| dirs.contains(&name);
    let starts = |prefix: &[&str]| dirs.starts_with(prefix);
    let unsupported = |why, advice| Some((Reason::UnsupportedFile, why, advice));
    if build_file(file) {
        return Some((
            Reason::BuildSystem,
            "changes what is built and how, not code",
            "leave this file out of the patch; put new code into files that are built already",
        ));
    }
    if starts(&["tools"]) || starts(&["scripts"]) || starts(&["usr"]) {
        return unsupported("is a program or script that runs outside the kernel", LEAVE_OUT);
    }
    // vdso, vdso32, vdso64, compat_vdso; lib/vdso and include/vdso are compiled into it too.
    if dirs.iter().any(|dir| dir.starts_with("vdso") || dir.ends_with("_vdso")) {
        return unsupported("is compiled into the vDSO, which runs in user space and is mapped already", REBOOT);
    }
    if has("realmode") {
        return unsupported("is real mode code, which ran before the kernel's own or runs when a CPU starts", REBOOT);
    }
    if has("purgatory") {
        return unsupported("is compiled into the kexec purgatory, which is a program of its own", REBOOT);
    }
    if dirs.len() > 2 && dirs[0] == "arch" && dirs[2] == "boot" {
        return unsupported("is boot code, which has done its work before the kernel proper starts", REBOOT);
    }
    if starts(&["drivers", "firmware", "efi", "libstub"]) {
        return unsupported("is the EFI stub, which has done its work before the kernel proper starts", REBOOT);
    }
    if file == "asm-offsets.c" || (dirs == ["kernel"] && file == "bounds.c") {
        return unsupported("is compiled only to make a header, which all of the kernel was built with", REBOOT);
    }
    None
}

/// Refusals by what a file is called.
fn by_name(file: &str) -> Option<Why> {
    let unsupported = |why, advice| Some((Reason::UnsupportedFile, why, advice));
    if file.ends_with(".lds") || file.ends_with(".lds.S") || file.ends_with(".lds.h") {
        return unsupported("is a linker script: it lays out the whole image", REBOOT);
    }
    if file.ends_with(".S") || file.ends_with(".s") || file.ends_with(".asm") {
        return unsupported("is assembly, which ftrace cannot redirect", IN_C);
    }
    if file.ends_with(".rs") {
        return unsupported("is Rust code; only C units can be compared so far", IN_C);
    }
    if [".dts", ".dtsi", ".dtso"].iter().any(|suffix| file.ends_with(suffix)) {
        return unsupported("is a device tree, which the boot loader hands over", REBOOT);
    }
    if file.ends_with(".c") || file.ends_with(".h") {
        return None;
    }
    unsupported("is not C code, and what is generated from it cannot be told from its name", LEAVE_OUT)
}

fn build_file(file: &str) -> bool {
    let stem = file.split('.').next().unwrap_or_default();
    matches!(stem, "Kconfig" | "Makefile" | "Kbuild") || file.ends_with(".mk")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(path: &str) -> Option<Reason> {
        match classify(Path::new(path)) {
            Verdict::Refused(refusal) => Some(refusal.reason),
            _ => None,
        }
    }

    /// Code that no livepatch can reach is refused whatever directory spelling an architecture uses.
    #[test]
    fn out_of_reach() {
        for path in [
            "arch/x86/entry/entry_64.S",
            "lib/vdso/gettimeofday.c",
            "arch/x86/entry/vdso/vclock_gettime.c",
            "arch/arm64/kernel/vdso32/note.c",
            "include/vdso/datapage.h",
            "arch/x86/realmode/rm/wakemain.c",
            "arch/x86/boot/compressed/misc.c",
            "arch/x86/purgatory/purgatory.c",
            "drivers/firmware/efi/libstub/x86-stub.c",
            "tools/objtool/check.c",
            "scripts/mod/modpost.c",
            "scripts/module.lds.S",
            "arch/x86/kernel/vmlinux.lds.S",
            "rust/kernel/lib.rs",
            "arch/arm64/boot/dts/x.dts",
            "arch/x86/kernel/asm-offsets.c",
            "arch/x86/entry/syscalls/syscall_64.tbl",
            "arch/x86/lib/x86-opcode-map.txt",
            "fs/README.c.in",
        ] {
            assert_eq!(reason(path), Some(Reason::UnsupportedFile), "{path}");
        }
    }

    /// Build files are told from code: they are another reason.
    #[test]
    fn build_files() {
        for path in
            ["Makefile", "fs/proc/Makefile", "fs/Kconfig", "fs/Kconfig.binfmt", "arch/x86/Kbuild", "a/Makefile.lib"]
        {
            assert_eq!(reason(path), Some(Reason::BuildSystem), "{path}");
        }
    }

    /// Ordinary code passes, also where upstream refuses by path (lib/, and names that only look like boot code).
    #[test]
    fn code() {
        for path in [
            "fs/proc/cmdline.c",
            "include/net/sock.h",
            "lib/string.c",
            "kernel/bounds_check.c",
            "kernel/reboot.c",
            "drivers/boot/x.c",
        ] {
            assert!(matches!(classify(Path::new(path)), Verdict::Code), "{path}");
        }
    }

    /// Texts for people are told from those that code is generated from.
    #[test]
    fn documentation() {
        for path in [
            "Documentation/x.txt",
            "tools/perf/Documentation/perf.txt",
            "drivers/staging/x/TODO",
            "drivers/gpu/drm/i915/TODO.txt",
            "fs/readme.txt",
            "rust/README.md",
            "drivers/firmware/arm_scmi/vendors/imx/imx95.rst",
            "drivers/gpu/drm/ci/xfails/i915-fails.txt",
        ] {
            assert!(matches!(classify(Path::new(path)), Verdict::Ignored(_)), "{path}");
        }
    }

    /// All files of a patch are judged, and documentation is only noted.
    #[test]
    fn all_at_once() {
        let paths = ["Documentation/x.rst", "a/Makefile", "MAINTAINERS", "b/x.S", "fs/x.c"].map(Path::new);
        let screened = screen(paths);
        assert_eq!((screened.notes.len(), screened.refusals.len()), (2, 2));
        assert!(screened.refusals[1].message.contains("`b/x.S`"));
    }
}
