//! The model of a relocatable ELF file: sections with their relocations, symbols, in file order.
//!
//! Field names are the ELF specification's. What the model adds has an English name. Symbol and
//! section string tables, the symbol table and the relocation sections themselves are not sections
//! here: they are implied by the contents and made anew when an object is written. Livepatch
//! relocation sections (`SHF_RELA_LIVEPATCH`) *are* kept apart, since they must not be mixed with
//! the ordinary ones of the same target.

use super::{SectionId, SymbolId};

/// A relocatable object, or a kernel module, which is one too.
#[derive(Debug, Clone, Default)]
pub struct Object {
    /// `e_machine`.
    pub e_machine: u16,
    /// `e_flags`.
    pub e_flags: u32,
    /// Whether the file is 64-bit.
    pub is_64: bool,
    /// Whether the file is little endian.
    pub little_endian: bool,
    /// All sections that carry contents of their own, in file order.
    pub sections: Vec<Section>,
    /// Whether the file has section groups (COMDAT), which the model does not keep.
    pub has_groups: bool,
    /// All symbols but the null symbol, in file order (locals first).
    pub symbols: Vec<Symbol>,
}

/// A section and the relocations that apply to it.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Name, as text; kernel section names are ASCII.
    pub name: String,
    /// `sh_type`.
    pub sh_type: u32,
    /// `sh_flags`.
    pub sh_flags: u64,
    /// `sh_size`, also for sections without bytes in the file (`SHT_NOBITS`).
    pub sh_size: u64,
    /// `sh_addralign`.
    pub sh_addralign: u64,
    /// `sh_entsize`.
    pub sh_entsize: u64,
    /// `sh_info`, kept as it is; relocation sections, whose `sh_info` is an index, are not sections here.
    pub sh_info: u32,
    /// The section that `sh_link` names, where it names one (`SHF_LINK_ORDER`).
    pub link: Option<SectionId>,
    /// Contents; empty for `SHT_NOBITS`.
    pub data: Vec<u8>,
    /// Ordinary relocations of this section, by offset as the file has them.
    pub relocs: Vec<Reloc>,
    /// Livepatch relocations of this section: (object name, relocations).
    pub klp_relocs: Vec<(String, Vec<Reloc>)>,
}

/// One relocation with addend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloc {
    /// Offset of the field in its section.
    pub r_offset: u64,
    /// Machine-specific type.
    pub r_type: u32,
    /// What it refers to; `None` is the null symbol (R_*_NONE).
    pub symbol: Option<SymbolId>,
    /// Constant part of the value.
    pub r_addend: i64,
}

/// Where a symbol is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `SHN_UNDEF`.
    Undefined,
    /// `SHN_ABS`.
    Absolute,
    /// `SHN_COMMON`.
    Common,
    /// `SHN_LIVEPATCH` (include/uapi/linux/elf.h): resolved by the livepatch core.
    Livepatch,
    /// In a section, at `st_value`.
    Section(SectionId),
}

/// A symbol table entry.
#[derive(Debug, Clone)]
pub struct Symbol {
    /// Name; a section symbol has its section's name.
    pub name: String,
    /// `st_value`.
    pub st_value: u64,
    /// `st_size`.
    pub st_size: u64,
    /// STT_*.
    pub st_type: u8,
    /// STB_*.
    pub st_bind: u8,
    /// `st_other`.
    pub st_other: u8,
    /// Where it is.
    pub place: Place,
    /// The STT_FILE symbol that a local symbol follows.
    pub file: Option<SymbolId>,
}

impl Object {
    /// The section with this id.
    pub fn section(&self, id: SectionId) -> &Section {
        &self.sections[id.index()]
    }

    /// The symbol with this id.
    pub fn symbol(&self, id: SymbolId) -> &Symbol {
        &self.symbols[id.index()]
    }

    /// Ids of all sections, in file order.
    pub fn section_ids(&self) -> impl Iterator<Item = SectionId> + use<> {
        (0..self.sections.len() as u32).map(SectionId)
    }

    /// Ids of all symbols, in file order.
    pub fn symbol_ids(&self) -> impl Iterator<Item = SymbolId> + use<> {
        (0..self.symbols.len() as u32).map(SymbolId)
    }

    /// The first section of this name.
    pub fn section_named(&self, name: &str) -> Option<SectionId> {
        self.section_ids().find(|id| self.section(*id).name == name)
    }
}

/// `st_type` values (ELF gABI).
pub mod stt {
    /// No type.
    pub const NOTYPE: u8 = 0;
    /// Data.
    pub const OBJECT: u8 = 1;
    /// Code.
    pub const FUNC: u8 = 2;
    /// A section's own symbol.
    pub const SECTION: u8 = 3;
    /// The name of a source file.
    pub const FILE: u8 = 4;
}

/// `st_bind` values (ELF gABI).
pub mod stb {
    /// Seen in its own file only.
    pub const LOCAL: u8 = 0;
    /// Seen everywhere.
    pub const GLOBAL: u8 = 1;
    /// Global, may be overridden or missing.
    pub const WEAK: u8 = 2;
}

/// `sh_type` values (ELF gABI).
pub mod sht {
    /// Contents defined by the program.
    pub const PROGBITS: u32 = 1;
    /// Notes.
    pub const NOTE: u32 = 7;
    /// No bytes in the file.
    pub const NOBITS: u32 = 8;
}

/// `sh_flags` values (ELF gABI).
pub mod shf {
    /// Writable at run time.
    pub const WRITE: u64 = 1;
    /// Takes memory at run time.
    pub const ALLOC: u64 = 2;
    /// Holds instructions.
    pub const EXECINSTR: u64 = 4;
    /// Elements may be merged.
    pub const MERGE: u64 = 0x10;
    /// Elements are NUL-terminated texts.
    pub const STRINGS: u64 = 0x20;
    /// Ordering follows the section in `sh_link`.
    pub const LINK_ORDER: u64 = 0x80;
}
