//! Which file a module is loaded from: a directory of modules in, one file for each name out.
//!
//! Hard because one directory may hold several files of one module: a distribution's, and a newer one below `updates/` that DKMS
//! or an administrator put there. modprobe takes what `modules.dep` lists (depmod(8): one file for each name, chosen by
//! depmod.d's search order), so that decides; where there is no such list, nothing does, and both are named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::symvers::module_name;

/// Files of modules, by module name.
#[derive(Debug, Default)]
pub(super) struct ModuleFiles(HashMap<String, Vec<PathBuf>>);

impl ModuleFiles {
    /// Modules that were installed, or gathered, below a directory.
    pub(super) fn below(dir: &Path) -> ModuleFiles {
        const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
        let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let is_module = |name: &str| SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
        for entry in walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().flatten() {
            if entry.file_name().to_str().is_some_and(is_module) {
                files.entry(module_name(&entry.file_name().to_string_lossy())).or_default().push(entry.into_path());
            }
        }
        files.extend(listed(dir));
        ModuleFiles(files)
    }

    /// The modules that a build's `modules.order` lists. Lines are `fs/ext4/ext4.o` since 6.3, and `fs/ext4/ext4.ko` or
    /// `kernel/fs/ext4/ext4.ko` before. No name is listed twice (scripts/modules-check.sh).
    pub(super) fn of_build(objdir: &Path) -> Option<ModuleFiles> {
        let text = std::fs::read_to_string(objdir.join("modules.order")).ok()?;
        let file = |line: &str| {
            let stem = line.strip_suffix(".o").or_else(|| line.strip_suffix(".ko")).unwrap_or(line);
            let path = objdir.join(format!("{stem}.ko"));
            match stem.strip_prefix("kernel/") {
                Some(rest) if !path.exists() && objdir.join(format!("{rest}.ko")).exists() => {
                    objdir.join(format!("{rest}.ko"))
                }
                _ => path,
            }
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        Some(ModuleFiles(lines.map(|line| (module_name(line), vec![file(line)])).collect()))
    }

    /// Names of the modules.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The file of a module, if it has one.
    ///
    /// # Errors
    ///
    /// When there are several, and nothing says which is loaded.
    pub(super) fn file(&self, name: &str) -> Result<Option<&Path>> {
        match self.0.get(name).map_or(&[][..], Vec::as_slice) {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            [first, second, ..] => bail!(
                "failed to choose the file of module `{name}`: it may be `{}` or `{}`; name a directory with one of them, or \
                 with depmod's modules.dep, with --modules",
                first.display(),
                second.display()
            ),
        }
    }
}

/// What depmod chose: lines are `FILE: FILES IT NEEDS`, paths from the directory or from the root.
fn listed(dir: &Path) -> HashMap<String, Vec<PathBuf>> {
    let text = std::fs::read_to_string(dir.join("modules.dep")).unwrap_or_default();
    let files = text.lines().filter_map(|line| line.split_once(':')).map(|(file, _)| dir.join(file.trim()));
    files.filter(|file| file.exists()).map(|file| (module_name(&file.to_string_lossy()), vec![file])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::put;
    use super::*;

    /// A module that DKMS put over the distribution's is the one that is loaded: depmod's list says so, not the order in
    /// which a directory is read.
    #[test]
    fn depmod_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = ("extra/e1000e.ko", "kernel/drivers/net/e1000e.ko.xz");
        for chosen in [first, second] {
            put(dir.path(), first, "");
            put(dir.path(), second, "");
            put(dir.path(), "kernel/fs/ext4-x.ko", "");
            put(dir.path(), "modules.dep", format!("{chosen}: kernel/net/core.ko\nkernel/fs/gone.ko:\n"));
            let files = ModuleFiles::below(dir.path());
            assert_eq!(files.file("e1000e").unwrap(), Some(dir.path().join(chosen).as_path()));
            // What depmod has not seen yet is there all the same, and what is gone is not.
            assert_eq!(files.file("ext4_x").unwrap(), Some(dir.path().join("kernel/fs/ext4-x.ko").as_path()));
            assert_eq!(files.file("gone").unwrap(), None);
        }
    }

    /// Two files of one module and no list: both are named, and only to who asks for that module.
    #[test]
    fn two_files_without_a_list() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a/one.ko", "b/one.ko.zst", "b/two.ko"] {
            put(dir.path(), file, "");
        }
        let files = ModuleFiles::below(dir.path());
        assert!(files.file("two").unwrap().is_some());
        let text = files.file("one").unwrap_err().to_string();
        for part in ["failed to choose the file of module `one`", "a/one.ko`", "b/one.ko.zst`", "--modules"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}
