//! New globals whose names the kernel has already: what moved between files, and what would be there twice.
//!
//! In: the diffs of all units. Out: the same, which know what is not new to the kernel, and refusals. A unit alone cannot tell:
//! to it, a function that came from another file is new, and would run beside the kernel's own, a variable would be a second
//! one, and a strong definition that the kernel's weak one was to give way to would be called by nobody else.

use std::collections::HashMap;

use anyhow::Result;

use crate::diff::atoms::{AtomId, Kind, Side, Target};
use crate::diff::closure::naming_offset;
use crate::diff::names;
use crate::diff::verdict::{Diff, Elsewhere, Verdict};
use crate::diff::{closure, functions};
use crate::elf::Place;
use crate::elf::object::stb;
use crate::error::{Reason, Refusal};
use crate::kernel::Kernel;
use crate::kernel::symtab::Binding;
use crate::kernel::unit::Unit;
use crate::reloc::classify::already_defined;

/// Settles what is not new; gives the refusals.
pub(super) fn settle(kernel: &Kernel, units: &[Unit], diffs: &mut [(usize, Diff<'_>)]) -> Result<Vec<Refusal>> {
    let mut refusals = Vec::new();
    // Object and name -> who had it and has it no more.
    let mut lost: HashMap<(&str, &str), (usize, AtomId)> = HashMap::new();
    for (at, (index, diff)) in diffs.iter().enumerate() {
        for (name, atom) in lost_globals(diff) {
            lost.insert((units[*index].object.as_str(), name), (at, atom));
        }
    }
    let mut found: Vec<(usize, AtomId, Elsewhere)> = Vec::new();
    for (at, (index, diff)) in diffs.iter().enumerate() {
        let unit = &units[*index];
        for (name, atom, weak) in new_globals(diff) {
            // What boot freed is not there a second time.
            if diff.twins.revived.contains_key(&atom) {
                continue;
            }
            let old = lost.get(&(unit.object.as_str(), name)).filter(|(from, _)| *from != at);
            if let Some((from, old)) = old.copied() {
                let there = &diffs[from].1;
                let paths = (&units[diffs[from].0], unit);
                match moved(there, old, diff, atom, paths) {
                    Ok(elsewhere) => {
                        let elsewhere = elsewhere.then_some(Elsewhere::Moved { from, original: old });
                        found.push((at, atom, elsewhere.unwrap_or(Elsewhere::Kernels)));
                    }
                    Err(refusal) => refusals.push(refusal.object(&unit.object)),
                }
                continue;
            }
            let table = kernel.symbols(&unit.object)?;
            let exported = kernel.symvers().get(name).is_some_and(|export| export.object == "vmlinux");
            match table.global(name) {
                Some(_) if weak => found.push((at, atom, Elsewhere::Kernels)),
                Some(binding) => refusals.push(already_defined(name, Some(binding)).object(&unit.object)),
                None if exported && unit.object != "vmlinux" => {
                    refusals.push(already_defined(name, Some(Binding::Global)).object(&unit.object));
                }
                None => {}
            }
        }
    }
    for (at, atom, elsewhere) in found {
        if let Elsewhere::Moved { from, original } = elsewhere {
            diffs[from].1.moved_away.insert(original);
        }
        let diff = &mut diffs[at].1;
        diff.data.new_globals.retain(|id| *id != atom);
        if elsewhere == Elsewhere::Kernels {
            diff.functions.retain(|f| f.patched != Some(atom));
        }
        diff.elsewhere.insert(atom, elsewhere);
    }
    refusals.extend(lost_state(units, diffs));
    Ok(refusals)
}

/// What a unit newly defines for all: name, atom, and whether weakly.
fn new_globals<'d>(diff: &'d Diff<'_>) -> Vec<(&'d str, AtomId, bool)> {
    let side = &diff.patched;
    let functions = diff.functions.iter().filter(|f| f.verdict == Verdict::New).filter_map(|f| f.patched);
    let atoms = functions.chain(diff.data.new_globals.iter().copied());
    let symbols = atoms.flat_map(|atom| side.atom(atom).symbols.iter().map(move |s| (atom, side.object.symbol(*s))));
    let global = symbols.filter(|(_, s)| s.st_bind != stb::LOCAL);
    global.map(|(atom, s)| (s.name.as_str(), atom, s.st_bind == stb::WEAK)).collect()
}

/// The globals of the original that the patched side does not have, under whatever name.
fn lost_globals<'d>(diff: &'d Diff<'_>) -> Vec<(&'d str, AtomId)> {
    let side = &diff.original;
    let globals = side.object.symbol_ids().map(|id| (id, side.object.symbol(id)));
    let globals = globals.filter(|(_, s)| s.st_bind != stb::LOCAL && matches!(s.place, Place::Section(_)));
    let named = globals.filter_map(|(id, s)| Some((s.name.as_str(), side.of_symbol(id)?)));
    named.filter(|(_, atom)| !diff.twins.forward.contains_key(atom)).collect()
}

/// Whether what moved here replaces what the kernel has (a function), or is that itself (a variable).
fn moved(
    there: &Diff<'_>,
    old: AtomId,
    here: &Diff<'_>,
    new: AtomId,
    (from, to): (&Unit, &Unit),
) -> Result<bool, Box<Refusal>> {
    let name = here.patched.name(new);
    let way = format!("`{name}` moves from `{}` to `{}`", from.source.display(), to.source.display());
    let refuse = |reason, why: &str, advice: &str| {
        Err(Box::new(Refusal::new(reason, format!("{way}, {why}"), advice).symbol(name)))
    };
    let section = there.original.section_name(old);
    match (there.original.atom(old).kind, here.patched.atom(new).kind) {
        (Kind::Function, Kind::Function) => {
            if names::is_untouchable_text(section) || !functions::is_hookable(&there.original, &there.old_tables, old) {
                return refuse(
                    Reason::NotHookable,
                    "and ftrace cannot redirect the one that the kernel has",
                    "leave it where it was, and change the functions that call it",
                );
            }
            Ok(true)
        }
        (Kind::Data, Kind::Data) => {
            if !same_contents(&there.original, old, &here.patched, new) {
                return refuse(
                    Reason::DataChanged,
                    "and the running kernel keeps it as it is: kind of memory, size, or initial value are others here",
                    "move it without a change, and write the new value in a pre-patch callback",
                );
            }
            Ok(false)
        }
        _ => refuse(Reason::AlreadyDefined, "and becomes something else", "give the new one another name"),
    }
}

/// Whether two variables lie in memory of one kind, with the same bytes and references.
fn same_contents(old: &Side<'_>, a: AtomId, new: &Side<'_>, b: AtomId) -> bool {
    let memory = |side: &Side<'_>, id: AtomId| {
        let special = [".data..percpu", ".data..ro_after_init", ".init.", ".exit."];
        let section = side.section_name(id);
        (side.is_writable(id), special.iter().position(|prefix| section.starts_with(prefix)))
    };
    let size = |side: &Side<'_>, id: AtomId| side.atom(id).end - side.atom(id).start;
    let bytes = |side: &Side<'_>, id: AtomId| side.bytes(id).iter().any(|b| *b != 0).then(|| side.bytes(id).to_vec());
    memory(old, a) == memory(new, b)
        && size(old, a) == size(new, b)
        && bytes(old, a) == bytes(new, b)
        && references(old, a) == references(new, b)
}

/// Where a variable refers to, as far as that can be said in one word: place, kind, and what is there.
fn references(side: &Side<'_>, id: AtomId) -> Vec<(u64, u32, String, i64)> {
    let start = side.atom(id).start;
    let word = |target: Target| match target {
        Target::Nothing(addend) => (String::new(), addend),
        Target::Symbol(symbol, addend) => (side.object.symbol(symbol).name.clone(), addend),
        Target::Atom(atom, offset) => match side.atom(atom).kind {
            Kind::Function | Kind::Data if !side.is_private(atom) => {
                (side.name(atom).to_owned(), offset - naming_offset(side, atom))
            }
            _ => (format!("{:02x?}", side.bytes(atom)), offset),
        },
    };
    let refs = side.refs_of(id).iter();
    refs.map(|r| {
        let (name, offset) = word(r.target);
        (r.reloc.r_offset - start, r.reloc.r_type, name, offset)
    })
    .collect()
}

/// Static variables that travel under the name of one that another unit of the object has no more: its value would be lost.
fn lost_state(units: &[Unit], diffs: &[(usize, Diff<'_>)]) -> Vec<Refusal> {
    let has_state = |side: &Side<'_>, id: AtomId| {
        side.atom(id).kind == Kind::Data
            && side.is_writable(id)
            && !side.is_private(id)
            && !side.is_init(id)
            && side.rule(id).is_none()
            && !names::is_exit_section(side.section_name(id))
    };
    // Object and name -> the unit that lost it, and whether it was global.
    let mut lost: HashMap<(&str, String), (usize, bool)> = HashMap::new();
    for (at, (index, diff)) in diffs.iter().enumerate() {
        let side = &diff.original;
        for id in side.ids().filter(|id| has_state(side, *id) && !diff.twins.forward.contains_key(id)) {
            lost.insert((&units[*index].object, names::stem(side.name(id)).into_owned()), (at, side.is_global(id)));
        }
    }
    let mut refusals = Vec::new();
    if lost.is_empty() {
        return refusals;
    }
    for (at, (index, diff)) in diffs.iter().enumerate().filter(|(_, (_, diff))| !diff.is_empty()) {
        let (unit, side) = (&units[*index], &diff.patched);
        for id in closure::closure(diff).atoms {
            let name = names::stem(side.name(id)).into_owned();
            let is_new = has_state(side, id) && !diff.twins.backward.contains_key(&id);
            let Some((from, global)) = lost.get(&(unit.object.as_str(), name.clone())) else { continue };
            // Of globals it has been said.
            if !is_new || *from == at || *global && side.is_global(id) {
                continue;
            }
            let old = &units[diffs[*from].0];
            refusals.push(
                Refusal::new(
                    Reason::DataChanged,
                    format!(
                        "`{name}` moves from `{}` to `{}`, and what it holds in the running kernel would be lost",
                        old.source.display(),
                        unit.source.display()
                    ),
                    "leave the variable in its file; or give it another name, if it is another one",
                )
                .object(&unit.object)
                .symbol(&name),
            );
        }
    }
    refusals
}
