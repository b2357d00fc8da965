//! Whether the functions whose addresses the livepatch gives away can be called by them, on a kernel that checks indirect calls.
//!
//! In: what `reloc::indirect` could not tell from a unit alone, the other units of the run, and the images. Out: refusals, and a
//! warning where it cannot be told. An export is open to every module; what another unit of the run took the address of
//! before is not sealed; for the rest the image decides.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use crate::diff::Diff;
use crate::elf::object::{stb, stt};
use crate::elf::{Object, Place, SymbolId};
use crate::kernel::Kernel;
use crate::kernel::symtab::{Kind, SymbolTable};
use crate::kernel::unit::Unit;
use crate::reloc::indirect::{self, Closed, Gate, Indirect};
use crate::report::Report;
use crate::request::Request;
use crate::verify::{self, Entry, Loaded};

/// Judges what the units give away: each with the index of its unit.
pub(super) fn judge(
    kernel: &Kernel,
    request: &Request,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    loaded: &BTreeMap<String, Loaded>,
    all: &[(usize, Indirect)],
    report: &mut Report,
) -> Result<()> {
    let gate = Gate::of_kernel(kernel.config());
    let mut taken: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    let mut more: BTreeMap<&str, Option<Loaded>> = BTreeMap::new();
    for (unit, given) in all {
        let of = units[*unit].object.as_str();
        let names = taken.entry(&given.object).or_insert_with(|| {
            let same = diffs.iter().filter(|(unit, _)| units[*unit].object == given.object);
            same.flat_map(|(_, diff)| indirect::taken_globals(&diff.original)).collect()
        });
        let is_local = given.original.is_some_and(|id| {
            let diff = diffs.iter().find(|(index, _)| index == unit);
            diff.is_some_and(|(_, diff)| diff.original.object.symbol(id).st_bind == stb::LOCAL)
        });
        if !is_local && names.contains(given.name.as_str()) {
            continue;
        }
        let defined = diffs.iter().filter(|(unit, _)| units[*unit].object == given.object);
        let defined = if given.original.is_some() {
            Some(None)
        } else {
            let mut found =
                defined.filter_map(|(_, diff)| Some((diff, global_function(diff.original.object, &given.name)?)));
            found.next().map(|(diff, id)| gate.closes(&diff.original, id))
        };
        if let Some(Some(closed)) = defined {
            report.refusals.push(given.refusal(closed).object(of));
            continue;
        }
        // Another module's symbols need not be at hand: what is used of it is exported.
        if defined.is_none() && !kernel.symbols(&given.object).is_ok_and(|table| is_function(&table, given)) {
            continue;
        }
        let image = match loaded.get(&given.object) {
            Some(loaded) => Some(loaded),
            None if request.no_verify => None,
            None => {
                if !more.contains_key(given.object.as_str()) {
                    more.insert(&given.object, verify::load(kernel, &given.object)?);
                }
                more.get(given.object.as_str()).and_then(Option::as_ref)
            }
        };
        let closed = match image.map(|image| image.entry(&given.name, given.sympos, gate)) {
            Some(Entry::Open | Entry::NoFunction) => continue,
            Some(Entry::Closed) => Some(Closed::NoEndbr),
            Some(Entry::NoHash) => Some(Closed::NoHash),
            Some(Entry::Sealed) if given.object == "vmlinux" => Some(Closed::Overwritten("boot")),
            Some(Entry::Sealed) => Some(Closed::Overwritten("the module's load")),
            Some(Entry::Unknown) | None => None,
        };
        let why = match closed {
            Some(closed) => {
                report.refusals.push(given.refusal(closed).object(of));
                continue;
            }
            // objtool sees the table of exports as a reference to each, and C functions that others may call have a hash.
            None if given.exported => continue,
            None if image.is_some() => "the image does not say".to_owned(),
            None => format!("name the image of `{}` (--image, --modules), which says", given.object),
        };
        report.warnings.push(format!("{of}: {}", given.warning(gate, &why)));
    }
    Ok(())
}

/// The global function of this name that the object defines.
fn global_function(object: &Object, name: &str) -> Option<SymbolId> {
    object.symbol_ids().find(|id| {
        let s = object.symbol(*id);
        s.name == name && s.st_type == stt::FUNC && s.st_bind == stb::GLOBAL && matches!(s.place, Place::Section(_))
    })
}

/// Whether the table has it as a function that C code may call by its address.
///
/// A table of letters says the same of the linker's marks in code (include/asm-generic/sections.h). A static call's trampoline
/// is named to the code that rewrites it, and is never called so (include/linux/static_call.h).
fn is_function(table: &SymbolTable, given: &Indirect) -> bool {
    const MARKS: [&str; 5] = ["text", "_start", "_end", "_begin", "_stop"];
    let name = given.name.as_str();
    let is_mark = name.starts_with('_') && MARKS.iter().any(|end| name.ends_with(end));
    let functions = table.named(name).iter().filter(|i| table.symbols[**i as usize].kind == Kind::Func);
    !is_mark && !name.starts_with("__SCT__") && functions.count() > 0
}
