//! [`Object`] -> bytes, in exactly the order the model has: sections, each followed by its relocation
//! sections, then symbol and string tables. Symbol order is kept, since livepatch relocations and the
//! loader's copy of the symbol table both count on it; locals must already come first.

use anyhow::{Result, bail};
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, Rel, SectionHeader, SectionIndex, Sym, Writer};

use super::klp::{self, SHF_RELA_LIVEPATCH, SHN_LIVEPATCH};
use super::object::{Object, Place, Reloc, sht, stb, stt};
use super::read::LARGEST;

/// One relocation section to be written.
struct RelaSection<'o> {
    name: String,
    livepatch: bool,
    target: usize,
    relocs: &'o [Reloc],
}

/// Writes the object as a relocatable ELF file.
///
/// # Errors
///
/// When a local symbol follows a global one, the file would not be valid ELF, or [`super::read`] would not take it: an
/// absolute symbol of the input may have any value, and it becomes an addend.
pub fn write(object: &Object) -> Result<Vec<u8>> {
    let locals = object.symbols.iter().take_while(|s| s.st_bind == stb::LOCAL).count();
    if let Some(late) = object.symbols[locals..].iter().find(|s| s.st_bind == stb::LOCAL) {
        bail!("local symbol `{}` comes after a global one", late.name);
    }
    let mut relas = Vec::new();
    for (target, section) in object.sections.iter().enumerate() {
        if !section.relocs.is_empty() {
            let name = format!(".rela{}", section.name);
            relas.push(RelaSection { name, livepatch: false, target, relocs: &section.relocs });
        }
        for (owner, relocs) in &section.klp_relocs {
            let name = klp::rela_section_name(owner, &section.name);
            relas.push(RelaSection { name, livepatch: true, target, relocs });
        }
    }

    for rela in &relas {
        if let Some(bad) = rela.relocs.iter().find(|r| r.r_addend.unsigned_abs() > LARGEST) {
            bail!("section `{}` would have an addend that cannot be, {:#x}", rela.name, bad.r_addend);
        }
    }

    let mut out = Vec::new();
    let endian = if object.little_endian { Endianness::Little } else { Endianness::Big };
    let mut w = Writer::new(endian, object.is_64, &mut out);

    // Indices and names.
    w.reserve_null_section_index();
    let section_names: Vec<_> = object.sections.iter().map(|s| w.add_section_name(s.name.as_bytes())).collect();
    let section_indices: Vec<SectionIndex> = object.sections.iter().map(|_| w.reserve_section_index()).collect();
    let rela_names: Vec<_> = relas.iter().map(|r| w.add_section_name(r.name.as_bytes())).collect();
    relas.iter().for_each(|_| {
        w.reserve_section_index();
    });
    let symtab = w.reserve_symtab_section_index();
    w.reserve_null_symbol_index();
    let mut symbol_names = Vec::with_capacity(object.symbols.len());
    for symbol in &object.symbols {
        let unnamed = symbol.st_type == stt::SECTION || symbol.name.is_empty();
        symbol_names.push(if unnamed { None } else { Some(w.add_string(symbol.name.as_bytes())) });
        let section = match symbol.place {
            Place::Section(id) => Some(section_indices[id.index()]),
            _ => None,
        };
        w.reserve_symbol_index(section);
    }
    if w.symtab_shndx_needed() {
        w.reserve_symtab_shndx_section_index();
    }
    w.reserve_strtab_section_index();
    w.reserve_shstrtab_section_index();

    // Places in the file.
    w.reserve_file_header();
    let mut offsets = Vec::with_capacity(object.sections.len());
    for section in &object.sections {
        // In the file, an alignment is for those who map it; a large one would only make a large file.
        let align = section.sh_addralign.clamp(1, 64);
        offsets.push(if section.sh_type == sht::NOBITS {
            w.reserved_len()
        } else {
            w.reserve(section.data.len() as u64, align)
        });
    }
    let rela_offsets: Vec<u64> = relas.iter().map(|r| w.reserve_relocations(r.relocs.len(), true)).collect();
    w.reserve_symtab();
    w.reserve_symtab_shndx();
    w.reserve_strtab()?;
    w.reserve_shstrtab()?;
    w.reserve_section_headers();

    // Bytes.
    w.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_REL,
        e_machine: elf::Machine(object.e_machine),
        e_entry: 0,
        e_flags: elf::FileFlags(object.e_flags),
    })?;
    for (section, offset) in object.sections.iter().zip(&offsets) {
        if section.sh_type != sht::NOBITS {
            w.pad_until(*offset);
            w.write(&section.data);
        }
    }
    for rela in &relas {
        w.write_align_relocation();
        for r in rela.relocs {
            w.write_relocation(
                true,
                &Rel {
                    r_offset: r.r_offset,
                    r_sym: r.symbol.map_or(0, |s| s.0 + 1),
                    r_type: elf::RelocationType(r.r_type),
                    r_addend: r.r_addend,
                },
            );
        }
    }
    w.write_null_symbol();
    for (symbol, name) in object.symbols.iter().zip(&symbol_names) {
        let (section, st_shndx) = match symbol.place {
            Place::Undefined => (None, elf::SHN_UNDEF),
            Place::Absolute => (None, elf::SHN_ABS),
            Place::Common => (None, elf::SHN_COMMON),
            Place::Livepatch => (None, elf::SymbolSection(SHN_LIVEPATCH)),
            Place::Section(id) => (Some(section_indices[id.index()].0), elf::SHN_UNDEF),
        };
        let st_name = w.string_offset(*name);
        w.write_symbol(&Sym {
            section,
            st_name,
            st_info: elf::SymbolInfo((symbol.st_bind << 4) | (symbol.st_type & 0xf)),
            st_other: elf::SymbolOther(symbol.st_other),
            st_shndx,
            st_value: symbol.st_value,
            st_size: symbol.st_size,
        });
    }
    w.write_symtab_shndx();
    w.write_strtab();
    w.write_shstrtab();

    w.write_null_section_header();
    for ((section, name), offset) in object.sections.iter().zip(&section_names).zip(&offsets) {
        let sh_name = w.section_name_offset(Some(*name));
        w.write_section_header(&SectionHeader {
            sh_name,
            sh_type: elf::SectionType(section.sh_type),
            sh_flags: elf::SectionFlags(section.sh_flags),
            sh_addr: 0,
            sh_offset: *offset,
            sh_size: section.sh_size,
            sh_link: section.link.map_or(0, |id| section_indices[id.index()].0),
            sh_info: section.sh_info,
            sh_addralign: section.sh_addralign,
            sh_entsize: section.sh_entsize,
        });
    }
    for ((rela, name), offset) in relas.iter().zip(&rela_names).zip(&rela_offsets) {
        let sh_name = w.section_name_offset(Some(*name));
        let livepatch = if rela.livepatch { elf::SHF_ALLOC.0 | SHF_RELA_LIVEPATCH } else { 0 };
        w.write_section_header(&SectionHeader {
            sh_name,
            sh_type: elf::SHT_RELA,
            sh_flags: elf::SectionFlags(elf::SHF_INFO_LINK.0 | livepatch),
            sh_addr: 0,
            sh_offset: *offset,
            sh_size: rela.relocs.len() as u64 * if object.is_64 { 24 } else { 12 },
            sh_link: symtab.0,
            sh_info: section_indices[rela.target].0,
            sh_addralign: 8,
            sh_entsize: if object.is_64 { 24 } else { 12 },
        });
    }
    w.write_symtab_section_header(locals as u32 + 1);
    w.write_symtab_shndx_section_header();
    w.write_strtab_section_header();
    w.write_shstrtab_section_header();
    drop(w);
    Ok(out)
}
