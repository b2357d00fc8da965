//! Bytes -> where in the file its data lies, for what is changed in place.
//!
//! What holds code is left out, and what is not in memory: debug information, symbol names.

use std::ops::Range;

use object::read::{Object, ObjectSection};
use object::{SectionFlags, elf};

/// The file ranges of the sections with data, constants and strings; nothing for what is not an object.
pub fn data_ranges(bytes: &[u8]) -> Vec<Range<usize>> {
    let Ok(file) = object::File::parse(bytes) else { return Vec::new() };
    let range = |section: object::Section<'_, '_>| {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { return None };
        let is_data = sh_flags.0 & elf::SHF_ALLOC.0 != 0 && sh_flags.0 & elf::SHF_EXECINSTR.0 == 0;
        let (start, size) = section.file_range().filter(|_| is_data)?;
        let range = start as usize..start.checked_add(size)? as usize;
        bytes.get(range.clone()).is_some().then_some(range)
    };
    file.sections().filter_map(range).collect()
}
