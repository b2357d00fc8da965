//! An object's debug information with its relocations applied.
//!
//! In: an object compiled with `-g`. Out: sections that `gimli` can read. An address in it is a place in a section:
//! [`address`] gives every section four gigabytes of its own, so that code in different sections never meets.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use gimli::{Dwarf, EndianSlice, RunTimeEndian};

use crate::elf::object::{Section, shf};
use crate::elf::{Object, Place, SectionId};

/// What `gimli` reads from.
pub(super) type Slice<'d> = EndianSlice<'d, RunTimeEndian>;

/// The debug sections of an object, ready to be read.
pub(super) struct Debug {
    sections: BTreeMap<String, Vec<u8>>,
    endian: RunTimeEndian,
    /// Of each section of the object, whether what lies there can be written, and stays.
    keeps: Vec<bool>,
}

/// The address that debug information has for a place in a section.
pub(super) fn address(section: SectionId, offset: u64) -> u64 {
    ((section.index() as u64 + 1) << 32) + offset
}

impl Debug {
    /// The object's debug information; `None` when it has none.
    pub(super) fn read(object: &Object) -> Result<Option<Debug>> {
        if object.section_named(".debug_info").is_none() {
            return Ok(None);
        }
        let mut sections = BTreeMap::new();
        for section in object.sections.iter().filter(|section| section.name.starts_with(".debug_")) {
            let mut data = section.data.clone();
            for reloc in &section.relocs {
                let Some(width) = width(object.e_machine, reloc.r_type)? else { continue };
                let value = match reloc.symbol.map(|id| object.symbol(id)) {
                    None => 0,
                    Some(symbol) => match symbol.place {
                        Place::Section(id) if object.section(id).name.starts_with(".debug_") => symbol.st_value,
                        Place::Section(id) => address(id, symbol.st_value),
                        _ => 0,
                    },
                };
                let value = value.wrapping_add_signed(reloc.r_addend);
                let at = reloc.r_offset as usize;
                let field = data.get_mut(at..at.saturating_add(width));
                let field = field.with_context(|| format!("`{}` relocates past its end", section.name))?;
                if object.little_endian {
                    field.copy_from_slice(&value.to_le_bytes()[..width]);
                } else {
                    field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
                }
            }
            sections.insert(section.name.clone(), data);
        }
        let endian = if object.little_endian { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let keeps = |section: &Section| section.sh_flags & shf::WRITE != 0 && !section.name.starts_with(".init");
        Ok(Some(Debug { sections, endian, keeps: object.sections.iter().map(keeps).collect() }))
    }

    /// Whether what lies at an address can be written, and stays.
    pub(super) fn keeps(&self, address: u64) -> bool {
        let section = usize::try_from(address >> 32).ok().and_then(|section| section.checked_sub(1));
        section.and_then(|section| self.keeps.get(section)).is_some_and(|keeps| *keeps)
    }

    /// What `gimli` makes of it.
    pub(super) fn dwarf(&self) -> Dwarf<Slice<'_>> {
        let section = |id: gimli::SectionId| -> Result<Slice<'_>, gimli::Error> {
            Ok(EndianSlice::new(self.sections.get(id.name()).map_or(&[], Vec::as_slice), self.endian))
        };
        Dwarf::load(section).unwrap_or_else(|error: gimli::Error| unreachable!("nothing fails above: {error}"))
    }
}

/// Bytes of a relocated field; `None` for the null relocation. The kinds that assemblers use in debug sections.
fn width(e_machine: u16, r_type: u32) -> Result<Option<usize>> {
    const X86_64: u16 = 62;
    const AARCH64: u16 = 183;
    Ok(match (e_machine, r_type) {
        (_, 0) => None,
        // R_X86_64_64, R_X86_64_DTPOFF64; R_AARCH64_ABS64.
        (X86_64, 1 | 17) | (AARCH64, 257) => Some(8),
        // R_X86_64_32, R_X86_64_32S; R_AARCH64_ABS32.
        (X86_64, 10 | 11) | (AARCH64, 258) => Some(4),
        _ => bail!("relocation type {r_type} in debug information of machine {e_machine} is not known"),
    })
}
