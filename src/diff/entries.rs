//! How long an entry of a special section is, and whose entry it is.
//!
//! In: an object and a special section. Out: the entry size in bytes, or nothing when the section does
//! not tile: an entry that is cut in the wrong place is worse than a refusal.

use super::special::{self, Rule};
use crate::elf::object::shf;
use crate::elf::{Object, Place, Reloc, SectionId};

/// The entry size of a table about code.
pub fn size(object: &Object, id: SectionId) -> Option<u64> {
    let section = object.section(id);
    let per_entry = match special::rule(&section.name)? {
        Rule::CodeTable(per_entry) => per_entry,
        Rule::RuntimeConst => 1,
        _ => return None,
    };
    let total = section.sh_size;
    let relocs: Vec<&Reloc> = {
        let mut all: Vec<&Reloc> = section.relocs.iter().filter(|r| r.r_type != 0).collect();
        all.sort_by_key(|r| r.r_offset);
        all
    };
    if relocs.is_empty() {
        return None;
    }
    if section.sh_entsize > 1 {
        return tiles(&relocs, total, section.sh_entsize).then_some(section.sh_entsize);
    }
    let count = if per_entry > 0 {
        let count = count_of(&relocs) / u64::from(per_entry);
        if !count_of(&relocs).is_multiple_of(u64::from(per_entry)) {
            return None;
        }
        count
    } else {
        relocs.iter().filter(|r| points_to_code(object, r)).count() as u64
    };
    if count == 0 || !total.is_multiple_of(count) {
        return None;
    }
    tiles(&relocs, total, total / count).then_some(total / count)
}

/// Whether each entry of this size starts with a relocation.
fn tiles(relocs: &[&Reloc], total: u64, size: u64) -> bool {
    total.is_multiple_of(size)
        && (0..total / size).all(|i| relocs.binary_search_by_key(&(i * size), |r| r.r_offset).is_ok())
}

fn count_of(relocs: &[&Reloc]) -> u64 {
    relocs.len() as u64
}

fn points_to_code(object: &Object, reloc: &Reloc) -> bool {
    reloc.symbol.is_some_and(|s| match object.symbol(s).place {
        Place::Section(id) => object.section(id).sh_flags & shf::EXECINSTR != 0,
        _ => false,
    })
}
