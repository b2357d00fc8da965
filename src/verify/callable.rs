//! Can a function be called by its address, as the kernel's image or a module's file has it?
//!
//! In: what is loaded, a symbol of it, and what the kernel asks of such functions. Out: an [`Entry`]. A function that may be called so on a kernel that tracks indirect
//! branches begins with an ENDBR which is not in the list of those that boot, or the module's load, overwrites
//! (arch/x86/kernel/alternative.c, `apply_seal_endbr`). That list is freed afterwards, but then memory has the result. On one that
//! compares hashes, clang's `mov $hash, %reg` stands before it, or what FineIBT made of that.

use super::Loaded;
use crate::kernel::symtab::Kind;
use crate::reloc::indirect::{ENDBR, Gate, MOV_HASH, has_hash};

/// Bytes before a function that its hash is in, and that FineIBT puts the ENDBR to (arch/x86/kernel/alternative.c, `fineibt_prefix_size`).
const PREFIX: u64 = 16;

/// How a function begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// With an ENDBR that stays.
    Open,
    /// With one that is overwritten.
    Sealed,
    /// Without one.
    Closed,
    /// No hash of its type stands before it.
    NoHash,
    /// It is no function.
    NoFunction,
    /// It is not where the symbols say, or it cannot be told which of several it is.
    Unknown,
}

impl Loaded {
    /// How the function of this name and position begins.
    pub fn entry(&self, name: &str, sympos: u32, gate: Gate) -> Entry {
        let named: Vec<_> = self.table.named(name).iter().map(|i| &self.table.symbols[*i as usize]).collect();
        // A module's positions do not count what was only there while it loaded; then all have to begin alike.
        let one = match named.as_slice() {
            [one] => Some(one),
            several => sympos.checked_sub(1).and_then(|at| several.get(at as usize)).filter(|_| !self.is_module),
        };
        let entry = |kind: Kind, address: u64| match kind {
            Kind::Func => self.entry_at(address, gate),
            Kind::Object | Kind::Other => Entry::NoFunction,
        };
        if let Some(symbol) = one {
            return entry(symbol.kind, symbol.address);
        }
        let mut all = named.iter().map(|s| entry(s.kind, s.address));
        let first = all.next().unwrap_or(Entry::Unknown);
        if all.all(|other| other == first) { first } else { Entry::Unknown }
    }

    /// Whether a function begins here, and not what stands before one.
    fn is_function(&self, address: u64) -> bool {
        let helper = |name: &str| name.starts_with("__cfi_") || name.starts_with("__pfx_");
        self.table.symbols.iter().any(|s| s.address == address && s.kind == Kind::Func && !helper(&s.name))
    }

    /// Whether a hash stands so many bytes before this address. Each has a symbol, which tables of symbols may leave out.
    fn is_hashed(&self, address: u64, before: u64) -> bool {
        let preceding = |size: u64| self.from(address.wrapping_sub(size)).get(..size as usize).unwrap_or_default();
        // Only the first byte where a kernel runs: boot may put other code to where NOPs were (arch/x86/kernel/callthunks.c).
        let is_mov = preceding(before).first().is_some_and(|byte| MOV_HASH.contains(byte));
        let looks_so = is_mov && (self.running.is_some() || has_hash(preceding(before.max(PREFIX)), before));
        let mut names = self.table.symbols.iter().filter(|s| s.name.starts_with("__cfi_")).peekable();
        let belongs = |size: u64| (before..=PREFIX).contains(&size);
        let is_named = names.peek().is_none() || names.any(|s| address.checked_sub(s.address).is_some_and(belongs));
        looks_so && is_named
    }

    fn entry_at(&self, address: u64, gate: Gate) -> Entry {
        let held = self.from(address);
        if held.len() < ENDBR.len() {
            return Entry::Unknown;
        }
        let prefix = address.wrapping_sub(PREFIX);
        let begins = |address: u64| self.from(address).starts_with(&ENDBR);
        if self.running.is_some() && begins(prefix) && !self.is_function(prefix) {
            return Entry::Open;
        }
        if gate.hash.is_some_and(|before| !self.is_hashed(address, before)) {
            return Entry::NoHash;
        }
        match &self.sealed {
            _ if !gate.endbr => Entry::Open,
            _ if !begins(address) => Entry::Closed,
            Some(sealed) if sealed.contains(&address) => Entry::Sealed,
            Some(_) => Entry::Open,
            // A module without the list has nothing sealed; where a kernel runs, it has been done.
            None if self.is_module || self.running.is_some() => Entry::Open,
            None => Entry::Unknown,
        }
    }
}
