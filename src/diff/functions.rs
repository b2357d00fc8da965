//! Function verdicts: code, cold parts and everything special sections say, taken together.
//!
//! In: a comparison and both sides' tables. Out: a verdict per function. Also what to do with a changed
//! function that ftrace cannot redirect: a static one whose every use is a direct call is as good as
//! inlined, so its callers change in its place; any other is refused.

use std::cell::LazyCell;
use std::collections::BTreeSet;

use rayon::prelude::*;

use super::Options;
use super::arch::Use;
use super::atoms::{AtomId, Kind, Side, Target};
use super::compare::{Compare, Difference};
use super::names;
use super::registered;
use super::tables::Tables;
use super::twins::Twins;
use super::verdict::{FunctionVerdict, Verdict};
use crate::elf::id::HashMap;
use crate::error::{Reason, Refusal};

/// Functions that are compared one after the other; a unit has fewer, a whole kernel fifty thousand.
const AT_ONCE: usize = 4096;

/// The verdict on every function of both sides.
pub fn verdicts(compare: &Compare<'_, '_>, old_tables: &Tables, new_tables: &Tables) -> Vec<FunctionVerdict> {
    let (old, new, twins) = (compare.original, compare.patched, compare.twins);
    let whole: Vec<AtomId> = functions(new).filter(|id| !new_tables.parent.contains_key(id)).collect();
    // What one function needs compared, others seldom do, so that each part may keep its own answers.
    let parts = whole.par_chunks(AT_ONCE).flat_map_iter(|part| {
        let compare = Compare::new(old, new, twins);
        let verdict = move |id: AtomId| {
            let Some(twin) = compare.twins.backward.get(&id).copied() else {
                let name = new.name(id).to_owned();
                return FunctionVerdict { name, verdict: Verdict::New, original: None, patched: Some(id), why: None };
            };
            let why = difference(&compare, old_tables, new_tables, twin, id);
            FunctionVerdict {
                name: old.name(twin).to_owned(),
                verdict: if why.is_some() { Verdict::Changed } else { Verdict::Same },
                original: Some(twin),
                patched: Some(id),
                why,
            }
        };
        part.iter().copied().map(verdict)
    });
    let mut out: Vec<FunctionVerdict> = parts.collect();
    for id in functions(old).filter(|id| !old_tables.parent.contains_key(id)) {
        if !twins.forward.contains_key(&id) {
            out.push(FunctionVerdict {
                name: old.name(id).to_owned(),
                verdict: Verdict::Removed,
                original: Some(id),
                patched: None,
                why: None,
            });
        }
    }
    out
}

fn functions<'s>(side: &'s Side<'_>) -> impl Iterator<Item = AtomId> + 's {
    side.ids().filter(|id| side.is_function(*id))
}

/// The first difference of a function pair: code, then cold parts, then table by table.
fn difference(
    compare: &Compare<'_, '_>,
    old_tables: &Tables,
    new_tables: &Tables,
    old: AtomId,
    new: AtomId,
) -> Option<Difference> {
    let (a, b) = (old_tables.all_parts(old), new_tables.all_parts(new));
    for (x, y) in a.iter().zip(&b) {
        if let Some(found) = compare.difference(*x, *y) {
            return Some(with_instructions(compare, *x, *y, found));
        }
    }
    let whole = |what: String| Some(Difference { original: 0, patched: 0, what });
    if a.len() != b.len() {
        return whole("it gained or lost a cold part".to_owned());
    }
    let empty = Default::default();
    let entries_a = old_tables.entries.get(&old).unwrap_or(&empty);
    let entries_b = new_tables.entries.get(&new).unwrap_or(&empty);
    for name in entries_a.keys().chain(entries_b.keys()) {
        let (x, y) = (entries_a.get(name), entries_b.get(name));
        let (x, y) = (x.map_or(&[][..], Vec::as_slice), y.map_or(&[][..], Vec::as_slice));
        if x.len() != y.len() {
            return whole(format!("it has {} entries in `{name}` instead of {}", y.len(), x.len()));
        }
        for (x, y) in x.iter().zip(y) {
            if let Some(found) = compare.difference(*x, *y) {
                return whole(format!("its entry in `{name}` differs: {}", found.what));
            }
        }
    }
    None
}

/// A difference of bytes says little to a person: the instructions around it say what became what.
fn with_instructions(compare: &Compare<'_, '_>, old: AtomId, new: AtomId, mut found: Difference) -> Difference {
    let text = |side: &Side<'_>, id: AtomId, at: u64| side.arch.instruction_at(side.bytes(id), at);
    if found.what.starts_with("instructions or bytes")
        && let Some(before) = text(compare.original, old, found.original)
        && let Some(after) = text(compare.patched, new, found.patched)
        && before != after
    {
        found.what = format!("`{before}` became `{after}`");
    }
    found
}

/// Leaves out code for unloading of what is built in, which never runs; says so.
pub fn drop_unloading(new: &Side<'_>, functions: &mut Vec<FunctionVerdict>, options: Options) -> Vec<String> {
    let mut notes = Vec::new();
    if !options.built_in {
        return notes;
    }
    let unloading = |f: &FunctionVerdict| f.patched.is_some_and(|id| names::is_exit_section(new.section_name(id)));
    for function in functions.iter_mut().filter(|f| f.verdict == Verdict::Changed && unloading(f)) {
        function.verdict = Verdict::Same;
        notes.push(format!(
            "the change of `{}` is left out: it is code for unloading, and what is built into the kernel is never unloaded",
            function.name
        ));
    }
    functions.retain(|f| f.verdict != Verdict::New || !unloading(f));
    notes
}

/// What to know of functions that stay now, and whose originals are gone after boot: whoever is not compiled again calls
/// those still.
pub fn revived(new: &Side<'_>, twins: &Twins) -> Vec<String> {
    let mut names: Vec<&str> = twins
        .revived
        .keys()
        .filter(|id| new.is_function(**id) && new.is_global(**id))
        .map(|id| new.name(*id))
        .collect();
    names.sort_unstable();
    let note = |name: &str| {
        format!(
            "`{name}` is gone in the running kernel and travels as a new function: callers that the patch does not change \
             still call the old one"
        )
    };
    names.into_iter().map(note).collect()
}

/// Functions that are put into another special section: a livepatch cannot move what the kernel tells by its address.
/// Warnings; refusals where nothing may trace or redirect what lies there, since that is what a livepatch would do.
pub fn special_sections(
    compare: &Compare<'_, '_>,
    functions: &[FunctionVerdict],
    refusals: &mut Vec<Refusal>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for function in functions.iter().filter(|f| f.verdict != Verdict::New) {
        let (Some(old), Some(new)) = (function.original, function.patched) else { continue };
        let (was, is) = (compare.original.section_name(old), compare.patched.section_name(new));
        let gone = |section| names::is_init_section(section) || names::is_exit_section(section);
        if names::special_text(was) == names::special_text(is) || gone(was) || gone(is) {
            continue;
        }
        let name = &function.name;
        if names::is_untouchable_text(is) && !names::is_untouchable_text(was) {
            refusals.push(
                Refusal::new(
                    Reason::NotHookable,
                    format!(
                        "function `{name}` lies in `{was}` in the running kernel and would have to lie in `{is}`, where \
                         nothing may trace it"
                    ),
                    "leave it where it is: whoever calls it from such code would still reach it through ftrace",
                )
                .symbol(name)
                .at(was, 0),
            );
            continue;
        }
        warnings.push(format!(
            "`{name}` lies in `{was}` in the running kernel and not in `{is}`: a livepatch cannot move it, and what the kernel \
             makes of that section stays as it is"
        ));
    }
    warnings
}

/// Refuses changed functions that cannot be redirected, or lets their callers change instead.
pub fn spread_unhookable(
    compare: &Compare<'_, '_>,
    old_tables: &Tables,
    new_tables: &Tables,
    functions: &mut [FunctionVerdict],
    options: Options,
    refusals: &mut Vec<Refusal>,
) {
    let (old, new) = (compare.original, compare.patched);
    let sites_known = options.require_call_sites || has_call_sites(old, old_tables);
    let callers = LazyCell::new(|| callers(new, new_tables));
    let index: HashMap<AtomId, usize> =
        functions.iter().enumerate().filter_map(|(i, f)| Some((f.patched?, i))).collect();
    let mut work: Vec<usize> =
        (0..functions.len()).filter(|i| matches!(functions[*i].verdict, Verdict::Changed | Verdict::New)).collect();
    let mut done = vec![false; functions.len()];
    while let Some(i) = work.pop() {
        if std::mem::replace(&mut done[i], true) {
            continue;
        }
        let function = functions[i].clone();
        let Some(id) = function.patched else { continue };
        let section = new.section_name(id);
        let is_new = function.verdict == Verdict::New;
        if names::is_init_section(section) || names::is_exit_section(section) {
            // A new initcall is refused for itself.
            if !is_new || !registered::is_registered(new, id) {
                refusals.push(gone_code(&function, section, is_new));
            }
            continue;
        }
        if is_new {
            continue;
        }
        let original = function.original.expect("a changed function has an original");
        // It stays from now on, and still nothing but what ran at boot leads to it.
        if old.is_gone(original) {
            refusals.push(gone_code(&function, old.section_name(original), false));
            continue;
        }
        if names::is_untouchable_text(old.section_name(original)) {
            refusals.push(
                Refusal::new(
                    Reason::NotHookable,
                    format!("changed function `{}` lies in `{}`, which must not be redirected", function.name, section),
                    "change a function that calls it instead",
                )
                .symbol(&function.name)
                .at(section, 0),
            );
            continue;
        }
        if !sites_known || is_hookable(old, old_tables, original) {
            continue;
        }
        let uses = callers.get(&id);
        let spreadable = !new.is_global(id) && uses.is_some_and(|u| !u.address_taken && !u.callers.is_empty());
        if !spreadable {
            let callers: Vec<&str> = uses.iter().flat_map(|u| &u.callers).map(|caller| new.name(*caller)).collect();
            let file_has_sites = has_call_sites(old, old_tables);
            refusals.push(not_hookable(&function, section, new.is_global(id), file_has_sites.then_some(&callers)));
            continue;
        }
        for caller in &uses.expect("spreadable").callers {
            let Some(&c) = index.get(caller) else { continue };
            if functions[c].verdict == Verdict::Same {
                functions[c].verdict = Verdict::Changed;
                functions[c].why = Some(Difference {
                    original: 0,
                    patched: 0,
                    what: format!("calls `{}`, which changed and which ftrace cannot redirect", function.name),
                });
                work.push(c);
            }
        }
        // It travels with its callers like a new function: the kernel's own copy stays as it is.
        functions[i].verdict = Verdict::New;
        functions[i].why = function.why;
    }
}

fn gone_code(function: &FunctionVerdict, section: &str, is_new: bool) -> Refusal {
    let when = if names::is_init_section(section) { "boot or module load" } else { "module unload" };
    let (reason, message) = if is_new {
        (Reason::NeverRuns, format!("new function `{}` lies in `{section}` and would never run", function.name))
    } else {
        (
            Reason::InitSection,
            format!("changed function `{}` lies in `{section}`: it runs at {when} only", function.name),
        )
    };
    Refusal::new(reason, message, "do in a pre-patch callback what it should have done, or leave it out of the patch")
        .symbol(&function.name)
        .at(section, 0)
}

/// `callers` are those of this file; nothing where no function of the file can be redirected.
fn not_hookable(function: &FunctionVerdict, section: &str, global: bool, callers: Option<&Vec<&str>>) -> Refusal {
    let advice = match callers {
        None => {
            "kbuild compiles this file without ftrace call sites: change a function of another file that leads here"
                .to_owned()
        }
        Some(callers) => {
            let callers: BTreeSet<String> = callers.iter().map(|caller| format!("`{caller}`")).collect();
            let callers = callers.into_iter().collect::<Vec<_>>().join(", ");
            let here = if callers.is_empty() { callers } else { format!(" (here: {callers})") };
            format!("change the functions that call it{here}, or patch the traced function around it")
        }
    };
    let why = if global { "and it can be called from other files" } else { "and its address is taken" };
    Refusal::new(
        Reason::NotHookable,
        format!("changed function `{}` has no ftrace call site (notrace, or its file is), {why}", function.name),
        advice,
    )
    .symbol(&function.name)
    .at(section, 0)
}

struct Uses {
    callers: Vec<AtomId>,
    address_taken: bool,
}

/// Who calls each function directly, and whether its address is used in any other way.
fn callers(side: &Side<'_>, tables: &Tables) -> HashMap<AtomId, Uses> {
    let mut uses: HashMap<AtomId, Uses> = HashMap::default();
    for id in side.ids() {
        let kind = side.atom(id).kind;
        if kind == Kind::Entry {
            continue;
        }
        for r in side.refs_of(id) {
            let Target::Atom(target, _) = r.target else { continue };
            if side.atom(target).kind != Kind::Function {
                continue;
            }
            let (target, user) = (tables.whole(target), tables.whole(id));
            if target == user {
                continue;
            }
            let entry = uses.entry(target).or_insert(Uses { callers: Vec::new(), address_taken: false });
            match (kind, r.usage) {
                (Kind::Function, Use::Branch) => entry.callers.push(user),
                // A switch's jump table leads into its function, not to it.
                (Kind::Anonymous, _) if !is_entry(side, r.target) => {}
                _ if side.section_name(id).starts_with(".discard.") => {}
                _ => entry.address_taken = true,
            }
        }
    }
    uses
}

fn is_entry(side: &Side<'_>, target: Target) -> bool {
    matches!(target, Target::Atom(id, offset) if offset == super::closure::naming_offset(side, id))
}

/// Whether any function of the object has an ftrace call site.
pub fn has_call_sites(side: &Side<'_>, tables: &Tables) -> bool {
    functions(side).any(|id| is_hookable(side, tables, id))
}

/// Whether ftrace can redirect this function: it has an entry in a table of call sites, or calls `__fentry__`.
pub fn is_hookable(side: &Side<'_>, tables: &Tables, id: AtomId) -> bool {
    let atom = side.atom(id);
    let listed = tables.entries.get(&id).is_some_and(|e| e.contains_key("__mcount_loc"));
    let start = atom.symbols.first().map_or(atom.start, |s| side.object.symbol(*s).st_value);
    let calls_fentry = side.arch.call_site(side.object.section(atom.section), start).is_some_and(|field| {
        let refs = side.refs_of(id);
        let at = refs.partition_point(|r| r.reloc.r_offset < field);
        refs.get(at).is_some_and(|r| {
            let name = r.reloc.symbol.map(|s| side.object.symbol(s).name.as_str());
            r.reloc.r_offset == field && name == Some("__fentry__")
        })
    });
    listed || calls_fentry || (side.object.e_machine != 62 && side.patchable.contains(&id))
}
