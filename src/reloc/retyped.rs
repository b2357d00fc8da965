//! Functions that get another type, on a kernel that compares hashes of types before indirect calls (CONFIG_CFI).
//!
//! In: a diff. Out: a refusal or a warning for each changed function whose hash is another one now. Its address stays the original's,
//! and so does what stands before it there: the old hash. New code that calls it by its address compares with the new one, and the
//! kernel stops. Nothing in the code that refers to it need change for that: a table keeps the address that it has.

use std::collections::HashSet as Names;

use super::{Resolved, World, indirect};
use crate::diff::atoms::{AtomId, Side};
use crate::diff::verdict::{Diff, Verdict};
use crate::elf::SymbolId;
use crate::error::{Reason, Refusal};

/// Refuses those whose address the unit has from before, and warns of those whose address others may have.
pub(super) fn find(diff: &Diff<'_>, world: &World<'_>, out: &mut Resolved) {
    if world.gate.hash.is_none() {
        return;
    }
    let mut taken: Option<Names<&str>> = None;
    for function in diff.functions.iter().filter(|f| f.verdict == Verdict::Changed) {
        let (Some(old), Some(new)) = (function.original, function.patched) else { continue };
        let (Some(before), Some(after)) = (hash(&diff.original, old), hash(&diff.patched, new)) else { continue };
        if before == after {
            continue;
        }
        let name = &function.name;
        // Only what has its address taken has a hash, if no other unit can see it.
        let taken = taken.get_or_insert_with(|| indirect::taken_globals(&diff.original));
        if !diff.original.is_global(old) || taken.contains(name.as_str()) {
            out.refusals.push(
                Refusal::new(
                    Reason::NoHash,
                    format!(
                        "the type of `{name}` changes, whose address is kept: the kernel's own has the hash of the old one, and a \
                         call of it as the new one would be stopped as an attack (CONFIG_CFI)"
                    ),
                    format!("leave `{name}` its type, and call a new function from it"),
                )
                .symbol(name)
                .at(diff.patched.section_name(new), diff.patched.atom(new).start),
            );
        } else {
            out.warnings.push(format!(
                "the type of `{name}` changes: who has its address from another file can call it only as what it was (CONFIG_CFI)"
            ));
        }
    }
}

/// What stands before a function from its hash's symbol on: the instruction that has the hash, and NOPs that are the same everywhere.
fn hash<'o>(side: &Side<'o>, function: AtomId) -> Option<&'o [u8]> {
    let atom = side.atom(function);
    let value = |symbol: SymbolId| side.object.symbol(symbol).st_value;
    let (start, end) = (value(side.hash_symbol(function)?), value(*atom.symbols.first()?));
    Some(side.bytes_between(atom.section, (start, end)))
}
