//! Textual symbol tables: System.map and dumps of /proc/kallsyms in, [`SymbolTable`]s out.
//!
//! Both have `address type name` lines in address order (System.map is `nm -n` after scripts/mksysmap, the dump
//! is kallsyms itself); the dump adds a tab and `[module]` for modules' symbols, bpf and ftrace trampolines. A dump
//! that an unprivileged user took has only zeros for addresses: the order of names would still be right,
//! but nothing could be checked against an image, so it is an error with advice.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::symtab::{Binding, KernelSymbol, Kind, SymbolTable};

/// vmlinux's table and, from a dump, those of the modules that were loaded.
#[derive(Debug, Default)]
pub struct TextTables {
    /// The kernel's own symbols.
    pub vmlinux: SymbolTable,
    /// By module name; symbols are in the module's own symbol table order.
    pub modules: HashMap<String, SymbolTable>,
}

/// Parses System.map or a /proc/kallsyms dump.
pub fn parse(text: &str) -> Result<TextTables> {
    let mut vmlinux = Vec::new();
    let mut modules: HashMap<String, Vec<KernelSymbol>> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let (symbol, module) = parse_line(line).with_context(|| format!("line {}", number + 1))?;
        match module {
            None => vmlinux.push(symbol),
            Some(module) => modules.entry(module).or_default().push(symbol),
        }
    }
    ensure!(!vmlinux.is_empty(), "no symbol of the kernel itself");
    if vmlinux.iter().all(|symbol| symbol.address == 0) {
        bail!(
            "all addresses are zero: it was read without privilege; read /proc/kallsyms as root, \
             with kernel.kptr_restrict at 0 or 1"
        );
    }
    if let Some(at) = vmlinux.windows(2).position(|pair| pair[0].address > pair[1].address) {
        bail!("not in address order at `{}`: the table was edited or sorted by name", vmlinux[at + 1].name);
    }
    SymbolTable::mark_init(&mut vmlinux);
    SymbolTable::mark_data(&mut vmlinux);
    Ok(TextTables {
        vmlinux: SymbolTable::new(vmlinux, Vec::new()),
        modules: modules.into_iter().map(|(name, list)| (name, SymbolTable::new(list, Vec::new()))).collect(),
    })
}

fn parse_line(line: &str) -> Result<(KernelSymbol, Option<String>)> {
    let (line, module) = match line.split_once('\t') {
        Some((line, module)) => match module.trim().strip_prefix('[').and_then(|m| m.strip_suffix(']')) {
            Some(module) => (line, Some(module.to_owned())),
            None => bail!("`{module}` is not a module in brackets"),
        },
        None => (line, None),
    };
    let mut fields = line.trim_end().splitn(3, ' ');
    let (Some(address), Some(letter), Some(name)) = (fields.next(), fields.next(), fields.next()) else {
        bail!("not `address type name`");
    };
    let address = u64::from_str_radix(address, 16).with_context(|| format!("`{address}` is not an address"))?;
    let [letter] = letter.as_bytes() else { bail!("`{letter}` is not a symbol type") };
    Ok((from_letter(name, address, *letter), module))
}

/// A symbol from nm's one-letter type, which is also what kallsyms stores.
pub(super) fn from_letter(name: &str, address: u64, letter: u8) -> KernelSymbol {
    KernelSymbol {
        name: name.to_owned(),
        address,
        size: None,
        binding: match letter {
            b'W' | b'w' | b'V' | b'v' => Binding::Weak,
            letter if letter.is_ascii_lowercase() => Binding::Local,
            _ => Binding::Global,
        },
        kind: match letter.to_ascii_lowercase() {
            b't' => Kind::Func,
            b'd' | b'b' | b'r' | b'v' | b'g' | b's' => Kind::Object,
            _ => Kind::Other,
        },
        file: None,
        init: false,
        section: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernel and module symbols are kept apart, letters tell binding and kind, the order is the file's.
    #[test]
    fn dump() {
        let text = "ffffffff81000000 T _text\nffffffff81000010 t show\nffffffff81000020 d count\n\
                    ffffffff81000030 W weak\nffffffffc0000000 t show\t[ext4]\n";
        let tables = parse(text).unwrap();
        assert_eq!(tables.vmlinux.named("show"), [1]);
        assert_eq!(tables.vmlinux.symbols[1].binding, Binding::Local);
        assert_eq!(tables.vmlinux.symbols[2].kind, Kind::Object);
        assert_eq!(tables.vmlinux.symbols[3].binding, Binding::Weak);
        assert_eq!(tables.modules["ext4"].named("show").len(), 1);
    }

    /// The linker makes `.data` executable when one of its parts is, and nm then says `t` of every variable.
    #[test]
    fn executable_data() {
        let text =
            "ffffffff81000010 t show\nffffffff82000000 T _sdata\nffffffff82000010 t count\nffffffff82000020 T _edata\n";
        let kind = |name: &str| {
            let table = parse(text).unwrap().vmlinux;
            table.symbols[table.named(name)[0] as usize].kind
        };
        assert_eq!((kind("show"), kind("count")), (Kind::Func, Kind::Object));
    }

    /// Zeros, disorder and foreign text are told apart, each with what to do or where it is.
    #[test]
    fn unusable() {
        let zeros = parse("0000000000000000 T _text\n0000000000000000 t show\n").unwrap_err();
        assert!(zeros.to_string().contains("kptr_restrict"));
        let disorder = parse("ffffffff81000010 T b\nffffffff81000000 T a\n").unwrap_err();
        assert!(disorder.to_string().contains("`a`"));
        assert!(format!("{:#}", parse("ffffffff81000010 T b\nhello\n").unwrap_err()).contains("line 2"));
    }
}
