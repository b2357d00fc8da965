//! An object cut into atoms: the smallest things that can be compared, kept or carried on their own.
//!
//! In: one [`Object`]. Out: a [`Side`]: its atoms (functions, data, string literals, merged constants,
//! entries of special sections, anonymous runs) and, for every relocation, the atom and offset it
//! means. Hard because compilers refer to most things through *section* symbols plus an offset, and
//! the offset a PC-relative field means depends on the instruction around it.

use super::arch::{self, Arch, Site, Use};
use super::special::{self, Rule};
use super::{entries, names};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, Reloc, SectionId, SymbolId};
use crate::error::{Reason, Refusal};

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
    /// The atom each defined symbol names or lies in.
    pub of_symbol: HashMap<SymbolId, AtomId>,
    /// Functions that `__patchable_function_entries` lists.
    pub patchable: HashSet<AtomId>,
    /// What could not be cut or read.
    pub problems: Vec<Refusal>,
}

impl<'o> Side<'o> {
    /// Cuts an object into atoms.
    pub fn new(object: &'o Object) -> Option<Side<'o>> {
        let arch = arch::of(object)?;
        let mut side = Side {
            object,
            arch,
            atoms: Vec::new(),
            of_section: vec![Vec::new(); object.sections.len()],
            refs: vec![Vec::new(); object.sections.len()],
            of_symbol: HashMap::default(),
            patchable: HashSet::default(),
            problems: Vec::new(),
        };
        let mut symbols_of = vec![Vec::new(); object.sections.len()];
        for id in object.symbol_ids() {
            let symbol = object.symbol(id);
            if let Place::Section(section) = symbol.place
                && symbol.st_type != stt::SECTION
                && symbol.st_type != stt::FILE
            {
                symbols_of[section.index()].push(id);
            }
        }
        let prefixes = side.prefix_starts();
        for id in object.section_ids() {
            side.cut_section(id, &symbols_of[id.index()], &prefixes);
        }
        side.resolve_references();
        for (section, starts) in &prefixes {
            let found: Vec<AtomId> = starts.iter().filter_map(|at| side.find(*section, *at as i64)).collect();
            side.patchable.extend(found);
        }
        Some(side)
    }

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

    /// Whether the atom's section is writable.
    pub fn is_writable(&self, id: AtomId) -> bool {
        let section = self.object.section(self.atom(id).section);
        // Constants with addresses in them are only writable until they are relocated.
        section.sh_flags & shf::WRITE != 0 && !section.name.starts_with(".data.rel.ro")
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
        special::rule(self.section_name(id))
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

    /// The atom that covers this place, or the last one that ends there.
    pub fn find(&self, section: SectionId, offset: i64) -> Option<AtomId> {
        let ids = &self.of_section[section.index()];
        if offset < 0 {
            return ids.first().copied();
        }
        let after = ids.partition_point(|id| self.atom(*id).start <= offset as u64);
        ids[..after].last().copied().or_else(|| ids.first().copied())
    }

    /// Where patchable padding starts before functions: section -> offsets that such entries point to.
    fn prefix_starts(&self) -> HashMap<SectionId, Vec<u64>> {
        let mut starts: HashMap<SectionId, Vec<u64>> = HashMap::default();
        for section in self.object.sections.iter().filter(|s| s.name == "__patchable_function_entries") {
            for reloc in &section.relocs {
                if let Some(symbol) = reloc.symbol.map(|s| self.object.symbol(s))
                    && let Place::Section(id) = symbol.place
                {
                    starts.entry(id).or_default().push(symbol.st_value.wrapping_add_signed(reloc.r_addend));
                }
            }
        }
        for symbol in &self.object.symbols {
            if let Place::Section(id) = symbol.place
                && (symbol.name.starts_with("__cfi_") || symbol.name.starts_with("__pfx_"))
            {
                starts.entry(id).or_default().push(symbol.st_value);
            }
        }
        starts.values_mut().for_each(|s| s.sort_unstable());
        starts
    }

    fn cut_section(&mut self, id: SectionId, symbols: &[SymbolId], prefixes: &HashMap<SectionId, Vec<u64>>) {
        let section = self.object.section(id);
        if section.sh_size == 0 {
            // A type without members has no bytes, and still an address (lock classes without lockdep).
            let named: Vec<SymbolId> =
                symbols.iter().copied().filter(|s| self.object.symbol(*s).st_type == stt::OBJECT).collect();
            if !named.is_empty() {
                self.push_atom(id, (0, 0, Kind::Data, named));
            }
            return;
        }
        let pieces = if let Some(Rule::CodeTable(_) | Rule::RuntimeConst) = special::rule(&section.name) {
            match entries::size(self.object, id) {
                Some(size) => (0..section.data.len() as u64 / size)
                    .map(|i| (i * size, (i + 1) * size, Kind::Entry, Vec::new()))
                    .collect(),
                None => {
                    self.problems.push(
                        Refusal::new(
                            Reason::UnknownSection,
                            format!("the entries of `{}` cannot be told apart", section.name),
                            "report this kernel's section layout; nothing can be done in the patch",
                        )
                        .at(&section.name, 0),
                    );
                    return;
                }
            }
        } else if section.sh_flags & shf::STRINGS != 0 && section.sh_flags & shf::MERGE != 0 {
            cut_texts(&section.data, section.sh_entsize.max(1))
        } else if section.sh_flags & shf::MERGE != 0 && section.sh_entsize > 0 {
            let size = section.sh_entsize;
            (0..section.data.len() as u64 / size)
                .map(|i| (i * size, (i + 1) * size, Kind::Constant, Vec::new()))
                .collect()
        } else {
            self.cut_by_symbols(id, symbols, prefixes.get(&id).map_or(&[], Vec::as_slice))
        };
        pieces.into_iter().for_each(|piece| self.push_atom(id, piece));
    }

    fn push_atom(&mut self, section: SectionId, (start, end, kind, symbols): Piece) {
        let atom = AtomId(self.atoms.len() as u32);
        for symbol in &symbols {
            self.of_symbol.insert(*symbol, atom);
        }
        self.atoms.push(Atom { section, start, end, kind, symbols, relocs: (0, 0) });
        self.of_section[section.index()].push(atom);
    }

    /// Functions and data by their symbols; what lies between them is anonymous.
    fn cut_by_symbols(&self, id: SectionId, symbols: &[SymbolId], prefixes: &[u64]) -> Vec<Piece> {
        let section = self.object.section(id);
        let is_code = section.sh_flags & shf::EXECINSTR != 0;
        let mut named: Vec<SymbolId> = symbols
            .iter()
            .copied()
            .filter(|s| {
                let symbol = self.object.symbol(*s);
                let label = symbol.st_type == stt::NOTYPE && symbol.st_size == 0 && is_code;
                matches!(symbol.st_type, stt::FUNC | stt::OBJECT | stt::NOTYPE) && !label && !is_helper(&symbol.name)
            })
            .collect();
        // The first of several at one place names the atom: a global one, if there is one, else as in the file.
        named.sort_by_key(|s| {
            let symbol = self.object.symbol(*s);
            (symbol.st_value, symbol.st_bind == stb::LOCAL, symbol.st_bind == stb::WEAK, s.0)
        });
        let is_code = section.sh_flags & shf::EXECINSTR != 0;
        let alone = named.first().map(|s| self.object.symbol(*s).st_value)
            == named.last().map(|s| self.object.symbol(*s).st_value);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = 0;
        let mut i = 0;
        while i < named.len() {
            let value = self.object.symbol(named[i]).st_value;
            let mut group = vec![named[i]];
            i += 1;
            while i < named.len() && self.object.symbol(named[i]).st_value == value {
                group.push(named[i]);
                i += 1;
            }
            let size = group.iter().map(|s| self.object.symbol(*s).st_size).max().unwrap_or(0);
            let next = named.get(i).map_or(section.sh_size, |s| self.object.symbol(*s).st_value);
            let mut end = if size == 0 { next } else { (value + size).min(section.sh_size) };
            // A symbol inside another one (an alias of its tail) does not cut it.
            if value < at {
                if let Some(last) = pieces.last_mut() {
                    last.3.extend(group);
                    last.1 = last.1.max(end);
                    at = at.max(end);
                }
                continue;
            }
            let mut start = value;
            if is_code {
                let first = prefixes.partition_point(|p| *p < at);
                start = prefixes.get(first).copied().filter(|p| *p <= value).unwrap_or(value);
            }
            // Zeros up to the next thing's alignment are padding; more of them are data without a name.
            let gap_is_padding = section.data.get(at as usize..start as usize).is_none_or(|gap| {
                is_code || (gap.iter().all(|b| *b == 0) && (gap.len() as u64) < section.sh_addralign.max(1))
            });
            if start > at && !gap_is_padding {
                pieces.push((at, start, Kind::Anonymous, Vec::new()));
            }
            // A lone function owns its whole section, the padding around it included.
            if is_code && alone {
                start = 0;
                end = section.sh_size;
            }
            let kind = if is_code { Kind::Function } else { Kind::Data };
            pieces.push((start, end, kind, group));
            at = end;
        }
        let tail = section.data.get(at as usize..).unwrap_or(&[]);
        let is_padding = tail.iter().all(|b| *b == 0) && (is_code || (tail.len() as u64) < section.sh_addralign.max(1));
        if at < section.sh_size && (pieces.is_empty() || !is_padding) {
            pieces.push((at, section.sh_size, Kind::Anonymous, Vec::new()));
        }
        pieces
    }

    /// Resolves all relocations, then splits anonymous runs where references point into them.
    fn resolve_references(&mut self) {
        let mut all = Vec::with_capacity(self.object.sections.len());
        for id in self.object.section_ids() {
            all.push(self.raw_refs(id));
        }
        self.split_anonymous(&all);
        for (id, raw) in self.object.section_ids().zip(all) {
            let mut refs: Vec<Ref> = raw.into_iter().map(|(reloc, site)| self.resolve(reloc, site)).collect();
            if self.object.section(id).name == ".altinstructions" {
                self.drop_empty_replacements(id, &mut refs);
            }
            for atom in self.of_section[id.index()].clone() {
                let (start, end) = (self.atom(atom).start, self.atom(atom).end);
                let first = refs.partition_point(|r| r.reloc.r_offset < start);
                let last = refs.partition_point(|r| r.reloc.r_offset < end);
                self.atoms[atom.index()].relocs = (first as u32, last as u32);
            }
            self.refs[id.index()] = refs;
        }
    }

    fn raw_refs(&self, id: SectionId) -> Vec<(Reloc, Site)> {
        let section = self.object.section(id);
        let data_site = |r: &Reloc| Site { adjust: 0, usage: Use::Address, insn: r.r_offset };
        let mut out: Vec<(Reloc, Site)>;
        if section.sh_flags & shf::EXECINSTR != 0 && !section.name.starts_with(".altinstr") {
            let functions: Vec<(u64, u64)> = self.of_section[id.index()]
                .iter()
                .map(|a| self.atom(*a))
                .map(|a| {
                    let code = a.symbols.first().map_or(a.start, |s| self.object.symbol(*s).st_value);
                    (code.max(a.start), a.end)
                })
                .collect();
            let sites: HashMap<u64, Site> = self.arch.sites(section, &functions).into_iter().collect();
            out = section
                .relocs
                .iter()
                .map(|r| {
                    let fallback = if self.arch.is_pc_relative(r.r_type) { 4 } else { 0 };
                    let default = Site { adjust: fallback, usage: Use::Address, insn: r.r_offset };
                    (*r, sites.get(&r.r_offset).copied().unwrap_or(default))
                })
                .collect();
            if functions.len() > 1 {
                let symbol = self.object.symbol_ids().find(|s| {
                    let s = self.object.symbol(*s);
                    s.st_type == stt::SECTION && s.place == Place::Section(id)
                });
                for hidden in self.arch.hidden_branches(section, &functions) {
                    // Without a section symbol, the function symbol at the target serves as well.
                    let named = self.find(id, hidden.target as i64).and_then(|a| self.atom(a).symbols.first().copied());
                    let Some(symbol) = symbol.or(named) else { continue };
                    let base = self.object.symbol(symbol).st_value;
                    let reloc = Reloc {
                        r_offset: hidden.r_offset,
                        r_type: hidden.r_type,
                        symbol: Some(symbol),
                        r_addend: hidden.target as i64 - base as i64 + hidden.bias,
                    };
                    let site = Site { adjust: -hidden.bias, usage: Use::Branch, insn: hidden.r_offset };
                    out.push((reloc, site));
                }
            }
        } else {
            // A replacement instruction is never split from its relocations' meaning: PC32 there is call or jump.
            let replacement = section.name.starts_with(".altinstr_");
            out = section
                .relocs
                .iter()
                .map(|r| {
                    let mut site = data_site(r);
                    if replacement && self.arch.is_pc_relative(r.r_type) {
                        site.adjust = 4;
                        site.usage = Use::Branch;
                    }
                    (*r, site)
                })
                .collect();
        }
        out.sort_by_key(|(r, _)| r.r_offset);
        out
    }

    /// An alternative whose replacement is empty points at whatever follows: that reference means nothing.
    /// The replacement's length is the last byte of `struct alt_instr` (arch/x86/include/asm/alternative.h).
    fn drop_empty_replacements(&self, id: SectionId, refs: &mut [Ref]) {
        for entry in self.of_section[id.index()].iter().map(|a| self.atom(*a)) {
            if self.object.section(id).data.get(entry.end as usize - 1) == Some(&0) {
                let inside = |r: &&mut Ref| (entry.start..entry.end).contains(&r.reloc.r_offset);
                for r in refs.iter_mut().filter(inside).skip(1) {
                    r.target = Target::Nothing(0);
                }
            }
        }
    }

    /// Cuts anonymous atoms at every place that a reference points to.
    fn split_anonymous(&mut self, all: &[Vec<(Reloc, Site)>]) {
        let mut cuts: HashMap<SectionId, Vec<u64>> = HashMap::default();
        let from = self.object.sections.iter().map(|s| s.name.as_str());
        for (from, (reloc, site)) in from.zip(all).flat_map(|(from, refs)| refs.iter().map(move |r| (from, r))) {
            // A mark in the middle of something does not make two things of it.
            if from.starts_with(".discard.") {
                continue;
            }
            let Some(symbol) = reloc.symbol.map(|s| self.object.symbol(s)) else { continue };
            if let Place::Section(id) = symbol.place {
                // One replacement is what one alternative says it is.
                if self.object.section(id).name == ".altinstr_replacement" && from != ".altinstructions" {
                    continue;
                }
                let within = if symbol.st_type == stt::SECTION { reloc.r_addend + site.adjust } else { 0 };
                let offset = symbol.st_value as i64 + within;
                if let Ok(offset) = u64::try_from(offset) {
                    cuts.entry(id).or_default().push(offset);
                }
            }
        }
        for (id, mut offsets) in cuts {
            if !self.of_section[id.index()].iter().any(|a| self.atom(*a).kind == Kind::Anonymous) {
                continue;
            }
            offsets.sort_unstable();
            offsets.dedup();
            let mut atoms = Vec::new();
            for atom in std::mem::take(&mut self.of_section[id.index()]) {
                atoms.push(atom);
                if self.atom(atom).kind != Kind::Anonymous {
                    continue;
                }
                let (start, end) = (self.atom(atom).start, self.atom(atom).end);
                let mut last = atom;
                for cut in offsets.iter().copied().filter(|o| *o > start && *o < end) {
                    let new = AtomId(self.atoms.len() as u32);
                    let mut piece = self.atom(last).clone();
                    self.atoms[last.index()].end = cut;
                    piece.start = cut;
                    piece.end = end;
                    self.atoms.push(piece);
                    atoms.push(new);
                    last = new;
                }
            }
            self.of_section[id.index()] = atoms;
        }
    }

    fn resolve(&self, reloc: Reloc, site: Site) -> Ref {
        let target = match reloc.symbol {
            None => Target::Nothing(reloc.r_addend),
            Some(id) => {
                let symbol = self.object.symbol(id);
                match symbol.place {
                    Place::Section(section) if symbol.st_type != stt::SECTION && self.of_symbol.contains_key(&id) => {
                        let atom = self.of_symbol[&id];
                        debug_assert_eq!(self.atom(atom).section, section);
                        let offset = symbol.st_value as i64 - self.atom(atom).start as i64;
                        Target::Atom(atom, offset + reloc.r_addend + site.adjust)
                    }
                    Place::Section(section) => {
                        // A label means what lies at it, however far the addend leads: `"0123"[i - 20]` becomes `.LC0-20`,
                        // which gas leaves so for merged sections (gas/write.c, adjust_reloc_syms).
                        let base = symbol.st_value as i64;
                        let offset = base + reloc.r_addend + site.adjust;
                        let meant = if symbol.st_type == stt::SECTION { offset } else { base };
                        match self.find(section, meant) {
                            Some(atom) => Target::Atom(atom, offset - self.atom(atom).start as i64),
                            None => Target::Symbol(id, reloc.r_addend),
                        }
                    }
                    _ => Target::Symbol(id, reloc.r_addend),
                }
            }
        };
        Ref { reloc, target, usage: site.usage, insn: site.insn, adjust: site.adjust }
    }

    /// Whether the atom's code or data is gone once boot or load is over.
    pub fn is_init(&self, id: AtomId) -> bool {
        names::is_init_section(self.section_name(id))
    }

    /// Whether the datum is compared by content and carried as a copy.
    pub fn is_private(&self, id: AtomId) -> bool {
        let atom = self.atom(id);
        match atom.kind {
            Kind::Function => false,
            // What is registered is known by its content and by its section, and belongs to no one's code.
            Kind::Data => {
                self.rule(id) != Some(Rule::Registration)
                    && !self.is_global(id)
                    && names::is_private(self.name(id), self.section_name(id), self.is_writable(id))
            }
            Kind::Text | Kind::Constant | Kind::Anonymous | Kind::Entry => true,
        }
    }
}

/// Start, end, kind, symbols.
type Piece = (u64, u64, Kind, Vec<SymbolId>);

/// Names of places that are no things of their own: padding before functions, local and mapping labels.
fn is_helper(name: &str) -> bool {
    ["__pfx_", "__cfi_", ".L", "$"].iter().any(|prefix| name.starts_with(prefix))
}

fn cut_texts(data: &[u8], width: u64) -> Vec<Piece> {
    let width = width as usize;
    let mut pieces = Vec::new();
    let mut start = 0;
    for at in (0..data.len()).step_by(width) {
        let end = (at + width).min(data.len());
        if data[at..end].iter().all(|b| *b == 0) {
            pieces.push((start as u64, end as u64, Kind::Text, Vec::new()));
            start = end;
        }
    }
    if start < data.len() {
        pieces.push((start as u64, data.len() as u64, Kind::Text, Vec::new()));
    }
    pieces
}
