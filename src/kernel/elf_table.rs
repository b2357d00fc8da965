//! ELF files' symbol tables: vmlinux and modules in, [`SymbolTable`] in sympos order out.
//!
//! Only what kallsyms would have counts, or every position after it is off by one: for vmlinux, what `nm -n`
//! filtered by scripts/mksysmap lists, in address order; for a module, what kernel/module/kallsyms.c
//! `is_core_symbol` keeps (and, marked init, what is only there while it loads), in file order. A vmlinux
//! with DWARF has hundreds of megabytes, so only the headers and the two tables are read.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use goblin::container::Ctx;
use goblin::elf::{Elf, SectionHeader, Sym, header, section_header as sh, sym};

use super::codec;
use super::symtab::{Binding, KernelSymbol, Kind, SymbolTable, dropped_by_kallsyms};

/// Reads the table of a linked vmlinux.
pub fn read_vmlinux(path: &Path) -> Result<SymbolTable> {
    File::open(path)
        .map_err(anyhow::Error::from)
        .and_then(|mut file| vmlinux_table(&mut file))
        .with_context(|| format!("failed to read symbols from `{}`", path.display()))
}

/// Reads the table of a module file, plain or compressed.
pub fn read_module(path: &Path) -> Result<SymbolTable> {
    std::fs::read(path)
        .map_err(anyhow::Error::from)
        .and_then(codec::plain)
        .and_then(|bytes| module_table(&mut Cursor::new(bytes)))
        .with_context(|| format!("failed to read symbols from `{}`", path.display()))
}

fn vmlinux_table(file: &mut (impl Read + Seek)) -> Result<SymbolTable> {
    let raw = RawTable::read(file)?;
    ensure!(matches!(raw.e_type, header::ET_EXEC | header::ET_DYN), "not a linked kernel image");
    let (mut symbols, files) = raw.symbols(|section| section.sh_flags & u64::from(sh::SHF_ALLOC) != 0, |_| false);
    symbols.retain(|symbol| !dropped_by_kallsyms(&symbol.name));
    // Stable: symbols of one address keep the file's order, as `nm -n` and scripts/kallsyms.c leave them.
    symbols.sort_by_key(|symbol| symbol.address);
    SymbolTable::mark_init(&mut symbols);
    Ok(SymbolTable::new(symbols, files))
}

fn module_table(file: &mut (impl Read + Seek)) -> Result<SymbolTable> {
    let raw = RawTable::read(file)?;
    ensure!(raw.e_type == header::ET_REL, "not a relocatable object");
    // kernel/module/main.c module_init_section: the name decides.
    let (symbols, files) =
        raw.symbols(|section| section.sh_flags & u64::from(sh::SHF_ALLOC) != 0, |name| name.starts_with(".init"));
    Ok(SymbolTable::new(symbols, files))
}

/// The parts of an ELF file that a symbol table needs.
struct RawTable {
    e_type: u16,
    sections: Vec<SectionHeader>,
    section_names: Vec<u8>,
    symbols: Vec<Sym>,
    extended_indices: Vec<u32>,
    names: Vec<u8>,
}

impl RawTable {
    fn read(file: &mut (impl Read + Seek)) -> Result<RawTable> {
        let length = file.seek(SeekFrom::End(0))?;
        let head = read_at(file, 0, 64.min(length), length)?;
        ensure!(head.starts_with(b"\x7fELF"), "not an ELF file");
        let header = Elf::parse_header(&head).context("broken ELF header")?;
        let ctx = Ctx::new(header.container()?, header.endianness()?);
        let entry = u64::from(header.e_shentsize);
        ensure!(header.e_shoff != 0 && entry != 0, "no section headers");
        let first = read_at(file, header.e_shoff, entry, length)?;
        let first = SectionHeader::parse_from(&first, 0, 1, ctx)?.remove(0);
        // gABI: with 0xff00 sections and more, the real numbers are in section 0.
        let count = if header.e_shnum == 0 { first.sh_size } else { u64::from(header.e_shnum) };
        let name_index = if u32::from(header.e_shstrndx) == 0xffff { first.sh_link } else { header.e_shstrndx.into() };
        let table = read_at(file, header.e_shoff, count.checked_mul(entry).context("broken section count")?, length)?;
        let sections = SectionHeader::parse_from(&table, 0, count as usize, ctx)?;
        let Some(symtab) = sections.iter().find(|section| section.sh_type == sh::SHT_SYMTAB) else {
            bail!("the symbol table is stripped");
        };
        let bytes = read_at(file, symtab.sh_offset, symtab.sh_size, length)?;
        let symbols = Sym::parse(&bytes, 0, bytes.len() / Sym::size(ctx.container), ctx)?;
        let strings = sections.get(symtab.sh_link as usize).context("symbols without names")?;
        let names = read_at(file, strings.sh_offset, strings.sh_size, length)?;
        let section_names = match sections.get(name_index as usize) {
            Some(section) => read_at(file, section.sh_offset, section.sh_size, length)?,
            None => Vec::new(),
        };
        let extended_indices = match sections.iter().find(|section| section.sh_type == sh::SHT_SYMTAB_SHNDX) {
            Some(section) => read_at(file, section.sh_offset, section.sh_size, length)?
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            None => Vec::new(),
        };
        Ok(RawTable { e_type: header.e_type, sections, section_names, symbols, extended_indices, names })
    }

    /// Symbols defined in sections that `keep` accepts, in file order, with their STT_FILE groups.
    fn symbols(
        &self,
        keep: impl Fn(&SectionHeader) -> bool,
        init: impl Fn(&str) -> bool,
    ) -> (Vec<KernelSymbol>, Vec<String>) {
        let sections: Vec<(bool, bool)> = self
            .sections
            .iter()
            .map(|s| (keep(s), string(&self.section_names, s.sh_name).is_some_and(&init)))
            .collect();
        let (mut symbols, mut files) = (Vec::new(), Vec::<String>::new());
        for (i, symbol) in self.symbols.iter().enumerate() {
            let name = string(&self.names, symbol.st_name).unwrap_or_default();
            let bind = sym::st_bind(symbol.st_info);
            let kind = match sym::st_type(symbol.st_info) {
                sym::STT_FILE => {
                    files.push(name.to_owned());
                    continue;
                }
                sym::STT_SECTION => continue,
                sym::STT_FUNC | sym::STT_GNU_IFUNC => Kind::Func,
                sym::STT_OBJECT | sym::STT_TLS => Kind::Object,
                _ => Kind::Other,
            };
            let index = match symbol.st_shndx {
                0xffff => self.extended_indices.get(i).copied().unwrap_or(0) as usize,
                reserved if reserved >= sh::SHN_LORESERVE as usize => continue,
                index => index,
            };
            let Some(&(kept, init)) = sections.get(index).filter(|_| index != 0 && !name.is_empty()) else {
                continue;
            };
            if !kept {
                continue;
            }
            symbols.push(KernelSymbol {
                name: name.to_owned(),
                address: symbol.st_value,
                size: Some(symbol.st_size),
                binding: match bind {
                    sym::STB_LOCAL => Binding::Local,
                    sym::STB_WEAK => Binding::Weak,
                    _ => Binding::Global,
                },
                kind,
                file: (bind == sym::STB_LOCAL && !files.is_empty()).then(|| files.len() as u32 - 1),
                init,
                section: (self.e_type == header::ET_REL).then_some(index as u32),
            });
        }
        (symbols, files)
    }
}

/// The text at an offset of a string table.
fn string(table: &[u8], offset: usize) -> Option<&str> {
    let rest = table.get(offset..)?;
    std::str::from_utf8(&rest[..memchr::memchr(0, rest)?]).ok()
}

fn read_at(file: &mut (impl Read + Seek), offset: u64, size: u64, length: u64) -> Result<Vec<u8>> {
    ensure!(offset.checked_add(size).is_some_and(|end| end <= length), "the file is truncated");
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files that are no kernel say what they are instead of giving an empty table.
    #[test]
    fn not_a_kernel() {
        for (bytes, expected) in [(&b"hello"[..], "not an ELF"), (b"", "not an ELF"), (b"\x7fELF", "broken ELF header")]
        {
            let error = vmlinux_table(&mut Cursor::new(bytes)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
