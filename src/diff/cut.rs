//! Cutting sections into atoms.
//!
//! In: an object's sections and symbols. Out: [`Side::atoms`], in order. Hard because not everything has a symbol: what
//! lies between named things is an atom without a name, and is cut where references point into it.

use super::arch;
use super::atoms::{Atom, AtomId, Kind, Ref, Side, Target, Treatment};
use super::entries;
use super::special::Rule;
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, SectionId, SymbolId};
use crate::error::{Reason, Refusal};

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
            of_symbol: vec![None; object.symbols.len()],
            treatments: object.sections.iter().map(Treatment::of).collect(),
            patchable: HashSet::default(),
            touched: HashSet::default(),
            private: Vec::new(),
            unread: HashMap::default(),
            problems: Vec::new(),
            has_exit: false,
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
        let reads = side.refs.iter().flatten().filter(|r| r.usage.is_access());
        let data = reads.filter_map(|r| if let Target::Atom(id, _) = r.target { Some(id) } else { None });
        side.touched = data.filter(|id| side.atom(*id).kind == Kind::Data && side.is_writable(*id)).collect();
        side.private = side.find_private();
        for (section, starts) in &prefixes {
            let found: Vec<AtomId> = starts.iter().filter_map(|at| side.find(*section, *at as i64)).collect();
            side.patchable.extend(found);
        }
        Some(side)
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
        let pieces = if section.data.is_empty() {
            // Without contents there is nothing to merge, and no entry to read, whatever the flags and the name say.
            self.cut_by_symbols(id, symbols, &[])
        } else if let Some(Rule::CodeTable(_) | Rule::RuntimeConst) = self.treatments[id.index()].rule {
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
            cut_constants(section.sh_size, section.sh_entsize)
        } else {
            self.cut_by_symbols(id, symbols, prefixes.get(&id).map_or(&[], Vec::as_slice))
        };
        pieces.into_iter().for_each(|piece| self.push_atom(id, piece));
    }

    fn push_atom(&mut self, section: SectionId, (start, end, kind, symbols): Piece) {
        let atom = AtomId(self.atoms.len() as u32);
        for symbol in &symbols {
            self.of_symbol[symbol.index()] = Some(atom);
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
            // A variable without bytes is none of the names of what happens to start where it does.
            let is_empty = |s: &mut SymbolId| {
                let symbol = self.object.symbol(*s);
                size > 0 && symbol.st_size == 0 && symbol.st_type == stt::OBJECT && !is_code
            };
            pieces.extend(group.extract_if(.., is_empty).map(|s| (value, value, Kind::Data, vec![s])));
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

    /// Cuts anonymous atoms at every place that a reference points to.
    pub(super) fn split_anonymous(&mut self, all: &[Vec<Ref>]) {
        let is_anonymous = |id: &AtomId| self.atom(*id).kind == Kind::Anonymous;
        let open: Vec<bool> = self.of_section.iter().map(|atoms| atoms.iter().any(is_anonymous)).collect();
        let mut cuts: Vec<Vec<u64>> = vec![Vec::new(); self.object.sections.len()];
        let from = self.object.sections.iter().map(|s| s.name.as_str());
        for (from, r) in from.zip(all).flat_map(|(from, refs)| refs.iter().map(move |r| (from, r))) {
            // A mark in the middle of something does not make two things of it.
            if from.starts_with(".discard.") {
                continue;
            }
            let Some(symbol) = r.reloc.symbol.map(|s| self.object.symbol(s)) else { continue };
            if let Place::Section(id) = symbol.place
                && open[id.index()]
            {
                // One replacement is what one alternative says it is.
                if self.object.section(id).name == ".altinstr_replacement" && from != ".altinstructions" {
                    continue;
                }
                let within = if symbol.st_type == stt::SECTION { r.reloc.r_addend + r.adjust } else { 0 };
                let offset = symbol.st_value as i64 + within;
                if let Ok(offset) = u64::try_from(offset) {
                    cuts[id.index()].push(offset);
                }
            }
        }
        for (section, mut offsets) in cuts.into_iter().enumerate().filter(|(_, offsets)| !offsets.is_empty()) {
            offsets.sort_unstable();
            offsets.dedup();
            let mut atoms = Vec::new();
            for atom in std::mem::take(&mut self.of_section[section]) {
                atoms.push(atom);
                if self.atom(atom).kind != Kind::Anonymous {
                    continue;
                }
                let (start, end) = (self.atom(atom).start, self.atom(atom).end);
                let mut last = atom;
                let inside = offsets.partition_point(|o| *o <= start)..offsets.partition_point(|o| *o < end);
                for cut in offsets[inside].iter().copied() {
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
            self.of_section[section] = atoms;
        }
    }
}

/// Start, end, kind, symbols.
type Piece = (u64, u64, Kind, Vec<SymbolId>);

/// Names of places that are no things of their own: padding before functions, local and mapping labels.
fn is_helper(name: &str) -> bool {
    ["__pfx_", "__cfi_", ".L", "$"].iter().any(|prefix| name.starts_with(prefix))
}

/// Constants of one size; what is left at the end is one as well, so that nothing of the section is lost.
fn cut_constants(len: u64, size: u64) -> Vec<Piece> {
    (0..len.div_ceil(size)).map(|i| (i * size, ((i + 1) * size).min(len), Kind::Constant, Vec::new())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::object::{Section, Symbol};

    /// Protects references to data that a strange section holds: what has a place in the object is found there, and is
    /// not taken for something from outside. No compiler makes such sections; files that are damaged have them.
    #[test]
    fn every_section_with_a_size_is_cut() {
        let merged = shf::ALLOC | shf::MERGE;
        let section = |name: &str, sh_flags: u64, entsize: u64, data: &[u8]| Section {
            name: name.to_owned(),
            sh_type: 1,
            sh_flags,
            sh_size: 20,
            sh_addralign: 8,
            sh_entsize: entsize,
            data: data.to_vec(),
            ..Section::default()
        };
        let object = Object {
            e_machine: 62,
            is_64: true,
            little_endian: true,
            sections: vec![
                section(".bss.text", merged | shf::STRINGS, 1, &[]),
                section(".bss.constants", merged, 8, &[]),
                section("__bug_table", shf::ALLOC, 0, &[]),
                section(".rodata.cst8", merged, 8, &[1; 20]),
                section(".rodata.cst32", merged, 32, &[1; 20]),
            ],
            symbols: (0..5).map(symbol).collect(),
            ..Object::default()
        };
        let side = Side::new(&object).expect("x86-64 is known");
        for id in object.section_ids() {
            let last = side.of_section[id.index()].last().map(|atom| side.atom(*atom).end);
            assert_eq!(last, Some(20), "`{}`", object.section(id).name);
        }
    }

    fn symbol(section: u32) -> Symbol {
        Symbol {
            name: format!("table{section}"),
            st_value: 0,
            st_size: 20,
            st_type: stt::OBJECT,
            st_bind: stb::GLOBAL,
            st_other: 0,
            place: Place::Section(SectionId(section)),
            file: None,
        }
    }
}
