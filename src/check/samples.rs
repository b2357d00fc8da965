//! Parts of modules that tests make: names and bytes in, what a file would hold out.

use crate::elf::object::stb;
use crate::elf::{Place, Section, Symbol};
use crate::error::Refusal;

/// Symbols that a module asks the kernel for.
pub(super) fn undefined(names: &[&str]) -> Vec<Symbol> {
    let symbol = |name: &&str| Symbol {
        name: (*name).to_owned(),
        st_value: 0,
        st_size: 0,
        st_type: 0,
        st_bind: stb::GLOBAL,
        st_other: 0,
        place: Place::Undefined,
        file: None,
    };
    names.iter().map(symbol).collect()
}

/// A section with contents.
pub(super) fn section(name: &str, data: &[u8]) -> Section {
    Section { name: name.to_owned(), data: data.to_vec(), sh_size: data.len() as u64, ..Section::default() }
}

/// Refusals as people see them.
pub(super) fn said(refusals: &[Refusal]) -> Vec<String> {
    refusals.iter().map(ToString::to_string).collect()
}
