//! What comparison has to know of an instruction set; nothing outside this folder does.

pub mod aarch64;
pub mod x86_64;

use crate::elf::{Object, Section};

/// How an instruction uses the value that a relocation puts into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// A direct call or jump.
    Branch,
    /// Memory there is read or written by the instruction itself.
    Read,
    /// Memory at a distance from there is, and a register has the distance.
    Indexed,
    /// The address itself is compared with something, in this way.
    Compared(How),
    /// Anything else: the address is taken, or it is not known what is done with it.
    Address,
}

/// What a comparison asks of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// Whether it is this very one, as far as can be told.
    Same,
    /// Which of two lies in front of the other.
    Order,
    /// How far it is from this one.
    Distance,
}

impl Use {
    /// Whether only memory is read or written, so that nobody learns the address.
    pub fn is_access(self) -> bool {
        matches!(self, Use::Read | Use::Indexed)
    }
}

/// Where a relocation in code belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Added to the addend, gives the offset of the thing referred to (0 for absolute fields).
    pub adjust: i64,
    /// What the instruction does with it.
    pub usage: Use,
    /// Start of the instruction in its section.
    pub insn: u64,
}

/// One supported architecture.
pub trait Arch: Sync {
    /// Bytes that a relocation of this type overwrites; `None` when the type is not known.
    fn field_size(&self, r_type: u32) -> Option<u32>;

    /// Whether the relocation's value is relative to its place.
    fn is_pc_relative(&self, r_type: u32) -> bool;

    /// For each relocation of an executable section, what its instruction does with it.
    fn sites(&self, section: &Section, functions: &[(u64, u64)]) -> Vec<(u64, Site)>;

    /// What leads from one function of a section to another place of it, and was resolved by the assembler itself, as
    /// the relocations that it would have been.
    fn hidden(&self, section: &Section, functions: &[(u64, u64)]) -> HiddenRefs;

    /// The instruction of a function's code that covers the byte at `at`, as text; `None` where it is not read.
    fn instruction_at(&self, code: &[u8], at: u64) -> Option<String> {
        let _ = (code, at);
        None
    }

    /// Whether it stands for a short jump, which reaches nothing that is not in the same section.
    fn is_short_jump(&self, r_type: u32) -> bool {
        let _ = r_type;
        false
    }

    /// Rewrites the instruction around a boot-time constant so that it reads the variable instead, in the
    /// same number of bytes. `code` begins where the function does; `at` is the offset of the immediate in it; `kind` is `ptr`, `shift` or `mask`.
    /// Returns the relocation (offset, type, addend) against the variable; `None` when it does not fit.
    fn read_variable_instead(&self, code: &mut [u8], at: usize, kind: &str) -> Option<(u64, u32, i64)>;

    /// Where in the section the function at `start` would have the field of its `call __fentry__`, if it has a call.
    fn call_site(&self, section: &Section, start: u64) -> Option<u64>;
}

/// What decoding found where the assembler left no relocation.
#[derive(Debug, Clone, Default)]
pub struct HiddenRefs {
    /// References from one function to another place of the section.
    pub refs: Vec<Hidden>,
    /// Offsets in the section of instructions that are not understood; what comes behind them in their functions is not read.
    pub unread: Vec<u64>,
}

/// A reference between functions without a relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden {
    /// Offset of the displacement field.
    pub r_offset: u64,
    /// Relocation type that stands for it.
    pub r_type: u32,
    /// Offset in the same section that it leads to.
    pub target: i64,
    /// Addend relative to the target (-4 on x86, where nothing follows the field).
    pub bias: i64,
    /// What the instruction does with it.
    pub usage: Use,
}

/// The architecture of an object, if comparison knows it (`e_machine`, ELF gABI).
pub fn of(object: &Object) -> Option<&'static dyn Arch> {
    match object.e_machine {
        62 => Some(&x86_64::X86_64),
        183 => Some(&aarch64::Aarch64),
        _ => None,
    }
}
