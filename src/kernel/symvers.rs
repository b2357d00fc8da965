//! `Module.symvers`: what the kernel and its modules export, from whom, in which namespace.
//!
//! Five tab-separated fields a line: CRC, name, exporting object, export kind, namespace
//! (Documentation/kbuild/modules.rst, "Symbols and CRCs"); the namespace is missing or empty for most.

use std::collections::HashMap;

/// One exported symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Who exports it: `vmlinux`, or a module's name as /proc/modules has it.
    pub object: String,
    /// `EXPORT_SYMBOL` or `EXPORT_SYMBOL_GPL`.
    pub kind: String,
    /// Namespace; empty for none. `module:a,b` is EXPORT_SYMBOL_FOR_MODULES.
    pub namespace: String,
    /// CRC; 0 without CONFIG_MODVERSIONS.
    pub crc: u32,
}

/// All exports by symbol name.
#[derive(Debug, Clone, Default)]
pub struct Symvers {
    /// Name to export.
    pub exports: HashMap<String, Export>,
}

impl Symvers {
    /// Who exports `name`, if anyone.
    pub fn get(&self, name: &str) -> Option<&Export> {
        self.exports.get(name)
    }
}
