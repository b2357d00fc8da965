//! Code of a running kernel: what the kernel itself rewrote, at boot and since, and whether that is right.
//!
//! In: an instruction of the unit and what memory has in its place. Out: how far both go on, "not one of these", or what
//! is wrong. Nothing is skipped: the unit's tables and relocations say where something is rewritten ([`super::sites`]),
//! and what may stand there is computed from the same sources that the kernel uses:
//!  - alternatives: the instructions, or one of the replacements that the entry names, with NOPs as
//!    `optimize_nops` (arch/x86/kernel/alternative.c) makes them;
//!  - return sites: `ret`, or a jump to where `x86_return_thunk` points; retpolines: the same register, with or without
//!    a fence, or a thunk that jumps through it; accounting of call depths before the callee; sealed ENDBRs;
//!  - static calls: what the key holds (arch/x86/kernel/static_call.c); jump labels: a NOP, or a jump to their target;
//!  - indirect calls made direct: where their slot points; boot-time constants: what their variable holds;
//!  - ftrace sites: a NOP, or a call that does not lead to the livepatch core: then the function is replaced already.

use iced_x86::{Instruction, Mnemonic};

use super::calls::{Hook, is_return};
use super::sites::Alternative;
use super::walk::{Walk, decode};
use crate::diff::atoms::{Ref, Target};

/// Lengths of both sides.
type Lengths = (u64, u64);

/// arch/x86/include/asm/ibt.h `gen_endbr_poison`, before and since 6.15.
const SEALED: [[u8; 4]; 2] = [[0x66, 0x0f, 0x1f, 0x00], [0x0f, 0x1f, 0x40, 0xd6]];
pub(super) const INT3: u8 = 0xcc;

impl Walk<'_, '_, '_> {
    /// One instruction of a running kernel; `None` when it has to be what the file has.
    pub(super) fn live(
        &mut self,
        ours: &Instruction,
        theirs: &Instruction,
        refs: &[Ref],
        at: u64,
        address: u64,
    ) -> Result<Option<Lengths>, String> {
        let loaded = self.unit.loaded;
        let Some(running) = &loaded.running else { return Ok(None) };
        let held = loaded.from(address);
        let length = ours.len();
        let whole = Some((length as u64, length as u64));
        let Some(same) = held.get(..length) else { return Ok(None) };
        let ours_first = self.data[at as usize];
        if held[0] == INT3 && ours_first != INT3 {
            return Err("a breakpoint is set here (a kprobe, or code that is just being rewritten)".to_owned());
        }
        if at < self.entry && ours.mnemonic() == Mnemonic::Nop {
            // The padding before a function is where calls are counted.
            let padding = &self.data[at as usize..self.entry as usize];
            let room = padding.len() as u64;
            let counts = self.accounting(address) == Some(room) && idle(padding);
            return Ok(counts.then_some((room, room)));
        }
        if !self.nested {
            let sites = &self.unit.sites;
            if let Some(alternative) = sites.alternatives.get(&(self.section, at)) {
                let length = alternative.length.max(length as u64);
                return self.alternative(alternative, at, address).map(|()| Some((length, length)));
            }
        }
        if ours.mnemonic() == Mnemonic::Endbr64 && SEALED.iter().any(|sealed| sealed == same) {
            return Ok(whole);
        }
        if ours.mnemonic() == Mnemonic::Nop && self.nested {
            // As `optimize_nops` may have joined them.
            let mut end = at;
            while end < self.end
                && decode(&self.data[end as usize..self.end as usize], end).0.mnemonic() == Mnemonic::Nop
            {
                end += decode(&self.data[end as usize..self.end as usize], end).0.len() as u64;
            }
            let run = end - at;
            return Ok(held.get(..run as usize).is_some_and(idle).then_some((run, run)));
        }
        if let Some(target) = self.unit.sites.jump_labels.get(&(self.section, at)) {
            return self.jump_label(*target, at, ours, theirs);
        }
        if self.unit.sites.paravirt.contains(&(self.section, at)) {
            if let Some(slot) = self.slot(at)
                && self.through_slot(slot, held.get(..length).unwrap_or(&[]), address)
            {
                return Ok(whole);
            }
            return Ok(None);
        }
        let Some(called) = refs.first().and_then(|r| self.name_of(r)).filter(|_| is_branch(ours)) else {
            return Ok(None);
        };
        if called == "__fentry__" && ours.is_call_near() {
            if theirs.is_call_near() && theirs.near_branch_target() != 0 {
                let hook = self.hook(theirs.near_branch_target());
                self.hook = hook.or(self.hook.take());
                return Ok(whole);
            }
            if theirs.is_jmp_near() {
                let to = loaded.describe(theirs.near_branch_target());
                self.hook = Some(Hook::Unknown(to));
                return Ok(whole);
            }
            return Ok(None);
        }
        if called == "__x86_return_thunk" && ours.is_jmp_near() && is_return(same, theirs, running) {
            return Ok(whole);
        }
        if let Some(register) = called.strip_prefix("__x86_indirect_thunk_") {
            let right = self.retpoline(register, ours, same, address);
            return Ok(if right { whole } else { None });
        }
        if let Some(name) = called.strip_prefix("__SCT__") {
            return Ok(if self.static_call(name, ours, theirs, same, running)? { whole } else { None });
        }
        if self.nested && ours.is_jmp_near() && theirs.is_jmp_short() {
            // `text_poke_apply_relocation` makes jumps of replacements short, and fills with int3.
            if !same[2..].iter().all(|b| *b == INT3) {
                return Err("the instructions differ".to_owned());
            }
            self.reference(at, &refs[0], theirs.near_branch_target())?;
            return Ok(whole);
        }
        if ours.is_call_near() && theirs.is_call_near() && theirs.len() == length {
            let target = theirs.near_branch_target();
            if let Some(skip) = self.accounting(target) {
                self.reference(at, &refs[0], target.wrapping_add(skip))?;
                return Ok(whole);
            }
        }
        Ok(None)
    }

    fn name_of(&self, r: &Ref) -> Option<&str> {
        match r.target {
            Target::Symbol(id, _) => Some(self.unit.side.object.symbol(id).name.as_str()),
            Target::Atom(id, _) => Some(self.unit.side.name(id)),
            Target::Nothing(_) => None,
        }
    }

    /// The instructions as they are, or one of their replacements.
    fn alternative(&mut self, alternative: &Alternative, at: u64, address: u64) -> Result<(), String> {
        let own = (self.section, at, (at + alternative.length).min(self.end));
        let saved = (self.inner.clone(), self.checker.clone(), self.hook.clone());
        let mut first = None;
        for (index, piece) in std::iter::once(own).chain(alternative.replacements.iter().copied()).enumerate() {
            let result = self.variant(piece, alternative.length, at, address);
            match result {
                Ok(()) => return Ok(()),
                Err(why) => {
                    (self.inner, self.checker, self.hook) = saved.clone();
                    if index == 0 {
                        first = Some(why);
                    }
                }
            }
        }
        let why = first.unwrap_or_default();
        Err(format!("neither the instructions nor one of their alternatives: {why}"))
    }

    /// Whether the image has this variant of an alternative: instructions from `start` to `end` of a section, then nothing
    /// that does anything.
    fn variant(
        &mut self,
        (section, start, end): (crate::elf::SectionId, u64, u64),
        total: u64,
        at: u64,
        address: u64,
    ) -> Result<(), String> {
        let differ = || Err("the instructions differ".to_owned());
        let Some(held) = self.unit.loaded.from(address).get(..total as usize) else { return differ() };
        if section != self.section && self.is_direct(section, start, end) {
            let slot = self.slot(at);
            let right = slot.is_some_and(|slot| self.through_slot(slot, held, address));
            return if right { Ok(()) } else { differ() };
        }
        let data = &self.unit.side.object.section(section).data;
        if data.len() < end as usize {
            return differ();
        }
        let outer = (self.section, self.data, self.end);
        (self.section, self.data, self.end) = (section, data, end);
        self.nested = true;
        let (mut from, mut there) = (start, address);
        let mut result = Ok(());
        while from < end && result.is_ok() {
            result = self.step(from, there).map(|(ours, theirs)| {
                from += ours;
                there += theirs;
            });
        }
        self.nested = false;
        (self.section, self.data, self.end) = outer;
        result?;
        let rest = (there - address) as usize;
        if held.get(rest..).is_some_and(idle) { Ok(()) } else { differ() }
    }

    /// Whether a replacement stands for "call directly what the slot holds" (ALT_FLAG_DIRECT_CALL): its call goes
    /// to `BUG_func`, which the kernel never leaves there.
    fn is_direct(&self, section: crate::elf::SectionId, start: u64, end: u64) -> bool {
        let refs = &self.unit.side.refs[section.index()];
        let inside = refs.iter().filter(|r| (start..end).contains(&r.reloc.r_offset));
        end - start == 5 && inside.take(1).any(|r| self.name_of(r) == Some("BUG_func"))
    }

    /// The address of the slot that the indirect call at a place reads.
    fn slot(&self, at: u64) -> Option<u64> {
        let outside = self.refs(at, at + 6);
        let r = outside.first()?;
        match r.target {
            Target::Symbol(id, addend) => {
                let name = self.unit.side.object.symbol(id).name.as_str();
                let [address] = self.unit.global(name)[..] else { return None };
                Some(address.wrapping_add_signed(addend + r.adjust))
            }
            _ => None,
        }
    }

    /// Whether memory has the direct call of what a slot holds, or nothing when that does nothing.
    fn through_slot(&self, slot: u64, held: &[u8], address: u64) -> bool {
        let loaded = self.unit.loaded;
        let Some(target) = loaded.long(slot) else { return false };
        let nothing = ["nop_func", "_paravirt_nop"].iter().any(|name| loaded.address_of(name) == Some(target));
        if nothing {
            return idle(held);
        }
        let (insn, _) = decode(held, address);
        let called = insn.near_branch_target();
        let counted = self.accounting(called).map(|skip| called.wrapping_add(skip));
        insn.is_call_near() && (called == target || counted == Some(target)) && idle(&held[insn.len()..])
    }

    fn jump_label(
        &mut self,
        target: Option<Target>,
        at: u64,
        ours: &Instruction,
        theirs: &Instruction,
    ) -> Result<Option<Lengths>, String> {
        let lengths = Some((ours.len() as u64, theirs.len() as u64));
        if !matches!(theirs.len(), 2 | 5) {
            return Ok(None);
        }
        if theirs.mnemonic() == Mnemonic::Nop {
            return Ok(lengths);
        }
        let (Some(Target::Atom(atom, offset)), true) = (target, theirs.is_jmp_short_or_near()) else { return Ok(None) };
        let to = self.unit.side.atom(atom).start.wrapping_add_signed(offset);
        if atom == self.atom {
            self.inner.push((at, to, theirs.near_branch_target()));
        } else {
            self.checker.atom(atom, offset, theirs.near_branch_target())?;
        }
        Ok(lengths)
    }

    /// Boot-time constants inside an instruction: their places and sizes, each checked against its variable.
    pub(super) fn constants(&self, at: u64, length: u64, held: &[u8]) -> Result<Vec<(usize, usize)>, String> {
        let loaded = self.unit.loaded;
        let mut found = Vec::new();
        if loaded.running.is_none() {
            return Ok(found);
        }
        for offset in 0..length {
            let Some(constant) = self.unit.sites.constants.get(&(self.section, at + offset)) else { continue };
            let value = loaded.address_of(&constant.name).and_then(|at| loaded.long(at));
            let Some(value) = value else { continue };
            let field = held.get(offset as usize..offset as usize + constant.size);
            if field != value.to_le_bytes().get(..constant.size) {
                return Err(format!("the boot-time constant is not `{}`, which is {value:#x}", constant.name));
            }
            found.push((offset as usize, constant.size));
        }
        Ok(found)
    }

    /// Whether a lock prefix at a place was made another for a kernel with one processor (`alternatives_smp_unlock`).
    pub(super) fn is_unlocked(&self, at: u64, held: &[u8]) -> bool {
        self.unit.loaded.running.is_some()
            && self.data[at as usize] == 0xf0
            && held.first() == Some(&0x3e)
            && self.unit.sites.locks.contains(&(self.section, at))
    }
}

/// Whether bytes are instructions that do nothing: NOPs, or a jump over int3s to their end (`add_nop`).
pub(super) fn idle(bytes: &[u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        let (insn, _) = decode(&bytes[at..], at as u64);
        let end = at + insn.len();
        at = match insn.mnemonic() {
            Mnemonic::Nop => end,
            _ if insn.is_jmp_short_or_near() => {
                let to = insn.near_branch_target() as usize;
                match bytes.get(end..to) {
                    Some(over) if over.iter().all(|b| *b == INT3) => to,
                    _ => return false,
                }
            }
            _ => return false,
        };
    }
    at == bytes.len()
}

fn is_branch(insn: &Instruction) -> bool {
    insn.is_call_near() || insn.is_jmp_near() || insn.is_jcc_near()
}
