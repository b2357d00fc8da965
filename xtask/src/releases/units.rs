//! A built tree -> which source files went into which of its units, by what the compiler itself noted.
//!
//! kbuild keeps each compile's command and dependencies in a `.cmd` file. Programs that only help the build are
//! compiled the same way, without `__KERNEL__`; they are no part of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use walkdir::WalkDir;

use crate::dirs;
use crate::kernel::Kernel;

/// Files of the source tree that units were made from.
#[derive(Debug, Default)]
pub struct Units {
    /// For each `.c` file that a unit is or includes, all files of the source tree that those units read.
    pub reads: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// How many units there are.
    pub count: usize,
}

impl Units {
    /// Reads all `.cmd` files of a build.
    pub fn read(kernel: &Kernel) -> Result<Units> {
        let mut units = Units::default();
        for entry in WalkDir::new(&kernel.objdir).into_iter().flatten() {
            let name = entry.file_name().to_string_lossy();
            if name.starts_with('.') && name.ends_with(".o.cmd") && !name.ends_with(".mod.o.cmd") {
                units.add(&dirs::read(entry.path())?, &kernel.source);
            }
        }
        Ok(units)
    }

    fn add(&mut self, text: &str, source: &Path) {
        let is_kernel =
            |l: &str| l.starts_with("savedcmd_") && l.contains(" -D__KERNEL__ ") && l.contains(" -DKBUILD_MODNAME=");
        if !text.lines().any(is_kernel) {
            return;
        }
        let files: BTreeSet<PathBuf> = text
            .split_whitespace()
            .filter_map(|word| Path::new(word).strip_prefix(source).ok())
            .filter(|path| path.extension().is_some_and(|e| e == "c" || e == "h"))
            .map(clean)
            .collect();
        self.count += 1;
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "c")) {
            self.reads.entry(file.clone()).or_default().extend(files.iter().cloned());
        }
    }
}

/// `a/../b.h` is `b.h`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that another one includes is part of the kernel as well; a build's helper is not.
    #[test]
    fn cmd_files() {
        let mut units = Units::default();
        let text = "savedcmd_k/b.o := gcc -D__KERNEL__ -c -DKBUILD_MODNAME='\"b\"' -o k/b.o /s/k/b.c\n\n\
                    source_k/b.o := /s/k/b.c\n\ndeps_k/b.o := \\\n  /s/k/x/../core.c \\\n  /s/include/a.h \\\n  include/gen.h \\\n";
        units.add(text, Path::new("/s"));
        units.add("savedcmd_h.o := gcc -c -o h.o /s/h.c\n", Path::new("/s"));
        assert_eq!(units.count, 1);
        assert_eq!(units.reads.keys().collect::<Vec<_>>(), [Path::new("k/b.c"), Path::new("k/core.c")]);
        assert!(units.reads[Path::new("k/core.c")].contains(Path::new("include/a.h")));
    }
}
