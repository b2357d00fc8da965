//! x86-64: relocation kinds (psABI table 4.9) and instruction reading.
//!
//! A PC-relative field counts from the end of its *instruction*, which is four bytes after the field
//! only when no immediate follows it (`cmpl $imm, sym(%rip)`); so code is decoded, not assumed.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};

use super::{Arch, HiddenBranch, Site, Use, reloc_at};
use crate::elf::{Object, Section};

const R_X86_64_NONE: u32 = 0;
const R_X86_64_64: u32 = 1;
/// 32-bit, relative to the place.
pub const R_X86_64_PC32: u32 = 2;
/// The same, for calls and jumps.
pub const R_X86_64_PLT32: u32 = 4;
const R_X86_64_32: u32 = 10;
const R_X86_64_32S: u32 = 11;
const R_X86_64_PC64: u32 = 24;

/// The architecture.
pub struct X86_64;

impl Arch for X86_64 {
    fn field_size(&self, r_type: u32) -> Option<u32> {
        match r_type {
            R_X86_64_NONE => Some(0),
            R_X86_64_64 | R_X86_64_PC64 => Some(8),
            R_X86_64_PC32 | R_X86_64_PLT32 | R_X86_64_32 | R_X86_64_32S => Some(4),
            _ => None,
        }
    }

    fn is_pc_relative(&self, r_type: u32) -> bool {
        matches!(r_type, R_X86_64_PC32 | R_X86_64_PLT32 | R_X86_64_PC64)
    }

    fn sites(&self, section: &Section, functions: &[(u64, u64)]) -> Vec<(u64, Site)> {
        let mut sites = Vec::with_capacity(section.relocs.len());
        let mut offsets: Vec<(u64, u32)> = section.relocs.iter().map(|r| (r.r_offset, r.r_type)).collect();
        offsets.sort_unstable();
        let mut next = 0;
        for_each_instruction(section, functions, |insn| {
            while next < offsets.len() && offsets[next].0 < insn.ip() {
                next += 1;
            }
            while next < offsets.len() && offsets[next].0 < insn.next_ip() {
                let (offset, r_type) = offsets[next];
                let adjust = if self.is_pc_relative(r_type) { (insn.next_ip() - offset) as i64 } else { 0 };
                let usage = if is_branch(insn) { Use::Branch } else { Use::Address };
                sites.push((offset, Site { adjust, usage, insn: insn.ip() }));
                next += 1;
            }
        });
        sites
    }

    fn hidden_branches(&self, section: &Section, functions: &[(u64, u64)]) -> Vec<HiddenBranch> {
        let mut found = Vec::new();
        let mut current = 0;
        for_each_instruction(section, functions, |insn| {
            while current + 1 < functions.len() && insn.ip() >= functions[current].1 {
                current += 1;
            }
            let (start, end) = functions[current];
            if insn.ip() < start || insn.ip() >= end || !is_branch(insn) {
                return;
            }
            let target = insn.near_branch_target();
            if (start..end).contains(&target) || target >= section.sh_size {
                return;
            }
            let r_offset = insn.next_ip() - 4;
            // A short jump cannot leave its function in a way that a relocation could express.
            if is_short(insn) || reloc_at(section, r_offset).is_some() {
                return;
            }
            found.push(HiddenBranch { r_offset, r_type: R_X86_64_PLT32, target, bias: -4 });
        });
        found
    }

    fn has_fentry(&self, object: &Object, section: &Section, start: u64) -> bool {
        // `call __fentry__` right at the start, after an ENDBR64 where there is one.
        let skip = if section.data.get(start as usize..start as usize + 4) == Some(&[0xf3, 0x0f, 0x1e, 0xfa]) {
            4
        } else {
            0
        };
        reloc_at(section, start + skip + 1)
            .and_then(|r| r.symbol)
            .is_some_and(|s| object.symbol(s).name == "__fentry__")
    }
}

/// Decodes the given ranges in order; a range that does not decode to its end is read as far as it goes.
fn for_each_instruction(section: &Section, ranges: &[(u64, u64)], mut visit: impl FnMut(&Instruction)) {
    let mut insn = Instruction::default();
    for &(start, end) in ranges {
        let Some(bytes) = section.data.get(start as usize..end as usize) else { continue };
        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut insn);
            if insn.code() == Code::INVALID {
                break;
            }
            visit(&insn);
        }
    }
}

fn is_branch(insn: &Instruction) -> bool {
    insn.is_call_near() || insn.is_jmp_short_or_near() || insn.is_jcc_short_or_near() || {
        insn.flow_control() == FlowControl::XbeginXabortXend && insn.near_branch_target() != 0
    }
}

fn is_short(insn: &Instruction) -> bool {
    insn.is_jmp_short() || insn.is_jcc_short()
}
