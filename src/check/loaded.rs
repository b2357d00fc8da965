//! A copy of /sys/kernel/livepatch -> the livepatches that are loaded.
//!
//! In: a directory with PATCH/{enabled,replace,replace_set,transition,stack_order} and PATCH/OBJECT/FUNCTION,SYMPOS/
//! (Documentation/ABI/testing/sysfs-kernel-livepatch; `replace_set` is of kernels with replace sets). Out: peers in the order of
//! their stack. Hard because kernels differ in what they show: a missing file must not read as "no".

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::peers::{Peer, Scope};
use crate::inspect::{Function, PatchedObject};
use crate::kernel::abi;

/// Reads the directory; `has` is how this kernel says what a livepatch replaces.
///
/// # Errors
///
/// When it is not such a directory.
pub fn read(dir: &Path, has: abi::Replace) -> Result<Vec<Peer>> {
    let mut found = Vec::new();
    for path in directories(dir)? {
        let name = name(&path);
        if !path.join("enabled").is_file() {
            bail!("`{}` is no copy of /sys/kernel/livepatch: `{name}` has no file `enabled`", dir.display());
        }
        found.push((number(&path, "stack_order")?.unwrap_or(u64::MAX), patch(&path, has)?));
    }
    found.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    Ok(found.into_iter().map(|(_, peer)| peer).collect())
}

fn patch(path: &Path, has: abi::Replace) -> Result<Peer> {
    let replace = number(path, "replace")?;
    let set = match (number(path, "replace_set")?, has) {
        (Some(set), _) => Some(set),
        // Without a file of its own, the set is what `replace` shows.
        (None, abi::Replace::Set) => replace,
        (None, _) => None,
    };
    let scope = match (set, replace) {
        (Some(set), _) => u32::try_from(set).map_or(Scope::Unknown, Scope::Set),
        (None, Some(0)) => Scope::Nothing,
        (None, Some(_)) => Scope::Everything,
        (None, None) => Scope::Unknown,
    };
    let mut objects = Vec::new();
    for object in directories(path)? {
        let mut functions = Vec::new();
        for function in directories(&object)? {
            let text = name(&function);
            let parsed = text.rsplit_once(',').and_then(|(name, position)| Some((name, position.parse().ok()?)));
            let Some((function, sympos)) = parsed else {
                bail!("`{}` is no function of a livepatch: its name is not NAME,POSITION", function.display());
            };
            functions.push(Function { function: function.to_owned(), sympos, code: None });
        }
        objects.push(PatchedObject { name: name(&object), functions, callbacks: Vec::new() });
    }
    let in_transition = number(path, "transition")?.is_some_and(|value| value != 0);
    Ok(Peer { name: name(path), scope, objects: Some(objects), states: None, in_transition })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The directories in a directory, by name.
fn directories(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("failed to read the directory `{}`", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read the directory `{}`", dir.display()))?.path();
        // In sysfs itself a module's directory may be a link.
        if path.is_dir() && !path.is_symlink() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The number in a file, if there is such a file.
fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    let path = dir.join(file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("failed to read `{}`", path.display())),
    };
    let value = text.trim().parse();
    value.map(Some).with_context(|| format!("failed to understand `{}`: `{}`", path.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(files: &[(&str, &str)], functions: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for function in functions {
            fs::create_dir_all(dir.path().join(function)).unwrap();
        }
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    /// Sets by their own file or by `replace`, the boolean, and a kernel from before 6.11 that shows neither; by stack.
    #[test]
    fn what_kernels_show() {
        let dir = copy(
            &[
                ("z/enabled", "1\n"),
                ("z/stack_order", "1\n"),
                ("z/replace", "7\n"),
                ("z/replace_set", "7\n"),
                ("z/transition", "0\n"),
                ("z/vmlinux/patched", "1\n"),
                ("a/enabled", "1\n"),
                ("a/stack_order", "2\n"),
                ("a/replace", "1\n"),
                ("a/transition", "1\n"),
            ],
            &["z/vmlinux/show.isra.0,2", "z/ext4/f,0"],
        );
        let peers = read(dir.path(), abi::Replace::Boolean).unwrap();
        assert_eq!(peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["z", "a"]);
        assert_eq!((peers[0].scope, peers[1].scope), (Scope::Set(7), Scope::Everything));
        assert_eq!((peers[0].in_transition, peers[1].in_transition), (false, true));
        assert!(peers[0].patches(
            "vmlinux",
            &Function { function: "show.isra.0".into(), sympos: 2, code: None },
            &|_, _| None
        ));
        assert!(peers[0].patches("ext4", &Function { function: "f".into(), sympos: 1, code: None }, &|_, _| None));
        assert_eq!(read(dir.path(), abi::Replace::Set).unwrap()[1].scope, Scope::Set(1));
        let old = copy(&[("a/enabled", "1\n")], &[]);
        assert_eq!(read(old.path(), abi::Replace::Boolean).unwrap()[0].scope, Scope::Unknown);
    }

    /// Another directory is an error, not a machine without livepatches.
    #[test]
    fn another_directory() {
        let dir = copy(&[], &["a/vmlinux"]);
        let text = format!("{:#}", read(dir.path(), abi::Replace::Boolean).unwrap_err());
        assert!(text.contains("is no copy of /sys/kernel/livepatch: `a` has no file `enabled`"), "{text}");
        let dir = copy(&[("a/enabled", "yes")], &["a/vmlinux/noposition"]);
        assert!(format!("{:#}", read(dir.path(), abi::Replace::Boolean).unwrap_err()).contains("NAME,POSITION"));
        assert!(read(&dir.path().join("none"), abi::Replace::Boolean).is_err());
    }
}
