//! The linked module -> the livepatch module: relocations against livepatch symbols move to their own sections.
//!
//! In: the module as kbuild linked it and the plan's link names. Out: the same module with
//! `.klp.rela.<object>.<section>` sections and `SHN_LIVEPATCH` symbols, in the form that
//! Documentation/livepatch/module-elf-format.rst describes. BTF is left out: it describes the module
//! by section numbers, and no livepatch needs it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};

use super::plan::LinkName;
use crate::elf::object::{shf, stb};
use crate::elf::{Object, Place, Reloc, SectionId, SymbolId};

/// Turns a linked module into a livepatch module.
///
/// # Errors
///
/// When a planned symbol is missing or defined, or is used where the loader would not look.
pub fn finish(mut module: Object, link_names: &BTreeMap<String, LinkName>) -> Result<Object> {
    let mut owner: HashMap<SymbolId, &LinkName> = HashMap::new();
    for id in module.symbol_ids() {
        let symbol = &mut module.symbols[id.index()];
        let Some(link) = link_names.get(&symbol.name) else { continue };
        match symbol.place {
            Place::Undefined => {
                symbol.name = link.symbol.to_name();
                symbol.place = Place::Livepatch;
                symbol.st_bind = stb::GLOBAL;
                owner.insert(id, link);
            }
            _ => bail!("`{}` should be undefined in the linked module and is not", symbol.name),
        }
    }
    if owner.len() != link_names.len() {
        let found: Vec<String> = owner.values().map(|l| l.symbol.to_name()).collect();
        let missing: Vec<String> =
            link_names.values().map(|l| l.symbol.to_name()).filter(|n| !found.contains(n)).collect();
        bail!("the linked module has lost the symbols {}", missing.join(", "));
    }
    for section in &mut module.sections {
        let (livepatch, ordinary): (Vec<Reloc>, Vec<Reloc>) = std::mem::take(&mut section.relocs)
            .into_iter()
            .partition(|r| r.symbol.is_some_and(|s| owner.contains_key(&s)));
        section.relocs = ordinary;
        if livepatch.is_empty() {
            continue;
        }
        if section.sh_flags & shf::ALLOC == 0 {
            bail!("section `{}` is not loaded but refers to livepatch symbols", section.name);
        }
        let mut by_object: BTreeMap<&str, Vec<Reloc>> = BTreeMap::new();
        for reloc in livepatch {
            let link = owner[&reloc.symbol.expect("partitioned by its symbol")];
            by_object.entry(&link.rela_object).or_default().push(reloc);
        }
        section.klp_relocs = by_object.into_iter().map(|(object, relocs)| (object.to_owned(), relocs)).collect();
    }
    remove_btf(&mut module);
    Ok(module)
}

/// Empties `.BTF` sections in place and drops them, with the section symbols that named them.
fn remove_btf(module: &mut Object) {
    let gone: Vec<SectionId> = module.section_ids().filter(|id| module.section(*id).name.starts_with(".BTF")).collect();
    if gone.is_empty() {
        return;
    }
    let mut moved: Vec<Option<SectionId>> = Vec::new();
    let mut next = 0;
    for id in module.section_ids() {
        let keep = !gone.contains(&id);
        moved.push(keep.then_some(SectionId(next)));
        next += u32::from(keep);
    }
    let mut i = 0;
    module.sections.retain(|_| {
        i += 1;
        moved[i - 1].is_some()
    });
    for section in &mut module.sections {
        section.link = section.link.and_then(|id| moved[id.index()]);
    }
    let mut symbol_moved = Vec::new();
    let mut next = 0;
    for symbol in &mut module.symbols {
        let keep = match symbol.place {
            Place::Section(id) => moved[id.index()].is_some_and(|new| {
                symbol.place = Place::Section(new);
                true
            }),
            _ => true,
        };
        symbol_moved.push(keep.then_some(SymbolId(next)));
        next += u32::from(keep);
    }
    let mut i = 0;
    module.symbols.retain(|_| {
        i += 1;
        symbol_moved[i - 1].is_some()
    });
    for section in &mut module.sections {
        let klp = section.klp_relocs.iter_mut().flat_map(|(_, relocs)| relocs);
        for reloc in section.relocs.iter_mut().chain(klp) {
            reloc.symbol = reloc.symbol.and_then(|s| symbol_moved[s.index()]);
        }
    }
}
