//! Data verdicts: the running kernel keeps its data, so changed initial contents are refused.
//!
//! In: a comparison and the function verdicts. Out: constant tables that may be carried anew, because
//! every reader is replaced; new data other units can see; refusals for the rest, each with old and new value.

use super::atoms::{AtomId, Kind, Side, Target};
use super::compare::Compare;
use super::names;
use super::readers;
use super::recognised::recognised;
use super::special::Rule;
use super::tables::Tables;
use super::verdict::{DataChanges, FunctionVerdict, Verdict};
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb};
use crate::error::{Reason, Refusal};

/// Finds data that changed or is new.
pub fn changes(
    compare: &Compare<'_, '_>,
    (old_tables, new_tables): (&Tables, &Tables),
    functions: &[FunctionVerdict],
    travelling: &HashSet<AtomId>,
    refusals: &mut Vec<Refusal>,
) -> DataChanges {
    let (old, new) = (compare.original, compare.patched);
    let mut out = DataChanges::default();
    let mut readers: Option<(Readers, Readers)> = None;
    let mut known: Option<(HashSet<AtomId>, HashSet<AtomId>)> = None;
    for id in named_data(new) {
        if new.is_private(id) {
            continue;
        }
        let Some(twin) = compare.twins.backward.get(&id).copied() else {
            let global = new.atom(id).symbols.iter().any(|s| new.object.symbol(*s).st_bind != stb::LOCAL);
            if global && !new.is_init(id) && new.rule(id).is_none() && !compare.twins.ambiguous.contains_key(&id) {
                out.new_globals.push(id);
            }
            continue;
        };
        if let Some(refusal) = section_changed(compare, twin, id) {
            refusals.push(refusal);
            continue;
        }
        let Some(difference) = compare.difference(twin, id) else {
            refusals.extend(alignment_grew(compare, twin, id));
            continue;
        };
        match new.rule(id) {
            Some(Rule::Dropped(_) | Rule::Callbacks | Rule::States) => continue,
            Some(Rule::Registration) => {
                // Texts of module information are compared as a set by `registered`.
                if new.section_name(id) != ".modinfo" {
                    refusals.push(registration_changed(compare, twin, id, &difference));
                }
                continue;
            }
            _ => {}
        }
        if travelling.contains(&id) {
            out.recarried.insert(id);
            continue;
        }
        let constant = !new.is_writable(id) && !old.is_writable(twin) && !new.is_global(id);
        // Who recognises a thing by the table's address, or was given functions with it, goes on with the kernel's own. A table
        // of functions that is only read, by its index, was given to nobody.
        let travels = |side: &Side<'_>, id: AtomId, known: &HashSet<AtomId>| {
            !known.contains(&id) && (!readers::holds_function(side, id) || !readers::is_given(side, id))
        };
        let mut both_travel = || {
            let (before, after) =
                known.get_or_insert_with(|| (recognised(old, old_tables), recognised(new, new_tables)));
            travels(old, twin, before) && travels(new, id, after)
        };
        if constant && new.rule(id).is_none() && both_travel() {
            let (old_readers, new_readers) =
                readers.get_or_insert_with(|| (read_by(old, old_tables), read_by(new, new_tables)));
            if only_changed_read(old_readers.get(&twin), functions, |f| f.original)
                && only_changed_read(new_readers.get(&id), functions, |f| f.patched)
            {
                out.recarried.insert(id);
                continue;
            }
        }
        refusals.push(data_changed(compare, twin, id, &difference));
    }
    if !out.recarried.is_empty() {
        out.held = readers::held(new, new_tables, &out.recarried);
    }
    out
}

fn named_data<'s>(side: &'s Side<'_>) -> impl Iterator<Item = AtomId> + 's {
    side.ids().filter(|id| {
        let atom = side.atom(*id);
        atom.kind == Kind::Data && side.object.section(atom.section).sh_flags & shf::ALLOC != 0
    })
}

/// Datum -> who refers to it.
type Readers = HashMap<AtomId, HashSet<AtomId>>;

/// Which atoms refer to each datum; a cold part counts as its function.
fn read_by(side: &Side<'_>, tables: &Tables) -> Readers {
    let mut readers = Readers::default();
    let loaded = |id: &AtomId| side.object.section(side.atom(*id).section).sh_flags & shf::ALLOC != 0;
    for id in side.ids().filter(loaded) {
        for r in side.refs_of(id) {
            if let Target::Atom(target, _) = r.target {
                readers.entry(target).or_default().insert(tables.whole(id));
            }
        }
    }
    readers
}

fn only_changed_read(
    readers: Option<&HashSet<AtomId>>,
    functions: &[FunctionVerdict],
    side: impl Fn(&FunctionVerdict) -> Option<AtomId>,
) -> bool {
    let Some(readers) = readers else { return false };
    let replaced: HashSet<AtomId> = functions.iter().filter(|f| f.verdict != Verdict::Same).filter_map(side).collect();
    !readers.is_empty() && readers.iter().all(|r| replaced.contains(r))
}

/// What kind of memory a section's data lies in: a variable cannot pass from one to another.
fn memory(side: &Side<'_>, id: AtomId) -> &'static str {
    let section = side.section_name(id);
    if section.starts_with(".data..percpu") || section.starts_with(".bss..percpu") {
        "per-CPU data"
    } else if section.starts_with(".data..ro_after_init") {
        "data that is read-only after boot"
    } else if side.is_writable(id) {
        "writable data"
    } else {
        "constant data"
    }
}

fn section_changed(compare: &Compare<'_, '_>, old: AtomId, new: AtomId) -> Option<Refusal> {
    if compare.original.is_gone(old) && !compare.patched.is_gone(new) && compare.patched.rule(new).is_none() {
        let (name, section) = (compare.original.name(old), compare.original.section_name(old));
        return Some(
            Refusal::new(
                Reason::InitSection,
                format!("data `{name}` lies in `{section}` and is gone in the running kernel; it would have to be there"),
                "use a new variable, under another name, and write in a pre-patch callback what boot wrote into the old one",
            )
            .symbol(name)
            .at(section, 0),
        );
    }
    if let Some(refusal) = special_memory_changed(compare, old, new) {
        return Some(refusal);
    }
    const PER_CPU: &str = "per-CPU data";
    let (was, is) = (memory(compare.original, old), memory(compare.patched, new));
    // The other way round, from writable to constant, takes nothing away from the code that reads it.
    if was == is || ((was != PER_CPU && is != PER_CPU) && is != "writable data") {
        return None;
    }
    let name = compare.original.name(old);
    Some(
        Refusal::new(
            Reason::DataResized,
            format!("data `{name}` is {was} in the running kernel and would be {is}"),
            "use a new variable, under another name",
        )
        .symbol(name)
        .at(compare.original.section_name(old), 0),
    )
}

/// A variable that is put where the kernel treats it in another way: shared with the hypervisor, say.
fn special_memory_changed(compare: &Compare<'_, '_>, old: AtomId, new: AtomId) -> Option<Refusal> {
    let (was, is) = (compare.original.section_name(old), compare.patched.section_name(new));
    if compare.original.rule(old).is_some() || compare.patched.rule(new).is_some() {
        return None;
    }
    let (kind, wanted) = (names::special_memory(was), names::special_memory(is));
    // One that has a page of its own loses nothing.
    if kind == wanted || (wanted.is_none() && kind == Some("page_aligned")) {
        return None;
    }
    let name = compare.original.name(old);
    Some(
        Refusal::new(
            Reason::DataResized,
            format!("data `{name}` lies in `{was}` in the running kernel and would have to lie in `{is}`"),
            "use a new variable, under another name",
        )
        .symbol(name)
        .at(was, 0),
    )
}

/// A variable that stays where the kernel put it, and is to lie at a rounder address. What shares its section with others is
/// left to debug information.
fn alignment_grew(compare: &Compare<'_, '_>, old: AtomId, new: AtomId) -> Option<Refusal> {
    let alignment = |side: &Side<'_>, id: AtomId| {
        let section = side.atom(id).section;
        (side.of_section[section.index()].len() == 1).then(|| side.object.section(section).sh_addralign.max(1))
    };
    let (was, is) = (alignment(compare.original, old)?, alignment(compare.patched, new)?);
    if is <= was || compare.patched.is_gone(new) || compare.patched.rule(new).is_some() {
        return None;
    }
    let name = compare.original.name(old);
    Some(
        Refusal::new(
            Reason::DataResized,
            format!("data `{name}` is aligned to {was} bytes in the running kernel, and would have to be to {is}"),
            "use a new variable, under another name",
        )
        .symbol(name)
        .at(compare.original.section_name(old), 0),
    )
}

fn registration_changed(
    compare: &Compare<'_, '_>,
    old: AtomId,
    new: AtomId,
    difference: &super::compare::Difference,
) -> Refusal {
    let (name, section) = (compare.original.name(old), compare.patched.section_name(new));
    Refusal::new(
        Reason::NeverRuns,
        format!("changed `{name}` in `{section}` would never take effect: the kernel has read it already"),
        "leave it out of the patch, or do its effect in a callback",
    )
    .symbol(name)
    .at(section, difference.patched)
}

fn data_changed(
    compare: &Compare<'_, '_>,
    old: AtomId,
    new: AtomId,
    difference: &super::compare::Difference,
) -> Refusal {
    let (a, b) = (compare.original, compare.patched);
    let name = a.name(old);
    let size = |side: &Side<'_>, id: AtomId| side.atom(id).end - side.atom(id).start;
    let (old_size, new_size) = (size(a, old), size(b, new));
    // A constant that may be able to travel.
    let way_out = |advice: &str| match readers::is_table(b, new) && readers::is_table(a, old) {
        true => format!("{advice}; --carry-tables replaces all that read a constant table, where only functions do"),
        false => advice.to_owned(),
    };
    let section = a.section_name(old);
    if names::is_init_section(section) {
        return Refusal::new(
            Reason::InitSection,
            format!("changed data `{name}` lies in `{section}`, which is gone after boot"),
            "leave it out of the patch; do its effect in a pre-patch callback",
        )
        .symbol(name)
        .at(section, difference.original);
    }
    if old_size != new_size {
        return Refusal::new(
            Reason::DataResized,
            format!("data `{name}` has {new_size} bytes instead of {old_size}; the running kernel keeps the old ones"),
            way_out(
                "put what is new into a new variable or a shadow variable (Documentation/livepatch/shadow-vars.rst)",
            ),
        )
        .symbol(name)
        .at(section, difference.original);
    }
    let value = |side: &Side<'_>, id: AtomId, at: u64| -> String {
        let from = (at / 8) * 8;
        let len = size(side, id).saturating_sub(from).min(8) as usize;
        // What has no bytes in the file (.bss) is zero.
        let word = match side.bytes(id) {
            [] => &[0; 8][..len],
            bytes => bytes.get(from as usize..from as usize + len).unwrap_or(&[]),
        };
        match word.len() {
            0 => "nothing".to_owned(),
            _ => word.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
        }
    };
    let detail = if difference.what.starts_with("instructions or bytes") {
        format!(
            "bytes at offset {:#x}: {} became {}",
            (difference.original / 8) * 8,
            value(a, old, difference.original),
            value(b, new, difference.patched)
        )
    } else {
        format!("at offset {:#x}: {}", difference.original, difference.what)
    };
    Refusal::new(
        Reason::DataChanged,
        format!("changed data `{name}`: the running kernel keeps the old contents ({detail})"),
        way_out("write the new value in a pre-patch callback, or change the code that reads it"),
    )
    .symbol(name)
    .at(section, difference.original)
}
