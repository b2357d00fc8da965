//! The livepatch ELF format: special values and names (Documentation/livepatch/module-elf-format.rst).
//!
//! The loader parses names with `sscanf`: `.klp.sym.%55[^.].%511[^,],%lu` and `.klp.rela.%55[^.]`
//! (kernel/livepatch/core.c `klp_resolve_symbols`, `klp_apply_section_relocs`), so an object name
//! cannot hold a dot and a symbol name cannot hold a comma, and both have a longest length.

/// `st_shndx` of a symbol that the livepatch core resolves (include/uapi/linux/elf.h).
pub const SHN_LIVEPATCH: u16 = 0xff20;

/// `sh_flags` bit of a relocation section that the livepatch core applies (include/uapi/linux/elf.h).
pub const SHF_RELA_LIVEPATCH: u64 = 0x0010_0000;

/// Longest object name the loader reads, in bytes (MODULE_NAME_LEN - 1).
pub const MAX_OBJECT_NAME: usize = 55;

/// Longest symbol name the loader reads, in bytes (KSYM_NAME_LEN - 1).
pub const MAX_SYMBOL_NAME: usize = 511;

/// A livepatch symbol: which symbol of which object it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KlpSymbol {
    /// `vmlinux` or a module's name.
    pub object: String,
    /// Name as kallsyms has it.
    pub name: String,
    /// 0 when the name is unique in the object, else the position among its namesakes, from 1.
    pub sympos: u32,
}

impl KlpSymbol {
    /// `.klp.sym.<object>.<name>,<sympos>`.
    pub fn to_name(&self) -> String {
        format!(".klp.sym.{}.{},{}", self.object, self.name, self.sympos)
    }

    /// The inverse of [`to_name`](Self::to_name), as the loader reads it.
    pub fn parse(name: &str) -> Option<KlpSymbol> {
        let rest = name.strip_prefix(".klp.sym.")?;
        let (object, rest) = rest.split_once('.')?;
        let (name, sympos) = rest.split_once(',')?;
        if object.is_empty() || name.is_empty() {
            return None;
        }
        Some(KlpSymbol { object: object.to_owned(), name: name.to_owned(), sympos: sympos.parse().ok()? })
    }

    /// What the loader could not read of this name, if anything.
    pub fn unloadable(&self) -> Option<String> {
        if self.object.contains('.') {
            return Some(format!("object name `{}` holds a dot", self.object));
        }
        if self.object.len() > MAX_OBJECT_NAME {
            return Some(format!("object name `{}` is longer than {MAX_OBJECT_NAME} bytes", self.object));
        }
        if self.name.contains(',') {
            return Some(format!("symbol name `{}` holds a comma", self.name));
        }
        if self.name.len() > MAX_SYMBOL_NAME {
            return Some(format!("symbol name `{}` is longer than {MAX_SYMBOL_NAME} bytes", self.name));
        }
        None
    }
}

/// `.klp.rela.<object>.<section>`; a section name that starts with a dot gives two in a row.
pub fn rela_section_name(object: &str, section: &str) -> String {
    format!(".klp.rela.{object}.{section}")
}

/// (object, section) of a livepatch relocation section's name.
pub fn parse_rela_section(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(".klp.rela.")?.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the round trip of names that hold dots, as `.isra.0` does.
    #[test]
    fn names_round_trip() {
        let symbol = KlpSymbol { object: "vmlinux".into(), name: "fill.isra.0".into(), sympos: 2 };
        assert_eq!(symbol.to_name(), ".klp.sym.vmlinux.fill.isra.0,2");
        assert_eq!(KlpSymbol::parse(&symbol.to_name()), Some(symbol));
        assert_eq!(parse_rela_section(".klp.rela.ext4..text.f"), Some(("ext4", ".text.f")));
        assert_eq!(KlpSymbol::parse(".klp.sym.vmlinux.x"), None);
    }

    /// Protects against names the loader's sscanf would cut or misread.
    #[test]
    fn unloadable_names_are_found() {
        let symbol = |object: &str, name: &str| KlpSymbol { object: object.into(), name: name.into(), sympos: 0 };
        assert!(symbol("vmlinux", "a").unloadable().is_none());
        assert!(symbol("a.b", "a").unloadable().is_some());
        assert!(symbol("vmlinux", "a,b").unloadable().is_some());
        assert!(symbol("vmlinux", &"n".repeat(512)).unloadable().is_some());
    }
}
