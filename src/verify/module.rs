//! A module's file, loaded: sections get addresses, relocations are applied, as kernel/module/main.c does.
//!
//! In: the file's model. Out: flat memory and a symbol table with addresses. Symbols of other objects get
//! addresses of their own, far apart, so that no offset from one can be taken for another.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::entries;
use super::loaded::Memory;
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, SectionId, SymbolId};
use crate::kernel::symtab::{Binding, KernelSymbol, Kind, SymbolTable};

/// Where the kernel puts modules (Documentation/arch/x86/x86_64/mm.rst): absolute 32-bit relocations fit there.
const BASE: u64 = 0xffff_ffff_c000_0000;
/// Distance between symbols of other objects.
const APART: u64 = 0x4000;

/// Sections with their addresses, in ascending order.
pub(super) struct Flat(Vec<(u64, Vec<u8>)>);

impl Memory for Flat {
    fn from(&self, address: u64) -> Option<&[u8]> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        let (start, bytes) = self.0.get(after.checked_sub(1)?)?;
        bytes.get((address - start) as usize..).filter(|rest| !rest.is_empty())
    }
}

/// Loads a module file.
pub(super) fn load(file: &Object) -> Result<(Flat, SymbolTable)> {
    let mut next = BASE;
    let mut bases: HashMap<SectionId, u64> = HashMap::new();
    for id in file.section_ids() {
        let section = file.section(id);
        if section.sh_flags & shf::ALLOC != 0 {
            let align = section.sh_addralign.max(1).next_power_of_two();
            next = next.next_multiple_of(align);
            bases.insert(id, next);
            // A gap, so that the end of one section is not the start of the next.
            next += section.sh_size + 64;
        }
    }
    let (symbols, files, addresses) = symbols(file, &bases, next.next_multiple_of(APART));
    let mut pieces = Vec::new();
    let mut extra = Vec::new();
    for id in file.section_ids() {
        let (section, Some(base)) = (file.section(id), bases.get(&id)) else { continue };
        let mut data = section.data.clone();
        for reloc in &section.relocs {
            let target = reloc.symbol.map_or(0, |s| addresses[s.index()]);
            let value = target.wrapping_add_signed(reloc.r_addend);
            let size = match reloc.r_type {
                0 => continue,
                1 | 24 => 8,
                2 | 4 | 10 | 11 => 4,
                other => bail!("failed to load section `{}`: relocation type {other} is not known", section.name),
            };
            let relative = matches!(reloc.r_type, 2 | 4 | 24);
            let value = if relative { value.wrapping_sub(base + reloc.r_offset) } else { value };
            let at = reloc.r_offset as usize;
            let field = data.get_mut(at..at + size).context("failed to load a module: a relocation lies outside")?;
            field.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        // The linker script of vmlinux has these names; in a module the section itself is the table.
        let names = match section.name.as_str() {
            "__mcount_loc" => Some(("__start_mcount_loc", "__stop_mcount_loc")),
            ".ibt_endbr_seal" => Some(("__ibt_endbr_seal", "__ibt_endbr_seal_end")),
            other => entries::bounds(other),
        };
        if let Some((first, last)) = names {
            extra.push(symbol(first, *base, None, Binding::Global, Kind::Other));
            extra.push(symbol(last, base + section.sh_size, None, Binding::Global, Kind::Other));
        }
        pieces.push((*base, data));
    }
    Ok((Flat(pieces), SymbolTable::new(symbols.into_iter().chain(extra).collect(), files)))
}

/// The symbols, and the address of each by its index in the file.
fn symbols(
    file: &Object,
    bases: &HashMap<SectionId, u64>,
    mut next: u64,
) -> (Vec<KernelSymbol>, Vec<String>, Vec<u64>) {
    let mut outside: HashMap<&str, u64> = HashMap::new();
    let (mut symbols, mut files, mut addresses) = (Vec::new(), Vec::<String>::new(), Vec::new());
    for id in (0..file.symbols.len() as u32).map(SymbolId) {
        let s = file.symbol(id);
        let binding = match s.st_bind {
            stb::LOCAL => Binding::Local,
            stb::WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        let kind = match s.st_type {
            stt::FUNC => Kind::Func,
            stt::OBJECT => Kind::Object,
            _ => Kind::Other,
        };
        if s.st_type == stt::FILE {
            files.push(s.name.clone());
        }
        let address = match s.place {
            Place::Section(section) => bases.get(&section).map_or(0, |base| base + s.st_value),
            Place::Absolute => s.st_value,
            _ if s.name.is_empty() => 0,
            _ => *outside.entry(&s.name).or_insert_with(|| {
                next += APART;
                next
            }),
        };
        addresses.push(address);
        let loaded = !matches!(s.place, Place::Section(section) if !bases.contains_key(&section));
        if loaded && !s.name.is_empty() && !matches!(s.st_type, stt::FILE | stt::SECTION) {
            let mut found = symbol(&s.name, address, Some(s.st_size), binding, kind);
            found.file = (binding == Binding::Local && !files.is_empty()).then(|| files.len() as u32 - 1);
            symbols.push(found);
        }
    }
    (symbols, files, addresses)
}

fn symbol(name: &str, address: u64, size: Option<u64>, binding: Binding, kind: Kind) -> KernelSymbol {
    KernelSymbol { name: name.to_owned(), address, size, binding, kind, file: None, init: false, section: None }
}
