//! File names in patch headers: quoting, time stamps, the `-p1` prefix, and names that leave the tree.
//!
//! In: the bytes after `--- `, `+++ ` or `rename from `. Out: a path relative to the kernel tree, or what
//! is wrong with it. The hard part is that nothing in the format delimits a name: git quotes odd ones,
//! GNU diff appends a tab and a time stamp, and some tools append the stamp after a blank.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A name in a header: `None` is `/dev/null`.
pub(super) struct Name {
    pub(super) path: Option<PathBuf>,
    /// The time stamp is that of the epoch: GNU diff's way to say that the file does not exist.
    pub(super) epoch: bool,
}

/// What the lines between `diff --git` and the first hunk said.
#[derive(Default)]
pub(super) struct GitHeader {
    pub(super) line: usize,
    pub(super) path: Option<PathBuf>,
    pub(super) create: bool,
    pub(super) delete: bool,
    pub(super) mode: bool,
    pub(super) rename: (Option<PathBuf>, Option<PathBuf>),
    pub(super) copy: (Option<PathBuf>, Option<PathBuf>),
}

impl GitHeader {
    /// Whether a change of `old` to `new` can be this one's; where nothing was said, any can.
    pub(super) fn is_about(&self, old: Option<&Path>, new: Option<&Path>) -> bool {
        match (&self.rename, &self.copy) {
            ((Some(from), Some(to)), _) | (_, (Some(from), Some(to))) => {
                old == Some(from.as_path()) && new == Some(to.as_path())
            }
            _ if self.create || self.delete || self.mode => {
                self.path.as_deref().is_none_or(|path| old.into_iter().chain(new).all(|name| name == path))
            }
            _ => true,
        }
    }
}

/// Reads what follows `--- ` or `+++ `.
pub(super) fn name(rest: &[u8], strip: bool) -> Result<Name, String> {
    let (raw, stamp) = split_stamp(rest)?;
    if raw == b"/dev/null" {
        return Ok(Name { path: None, epoch: true });
    }
    let stamp = String::from_utf8_lossy(&stamp);
    // The epoch in any time zone lies on one of these two days.
    let epoch = stamp.starts_with("1970-01-01") || stamp.starts_with("1969-12-31");
    Ok(Name { path: Some(tree_path(&raw, strip)?), epoch })
}

/// Splits a name from the time stamp after it.
fn split_stamp(rest: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    if rest.first() == Some(&b'"') {
        let (name, used) = unquote(rest)?;
        return Ok((name, rest[used..].trim_ascii().to_vec()));
    }
    if let Some(tab) = rest.iter().position(|&b| b == b'\t') {
        return Ok((rest[..tab].trim_ascii_end().to_vec(), rest[tab + 1..].to_vec()));
    }
    // No tab: a blank and a date, as some version control systems write it.
    for (at, window) in rest.windows(6).enumerate() {
        if window[0] == b' ' && window[1..5].iter().all(u8::is_ascii_digit) && window[5] == b'-' {
            return Ok((rest[..at].trim_ascii_end().to_vec(), rest[at + 1..].to_vec()));
        }
    }
    Ok((rest.trim_ascii_end().to_vec(), Vec::new()))
}

/// Undoes git's quoting (core.quotePath); also says how many bytes the quoted form took.
fn unquote(text: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let bad = || format!("bad quoting in file name {}", String::from_utf8_lossy(text));
    let mut out = Vec::new();
    let mut at = 1;
    loop {
        match *text.get(at).ok_or_else(bad)? {
            b'"' => return Ok((out, at + 1)),
            b'\\' => {
                let escaped = *text.get(at + 1).ok_or_else(bad)?;
                at += 2;
                out.push(match escaped {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => escaped,
                    b'0'..=b'3' => {
                        let digits = text.get(at - 1..at + 2).ok_or_else(bad)?;
                        at += 2;
                        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
                        u8::from_str_radix(digits, 8).map_err(|_| bad())?
                    }
                    _ => return Err(bad()),
                });
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// A path relative to the kernel tree; `strip` takes the first component off (`-p1`).
pub(super) fn tree_path(raw: &[u8], strip: bool) -> Result<PathBuf, String> {
    let text = String::from_utf8_lossy(raw).into_owned();
    let given = Path::new(OsStr::from_bytes(raw));
    if given.is_absolute() {
        return Err(format!("`{text}` is an absolute path; a patch names files relative to the kernel tree"));
    }
    let mut path = PathBuf::new();
    let mut skip = usize::from(strip);
    for component in given.components() {
        match component {
            Component::CurDir if skip > 0 => skip -= 1,
            Component::CurDir => {}
            Component::Normal(_) if skip > 0 => skip -= 1,
            Component::Normal(part) => path.push(part),
            _ => return Err(format!("`{text}` leaves the kernel tree")),
        }
    }
    if path.as_os_str().is_empty() {
        return Err(format!("`{text}` has no directory to strip; make the patch with a/ and b/ prefixes (-p1)"));
    }
    if path.starts_with(".git") {
        return Err(format!("`{text}` lies in the version control's own directory"));
    }
    Ok(path)
}

/// What follows `rename from `, `copy to ` and the like: never prefixed, maybe quoted.
pub(super) fn bare(rest: &[u8]) -> Result<PathBuf, String> {
    if rest.first() == Some(&b'"') {
        tree_path(&unquote(rest)?.0, false)
    } else {
        tree_path(rest.trim_ascii_end(), false)
    }
}

/// The one path of a `diff --git a/X b/X` line; needed only where no `---`/`+++` follows.
pub(super) fn git_line(rest: &[u8]) -> Option<PathBuf> {
    if rest.first() == Some(&b'"') {
        return tree_path(&unquote(rest).ok()?.0, true).ok();
    }
    // Both halves name the same file, so the line splits in the middle, whatever blanks are in it.
    let rest = rest.trim_ascii_end();
    let half = rest.len() / 2;
    if rest.get(half) != Some(&b' ') {
        return None;
    }
    let (old, new) = (tree_path(&rest[..half], true).ok()?, tree_path(&rest[half + 1..], true).ok()?);
    (old == new).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<String> {
        name(text.as_bytes(), true).unwrap().path.map(|path| path.display().to_string())
    }

    /// Time stamps after names, in the forms that diff tools write, are not part of the name.
    #[test]
    fn stamps() {
        assert_eq!(path("a/fs/x.c\t2026-01-02 10:00:00.000000000 +0100").as_deref(), Some("fs/x.c"));
        assert_eq!(path("a/fs/x.c 2026-01-02 10:00:00").as_deref(), Some("fs/x.c"));
        assert_eq!(path("linux-6.1.orig/fs/x.c").as_deref(), Some("fs/x.c"));
        assert_eq!(path("./fs/x.c").as_deref(), Some("fs/x.c"));
        assert_eq!(path("/dev/null"), None);
        assert!(name(b"b/fs/x.c\t1970-01-01 01:00:00.000000000 +0100", true).unwrap().epoch);
    }

    /// git's quoted names come out as the bytes they stand for.
    #[test]
    fn quoting() {
        assert_eq!(path(r#""a/fs/\303\251\t\".c""#).as_deref(), Some("fs/\u{e9}\t\".c"));
        assert!(name(br#""a/fs/x"#, true).is_err());
        assert!(name(br#""a/\9""#, true).is_err());
        assert_eq!(git_line(b"a/my file.c b/my file.c").unwrap(), Path::new("my file.c"));
        assert_eq!(git_line(b"a/x.c b/y.c"), None);
    }

    /// A path that leaves the tree is caught whatever its form.
    #[test]
    fn escapes() {
        for bad in ["a/../../etc/passwd", "/etc/passwd", "a/fs/../x.c", "../x.c", "x.c", "a/.git/config", ""] {
            assert!(name(bad.as_bytes(), true).is_err(), "{bad}");
        }
    }
}
