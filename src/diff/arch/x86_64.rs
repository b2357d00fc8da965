//! x86-64: relocation kinds (psABI table 4.9) and instruction reading.
//!
//! A PC-relative field counts from the end of its *instruction*, which is four bytes after the field
//! only when no immediate follows it (`cmpl $imm, sym(%rip)`); so code is decoded, not assumed.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction, Mnemonic, Register, RflagsBits,
};

use super::{Arch, Hidden, HiddenRefs, How, Site, Use};
use crate::elf::Section;
use crate::elf::id::HashSet;

const R_X86_64_NONE: u32 = 0;
const R_X86_64_64: u32 = 1;
/// 32-bit, relative to the place.
pub const R_X86_64_PC32: u32 = 2;
/// The same, for calls and jumps.
pub const R_X86_64_PLT32: u32 = 4;
const R_X86_64_32: u32 = 10;
const R_X86_64_32S: u32 = 11;
/// 8-bit, relative to the place: no object has it, it stands for a short jump that the assembler resolved.
const R_X86_64_PC8: u32 = 15;
const R_X86_64_PC64: u32 = 24;

/// UDB, one byte: an undefined instruction that newer kernels trap with (`ASM_UDB` in arch/x86/include/asm/bug.h), and that
/// the decoder does not know.
const UDB: u8 = 0xd6;

/// The architecture.
pub struct X86_64;

impl Arch for X86_64 {
    fn field_size(&self, r_type: u32) -> Option<u32> {
        match r_type {
            R_X86_64_NONE => Some(0),
            R_X86_64_64 | R_X86_64_PC64 => Some(8),
            R_X86_64_PC32 | R_X86_64_PLT32 | R_X86_64_32 | R_X86_64_32S => Some(4),
            R_X86_64_PC8 => Some(1),
            _ => None,
        }
    }

    fn is_pc_relative(&self, r_type: u32) -> bool {
        matches!(r_type, R_X86_64_PC32 | R_X86_64_PLT32 | R_X86_64_PC64 | R_X86_64_PC8)
    }

    fn sites(&self, section: &Section, functions: &[(u64, u64)]) -> Vec<(u64, Site)> {
        let mut sites = Vec::with_capacity(section.relocs.len());
        let mut offsets: Vec<(u64, u32)> = section.relocs.iter().map(|r| (r.r_offset, r.r_type)).collect();
        offsets.sort_unstable();
        let mut next = 0;
        let mut compared: Option<usize> = None;
        for_each_instruction(section, functions, |insn, decoder| {
            if let Some(at) = compared {
                let site: &mut (u64, Site) = &mut sites[at];
                if insn.rflags_read() & (RflagsBits::CF | RflagsBits::SF | RflagsBits::OF) != 0 {
                    site.1.usage = Use::Compared(How::Order);
                }
                let goes_on = matches!(insn.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch);
                compared = compared.filter(|_| goes_on && insn.rflags_modified() == 0);
            }
            while next < offsets.len() && offsets[next].0 < insn.ip() {
                next += 1;
            }
            while next < offsets.len() && offsets[next].0 < insn.next_ip() {
                let (offset, r_type) = offsets[next];
                let adjust = if self.is_pc_relative(r_type) { (insn.next_ip() - offset) as i64 } else { 0 };
                let usage = usage(insn, in_displacement(insn, decoder, offset));
                if usage == Use::Compared(How::Same) {
                    compared = Some(sites.len());
                }
                sites.push((offset, Site { adjust, usage, insn: insn.ip() }));
                next += 1;
            }
        });
        sites
    }

    fn hidden(&self, section: &Section, functions: &[(u64, u64)]) -> HiddenRefs {
        let mut found = HiddenRefs::default();
        let mut current = 0;
        let fields: HashSet<u64> = section.relocs.iter().map(|r| r.r_offset).collect();
        let unread = for_each_instruction(section, functions, |insn, decoder| {
            while current + 1 < functions.len() && insn.ip() >= functions[current].1 {
                current += 1;
            }
            let (start, end) = functions[current];
            if insn.ip() < start || insn.ip() >= end {
                return;
            }
            let Some(hidden) = pc_relative(insn, decoder).filter(|hidden| !fields.contains(&hidden.r_offset)) else {
                return;
            };
            let is_in = |from: u64, to: u64| u64::try_from(hidden.target).is_ok_and(|at| (from..to).contains(&at));
            if is_in(0, section.sh_size) {
                found.refs.extend(Some(hidden).filter(|_| !is_in(start, end)));
            } else if hidden.usage != Use::Branch {
                found.unread.push(insn.ip());
            }
        });
        found.unread.extend(unread);
        found
    }

    fn instruction_at(&self, code: &[u8], at: u64) -> Option<String> {
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        while decoder.can_decode() {
            let insn = decoder.decode();
            if insn.code() == Code::INVALID {
                return None;
            }
            if insn.next_ip() > at {
                let mut text = String::new();
                GasFormatter::new().format(&insn, &mut text);
                return Some(text);
            }
        }
        None
    }

    fn is_short_jump(&self, r_type: u32) -> bool {
        r_type == R_X86_64_PC8
    }

    fn read_variable_instead(&self, code: &mut [u8], at: usize, kind: &str) -> Option<(u64, u32, i64)> {
        match kind {
            // REX.W B8+r imm64 (10 bytes) -> REX.W 8B /r disp32(%rip) (7 bytes) and a 3-byte NOP.
            "ptr" => {
                let insn = code.get_mut(at.checked_sub(2)?..at + 8)?;
                let (rex, opcode) = (insn[0], insn[1]);
                if rex & 0xfe != 0x48 || opcode & 0xf8 != 0xb8 {
                    return None;
                }
                let extended = rex & 1;
                insn.copy_from_slice(&[
                    0x48 | (extended << 2),
                    0x8b,
                    ((opcode & 7) << 3) | 0b101,
                    0,
                    0,
                    0,
                    0,
                    0x0f,
                    0x1f,
                    0x00,
                ]);
                Some((at as u64 + 1, R_X86_64_PC32, -4))
            }
            // [REX.B] 81 /4 imm32 -> [REX.R] 23 /r disp32(%rip), the same length; the short form for EAX is too short.
            "mask" => {
                let start = instruction_start(code, at)?;
                let insn = code.get_mut(at.checked_sub(2)?..at + 4)?;
                if insn[0] != 0x81 || insn[1] & 0xf8 != 0xe0 || !(2..=3).contains(&(at - start)) {
                    return None;
                }
                let register = insn[1] & 7;
                insn.copy_from_slice(&[0x23, (register << 3) | 0b101, 0, 0, 0, 0]);
                // What stands before the opcode is a prefix only if the instruction begins with it.
                if at - start == 3 {
                    let rex = code.get_mut(start).filter(|rex| **rex & 0xf0 == 0x40)?;
                    *rex = (*rex & !0b101) | ((*rex & 1) << 2);
                }
                Some((at as u64, R_X86_64_PC32, -4))
            }
            _ => None,
        }
    }

    fn call_site(&self, section: &Section, start: u64) -> Option<u64> {
        // `call __fentry__` right at the start, after an ENDBR64 where there is one.
        let at = start as usize;
        let skip = if section.data.get(at..at + 4) == Some(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
        (section.data.get(at + skip) == Some(&0xe8)).then_some(start + skip as u64 + 1)
    }
}

/// Where the instruction begins that covers the byte at `at` of a function's code.
fn instruction_start(code: &[u8], at: usize) -> Option<usize> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    while decoder.can_decode() {
        let insn = decoder.decode();
        if insn.code() == Code::INVALID {
            return None;
        }
        if insn.next_ip() > at as u64 {
            return Some(insn.ip() as usize);
        }
    }
    None
}

/// Decodes the given ranges in order; a range that does not decode to its end is read as far as it goes. Returns where
/// those stop.
fn for_each_instruction(
    section: &Section,
    ranges: &[(u64, u64)],
    mut visit: impl FnMut(&Instruction, &Decoder<'_>),
) -> Vec<u64> {
    let mut insn = Instruction::default();
    let mut unread = Vec::new();
    for &(start, end) in ranges {
        let Some(bytes) = section.data.get(start as usize..end as usize) else { continue };
        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        while decoder.can_decode() {
            let at = decoder.position();
            decoder.decode_out(&mut insn);
            if insn.code() != Code::INVALID {
                visit(&insn, &decoder);
            } else if bytes[at] == UDB && decoder.set_position(at + 1).is_ok() {
                decoder.set_ip(start + at as u64 + 1);
            } else {
                unread.push(start + at as u64);
                break;
            }
        }
    }
    unread
}

/// What an instruction does with the value of one of its fields.
fn usage(insn: &Instruction, in_displacement: bool) -> Use {
    match insn.mnemonic() {
        _ if is_branch(insn) => Use::Branch,
        Mnemonic::Lea => Use::Address,
        _ if in_displacement => match (insn.memory_base(), insn.memory_index()) {
            (Register::None | Register::RIP | Register::EIP, Register::None) => Use::Read,
            _ => Use::Indexed,
        },
        // Which of the flags matter, what comes next tells.
        Mnemonic::Cmp => Use::Compared(How::Same),
        Mnemonic::Sub => Use::Compared(How::Distance),
        _ => Use::Address,
    }
}

/// The relocation that would stand for the place which an instruction refers to by its distance.
fn pc_relative(insn: &Instruction, decoder: &Decoder<'_>) -> Option<Hidden> {
    let (r_offset, r_type, target, usage) = if is_branch(insn) {
        // In a section of several functions a call in last place may be a jump of two bytes (`mutex_lock` to its
        // slow path, both in .sched.text).
        let (r_type, size) = if is_short(insn) { (R_X86_64_PC8, 1) } else { (R_X86_64_PLT32, 4) };
        (insn.next_ip().checked_sub(size)?, r_type, insn.near_branch_target(), Use::Branch)
    } else if insn.is_ip_rel_memory_operand() {
        let field = insn.ip() + decoder.get_constant_offsets(insn).displacement_offset() as u64;
        (field, R_X86_64_PC32, insn.ip_rel_memory_address(), usage(insn, true))
    } else {
        return None;
    };
    Some(Hidden { r_offset, r_type, target: target as i64, bias: r_offset as i64 - insn.next_ip() as i64, usage })
}

/// Whether the field at `offset` is the displacement of a memory operand.
fn in_displacement(insn: &Instruction, decoder: &Decoder<'_>, offset: u64) -> bool {
    let constants = decoder.get_constant_offsets(insn);
    constants.has_displacement() && insn.ip() + constants.displacement_offset() as u64 == offset
}

fn is_branch(insn: &Instruction) -> bool {
    insn.is_call_near() || insn.is_jmp_short_or_near() || insn.is_jcc_short_or_near() || {
        insn.flow_control() == FlowControl::XbeginXabortXend && insn.near_branch_target() != 0
    }
}

fn is_short(insn: &Instruction) -> bool {
    insn.is_jmp_short() || insn.is_jcc_short()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Reloc;

    fn text(bytes: &[u8]) -> Vec<String> {
        let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        let mut out = Vec::new();
        while decoder.can_decode() {
            let mut line = String::new();
            formatter.format(&decoder.decode(), &mut line);
            out.push(line);
        }
        out
    }

    /// Protects `-f`: the instruction around the differing byte is the one that is shown.
    #[test]
    fn instruction_around_a_byte() {
        let code = [0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0];
        assert_eq!(X86_64.instruction_at(&code, 0).as_deref(), Some("push %rbp"));
        assert_eq!(X86_64.instruction_at(&code, 2).as_deref(), Some("mov %rsp,%rbp"));
        assert_eq!(X86_64.instruction_at(&code, 6), None);
    }

    /// Protects carried code from the placeholder immediates that only the kernel's own boot replaces.
    #[test]
    fn boot_time_constants_become_loads() {
        // mov $0x0123456789abcdef,%r9
        let mut code = vec![0x49, 0xb9, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01];
        assert_eq!(X86_64.read_variable_instead(&mut code, 2, "ptr"), Some((3, R_X86_64_PC32, -4)));
        assert_eq!(text(&code), ["mov 7,%r9", "nopl (%rax)"]);
        // and $0x12345678,%r10d
        let mut code = vec![0x41, 0x81, 0xe2, 0x78, 0x56, 0x34, 0x12];
        assert_eq!(X86_64.read_variable_instead(&mut code, 3, "mask"), Some((3, R_X86_64_PC32, -4)));
        assert_eq!(text(&code), ["and 7,%r10d"]);
        // mov 0x44(%rdi),%edi; and $0x12345678,%edi: what looks like a prefix is the end of another instruction.
        let mut code = vec![0x8b, 0x7f, 0x44, 0x81, 0xe7, 0x78, 0x56, 0x34, 0x12];
        assert_eq!(X86_64.read_variable_instead(&mut code, 5, "mask"), Some((5, R_X86_64_PC32, -4)));
        assert_eq!(text(&code), ["mov 0x44(%rdi),%edi", "and 9,%edi"]);
        // shr $12,%eax has no form that reads memory.
        assert_eq!(X86_64.read_variable_instead(&mut [0xc1, 0xe8, 0x0c], 2, "shift"), None);
    }

    /// A short jump out of its function is a reference, also at the very start of a section: without it a jump to another
    /// function is not seen, and a carried one leads anywhere.
    #[test]
    fn short_jumps() {
        let data = vec![0xeb, 0x01, 0x90, 0xc3];
        let section = Section { sh_size: 4, data, ..Section::default() };
        let found = X86_64.hidden(&section, &[(0, 2), (2, 4)]).refs;
        let usage = Use::Branch;
        assert_eq!(found, [Hidden { r_offset: 1, r_type: R_X86_64_PC8, target: 3, bias: -1, usage }]);
        assert!(X86_64.hidden(&section, &[(0, 4)]).refs.is_empty());
    }

    /// The address of a neighbour needs no relocation either (`rip_rel_ptr` of arch/x86/include/asm/asm.h); the field is not
    /// the last one where an immediate follows. What leads out of the section is nothing that can be carried.
    #[test]
    fn hidden_addresses() {
        // lea 2(%rip),%rax; ret; cmpb $1,-9(%rip); ret
        let data = vec![0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xc3, 0x80, 0x3d, 0xf7, 0xff, 0xff, 0xff, 1, 0xc3];
        let section = Section { sh_size: 16, data, ..Section::default() };
        let found = X86_64.hidden(&section, &[(0, 8), (8, 16)]);
        let hidden = |r_offset, target, bias, usage| Hidden { r_offset, r_type: R_X86_64_PC32, target, bias, usage };
        assert_eq!(found.refs, [hidden(3, 9, -4, Use::Address), hidden(10, 6, -5, Use::Read)]);
        assert!(found.unread.is_empty());
        let section = Section { sh_size: 8, data: section.data[..8].to_vec(), ..Section::default() };
        let found = X86_64.hidden(&section, &[(0, 7), (7, 8)]);
        assert_eq!((found.refs.len(), found.unread), (0, vec![0]));
    }

    /// What stands behind an unknown byte is not read, and said to be; UDB is known, and what follows it is read.
    #[test]
    fn unknown_bytes() {
        // A byte, call +1, ret; ret
        let code = |byte| vec![byte, 0xe8, 0, 0, 0, 0, 0xc3];
        let section = |byte| Section { sh_size: 7, data: code(byte), ..Section::default() };
        let found = X86_64.hidden(&section(UDB), &[(0, 6), (6, 7)]);
        assert_eq!((found.refs.len(), found.unread.len()), (1, 0));
        let found = X86_64.hidden(&section(0x06), &[(0, 6), (6, 7)]);
        assert_eq!((found.refs.len(), found.unread), (0, vec![0]));
    }

    /// The same comparison is an identity or an order, by which flags are read next.
    #[test]
    fn comparisons() {
        let usage = |code: &[u8]| {
            let reloc = Reloc { r_offset: 3, r_type: R_X86_64_32S, symbol: None, r_addend: 0 };
            let data = code.to_vec();
            let section = Section { sh_size: data.len() as u64, data, relocs: vec![reloc], ..Section::default() };
            X86_64.sites(&section, &[(0, code.len() as u64)])[0].1.usage
        };
        // cmp $x,%rdi, then sete %al, setb %al, or mov $1,%eax and sbb %eax,%eax.
        let compare = [0x48, 0x81, 0xff, 0, 0, 0, 0];
        assert_eq!(usage(&[&compare[..], &[0x0f, 0x94, 0xc0]].concat()), Use::Compared(How::Same));
        assert_eq!(usage(&[&compare[..], &[0x0f, 0x92, 0xc0]].concat()), Use::Compared(How::Order));
        assert_eq!(usage(&[&compare[..], &[0xb8, 1, 0, 0, 0, 0x19, 0xc0]].concat()), Use::Compared(How::Order));
        // sub $x,%rdi; mov x(%rdi),%rax; mov x(%rip),%rax.
        assert_eq!(usage(&[0x48, 0x81, 0xef, 0, 0, 0, 0]), Use::Compared(How::Distance));
        assert_eq!(usage(&[0x48, 0x8b, 0x87, 0, 0, 0, 0]), Use::Indexed);
        assert_eq!(usage(&[0x48, 0x8b, 0x05, 0, 0, 0, 0]), Use::Read);
    }
}
