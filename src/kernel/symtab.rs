//! A kernel object's symbol table as the livepatch core counts it: names with positions (sympos).
//!
//! The core resolves `name,sympos` by walking same-named symbols: for vmlinux in address order
//! (kernel/kallsyms.c `kallsyms_on_each_match_symbol`), for a module in symbol table order
//! (kernel/module/kallsyms.c). `symbols` is therefore kept in exactly that order.

use std::collections::HashMap;

/// STB_LOCAL or not, where the source of the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Local to its unit.
    Local,
    /// Global.
    Global,
    /// Weak: as global for naming.
    Weak,
}

/// What a symbol names, as far as the table tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Code.
    Func,
    /// Data.
    Object,
    /// Not told.
    Other,
}

/// One symbol that kallsyms can find.
#[derive(Debug, Clone)]
pub struct KernelSymbol {
    /// Name as kallsyms has it.
    pub name: String,
    /// Address (vmlinux), or offset in its section (module).
    pub address: u64,
    /// Size in bytes, where the table has one.
    pub size: Option<u64>,
    /// Binding.
    pub binding: Binding,
    /// Code or data.
    pub kind: Kind,
    /// Index into [`SymbolTable::files`]: the STT_FILE group it belongs to (ELF tables only).
    pub file: Option<u32>,
    /// Lies in memory that is freed after boot or load.
    pub init: bool,
}

/// The symbols of vmlinux or of one module, in sympos order.
#[derive(Debug, Clone, Default)]
pub struct SymbolTable {
    /// The symbols, in the order in which the livepatch core counts positions.
    pub symbols: Vec<KernelSymbol>,
    /// Names of the STT_FILE groups.
    pub files: Vec<String>,
    by_name: HashMap<String, Vec<u32>>,
}

impl SymbolTable {
    /// A table of these symbols, already in sympos order.
    pub fn new(symbols: Vec<KernelSymbol>, files: Vec<String>) -> SymbolTable {
        let mut by_name: HashMap<String, Vec<u32>> = HashMap::new();
        for (i, symbol) in symbols.iter().enumerate() {
            by_name.entry(symbol.name.clone()).or_default().push(i as u32);
        }
        SymbolTable { symbols, files, by_name }
    }

    /// Indices of all symbols of this name, in sympos order: the k-th has sympos k+1, or 0 when alone.
    pub fn named(&self, name: &str) -> &[u32] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}
