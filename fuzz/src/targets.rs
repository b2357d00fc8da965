//! What each fuzz target does with an input, without the engine: tests/fuzz.rs does the same with what the engine starts from.
//!
//! In: bytes. Out: whether the input got to the end; a panic is a finding. Memory and time are the engine's to watch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use klp_build::diff::{self, closure};
use klp_build::elf::{self, Object};
use klp_build::emit::patch_object;
use klp_build::kernel::cmd::CmdFile;
use klp_build::kernel::image::Image;
use klp_build::kernel::symvers::Symvers;
use klp_build::kernel::{kallsyms_image, text_table};
use klp_build::patch;
use klp_build::reloc::indirect::Gate;
use klp_build::reloc::{self, World};

/// The text of a kbuild `.cmd` file -> commands and dependencies.
pub fn cmd(text: &str) -> bool {
    let Ok(file) = CmdFile::parse(text) else { return false };
    file.compile();
    file.objtool();
    true
}

/// Bytes -> object -> bytes -> object: no input crashes the reader, and what it accepts survives being written.
pub fn elf(bytes: &[u8]) -> bool {
    let Ok(object) = elf::read(bytes) else { return false };
    // What the writer refuses is no loss: it says so. What it writes must be the same.
    let Ok(written) = elf::write(&object) else { return false };
    let again = elf::read(&written).expect("what was written can be read");
    if !object.has_groups {
        assert_eq!(format!("{again:?}"), format!("{object:?}"));
    }
    true
}

/// A kernel's symbols: the text of System.map or /proc/kallsyms, or the tables inside an image.
pub fn kallsyms(bytes: &[u8]) -> bool {
    let mut is_table = false;
    if let Ok(text) = std::str::from_utf8(bytes) {
        is_table = text_table::parse(text).is_ok();
    }
    // A packed image may be as large as it says: only plain ones are bounded by their size.
    if bytes.starts_with(b"\x7fELF")
        && let Ok(image) = Image::parse(bytes.to_vec())
    {
        is_table |= kallsyms_image::read_table(&image).is_ok();
    }
    is_table
}

/// A patch -> hunks -> applied to the text it expects -> that text with its line numbers kept.
pub fn patch(bytes: &[u8]) -> bool {
    let Ok(files) = patch::parse(bytes, "fuzz.patch") else { return false };
    patch::screen(files.iter().map(|f| f.path.as_path()));
    // The old side of all hunks of a file, one after the other, is a file that they can apply to.
    let mut texts: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for file in &files {
        let text = texts.entry(file.path.clone()).or_default();
        file.hunks.iter().flat_map(|h| h.old()).for_each(|line| text.extend_from_slice(&line.text));
    }
    let Ok(applied) = patch::apply(&files, |path| Ok(texts.get(path).cloned())) else { return false };
    for file in &applied.files {
        if let (Some(original), Some(patched)) = (&file.original, &file.patched) {
            patch::keep_line_numbers(original, patched);
        }
    }
    true
}

/// The text of a Module.symvers -> exports.
pub fn symvers(text: &str) -> bool {
    Symvers::parse(text).is_ok()
}

/// The original's length in four bytes, the original, and the patched object, if both can be read.
pub fn pair(bytes: &[u8]) -> Option<(Object, Object)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (original, patched) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((elf::read(original).ok()?, elf::read(patched).ok()?))
}

/// Two objects -> verdicts -> closure -> references -> patch object -> bytes -> the same patch object.
pub fn emit(original: &Object, patched: &Object) -> bool {
    let Ok(diff) = diff::diff(original, patched, diff::Options::default()) else { return false };
    let symvers = Symvers::default();
    let world = World {
        object: "vmlinux",
        symvers: &symvers,
        vmlinux: None,
        own: None,
        depends: &BTreeSet::new(),
        theirs: &BTreeMap::new(),
        new_globals: &diff.new_global_names(),
        gate: Gate::of_object(original),
    };
    let closure = closure::closure(&diff);
    let resolved = reloc::resolve(&diff, &closure, &world);
    let patch = patch_object::build(&diff, &closure, &resolved);
    let refused = [&diff.refusals, &closure.refusals, &resolved.refusals, &patch.refusals];
    if refused.iter().any(|r| !r.is_empty()) {
        return false;
    }
    assert!(resolved.account.adds_up(), "{:?}", resolved.account);
    // A name with a NUL, say, cannot be written; whatever can must be read as what it was.
    let Ok(written) = elf::write(&patch.object) else { return false };
    let again = elf::read(&written).expect("what was written can be read");
    assert_eq!(again.sections.len(), patch.object.sections.len());
    assert_eq!(again.symbols.len(), patch.object.symbols.len());
    true
}
