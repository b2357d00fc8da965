//! What each relocation means: an atom and an offset in it, or a symbol from outside.
//!
//! In: an object cut into atoms. Out: [`Side::refs`]. Hard because of what stands in the field: a PC-relative one counts from
//! the end of its instruction, and what leads from one function to another of its section has no relocation at all.

use super::arch::{HiddenRefs, Site, Use};
use super::atoms::{Ref, Side, Target};
use crate::elf::object::{shf, stt};
use crate::elf::{Object, Place, Reloc, SectionId, SymbolId};

impl Side<'_> {
    /// Resolves all relocations, then splits anonymous runs where references point into them.
    pub(super) fn resolve_references(&mut self) {
        let mut all = Vec::with_capacity(self.object.sections.len());
        let section_symbols = section_symbols(self.object);
        for id in self.object.section_ids() {
            all.push(self.raw_refs(id, &section_symbols));
        }
        self.split_anonymous(&all);
        for (id, mut refs) in self.object.section_ids().zip(all) {
            refs.iter_mut().for_each(|r| r.target = self.target(r));
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

    /// The references of a section, sorted by offset; what they mean comes when all sections are cut.
    fn raw_refs(&mut self, id: SectionId, section_symbols: &[Option<SymbolId>]) -> Vec<Ref> {
        let section = self.object.section(id);
        let data_site = |r: &Reloc| Site { adjust: 0, usage: Use::Address, insn: r.r_offset };
        let raw = |reloc: Reloc, site: Site| {
            let (target, Site { usage, insn, adjust }) = (Target::Nothing(0), site);
            Ref { reloc, target, usage, insn, adjust }
        };
        let mut out: Vec<Ref>;
        // The tests in .altinstr_aux are code like other; what is in .altinstr_replacement is cut by its table.
        let is_code = !section.name.starts_with(".altinstr") || section.name == ".altinstr_aux";
        if section.sh_flags & shf::EXECINSTR != 0 && is_code {
            let functions: Vec<(u64, u64)> = self.of_section[id.index()]
                .iter()
                .map(|a| self.atom(*a))
                .map(|a| {
                    let code = a.symbols.first().map_or(a.start, |s| self.object.symbol(*s).st_value);
                    (code.max(a.start), a.end)
                })
                .collect();
            let mut sites = self.arch.sites(section, &functions);
            sites.sort_by_key(|(offset, _)| *offset);
            let mut relocs = section.relocs.clone();
            relocs.sort_by_key(|r| r.r_offset);
            let mut next = 0;
            out = relocs
                .into_iter()
                .map(|r| {
                    while sites.get(next + 1).is_some_and(|(offset, _)| *offset <= r.r_offset) {
                        next += 1;
                    }
                    let fallback = if self.arch.is_pc_relative(r.r_type) { 4 } else { 0 };
                    let default = Site { adjust: fallback, usage: Use::Address, insn: r.r_offset };
                    let found = sites.get(next).filter(|(offset, _)| *offset == r.r_offset);
                    raw(r, found.map_or(default, |(_, site)| *site))
                })
                .collect();
            if functions.len() > 1 {
                let symbol = section_symbols[id.index()];
                let HiddenRefs { refs, unread } = self.arch.hidden(section, &functions);
                for at in unread {
                    let function = self.find(id, at as i64);
                    self.unread.extend(function.map(|function| (function, at)));
                }
                for hidden in refs {
                    // Without a section symbol, the function symbol at the target serves as well.
                    let named = self.find(id, hidden.target).and_then(|a| self.atom(a).symbols.first().copied());
                    let Some(symbol) = symbol.or(named) else { continue };
                    let base = self.object.symbol(symbol).st_value;
                    let reloc = Reloc {
                        r_offset: hidden.r_offset,
                        r_type: hidden.r_type,
                        symbol: Some(symbol),
                        r_addend: hidden.target - base as i64 + hidden.bias,
                    };
                    let site = Site { adjust: -hidden.bias, usage: hidden.usage, insn: hidden.r_offset };
                    out.push(raw(reloc, site));
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
                    raw(*r, site)
                })
                .collect();
        }
        out.sort_by_key(|r| r.reloc.r_offset);
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

    fn target(&self, r: &Ref) -> Target {
        let Some(id) = r.reloc.symbol else { return Target::Nothing(r.reloc.r_addend) };
        let symbol = self.object.symbol(id);
        let Place::Section(section) = symbol.place else { return Target::Symbol(id, r.reloc.r_addend) };
        let base = symbol.st_value as i64;
        let offset = base + r.reloc.r_addend + r.adjust;
        if let Some(atom) = self.of_symbol(id).filter(|_| symbol.st_type != stt::SECTION) {
            debug_assert_eq!(self.atom(atom).section, section);
            return Target::Atom(atom, offset - self.atom(atom).start as i64);
        }
        // A label means what lies at it, however far the addend leads: `"0123"[i - 20]` becomes `.LC0-20`,
        // which gas leaves so for merged sections (gas/write.c, adjust_reloc_syms).
        let meant = if symbol.st_type == stt::SECTION { offset } else { base };
        match self.find(section, meant) {
            Some(atom) => Target::Atom(atom, offset - self.atom(atom).start as i64),
            None => Target::Symbol(id, r.reloc.r_addend),
        }
    }
}

/// The symbol that stands for each section, where it has one.
fn section_symbols(object: &Object) -> Vec<Option<SymbolId>> {
    let mut found = vec![None; object.sections.len()];
    for id in object.symbol_ids() {
        if let Place::Section(section) = object.symbol(id).place
            && object.symbol(id).st_type == stt::SECTION
        {
            found[section.index()].get_or_insert(id);
        }
    }
    found
}
