//! Does a field of the image refer to what the unit's reference means?
//!
//! In: a reference of the unit and the address that the image has in its place. Out: nothing, or what is wrong. Things
//! with a name are looked up in the symbol table; things without one (texts, constants, switch tables) have to have
//! the same contents where the image points to; what has neither name nor contents has to be in one place everywhere.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, hash_map};

use super::Loaded;
use super::entries::Entries;
use super::loaded::word;
use super::sites::Sites;
use crate::diff::atoms::{AtomId, Kind, Ref, Side, Target};
use crate::diff::closure::naming_offset;
use crate::elf::object::{stb, stt};
use crate::elf::{Place, Symbol};
use crate::kernel::locate::{Location, Locator, UnitSymbols, Wanted};
use crate::kernel::symtab::{self, Binding};

/// A PC-relative slot of the global offset table, and the forms that a linker may turn into something else
/// (x86-64 psABI, B.2): R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_REX_GOTPCRELX.
pub(super) const GOT_SLOTS: [u32; 3] = [9, 41, 42];

/// A unit, what the kernel holds, and what was learned of where its things are.
pub(super) struct Unit<'a, 'o> {
    pub(super) side: &'a Side<'o>,
    pub(super) loaded: &'a Loaded,
    locator: Locator<'a>,
    /// Places that the kernel rewrites.
    pub(super) sites: Sites,
    /// What tables say of places.
    pub(super) entries: Entries,
    /// Addresses of nameless writable data, from functions that are equal.
    known: RefCell<HashMap<AtomId, u64>>,
    /// Instruction starts of the functions that are equal: offset in the section -> address.
    pub(super) maps: RefCell<HashMap<AtomId, BTreeMap<u64, u64>>>,
    /// References into the middle of functions, which are right when that function's map says so.
    pub(super) later: RefCell<Vec<Later>>,
}

/// A reference into the middle of a function whose instructions are not all known yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Later {
    /// The function that has it.
    pub(super) from: AtomId,
    /// Offset in that function's section.
    pub(super) at: u64,
    /// The function it goes to, and where in its section.
    pub(super) to: AtomId,
    pub(super) offset: u64,
    /// Where it goes in the image.
    pub(super) address: u64,
}

/// Checks the references of one function.
#[derive(Clone)]
pub(super) struct Checker<'u, 'a, 'o> {
    unit: &'u Unit<'a, 'o>,
    /// Contents compared, or being compared, by where the image has them: from which byte on.
    compared: HashMap<(AtomId, u64), usize>,
    /// Places of nameless writable data.
    placed: HashMap<AtomId, u64>,
    /// The function, and the instruction in it that is being looked at.
    own: AtomId,
    pub(super) at: u64,
    later: Vec<Later>,
    /// Functions referred to that are parts of this one.
    pub(super) parts: Vec<AtomId>,
}

/// Where a function or datum of the unit is in the kernel.
pub(super) enum Where {
    /// Here; or at one of these places, and its name does not say which.
    At(Vec<u64>),
    /// Another unit's strong definition of this name took its place.
    Overridden,
    /// No such name.
    Missing,
}

impl<'a, 'o> Unit<'a, 'o> {
    pub(super) fn new(side: &'a Side<'o>, loaded: &'a Loaded, symbols: &'a UnitSymbols) -> Self {
        // Positions do not matter here, only addresses: the rule about init symbols of modules is for positions.
        let locator = Locator::new(&loaded.table, symbols, false);
        Unit {
            side,
            loaded,
            locator,
            sites: Sites::of(side),
            entries: Entries::of(side, loaded),
            known: RefCell::default(),
            maps: RefCell::default(),
            later: RefCell::default(),
        }
    }

    /// Where the table has an atom: the address of the symbol that names it.
    pub(super) fn locate(&self, atom: AtomId) -> Where {
        let Some(symbol) = self.side.atom(atom).symbols.first().map(|s| self.side.object.symbol(*s)) else {
            return Where::Missing;
        };
        let binding = match symbol.st_bind {
            stb::LOCAL => Binding::Local,
            stb::WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        let kind = match symbol.st_type {
            stt::FUNC => symtab::Kind::Func,
            stt::OBJECT => symtab::Kind::Object,
            _ => symtab::Kind::Other,
        };
        let wanted = Wanted { name: &symbol.name, binding, size: Some(symbol.st_size).filter(|s| *s > 0), kind };
        let address = |index: u32| self.loaded.table.symbols[index as usize].address;
        match self.locator.locate(&wanted) {
            Location::Located(found) if found.overridden => Where::Overridden,
            Location::Located(found) => Where::At(vec![address(found.index)]),
            Location::Ambiguous { candidates } => Where::At(candidates.into_iter().map(address).collect()),
            Location::Missing => Where::Missing,
        }
    }

    /// Addresses of a global symbol that the unit does not define.
    pub(super) fn global(&self, name: &str) -> Vec<u64> {
        let table = &self.loaded.table;
        let named = table.named(name).iter().map(|i| &table.symbols[*i as usize]);
        named
            .filter(|s| s.binding != Binding::Local || (s.kind == symtab::Kind::Other && table.files.is_empty()))
            .map(|s| s.address)
            .collect()
    }

    /// The address that a relocated field of the image has in it: what the unit's relocation would have put there
    /// less its adjustment, so that it is the address of the thing meant.
    pub(super) fn field(&self, r: &Ref, bytes: &[u8], at: u64) -> Option<u64> {
        let size = self.side.arch.field_size(r.reloc.r_type)?;
        let value = match size {
            8 => u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
            // R_X86_64_32 is zero-extended by whoever reads it, the others sign-extended.
            4 if r.reloc.r_type == 10 => u64::from(word(bytes)? as u32),
            4 => i64::from(word(bytes)?) as u64,
            1 => i64::from(bytes.first()?.cast_signed()) as u64,
            _ => return None,
        };
        let base = if self.side.arch.is_pc_relative(r.reloc.r_type) { at } else { 0 };
        Some(value.wrapping_add(base).wrapping_add_signed(r.adjust))
    }
}

impl<'u, 'a, 'o> Checker<'u, 'a, 'o> {
    pub(super) fn new(unit: &'u Unit<'a, 'o>, own: AtomId) -> Self {
        let (compared, placed) = (HashMap::new(), HashMap::new());
        Checker { unit, compared, placed, own, at: 0, later: Vec::new(), parts: Vec::new() }
    }

    /// Keeps what was learned: the function is equal.
    pub(super) fn commit(self) {
        self.unit.known.borrow_mut().extend(self.placed);
        self.unit.later.borrow_mut().extend(self.later);
    }

    /// Whether `address` is what a reference means; else what is wrong. `slot` is what the linker took off the
    /// reference when it turned a table slot into the thing itself.
    pub(super) fn check(&mut self, r: &Ref, address: u64, slot: i64) -> Result<(), String> {
        match r.target {
            Target::Nothing(addend) => {
                if address == addend as u64 {
                    Ok(())
                } else {
                    Err(format!("the constant is {address:#x}, not {addend:#x}"))
                }
            }
            Target::Symbol(id, addend) => {
                let base = address.wrapping_sub((addend + r.adjust + slot) as u64);
                self.symbol(self.unit.side.object.symbol(id), base)
            }
            Target::Atom(atom, offset) => self.atom(atom, offset + slot, address),
        }
    }

    fn symbol(&self, symbol: &Symbol, address: u64) -> Result<(), String> {
        let name = &symbol.name;
        if symbol.place == Place::Absolute {
            let right = address == symbol.st_value;
            return if right { Ok(()) } else { Err(format!("`{name}` is {address:#x}, not {:#x}", symbol.st_value)) };
        }
        let known = self.unit.global(name);
        if known.contains(&address) || known.is_empty() && symbol.st_bind == stb::WEAK && address == 0 {
            return Ok(());
        }
        if known.is_empty() {
            return Err(format!("refers to `{name}`, which the kernel does not have"));
        }
        Err(format!("refers to `{name}`, the kernel to `{}`", self.unit.loaded.describe(address)))
    }

    /// Whether a place in an atom is at this address.
    pub(super) fn atom(&mut self, atom: AtomId, offset: i64, address: u64) -> Result<(), String> {
        let side = self.unit.side;
        let naming = naming_offset(side, atom);
        let start = address.wrapping_sub(offset as u64);
        let kind = side.atom(atom).kind;
        let wrong = || {
            let at = if offset == naming { String::new() } else { format!("{:+#x}", offset - naming) };
            Err(format!("refers to `{}`{at}, the kernel to `{}`", side.name(atom), self.unit.loaded.describe(address)))
        };
        if matches!(kind, Kind::Function | Kind::Data) {
            let found = match self.unit.locate(atom) {
                Where::At(places) => Some(places.contains(&start.wrapping_add_signed(naming))),
                // References go to the definition that won.
                Where::Overridden => {
                    Some(self.unit.global(side.name(atom)).contains(&start.wrapping_add_signed(naming)))
                }
                Where::Missing => None,
            };
            if found == Some(false) {
                // A branch that the assembler made shorter moves what follows it.
                let middle = kind == Kind::Function && offset > naming && offset <= atom_length(side, atom);
                if !middle {
                    return wrong();
                }
                let offset = side.atom(atom).start + offset as u64;
                // To know its map, it has to be looked at as well.
                self.parts.push(atom);
                self.later.push(Later { from: self.own, at: self.at, to: atom, offset, address });
            }
            if kind == Kind::Function {
                // gcc's name for the part of a function that is seldom run.
                if side.name(atom).contains(".cold") {
                    self.parts.push(atom);
                }
                return if found.is_some() { Ok(()) } else { wrong() };
            }
            if found.is_some() && !side.is_private(atom) {
                return self.one_place(atom, start).or_else(|()| wrong());
            }
        }
        // What is freed after boot has no contents in a running kernel any more.
        if side.is_writable(atom) || side.bytes(atom).is_empty() || self.unit.loaded.is_freed(start) {
            return self.one_place(atom, start).or_else(|()| wrong());
        }
        // How far a table without a name reaches nothing says: where it is also pointed into its middle it was cut there.
        if side.whole_run(atom) == (atom, atom) {
            return self.contents(atom, offset.max(0) as u64, start);
        }
        side.anonymous_run(atom).into_iter().try_for_each(|part| {
            let apart = side.atom(part).start.wrapping_sub(side.atom(atom).start);
            self.contents(part, 0, start.wrapping_add(apart))
        })
    }

    /// What has no contents is at least in one place.
    fn one_place(&mut self, atom: AtomId, start: u64) -> Result<(), ()> {
        let known = self.unit.known.borrow().get(&atom).copied();
        let before = *self.placed.entry(atom).or_insert(known.unwrap_or(start));
        if before == start { Ok(()) } else { Err(()) }
    }

    /// Whether the image holds an atom's contents when the atom's start is at `start`. A text may be the tail of a
    /// longer one (the linker merges them), so what lies before `skip` is not looked at; anything else is there as a
    /// whole, wherever in it a reference leads.
    fn contents(&mut self, atom: AtomId, skip: u64, start: u64) -> Result<(), String> {
        let side = self.unit.side;
        let bytes = side.bytes(atom);
        let skip = if side.atom(atom).kind == Kind::Text { (skip as usize).min(bytes.len()) } else { 0 };
        match self.compared.entry((atom, start)) {
            hash_map::Entry::Occupied(before) if *before.get() <= skip => return Ok(()),
            // Another reference may lead to an earlier place of a text.
            entry => entry.insert_entry(skip),
        };
        let held = self.unit.loaded.from(start.wrapping_add(skip as u64));
        let first = side.atom(atom).start;
        let mut covered = vec![false; bytes.len()];
        for r in side.refs_of(atom) {
            let at = (r.reloc.r_offset - first) as usize;
            let size = side.arch.field_size(r.reloc.r_type).unwrap_or(0) as usize;
            if at < skip || size == 0 {
                continue;
            }
            covered[at..(at + size).min(bytes.len())].fill(true);
            let place = start.wrapping_add(at as u64);
            let value = held.get(at - skip..).and_then(|field| self.unit.field(r, field, place));
            let Some(value) = value else { return Err(format!("the kernel's `{}` is cut short", side.name(atom))) };
            self.check(r, value, 0).map_err(|why| format!("`{}`+{at:#x} {why}", side.name(atom)))?;
        }
        let differs = (skip..bytes.len()).find(|i| !covered[*i] && held.get(i - skip) != Some(&bytes[*i]));
        let Some(at) = differs else { return Ok(()) };
        Err(match side.atom(atom).kind {
            Kind::Text => format!("the text is {}, in the kernel {}", text(&bytes[skip..]), text(held)),
            _ => format!("constant data `{}` differs at +{at:#x}", side.name(atom)),
        })
    }
}

fn atom_length(side: &Side<'_>, atom: AtomId) -> i64 {
    (side.atom(atom).end - side.atom(atom).start) as i64
}

fn text(bytes: &[u8]) -> String {
    const LONGEST: usize = 60;
    let end = bytes.iter().take(LONGEST).position(|b| *b == 0).unwrap_or(bytes.len().min(LONGEST));
    format!("\"{}\"", String::from_utf8_lossy(&bytes[..end]).escape_debug())
}
