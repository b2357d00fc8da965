//! An object cut into atoms: the smallest things that can be compared, kept or carried on their own.
//!
//! In: one [`Object`]. Out: a [`Side`]: its atoms (functions, data, string literals, merged constants,
//! entries of special sections, anonymous runs) and, for every relocation, the atom and offset it
//! means. Hard because compilers refer to most things through *section* symbols plus an offset, and
//! the offset a PC-relative field means depends on the instruction around it. How sections are cut is in [`super::cut`],
//! what relocations mean in [`super::refs`].

use super::arch::{Arch, Use};
use super::names;
use super::special::{self, Rule};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, Reloc, Section, SectionId, Symbol, SymbolId};
use crate::error::Refusal;

/// Index of an atom in [`Side::atoms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AtomId(pub u32);

impl AtomId {
    /// The position in the atom list.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an atom is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A function, with the padding before it that belongs to it.
    Function,
    /// Named data.
    Data,
    /// One NUL-terminated text of a string section.
    Text,
    /// One element of a merged constant section.
    Constant,
    /// Bytes that no symbol covers.
    Anonymous,
    /// An entry of a special section.
    Entry,
}

/// One atom.
#[derive(Debug, Clone)]
pub struct Atom {
    /// Section it lies in.
    pub section: SectionId,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
    /// The symbol that names it, and its aliases after it.
    pub symbols: Vec<SymbolId>,
    /// First and one past the last relocation of its section that lie in it, once sorted by offset.
    pub relocs: (u32, u32),
}

/// What a relocation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A place in an atom; the offset may lie outside of it, as compilers bias table bases.
    Atom(AtomId, i64),
    /// A symbol that the object does not define, plus an addend.
    Symbol(SymbolId, i64),
    /// The null symbol.
    Nothing(i64),
}

/// A relocation with what it means.
#[derive(Debug, Clone, Copy)]
pub struct Ref {
    /// The relocation as the file (or the decoder, for a hidden branch) has it.
    pub reloc: Reloc,
    /// What it means.
    pub target: Target,
    /// How the instruction around it uses it; `Address` in data.
    pub usage: Use,
    /// Start of that instruction; the field itself in data.
    pub insn: u64,
    /// What must be added to the addend to get the target's offset.
    pub adjust: i64,
}

/// What a section's name says of the atoms in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Treatment {
    pub(super) rule: Option<Rule>,
    is_init: bool,
    is_writable: bool,
}

impl Treatment {
    pub(super) fn of(section: &Section) -> Treatment {
        Treatment {
            rule: special::rule(&section.name),
            is_init: names::is_init_section(&section.name),
            // Constants with addresses in them are only writable until they are relocated.
            is_writable: section.sh_flags & shf::WRITE != 0 && !section.name.starts_with(".data.rel.ro"),
        }
    }
}

/// One object, cut up.
pub struct Side<'o> {
    /// The object.
    pub object: &'o Object,
    /// Its architecture.
    pub arch: &'static dyn Arch,
    /// All atoms, by section and start.
    pub atoms: Vec<Atom>,
    /// Atoms of each section, in order of their start.
    pub of_section: Vec<Vec<AtomId>>,
    /// References of each section, sorted by offset.
    pub refs: Vec<Vec<Ref>>,
    /// By symbol: the atom it names or lies in.
    pub(super) of_symbol: Vec<Option<AtomId>>,
    /// By section: what its name says. Asked for every atom, many times over.
    pub(super) treatments: Vec<Treatment>,
    /// Functions that `__patchable_function_entries` lists.
    pub patchable: HashSet<AtomId>,
    /// Writable data that an instruction reads or writes itself.
    pub(super) touched: HashSet<AtomId>,
    /// By atom: what [`Side::is_private`] says. Asked for every reference.
    pub(super) private: Vec<bool>,
    /// Code that shares its section and was not read to its end, and where that stops: it may lead to its neighbours.
    pub(super) unread: HashMap<AtomId, u64>,
    /// What could not be cut or read.
    pub problems: Vec<Refusal>,
    /// Code for unloading is there while the module is.
    pub(super) has_exit: bool,
}

impl<'o> Side<'o> {
    /// The atom with this id.
    pub fn atom(&self, id: AtomId) -> &Atom {
        &self.atoms[id.index()]
    }

    /// Ids of all atoms.
    pub fn ids(&self) -> impl Iterator<Item = AtomId> + use<> {
        (0..self.atoms.len() as u32).map(AtomId)
    }

    /// References inside an atom, by offset.
    pub fn refs_of(&self, id: AtomId) -> &[Ref] {
        let atom = self.atom(id);
        &self.refs[atom.section.index()][atom.relocs.0 as usize..atom.relocs.1 as usize]
    }

    /// The bytes of an atom; empty where the section has none in the file.
    pub fn bytes(&self, id: AtomId) -> &'o [u8] {
        let atom = self.atom(id);
        self.object.section(atom.section).data.get(atom.start as usize..atom.end as usize).unwrap_or(&[])
    }

    /// The atom's name, or a description of it where it has none.
    pub fn name(&self, id: AtomId) -> &'o str {
        let atom = self.atom(id);
        match atom.symbols.first() {
            Some(symbol) => &self.object.symbol(*symbol).name,
            None => &self.object.section(atom.section).name,
        }
    }

    /// Name of the section an atom lies in.
    pub fn section_name(&self, id: AtomId) -> &'o str {
        &self.object.section(self.atom(id).section).name
    }

    fn treatment(&self, id: AtomId) -> &Treatment {
        &self.treatments[self.atom(id).section.index()]
    }

    /// Whether the atom's section is writable.
    pub fn is_writable(&self, id: AtomId) -> bool {
        self.treatment(id).is_writable
    }

    /// The atom a symbol names or lies in.
    pub fn of_symbol(&self, id: SymbolId) -> Option<AtomId> {
        self.of_symbol.get(id.index()).copied().flatten()
    }

    /// The symbol that clang gives to the hash of a function's type, which it puts before the function where its address may be taken
    /// (`-fsanitize=kcfi`).
    pub fn hash_symbol(&self, function: AtomId) -> Option<SymbolId> {
        let Atom { section, start, end, .. } = *self.atom(function);
        let is_inside = |s: &Symbol| s.place == Place::Section(section) && (start..end).contains(&s.st_value);
        self.object.symbol_ids().find(|id| {
            let symbol = self.object.symbol(*id);
            symbol.name.starts_with("__cfi_") && is_inside(symbol)
        })
    }

    /// Whether a symbol of the atom can be seen from other units.
    pub fn is_global(&self, id: AtomId) -> bool {
        self.atom(id).symbols.iter().any(|s| self.object.symbol(*s).st_bind != stb::LOCAL)
    }

    /// Whether the atom is a function for the kernel: assembly also has code under mere labels.
    pub fn is_function(&self, id: AtomId) -> bool {
        let atom = self.atom(id);
        atom.kind == Kind::Function && atom.symbols.iter().any(|s| self.object.symbol(*s).st_type == stt::FUNC)
    }

    /// Name of the source file (STT_FILE) a local atom belongs to.
    pub fn file(&self, id: AtomId) -> Option<&'o str> {
        let file = self.object.symbol(*self.atom(id).symbols.first()?).file?;
        Some(&self.object.symbol(file).name)
    }

    /// The rule for the atom's section, where it is special.
    pub fn rule(&self, id: AtomId) -> Option<Rule> {
        self.treatment(id).rule
    }

    /// All anonymous atoms that touch this one, in order: a table that is also pointed into its middle was
    /// cut there, and must stay in one piece when it is carried.
    pub fn anonymous_run(&self, id: AtomId) -> Vec<AtomId> {
        let all = &self.of_section[self.atom(id).section.index()];
        let start = self.atom(id).start;
        let at = all.partition_point(|a| self.atom(*a).start < start);
        let at = all[at..].iter().position(|a| *a == id).map_or(0, |i| at + i);
        let anonymous = |i: &usize| self.atom(all[*i]).kind == Kind::Anonymous;
        let first = (0..at).rev().take_while(anonymous).last().unwrap_or(at);
        let last = (at..all.len()).take_while(anonymous).last().unwrap_or(at);
        all[first..=last].to_vec()
    }

    /// Start and end of what must be compared to know an atom's contents. A table without a name that is also pointed
    /// into its middle was cut there, and how far it reaches nothing says: so the whole run counts. Code and replacement
    /// code without names is as long as whoever refers to it says.
    pub fn extent(&self, id: AtomId) -> (u64, u64) {
        let (first, last) = self.whole_run(id);
        (self.atom(first).start, self.atom(last).end)
    }

    /// The first and the last atom of that extent.
    pub fn whole_run(&self, id: AtomId) -> (AtomId, AtomId) {
        let atom = self.atom(id);
        let is_code = self.object.section(atom.section).sh_flags & shf::EXECINSTR != 0;
        if atom.kind != Kind::Anonymous || is_code || self.rule(id).is_some() {
            return (id, id);
        }
        let run = self.anonymous_run(id);
        (run.first().copied().unwrap_or(id), run.last().copied().unwrap_or(id))
    }

    /// Bytes of a part of a section; empty where the section has none in the file.
    pub fn bytes_between(&self, section: SectionId, (start, end): (u64, u64)) -> &'o [u8] {
        self.object.section(section).data.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// References in a part of a section, by offset.
    pub fn refs_between(&self, section: SectionId, (start, end): (u64, u64)) -> &[Ref] {
        let refs = &self.refs[section.index()];
        let at = |place: u64| refs.partition_point(|r| r.reloc.r_offset < place);
        &refs[at(start)..at(end)]
    }

    /// The atom that covers this place, or the last one that ends there.
    pub fn find(&self, section: SectionId, offset: i64) -> Option<AtomId> {
        let ids = &self.of_section[section.index()];
        if offset < 0 {
            return ids.first().copied();
        }
        let after = ids.partition_point(|id| self.atom(*id).start <= offset as u64);
        ids[..after].last().copied().or_else(|| ids.first().copied())
    }

    /// Whether the atom's code or data is gone once boot or load is over.
    pub fn is_init(&self, id: AtomId) -> bool {
        self.treatment(id).is_init
    }

    /// Whether the running kernel has no such code or data any more, or never had it.
    pub fn is_gone(&self, id: AtomId) -> bool {
        self.is_init(id) || (!self.has_exit && names::is_exit_section(self.section_name(id)))
    }

    fn has_state(&self, id: AtomId) -> bool {
        let atom = self.atom(id);
        names::has_state(self.name(id), self.section_name(id), atom.end - atom.start, self.touched.contains(&id))
    }

    /// Whether the datum is compared by content and carried as a copy.
    pub fn is_private(&self, id: AtomId) -> bool {
        self.private[id.index()]
    }

    /// The same for all atoms, by their names and sections, once it is known what instructions touch.
    pub(super) fn find_private(&self) -> Vec<bool> {
        self.ids().map(|id| self.has_private_name(id)).collect()
    }

    fn has_private_name(&self, id: AtomId) -> bool {
        let atom = self.atom(id);
        match atom.kind {
            Kind::Function => false,
            // What is registered is known by its content and by its section, and belongs to no one's code.
            Kind::Data => {
                self.rule(id) != Some(Rule::Registration)
                    && !self.is_global(id)
                    && names::is_private(self.name(id), self.section_name(id), self.is_writable(id))
                    && !(self.is_writable(id) && self.has_state(id))
            }
            Kind::Text | Kind::Constant | Kind::Anonymous | Kind::Entry => true,
        }
    }
}
