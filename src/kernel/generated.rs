//! Sources that the build itself wrote from a touched file: they are compiled as they are, so what the patch would
//! have changed in them is missing.
//!
//! In: the `.cmd` file of a generated `.c` or `.h` file. Out: the touched files among the words of its command
//! (arch/x86/kernel/cpu/capflags.c comes from cpufeatures.h). What kbuild writes without keeping the command (`filechk`)
//! is not found this way.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::cmd::{normalize, saved_command, source_relative};
use super::units::Build;

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
    let words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    let paths = words.map(|word| source_relative(word, build.objdir, build.source));
    let from: BTreeSet<PathBuf> = paths.filter(|path| touched.contains(path.as_path())).collect();
    let from: Vec<PathBuf> = from.into_iter().collect();
    (!from.is_empty()).then(|| Generated { file: normalize(Path::new(target)), from })
}

#[cfg(test)]
mod tests {
    use super::*;

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
