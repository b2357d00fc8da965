//! Is the data that the livepatch will use as large in the kernel as in the unit that was compiled?
//!
//! In: the closure's references to what the kernel has. Out: a refusal per variable whose size is another: code that was
//! compiled for a larger one would write beyond it. What a table without sizes shows is the room up to the next symbol.

use std::collections::BTreeSet;

use super::{Evidence, Loaded};
use crate::diff::closure::{Closure, Dest};
use crate::elf::object::{stb, stt};
use crate::elf::{Object, SymbolId};
use crate::error::{Reason, Refusal};
use crate::kernel::locate::{Location, Locator, Wanted};
use crate::kernel::symtab::{Binding, Kind};
use crate::reloc::unit_symbols::unit_symbols;

/// Checks every variable of the original that the closure refers to; how many were right, and what is wrong.
pub fn sizes(original: &Object, closure: &Closure, loaded: &Loaded, evidence: &Evidence) -> (usize, Vec<Refusal>) {
    let used: BTreeSet<SymbolId> = closure
        .refs
        .iter()
        .filter_map(|r| match &r.dest {
            Dest::Outside(outside, _) => outside.original,
            _ => None,
        })
        .collect();
    let symbols = unit_symbols(original);
    let locator = Locator::new(&loaded.table, &symbols, false);
    let (mut right, mut refusals) = (0, Vec::new());
    for id in used {
        let symbol = original.symbol(id);
        if symbol.st_type != stt::OBJECT || symbol.st_size == 0 {
            continue;
        }
        let binding = match symbol.st_bind {
            stb::LOCAL => Binding::Local,
            stb::WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        let wanted = Wanted { name: &symbol.name, binding, size: Some(symbol.st_size), kind: Kind::Object };
        // Where it is not found, or several could be it, resolving the reference says so.
        let Location::Located(found) = locator.locate(&wanted) else { continue };
        // Another unit's, whose size this one need not know.
        if found.overridden {
            continue;
        }
        let held = &loaded.table.symbols[found.index as usize];
        let message = match (held.size, loaded.table.room(found.index)) {
            (Some(size), _) if size != symbol.st_size => {
                format!("`{}` has {} bytes as compiled, and {size} in the kernel", symbol.name, symbol.st_size)
            }
            (None, Some(room)) if room < symbol.st_size => {
                format!("`{}` has {} bytes as compiled, and at most {room} in the kernel", symbol.name, symbol.st_size)
            }
            _ => {
                right += 1;
                continue;
            }
        };
        refusals.push(Refusal::new(Reason::ImageMismatch, message, evidence.advice()).symbol(&symbol.name));
    }
    (right, refusals)
}
