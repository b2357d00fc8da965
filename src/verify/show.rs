//! Instructions around a difference, for people.
//!
//! In: a walk that stopped at a place. Out: lines of assembly of both sides, the differing one marked.

use iced_x86::{Code, Formatter, GasFormatter, Instruction};

use super::walk::{Walk, decode};
use crate::diff::atoms::{Kind, Ref, Side, Target};
use crate::diff::closure::naming_offset;

/// Instructions shown before the difference, and after it.
const BEFORE: usize = 3;
const AFTER: usize = 2;
const LONGEST: usize = 15;

/// Both sides around an offset of the section.
pub(super) fn around(walk: &Walk<'_, '_, '_>, at: u64) -> (Vec<String>, Vec<String>) {
    let first = walk.map.range(..at).rev().take(BEFORE).last().map_or(at, |(start, _)| *start);
    let start = walk.map.get(&first).copied().unwrap_or_default();
    let place = walk.map.get(&at).copied().unwrap_or_default();
    let ours = lines(first, at, |ip| {
        let bytes = walk.data.get(ip as usize..walk.end as usize)?;
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        let (insn, _) = decode(bytes, ip);
        let refs = &walk.unit.side.refs[walk.unit.side.atom(walk.atom).section.index()];
        let inside = |r: &&Ref| (ip..ip + insn.len() as u64).contains(&r.reloc.r_offset);
        let note = refs.iter().find(inside).map(|r| describe(walk.unit.side, r));
        Some((ip.wrapping_sub(walk.entry), bytes.to_vec(), insn, note))
    });
    let theirs = lines(start, place, |ip| {
        let bytes = walk.unit.loaded.from(ip);
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        let (insn, _) = decode(bytes, ip);
        let target = match () {
            () if insn.near_branch_target() != 0 => Some(insn.near_branch_target()),
            () if insn.is_ip_rel_memory_operand() => Some(insn.ip_rel_memory_address()),
            () => None,
        };
        let (known, address) = walk.map.range(..=walk.entry).next_back().map_or((walk.entry, ip), |(k, a)| (*k, *a));
        let entry = address + (walk.entry - known);
        (!bytes.is_empty()).then(|| {
            (ip.wrapping_sub(entry), bytes.to_vec(), insn, target.map(|address| walk.unit.loaded.describe(address)))
        })
    });
    (ours, theirs)
}

/// Offset in the function, bytes, instruction, what it refers to.
type Line = (u64, Vec<u8>, Instruction, Option<String>);

fn lines(first: u64, marked: u64, read: impl Fn(u64) -> Option<Line>) -> Vec<String> {
    let mut formatter = GasFormatter::new();
    let (mut out, mut ip, mut left) = (Vec::new(), first, AFTER + 1);
    while left > 0 {
        let Some((offset, bytes, insn, note)) = read(ip) else { break };
        let length = if insn.code() == Code::INVALID { 1 } else { insn.len() };
        let hex: String = bytes.iter().take(length).map(|b| format!("{b:02x} ")).collect();
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        let note = note.map_or(String::new(), |n| format!("  # {n}"));
        let mark = if ip == marked { '>' } else { ' ' };
        let offset = offset as i64;
        let sign = if offset < 0 { '-' } else { '+' };
        out.push(format!("{mark} {sign}{:#05x}: {hex:<30} {text}{note}", offset.unsigned_abs()));
        if ip >= marked {
            left -= 1;
        }
        ip += length as u64;
    }
    out
}

fn describe(side: &Side<'_>, r: &Ref) -> String {
    let (name, offset) = match r.target {
        Target::Atom(id, offset) if side.atom(id).kind == Kind::Text => {
            let text = side.bytes(id).get(offset.max(0) as usize..).unwrap_or(&[]);
            return format!("\"{}\"", String::from_utf8_lossy(text).trim_end_matches('\0').escape_debug());
        }
        Target::Atom(id, offset) => (side.name(id), offset - naming_offset(side, id)),
        Target::Symbol(id, addend) => (side.object.symbol(id).name.as_str(), addend + r.adjust),
        Target::Nothing(value) => ("", value),
    };
    if offset == 0 { name.to_owned() } else { format!("{name}{offset:+#x}") }
}
