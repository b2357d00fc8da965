//! What the kernel's tables say of a function: jump labels, exceptions, alternatives, warnings.
//!
//! In: a function whose code is equal, with the address of each instruction. Out: nothing, or what is wrong. Each entry of
//! the unit's tables about it has to be in the image's, found by the place it speaks about, and mean the same: the same
//! code tests another static key, or goes on elsewhere after a fault, when its entry says so. Hard because the kernel
//! sorts its tables and keeps notes in them; what it frees after boot is no longer there to be compared.

use std::collections::HashMap;

use super::Loaded;
use super::loaded::word;
use super::sites::spot;
use super::walk::{Walk, address_of};
use crate::diff::atoms::{AtomId, Kind, Ref, Side, Target};

/// Sections of a unit with the bounds of the image's table (include/asm-generic/vmlinux.lds.h,
/// arch/x86/kernel/vmlinux.lds.S).
const TABLES: [(&str, &str, &str); 4] = [
    ("__jump_table", "__start___jump_table", "__stop___jump_table"),
    ("__ex_table", "__start___ex_table", "__stop___ex_table"),
    (".altinstructions", "__alt_instructions", "__alt_instructions_end"),
    ("__bug_table", "__start___bug_table", "__stop___bug_table"),
];

/// Bit of a jump label's key: objtool's sign that the jump may become a NOP; from boot on, that its code is freed
/// (include/linux/jump_label.h, `jump_entry_set_init`).
const KEY_NOTE: u64 = 2;
/// Flag of a warning that was given once (include/linux/bug.h, BUGFLAG_DONE).
const BUG_DONE: u16 = 1 << 2;

/// The bounds of the table that a section of a module is.
pub(super) fn bounds(section: &str) -> Option<(&'static str, &'static str)> {
    TABLES.iter().find(|(name, ..)| *name == section).map(|(_, first, last)| (*first, *last))
}

/// A unit's entries, and the image's.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// By function: what speaks about it.
    about: HashMap<AtomId, Vec<AtomId>>,
    /// By the unit's section: places spoken about with the addresses of their entries, in order.
    held: HashMap<&'static str, Vec<(u64, u64)>>,
}

impl Entries {
    pub(super) fn of(side: &Side<'_>, loaded: &Loaded) -> Entries {
        let mut entries = Entries::default();
        for (section, first, last) in TABLES {
            let of_name = side.object.section_ids().filter(|id| side.object.section(*id).name == section);
            let ours: Vec<AtomId> = of_name.flat_map(|id| side.of_section[id.index()].iter().copied()).collect();
            let Some(size) = ours.first().map(|id| side.bytes(*id).len()).filter(|size| *size > 0) else { continue };
            let is_entry = |id: &AtomId| {
                side.atom(*id).kind == Kind::Entry
                    && side.bytes(*id).len() == size
                    && side.refs_of(*id).first().is_some_and(|r| {
                        side.arch.is_pc_relative(r.reloc.r_type) && side.arch.field_size(r.reloc.r_type) == Some(4)
                    })
            };
            let Some((start, bytes)) = loaded.table_of(first, last).filter(|(at, _)| !loaded.is_freed(*at)) else {
                continue;
            };
            if !ours.iter().all(is_entry) || bytes.len() % size != 0 {
                continue;
            }
            let places = bytes.chunks_exact(size).zip((start..).step_by(size));
            let mut held: Vec<(u64, u64)> =
                places.map(|(entry, at)| (at.wrapping_add_signed(i64::from(word(entry).unwrap_or(0))), at)).collect();
            held.sort_unstable();
            entries.held.insert(section, held);
            for id in ours {
                if let Some(Target::Atom(code, _)) = side.refs_of(id).first().map(|r| r.target) {
                    entries.about.entry(code).or_default().push(id);
                }
            }
        }
        entries
    }

    /// Entries of the image about a place.
    fn at(&self, section: &str, place: u64) -> &[(u64, u64)] {
        let held = self.held.get(section).map_or(&[][..], Vec::as_slice);
        let first = held.partition_point(|(code, _)| *code < place);
        let count = held[first..].partition_point(|(code, _)| *code == place);
        &held[first..first + count]
    }
}

impl Walk<'_, '_, '_> {
    /// Compares what the tables say of the function: offset in its section and what is wrong.
    pub(super) fn entries(&mut self) -> Result<(), (u64, String)> {
        let unit = self.unit;
        let side = unit.side;
        for id in unit.entries.about.get(&self.atom).into_iter().flatten() {
            let Some((_, at)) = spot(side, *id, 0) else { continue };
            let Some(place) = address_of(&self.map, at) else { continue };
            let section = side.section_name(*id);
            self.checker.at = at;
            // Several alternatives may speak about one place.
            let before = self.checker.clone();
            let mut result = Err("has no entry for this place".to_owned());
            for (_, entry) in unit.entries.at(section, place) {
                self.checker = before.clone();
                result = self.entry(*id, section, *entry);
                if result.is_ok() {
                    break;
                }
            }
            result.map_err(|why| (at, format!("the kernel's {section} {why}")))?;
        }
        Ok(())
    }

    /// Compares an entry with the image's.
    fn entry(&mut self, id: AtomId, section: &str, place: u64) -> Result<(), String> {
        let unit = self.unit;
        let (side, bytes) = (unit.side, unit.side.bytes(id));
        let differ = || Err("says something else of this place".to_owned());
        let Some(held) = unit.loaded.from(place).get(..bytes.len()) else { return differ() };
        if section == "__bug_table" {
            // Texts and line are for the message only; with them, the flags come last.
            let flags = |entry: &[u8]| entry.last_chunk().map(|last| u16::from_le_bytes(*last) & !BUG_DONE);
            return if flags(bytes) == flags(held) { Ok(()) } else { differ() };
        }
        let mut covered = vec![false; bytes.len()];
        for (index, r) in side.refs_of(id).iter().enumerate() {
            let at = (r.reloc.r_offset - side.atom(id).start) as usize;
            let size = side.arch.field_size(r.reloc.r_type).unwrap_or(0) as usize;
            covered[at..(at + size).min(bytes.len())].fill(true);
            let Some(value) = unit.field(r, &held[at..], place + at as u64) else { return differ() };
            match (section, index) {
                (_, 0) => {}
                ("__jump_table", 2) => self.key(r, value)?,
                (".altinstructions", _) => self.replacement(id, value)?,
                // Exceptions before 5.16 went on in code without a name.
                _ if matches!(r.target, Target::Atom(to, _) if side.atom(to).kind != Kind::Function) => {}
                _ => self.leads(r, value)?,
            }
        }
        let same = (0..bytes.len()).all(|i| covered[i] || bytes[i] == held[i]);
        if same { Ok(()) } else { differ() }
    }

    /// A jump label's key: the variable, and whether the branch is likely.
    fn key(&mut self, r: &Ref, value: u64) -> Result<(), String> {
        let meant = match r.target {
            Target::Atom(atom, offset) => self.unit.side.atom(atom).start.wrapping_add_signed(offset),
            Target::Symbol(_, addend) | Target::Nothing(addend) => addend as u64,
        };
        self.checker.check(r, (value & !KEY_NOTE) | (meant & KEY_NOTE), 0)
    }

    /// A reference to a place in code.
    fn leads(&mut self, r: &Ref, value: u64) -> Result<(), String> {
        let side = self.unit.side;
        match r.target {
            Target::Atom(atom, offset) if atom == self.atom => {
                let to = side.atom(atom).start.wrapping_add_signed(offset);
                if address_of(&self.map, to) == Some(value) {
                    return Ok(());
                }
                let there = self.unit.loaded.describe(value);
                Err(format!("leads to `{there}`, not to +{:#x}", to.wrapping_sub(self.entry)))
            }
            _ => self.checker.check(r, value, 0),
        }
    }

    /// What may be put in the place of instructions: in a section of its own on both sides, so no jump has become shorter.
    fn replacement(&mut self, id: AtomId, address: u64) -> Result<(), String> {
        let unit = self.unit;
        let side = unit.side;
        let (Some((section, from)), [.., length]) = (spot(side, id, 1), side.bytes(id)) else { return Ok(()) };
        let extent = (from, from + u64::from(*length));
        let bytes = side.bytes_between(section, extent);
        let differ = || Err("has another replacement".to_owned());
        let Some(held) = unit.loaded.from(address).get(..bytes.len()) else { return differ() };
        let mut covered = vec![false; bytes.len()];
        for r in side.refs_between(section, extent) {
            let at = (r.reloc.r_offset - from) as usize;
            let size = side.arch.field_size(r.reloc.r_type).unwrap_or(0) as usize;
            if size == 0 {
                continue;
            }
            covered[at..(at + size).min(bytes.len())].fill(true);
            let Some(value) = unit.field(r, &held[at..], address + at as u64) else { return differ() };
            self.leads(r, value).map_err(|why| format!("has another replacement: {why}"))?;
        }
        let same = (0..bytes.len()).all(|i| covered[i] || bytes[i] == held[i]);
        if same { Ok(()) } else { differ() }
    }
}
