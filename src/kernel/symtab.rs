//! A kernel object's symbol table as the livepatch core counts it: names with positions (sympos).
//!
//! The core resolves `name,sympos` by walking same-named symbols: for vmlinux in address order
//! (kernel/kallsyms.c `kallsyms_on_each_match_symbol`), for a module in symbol table order
//! (kernel/module/kallsyms.c). `symbols` is therefore kept in exactly that order. Which of several is
//! meant is the business of [`super::locate`]; where tables come from, of `elf_table`, `text_table` and
//! the kallsyms tables inside an image.

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
    /// The section that the address counts from (modules' files only).
    pub section: Option<u32>,
}

/// Where a function is: the section that the address counts from, if any, and the address.
pub type Address = (Option<u32>, u64);

/// The symbols of vmlinux or of one module, in sympos order.
#[derive(Debug, Clone, Default)]
pub struct SymbolTable {
    /// The symbols, in the order in which the livepatch core counts positions.
    pub symbols: Vec<KernelSymbol>,
    /// Names of the STT_FILE groups.
    pub files: Vec<String>,
    by_name: HashMap<String, Vec<u32>>,
    by_file: Vec<Vec<u32>>,
}

impl SymbolTable {
    /// A table of these symbols, already in sympos order.
    pub fn new(symbols: Vec<KernelSymbol>, files: Vec<String>) -> SymbolTable {
        let mut by_name: HashMap<String, Vec<u32>> = HashMap::new();
        let mut by_file = vec![Vec::new(); files.len()];
        for (i, symbol) in symbols.iter().enumerate() {
            by_name.entry(symbol.name.clone()).or_default().push(i as u32);
            if let Some(group) = symbol.file.and_then(|file| by_file.get_mut(file as usize)) {
                group.push(i as u32);
            }
        }
        SymbolTable { symbols, files, by_name, by_file }
    }

    /// Indices of all symbols of this name, in sympos order: the k-th has sympos k+1, or 0 when alone.
    pub fn named(&self, name: &str) -> &[u32] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Indices of the symbols of an STT_FILE group, in table order.
    pub fn group(&self, file: u32) -> &[u32] {
        self.by_file.get(file as usize).map_or(&[], Vec::as_slice)
    }

    /// Where the livepatch core finds `name,sympos`; `None` where it finds nothing, or the table hides addresses
    /// (/proc/kallsyms for others than root).
    pub fn address(&self, name: &str, sympos: u64) -> Option<Address> {
        let named = self.named(name);
        let index = match (sympos, named) {
            (0, [index]) => index,
            (0, _) => return None,
            _ => named.get(usize::try_from(sympos - 1).ok()?)?,
        };
        let symbol = &self.symbols[*index as usize];
        (symbol.section.is_some() || symbol.address != 0).then_some((symbol.section, symbol.address))
    }

    /// Pairs of functions, given as name and sympos, that are one function with two names: the indices of each and of the first
    /// that is at its address.
    pub fn twice<'f>(&self, functions: impl IntoIterator<Item = (&'f str, u64)>) -> Vec<(usize, usize)> {
        let mut seen: HashMap<Address, usize> = HashMap::new();
        let mut pairs = Vec::new();
        for (i, (name, sympos)) in functions.into_iter().enumerate() {
            let Some(address) = self.address(name, sympos) else { continue };
            match seen.get(&address) {
                Some(first) => pairs.push((*first, i)),
                None => drop(seen.insert(address, i)),
            }
        }
        pairs
    }

    /// The only symbol of this name.
    pub fn unique(&self, name: &str) -> Option<&KernelSymbol> {
        match self.named(name) {
            [index] => Some(&self.symbols[*index as usize]),
            _ => None,
        }
    }

    /// How the global symbol of this name is bound, where there is one.
    pub fn global(&self, name: &str) -> Option<Binding> {
        let mut named = self.named(name).iter().map(|i| self.symbols[*i as usize].binding);
        named.find(|binding| *binding != Binding::Local)
    }

    /// Distance to the next address: no symbol can be longer.
    pub fn room(&self, index: u32) -> Option<u64> {
        let address = self.symbols[index as usize].address;
        let next = self.symbols[index as usize..].iter().find(|s| s.address > address)?;
        Some(next.address - address)
    }

    /// The position that makes the livepatch core find this very symbol: 0 when its name is unique, else
    /// counted from 1; `None` when no number does.
    ///
    /// A module's init symbols are in its kallsyms while it loads and gone afterwards (kernel/module/kallsyms.c
    /// `add_kallsyms`, kernel/module/main.c `do_init_module`), and a livepatch may resolve at either time: a
    /// position must mean the same symbol with and without them. In vmlinux's table they never go.
    pub fn sympos(&self, index: u32, is_module: bool) -> Option<u64> {
        let symbol = &self.symbols[index as usize];
        let named = self.named(&symbol.name);
        let rank = 1 + named.iter().position(|i| *i == index)? as u64;
        if named.len() == 1 {
            return Some(0);
        }
        let init_before = named.iter().take_while(|i| **i != index).any(|i| self.symbols[*i as usize].init);
        (!is_module || !init_before).then_some(rank)
    }

    /// Of a table whose letters are all there is: makes variables of what only looks like code.
    ///
    /// nm says `t` of everything in a section that is executable, and the linker makes `.data` so when one of the
    /// sections in it is. `_sdata` and `_edata` are its bounds (include/asm-generic/sections.h).
    pub(super) fn mark_data(symbols: &mut [KernelSymbol]) {
        let find = |name: &str| symbols.iter().find(|s| s.name == name).map(|s| s.address);
        let (Some(begin), Some(end)) = (find("_sdata"), find("_edata")) else { return };
        for symbol in symbols.iter_mut().filter(|s| s.kind == Kind::Func && (begin..end).contains(&s.address)) {
            symbol.kind = Kind::Object;
        }
    }

    /// Marks symbols between `__init_begin` and `__init_end` as init, per-cpu templates excepted.
    ///
    /// include/asm-generic/vmlinux.lds.h: the per-cpu template lies in there, but its symbols stand for the
    /// copies that live on.
    pub(super) fn mark_init(symbols: &mut [KernelSymbol]) {
        let find = |name: &str| symbols.iter().find(|s| s.name == name).map(|s| s.address);
        let (Some(begin), Some(end)) = (find("__init_begin"), find("__init_end")) else {
            return;
        };
        let percpu = find("__per_cpu_start").zip(find("__per_cpu_end")).map_or(0..0, |(start, end)| start..end);
        for symbol in symbols {
            symbol.init = (begin..end).contains(&symbol.address) && !percpu.contains(&symbol.address);
        }
    }
}

/// Names that scripts/mksysmap and scripts/kallsyms.c (5.15 to 7.3) keep out of kallsyms.
///
/// The lists differ a little between versions; none of the names that differ can be a function or a variable
/// of C code, so their union changes no position.
pub fn dropped_by_kallsyms(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "$",
        ".L",
        "__efistub_",
        "__pi_$",
        "__pi_.L",
        "__kvm_nvhe_$",
        "__kvm_nvhe_.L",
        "__kcfi_typeid_",
        "__crc_",
        "__kstrtab_",
        "__kstrtabns_",
        "__mod_device_table__",
    ];
    const NAMES: [&str; 3] = ["L0", "_SDA_BASE_", "_SDA2_BASE_"];
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    name.is_empty()
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || NAMES.contains(&name)
        || numbered("__UNIQUE_ID_modinfo_")
        || name.starts_with("__kvm_nvhe___kcfi_typeid_")
        || name.starts_with("__pi___kcfi_typeid_")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn symbol(name: &str, address: u64, init: bool) -> KernelSymbol {
        let (binding, kind) = (Binding::Local, Kind::Func);
        KernelSymbol { name: name.to_owned(), address, size: None, binding, kind, file: None, init, section: None }
    }

    /// Positions are 0 when unique and count from 1 otherwise; init twins in front make one unusable in modules.
    #[test]
    fn positions() {
        let list = vec![
            symbol("a", 1, false),
            symbol("b", 2, true),
            symbol("b", 3, false),
            symbol("c", 4, false),
            symbol("c", 5, true),
        ];
        let table = SymbolTable::new(list, Vec::new());
        assert_eq!(table.sympos(0, true), Some(0));
        assert_eq!(table.sympos(2, false), Some(2));
        assert_eq!(table.sympos(2, true), None);
        assert_eq!(table.sympos(3, true), Some(1));
    }

    /// Names of one address are one function; sections, positions, and addresses that are not shown are told apart.
    #[test]
    fn one_function_with_two_names() {
        let at = |name: &str, section, address| KernelSymbol { section, ..symbol(name, address, false) };
        let list = vec![
            at("__do_sys_getpid", None, 64),
            at("__x64_sys_getpid", None, 64),
            at("show", None, 80),
            at("show", None, 96),
            at("alias_of_second", None, 96),
            at("hidden", None, 0),
            at("hidden_too", None, 0),
            at("text_start", Some(1), 0),
            at("exit_start", Some(2), 0),
            at("text_alias", Some(1), 0),
        ];
        let table = SymbolTable::new(list, Vec::new());
        let twice = |names: &[(&'static str, u64)]| table.twice(names.iter().copied());
        assert_eq!(twice(&[("show", 1), ("__do_sys_getpid", 0), ("__x64_sys_getpid", 1)]), [(1, 2)]);
        assert_eq!(twice(&[("show", 1), ("show", 2), ("alias_of_second", 0)]), [(1, 2)]);
        assert_eq!(twice(&[("show", 0), ("alias_of_second", 0), ("none", 0), ("none", 1)]), []);
        assert_eq!(twice(&[("hidden", 0), ("hidden_too", 0)]), []);
        assert_eq!(twice(&[("text_start", 0), ("exit_start", 0), ("text_alias", 0)]), [(0, 2)]);
    }

    /// The per-cpu template inside the init range is not init data.
    #[test]
    fn init_range() {
        let mut list: Vec<KernelSymbol> =
            ["__init_begin", "i", "__per_cpu_start", "p", "__per_cpu_end", "j", "__init_end", "k"]
                .iter()
                .enumerate()
                .map(|(i, name)| symbol(name, 16 * i as u64, false))
                .collect();
        SymbolTable::mark_init(&mut list);
        let init: Vec<&str> = list.iter().filter(|s| s.init).map(|s| s.name.as_str()).collect();
        assert_eq!(init, ["__init_begin", "i", "__per_cpu_end", "j"]);
    }

    /// Names that kallsyms drops do not count; C names that merely look alike do.
    #[test]
    fn dropped() {
        assert!(
            dropped_by_kallsyms(".LC0")
                && dropped_by_kallsyms("__crc_printk")
                && dropped_by_kallsyms("__UNIQUE_ID_modinfo_12")
        );
        assert!(
            !dropped_by_kallsyms("__pfx_foo")
                && !dropped_by_kallsyms("__UNIQUE_ID_modinfo_a")
                && !dropped_by_kallsyms("crc_")
        );
    }
}
