//! Names of the mirror in a compiled object -> the names that the source tree's files have.
//!
//! In: an object of the patched side. Out: the same without a trace of where it was compiled. Hard because no option asks for it: prefix
//! maps reach `__FILE__` and debug information, but the places in the source that a sanitizer's data speaks of (`-fsanitize=bounds`)
//! have the name that the file was opened by. Left alone, each function with such a check would differ from its original. Strings
//! are rewritten where they lie, and end earlier when the new name is shorter; where it would be longer, the mirror is named so that
//! both are as long ([`mirror_name`]).

use std::path::{Path, PathBuf};

use crate::elf;

/// A place for the mirror in `work`, as long as the name of the source tree if that is possible: then nothing moves.
pub(super) fn mirror_name(work: &Path, source: &Path) -> PathBuf {
    const LONGEST: usize = 200;
    let length = |path: &Path| path.as_os_str().len();
    let name = work.join("tree");
    let more = std::path::absolute(source).map_or(0, |source| length(&source)).saturating_sub(length(&name));
    work.join(format!("tree{}", "_".repeat(if more > LONGEST { 0 } else { more })))
}

/// The object with `mirror` replaced by `source` in its data; nothing when it is not named there.
pub(super) fn as_in_source(object: &[u8], mirror: &[u8], source: &[u8]) -> Option<Vec<u8>> {
    let named = memchr::memmem::find(object, mirror).is_some();
    if !named || source.len() > mirror.len() {
        return None;
    }
    let mut out = object.to_vec();
    for range in elf::data_ranges(object) {
        rename(&mut out[range], mirror, source);
    }
    Some(out)
}

/// Renames in strings, which stay where they start.
fn rename(bytes: &mut [u8], mirror: &[u8], source: &[u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&bytes[at..], mirror) {
        let start = at + found;
        let end = memchr::memchr(0, &bytes[start..]).map_or(bytes.len(), |length| start + length);
        let rest = start + mirror.len();
        let is_text = end < bytes.len() && bytes[start..end].iter().all(|byte| *byte >= b' ');
        if !is_text && source.len() < mirror.len() {
            // What moves up might be something else.
            at = rest;
            continue;
        }
        bytes[start..start + source.len()].copy_from_slice(source);
        bytes.copy_within(rest..end, start + source.len());
        bytes[end - (mirror.len() - source.len())..end].fill(0);
        at = start + source.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every string that has the name, also twice, keeps its place; what follows it does too.
    #[test]
    fn strings_keep_their_place() {
        let mut bytes = *b"\0/mirror/a.c\0x=/mirror/b.c:/mirror/c.h\0/mirror\0/mirror\x01\x02\0/mirror";
        rename(&mut bytes, b"/mirror", b"/s");
        let expected =
            b"\0/s/a.c\0\0\0\0\0\0x=/s/b.c:/s/c.h\0\0\0\0\0\0\0\0\0\0\0/s\0\0\0\0\0\0/mirror\x01\x02\0/mirror";
        assert_eq!(&bytes[..], &expected[..]);
        let mut same = *b"/mirror/a.c\0";
        rename(&mut same, b"/mirror", b"/source");
        assert_eq!(&same[..], b"/source/a.c\0");
    }

    /// As long as the source tree's name, unless that is shorter, or longer than file names can be.
    #[test]
    fn names_of_one_length() {
        let name = |source: &str| mirror_name(Path::new("/tmp/run"), Path::new(source)).display().to_string();
        assert_eq!(name("/home/somebody/linux").len(), "/home/somebody/linux".len());
        assert_eq!(name("/linux"), "/tmp/run/tree");
        assert_eq!(name(&format!("/{}", "x/".repeat(300))), "/tmp/run/tree");
    }
}
