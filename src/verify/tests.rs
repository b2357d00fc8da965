//! Small units against small images: what has to be equal is, and each kind of difference is seen.

#[path = "../../tests/support/smallest.rs"]
mod smallest;

use std::sync::Arc;

use super::*;
use crate::elf::object::{shf, sht, stb, stt};
use crate::elf::{Object, Place, Reloc, Section, SectionId, Symbol, SymbolId};
use crate::kernel::image::Image;
use crate::kernel::symtab::{Binding, KernelSymbol, Kind as SymbolKind, SymbolTable};
use crate::reloc::indirect::Gate;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DATA: u64 = 0xffff_ffff_8200_0000;
const PC32: u32 = 2;
const PLT32: u32 = 4;
const ABS32S: u32 = 11;

#[derive(Clone)]
struct Bytes(Vec<(u64, Vec<u8>)>);

impl Memory for Bytes {
    fn from(&self, address: u64) -> Option<&[u8]> {
        let piece = self.0.iter().find(|(start, b)| (*start..*start + b.len() as u64).contains(&address));
        piece.map(|(start, b)| &b[(address - start) as usize..])
    }
}

/// A unit under construction.
#[derive(Default)]
struct Maker(Object);

impl Maker {
    fn new() -> Maker {
        let mut maker = Maker(Object { e_machine: 62, is_64: true, little_endian: true, ..Object::default() });
        maker.symbol("unit.c", stt::FILE, stb::LOCAL, Place::Absolute, 0);
        maker
    }

    fn section(&mut self, name: &str, sh_flags: u64, data: &[u8]) -> SectionId {
        self.0.sections.push(Section {
            name: name.to_owned(),
            sh_type: sht::PROGBITS,
            sh_flags: sh_flags | shf::ALLOC,
            sh_size: data.len() as u64,
            sh_addralign: 1,
            sh_entsize: u64::from(sh_flags & shf::STRINGS != 0),
            data: data.to_vec(),
            ..Section::default()
        });
        SectionId(self.0.sections.len() as u32 - 1)
    }

    fn symbol(&mut self, name: &str, st_type: u8, st_bind: u8, place: Place, st_size: u64) -> SymbolId {
        let (name, file) = (name.to_owned(), (st_bind == stb::LOCAL && st_type != stt::FILE).then_some(SymbolId(0)));
        self.0.symbols.push(Symbol { name, st_value: 0, st_size, st_type, st_bind, st_other: 0, place, file });
        SymbolId(self.0.symbols.len() as u32 - 1)
    }

    fn function(&mut self, name: &str, st_bind: u8, code: &[u8]) -> (SectionId, SymbolId) {
        let section = self.section(&format!(".text.{name}"), shf::EXECINSTR, code);
        (section, self.symbol(name, stt::FUNC, st_bind, Place::Section(section), code.len() as u64))
    }

    fn outside(&mut self, name: &str) -> SymbolId {
        self.symbol(name, stt::NOTYPE, stb::GLOBAL, Place::Undefined, 0)
    }

    fn reloc(&mut self, section: SectionId, r_offset: u64, r_type: u32, symbol: SymbolId, r_addend: i64) {
        self.0.sections[section.index()].relocs.push(Reloc { r_offset, r_type, symbol: Some(symbol), r_addend });
    }

    fn verify(&self, symbols: &[KernelSymbol], pieces: &[(u64, &[u8])]) -> Vec<Finding> {
        let memory = Bytes(pieces.iter().map(|(a, b)| (*a, b.to_vec())).collect());
        let table = SymbolTable::new(symbols.to_vec(), vec!["unit.c".to_owned(), "other.c".to_owned()]);
        check(&self.0, &Loaded::new(Box::new(memory), Arc::new(table)))
    }
}

fn check(object: &Object, loaded: &Loaded) -> Vec<Finding> {
    let side = Side::new(object).unwrap();
    verify_unit(&side, &functions(&side), loaded).unwrap()
}

fn global(name: &str, address: u64, kind: SymbolKind) -> KernelSymbol {
    KernelSymbol {
        name: name.to_owned(),
        address,
        size: None,
        binding: Binding::Global,
        kind,
        file: None,
        init: false,
        section: None,
    }
}

fn local(name: &str, address: u64, kind: SymbolKind, file: u32) -> KernelSymbol {
    KernelSymbol { binding: Binding::Local, file: Some(file), ..global(name, address, kind) }
}

fn func(name: &str, address: u64) -> KernelSymbol {
    global(name, address, SymbolKind::Func)
}

fn difference(finding: &Finding) -> (u64, &str) {
    match &finding.outcome {
        Outcome::Differs(d) => (d.offset, &d.what),
        other => panic!("{other:?}"),
    }
}

/// endbr64; call __fentry__; mov $1,%eax; call g; ret
fn caller() -> Maker {
    let mut unit = Maker::new();
    let code = [
        0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 0, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xc3, //
    ];
    let (text, _) = unit.function("f", stb::GLOBAL, &code);
    let (fentry, g) = (unit.outside("__fentry__"), unit.outside("g"));
    unit.reloc(text, 5, PLT32, fentry, -4);
    unit.reloc(text, 15, PLT32, g, -4);
    unit
}

/// The same in an image, with `g` at +0x40 and `h` at +0x50: the call of ftrace is a NOP, as objtool leaves it.
const HELD: [u8; 20] = [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0, 0, 0xb8, 1, 0, 0, 0, 0xe8, 0x2d, 0, 0, 0, 0xc3];

fn callees() -> Vec<KernelSymbol> {
    let table = [("__start_mcount_loc", DATA), ("__stop_mcount_loc", DATA + 8)];
    let mut all = vec![func("f", TEXT), func("g", TEXT + 0x40), func("h", TEXT + 0x50)];
    all.extend(table.map(|(name, at)| global(name, at, SymbolKind::Other)));
    all
}

/// ftrace's NOP is accepted where the image's own table lists it, and nowhere else.
#[test]
fn call_sites() {
    let listed = (TEXT + 4).to_le_bytes();
    assert!(caller().verify(&callees(), &[(TEXT, &HELD), (DATA, &listed)])[0].is_equal());
    let other = (TEXT + 5).to_le_bytes();
    let found = caller().verify(&callees(), &[(TEXT, &HELD), (DATA, &other)]);
    assert_eq!(difference(&found[0]), (4, "the kernel's __mcount_loc does not list this NOP"));
}

/// One changed byte is refused, with its place, both disassemblies, and what usually causes it.
#[test]
fn changed_byte() {
    let listed = (TEXT + 4).to_le_bytes();
    let mut held = HELD;
    held[10] = 2;
    let found = caller().verify(&callees(), &[(TEXT, &held), (DATA, &listed)]);
    assert_eq!(difference(&found[0]), (9, "the instructions differ"));
    let evidence = Evidence { tree: Some("7.3.4".to_owned()), ..Evidence::default() };
    let refusal = found[0].refusal("vmlinux", &evidence).unwrap();
    assert_eq!(refusal.reason, Reason::ImageMismatch);
    assert!(refusal.message.contains("> +0x009: b8 01 00 00 00                 mov $1,%eax"), "{}", refusal.message);
    assert!(refusal.message.contains("> +0x009: b8 02 00 00 00                 mov $2,%eax"), "{}", refusal.message);
    assert!(refusal.advice.contains("compiler") && refusal.advice.contains("7.3.4"), "{}", refusal.advice);
}

/// A call of something else is seen though its bytes are a relocation's.
#[test]
fn other_callee() {
    let listed = (TEXT + 4).to_le_bytes();
    let mut held = HELD;
    held[15] = 0x3d;
    let found = caller().verify(&callees(), &[(TEXT, &held), (DATA, &listed)]);
    assert_eq!(difference(&found[0]), (14, "refers to `g`, the kernel to `h`"));
}

/// A tail call within the kernel's own section may be short; jumps over it move along, and only those.
#[test]
fn short_tail_call() {
    let mut unit = Maker::new();
    // test %edi,%edi; je 1f; jmp g; 1: ret
    let (text, _) = unit.function("f", stb::GLOBAL, &[0x85, 0xff, 0x74, 5, 0xe9, 0, 0, 0, 0, 0xc3]);
    let g = unit.outside("g");
    unit.reloc(text, 5, PLT32, g, -4);
    let symbols = [func("f", TEXT), func("g", TEXT + 0x10)];
    let held = |over: u8| [0x85, 0xff, 0x74, over, 0xeb, 0x0a, 0xc3];
    assert!(unit.verify(&symbols, &[(TEXT, &held(2))])[0].is_equal());
    let found = unit.verify(&symbols, &[(TEXT, &held(1))]);
    assert_eq!(difference(&found[0]), (2, "leads to +0x9, in the kernel to `f+0x5`"));
}

/// The cold part jumps back behind a branch that is shorter in the kernel: right there, and nowhere else.
#[test]
fn back_from_the_cold_part() {
    let mut unit = Maker::new();
    // je f.cold; jmp g; ret
    let (text, f) = unit.function("f", stb::GLOBAL, &[0x0f, 0x84, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0, 0xc3]);
    let (cold, part) = unit.function("f.cold", stb::LOCAL, &[0xe9, 0, 0, 0, 0]);
    let g = unit.outside("g");
    unit.reloc(text, 2, PLT32, part, -4);
    unit.reloc(text, 7, PLT32, g, -4);
    unit.reloc(cold, 1, PLT32, f, 11 - 4);
    let symbols = [func("f", TEXT), func("g", TEXT + 0x20), local("f.cold", TEXT + 0x30, SymbolKind::Func, 0)];
    let held: [u8; 9] = [0x0f, 0x84, 0x2a, 0, 0, 0, 0xeb, 0x18, 0xc3];
    let back = |to: u64| [0xe9, (to.wrapping_sub(0x35)) as u8, 0xff, 0xff, 0xff];
    let verify = |to| {
        let found = unit.verify(&symbols, &[(TEXT, &held), (TEXT + 0x30, &back(to))]);
        assert_eq!(found.len(), 2);
        found
    };
    assert!(verify(8).iter().all(Finding::is_equal));
    let found = verify(6);
    assert_eq!(difference(&found[1]), (0, "leads to `f`+0xb, in the kernel to `f+0x6`"));
}

/// NOPs for alignment may be more or fewer, but not where the kernel would put something else at boot.
#[test]
fn fillers() {
    let mut unit = Maker::new();
    // inc %eax; nop; nop; ret
    let (_, f) = unit.function("f", stb::GLOBAL, &[0xff, 0xc0, 0x90, 0x90, 0xc3]);
    let held: [u8; 6] = [0xff, 0xc0, 0x0f, 0x1f, 0x00, 0xc3];
    assert!(unit.verify(&[func("f", TEXT)], &[(TEXT, &held)])[0].is_equal());
    let table = unit.section(".altinstructions", 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    unit.0.sections[table.index()].sh_entsize = 14;
    unit.reloc(table, 0, PC32, f, 2);
    unit.reloc(table, 4, PC32, f, 2);
    assert_eq!(difference(&unit.verify(&[func("f", TEXT)], &[(TEXT, &held)])[0]).0, 2);
}

/// Texts are compared where the image points to, also when the linker merged one into the tail of another.
#[test]
fn texts() {
    let mut unit = Maker::new();
    // mov $text,%rdi; ret
    let (text, _) = unit.function("f", stb::GLOBAL, &[0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0xc3]);
    let strings = unit.section(".rodata.str1.1", shf::MERGE | shf::STRINGS, b"one\0two\0");
    let symbol = unit.symbol(".rodata.str1.1", stt::SECTION, stb::LOCAL, Place::Section(strings), 0);
    unit.reloc(text, 3, ABS32S, symbol, 4);
    let mut held = [0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0xc3];
    held[3..7].copy_from_slice(&(DATA as u32 + 6).to_le_bytes());
    let symbols = [func("f", TEXT)];
    assert!(!unit.verify(&symbols, &[(TEXT, &held), (DATA, b"twenty two\0")])[0].is_equal());
    assert!(unit.verify(&symbols, &[(TEXT, &held), (DATA, b"forty-two\0")])[0].is_equal());
    let found = unit.verify(&symbols, &[(TEXT, &held), (DATA, b"forty-too\0")]);
    assert_eq!(difference(&found[0]), (0, "the text is \"two\", in the kernel \"too\""));
}

/// A jump that objtool made a NOP is accepted where both sides' tables say that it is a jump label.
#[test]
fn jump_labels() {
    let mut unit = Maker::new();
    // jmp 1f; nop; 1: ret
    let (text, f) = unit.function("f", stb::GLOBAL, &[0xeb, 1, 0x90, 0xc3]);
    let symbols = [
        func("f", TEXT),
        global("key", DATA + 0x100, SymbolKind::Object),
        global("stranger", DATA + 0x110, SymbolKind::Object),
        global("__start___jump_table", DATA, SymbolKind::Other),
        global("__stop___jump_table", DATA + 16, SymbolKind::Other),
    ];
    let entry = |key: u64| {
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&(TEXT as u32).wrapping_sub(DATA as u32).to_le_bytes());
        entry[4..8].copy_from_slice(&(TEXT as u32 + 3).wrapping_sub(DATA as u32 + 4).to_le_bytes());
        entry[8..].copy_from_slice(&key.wrapping_sub(DATA + 8).to_le_bytes());
        entry
    };
    let listed = entry(DATA + 0x100 + 2);
    let pieces: [(u64, &[u8]); 2] = [(TEXT, &[0x66, 0x90, 0x90, 0xc3]), (DATA, &listed)];
    assert_eq!(difference(&unit.verify(&symbols, &pieces)[0]).0, 0);
    let table = unit.section("__jump_table", 0, &[0; 16]);
    let key = unit.outside("key");
    unit.reloc(table, 0, PC32, f, 0);
    unit.reloc(table, 4, PC32, f, 3);
    unit.reloc(table, 8, 24, key, 2);
    let _ = text;
    assert!(unit.verify(&symbols, &pieces)[0].is_equal());
    let with = |entry: [u8; 16]| unit.verify(&symbols, &[pieces[0], (DATA, &entry)]).remove(0);
    let mut other = listed;
    other[0] ^= 1;
    assert_eq!(difference(&with(other)).1, "the kernel's __jump_table does not list this NOP");
    // A kernel that has booted keeps a note of its own in the key's second bit.
    assert!(with(entry(DATA + 0x100)).is_equal());
    let found = with(entry(DATA + 0x110 + 2));
    assert_eq!(difference(&found).1, "the kernel's __jump_table refers to `key`, the kernel to `stranger`");
    // The branch is likely.
    assert!(!with(entry(DATA + 0x100 + 3)).is_equal());
    let mut elsewhere = listed;
    elsewhere[4] -= 1;
    assert_eq!(difference(&with(elsewhere)).1, "the kernel's __jump_table leads to `f+0x2`, not to +0x3");
}

/// NOPs before such a jump end where it stands, in the kernel too, where it is a NOP itself.
#[test]
fn jump_labels_behind_fillers() {
    let mut unit = Maker::new();
    // ud2; nop; jmp 1f; nop; 1: ret
    let (_, f) = unit.function("f", stb::GLOBAL, &[0x0f, 0x0b, 0x90, 0xeb, 1, 0x90, 0xc3]);
    let table = unit.section("__jump_table", 0, &[0; 16]);
    let key = unit.outside("key");
    unit.reloc(table, 0, PC32, f, 3);
    unit.reloc(table, 4, PC32, f, 6);
    unit.reloc(table, 8, 24, key, 2);
    let symbols = [
        func("f", TEXT),
        global("key", DATA + 0x100, SymbolKind::Object),
        global("__start___jump_table", DATA, SymbolKind::Other),
        global("__stop___jump_table", DATA + 16, SymbolKind::Other),
    ];
    let entry = |at: u64, target: u64| {
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&((TEXT + at) as u32).wrapping_sub(DATA as u32).to_le_bytes());
        entry[4..8].copy_from_slice(&((TEXT + target) as u32).wrapping_sub(DATA as u32 + 4).to_le_bytes());
        entry[8..].copy_from_slice(&(DATA + 0x102).wrapping_sub(DATA + 8).to_le_bytes());
        entry
    };
    // With as many fillers, with none, and with more of them.
    for (held, at) in [
        (&[0x0f, 0x0b, 0x90, 0x66, 0x90, 0x90, 0xc3][..], 3),
        (&[0x0f, 0x0b, 0x66, 0x90, 0x90, 0xc3], 2),
        (&[0x0f, 0x0b, 0x0f, 0x1f, 0x00, 0x66, 0x90, 0x90, 0xc3], 5),
    ] {
        let entry = entry(at, at + 3);
        let found = unit.verify(&symbols, &[(TEXT, held), (DATA, &entry)]);
        assert!(found[0].is_equal(), "{held:x?}: {:?}", found[0]);
    }
}

/// A fault goes on where the unit's exception table says, and in the same way; so does a warning that was given already.
#[test]
fn exceptions_and_warnings() {
    let mut unit = Maker::new();
    // mov (%rdi),%eax; ud2; ret
    let code = [0x8b, 0x07, 0x0f, 0x0b, 0xc3];
    let (_, f) = unit.function("f", stb::GLOBAL, &code);
    let faults = unit.section("__ex_table", 0, &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    unit.reloc(faults, 0, PC32, f, 0);
    unit.reloc(faults, 4, PC32, f, 4);
    let warnings = unit.section("__bug_table", 0, &[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0]);
    unit.0.sections[warnings.index()].sh_entsize = 12;
    unit.reloc(warnings, 0, PC32, f, 2);
    let symbols = [
        func("f", TEXT),
        global("__start___ex_table", DATA, SymbolKind::Other),
        global("__stop___ex_table", DATA + 12, SymbolKind::Other),
        global("__start___bug_table", DATA + 12, SymbolKind::Other),
        global("__stop___bug_table", DATA + 24, SymbolKind::Other),
    ];
    let verify = |fixup: u32, how: u8, flags: u8| {
        let to = |address: u32, at: u32| address.wrapping_sub(DATA as u32 + at).to_le_bytes();
        let mut tables = [0; 24];
        tables[..4].copy_from_slice(&to(TEXT as u32, 0));
        tables[4..8].copy_from_slice(&to(TEXT as u32 + fixup, 4));
        tables[8] = how;
        tables[12..16].copy_from_slice(&to(TEXT as u32 + 2, 12));
        tables[20] = 7;
        tables[22] = flags;
        unit.verify(&symbols, &[(TEXT, &code), (DATA, &tables)]).remove(0)
    };
    assert!(verify(4, 3, 1).is_equal() && verify(4, 3, 5).is_equal());
    assert_eq!(difference(&verify(2, 3, 1)), (0, "the kernel's __ex_table leads to `f+0x2`, not to +0x4"));
    assert_eq!(difference(&verify(4, 4, 1)), (0, "the kernel's __ex_table says something else of this place"));
    assert_eq!(difference(&verify(4, 3, 0)), (2, "the kernel's __bug_table says something else of this place"));
    // Without the image's tables there is nothing to compare.
    assert!(unit.verify(&symbols[..1], &[(TEXT, &code)])[0].is_equal());
}

/// What the kernel may put in an instruction's place is compared, too.
#[test]
fn alternatives() {
    let mut unit = Maker::new();
    // inc %eax; ret, and dec %eax instead
    let (_, f) = unit.function("f", stb::GLOBAL, &[0xff, 0xc0, 0xc3]);
    let instead = unit.section(".altinstr_replacement", shf::EXECINSTR, &[0xff, 0xc8]);
    let instead = unit.symbol(".altinstr_replacement", stt::SECTION, stb::LOCAL, Place::Section(instead), 0);
    let table = unit.section(".altinstructions", 0, &[0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 2]);
    unit.0.sections[table.index()].sh_entsize = 14;
    unit.reloc(table, 0, PC32, f, 0);
    unit.reloc(table, 4, PC32, instead, 0);
    let symbols = [
        func("f", TEXT),
        global("__alt_instructions", DATA, SymbolKind::Other),
        global("__alt_instructions_end", DATA + 14, SymbolKind::Other),
    ];
    let verify = |feature: u8, instead: [u8; 2]| {
        let mut held = [0, 0, 0, 0, 0, 0, 0, 0, feature, 0, 0, 0, 2, 2, instead[0], instead[1]];
        held[..4].copy_from_slice(&(TEXT as u32).wrapping_sub(DATA as u32).to_le_bytes());
        held[4..8].copy_from_slice(&10_u32.to_le_bytes());
        unit.verify(&symbols, &[(TEXT, &[0xff, 0xc0, 0xc3]), (DATA, &held)]).remove(0)
    };
    assert!(verify(5, [0xff, 0xc8]).is_equal());
    let other = "the kernel's .altinstructions says something else of this place";
    assert_eq!(difference(&verify(6, [0xff, 0xc8])), (0, other));
    assert_eq!(difference(&verify(5, [0xff, 0xc9])), (0, "the kernel's .altinstructions has another replacement"));
}

/// A constant table is compared as a whole, though the code reads its end only.
#[test]
fn whole_tables() {
    let mut unit = Maker::new();
    // mov CSWTCH.1+4(%rip),%eax; ret
    let (text, _) = unit.function("f", stb::GLOBAL, &[0x8b, 0x05, 0, 0, 0, 0, 0xc3]);
    let table = unit.section(".rodata.CSWTCH.1", 0, &[1, 0, 0, 0, 2, 0, 0, 0]);
    let table = unit.symbol("CSWTCH.1", stt::OBJECT, stb::LOCAL, Place::Section(table), 8);
    unit.reloc(text, 2, PC32, table, 4 - 4);
    let mut held = [0x8b, 0x05, 0, 0, 0, 0, 0xc3];
    held[2..6].copy_from_slice(&((DATA + 4).wrapping_sub(TEXT + 6) as u32).to_le_bytes());
    let symbols = [func("f", TEXT), local("CSWTCH.1", DATA, SymbolKind::Object, 0)];
    assert!(unit.verify(&symbols, &[(TEXT, &held), (DATA, &[1, 0, 0, 0, 2, 0, 0, 0])])[0].is_equal());
    let found = unit.verify(&symbols, &[(TEXT, &held), (DATA, &[7, 0, 0, 0, 2, 0, 0, 0])]);
    assert_eq!(difference(&found[0]), (0, "constant data `CSWTCH.1` differs at +0x0"));
}

/// So is a table without a name, also where another function's reference into its middle cuts it.
#[test]
fn whole_tables_without_names() {
    let mut unit = Maker::new();
    let table = unit.section(".rodata", 0, &[1, 0, 0, 0, 2, 0, 0, 0]);
    let table = unit.symbol(".rodata", stt::SECTION, stb::LOCAL, Place::Section(table), 0);
    // mov table(%rip),%eax; ret
    let code = |to: u64, at: u64| {
        let mut code = [0x8b, 0x05, 0, 0, 0, 0, 0xc3];
        code[2..6].copy_from_slice(&(to.wrapping_sub(at + 6) as u32).to_le_bytes());
        code
    };
    for (name, offset) in [("f", 0), ("g", 4)] {
        let (text, _) = unit.function(name, stb::GLOBAL, &[0x8b, 0x05, 0, 0, 0, 0, 0xc3]);
        unit.reloc(text, 2, PC32, table, offset - 4);
    }
    let symbols = [func("f", TEXT), func("g", TEXT + 0x40)];
    let (f, g) = (code(DATA, TEXT), code(DATA + 4, TEXT + 0x40));
    let found = |table: &[u8]| unit.verify(&symbols, &[(TEXT, &f), (TEXT + 0x40, &g), (DATA, table)]);
    assert!(found(&[1, 0, 0, 0, 2, 0, 0, 0]).iter().all(Finding::is_equal));
    for table in [[1, 0, 0, 0, 7, 0, 0, 0], [7, 0, 0, 0, 2, 0, 0, 0]] {
        assert!(!found(&table).iter().any(Finding::is_equal));
    }
}

/// Of a text that one reference leads into and another to, all is compared.
#[test]
fn text_by_its_end_first() {
    let mut unit = Maker::new();
    // mov $text+6,%rdi; mov $text,%rsi; ret
    let mut held = [0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0x48, 0xc7, 0xc6, 0, 0, 0, 0, 0xc3];
    let (text, _) = unit.function("f", stb::GLOBAL, &held);
    let strings = unit.section(".rodata.str1.1", shf::MERGE | shf::STRINGS, b"forty two\0");
    let symbol = unit.symbol(".rodata.str1.1", stt::SECTION, stb::LOCAL, Place::Section(strings), 0);
    unit.reloc(text, 3, ABS32S, symbol, 6);
    unit.reloc(text, 10, ABS32S, symbol, 0);
    held[3..7].copy_from_slice(&(DATA as u32 + 6).to_le_bytes());
    held[10..14].copy_from_slice(&(DATA as u32).to_le_bytes());
    let symbols = [func("f", TEXT)];
    assert!(unit.verify(&symbols, &[(TEXT, &held), (DATA, b"forty two\0")])[0].is_equal());
    let found = unit.verify(&symbols, &[(TEXT, &held), (DATA, b"fifty two\0")]);
    assert_eq!(difference(&found[0]), (7, "the text is \"forty two\", in the kernel \"fifty two\""));
}

/// A local variable has to be the one of this file; one that another file has under the same name is not it.
#[test]
fn other_files_variable() {
    let mut unit = Maker::new();
    // incl count(%rip); ret
    let (text, _) = unit.function("f", stb::GLOBAL, &[0xff, 0x05, 0, 0, 0, 0, 0xc3]);
    let data = unit.section(".data.count", shf::WRITE, &[7, 0, 0, 0]);
    let count = unit.symbol("count", stt::OBJECT, stb::LOCAL, Place::Section(data), 4);
    unit.reloc(text, 2, PC32, count, -4);
    let symbols =
        [func("f", TEXT), local("count", DATA, SymbolKind::Object, 0), local("count", DATA + 4, SymbolKind::Object, 1)];
    let held = |at: u64| {
        let mut code = [0xff, 0x05, 0, 0, 0, 0, 0xc3];
        code[2..6].copy_from_slice(&(at.wrapping_sub(TEXT + 6) as u32).to_le_bytes());
        code
    };
    assert!(unit.verify(&symbols, &[(TEXT, &held(DATA)), (DATA, &[0; 8])])[0].is_equal());
    assert_eq!(difference(&unit.verify(&symbols, &[(TEXT, &held(DATA + 4)), (DATA, &[0; 8])])[0]).0, 0);
}

/// Of several functions of one name in files of one name, the code says which is ours.
#[test]
fn code_tells_namesakes_apart() {
    let mut unit = Maker::new();
    unit.function("init", stb::LOCAL, &[0x31, 0xc0, 0xc3]);
    let memory = Bytes(vec![(TEXT, vec![0x31, 0xd2, 0xc3, 0xcc, 0x31, 0xc0, 0xc3])]);
    let symbols = vec![local("init", TEXT, SymbolKind::Func, 0), local("init", TEXT + 4, SymbolKind::Func, 1)];
    let table = SymbolTable::new(symbols, vec!["unit.c".to_owned(); 2]);
    let found = check(&unit.0, &Loaded::new(Box::new(memory), Arc::new(table)));
    assert_eq!(found[0].outcome, Outcome::Equal { address: TEXT + 4 });
}

/// Code that ends with the image, and a function that the kernel lacks, are answers and no crash.
#[test]
fn cut_short() {
    let found = caller().verify(&[func("f", TEXT), func("__fentry__", TEXT - 16)], &[(TEXT, &HELD[..4])]);
    assert_eq!(difference(&found[0]), (4, "the image has no code here"));
    let found = caller().verify(&[], &[]);
    assert!(matches!(found[0].outcome, Outcome::NotFound { .. }));
}

/// A module's file is loaded as the kernel would: a unit is equal to the module it became.
#[test]
fn module() {
    let mut file = caller().0;
    file.sections[0].name = ".text".to_owned();
    let loaded = Loaded::module(&file).unwrap();
    assert!(check(&caller().0, &loaded)[0].is_equal());
    file.sections[0].relocs[1].symbol = file.sections[0].relocs[0].symbol;
    let loaded = Loaded::module(&file).unwrap();
    assert_eq!(difference(&check(&caller().0, &loaded)[0]), (14, "refers to `g`, the kernel to `__fentry__`"));
}

/// Symbols of a kernel that was moved at boot fit its image; symbols without addresses say so.
#[test]
fn moved_kernel() {
    let mut unit = Maker::new();
    unit.function("f", stb::GLOBAL, &[0x31, 0xc0, 0xc3]);
    let image = || Image::parse(smallest::elf(TEXT, &[0xcc, 0x31, 0xc0, 0xc3])).unwrap();
    let table = |text: u64, f: u64| Arc::new(SymbolTable::new(vec![func("_text", text), func("f", f)], Vec::new()));
    let moved = TEXT + 0x1a00_0000;
    let loaded = Loaded::kernel(image(), table(moved, moved + 1)).unwrap();
    assert_eq!(check(&unit.0, &loaded)[0].outcome, Outcome::Equal { address: TEXT + 1 });
    let hidden = Loaded::kernel(image(), table(0, 0)).map(|_| ()).unwrap_err();
    assert!(hidden.to_string().contains("kptr_restrict"), "{hidden}");
}

/// An ENDBR that boot overwrites is none, nor is one that is not there; a module without the list has nothing overwritten, and
/// memory of a kernel that runs shows what came of it, wherever FineIBT has put it.
#[test]
fn what_can_be_called_by_its_address() {
    const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let ibt = Gate { endbr: true, hash: None };
    let mut code = vec![0x90; 0x60];
    for at in [0x10, 0x30, 0x40] {
        code[at..at + 4].copy_from_slice(&ENDBR);
    }
    // Relative to itself, at DATA: `sealed`.
    let seal = (TEXT + 0x30).wrapping_sub(DATA) as i32;
    let memory = || Box::new(Bytes(vec![(TEXT, code.clone()), (DATA, seal.to_le_bytes().to_vec())]));
    let functions =
        [("open", 0x10), ("closed", 0x20), ("sealed", 0x30), ("fine", 0x50), ("twice", 0x10), ("twice", 0x20)];
    let mut symbols: Vec<KernelSymbol> = functions.iter().map(|(name, at)| func(name, TEXT + at)).collect();
    symbols.push(global("datum", DATA, SymbolKind::Object));
    let without = Arc::new(SymbolTable::new(symbols.clone(), Vec::new()));
    symbols.push(global("__ibt_endbr_seal", DATA, SymbolKind::Other));
    symbols.push(global("__ibt_endbr_seal_end", DATA + 4, SymbolKind::Other));
    let with = Arc::new(SymbolTable::new(symbols, Vec::new()));
    let image = Loaded::new(memory(), with.clone());
    for (name, sympos, expected) in [
        ("open", 0, Entry::Open),
        ("closed", 0, Entry::Closed),
        ("sealed", 0, Entry::Sealed),
        ("fine", 0, Entry::Closed),
        ("twice", 1, Entry::Open),
        ("twice", 2, Entry::Closed),
        ("twice", 0, Entry::Unknown),
        ("datum", 0, Entry::NoFunction),
        ("nothing", 0, Entry::Unknown),
    ] {
        assert_eq!(image.entry(name, sympos, ibt), expected, "{name},{sympos}");
    }
    assert_eq!(Loaded::new(memory(), without.clone()).entry("open", 0, ibt), Entry::Unknown);
    assert_eq!(Loaded::new(memory(), without.clone()).entry("closed", 0, ibt), Entry::Closed);
    let running = Loaded::new(memory(), with).as_running(Livepatches::default());
    assert_eq!(running.entry("fine", 0, ibt), Entry::Open);
    assert_eq!(running.entry("closed", 0, ibt), Entry::Closed);
}

/// Where hashes are compared, one has to stand where the configuration says; with FineIBT's prefix in its place a running kernel has
/// used it up.
#[test]
fn what_has_a_hash() {
    let mut code = vec![0x90; 0xa0];
    code[0x8a..0x90].copy_from_slice(&[0xeb, 0xbc, 0xcc, 0xcc, 0xcc, 0xcc]);
    code[0x10..0x15].copy_from_slice(&[0xb8, 1, 2, 3, 4]);
    code[0x3b..0x40].copy_from_slice(&[0xbf, 1, 2, 3, 4]);
    // The end of another function, where a hash would begin.
    code[0x70..0x78].copy_from_slice(&[0xb8, 1, 0, 0, 0, 0x5d, 0xc3, 0x90]);
    code[0x50..0x54].copy_from_slice(&[0xf3, 0x0f, 0x1e, 0xfa]);
    let functions = [("hashed", 0x20), ("closer", 0x40), ("fine", 0x60), ("behind", 0x80), ("jumped", 0x9b)];
    let table: Vec<KernelSymbol> = functions.iter().map(|(name, at)| func(name, TEXT + at)).collect();
    let mut names = table.clone();
    names.push(func("__cfi_hashed", TEXT + 0x10));
    let [table, names] = [table, names].map(|table| Arc::new(SymbolTable::new(table, Vec::new())));
    let memory = || Box::new(Bytes(vec![(TEXT, code.clone())]));
    let image = Loaded::new(memory(), table.clone());
    let running = Loaded::new(memory(), table).as_running(Livepatches::default());
    for (name, before, stored, in_memory) in [
        ("hashed", 16, Entry::Open, Entry::Open),
        ("hashed", 5, Entry::NoHash, Entry::NoHash),
        ("closer", 5, Entry::Open, Entry::Open),
        ("closer", 16, Entry::NoHash, Entry::NoHash),
        ("fine", 16, Entry::NoHash, Entry::Open),
        ("behind", 16, Entry::NoHash, Entry::Open),
        ("jumped", 16, Entry::Open, Entry::Open),
    ] {
        let gate = Gate { endbr: false, hash: Some(before) };
        assert_eq!(image.entry(name, 0, gate), stored, "{name}, {before} bytes before");
        assert_eq!(running.entry(name, 0, gate), in_memory, "{name}, {before} bytes before");
    }
    // The jump before the last one looks like a hash; where hashes have symbols, it has none.
    let gate = Gate { endbr: false, hash: Some(16) };
    let named = Loaded::new(memory(), names);
    assert_eq!((named.entry("hashed", 0, gate), named.entry("jumped", 0, gate)), (Entry::Open, Entry::NoHash));
    // Both are asked.
    let both = Gate { endbr: true, hash: Some(16) };
    assert_eq!(image.entry("hashed", 0, both), Entry::Closed);
}
