//! The finished module, read back from its bytes and held against the plan and the loader's rules.
//!
//! In: the module's bytes, the plan, the kernel's exports. Out: a refusal for each rule it breaks
//! (kernel/livepatch/core.c, arch/x86/kernel/module.c). Works on what a loader would see, not on what
//! the earlier stages meant.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::plan::{Plan, static_call_key};
use crate::elf::klp::{self, KlpSymbol};
use crate::elf::object::{stb, stt};
use crate::elf::{self, Object, Place, SectionId};
use crate::error::{Reason, Refusal};
use crate::kernel::symvers::Symvers;
use crate::reloc::indirect::has_hash;

/// Values of one key of a module's `.modinfo`.
pub fn modinfo<'m>(module: &'m Object, key: &'m str) -> impl Iterator<Item = String> + 'm {
    let data = module.sections.iter().find(|s| s.name == ".modinfo").map_or(&[][..], |s| &s.data);
    data.split(|b| *b == 0).filter_map(move |entry| {
        let text = std::str::from_utf8(entry).ok()?;
        let (found, value) = text.split_once('=')?;
        (found == key && !value.is_empty()).then(|| value.to_owned())
    })
}

/// Checks a finished module.
///
/// # Errors
///
/// When the bytes are not a module at all.
pub fn check(bytes: &[u8], plan: &Plan, symvers: &Symvers) -> Result<Vec<Refusal>> {
    let module = elf::read(bytes).context("failed to read the finished module back")?;
    let mut refusals = rules(&module);
    refusals.extend(static_calls(&module, symvers));
    let mut broken = |message: String| refusals.push(rule(message));
    // Nothing planned is missing, nothing unplanned is there.
    let planned: BTreeSet<String> = plan.link_names.values().map(|l| l.symbol.to_name()).collect();
    let found: BTreeSet<String> =
        module.symbols.iter().filter(|s| s.place == Place::Livepatch).map(|s| s.name.clone()).collect();
    for name in planned.symmetric_difference(&found) {
        broken(format!("livepatch symbol `{name}` is in the plan or in the module, but not in both"));
    }
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Undefined && !s.name.is_empty()) {
        let exported = symvers.get(&symbol.name).is_some_and(|e| e.object == "vmlinux");
        if !exported && symbol.st_bind != stb::WEAK && !symbol.name.starts_with("__this_module") {
            broken(format!("`{}` is undefined in the module and no export of the kernel", symbol.name));
        }
    }
    for section in &module.sections {
        for (offset, bytes) in livepatch_fields(&module, section) {
            if bytes.iter().any(|b| *b != 0) {
                broken(format!("`{}` at {offset:#x} is to be relocated at load and is not zero", section.name));
            }
        }
    }
    if modinfo(&module, "livepatch").next().as_deref() != Some("Y") {
        broken("the module does not say that it is a livepatch".to_owned());
    }
    Ok(refusals)
}

/// The rules that need nothing but the module.
pub fn rules(module: &Object) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for section in &module.sections {
        for (object, relocs) in &section.klp_relocs {
            if object.len() > klp::MAX_OBJECT_NAME || object.contains('.') {
                refusals.push(rule(format!("the loader cannot read the object name `{object}`")));
            }
            for reloc in relocs {
                let symbol = reloc.symbol.map(|s| module.symbol(s));
                let parsed = symbol.filter(|s| s.place == Place::Livepatch).and_then(|s| KlpSymbol::parse(&s.name));
                match parsed {
                    None => refusals.push(rule(format!(
                        "a livepatch relocation of `{}` uses `{}`, which is no livepatch symbol",
                        section.name,
                        symbol.map_or("no symbol", |s| &s.name)
                    ))),
                    // kernel/livepatch/core.c klp_resolve_symbols: vmlinux symbols only in vmlinux sections.
                    Some(found) if found.object == "vmlinux" && object != "vmlinux" => refusals.push(rule(format!(
                        "`{}` of vmlinux is used in a relocation section of module `{object}`",
                        found.name
                    ))),
                    Some(found) => {
                        if let Some(why) = found.unloadable() {
                            refusals.push(rule(why));
                        }
                    }
                }
            }
        }
        let stray = section.relocs.iter().filter_map(|r| r.symbol).find(|s| {
            let symbol = module.symbol(*s);
            symbol.place == Place::Livepatch
        });
        if let Some(stray) = stray {
            refusals.push(rule(format!(
                "`{}` is used by an ordinary relocation of `{}`",
                module.symbol(stray).name,
                section.name
            )));
        }
    }
    refusals
}

/// Refuses static call sites that name the trampoline of an exported key: the kernel has no way back from it to the key, and
/// does not load the module (kernel/static_call_inline.c, `static_call_add_module`).
pub fn static_calls(module: &Object, symvers: &Symvers) -> Vec<Refusal> {
    let sites = module.sections.iter().filter(|section| section.name == ".static_call_sites");
    let named = sites.flat_map(|section| &section.relocs).filter_map(|r| Some(&module.symbol(r.symbol?).name));
    let without_key = named.filter(|name| static_call_key(name).is_some_and(|key| symvers.get(&key).is_some()));
    let names: BTreeSet<&String> = without_key.collect();
    let message = |name| {
        format!("a static call site names `{name}` and not its key, which this kernel exports: it would not load")
    };
    names.into_iter().map(|name| rule(message(name)).symbol(name)).collect()
}

/// Refuses a module with a function that has no ORC data: the kernel could not tell which functions a task is
/// in, and a transition would never end (Documentation/arch/x86/orc-unwinder.rst).
pub fn unwindable(module: &Object) -> Vec<Refusal> {
    let ip = module.sections.iter().find(|s| s.name == ".orc_unwind_ip");
    let table = module.sections.iter().find(|s| s.name == ".orc_unwind");
    let mut known: BTreeMap<SectionId, BTreeMap<u64, bool>> = BTreeMap::new();
    if let (Some(ip), Some(table)) = (ip, table) {
        for reloc in &ip.relocs {
            let Some(symbol) = reloc.symbol.map(|s| module.symbol(s)) else { continue };
            let Place::Section(section) = symbol.place else { continue };
            // struct orc_entry: two offsets, then sp_reg in the low four bits; 0 means that nothing is known.
            let entry = (reloc.r_offset / 4 * ORC_ENTRY + 4) as usize;
            let defined = table.data.get(entry).is_some_and(|byte| byte & 0xf != 0);
            let at = symbol.st_value.wrapping_add_signed(reloc.r_addend);
            known.entry(section).or_default().insert(at, defined);
        }
    }
    let mut refusals = Vec::new();
    for symbol in module.symbols.iter().filter(|s| s.st_type == stt::FUNC && s.st_size > 0) {
        let Place::Section(section) = symbol.place else { continue };
        // The data begins where a function does; padding before it has none.
        let found = known.get(&section).and_then(|entries| entries.range(..=symbol.st_value).next_back());
        let padding = symbol.name.starts_with("__pfx_") || symbol.name.starts_with("__cfi_");
        if !padding && !found.is_some_and(|(_, defined)| *defined) {
            refusals.push(rule(format!("`{}` of the module has no unwind data", symbol.name)).symbol(&symbol.name));
        }
    }
    refusals
}

/// Refuses a function with a hash of its type, so many bytes before it, that `.cfi_sites` does not list where the module has such a
/// list: its load would not give it the kernel's other hash, and a call by its address would stop the kernel
/// (arch/x86/kernel/alternative.c, `cfi_rand_preamble`).
pub fn hashes(module: &Object, before: u64) -> Vec<Refusal> {
    let Some(sites) = module.sections.iter().find(|s| s.name == ".cfi_sites") else { return Vec::new() };
    let place = |r: &elf::Reloc| {
        let symbol = module.symbol(r.symbol?);
        let Place::Section(section) = symbol.place else { return None };
        Some((section, symbol.st_value.wrapping_add_signed(r.r_addend)))
    };
    let listed: BTreeSet<(SectionId, u64)> = sites.relocs.iter().filter_map(place).collect();
    let functions = || module.symbols.iter().filter(|s| s.st_type == stt::FUNC && !s.name.starts_with("__cfi_"));
    // The end of a function may look like a hash, before the padding that the next one has in any case.
    let is_code = |place: Place, at: u64| {
        functions().any(|f| f.place == place && at.checked_sub(f.st_value).is_some_and(|offset| offset < f.st_size))
    };
    let mut refusals = Vec::new();
    for symbol in functions() {
        let Place::Section(section) = symbol.place else { continue };
        let Some(at) = symbol.st_value.checked_sub(before) else { continue };
        let preceding = module.section(section).data.get(..symbol.st_value as usize);
        let is_hash = preceding.is_some_and(|bytes| has_hash(bytes, before)) && !is_code(symbol.place, at);
        if is_hash && !listed.contains(&(section, at)) {
            refusals.push(rule(format!("the hash of `{}` is not in `.cfi_sites`", symbol.name)).symbol(&symbol.name));
        }
    }
    refusals
}

/// Bytes of a struct orc_entry (arch/x86/include/asm/orc_types.h).
const ORC_ENTRY: u64 = 6;

fn rule(message: String) -> Refusal {
    Refusal::new(Reason::FormatRule, message, "this is a defect of klp-build: please report it with the patch")
}

/// Bytes of each field that a livepatch relocation will write.
fn livepatch_fields<'m>(module: &Object, section: &'m elf::Section) -> impl Iterator<Item = (u64, &'m [u8])> {
    let arch = crate::diff::arch::of(module);
    section.klp_relocs.iter().flat_map(|(_, relocs)| relocs).filter_map(move |r| {
        let size = arch?.field_size(r.r_type)?;
        let at = r.r_offset as usize;
        Some((r.r_offset, section.data.get(at..at + size as usize)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{Section, Symbol, SymbolId};

    /// A hash that the module's list leaves out is refused; without a list nothing gives out others.
    #[test]
    fn hash_without_entry() {
        let in_text = |name: &str, st_value, st_type| Symbol {
            name: name.to_owned(),
            st_value,
            st_size: 2,
            st_type,
            st_bind: stb::LOCAL,
            st_other: 0,
            place: Place::Section(SectionId(0)),
            file: None,
        };
        let mut text = vec![0x90; 0x70];
        text[..5].copy_from_slice(&[0xb8, 1, 2, 3, 4]);
        text[0x18..0x1d].copy_from_slice(&[0xba, 1, 2, 3, 4]);
        text[0x38..0x40].copy_from_slice(&[0xb8, 1, 0, 0, 0, 0x5d, 0xc3, 0x90]);
        text[0x4f..0x55].copy_from_slice(&[0xeb, 0xbc, 0xcc, 0xcc, 0xcc, 0xcc]);
        let site = elf::Reloc { r_offset: 0, r_type: 2, symbol: Some(SymbolId(0)), r_addend: 0 };
        let section = |name: &str, data, relocs| Section { name: name.to_owned(), data, relocs, ..Section::default() };
        let mut module = Object {
            sections: vec![section(".text", text, vec![]), section(".cfi_sites", vec![0; 4], vec![site])],
            symbols: vec![
                in_text("", 0, stt::SECTION),
                in_text("listed", 0x10, stt::FUNC),
                in_text("forgotten", 0x28, stt::FUNC),
                in_text("without", 0x38, stt::FUNC),
                in_text("behind code that looks alike", 0x48, stt::FUNC),
                in_text("jump", 0x4f, stt::FUNC),
                in_text("behind a jump that cannot be told by its bytes", 0x60, stt::FUNC),
            ],
            ..Object::default()
        };
        let messages: Vec<String> = hashes(&module, 16).into_iter().map(|r| r.message).collect();
        assert_eq!(messages, ["the hash of `forgotten` is not in `.cfi_sites`"]);
        module.sections.pop();
        assert!(hashes(&module, 16).is_empty());
    }
}
