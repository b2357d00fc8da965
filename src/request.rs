//! Flags -> a checked request. Nothing after this sees a raw flag.
//!
//! In: what was typed. Out: a [`Request`] whose patches exist and whose module name the kernel can load.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::elf::klp::MAX_OBJECT_NAME;
use crate::kernel::KernelRequest;
use crate::patch::Problems;

/// What the module replaces, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Nothing was said: set 1 where the kernel has sets, everything where it has the boolean.
    Default,
    /// `--replace-set N`.
    Set(u32),
    /// `--no-replace`.
    Nothing,
}

/// A checked request to build a livepatch.
#[derive(Debug, Clone)]
pub struct Request {
    /// Patches, in the order in which they apply.
    pub patches: Vec<PathBuf>,
    /// Which kernel.
    pub kernel: KernelRequest,
    /// Module name, without `.ko`.
    pub name: String,
    /// Where the module goes.
    pub output: PathBuf,
    /// What it replaces.
    pub replace: Replace,
    /// Jobs at a time.
    pub jobs: usize,
    /// Put before each compile.
    pub launcher: Vec<String>,
    /// Keep the private work directory.
    pub keep_tmp: bool,
    /// Do not check the compiled originals against the kernel's image.
    pub no_verify: bool,
    /// Find the source lines of the first differences.
    pub explain: bool,
    /// Let changed constant tables travel with every function that reads them.
    pub carry_tables: bool,
    /// Types whose layout may change: `struct foo`, or only `foo`.
    pub allow_layout_change: Vec<String>,
    /// Note where each reference goes.
    pub debug: bool,
    /// Stop when it is known what would be in the module, and make none.
    pub no_link: bool,
    /// Key and certificate to sign with, in place of the kernel's own.
    pub sign: Option<(PathBuf, PathBuf)>,
}

impl Request {
    /// Checks what concerns the patches, the output (a directory for each of several kernels) and the key.
    ///
    /// # Errors
    ///
    /// All problems at once.
    pub fn check(&self, several: bool) -> Result<()> {
        let mut problems = Vec::new();
        for patch in &self.patches {
            // Also a pipe is a patch: `<(git show)`.
            if patch.is_dir() {
                problems.push(format!("failed to read the patch `{}`: it is a directory", patch.display()));
            } else if patch.as_os_str() != "-" && !patch.exists() {
                problems.push(format!("failed to find the patch `{}`", patch.display()));
            }
        }
        if !several && self.output.is_dir() {
            problems.push(format!("failed to write `{}`: it is a directory", self.output.display()));
        }
        if let Some((key, certificate)) = &self.sign {
            // The kernel's tool also takes a key by its PKCS #11 address.
            let is_address = key.to_str().is_some_and(|key| key.starts_with("pkcs11:"));
            for (path, what) in [(Some(key).filter(|_| !is_address), "key"), (Some(certificate), "certificate")] {
                if let Some(path) = path.filter(|path| !path.is_file()) {
                    problems.push(format!("failed to find the {what} `{}` to sign with", path.display()));
                }
            }
        }
        if let Some(parent) = self.output.parent().filter(|p| !p.as_os_str().is_empty())
            && !parent.is_dir()
        {
            problems.push(format!("failed to find the output directory `{}`", parent.display()));
        }
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems).into()) }
    }
}

/// Module name and path of the module: from `-o`, else from the patches' names.
///
/// # Errors
///
/// When `-o` does not name a `.ko` file.
pub fn name_module(patches: &[PathBuf], output: Option<&Path>) -> Result<(String, PathBuf)> {
    if let Some(output) = output {
        let stem = output.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".ko"));
        let Some(stem) = stem.filter(|s| !s.is_empty()) else {
            let shown = output.display();
            bail!("failed to name the module: `{shown}` is not NAME.ko");
        };
        return Ok((clean(stem), output.to_path_buf()));
    }
    let base = match patches {
        [one] if !is_stream(one) => one.file_stem().and_then(|s| s.to_str()).unwrap_or("patch").to_owned(),
        _ => "patch".to_owned(),
    };
    let name = clean(&format!("livepatch-{base}"));
    let path = PathBuf::from(format!("{name}.ko"));
    Ok((name, path))
}

/// A name the kernel can load: letters, digits, `-` and `_`, not longer than MODULE_NAME_LEN allows.
fn clean(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    name.chars().map(legal).take(MAX_OBJECT_NAME).collect()
}

/// Standard input and what a shell makes of `<(git show)` (`/dev/fd/63`): their names say nothing of what is in them.
fn is_stream(patch: &Path) -> bool {
    patch == Path::new("-")
        || patch == Path::new("/dev/stdin")
        || patch.starts_with("/dev/fd")
        || patch.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects module names: what the kernel cannot load is never made.
    #[test]
    fn names() {
        let of = |patch: &str| name_module(&[PathBuf::from(patch)], None).unwrap().0;
        assert_eq!(of("dir/fix a.b.patch"), "livepatch-fix-a-b");
        assert_eq!(of(&format!("{}.patch", "x".repeat(80))).len(), MAX_OBJECT_NAME);
        assert_eq!([of("-"), of("/dev/fd/63"), of("/dev/stdin")], ["livepatch-patch"; 3]);
        assert_eq!(of("/dev/shm/fix.patch"), "livepatch-fix");
        assert!(name_module(&[], Some(Path::new("/tmp/.ko"))).is_err());
        assert_eq!(name_module(&[], Some(Path::new("/tmp/my.ko"))).unwrap().0, "my");
        assert!(name_module(&[], Some(Path::new("/tmp/my.o"))).is_err());
    }
}
