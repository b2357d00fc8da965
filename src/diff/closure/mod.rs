//! Changed functions -> everything that must travel with them, and where each reference of it leads.
//!
//! In: a [`Diff`]. Out: a [`Closure`]: the atoms to carry, in a stable order, and for every reference
//! inside them one [`Dest`]. New functions, private data, new data, texts and constants are carried;
//! what the kernel already has stays where it is. The address of a changed function stays the
//! original's (its entry is redirected anyway), so that nothing in the kernel points into the module
//! once it is gone; only direct branches and a function's own tables lead to the new code.

mod doubt;
mod given;
mod refused;

use super::alloc_tags;
use super::arch::Use;
use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::btf_ids;
use super::names;
use super::special::Rule;
use super::verdict::{Diff, Elsewhere, Verdict};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Place, SymbolId};
use crate::error::Refusal;
pub use doubt::asks_for_owners;

/// Where a carried reference leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// To something that travels along: an atom and the offset in it.
    Carried(AtomId, i64),
    /// To a symbol outside of the patch: the relocation's addend counts from it.
    Outside(Outside, i64),
    /// To no symbol.
    Constant(i64),
}

/// A symbol that the patch refers to and does not carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outside {
    /// Name; the original's, as the running kernel has it.
    pub name: String,
    /// The original's symbol, where this unit defined it.
    pub original: Option<SymbolId>,
    /// Local to this unit.
    pub local: bool,
    /// May be missing (an undefined weak symbol).
    pub weak: bool,
}

/// One carried reference.
#[derive(Debug, Clone)]
pub struct CarriedRef {
    /// The atom it stands in.
    pub atom: AtomId,
    /// The reference.
    pub reference: Ref,
    /// Where it leads.
    pub dest: Dest,
}

/// An instruction whose immediate the kernel fills in at boot (arch/x86/include/asm/runtime-const.h). A
/// module's code is never filled in, so the carried instruction reads the variable instead.
#[derive(Debug, Clone)]
pub struct RuntimeConst {
    /// The code it stands in.
    pub atom: AtomId,
    /// Offset of the immediate in that atom.
    pub offset: u64,
    /// `ptr`, `shift` or `mask`.
    pub kind: String,
    /// The variable.
    pub variable: Outside,
}

/// All that travels.
#[derive(Debug, Default)]
pub struct Closure {
    /// Atoms to carry: functions in the object's order, then the rest as it was reached.
    pub atoms: Vec<AtomId>,
    /// Their references.
    pub refs: Vec<CarriedRef>,
    /// Boot-time constants in carried code.
    pub runtime_consts: Vec<RuntimeConst>,
    /// New functions and tables of functions whose addresses the carried code or data gives away, and what does it.
    pub given_away: Vec<(AtomId, AtomId)>,
    /// Tables of functions whose addresses it gives away in the place of others that the kernel has.
    pub held: Vec<AtomId>,
    /// Why some of it cannot travel.
    pub refusals: Vec<Refusal>,
}

/// Follows all references from the changed and new functions.
pub fn closure(diff: &Diff<'_>) -> Closure {
    let mut walk = Walk { diff, carried: diff.carried_functions(), out: Closure::default(), seen: HashSet::default() };
    let side = &diff.patched;
    let mut functions: Vec<AtomId> = walk.carried.keys().copied().collect();
    functions.sort_unstable();
    for function in &functions {
        for part in diff.new_tables.all_parts(*function) {
            walk.take(part);
        }
    }
    for function in &functions {
        let tables = diff.new_tables.entries.get(function).into_iter().flatten();
        for entry in tables.flat_map(|(_, entries)| entries) {
            if side.rule(*entry) == Some(Rule::RuntimeConst) {
                walk.runtime_const(*entry);
            } else {
                walk.take(*entry);
            }
        }
    }
    for global in &diff.data.new_globals {
        walk.take(*global);
    }
    let mut next = 0;
    while next < walk.out.atoms.len() {
        let atom = walk.out.atoms[next];
        next += 1;
        walk.follow(atom);
    }
    walk.out
}

struct Walk<'d, 'o> {
    diff: &'d Diff<'o>,
    carried: HashMap<AtomId, Verdict>,
    out: Closure,
    seen: HashSet<AtomId>,
}

impl Walk<'_, '_> {
    fn side(&self) -> &Side<'_> {
        &self.diff.patched
    }

    fn take(&mut self, id: AtomId) {
        if !self.seen.insert(id) {
            return;
        }
        self.out.atoms.push(id);
        if self.side().atom(id).kind == Kind::Anonymous && self.side().rule(id).is_none() {
            // A table that is also pointed into its middle was cut there: keep the run in one piece.
            for neighbour in self.side().anonymous_run(id) {
                self.take(neighbour);
            }
        }
    }

    fn follow(&mut self, atom: AtomId) {
        if let Some(place) = self.side().unread.get(&atom) {
            self.out.refusals.push(self.unread(atom, *place));
        }
        let refs: Vec<Ref> = self.side().refs_of(atom).to_vec();
        for reference in refs {
            match self.dest(atom, &reference) {
                Ok(dest) => {
                    if let Dest::Carried(target, offset) = dest {
                        self.take(target);
                        if self.gives_away(atom, &reference, target, offset) {
                            self.out.given_away.push((target, atom));
                        } else if self.hands_out(atom, &reference, target) {
                            self.hand_out(atom, target);
                        }
                    }
                    self.out.refs.push(CarriedRef { atom, reference, dest });
                }
                // Code that is gone itself has been refused already: what it refers to would bury that.
                Err(_) if self.is_gone_code(atom) => {}
                Err(refusal) => self.out.refusals.push(*refusal),
            }
        }
    }

    fn is_gone_code(&self, id: AtomId) -> bool {
        let section = self.side().section_name(id);
        self.side().is_function(id) && (names::is_init_section(section) || names::is_exit_section(section))
    }

    fn dest(&self, from: AtomId, r: &Ref) -> Result<Dest, Box<Refusal>> {
        let side = self.side();
        let (target, offset) = match r.target {
            Target::Nothing(addend) => return Ok(Dest::Constant(addend)),
            Target::Symbol(id, addend) => return Ok(self.undefined(id, addend)),
            Target::Atom(target, offset) => (target, offset),
        };
        if self.diff.makes_counters && alloc_tags::is_tag(side, from) && alloc_tags::is_counters(side, target) {
            return Ok(Dest::Constant(0));
        }
        match side.atom(target).kind {
            Kind::Function => self.function(from, r, target, offset),
            Kind::Data => self.data(from, r, target, offset),
            Kind::Text | Kind::Constant | Kind::Anonymous | Kind::Entry => {
                if side.is_init(target) {
                    return Err(self.gone(from, r, target));
                }
                if side.atom(target).kind == Kind::Anonymous
                    && let Some(what) = no_copy(side, target)
                {
                    return Err(self.nameless(from, r, target, what));
                }
                Ok(Dest::Carried(target, offset))
            }
        }
    }

    fn undefined(&self, id: SymbolId, addend: i64) -> Dest {
        let symbol = self.side().object.symbol(id);
        if symbol.place == Place::Absolute && symbol.st_type != stt::FILE {
            return Dest::Constant(symbol.st_value as i64 + addend);
        }
        let weak = symbol.st_bind == stb::WEAK;
        Dest::Outside(Outside { name: symbol.name.clone(), original: None, local: false, weak }, addend)
    }

    fn function(&self, from: AtomId, r: &Ref, target: AtomId, offset: i64) -> Result<Dest, Box<Refusal>> {
        let side = self.side();
        let whole = self.diff.new_tables.whole(target);
        let entry_point = self.symbol_offset(target);
        let own_table = side.atom(from).kind == Kind::Entry;
        let internal = own_table || offset != entry_point || r.usage == Use::Branch || target != whole;
        match self.diff.elsewhere.get(&whole) {
            Some(Elsewhere::Moved { .. }) if internal => {}
            Some(_) => return Ok(self.elsewhere(r, target, offset)),
            None => {}
        }
        let Some(verdict) = self.carried.get(&whole) else {
            return self.kernel_owned(from, r, target, offset);
        };
        // A new function has no original; a spread one is carried like a new one, but if its address were
        // taken it would not have been spread.
        if internal || *verdict == Verdict::New {
            return Ok(Dest::Carried(target, offset));
        }
        self.kernel_owned(from, r, target, offset)
    }

    fn data(&self, from: AtomId, r: &Ref, target: AtomId, offset: i64) -> Result<Dest, Box<Refusal>> {
        let side = self.side();
        if self.is_stretched(from, r, target, offset) {
            return Err(self.nameless(from, r, target, "data outside of every symbol"));
        }
        if let Some((array, next)) = self.diff.twins.ends.in_doubt.get(&(side.atom(from).section, r.reloc.r_offset)) {
            return Err(Box::new(self.doubtful_end(from, r, *array, *next)));
        }
        if self.diff.elsewhere.contains_key(&target) {
            return Ok(self.elsewhere(r, target, offset));
        }
        if let Some(function) = self.leads_inside(target) {
            return Err(self.old_body(from, r, target, function));
        }
        let constant = self.diff.twins.constants.contains_key(&target);
        if !constant
            && side.is_private(target)
            && let Some(candidates) = self.diff.twins.ambiguous.get(&target)
        {
            return Err(Box::new(self.ambiguous(from, target, candidates)));
        }
        if (side.is_private(target) && !constant) || self.diff.data.recarried.contains(&target) {
            if side.is_init(target) {
                return Err(self.gone(from, r, target));
            }
            return Ok(Dest::Carried(target, offset));
        }
        if constant {
            return self.kernel_owned(from, r, target, offset);
        }
        if self.diff.twins.backward.contains_key(&target) {
            return self.kernel_owned(from, r, target, offset);
        }
        if let Some(candidates) = self.diff.twins.ambiguous.get(&target) {
            return Err(Box::new(self.ambiguous(from, target, candidates)));
        }
        if side.is_init(target) || names::is_exit_section(side.section_name(target)) {
            return Err(self.gone(from, r, target));
        }
        if side.section_name(target) == btf_ids::SECTION {
            return Err(self.unfilled(from, r, target));
        }
        Ok(Dest::Carried(target, offset))
    }

    /// A reference to what the kernel has from another unit, by the name that both have for it.
    fn elsewhere(&self, r: &Ref, target: AtomId, offset: i64) -> Dest {
        let side = self.side();
        let symbols = side.atom(target).symbols.iter().map(|s| side.object.symbol(*s));
        let name = symbols.clone().find(|s| s.st_bind != stb::LOCAL).map_or(side.name(target), |s| &s.name);
        let outside = Outside { name: name.to_owned(), original: None, local: false, weak: false };
        Dest::Outside(outside, offset - self.symbol_offset(target) - r.adjust)
    }

    /// A reference to what the kernel has: by the original's name.
    fn kernel_owned(&self, from: AtomId, r: &Ref, target: AtomId, offset: i64) -> Result<Dest, Box<Refusal>> {
        let twins = &self.diff.twins;
        let Some(twin) = twins.backward.get(&target).or_else(|| twins.constants.get(&target)).copied() else {
            if let Some(candidates) = self.diff.twins.ambiguous.get(&target) {
                return Err(Box::new(self.ambiguous(from, target, candidates)));
            }
            return Err(self.gone(from, r, target));
        };
        let original = &self.diff.original;
        if original.is_init(twin) || names::is_exit_section(original.section_name(twin)) {
            return Err(self.gone(from, r, target));
        }
        let Some(symbol_id) = self.original_symbol(r, twin) else {
            return Err(self.gone(from, r, target));
        };
        let symbol = original.object.symbol(symbol_id);
        let addend = offset - self.symbol_offset(target) - r.adjust;
        let outside = Outside {
            name: symbol.name.clone(),
            original: Some(symbol_id),
            local: symbol.st_bind == stb::LOCAL,
            weak: false,
        };
        Ok(Dest::Outside(outside, addend))
    }

    /// By which of its symbols the kernel knows what a reference leads to.
    ///
    /// A weak one may mean another unit's definition: only a reference through that very name does. One through a strong or
    /// static alias means this unit's.
    fn original_symbol(&self, r: &Ref, twin: AtomId) -> Option<SymbolId> {
        let original = &self.diff.original;
        let symbols = &original.atom(twin).symbols;
        let first = *symbols.first()?;
        let is_weak = |id: &SymbolId| original.object.symbol(*id).st_bind == stb::WEAK;
        if !is_weak(&first) {
            return Some(first);
        }
        let meant = r.reloc.symbol.map(|id| self.side().object.symbol(id)).filter(|s| s.st_bind == stb::WEAK);
        let same_name = |id: &&SymbolId| meant.is_some_and(|s| s.name == original.object.symbol(**id).name);
        let start = original.object.symbol(first).st_value;
        let strong = |id: &&SymbolId| !is_weak(id) && original.object.symbol(**id).st_value == start;
        symbols.iter().find(same_name).or_else(|| symbols.iter().find(strong)).copied().or(Some(first))
    }

    /// Offset of the naming symbol in a patched atom (a function's padding comes before it).
    fn symbol_offset(&self, id: AtomId) -> i64 {
        naming_offset(self.side(), id)
    }

    /// Notes a boot-time constant: its section is named after the variable, its entry points at the immediate.
    fn runtime_const(&mut self, entry: AtomId) {
        let side = self.side();
        let section = side.section_name(entry);
        let Some((kind, variable)) = section.strip_prefix("runtime_").and_then(|rest| rest.split_once('_')) else {
            return;
        };
        let Some(Target::Atom(atom, offset)) = side.refs_of(entry).first().map(|r| r.target) else { return };
        // The variable may be a static of this unit (`dentry_hashtable`) or a global one (`USER_PTR_MAX`).
        let original = self.diff.original.object;
        let symbol = original.symbol_ids().find(|id| {
            let symbol = original.symbol(*id);
            symbol.name == variable && matches!(symbol.place, Place::Section(_)) && symbol.st_type != stt::SECTION
        });
        let local = symbol.is_some_and(|id| original.symbol(id).st_bind == stb::LOCAL);
        let variable = Outside { name: variable.to_owned(), original: symbol, local, weak: false };
        let found = RuntimeConst { atom, offset: offset as u64, kind: kind.to_owned(), variable };
        self.out.runtime_consts.push(found);
    }

    /// Whether a reference through a section's symbol leads beside everything in it: what it means cannot be told
    /// where the section holds more than one thing.
    fn is_stretched(&self, from: AtomId, r: &Ref, target: AtomId, offset: i64) -> bool {
        let side = self.side();
        let atom = side.atom(target);
        let through_section = r.reloc.symbol.is_some_and(|s| side.object.symbol(s).st_type == stt::SECTION);
        through_section
            && !self.diff.twins.ends.settled.contains(&(side.atom(from).section, r.reloc.r_offset))
            && side.of_section[atom.section.index()].len() > 1
            && (offset < 0 || offset > (atom.end - atom.start) as i64)
    }
}

/// Offset of the symbol that names an atom.
pub fn naming_offset(side: &Side<'_>, id: AtomId) -> i64 {
    let atom = side.atom(id);
    let symbol = atom.symbols.iter().map(|s| side.object.symbol(*s)).find(|s| s.st_type != stt::SECTION);
    symbol.map_or(0, |s| s.st_value as i64 - atom.start as i64)
}

/// Why something without a name cannot be carried as a copy: it has state, or it is code of unknown extent.
fn no_copy(side: &Side<'_>, id: AtomId) -> Option<&'static str> {
    let section = side.object.section(side.atom(id).section);
    if side.rule(id).is_some() || section.name == ".fixup" {
        return None;
    }
    if section.sh_flags & shf::EXECINSTR != 0 {
        return Some("code");
    }
    // `.data..L*`: the compiler's own descriptions, as for sanitizers.
    (side.is_writable(id) && !section.name.starts_with(".data..L")).then_some("writable data")
}
