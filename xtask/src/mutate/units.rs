//! A built kernel -> its C units with the commands that made them, and a compile of an edited unit with such a command.
//!
//! The second opinion must not depend on how klp-build compiles: the edited text goes to the compiler on its standard
//! input, under the name of the file. Nothing is written to the tree.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use super::object::Object;
use crate::kernel::Kernel;

/// A C file and how kbuild compiled it.
pub struct Unit {
    /// Relative to the source tree.
    pub source: PathBuf,
    /// The shell command, for a text on standard input and an object on `$OUT`.
    command: String,
}

/// Directories whose code is not in the kernel's image or its modules.
const ELSEWHERE: &[&str] = &[
    "arch/x86/boot/",
    "arch/x86/entry/vdso/",
    "arch/x86/realmode/",
    "arch/x86/purgatory/",
    "arch/x86/tools/",
    "drivers/firmware/efi/libstub/",
    "scripts/",
    "tools/",
    "usr/",
    "init/version",
];

/// All units of the kernel, in order.
pub fn all(kernel: &Kernel) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for entry in WalkDir::new(&kernel.objdir).sort_by_file_name().into_iter().flatten() {
        let name = entry.file_name().to_string_lossy();
        if !name.ends_with(".o.cmd") {
            continue;
        }
        let text =
            fs::read_to_string(entry.path()).with_context(|| format!("failed to read `{}`", entry.path().display()))?;
        units.extend(unit(kernel, &text));
    }
    // One file can be compiled for two objects; once is enough.
    units.sort_by(|a, b| a.source.cmp(&b.source));
    units.dedup_by(|a, b| a.source == b.source);
    if units.is_empty() {
        bail!("failed to find a compiled unit in `{}`", kernel.objdir.display());
    }
    Ok(units)
}

fn unit(kernel: &Kernel, text: &str) -> Option<Unit> {
    let (_, command) = text.lines().next()?.split_once(" := ")?;
    // objtool follows the compile on some kernels.
    let command = command.split(" ; ").next()?.trim();
    let (compile, path) = command.rsplit_once(' ')?;
    let source = Path::new(path).strip_prefix(&kernel.source).ok()?;
    let spelled = source.to_str()?;
    let ours = spelled.ends_with(".c") && command.contains(" -D__KERNEL__") && command.contains(" -DKBUILD_MODNAME=");
    if !ours || ELSEWHERE.iter().any(|dir| spelled.starts_with(dir)) {
        return None;
    }
    let (compile, _) = compile.rsplit_once(" -c -o ")?;
    let words = compile.split(' ').filter(|word| !word.starts_with("-Wp,-MMD") && !word.starts_with("-Wp,-MD"));
    let compile = words.collect::<Vec<_>>().join(" ");
    let dir = kernel.source.join(source.parent()?);
    let command =
        format!("{compile} -ffunction-sections -fdata-sections -iquote '{}' -x c -c -o \"$OUT\" -", dir.display());
    Some(Unit { source: source.to_path_buf(), command })
}

impl Unit {
    /// Compiles this text in the unit's place; `None` when the compiler does not take it.
    pub fn compile(&self, kernel: &Kernel, text: &[u8], work: &Path) -> Result<Option<Object>> {
        let out = work.join("second-opinion.o");
        let what = || format!("failed to compile `{}`", self.source.display());
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .current_dir(&kernel.objdir)
            .env("OUT", &out)
            .env("TMPDIR", work)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(what)?;
        let mut input = child.stdin.take().with_context(what)?;
        // What is named like the file lets `__FILE__` be what it is in the kernel.
        let head = format!("# 1 \"{}\"\n", kernel.source.join(&self.source).display());
        let sent = input.write_all(head.as_bytes()).and_then(|()| input.write_all(text));
        drop(input);
        let status = child.wait().with_context(what)?;
        if !status.success() || sent.is_err() {
            return Ok(None);
        }
        Object::read(&fs::read(&out).with_context(what)?).map(Some).with_context(what)
    }
}

/// A unified diff of two texts: one hunk, from the first line that differs to the last.
pub fn patch(path: &Path, old: &[u8], new: &[u8]) -> Vec<u8> {
    let lines = |text: &[u8]| -> Vec<Vec<u8>> { text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect() };
    let (a, b) = (lines(old), lines(new));
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let most = a.len().min(b.len()) - same;
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count().min(most);
    let from = same.saturating_sub(3);
    let after = tail.min(3);
    let (end_a, end_b) = (a.len() - tail + after, b.len() - tail + after);
    let spelled = path.display();
    let mut out = format!(
        "--- a/{spelled}\n+++ b/{spelled}\n@@ -{},{} +{},{} @@\n",
        from + 1,
        end_a - from,
        from + 1,
        end_b - from
    )
    .into_bytes();
    let mut put = |sign: u8, lines: &[Vec<u8>]| {
        for line in lines {
            out.push(sign);
            out.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                out.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    };
    put(b' ', &a[from..same]);
    put(b'-', &a[same..a.len() - tail]);
    put(b'+', &b[same..b.len() - tail]);
    put(b' ', &a[a.len() - tail..end_a]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A patch that `patch` would not take says nothing about klp-build.
    #[test]
    fn patches() {
        let path = Path::new("a.c");
        let patch =
            |old: &str, new: &str| String::from_utf8(patch(path, old.as_bytes(), new.as_bytes())).expect("ASCII");
        assert_eq!(
            patch("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n"),
            "--- a/a.c\n+++ b/a.c\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"
        );
        assert_eq!(patch("1\n2\n", "1\n1\n2\n"), "--- a/a.c\n+++ b/a.c\n@@ -1,2 +1,3 @@\n 1\n+1\n 2\n");
    }
}
