//! Two instruction streams, the unit's and the image's, side by side.
//!
//! In: a function of the unit. Out: its [`Outcome`], and the parts it jumps to. Each instruction has to be the same
//! but for its references, which have to mean the same ([`super::place`]), and but for what is known to be rewritten:
//!  - `call __fentry__` -> NOP (objtool --mnop), where the image's `__mcount_loc` lists the place;
//!  - jump labels: a jump -> NOP (objtool --hacks=jump_label), where both `__jump_table`s list the place;
//!  - calls of coverage and thread checkers in noinstr code -> NOP or return (objtool --hacks=noinstr);
//!  - references through the global offset table -> direct ones (the linker, psABI B.2);
//!  - NOPs that fill up to an alignment (zstd's inner loops): their number depends on where the function lies, so runs of
//!    them are compared as runs, except where a table says that something is put there at boot;
//!  - branches: the unit has every function in a section of its own, so the assembler could make a branch within
//!    the kernel's own section shorter. Targets inside the function are therefore compared by instruction.
//!
//! What tables say of the function's places is compared afterwards ([`super::entries`]).

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};

use super::calls::Hook;
use super::place::{Checker, GOT_SLOTS, Later, Unit, Where};
use super::{Difference, Outcome, show};
use crate::diff::atoms::{AtomId, Ref, Target};
use crate::diff::closure::naming_offset;
use crate::elf::SectionId;

/// Longest x86 instruction.
const LONGEST: usize = 15;
/// How many same-named functions are tried.
const MOST_CANDIDATES: usize = 64;

/// Verifies one function.
pub(super) fn function(unit: &Unit<'_, '_>, atom: AtomId) -> (Outcome, Vec<AtomId>) {
    let missing = |why: &str| (Outcome::NotFound { why: why.to_owned() }, Vec::new());
    let places = match unit.locate(atom) {
        Where::At(places) => places,
        Where::Overridden => return (Outcome::Overridden, Vec::new()),
        Where::Missing => return missing("its symbol table has no such function in this file"),
    };
    // Several: their code says which it is.
    let mut worst: Option<Difference> = None;
    if places.iter().all(|place| unit.loaded.is_freed(*place)) {
        return (Outcome::Freed, Vec::new());
    }
    for place in places.into_iter().take(MOST_CANDIDATES) {
        let mut walk = Walk::new(unit, atom, place);
        match walk.run().and_then(|()| walk.entries()) {
            Ok(()) => {
                let parts = std::mem::take(&mut walk.checker.parts);
                let name = unit.side.name(atom);
                if let Some(by) = walk.hook.as_ref().and_then(|hook| unit.loaded.replaced_by(name, hook)) {
                    return (Outcome::Replaced { address: place, by }, parts);
                }
                unit.maps.borrow_mut().insert(atom, std::mem::take(&mut walk.map));
                walk.checker.commit();
                return (Outcome::Equal { address: place }, parts);
            }
            Err((at, what)) => {
                let offset = at.saturating_sub(walk.entry);
                if worst.as_ref().is_none_or(|w| offset > w.offset) {
                    let (original, image) = show::around(&walk, at);
                    worst = Some(Difference { offset, address: place, what, original, image });
                }
            }
        }
    }
    match worst {
        Some(difference) => (Outcome::Differs(difference), Vec::new()),
        None => missing("its symbol table has no such function in this file"),
    }
}

/// The walk along one function.
pub(super) struct Walk<'u, 'a, 'o> {
    pub(super) unit: &'u Unit<'a, 'o>,
    pub(super) atom: AtomId,
    /// The section that is being looked at: the function's, or that of an alternative's replacement.
    pub(super) section: SectionId,
    /// Bytes of the whole section.
    pub(super) data: &'o [u8],
    /// Where the symbol is in its section, and the end of the function there.
    pub(super) entry: u64,
    pub(super) end: u64,
    /// Instruction starts: offset in the section -> address.
    pub(super) map: BTreeMap<u64, u64>,
    /// References inside the function: from, to, address in the image.
    pub(super) inner: Vec<(u64, u64, u64)>,
    pub(super) checker: Checker<'u, 'a, 'o>,
    /// An alternative of a running kernel is being looked at.
    pub(super) nested: bool,
    /// Something other than a single tracer sits at the function's entry.
    pub(super) hook: Option<Hook>,
}

/// Where it differs (offset in the section), and how.
type Differs = (u64, String);

impl<'u, 'a, 'o> Walk<'u, 'a, 'o> {
    fn new(unit: &'u Unit<'a, 'o>, atom: AtomId, place: u64) -> Self {
        let side = unit.side;
        let a = side.atom(atom);
        let entry = a.start.wrapping_add_signed(naming_offset(side, atom));
        let size = a.symbols.iter().map(|s| side.object.symbol(*s)).filter(|s| s.st_size > 0);
        // Behind the symbol's size is padding, which is the section's and not the function's.
        let end = size.map(|s| s.st_value + s.st_size).max().unwrap_or(a.end).clamp(entry, a.end);
        let map = BTreeMap::from([(a.start, place.wrapping_sub(entry - a.start))]);
        let data = &side.object.section(a.section).data;
        let (checker, inner) = (Checker::new(unit, atom), Vec::new());
        Walk { unit, atom, section: a.section, data, entry, end, map, inner, checker, nested: false, hook: None }
    }

    fn run(&mut self) -> Result<(), Differs> {
        let (mut at, mut address) = self.map.first_key_value().map(|(a, b)| (*a, *b)).unwrap_or_default();
        while at < self.end {
            self.map.insert(at, address);
            self.checker.at = at;
            let (ours, theirs) = self.step(at, address).map_err(|what| (at, what))?;
            at += ours;
            address += theirs;
        }
        self.map.insert(at, address);
        for (from, to, address) in std::mem::take(&mut self.inner) {
            if address_of(&self.map, to) != Some(address) {
                let there = self.unit.loaded.describe(address);
                return Err((
                    from,
                    format!("leads to +{:#x}, in the kernel to `{there}`", to.wrapping_sub(self.entry)),
                ));
            }
        }
        Ok(())
    }

    /// One instruction; the lengths of both.
    pub(super) fn step(&mut self, at: u64, address: u64) -> Result<(u64, u64), String> {
        let bytes = &self.data[at as usize..self.end as usize];
        let held = self.unit.loaded.from(address);
        let held = &held[..held.len().min(LONGEST)];
        if held.is_empty() {
            return Err("the image has no code here".to_owned());
        }
        let (ours, our_fields) = decode(&bytes[..bytes.len().min(LONGEST)], at);
        let (theirs, their_fields) = decode(held, address);
        let lengths = (ours.len() as u64, theirs.len() as u64);
        if ours.code() == Code::INVALID || theirs.code() == Code::INVALID {
            // Data among code (`.byte` in inline assembly).
            return if bytes[0] == held[0] { Ok((1, 1)) } else { Err("the bytes differ".to_owned()) };
        }
        let refs = self.refs(at, at + lengths.0);
        if let Some(lengths) = self.live(&ours, &theirs, &refs, at, address)? {
            return Ok(lengths);
        }
        if self.is_rewritten(&ours, &theirs, &refs, at, address)? {
            return Ok(lengths);
        }
        if let Some(runs) = self.fillers(&ours, &theirs, at, address) {
            return Ok(runs);
        }
        if let [r] = refs[..]
            && GOT_SLOTS.contains(&r.reloc.r_type)
        {
            return self.got_slot(&r, &ours, &theirs, held);
        }
        if is_branch(&ours) {
            self.branch(&ours, &theirs, bytes, held, refs.first())?;
            return Ok(lengths);
        }
        if lengths.0 != lengths.1 {
            return Err("the instructions differ".to_owned());
        }
        let mut covered = [false; LONGEST];
        covered[0] = self.is_unlocked(at, held);
        for (from, size) in self.constants(at, lengths.0, held)? {
            covered[from..(from + size).min(LONGEST)].fill(true);
        }
        for r in &refs {
            let from = (r.reloc.r_offset - at) as usize;
            let Some(size) = self.unit.side.arch.field_size(r.reloc.r_type).map(|s| s as usize) else {
                return Err(format!("relocation type {} is not known", r.reloc.r_type));
            };
            if size == 0 {
                continue;
            }
            covered[from..(from + size).min(LONGEST)].fill(true);
            let field = held.get(from..).and_then(|field| self.unit.field(r, field, address + from as u64));
            let Some(value) = field else { return Err("the instructions differ".to_owned()) };
            // A wrong instruction is the better message than a wrong reference of it.
            if ours.code() == theirs.code() {
                self.reference(at, r, value)?;
            }
        }
        // The assembler resolves a reference inside the section by itself.
        if ours.is_ip_rel_memory_operand() && refs.is_empty() && theirs.is_ip_rel_memory_operand() {
            let (from, size) = our_fields;
            if (from, size) != their_fields {
                return Err("the instructions differ".to_owned());
            }
            covered[from..from + size].fill(true);
            self.inside(at, ours.ip_rel_memory_address(), theirs.ip_rel_memory_address())?;
        }
        let same = (0..lengths.0 as usize).all(|i| covered[i] || bytes[i] == held[i]);
        if same { Ok(lengths) } else { Err("the instructions differ".to_owned()) }
    }

    pub(super) fn refs(&self, from: u64, to: u64) -> Vec<Ref> {
        let all = &self.unit.side.refs[self.section.index()];
        let first = all.partition_point(|r| r.reloc.r_offset < from);
        all[first..].iter().take_while(|r| r.reloc.r_offset < to && r.reloc.r_type != 0).copied().collect()
    }

    /// A reference with a relocation. One to the function itself is compared when all its instructions are known.
    pub(super) fn reference(&mut self, at: u64, r: &Ref, value: u64) -> Result<(), String> {
        match r.target {
            Target::Atom(atom, offset) if atom == self.atom => {
                let to = self.unit.side.atom(atom).start.wrapping_add_signed(offset);
                self.inner.push((at, to, value));
                Ok(())
            }
            _ => self.checker.check(r, value, 0),
        }
    }

    /// A reference without a relocation: to a place in the section.
    fn inside(&mut self, at: u64, to: u64, value: u64) -> Result<(), String> {
        let side = self.unit.side;
        let own = side.atom(self.atom);
        if self.section == own.section && (own.start..=self.end).contains(&to) {
            self.inner.push((at, to, value));
            return Ok(());
        }
        match side.find(self.section, to as i64) {
            Some(atom) => self.checker.atom(atom, to as i64 - side.atom(atom).start as i64, value),
            None => Err("refers to a place outside of its section".to_owned()),
        }
    }

    /// What objtool rewrites, by the tables that say so.
    fn is_rewritten(
        &self,
        ours: &Instruction,
        theirs: &Instruction,
        refs: &[Ref],
        at: u64,
        address: u64,
    ) -> Result<bool, String> {
        let loaded = self.unit.loaded;
        let nop = theirs.mnemonic() == Mnemonic::Nop;
        let listed =
            |table: &Option<std::collections::HashSet<u64>>| table.as_ref().is_none_or(|t| t.contains(&address));
        let section = self.section;
        if nop && ours.is_jmp_short_or_near() && self.unit.sites.jump_labels.contains_key(&(section, at)) {
            return if listed(&loaded.jump_labels) {
                Ok(true)
            } else {
                Err("the kernel's __jump_table does not list this NOP".to_owned())
            };
        }
        let called = refs.first().and_then(|r| match r.target {
            Target::Symbol(id, _) => Some(self.unit.side.object.symbol(id).name.as_str()),
            _ => None,
        });
        let Some(called) = called.filter(|_| is_branch(ours)) else { return Ok(false) };
        if nop && called == "__fentry__" && theirs.len() == ours.len() {
            return if listed(&loaded.call_sites) {
                Ok(true)
            } else {
                Err("the kernel's __mcount_loc does not list this NOP".to_owned())
            };
        }
        // tools/objtool/check.c: is_profiling_func().
        let profiling = called.starts_with("__sanitizer_cov_") || called.starts_with("__tsan_");
        let noinstr =
            matches!(self.unit.side.section_name(self.atom), ".noinstr.text" | ".entry.text" | ".cpuidle.text");
        Ok(profiling && noinstr && (nop || theirs.mnemonic() == Mnemonic::Ret))
    }

    /// Lengths of two runs of NOPs that are there for alignment only.
    fn fillers(&self, ours: &Instruction, theirs: &Instruction, at: u64, address: u64) -> Option<(u64, u64)> {
        let is_nop = |insn: &Instruction| insn.mnemonic() == Mnemonic::Nop;
        if at < self.entry || !is_nop(ours) || !is_nop(theirs) {
            return None;
        }
        let run = |bytes: &[u8], ip: u64, is_filler: &dyn Fn(&Instruction) -> bool| {
            let insns = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).into_iter();
            insns.take_while(is_filler).map(|insn| insn.len() as u64).sum::<u64>()
        };
        // A jump label's NOP that stands behind fillers is none of them: here it is a jump.
        let labels = self.unit.loaded.jump_labels.as_ref();
        let is_filler = |insn: &Instruction| is_nop(insn) && !labels.is_some_and(|labels| labels.contains(&insn.ip()));
        let held = self.unit.loaded.from(address);
        let our_run = run(&self.data[at as usize..self.end as usize], at, &is_nop);
        let their_run = run(&held[..held.len().min(our_run as usize + 128)], address, &is_filler);
        let patched = self.unit.sites.any(self.section, at, at + our_run);
        (!patched).then_some((our_run, their_run))
    }

    /// A slot of the global offset table, or what the linker made of it.
    fn got_slot(
        &mut self,
        r: &Ref,
        ours: &Instruction,
        theirs: &Instruction,
        held: &[u8],
    ) -> Result<(u64, u64), String> {
        let mut length = theirs.len();
        let same_register = ours.op0_register() == theirs.op0_register();
        let value = if is_branch(theirs) {
            let padded = ours.is_jmp_near_indirect() || ours.is_call_near_indirect();
            // `jmp *slot` (6 bytes) becomes `jmp target; nop`.
            if padded && length + 1 == ours.len() && held.get(length) == Some(&0x90) {
                length += 1;
            }
            padded.then(|| theirs.near_branch_target())
        } else if theirs.mnemonic() == Mnemonic::Lea && same_register && theirs.is_ip_rel_memory_operand() {
            Some(theirs.ip_rel_memory_address())
        } else if theirs.code() == ours.code() && same_register && theirs.is_ip_rel_memory_operand() {
            let slot = self.unit.loaded.from(theirs.ip_rel_memory_address());
            slot.get(..8).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)))
        } else if theirs.mnemonic() == ours.mnemonic() && same_register && theirs.op_count() == 2 {
            Some(theirs.immediate(1))
        } else {
            None
        };
        let Some(value) = value.filter(|_| length == ours.len()) else {
            return Err("the instructions differ".to_owned());
        };
        // The addend takes the slot's reader into account (-4), the thing itself has none.
        self.checker.check(r, value, 4)?;
        Ok((ours.len() as u64, length as u64))
    }

    fn branch(
        &mut self,
        ours: &Instruction,
        theirs: &Instruction,
        bytes: &[u8],
        held: &[u8],
        r: Option<&Ref>,
    ) -> Result<(), String> {
        let differ = || Err("the instructions differ".to_owned());
        if ours.mnemonic() != theirs.mnemonic() {
            return differ();
        }
        let (Some(a), Some(b)) = (prefix(ours), prefix(theirs)) else { return differ() };
        if bytes.get(..a) != held.get(..b) {
            return differ();
        }
        let value = theirs.near_branch_target();
        match r {
            Some(r) => self.reference(ours.ip(), r, value),
            None => self.inside(ours.ip(), ours.near_branch_target(), value),
        }
    }
}

/// The address of a place in a function, also inside an instruction (some jump over a prefix).
pub(super) fn address_of(map: &BTreeMap<u64, u64>, at: u64) -> Option<u64> {
    let (start, address) = map.range(..=at).next_back()?;
    Some(address + (at - start))
}

/// References into the middle of functions that turned out wrong: the function that has one, and the difference.
pub(super) fn wrong_inside(unit: &Unit<'_, '_>) -> Vec<(AtomId, Difference)> {
    let maps = unit.maps.borrow();
    let side = unit.side;
    let right = |l: &&Later| maps.get(&l.to).is_some_and(|map| address_of(map, l.offset) == Some(l.address));
    let later = unit.later.borrow();
    let wrong = later.iter().filter(|l| !right(l)).map(|l| {
        let entry = side.atom(l.from).start.wrapping_add_signed(naming_offset(side, l.from));
        let target = side.atom(l.to).start.wrapping_add_signed(naming_offset(side, l.to));
        let there = unit.loaded.describe(l.address);
        let what = format!("leads to `{}`+{:#x}, in the kernel to `{there}`", side.name(l.to), l.offset - target);
        let address = maps.get(&l.from).and_then(|map| address_of(map, entry)).unwrap_or_default();
        let (original, image) = (Vec::new(), Vec::new());
        (l.from, Difference { offset: l.at.saturating_sub(entry), address, what, original, image })
    });
    wrong.collect()
}

/// Decodes one instruction; place and size of its displacement besides.
pub(super) fn decode(bytes: &[u8], ip: u64) -> (Instruction, (usize, usize)) {
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let insn = decoder.decode();
    let offsets = decoder.get_constant_offsets(&insn);
    (insn, (offsets.displacement_offset(), offsets.displacement_size()))
}

fn is_branch(insn: &Instruction) -> bool {
    insn.is_call_near()
        || insn.is_jmp_short_or_near()
        || insn.is_jcc_short_or_near()
        || matches!(insn.mnemonic(), Mnemonic::Xbegin | Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne)
        || insn.is_jcx_short()
}

/// Bytes before the opcode of a direct branch.
fn prefix(insn: &Instruction) -> Option<usize> {
    let rest = match () {
        () if insn.is_jmp_short() || insn.is_jcc_short() || insn.is_jcx_short() => 2,
        () if insn.is_jcc_near() || insn.mnemonic() == Mnemonic::Xbegin => 6,
        () if insn.is_jmp_near() || insn.is_call_near() => 5,
        () => 2,
    };
    insn.len().checked_sub(rest)
}
