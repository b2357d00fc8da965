//! Calls and returns of a kernel that runs: thunks, static calls, and what ftrace's call sites lead to.
//!
//! In: a call or return of the unit and what memory has in its place. Out: whether it is what the kernel puts there for
//! that thunk, that key, that callee; and for ftrace's sites, whether the livepatch core is behind them. Where the kernel
//! chooses by processor, each choice is checked against the kernel's own variables, so that none of them is a guess.

use iced_x86::{Instruction, Mnemonic, Register};

use super::live::{INT3, idle};
use super::loaded::{Running, word};
use super::walk::{Walk, decode};

/// What a call site of ftrace leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hook {
    /// The livepatch core.
    Livepatch,
    /// Several users of ftrace at once, or something unknown: this, and it cannot be told whether the core is among them.
    Unknown(String),
}

/// arch/x86/kernel/static_call.c `xor5rax`, since 5.19 and before.
const RETURNS_0: [[u8; 5]; 2] = [[0x2e, 0x2e, 0x2e, 0x31, 0xc0], [0x66, 0x66, 0x48, 0x31, 0xc0]];
/// A trampoline of ftrace: a copy of `ftrace_regs_caller`, which has some hundred bytes.
const TRAMPOLINE: usize = 1024;

impl Walk<'_, '_, '_> {
    /// arch/x86/kernel/alternative.c `patch_retpoline`.
    pub(super) fn retpoline(&self, register: &str, ours: &Instruction, held: &[u8], address: u64) -> bool {
        let (mut at, mut is_call) = (0, ours.is_call_near());
        if ours.is_jcc_near() {
            // Not taken: over what follows.
            let (jump, _) = decode(held, address);
            let mut opposite = *ours;
            opposite.negate_condition_code();
            let over = jump.is_jcc_short() && jump.near_branch_target() == address + held.len() as u64;
            if !over || jump.condition_code() != opposite.condition_code() {
                return false;
            }
            (at, is_call) = (2, false);
        }
        if held[at..].starts_with(&[0x0f, 0xae, 0xe8]) {
            at += 3;
        }
        let (insn, _) = decode(&held[at..], address + at as u64);
        let kind = if is_call { insn.is_call_near_indirect() } else { insn.is_jmp_near_indirect() };
        let through = |insn: &Instruction| format!("{:?}", insn.op0_register()).eq_ignore_ascii_case(register);
        let mut rest = &held[(at + insn.len()).min(held.len())..];
        if kind && insn.op0_register() != Register::None && through(&insn) {
            if !is_call && rest.first() == Some(&INT3) {
                rest = &rest[1..];
            }
            return idle(rest);
        }
        // A thunk with accounting, or one placed where the processor predicts it well (`emit_its_trampoline`).
        let kind = if is_call { insn.is_call_near() } else { insn.is_jmp_near() };
        if !kind {
            return false;
        }
        let target = insn.near_branch_target();
        let loaded = self.unit.loaded;
        let with = ["__x86_indirect_call_thunk_", "__x86_indirect_jump_thunk_"][usize::from(!is_call)];
        if loaded.address_of(&format!("{with}{register}")) == Some(target) {
            return idle(rest);
        }
        let Some(thunk) = loaded.memory.peek(target, 16).filter(|_| loaded.from(target).is_empty()) else {
            return false;
        };
        let (jump, _) = decode(&thunk, target);
        jump.is_jmp_near_indirect() && through(&jump) && idle(rest)
    }

    /// Whether a static call's site holds what its key says.
    pub(super) fn static_call(
        &self,
        name: &str,
        ours: &Instruction,
        theirs: &Instruction,
        held: &[u8],
        running: &Running,
    ) -> Result<bool, String> {
        let loaded = self.unit.loaded;
        let Some(func) = loaded.address_of(&format!("__SCK__{name}")).and_then(|key| loaded.long(key)) else {
            return Ok(false);
        };
        let returns_0 = loaded.address_of("__static_call_return0") == Some(func);
        let target = theirs.near_branch_target();
        let right = match () {
            () if func == 0 && ours.is_call_near() => held.len() == 5 && theirs.len() == 5 && idle(held),
            () if func == 0 && ours.is_jmp_near() => is_return(held, theirs, running),
            () if func == 0 => {
                let empty = loaded.address_of("__static_call_return");
                theirs.code() == ours.code() && [empty, running.return_thunk].contains(&Some(target))
            }
            () if returns_0 && ours.is_call_near() => RETURNS_0.iter().any(|code| code == held),
            () => {
                let skip = self.accounting(target).unwrap_or(0);
                theirs.code() == ours.code() && target.wrapping_add(skip) == func
            }
        };
        // A site that was not reached yet still calls the trampoline.
        let waiting = theirs.code() == ours.code() && loaded.address_of(&format!("__SCT__{name}")) == Some(target);
        if right || waiting {
            return Ok(true);
        }
        let key = if func == 0 { "nothing".to_owned() } else { format!("`{}`", loaded.describe(func)) };
        Err(format!("the static call `{name}` is not what its key says, {key}"))
    }

    /// Length of the instruction that counts calls before a function's entry (arch/x86/kernel/callthunks.c), when a call
    /// leads to one.
    pub(super) fn accounting(&self, target: u64) -> Option<u64> {
        let held = self.unit.loaded.from(target);
        let (insn, _) = decode(held.get(..15)?, target);
        let counts =
            insn.mnemonic() == Mnemonic::Sar && insn.segment_prefix() == Register::GS && insn.immediate8() == 5;
        counts.then_some(insn.len() as u64)
    }

    /// What a call of ftrace leads to; `None` for a single tracer.
    pub(super) fn hook(&self, target: u64) -> Option<Hook> {
        let loaded = self.unit.loaded;
        let name = loaded.describe(target);
        let leads_to = |bytes: &[u8], function: &str| {
            let Some(function) = loaded.address_of(function) else { return false };
            let calls = memchr::memchr_iter(0xe8, bytes).filter_map(|i| Some((i, word(bytes.get(i + 1..)?)?)));
            calls
                .into_iter()
                .any(|(i, to)| target.wrapping_add(i as u64 + 5).wrapping_add_signed(i64::from(to)) == function)
        };
        // A trampoline of its own lies outside of the kernel's text.
        if !loaded.from(target).is_empty() {
            return Some(Hook::Unknown(name));
        }
        let mut size = TRAMPOLINE;
        let bytes = loop {
            match loaded.memory.peek(target, size) {
                Some(bytes) => break bytes,
                None if size > 64 => size /= 2,
                None => return Some(Hook::Unknown(name)),
            }
        };
        // The kernel's own livepatch core, and the one in Rust.
        if ["klp_ftrace_handler", "klp_handler"].iter().any(|handler| leads_to(&bytes, handler)) {
            return Some(Hook::Livepatch);
        }
        let several = ["arch_ftrace_ops_list_func", "ftrace_ops_list_func"];
        several.iter().any(|function| leads_to(&bytes, function)).then_some(Hook::Unknown(name))
    }
}

/// `ret` filled up with int3, or a jump to the thunk that is in use (`patch_return`).
pub(super) fn is_return(held: &[u8], theirs: &Instruction, running: &Running) -> bool {
    let plain = held.first() == Some(&0xc3) && held[1..].iter().all(|b| *b == INT3);
    plain
        || theirs.is_jmp_near()
            && theirs.len() == held.len()
            && Some(theirs.near_branch_target()) == running.return_thunk
}
