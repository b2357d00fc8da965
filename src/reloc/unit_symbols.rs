//! What a unit defines, as the kernel's symbol table is asked for it: an object file in, names, sizes and order out.

use std::collections::BTreeMap;

use crate::elf::object::{stb, stt};
use crate::elf::{Object, Place, SectionId};
use crate::kernel::locate::{UnitSymbol, UnitSymbols};
use crate::kernel::symtab::Kind;

/// What a unit defines, as the locator wants it.
pub(crate) fn unit_symbols(object: &Object) -> UnitSymbols {
    let mut unit = UnitSymbols::default();
    for symbol in &object.symbols {
        if symbol.st_type == stt::FILE && unit.file.is_empty() {
            unit.file = symbol.name.clone();
        }
        if !matches!(symbol.place, Place::Section(_)) || !matches!(symbol.st_type, stt::FUNC | stt::OBJECT) {
            continue;
        }
        let kind = if symbol.st_type == stt::FUNC { Kind::Func } else { Kind::Object };
        let weak = symbol.st_bind == stb::WEAK;
        let found = UnitSymbol { name: symbol.name.clone(), size: symbol.st_size, kind, weak };
        if symbol.st_bind == stb::LOCAL { &mut unit.locals } else { &mut unit.globals }.push(found);
    }
    unit.functions = in_link_order(object);
    unit
}

/// The functions of an object as the kernel's linker script places them: each kind of text for itself
/// (include/asm-generic/vmlinux.lds.h `TEXT_TEXT`), in the order of their sections.
fn in_link_order(object: &Object) -> Vec<Vec<String>> {
    const KINDS: [&str; 5] = [".text.unlikely", ".text.hot", ".text.startup", ".text.exit", ".text"];
    let mut placed: Vec<(SectionId, u64, &str)> = object
        .symbols
        .iter()
        .filter_map(|symbol| match symbol.place {
            Place::Section(section) if symbol.st_type == stt::FUNC => {
                Some((section, symbol.st_value, symbol.name.as_str()))
            }
            _ => None,
        })
        .collect();
    placed.sort_unstable();
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (section, _, name) in placed {
        let section = object.section(section).name.as_str();
        let kind = KINDS.into_iter().find(|kind| section.starts_with(kind)).unwrap_or(section);
        kinds.entry(kind).or_default().push(name.to_owned());
    }
    kinds.into_values().collect()
}
