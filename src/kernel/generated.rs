//! Sources that the build itself wrote from a touched file: they are compiled as they are, so what the patch would
//! have changed in them is missing.
//!
//! In: the `.cmd` file of a generated `.c` or `.h` file. Out: the touched files among the words of its command
//! (arch/x86/kernel/cpu/capflags.c comes from cpufeatures.h), and those that a program among them was compiled from (lib/crc32table.h
//! is what gen_crc32table made of crc32poly.h). What kbuild writes without keeping the command (`filechk`) is not found this way.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::cmd::{CmdFile, normalize, saved_command, source_relative};
use super::units::{Build, cmd_path};

/// A source that was generated from touched files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The generated file, relative to the build directory.
    pub file: PathBuf,
    /// The touched files it was made from.
    pub from: Vec<PathBuf>,
}

/// Whether a file of this name keeps the command of a generated source.
pub(super) fn is_command(name: &[u8]) -> bool {
    name.starts_with(b".") && (name.ends_with(b".c.cmd") || name.ends_with(b".h.cmd"))
}

/// The generated source of a `.cmd` file, if the command names a touched file. Nothing is asked of the command but its words.
pub(super) fn generated(text: &str, build: Build<'_>, touched: &HashSet<&Path>) -> Option<Generated> {
    let (target, command) = text.lines().find_map(saved_command)?;
    let file = normalize(Path::new(target));
    let words = || command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    let paths = words().map(|word| source_relative(word, build.objdir, build.source));
    let mut from: BTreeSet<PathBuf> = paths.filter(|path| touched.contains(path.as_path())).collect();
    for word in
        words().filter(|word| word.contains('/') && !word.starts_with('-') && normalize(Path::new(word)) != file)
    {
        from.extend(compiled_from(word, build).into_iter().filter(|path| touched.contains(path.as_path())));
    }
    let from: Vec<PathBuf> = from.into_iter().collect();
    (!from.is_empty()).then_some(Generated { file, from })
}

/// What a program for the build host was compiled from; nothing for any other word.
fn compiled_from(program: &str, build: Build<'_>) -> Vec<PathBuf> {
    let command = |path: &str| {
        let text = std::fs::read_to_string(build.objdir.join(cmd_path(Path::new(path)))).ok()?;
        let file = CmdFile::parse(&text).ok()?;
        // What is made of the kernel's own objects (the vDSO's image) is another matter.
        (!file.commands.iter().flatten().any(|word| word == "-D__KERNEL__")).then_some(file)
    };
    let Some(link) = command(program) else { return Vec::new() };
    // Of one source, or of several objects (scripts/Makefile.host).
    let objects = link.commands.iter().flatten().filter(|word| word.ends_with(".o") && *word != program);
    let deps = objects.filter_map(|object| command(object)).flat_map(|file| file.deps);
    let deps: Vec<String> = link.deps.iter().cloned().chain(deps).collect();
    deps.iter().map(|dep| source_relative(dep, build.objdir, build.source)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one source, one of several objects, and what is linked of the kernel's own code.
    #[test]
    fn made_by_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let put = |target: &str, command: &str, deps: &str| {
            let path = dir.path().join(cmd_path(Path::new(target)));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text =
                format!("savedcmd_{target} := {command}\n\nsource_{target} := x.c\n\ndeps_{target} := \\\n  {deps}\n");
            std::fs::write(path, text).unwrap();
        };
        put("lib/gen", "gcc -o lib/gen lib/gen.c", "/src/lib/../include/poly.h");
        put("lib/mk", "gcc -o lib/mk lib/one.o lib/two.o", "");
        put("lib/one.o", "gcc -c -o lib/one.o lib/one.c", "/src/include/one.h");
        put("lib/two.o", "gcc -c -o lib/two.o lib/two.c", "/src/include/poly.h");
        put("lib/vdso.so", "ld -o lib/vdso.so lib/v.o", "");
        put("lib/v.o", "gcc -D__KERNEL__ -c -o lib/v.o lib/v.c", "/src/include/poly.h");
        let touched: HashSet<&Path> = [Path::new("include/poly.h")].into();
        let from = |command: &str| {
            let build = Build { source: Path::new("/src"), objdir: dir.path(), modules: None };
            let text = format!("savedcmd_lib/tab.h := {command} > lib/tab.h\n");
            generated(&text, build, &touched).map(|found| found.from)
        };
        let header = || Some(vec![PathBuf::from("include/poly.h")]);
        assert_eq!(from("lib/gen"), header());
        assert_eq!(from("./lib/mk -v"), header());
        assert_eq!(from("lib/other lib/vdso.so lib/v.o"), None);
    }

    /// The header behind `..`, the script itself, and a file that is not the patch's.
    #[test]
    fn made_from() {
        let text = "savedcmd_arch/x86/kernel/cpu/capflags.c := sh /src/arch/x86/kernel/cpu/mkcapflags.sh \
                    arch/x86/kernel/cpu/capflags.c /src/arch/x86/kernel/cpu/../../include/asm/cpufeatures.h FORCE\n";
        let build = Build { source: Path::new("/src"), objdir: Path::new("/obj"), modules: None };
        let from = |touched: &str| {
            let touched: HashSet<&Path> = [Path::new(touched)].into();
            generated(text, build, &touched).map(|found| (found.file, found.from))
        };
        let header = PathBuf::from("arch/x86/include/asm/cpufeatures.h");
        assert_eq!(
            from("arch/x86/include/asm/cpufeatures.h"),
            Some((PathBuf::from("arch/x86/kernel/cpu/capflags.c"), vec![header]))
        );
        assert!(from("arch/x86/kernel/cpu/mkcapflags.sh").is_some());
        assert_eq!(from("include/linux/fs.h"), None);
        assert!(is_command(b".capflags.c.cmd") && !is_command(b".capflags.o.cmd"));
    }
}
