//! AArch64: relocation kinds (ELF for the Arm 64-bit Architecture, section 5.7). Every instruction is
//! four bytes and RELA addends hold the whole value, so nothing needs decoding to be compared.

use super::{Arch, Hidden, HiddenRefs, Site, Use};
use crate::elf::Section;

const R_AARCH64_NONE: u32 = 0;
const R_AARCH64_JUMP26: u32 = 282;
const R_AARCH64_CALL26: u32 = 283;

/// The architecture.
pub struct Aarch64;

impl Arch for Aarch64 {
    fn field_size(&self, r_type: u32) -> Option<u32> {
        match r_type {
            R_AARCH64_NONE => Some(0),
            257 | 260 => Some(8),
            258 | 261 => Some(4),
            259 | 262 => Some(2),
            // Fields inside an instruction: the assembler leaves them zero, the other bits must be compared.
            263..=299 | 311..=313 => Some(0),
            _ => None,
        }
    }

    fn is_pc_relative(&self, _r_type: u32) -> bool {
        false
    }

    fn sites(&self, section: &Section, _functions: &[(u64, u64)]) -> Vec<(u64, Site)> {
        let site = |r: &crate::elf::Reloc| {
            let branch = matches!(r.r_type, R_AARCH64_JUMP26 | R_AARCH64_CALL26);
            let usage = if branch { Use::Branch } else { Use::Address };
            (r.r_offset, Site { adjust: 0, usage, insn: r.r_offset })
        };
        section.relocs.iter().map(site).collect()
    }

    fn hidden(&self, section: &Section, functions: &[(u64, u64)]) -> HiddenRefs {
        let mut found = HiddenRefs::default();
        for &(start, end) in functions {
            for at in (start..end.saturating_sub(3)).step_by(4) {
                let Some(bytes) = section.data.get(at as usize..at as usize + 4) else { break };
                let insn = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let r_type = match insn >> 26 {
                    0b000101 => R_AARCH64_JUMP26,
                    0b100101 => R_AARCH64_CALL26,
                    _ => continue,
                };
                let displacement = i64::from(((insn & 0x03ff_ffff) << 6) as i32 >> 6) * 4;
                let target = at.wrapping_add_signed(displacement);
                if displacement == 0 || (start..end).contains(&target) || target >= section.sh_size {
                    continue;
                }
                found.refs.push(Hidden { r_offset: at, r_type, target: target as i64, bias: 0, usage: Use::Branch });
            }
        }
        found
    }

    fn read_variable_instead(&self, _code: &mut [u8], _at: usize, _kind: &str) -> Option<(u64, u32, i64)> {
        None
    }

    fn call_site(&self, _section: &Section, _start: u64) -> Option<u64> {
        // Call sites are listed in __patchable_function_entries, which is looked at for every function.
        None
    }
}
