//! What the kernel learns about only at boot or module load: initcalls, parameters, exports, events.
//!
//! In: two sides. Out: a refusal for each addition, since it would never take effect; a note for each removal, which does
//! not take back what the running kernel has already done.

use super::atoms::{AtomId, Kind, Side, Target};
use super::closure::naming_offset;
use super::names;
use super::special::{self, Rule};
use crate::elf::SectionId;
use crate::elf::id::HashMap;
use crate::elf::object::shf;
use crate::error::{Reason, Refusal};

/// Refuses entries of registration sections, and of allocated sections nobody knows, that only the patched side has.
pub fn additions(old: &Side<'_>, new: &Side<'_>, refusals: &mut Vec<Refusal>) {
    let mut before: HashMap<String, HashMap<String, usize>> = HashMap::default();
    for id in old.object.section_ids() {
        if let Some(name) = registration(old, id) {
            let seen = before.entry(name).or_default();
            entries(old, id).into_iter().for_each(|(entry, _)| *seen.entry(entry).or_default() += 1);
        }
    }
    let (ran, would_run) = (initcalls(old), initcalls(new));
    let moved = |name: &str| ran.get(name).is_some_and(|times| times >= &would_run[name]);
    for id in new.object.section_ids() {
        let Some(name) = registration(new, id) else { continue };
        let seen = before.entry(name.clone()).or_default();
        for (entry, offset) in entries(new, id) {
            match seen.get_mut(&entry) {
                Some(count) if *count > 0 => *count -= 1,
                // At another level: it has run.
                _ if name.contains("initcall") && led_to(new, id, offset).is_some_and(moved) => {}
                _ => refusals.push(addition(&name, shown(&entry), offset)),
            }
        }
    }
}

/// What to know of entries that only the original has: the kernel has read them.
pub fn removals(old: &Side<'_>, new: &Side<'_>) -> Vec<String> {
    let mut after: HashMap<String, usize> = HashMap::default();
    let would_run = initcalls(new);
    for id in new.object.section_ids() {
        if let Some(name) = registration(new, id) {
            entries(new, id)
                .into_iter()
                .for_each(|(entry, _)| *after.entry(format!("{name} {entry}")).or_default() += 1);
        }
    }
    let mut notes = Vec::new();
    for id in old.object.section_ids() {
        let Some(name) = registration(old, id).filter(|name| is_told_of(name)) else { continue };
        for (entry, offset) in entries(old, id) {
            match after.get_mut(&format!("{name} {entry}")) {
                Some(count) if *count > 0 => *count -= 1,
                _ if led_to(old, id, offset).is_some_and(|function| would_run.contains_key(function)) => {}
                _ => notes.push(format!(
                    "`{}` is taken out of `{name}`: the running kernel has read it, and what it did then stays",
                    shown(&entry)
                )),
            }
        }
    }
    notes
}

/// Initcalls and parameters. Of an export, its other sections would only say the same again.
fn is_told_of(section: &str) -> bool {
    section.contains("initcall") || matches!(section, "__param" | ".export_symbol")
}

/// How often initcalls of any level run each function.
fn initcalls<'s>(side: &'s Side<'_>) -> HashMap<&'s str, usize> {
    let sections = side.object.section_ids().filter(|id| side.object.section(*id).name.contains("initcall"));
    let mut times = HashMap::default();
    for name in sections.flat_map(|id| &side.refs[id.index()]).filter_map(|r| target_name(side, r.target)) {
        *times.entry(name).or_default() += 1;
    }
    times
}

/// What the entry at an offset leads to.
fn led_to<'s>(side: &'s Side<'_>, section: SectionId, offset: u64) -> Option<&'s str> {
    side.refs[section.index()].iter().find(|r| r.reloc.r_offset == offset).and_then(|r| target_name(side, r.target))
}

fn target_name<'s>(side: &'s Side<'_>, target: Target) -> Option<&'s str> {
    match target {
        Target::Atom(atom, _) if side.atom(atom).kind == Kind::Function => Some(side.name(atom)),
        _ => None,
    }
}

/// Whether a table of this kind leads to a function.
pub fn is_registered(side: &Side<'_>, function: AtomId) -> bool {
    side.object.section_ids().filter(|id| registration(side, *id).is_some()).any(|section| {
        side.refs[section.index()].iter().any(|r| matches!(r.target, Target::Atom(atom, _) if atom == function))
    })
}

fn registration(side: &Side<'_>, id: SectionId) -> Option<String> {
    let section = side.object.section(id);
    (special::rule(&section.name) == Some(Rule::Registration) && section.sh_size > 0).then(|| section.name.clone())
}

fn addition(section: &str, entry: &str, offset: u64) -> Refusal {
    let (what, advice) = if section.contains("initcall") {
        ("initcall", "do its work in a post-patch callback (klp_build.h) instead, or leave it out of the patch")
    } else if section == "__param" {
        ("module parameter", "use a variable that a callback or sysctl sets; parameters exist from load on only")
    } else if section.contains("ksymtab") || section == ".export_symbol" || section.contains("kcrctab") {
        ("export", "no loaded module can use it; leave it out of the patch")
    } else if section == ".modinfo" {
        ("module information", "leave it out of the patch: the running object keeps what it was loaded with")
    } else {
        ("registration", "leave it out of the patch: the running kernel reads this table at boot or load only")
    };
    let named = if entry.is_empty() { String::new() } else { format!(" `{entry}`") };
    Refusal::new(Reason::NeverRuns, format!("new {what}{named} in `{section}` would never take effect"), advice)
        .symbol(entry)
        .at(section, offset)
}

/// The part of an entry's name that is the source's: what the macros put before it says only what it is.
fn shown(entry: &str) -> &str {
    ["__export_symbol_", "__param_", "__event_", "__initcall__", "__ksymtab_"]
        .iter()
        .find_map(|prefix| entry.strip_prefix(prefix))
        .unwrap_or(entry)
}

/// What a registration section says, without counters and line numbers: one string per entry.
fn entries(side: &Side<'_>, id: SectionId) -> Vec<(String, u64)> {
    let section = side.object.section(id);
    if section.name == ".modinfo" {
        let mut out = Vec::new();
        let mut at = 0;
        for text in section.data.split(|b| *b == 0) {
            if !text.is_empty() {
                out.push((String::from_utf8_lossy(text).into_owned(), at as u64));
            }
            at += text.len() + 1;
        }
        // Information that follows from the code, not from the source.
        out.retain(|(text, _)| {
            !text.starts_with("import_ns=") && !text.contains("parmtype=") && !text.contains("parm=")
        });
        return out;
    }
    let mut out: Vec<(String, u64)> = Vec::new();
    let atoms = &side.of_section[id.index()];
    if !atoms.is_empty() && atoms.iter().all(|a| side.atom(*a).kind == Kind::Data) {
        // One entry for each thing with a name.
        out.extend(atoms.iter().map(|a| (describe(side, *a), side.atom(*a).start)));
        return out;
    }
    for r in &side.refs[id.index()] {
        let (name, offset) = match r.target {
            Target::Atom(atom, offset) => (describe(side, atom), offset - naming_offset(side, atom)),
            Target::Symbol(symbol, addend) => (side.object.symbol(symbol).name.clone(), addend),
            Target::Nothing(_) => continue,
        };
        let name = if offset == 0 { name } else { format!("{name}+{offset:#x}") };
        out.push((name, r.reloc.r_offset));
    }
    if section.sh_flags & shf::ALLOC == 0 && out.is_empty() {
        out.push((section.data.iter().map(|b| format!("{b:02x}")).collect(), 0));
    }
    out
}

fn describe(side: &Side<'_>, id: AtomId) -> String {
    match side.atom(id).kind {
        Kind::Text => {
            let bytes = side.bytes(id);
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        }
        _ => names::stem(side.name(id)).into_owned(),
    }
}
