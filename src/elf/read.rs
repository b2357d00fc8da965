//! Bytes -> [`Object`]. Refuses what the model cannot keep, so that nothing is lost on the way.
//!
//! The high-level reader of the ELF crate chains all relocation sections of one target, which would
//! mix livepatch relocations with ordinary ones; this reads the section headers themselves.

use std::cell::Cell;

use anyhow::{Context, Result, bail};
use object::elf;
use object::read::elf::{FileHeader, Rela, SectionHeader, Sym};
use object::{Endianness, SymbolIndex};

use super::klp::{self, SHF_RELA_LIVEPATCH, SHN_LIVEPATCH};
use super::object::{Object, Place, Reloc, Section, Symbol, stt};
use super::{SectionId, SymbolId};
use crate::elf::id::HashMap;

type Header = elf::FileHeader64<Endianness>;

/// More than any kernel has: what is below can be added up a few times without an overflow.
pub(super) const LARGEST: u64 = 1 << 56;

/// The kernel aligns nothing in an object to more than its largest page in a linear mapping's tables, 2 MiB; some room.
const LARGEST_ALIGNMENT: u64 = 1 << 24;

/// Reads a relocatable 64-bit ELF object or a kernel module.
///
/// # Errors
///
/// When the bytes are not such a file, are cut short, or hold something the model cannot keep.
pub fn read(bytes: &[u8]) -> Result<Object> {
    if bytes.len() < 20 || !bytes.starts_with(b"\x7fELF") {
        bail!("not an ELF file");
    }
    if bytes[4] != 2 {
        bail!("a {}-bit ELF file; only 64-bit kernels are supported", if bytes[4] == 1 { "32" } else { "non-64" });
    }
    let header = Header::parse(bytes).context("the ELF header is damaged")?;
    let endian = header.endian().context("the ELF header is damaged")?;
    if header.is_mips64el(endian) {
        bail!("its relocations have a form that only this machine has (MIPS, little endian)");
    }
    let e_type = header.e_type(endian);
    if e_type != elf::ET_REL {
        bail!("not a relocatable object or kernel module (e_type {})", e_type.0);
    }
    Reader { bytes, endian, header, left: Cell::new((bytes.len(), bytes.len().saturating_mul(4))) }.object()
}

struct Reader<'data> {
    bytes: &'data [u8],
    endian: Endianness,
    header: &'data Header,
    /// Bytes that may still be taken for contents, and for names. A damaged file can say that many sections, or names,
    /// are the same bytes, and would become as many copies; linkers let names share their ends, contents nothing.
    left: Cell<(usize, usize)>,
}

impl Reader<'_> {
    /// Counts contents and names against the file's size.
    fn take(&self, contents: usize, names: usize) -> Result<()> {
        let (contents_left, names_left) = self.left.get();
        match (contents_left.checked_sub(contents), names_left.checked_sub(names)) {
            (Some(contents), Some(names)) => self.left.set((contents, names)),
            (None, _) => bail!("its sections overlap"),
            (_, None) => bail!("its names overlap"),
        }
        Ok(())
    }

    fn object(&self) -> Result<Object> {
        let (endian, bytes) = (self.endian, self.bytes);
        let table = self.header.sections(endian, bytes).context("the section headers are damaged or cut short")?;
        let symtab = table.symbols(endian, bytes, elf::SHT_SYMTAB).context("the symbol table is damaged")?;

        let mut object = Object {
            e_machine: self.header.e_machine(endian).0,
            e_flags: self.header.e_flags(endian).0,
            is_64: true,
            little_endian: endian == Endianness::Little,
            ..Object::default()
        };
        let shstrndx = self.header.shstrndx(endian, bytes).context("the section name table is damaged")?;
        let mut ids: HashMap<usize, SectionId> = HashMap::default();
        for (index, section) in table.enumerate() {
            let name = || -> Result<String> {
                let name = table.section_name(endian, section).context("a section name is damaged")?;
                String::from_utf8(name.to_vec()).context("a section name is not text")
            };
            let sh_type = section.sh_type(endian);
            let implied = match sh_type {
                elf::SHT_NULL | elf::SHT_SYMTAB | elf::SHT_SYMTAB_SHNDX | elf::SHT_RELA => true,
                elf::SHT_STRTAB => index.0 == shstrndx as usize || index == symtab.string_section(),
                elf::SHT_GROUP => {
                    object.has_groups = true;
                    true
                }
                elf::SHT_REL => bail!("section `{}`: relocations without addend are not supported", name()?),
                _ => false,
            };
            if implied {
                continue;
            }
            let name = name()?;
            self.take(0, name.len())?;
            let (size, align) = (section.sh_size(endian), section.sh_addralign(endian));
            if size > LARGEST || section.sh_entsize(endian) > LARGEST {
                bail!("section `{name}` has a size that cannot be");
            }
            if align > LARGEST_ALIGNMENT || (align != 0 && !align.is_power_of_two()) {
                bail!("section `{name}` has an alignment that cannot be, {align:#x}");
            }
            let data = if sh_type == elf::SHT_NOBITS {
                Vec::new()
            } else {
                let data = section.data(endian, bytes).with_context(|| format!("section `{name}` is cut short"))?;
                self.take(data.len(), 0)?;
                data.to_vec()
            };
            ids.insert(index.0, SectionId(object.sections.len() as u32));
            object.sections.push(Section {
                sh_type: sh_type.0,
                sh_flags: section.sh_flags(endian).0,
                sh_size: section.sh_size(endian),
                sh_addralign: section.sh_addralign(endian),
                sh_entsize: section.sh_entsize(endian),
                sh_info: section.sh_info(endian),
                name,
                data,
                ..Section::default()
            });
        }
        for (index, section) in table.enumerate() {
            if let Some(id) = ids.get(&index.0)
                && object.section(*id).sh_flags & elf::SHF_LINK_ORDER.0 != 0
            {
                object.sections[id.index()].link = ids.get(&(section.sh_link(endian) as usize)).copied();
            }
        }
        self.symbols(&symtab, &ids, &mut object)?;
        for (_, section) in table.enumerate().filter(|(_, s)| s.sh_type(endian) == elf::SHT_RELA) {
            let name = String::from_utf8_lossy(table.section_name(endian, section).unwrap_or_default()).into_owned();
            self.relocations(section, &name, &ids, &mut object)?;
        }
        Ok(object)
    }

    fn symbols(
        &self,
        symtab: &object::read::elf::SymbolTable<'_, Header>,
        ids: &HashMap<usize, SectionId>,
        object: &mut Object,
    ) -> Result<()> {
        let endian = self.endian;
        let mut file = None;
        for (index, symbol) in symtab.enumerate().skip(1) {
            let name = symtab.symbol_name(endian, symbol).context("a symbol name is damaged")?;
            self.take(0, name.len())?;
            let mut name = String::from_utf8(name.to_vec()).context("a symbol name is not text")?;
            let place = match symbol.st_shndx(endian) {
                elf::SHN_UNDEF => Place::Undefined,
                elf::SHN_ABS => Place::Absolute,
                elf::SHN_COMMON => Place::Common,
                shndx if shndx.0 == SHN_LIVEPATCH => Place::Livepatch,
                _ => self.defined_in(symtab, symbol, index, ids).with_context(|| format!("symbol `{name}`"))?,
            };
            let st_type = symbol.st_type().0;
            if st_type == stt::SECTION {
                // It has no name of its own.
                name = match place {
                    Place::Section(id) => object.section(id).name.clone(),
                    _ => String::new(),
                };
                self.take(0, name.len())?;
            }
            let (value, size) = (symbol.st_value(endian), symbol.st_size(endian));
            let fits = match place {
                Place::Section(id) => value.checked_add(size).is_some_and(|end| end <= object.section(id).sh_size),
                Place::Common => value.max(size) <= LARGEST,
                _ => true,
            };
            if !fits {
                bail!("symbol `{name}` lies outside of its section");
            }
            let id = SymbolId(object.symbols.len() as u32);
            if st_type == stt::FILE {
                if place != Place::Absolute {
                    bail!("symbol `{name}`, which names a file, lies in a section");
                }
                file = Some(id);
            }
            let st_bind = symbol.st_bind().0;
            object.symbols.push(Symbol {
                name,
                st_value: symbol.st_value(endian),
                st_size: symbol.st_size(endian),
                st_type,
                st_bind,
                st_other: symbol.st_other().0,
                place,
                file: if st_bind == super::object::stb::LOCAL { file } else { None },
            });
        }
        Ok(())
    }

    fn defined_in(
        &self,
        symtab: &object::read::elf::SymbolTable<'_, Header>,
        symbol: &elf::Sym64<Endianness>,
        index: SymbolIndex,
        ids: &HashMap<usize, SectionId>,
    ) -> Result<Place> {
        let section = symtab.symbol_section(self.endian, symbol, index).context("its section index is damaged")?;
        let Some(section) = section else {
            bail!("its section index {:#x} is reserved and not known", symbol.st_shndx(self.endian).0);
        };
        match ids.get(&section.0) {
            Some(id) => Ok(Place::Section(*id)),
            // Section symbols of tables that are implied by the model (.symtab and the like) mean nothing.
            None if symbol.st_type() == elf::STT_SECTION => Ok(Place::Absolute),
            // Names of section groups (COMDAT), which are not kept either.
            None if symbol.st_type() == elf::STT_NOTYPE && symbol.st_value(self.endian) == 0 => Ok(Place::Absolute),
            None => bail!("it is defined in section {}, which does not exist or cannot hold symbols", section.0),
        }
    }

    fn relocations(
        &self,
        section: &elf::SectionHeader64<Endianness>,
        name: &str,
        ids: &HashMap<usize, SectionId>,
        object: &mut Object,
    ) -> Result<()> {
        let endian = self.endian;
        let Some((relas, _)) =
            section.rela(endian, self.bytes).with_context(|| format!("section `{name}` is cut short"))?
        else {
            return Ok(());
        };
        let Some(target) = ids.get(&(section.sh_info(endian) as usize)).copied() else {
            if relas.is_empty() {
                return Ok(());
            }
            bail!("section `{name}` relocates section {}, which does not exist", section.sh_info(endian));
        };
        self.take(size_of_val(relas), 0)?;
        let count = object.symbols.len();
        let mut relocs = Vec::with_capacity(relas.len());
        for rela in relas {
            let symbol = match rela.r_sym(endian, false) {
                0 => None,
                n if (n as usize) <= count => Some(SymbolId(n - 1)),
                n => bail!("section `{name}` refers to symbol {n} of {count}"),
            };
            relocs.push(Reloc {
                r_offset: rela.r_offset(endian),
                r_type: rela.r_type(endian, false).0,
                symbol,
                r_addend: rela.r_addend(endian),
            });
        }
        let size = object.section(target).sh_size;
        if let Some(bad) = relocs.iter().find(|r| r.r_offset >= size && r.r_type != 0) {
            bail!("section `{name}` relocates offset {:#x} of a section of {size:#x} bytes", bad.r_offset);
        }
        if let Some(bad) = relocs.iter().find(|r| r.r_addend.unsigned_abs() > LARGEST) {
            bail!("section `{name}` has an addend that cannot be, {:#x}", bad.r_addend);
        }
        let target = &mut object.sections[target.index()];
        if section.sh_flags(endian).0 & SHF_RELA_LIVEPATCH != 0 {
            let Some((owner, _)) = klp::parse_rela_section(name) else {
                bail!(
                    "section `{name}` is flagged as livepatch relocations but not named `.klp.rela.<object>.<section>`"
                );
            };
            target.klp_relocs.push((owner.to_owned(), relocs));
        } else {
            target.relocs.append(&mut relocs);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.a` with some bytes, `.b` with a reference to a symbol in it, `.c` without bytes.
    fn sample() -> Object {
        let section = |name: &str, sh_type, data: Vec<u8>, size| Section {
            name: name.to_owned(),
            sh_type,
            sh_flags: 2,
            sh_size: size,
            sh_addralign: 1,
            data,
            ..Section::default()
        };
        let mut b = section(".b", 1, vec![0; 16], 16);
        b.relocs.push(Reloc { r_offset: 0, r_type: 1, symbol: Some(SymbolId(0)), r_addend: 4 });
        let symbol = Symbol {
            name: "f".to_owned(),
            st_value: 0,
            st_size: 8,
            st_type: stt::OBJECT,
            st_bind: 1,
            st_other: 0,
            place: Place::Section(SectionId(0)),
            file: None,
        };
        Object {
            e_machine: 62,
            is_64: true,
            little_endian: true,
            sections: vec![section(".a", 1, vec![1; 4096], 4096), b, section(".c", 8, Vec::new(), 32)],
            symbols: vec![symbol],
            ..Object::default()
        }
    }

    fn error(object: &Object, damage: impl Fn(&mut Vec<u8>)) -> String {
        let mut bytes = super::super::write(object).expect("it can be written");
        damage(&mut bytes);
        read(&bytes).map_or_else(|error| format!("{error:#}"), |_| "no error".to_owned())
    }

    /// Protects the sums that later stages make of sizes, values and addends: what is absurd ends here.
    #[test]
    fn absurd_numbers() {
        assert_eq!(error(&sample(), |_| ()), "no error");
        type Damage = fn(&mut Object);
        let absurd: [(Damage, &str); 4] = [
            (|o| o.sections[2].sh_size = 1 << 60, "cannot be"),
            (|o| o.symbols[0].st_value = 4097, "outside of its section"),
            (|o| o.symbols[0].st_size = u64::MAX - 1, "outside of its section"),
            (|o| o.symbols[0].st_size = 4097, "outside of its section"),
        ];
        for (case, (change, expected)) in absurd.iter().enumerate() {
            let mut object = sample();
            change(&mut object);
            assert!(error(&object, |_| ()).contains(expected), "{case}");
        }
        for align in [3, 1 << 25] {
            assert!(error(&sample(), |bytes| put(bytes, 2, 0x30, align)).contains("cannot be"), "{align}");
        }
        let addend = |bytes: &mut Vec<u8>| {
            let info_and_addend = [1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
            let at = bytes.windows(16).position(|w| w == info_and_addend).expect("the relocation");
            bytes[at + 15] = 0x80;
        };
        assert!(error(&sample(), addend).contains("an addend that cannot be"));
    }

    /// A section's symbol has its section's name; the name that one without a section claims is not kept, since it would not be written.
    #[test]
    fn symbols_of_no_section() {
        let mut object = sample();
        object.symbols[0].place = Place::Absolute;
        let mut bytes = super::super::write(&object).expect("it can be written");
        let at = bytes.windows(4).position(|w| w == [0x11, 0, 0xf1, 0xff]).expect("the symbol");
        bytes[at] = 0x10 | stt::SECTION;
        let read_back = read(&bytes).expect("it is an object");
        assert_eq!((read_back.symbols[0].st_type, read_back.symbols[0].name.as_str()), (stt::SECTION, ""));
    }

    /// A file's name lies in no section, and a machine whose relocations have a form of their own is not read: what came of either
    /// could not be written.
    #[test]
    fn not_understood() {
        let mut object = sample();
        object.symbols[0].st_type = stt::FILE;
        assert!(error(&object, |_| ()).contains("names a file, lies in a section"));
        assert!(error(&sample(), |bytes| bytes[18] = 8).contains("only this machine has"));
    }

    /// What could not be read again is not written: an absolute symbol of an input may have any value, and becomes an addend.
    #[test]
    fn absurd_addends_are_not_written() {
        let mut object = sample();
        object.sections[1].relocs[0].r_addend = i64::MIN;
        let error = super::super::write(&object).expect_err("the reader would refuse it");
        assert_eq!(error.to_string(), "section `.rela.b` would have an addend that cannot be, 0x8000000000000000");
    }

    /// Writes a 64-bit field of a section header.
    fn put(bytes: &mut [u8], section: usize, field: usize, value: u64) {
        let table = u64::from_le_bytes(bytes[0x28..0x30].try_into().expect("8 bytes")) as usize;
        bytes[table + 64 * section + field..][..8].copy_from_slice(&value.to_le_bytes());
    }

    /// Protects memory: many sections with the same bytes would become as many copies.
    #[test]
    fn overlaps() {
        let text = error(&sample(), |bytes| {
            let table = u64::from_le_bytes(bytes[0x28..0x30].try_into().expect("8 bytes")) as usize;
            let a = u64::from_le_bytes(bytes[table + 64 + 0x18..][..8].try_into().expect("8 bytes"));
            put(bytes, 2, 0x18, a);
            put(bytes, 2, 0x20, 4096);
        });
        assert_eq!(text, "its sections overlap");
    }
}
