//! Sources that the build itself wrote from a touched file: they are compiled as they are, so what the patch would
//! have changed in them is missing.
//!
//! In: the `.cmd` file of a generated `.c` or `.h` file. Out: the touched files among the words of its command
//! (arch/x86/kernel/cpu/capflags.c comes from cpufeatures.h). What kbuild writes without keeping the command (`filechk`)
//! is not found this way.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cmd::{CmdFile, source_relative};
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

/// The generated source of a `.cmd` file, if the command names a touched file.
pub(super) fn generated(text: &str, build: Build<'_>, touched: &HashSet<&Path>) -> Result<Option<Generated>> {
    let file = CmdFile::parse(text).context("failed to parse the command of a generated file")?;
    let words = file.commands.iter().flatten();
    let mut from: Vec<PathBuf> = words
        .map(|word| source_relative(word, build.objdir, build.source))
        .filter(|path| touched.contains(path.as_path()))
        .collect();
    from.sort();
    from.dedup();
    let target = super::cmd::normalize(Path::new(&file.target));
    Ok((!from.is_empty()).then_some(Generated { file: target, from }))
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
            generated(text, build, &touched).unwrap().map(|found| (found.file, found.from))
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
