//! Every reference of the closure -> how it will be resolved when the livepatch is loaded.
//!
//! In: a closure and what the kernel exports and holds. Out: for each outside symbol exactly one
//! [`Resolution`], or a refusal; and the account of all references. Pure: tables come in as values.

pub mod account;
pub mod classify;
pub mod indirect;
mod retyped;
pub(crate) mod unit_symbols;

pub use account::Account;
pub use classify::{Resolution, World};

use crate::diff::atoms::{AtomId, Kind, Target};
use crate::diff::closure::{CarriedRef, Closure, Dest, Outside};
use crate::diff::verdict::{Diff, Verdict};
use crate::elf::id::HashMap;
use crate::error::{Reason, Refusal};
use crate::kernel::symtab::{self, KernelSymbol};

/// The answers for one unit.
#[derive(Debug, Default)]
pub struct Resolved {
    /// How each outside symbol is resolved.
    pub symbols: HashMap<Outside, Resolution>,
    /// Each original function that is replaced: its name, and the position among its namesakes.
    pub positions: HashMap<AtomId, (String, u32)>,
    /// Table entries left out, with the reason.
    pub dropped_entries: HashMap<AtomId, String>,
    /// Functions of the kernel whose addresses are given away, and were not before in this unit.
    pub indirect: Vec<indirect::Indirect>,
    /// What to tell the user, though it does not stop the build.
    pub warnings: Vec<String>,
    /// Why some references cannot be resolved.
    pub refusals: Vec<Refusal>,
    /// Where every reference went.
    pub account: Account,
}

/// Resolves all references of a closure.
pub fn resolve(diff: &Diff<'_>, closure: &Closure, world: &World<'_>) -> Resolved {
    let mut out = Resolved::default();
    let classifier = classify::Classifier::new(diff, world);
    let constants = closure.runtime_consts.iter().map(|c| &c.variable);
    let outside = closure.refs.iter().filter_map(|r| match &r.dest {
        Dest::Outside(outside, _) => Some(outside),
        _ => None,
    });
    for symbol in outside.chain(constants) {
        if out.symbols.contains_key(symbol) {
            continue;
        }
        match classifier.classify(symbol) {
            Ok(resolution) => {
                out.symbols.insert(symbol.clone(), resolution);
            }
            Err(refusal) => {
                if !out.refusals.iter().any(|r| r.message == refusal.message) {
                    out.refusals.push(*refusal);
                }
            }
        }
    }
    for function in diff.functions.iter().filter(|f| f.verdict == Verdict::Changed) {
        let Some(old) = function.original.filter(|old| !diff.original.is_init(*old)) else { continue };
        match classifier.replaced(old) {
            Ok(position) => drop(out.positions.insert(old, position)),
            Err(refusal) => out.refusals.push(*refusal),
        }
    }
    for r in &closure.refs {
        module_key(diff, world, r, &mut out);
        freed(diff, world, r, &mut out);
    }
    indirect::find(diff, closure, world, &mut out);
    retyped::find(diff, world, &mut out);
    out.account = account::account(closure, &out);
    out
}

/// A key of a jump label or static call that a *module* owns: its livepatch relocation is applied after the site is set up, or
/// never while that module is not loaded.
fn module_key(diff: &Diff<'_>, world: &World<'_>, r: &CarriedRef, out: &mut Resolved) {
    let side = &diff.patched;
    let is_static_call = side.section_name(r.atom) == ".static_call_sites";
    if side.atom(r.atom).kind != Kind::Entry || !(is_static_call || side.section_name(r.atom) == "__jump_table") {
        return;
    }
    let Dest::Outside(outside, _) = &r.dest else { return };
    let Some(Resolution::Livepatch(symbol)) = out.symbols.get(outside) else { return };
    if symbol.object == "vmlinux" {
        return;
    }
    if is_static_call {
        // Without an entry the call stays what it was compiled to: one of the trampoline, which always leads where the key does
        // (include/linux/static_call.h).
        let what = format!("static call `{}` of module `{}`, by its trampoline", outside.name, symbol.object);
        out.dropped_entries.insert(r.atom, what);
        return;
    }
    let function = diff.new_tables.owner.get(&r.atom).map_or("?", |id| side.name(*id));
    if let Some(event) = outside.name.strip_prefix("__tracepoint_") {
        out.warnings.push(format!(
            "{}: `{function}` will not emit the trace event `{event}`: its switch belongs to module `{}`, which may be \
             loaded after the livepatch",
            world.object, symbol.object
        ));
        out.dropped_entries.insert(r.atom, format!("tracepoint `{event}` of module `{}`", symbol.object));
        return;
    }
    // The place of the test, which the entry begins with.
    let (section, offset) = match side.refs_of(r.atom).first().map(|code| code.target) {
        Some(Target::Atom(code, at)) => (side.section_name(code), side.atom(code).start.saturating_add_signed(at)),
        _ => ("__jump_table", r.reference.reloc.r_offset),
    };
    out.refusals.push(
        Refusal::new(
            Reason::ModuleKey,
            format!("`{function}` tests static key `{}`, which module `{}` owns", outside.name, symbol.object),
            "in the patched function use static_key_enabled(&key) in place of static_branch_likely/unlikely(&key)",
        )
        .object(world.object)
        .symbol(function)
        .at(section, offset),
    );
}

/// A reference to what the kernel frees after boot, or a module after its load, and what another unit defines: this unit's own
/// has been refused by its section.
///
/// Code that had the reference before (marked `__ref`, behind a test of `system_state`) is as right as it was: vmlinux keeps the
/// names. A module's are gone, and the livepatch would not load.
fn freed(diff: &Diff<'_>, world: &World<'_>, r: &CarriedRef, out: &mut Resolved) {
    let Dest::Outside(outside, _) = &r.dest else { return };
    let Some(Resolution::Livepatch(klp)) = out.symbols.get(outside) else { return };
    let is_vmlinux = klp.object == "vmlinux";
    let table = if is_vmlinux { world.vmlinux } else { world.own.filter(|_| klp.object == world.object) };
    let Some(table) = table else { return };
    let named = table.named(&klp.name);
    let index = named.get(klp.sympos.saturating_sub(1) as usize).filter(|_| klp.sympos > 0 || named.len() == 1);
    // The bounds of that memory are no memory (include/asm-generic/sections.h); nor are other marks of the linker's.
    const BOUNDS: [&str; 4] = ["__init_begin", "__init_end", "_sinittext", "_einittext"];
    let is_freed = |symbol: &KernelSymbol| {
        let is_mark = !table.files.is_empty() && symbol.kind == symtab::Kind::Other;
        symbol.init && !is_mark && !BOUNDS.contains(&symbol.name.as_str())
    };
    if !index.is_some_and(|index| is_freed(&table.symbols[*index as usize])) {
        return;
    }
    let (user, name) = (diff.patched.name(diff.new_tables.whole(r.atom)), &outside.name);
    if is_vmlinux && referred_before(diff, r, outside) {
        let warning = format!(
            "{}: `{user}` refers to `{name}`, which the kernel has freed, as it did before: it must not get there after boot",
            world.object
        );
        if !out.warnings.contains(&warning) {
            out.warnings.push(warning);
        }
        return;
    }
    let when = if is_vmlinux { "boot" } else { "the module's load" };
    let refusal = Refusal::new(
        Reason::InitSection,
        format!("`{user}` refers to `{name}`, which is freed after {when}"),
        "take the reference out of the patch",
    )
    .object(world.object)
    .symbol(user)
    .at(diff.patched.section_name(r.atom), r.reference.reloc.r_offset);
    if !out.refusals.iter().any(|other| other.message == refusal.message) {
        out.refusals.push(refusal);
    }
}

/// Whether the original of the function or datum that has a reference has one to the same symbol.
fn referred_before(diff: &Diff<'_>, r: &CarriedRef, outside: &Outside) -> bool {
    let original = &diff.original;
    let Some(twin) = diff.twins.backward.get(&diff.new_tables.whole(r.atom)) else { return false };
    let parts = diff.old_tables.all_parts(*twin);
    parts.iter().flat_map(|part| original.refs_of(*part)).any(|old| match old.target {
        Target::Symbol(id, _) => original.object.symbol(id).name == outside.name,
        _ => false,
    })
}
