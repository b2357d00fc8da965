//! What travels -> a patch object: one relocatable file per unit, ready for the module link.
//!
//! In: a diff, its closure and the resolved symbols. Out: an [`elf::Object`](crate::elf::Object) with
//! each function in `.text.NAME`, data in sections of its own name, and every outside reference named
//! for how it is resolved; beside it, which of its functions replace what. Relocation fields are
//! zeroed: the x86 loader refuses anything else there (arch/x86/kernel/module.c).

mod references;

use std::collections::BTreeMap;

use super::states::{self, State};
use crate::diff::atoms::{AtomId, Kind, Side};
use crate::diff::closure::{Closure, Outside};
use crate::diff::names;
use crate::diff::special::Rule;
use crate::diff::verdict::{Diff, FunctionVerdict, Verdict};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{sht, stb, stt};
use crate::elf::{Object, Place, Section, SectionId, Symbol, SymbolId};
use crate::error::Refusal;
use crate::reloc::{Resolution, Resolved};

/// A function that replaces one of the kernel's.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// Name of the kernel's function, as kallsyms has it.
    pub old_name: String,
    /// Its position among its namesakes; 0 when unique.
    pub sympos: u32,
    /// The new function's symbol in the patch object.
    pub symbol: SymbolId,
}

/// A callback that the patch declares.
#[derive(Debug, Clone)]
pub struct Callback {
    /// `pre_patch`, `post_patch`, `pre_unpatch` or `post_unpatch`: the member of `struct klp_callbacks`.
    pub kind: &'static str,
    /// The function's symbol in the patch object.
    pub symbol: SymbolId,
}

/// One unit's part of the livepatch.
#[derive(Debug, Default)]
pub struct PatchObject {
    /// The relocatable object.
    pub object: Object,
    /// What it replaces.
    pub replacements: Vec<Replacement>,
    /// What it wants called.
    pub callbacks: Vec<Callback>,
    /// The system states it declares.
    pub states: Vec<State<SymbolId>>,
    /// Why it could not be made.
    pub refusals: Vec<Refusal>,
}

/// Builds the patch object of one unit.
pub fn build(diff: &Diff<'_>, closure: &Closure, resolved: &Resolved) -> PatchObject {
    let mut builder = Builder {
        diff,
        resolved,
        sections: Vec::new(),
        by_key: BTreeMap::new(),
        placed: HashMap::default(),
        symbols: Vec::new(),
        section_symbols: HashMap::default(),
        atom_symbols: HashMap::default(),
        outside: HashMap::default(),
        refusals: Vec::new(),
        text_names: HashSet::default(),
    };
    builder.file_symbol();
    for atom in &closure.atoms {
        if !resolved.dropped_entries.contains_key(atom) && !is_declaration(&diff.patched, *atom) {
            builder.place(*atom);
        }
    }
    builder.relocate(closure);
    builder.runtime_consts(closure);
    let replacements = builder.replacements();
    let callbacks = builder.callbacks();
    let (states, more) = states::declared(&diff.patched, |function| builder.atom_symbols.get(&function).copied());
    builder.refusals.extend(more);
    let refusals = std::mem::take(&mut builder.refusals);
    let original = &diff.patched.object;
    let object = Object {
        e_machine: original.e_machine,
        e_flags: original.e_flags,
        is_64: original.is_64,
        little_endian: original.little_endian,
        has_groups: false,
        sections: builder.sections,
        symbols: builder.symbols,
    };
    let mut out = PatchObject { object, replacements, callbacks, states, refusals };
    out.locals_first();
    out
}

impl PatchObject {
    /// Reorders the symbols so that locals come first, as ELF wants, and follows with all indices.
    pub fn locals_first(&mut self) {
        let symbols = std::mem::take(&mut self.object.symbols);
        let mut order: Vec<usize> = (0..symbols.len()).collect();
        order.sort_by_key(|i| symbols[*i].st_bind != stb::LOCAL);
        let mut moved = vec![SymbolId(0); symbols.len()];
        for (new, old) in order.iter().enumerate() {
            moved[*old] = SymbolId(new as u32);
        }
        let mut slots: Vec<Option<Symbol>> = symbols.into_iter().map(Some).collect();
        self.object.symbols = order.iter().filter_map(|i| slots[*i].take()).collect();
        for symbol in &mut self.object.symbols {
            symbol.file = symbol.file.map(|f| moved[f.index()]);
        }
        for section in &mut self.object.sections {
            let klp = section.klp_relocs.iter_mut().flat_map(|(_, relocs)| relocs);
            for reloc in section.relocs.iter_mut().chain(klp) {
                reloc.symbol = reloc.symbol.map(|s| moved[s.index()]);
            }
        }
        self.replacements.iter_mut().for_each(|r| r.symbol = moved[r.symbol.index()]);
        self.callbacks.iter_mut().for_each(|c| c.symbol = moved[c.symbol.index()]);
        let functions = self.states.iter_mut().flat_map(|state| state.functions.values_mut());
        functions.for_each(|symbol| *symbol = moved[symbol.index()]);
    }

    /// Lets a function that travels replace one of the kernel's which another unit had.
    pub fn replace(&mut self, function: &str, old_name: String, sympos: u32) {
        let named = |id: &SymbolId| {
            let symbol = self.object.symbol(*id);
            symbol.name == function && symbol.st_type == stt::FUNC && matches!(symbol.place, Place::Section(_))
        };
        let symbol = self.object.symbol_ids().find(named);
        self.replacements.extend(symbol.map(|symbol| Replacement { old_name, sympos, symbol }));
    }

    /// The functions that tables in `init.c` point to.
    pub fn named_in_tables(&self) -> Vec<SymbolId> {
        let replaced = self.replacements.iter().map(|r| r.symbol);
        let called = self.callbacks.iter().map(|c| c.symbol);
        replaced.chain(called).chain(self.states.iter().flat_map(|state| state.functions.values().copied())).collect()
    }
}

/// Whether the atom declares something to the tool and is nothing to the kernel.
fn is_declaration(side: &Side<'_>, atom: AtomId) -> bool {
    matches!(side.rule(atom), Some(Rule::Callbacks | Rule::States))
}

struct Builder<'a, 'o> {
    diff: &'a Diff<'o>,
    resolved: &'a Resolved,
    sections: Vec<Section>,
    /// Shared output sections, by name and element size.
    by_key: BTreeMap<(String, u64), SectionId>,
    /// Where each atom went.
    placed: HashMap<AtomId, (SectionId, u64)>,
    symbols: Vec<Symbol>,
    section_symbols: HashMap<SectionId, SymbolId>,
    atom_symbols: HashMap<AtomId, SymbolId>,
    outside: HashMap<(String, bool), SymbolId>,
    refusals: Vec<Refusal>,
    text_names: HashSet<String>,
}

impl Builder<'_, '_> {
    fn side(&self) -> &Side<'_> {
        &self.diff.patched
    }

    fn push_symbol(&mut self, symbol: Symbol) -> SymbolId {
        let id = SymbolId(self.symbols.len() as u32);
        self.symbols.push(symbol);
        id
    }

    fn file_symbol(&mut self) {
        let file = self.side().object.symbols.iter().find(|s| s.st_type == stt::FILE).cloned();
        if let Some(mut file) = file {
            file.file = None;
            self.push_symbol(file);
        }
    }

    /// Puts an atom into an output section; a run of anonymous ones in one piece.
    fn place(&mut self, id: AtomId) {
        if self.placed.contains_key(&id) {
            return;
        }
        let side = &self.diff.patched;
        if side.atom(id).kind == Kind::Anonymous && side.rule(id).is_none() {
            for piece in side.anonymous_run(id) {
                self.place_one(piece);
            }
        } else {
            self.place_one(id);
        }
    }

    /// Puts one atom into an output section and makes its symbols.
    fn place_one(&mut self, id: AtomId) {
        let side = &self.diff.patched;
        let atom = side.atom(id);
        let section = side.object.section(atom.section);
        let size = atom.end - atom.start;
        let is_function = atom.kind == Kind::Function;
        // Keep what is contiguous contiguous, and each start as aligned as it was.
        let natural = 1u64 << atom.start.trailing_zeros().min(12);
        let align =
            if atom.start == 0 { section.sh_addralign.max(1) } else { natural.min(section.sh_addralign.max(1)) };
        let out = if is_function {
            self.text_section(id, section)
        } else {
            let merged = section.sh_flags & crate::elf::object::shf::MERGE != 0;
            // A module's link gathers tags of allocations by the name that they are compiled with.
            let name = if names::is_alloc_tag_section(&section.name) { "alloc_tags" } else { &section.name }.to_owned();
            let key = (name, if merged { section.sh_entsize } else { 0 });
            match self.by_key.get(&key) {
                Some(out) => *out,
                None => {
                    let out = self.new_section(key.0.clone(), section);
                    self.by_key.insert(key, out);
                    out
                }
            }
        };
        let bytes = side.bytes(id);
        if atom.kind == Kind::Text
            && let Some(at) = find_text(&self.sections[out.index()].data, bytes, align)
        {
            self.placed.insert(id, (out, at));
            return;
        }
        let target = &mut self.sections[out.index()];
        let at = if atom.kind == Kind::Anonymous {
            // The pieces of a run stay contiguous when each keeps its place within the section's alignment.
            let whole = section.sh_addralign.max(1);
            target.sh_addralign = target.sh_addralign.max(whole);
            let from = target.sh_size;
            from + (atom.start % whole + whole - from % whole) % whole
        } else {
            target.sh_addralign = target.sh_addralign.max(align);
            target.sh_size.next_multiple_of(align)
        };
        target.sh_size = at + size;
        if target.sh_type != sht::NOBITS {
            target.data.resize(at as usize, 0);
            target.data.extend_from_slice(bytes);
        }
        self.placed.insert(id, (out, at));
        let wanted: Vec<Symbol> = atom.symbols.iter().map(|s| side.object.symbol(*s).clone()).collect();
        for (i, symbol) in wanted.into_iter().enumerate() {
            let placed = Symbol {
                st_value: symbol.st_value - atom.start + at,
                place: Place::Section(out),
                file: None,
                // A weak definition would let another object's symbol take its place.
                st_bind: if symbol.st_bind == stb::WEAK { stb::GLOBAL } else { symbol.st_bind },
                ..symbol
            };
            let new = self.push_symbol(placed);
            if i == 0 {
                self.atom_symbols.insert(id, new);
            }
        }
        if is_function {
            self.hash_symbol(id, out, at);
        }
    }

    /// Names the hash of a function's type that stands before it, if there is one. objtool lists what has such a name in `.cfi_sites`
    /// (tools/objtool/check.c, `create_cfi_sections`), and by that list boot and a module's load give functions other hashes.
    fn hash_symbol(&mut self, id: AtomId, out: SectionId, at: u64) {
        let side = &self.diff.patched;
        let Some(hash) = side.hash_symbol(id).map(|s| side.object.symbol(s).clone()) else { return };
        let st_value = hash.st_value - side.atom(id).start + at;
        self.push_symbol(Symbol { st_value, place: Place::Section(out), file: None, ..hash });
    }

    fn text_section(&mut self, id: AtomId, like: &Section) -> SectionId {
        let name = self.side().name(id).to_owned();
        let mut text = format!(".text.{name}");
        let mut n = 1;
        while !self.text_names.insert(text.clone()) {
            text = format!(".text.{name}.{n}");
            n += 1;
        }
        self.new_section(text, like)
    }

    fn new_section(&mut self, name: String, like: &Section) -> SectionId {
        let id = SectionId(self.sections.len() as u32);
        self.sections.push(Section {
            name,
            sh_type: like.sh_type,
            sh_flags: like.sh_flags & !crate::elf::object::shf::LINK_ORDER,
            sh_addralign: 1,
            sh_entsize: like.sh_entsize,
            ..Section::default()
        });
        id
    }

    fn section_symbol(&mut self, id: SectionId) -> SymbolId {
        if let Some(symbol) = self.section_symbols.get(&id) {
            return *symbol;
        }
        let symbol = self.push_symbol(Symbol {
            name: self.sections[id.index()].name.clone(),
            st_value: 0,
            st_size: 0,
            st_type: stt::SECTION,
            st_bind: stb::LOCAL,
            st_other: 0,
            place: Place::Section(id),
            file: None,
        });
        self.section_symbols.insert(id, symbol);
        symbol
    }

    /// The undefined symbol that stands for something outside, named for how it is resolved.
    fn outside_symbol(&mut self, outside: &Outside) -> Option<SymbolId> {
        let (name, weak) = match self.resolved.symbols.get(outside)? {
            Resolution::Exported | Resolution::Linked => (outside.name.clone(), false),
            Resolution::WeakZero => (outside.name.clone(), true),
            Resolution::Livepatch(symbol) => (symbol.to_name(), false),
        };
        if let Some(id) = self.outside.get(&(name.clone(), weak)) {
            return Some(*id);
        }
        let id = self.push_symbol(Symbol {
            name: name.clone(),
            st_value: 0,
            st_size: 0,
            st_type: stt::NOTYPE,
            st_bind: if weak { stb::WEAK } else { stb::GLOBAL },
            st_other: 0,
            place: Place::Undefined,
            file: None,
        });
        self.outside.insert((name, weak), id);
        Some(id)
    }

    fn replacements(&self) -> Vec<Replacement> {
        let changed = self.diff.functions.iter().filter(|f| f.verdict == Verdict::Changed);
        let replacement = |function: &FunctionVerdict| {
            let (old_name, sympos) = self.resolved.positions.get(&function.original?)?.clone();
            let symbol = *self.atom_symbols.get(&function.patched?)?;
            Some(Replacement { old_name, sympos, symbol })
        };
        changed.filter_map(replacement).collect()
    }

    /// The callbacks declared in `.discard.klp_callback_ptrs` (include/linux/livepatch_external.h).
    fn callbacks(&mut self) -> Vec<Callback> {
        const KINDS: [&str; 4] = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"];
        let side = &self.diff.patched;
        let mut out = Vec::new();
        for id in side.ids().filter(|id| side.rule(*id) == Some(Rule::Callbacks)) {
            let name = side.name(id);
            let kind = KINDS.iter().find(|kind| name.starts_with(&format!("__klp_{kind}_callback_")));
            let target = side.refs_of(id).first().map(|r| r.target);
            let Some(crate::diff::atoms::Target::Atom(function, _)) = target else { continue };
            if let (Some(kind), Some(symbol)) = (kind, self.atom_symbols.get(&function)) {
                out.push(Callback { kind, symbol: *symbol });
            }
        }
        out
    }
}

/// Where a text already stands in a string section, at this alignment.
fn find_text(data: &[u8], text: &[u8], align: u64) -> Option<u64> {
    if text.is_empty() || data.len() < text.len() {
        return None;
    }
    let step = align.max(1) as usize;
    let starts = (0..=data.len() - text.len()).step_by(step);
    // Only at the start of a text: a shared tail would be right too, but no one expects it.
    starts
        .into_iter()
        .find(|at| (*at == 0 || data[at - 1] == 0) && &data[*at..*at + text.len()] == text)
        .map(|at| at as u64)
}
