//! A private copy of the source tree that costs no copying: links, with the touched files replaced.
//!
//! In: the tree and the touched files' new contents. Out: a directory that looks like the patched tree. Each
//! directory on the way to a touched file is real, its other entries are links into the tree. Hard
//! because a path through a link to a directory leaves the mirror: `fs/linked/../x.h` is the *original* x.h. A
//! compile that reads it would miss the patch without a word. So what a compile has read is checked, and the
//! directories on such a path are made real; a path that cannot be repaired is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The mirror of one run.
pub struct Mirror {
    root: PathBuf,
    source: PathBuf,
    touched: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Directories, relative, that are real ones in the mirror.
    real: BTreeSet<PathBuf>,
    /// Canonical paths of the touched files' originals, where they exist.
    originals: BTreeSet<PathBuf>,
}

impl Mirror {
    /// Makes the mirror of `source` in `root`, which must not exist. `touched`: contents by path relative to the
    /// source, `None` for a file that is gone.
    pub fn create(root: &Path, source: &Path, touched: BTreeMap<PathBuf, Option<Vec<u8>>>) -> Result<Mirror> {
        let what = || format!("failed to mirror `{}`", source.display());
        let source = fs::canonicalize(source).with_context(what)?;
        fs::create_dir_all(root).with_context(what)?;
        let root = fs::canonicalize(root).with_context(what)?;
        let originals = touched.keys().filter_map(|path| fs::canonicalize(source.join(path)).ok()).collect();
        let mut mirror = Mirror { root, source, touched, real: BTreeSet::new(), originals };
        mirror.make_real(Path::new("")).with_context(what)?;
        let paths: Vec<PathBuf> = mirror.touched.keys().cloned().collect();
        for path in &paths {
            mirror.make_real(path.parent().unwrap_or(Path::new(""))).with_context(what)?;
            // Files that the tree does not have were not met while its directories were read.
            if let Some(Some(text)) = mirror.touched.get(path) {
                fs::write(mirror.root.join(path), text).with_context(what)?;
            }
        }
        Ok(mirror)
    }

    /// Where it is: a canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a directory and all above it real.
    fn make_real(&mut self, dir: &Path) -> Result<()> {
        let mut prefix = PathBuf::new();
        self.populate(&prefix)?;
        for part in dir.components() {
            prefix.push(part);
            self.populate(&prefix)?;
        }
        Ok(())
    }

    fn populate(&mut self, dir: &Path) -> Result<()> {
        if !self.real.insert(dir.to_path_buf()) {
            return Ok(());
        }
        let here = self.root.join(dir);
        if fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_symlink()) {
            fs::remove_file(&here)?;
        }
        fs::create_dir_all(&here)?;
        let entries = match fs::read_dir(self.source.join(dir)) {
            Ok(entries) => entries,
            // A directory that the patch creates.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to list `{}`", self.source.join(dir).display()));
            }
        };
        for entry in entries {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            match self.touched.get(&path) {
                Some(Some(text)) => fs::write(self.root.join(&path), text)?,
                Some(None) => {}
                None => symlink(self.target(&path, &entry)?, self.root.join(&path))?,
            }
        }
        Ok(())
    }

    /// What the link for an entry points to. The tree's own relative links stay what they are, so that they lead
    /// to the mirror's files; others would lead out of it.
    fn target(&self, path: &Path, entry: &fs::DirEntry) -> Result<PathBuf> {
        if entry.file_type()?.is_symlink() {
            let target = fs::read_link(entry.path())?;
            let dir = path.parent().unwrap_or(Path::new(""));
            if target.is_relative() && lexical(&dir.join(&target)).is_some() {
                return Ok(target);
            }
        }
        Ok(self.source.join(path))
    }

    /// Makes the directories real that a path inside the tree, relative to it, leaves by `..`: behind a link to one there is nothing of what
    /// the patch creates.
    pub fn make_way(&mut self, path: &Path) -> Result<()> {
        let parts: Vec<Component> = path.components().collect();
        for at in (1..parts.len()).filter(|at| parts[*at] == Component::ParentDir) {
            let Some(dir) = lexical(&parts[..at].iter().collect::<PathBuf>()) else { continue };
            if self.source.join(&dir).is_dir() {
                self.make_real(&dir).with_context(|| format!("failed to mirror `{}`", dir.display()))?;
            }
        }
        Ok(())
    }

    /// The dependencies, absolute or relative to `cwd`, that are originals of touched files.
    pub fn misses(&self, cwd: &Path, deps: &[PathBuf]) -> Vec<PathBuf> {
        let missed = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|path| self.originals.contains(&path));
        deps.iter().map(|dep| cwd.join(dep)).filter(missed).collect()
    }

    /// Makes the directories real through which a compile left the mirror on its way to `dep`.
    pub fn repair(&mut self, dep: &Path) -> Result<()> {
        let fail =
            || format!("failed to keep `{}` inside the mirror: the compile reads the unpatched file", dep.display());
        let Ok(inside) = dep.strip_prefix(&self.root).map(Path::to_path_buf) else { bail!(fail()) };
        // What is left of the path, last component first, and where it has led so far. A link loop ends it.
        let words = |path: &Path| path.iter().rev().map(|part| part.to_os_string()).collect::<Vec<_>>();
        let mut rest = words(&inside);
        let mut here = PathBuf::new();
        let mut steps = 0;
        while let Some(part) = rest.pop() {
            steps += 1;
            if steps > 4096 {
                bail!(fail());
            }
            if part == ".." {
                if !here.pop() {
                    bail!(fail());
                }
                continue;
            }
            here.push(&part);
            let Ok(target) = fs::read_link(self.root.join(&here)) else { continue };
            if target == self.source.join(&here) {
                if fs::metadata(&target).is_ok_and(|meta| meta.is_dir()) {
                    self.make_real(&here.clone()).with_context(fail)?;
                }
            } else if target.is_relative() {
                here.pop();
                rest.extend(words(&target));
            } else {
                bail!(fail());
            }
        }
        if !self.misses(&self.root, &[dep.to_path_buf()]).is_empty() {
            bail!(fail());
        }
        Ok(())
    }
}

/// A relative path without `..`, if it does not lead out.
fn lexical(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::Normal(part) => out.push(part),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [("a/x.h", "old"), ("a/sub/y.c", "y"), ("b/z.c", "z"), ("b/gone.c", "g"), ("top.c", "t")] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink("../a", dir.path().join("b/alias")).unwrap();
        dir
    }

    fn mirror(source: &Path, root: &Path) -> Mirror {
        let touched = [("a/x.h", Some("new")), ("b/gone.c", None), ("n/new.c", Some("n"))];
        let touched = touched.map(|(path, text)| (PathBuf::from(path), text.map(|text| text.as_bytes().to_vec())));
        Mirror::create(&root.join("m"), source, touched.into()).unwrap()
    }

    /// Touched files are replaced, new ones there, gone ones gone, all others what they are in the tree.
    #[test]
    fn looks_patched() {
        let (tree, work) = (tree(), tempfile::tempdir().unwrap());
        let mirror = mirror(tree.path(), work.path());
        let read = |path: &str| fs::read_to_string(mirror.root().join(path)).ok();
        assert_eq!(read("a/x.h").as_deref(), Some("new"));
        assert_eq!(read("b/alias/x.h").as_deref(), Some("new"), "a link of the tree's own leads to the mirror");
        assert_eq!(read("b/z.c").as_deref(), Some("z"));
        assert_eq!(read("n/new.c").as_deref(), Some("n"));
        assert_eq!(read("b/gone.c"), None);
        assert_eq!(fs::read_to_string(tree.path().join("a/x.h")).unwrap(), "old");
        assert!(tree.path().join("b/gone.c").exists() && !tree.path().join("n").exists());
    }

    /// Nothing of what the patch creates is behind a link; with the directory real, it is there.
    #[test]
    fn way_to_what_is_created() {
        let (tree, work) = (tree(), tempfile::tempdir().unwrap());
        let mut mirror = mirror(tree.path(), work.path());
        let through = mirror.root().join("a/sub/../../n/new.c");
        assert!(!through.exists(), "the danger is real");
        for path in ["a/sub/../../n", "nowhere/../n", "../x/..", "n"] {
            mirror.make_way(Path::new(path)).unwrap();
        }
        assert_eq!(fs::read_to_string(&through).unwrap(), "n");
        assert!(!mirror.root().join("nowhere").exists());
    }

    /// A path through a linked directory reaches the original; it is noticed, and repaired.
    #[test]
    fn miss_and_repair() {
        let (tree, work) = (tree(), tempfile::tempdir().unwrap());
        let mut mirror = mirror(tree.path(), work.path());
        let through = mirror.root().join("a/sub/../x.h");
        assert_eq!(fs::read_to_string(&through).unwrap(), "old", "the danger is real");
        let root = mirror.root().to_path_buf();
        assert_eq!(mirror.misses(&root, &["a/x.h".into(), "a/sub/../x.h".into()]), std::slice::from_ref(&through));
        mirror.repair(&through).unwrap();
        assert_eq!(fs::read_to_string(&through).unwrap(), "new");
        assert!(mirror.repair(&tree.path().join("a/x.h")).is_err(), "a path outside the mirror cannot be repaired");
    }
}
