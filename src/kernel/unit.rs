//! A translation unit as kbuild compiled it, or would.

use std::path::PathBuf;

/// One C file's compile, and the kernel object that its code ends up in.
#[derive(Debug, Clone)]
pub struct Unit {
    /// kbuild's target, relative to the build directory: `fs/proc/cmdline.o`.
    pub target: PathBuf,
    /// Main source file, relative to the source tree: `fs/proc/cmdline.c`.
    pub source: PathBuf,
    /// The compiler's argument vector, as run in the build directory; nothing of it is rewritten yet.
    pub command: Vec<String>,
    /// Arguments of the objtool run that kbuild appends to the compile, where it does (before the object's name).
    pub objtool: Option<Vec<String>>,
    /// Every file the compile read, canonical form: relative to the source tree when inside it. A touched file has its own name, whatever
    /// link it was read through, and one that the patch creates is here if the compile may find it before another.
    pub deps: Vec<PathBuf>,
    /// `vmlinux`, or the name of the module (as in /proc/modules, with underscores).
    pub object: String,
}
