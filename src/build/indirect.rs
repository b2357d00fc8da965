//! Whether the functions whose addresses the livepatch gives away can be called by them, on a kernel that tracks indirect branches.
//!
//! In: what `reloc::indirect` could not tell from a unit alone, the other units of the run, and the images. Out: refusals, and a
//! warning where it cannot be told. An export is open to every module; what another unit of the run took the address of
//! before is not sealed; for the rest the image decides.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use crate::diff::Diff;
use crate::elf::object::{stb, stt};
use crate::elf::{Object, Place};
use crate::kernel::Kernel;
use crate::kernel::symtab::{Kind, SymbolTable};
use crate::kernel::unit::Unit;
use crate::reloc::indirect::{self, Indirect};
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
            Some(true)
        } else {
            defined.filter_map(|(_, diff)| begins_with_endbr(diff.original.object, &given.name)).next()
        };
        if defined == Some(false) {
            report.refusals.push(given.refusal("its code has no ENDBR instruction").object(of));
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
        let why = match image.map(|image| image.entry(&given.name, given.sympos)) {
            Some(Entry::Open | Entry::NoFunction) => continue,
            Some(Entry::Closed) => {
                report.refusals.push(given.refusal("its code has no ENDBR instruction").object(of));
                continue;
            }
            Some(Entry::Sealed) => {
                let when = if given.object == "vmlinux" { "boot" } else { "the module's load" };
                report.refusals.push(given.refusal(&format!("{when} overwrites its ENDBR instruction")).object(of));
                continue;
            }
            // objtool sees the table of exports as a reference to each.
            _ if given.exported => continue,
            Some(Entry::Unknown) => "the image does not say".to_owned(),
            None => format!("name the image of `{}` (--image, --modules), which says", given.object),
        };
        report.warnings.push(format!("{of}: {}", given.warning(&why)));
    }
    Ok(())
}

/// Whether the global function of this name, which the object defines, begins with an ENDBR.
fn begins_with_endbr(object: &Object, name: &str) -> Option<bool> {
    let id = object.symbol_ids().find(|id| {
        let s = object.symbol(*id);
        s.name == name && s.st_type == stt::FUNC && s.st_bind == stb::GLOBAL && matches!(s.place, Place::Section(_))
    })?;
    Some(indirect::begins_with_endbr(object, id))
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
