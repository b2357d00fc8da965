//! A relocatable object -> what each function and each datum means, as text to compare: the second opinion.
//!
//! Shares nothing with klp-build, not even the ELF crate, and is crude where klp-build is exact: names lose their
//! numbers, texts and constants are followed by content a few steps deep, and whatever else is in the object is
//! compared as whole sections. Only little-endian 64-bit objects of the kernels built here are read.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// How far texts, constants and tables are followed.
const DEPTH: usize = 4;

struct Section {
    name: String,
    kind: u32,
    flags: u64,
    data: Vec<u8>,
    info: usize,
}

struct Symbol {
    name: String,
    info: u8,
    section: usize,
    value: u64,
    size: u64,
}

struct Reloc {
    at: u64,
    kind: u32,
    symbol: usize,
    addend: i64,
}

/// An object.
pub struct Object {
    sections: Vec<Section>,
    symbols: Vec<Symbol>,
    relocs: BTreeMap<usize, Vec<Reloc>>,
}

/// What differs between two objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Functions, without the numbers and suffixes that the compiler adds.
    pub functions: BTreeSet<String>,
    /// Other named things and sections.
    pub others: BTreeSet<String>,
}

impl Effect {
    /// The compiler made the same of both.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.others.is_empty()
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..at + N).context("failed to read an object: it is cut short")?;
    Ok(field.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

fn text(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    String::from_utf8_lossy(rest.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// `foo.constprop.0.cold` is `foo`; `.rodata.__func__.7` is `.rodata.__func__`.
pub fn plain(name: &str) -> String {
    let cut = |name: &str| -> Option<String> {
        let (stem, last) = name.rsplit_once('.')?;
        let made = last.bytes().all(|b| b.is_ascii_digit())
            || matches!(last, "cold" | "isra" | "constprop" | "part" | "localalias");
        (made && !stem.is_empty()).then(|| stem.to_owned())
    };
    let mut name = name.to_owned();
    while let Some(shorter) = cut(&name) {
        name = shorter;
    }
    name
}

impl Object {
    /// Reads an object.
    pub fn read(bytes: &[u8]) -> Result<Object> {
        if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
            bail!("failed to read an object: it is not ELF of 64 bits, little-endian");
        }
        let (table, count) = (number::<8>(bytes, 0x28)? as usize, number::<2>(bytes, 0x3c)? as usize);
        let names = number::<2>(bytes, 0x3e)? as usize;
        let mut sections = Vec::new();
        let mut links = Vec::new();
        let mut offsets = Vec::new();
        // More than 65279 sections are counted in the first one.
        let count = if count == 0 { number::<8>(bytes, table + 0x20)? as usize } else { count };
        let names = if names == 0xffff { number::<4>(bytes, table + 0x28)? as usize } else { names };
        for at in (0..count).map(|i| table + i * 64) {
            let (offset, size) = (number::<8>(bytes, at + 0x18)? as usize, number::<8>(bytes, at + 0x20)? as usize);
            let kind = number::<4>(bytes, at + 4)? as u32;
            let data =
                if kind == 8 { vec![0; size] } else { bytes.get(offset..offset + size).unwrap_or_default().to_vec() };
            offsets.push(number::<4>(bytes, at)? as usize);
            links.push(number::<4>(bytes, at + 0x28)? as usize);
            let info = number::<4>(bytes, at + 0x2c)? as usize;
            sections.push(Section { name: String::new(), kind, flags: number::<8>(bytes, at + 8)?, data, info });
        }
        for (at, offset) in offsets.into_iter().enumerate() {
            sections[at].name = text(&sections[names].data, offset);
        }
        let mut object = Object { sections, symbols: Vec::new(), relocs: BTreeMap::new() };
        let table = object.sections.iter().position(|s| s.kind == 2).context("failed to find an object's symbols")?;
        let data = &object.sections[table].data;
        let strings = &object.sections[links[table]].data;
        let mut symbols = Vec::new();
        for at in (0..data.len() / 24).map(|i| i * 24) {
            symbols.push(Symbol {
                name: text(strings, number::<4>(data, at)? as usize),
                info: data[at + 4],
                section: number::<2>(data, at + 6)? as usize,
                value: number::<8>(data, at + 8)?,
                size: number::<8>(data, at + 16)?,
            });
        }
        let mut relocs: BTreeMap<usize, Vec<Reloc>> = BTreeMap::new();
        for section in object.sections.iter().filter(|s| s.kind == 4) {
            let list = relocs.entry(section.info).or_default();
            for at in (0..section.data.len() / 24).map(|i| i * 24) {
                list.push(Reloc {
                    at: number::<8>(&section.data, at)?,
                    kind: number::<4>(&section.data, at + 8)? as u32,
                    symbol: number::<4>(&section.data, at + 12)? as usize,
                    addend: number::<8>(&section.data, at + 16)? as i64,
                });
            }
            list.sort_by_key(|r| r.at);
        }
        object.symbols = symbols;
        object.relocs = relocs;
        Ok(object)
    }

    /// A piece of a section: its bytes, and what its references mean.
    fn show(&self, section: usize, from: u64, to: u64, depth: usize) -> String {
        let data = &self.sections[section].data;
        let bytes = data.get(from as usize..to as usize).unwrap_or_default();
        let mut out: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        for reloc in self.relocs.get(&section).into_iter().flatten().filter(|r| (from..to).contains(&r.at)) {
            out.push_str(&format!(" [{:#x} {} {}]", reloc.at - from, reloc.kind, self.target(reloc, depth)));
        }
        out
    }

    fn target(&self, reloc: &Reloc, depth: usize) -> String {
        let Some(symbol) = self.symbols.get(reloc.symbol) else { return "?".to_owned() };
        let Some(section) = self.sections.get(symbol.section).filter(|_| symbol.section != 0) else {
            return format!("{}+{}", symbol.name, reloc.addend);
        };
        let unnamed = symbol.info & 15 == 3 || symbol.name.starts_with(".L");
        // An address relative to the next instruction lies four bytes before what is meant (R_X86_64_PC32, PLT32).
        let correct = if matches!(reloc.kind, 2 | 4) { 4 } else { 0 };
        let place = (symbol.value as i64 + reloc.addend + correct).max(0) as u64;
        let constant = section.name.starts_with(".rodata") && depth > 0;
        if constant && section.flags & 0x20 != 0 {
            return format!("{:?}", text(&section.data, place as usize));
        }
        let mut out = if unnamed {
            format!("{}+{place}", plain(&section.name))
        } else {
            format!("{}+{}", plain(&symbol.name), reloc.addend)
        };
        if constant {
            let (from, to) = match unnamed {
                // Constants of one size are merged, and which comes when says nothing.
                true if section.flags & 0x10 != 0 => {
                    out = plain(&section.name);
                    (place, place + 8)
                }
                true => (0, section.data.len() as u64),
                false => (symbol.value, symbol.value + symbol.size),
            };
            out.push_str(&format!("{{{}}}", self.show(symbol.section, from, to, depth - 1)));
        }
        out
    }

    /// Everything in the object by name; namesakes are taken together, in an order that their place does not decide.
    fn things(&self) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, Vec<String>>) {
        let (mut functions, mut others): (BTreeMap<String, Vec<String>>, BTreeMap<String, Vec<String>>) =
            Default::default();
        let mut named: BTreeSet<usize> = BTreeSet::new();
        for symbol in &self.symbols {
            let Some(section) = self.sections.get(symbol.section).filter(|_| symbol.section != 0) else { continue };
            let (is_function, is_datum) = (symbol.info & 15 == 2, symbol.info & 15 == 1);
            let text = section.flags & 4 != 0;
            if !(is_function || is_datum && !text) || section.flags & 2 == 0 {
                continue;
            }
            named.insert(symbol.section);
            let shown = self.show(symbol.section, symbol.value, symbol.value + symbol.size, DEPTH);
            let into = if is_function { &mut functions } else { &mut others };
            into.entry(plain(&symbol.name)).or_default().push(format!("{} {shown}", plain(&section.name)));
        }
        for (at, section) in self.sections.iter().enumerate() {
            // Texts and constants are compared where they are used; tables for the linker and the debugger do not matter.
            let follow = section.flags & 0x10 != 0;
            if section.flags & 2 == 0 || named.contains(&at) || follow || !matches!(section.kind, 1 | 8) {
                continue;
            }
            let shown = self.show(at, 0, section.data.len() as u64, DEPTH);
            others.entry(plain(&section.name)).or_default().push(shown);
        }
        functions.values_mut().chain(others.values_mut()).for_each(|list| list.sort());
        (functions, others)
    }

    /// What differs between this object and another.
    pub fn effect(&self, other: &Object) -> Effect {
        let ((functions_a, others_a), (functions_b, others_b)) = (self.things(), other.things());
        let differing = |a: &BTreeMap<String, Vec<String>>, b: &BTreeMap<String, Vec<String>>| -> BTreeSet<String> {
            a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
        };
        Effect { functions: differing(&functions_a, &functions_b), others: differing(&others_a, &others_b) }
    }

    /// Names of functions that are in one object only: there is nothing to replace.
    pub fn functions(&self) -> BTreeSet<String> {
        self.things().0.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Object {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source, object) = (dir.path().join("a.c"), dir.path().join("a.o"));
        std::fs::write(&source, text).expect("written");
        let status = std::process::Command::new("gcc")
            .args([
                "-O2",
                "-mcmodel=kernel",
                "-fno-pie",
                "-fno-asynchronous-unwind-tables",
                "-ffunction-sections",
                "-fdata-sections",
                "-c",
                "-o",
            ])
            .args([&object, &source])
            .status();
        assert!(status.expect("gcc runs").success());
        Object::read(&std::fs::read(&object).expect("read")).expect("an object")
    }

    fn effect(before: &str, after: &str) -> Vec<String> {
        let effect = compile(before).effect(&compile(after));
        effect.functions.into_iter().chain(effect.others).collect()
    }

    /// The second opinion sees code, texts, and constants behind constants; were it blind, no miss would be found.
    #[test]
    fn sees() {
        let f = |body: &str| format!("void p(const char *);int f(int a){{{body}}}int g(void){{return 4;}}");
        assert_eq!(effect(&f("return a+1;"), &f("return a+2;")), ["f"]);
        assert_eq!(effect(&f("p(\"a\");return 0;"), &f("p(\"b\");return 0;")), ["f"]);
        let table = |v: &str| f(&format!("static const char *const t[]={{\"a\",\"{v}\"}};p(t[a]);return 0;"));
        assert_eq!(effect(&table("x"), &table("y")), ["f", "t"]);
        assert_eq!(effect("int x=1;", "int x=2;"), ["x"]);
    }

    /// What only moved, or was renumbered, is the same.
    #[test]
    fn does_not_see_order() {
        let (f, g) = ("int f(void){static int n;return n++;}", "int g(void){static int n;return n--;}");
        assert_eq!(effect(&format!("{f}{g}"), &format!("{g}{f}")), Vec::<String>::new());
    }
}
