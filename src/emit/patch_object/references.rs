//! The references of what has been placed, as relocations of the patch object.
//!
//! In: the closure's references, and where each atom went. Out: relocations by the target's new place or by the name it is resolved under;
//! refusals for those that no module can hold. Boot-time constants become reads of the variables that boot made them from.

use super::Builder;
use crate::diff::arch;
use crate::diff::arch::Use;
use crate::diff::closure::{CarriedRef, Closure, Dest, naming_offset};
use crate::elf::Reloc;
use crate::error::{Reason, Refusal};

impl Builder<'_, '_> {
    pub(super) fn relocate(&mut self, closure: &Closure) {
        for r in &closure.refs {
            let Some((out, at)) = self.placed.get(&r.atom).copied() else { continue };
            let start = self.side().atom(r.atom).start;
            let r_offset = r.reference.reloc.r_offset - start + at;
            let field = self.side().arch.field_size(r.reference.reloc.r_type);
            let Some(field) = field else {
                let (name, section) = (self.side().name(r.atom), self.side().section_name(r.atom));
                let refusal = Refusal::new(
                    Reason::UnknownRelocation,
                    format!("`{name}` has a relocation of unknown type {}", r.reference.reloc.r_type),
                    "report the kernel configuration that makes it",
                )
                .symbol(name)
                .at(section, r.reference.reloc.r_offset);
                self.refusals.push(refusal);
                continue;
            };
            if self.side().arch.is_short_jump(r.reference.reloc.r_type) {
                self.refusals.push(self.short_jump(r));
                continue;
            }
            if let Some(bytes) =
                self.sections[out.index()].data.get_mut(r_offset as usize..r_offset as usize + field as usize)
            {
                bytes.fill(0);
            }
            let (symbol, r_addend) = match &r.dest {
                Dest::Constant(addend) => {
                    if r.reference.reloc.symbol.is_none() && r.reference.reloc.r_type == 0 {
                        continue;
                    }
                    (None, *addend)
                }
                Dest::Outside(outside, addend) => match self.outside_symbol(outside) {
                    Some(symbol) => (Some(symbol), *addend),
                    None => continue,
                },
                Dest::Carried(target, offset) => {
                    let Some((section, base)) = self.placed.get(target).copied() else { continue };
                    // A jump between a function and its cold part goes by section, as the assembler writes it, and so
                    // does one to a place inside a function: by symbol, objtool takes it for a call of another function.
                    let tables = &self.diff.new_tables;
                    let own_part = r.reference.usage == Use::Branch && tables.whole(r.atom) == tables.whole(*target);
                    let naming = naming_offset(self.side(), *target);
                    let inside = self.side().is_function(*target) && *offset != naming;
                    match self.atom_symbols.get(target).copied().filter(|_| !own_part && !inside) {
                        Some(symbol) => (Some(symbol), offset - naming - r.reference.adjust),
                        None => {
                            let symbol = self.section_symbol(section);
                            (Some(symbol), base as i64 + offset - r.reference.adjust)
                        }
                    }
                }
            };
            if symbol.is_none() {
                // An empty alternative's replacement, or an absolute value already in the addend.
                if r_addend == 0 {
                    continue;
                }
            }
            let reloc = Reloc { r_offset, r_type: r.reference.reloc.r_type, symbol, r_addend };
            self.sections[out.index()].relocs.push(reloc);
        }
        for section in &mut self.sections {
            section.relocs.sort_by_key(|r| r.r_offset);
        }
    }

    /// Two bytes that lead to a neighbour in the kernel's text cannot lead there from a module.
    fn short_jump(&self, r: &CarriedRef) -> Refusal {
        let side = self.side();
        let (name, section) = (side.name(r.atom), side.section_name(r.atom));
        let target = match &r.dest {
            Dest::Outside(outside, _) => outside.name.as_str(),
            Dest::Carried(target, _) => side.name(*target),
            Dest::Constant(_) => section,
        };
        let message = format!("`{name}` ends in a short jump to `{target}`, its neighbour in `{section}`");
        let advice = format!("put `barrier();` behind the call of `{target}`, so that it stays a call");
        Refusal::new(Reason::UnknownRelocation, message, &advice).symbol(name).at(section, r.reference.reloc.r_offset)
    }

    /// Makes carried code read the variables whose values the kernel's own code got at boot.
    pub(super) fn runtime_consts(&mut self, closure: &Closure) {
        for constant in &closure.runtime_consts {
            let Some((out, at)) = self.placed.get(&constant.atom).copied() else { continue };
            let arch = arch::of(self.side().object);
            let code = self.sections[out.index()].data.get_mut(at as usize..).unwrap_or_default();
            let (place, kind) = (constant.offset as usize, &constant.kind);
            let rewritten = arch.and_then(|arch| arch.read_variable_instead(code, place, kind));
            match rewritten {
                Some((r_offset, r_type, r_addend)) => {
                    let r_offset = at + r_offset;
                    if let Some(symbol) = self.outside_symbol(&constant.variable) {
                        let reloc = Reloc { r_offset, r_type, symbol: Some(symbol), r_addend };
                        let relocs = &mut self.sections[out.index()].relocs;
                        let at = relocs.partition_point(|r| r.r_offset < r_offset);
                        relocs.insert(at, reloc);
                    }
                }
                None => {
                    let name = self.side().name(constant.atom).to_owned();
                    self.refusals.push(
                        Refusal::new(
                            Reason::KernelLacks,
                            format!(
                                "`{name}` uses the boot-time constant `{}` ({}), which no module's code can hold",
                                constant.variable.name, constant.kind
                            ),
                            "patch a function that calls it instead",
                        )
                        .symbol(&name)
                        .at(self.side().section_name(constant.atom), constant.offset),
                    );
                }
            }
        }
    }
}
