//! What special sections say about each function: its exceptions, bugs, jump labels, alternatives and so on.
//!
//! In: a side. Out: for each function, its entries section by section, in file order. An entry belongs
//! to the function that its first relocation points into. A `.cold` part counts as its parent.

use std::collections::BTreeMap;

use super::atoms::{AtomId, Kind, Side, Target};
use super::special::Rule;
use crate::elf::SymbolId;
use crate::elf::id::HashMap;
use crate::error::{Reason, Refusal};

/// Entries about functions, and the parts functions consist of.
#[derive(Debug, Default)]
pub struct Tables {
    /// Function (the parent of a cold part) -> section name -> entries.
    pub entries: HashMap<AtomId, BTreeMap<String, Vec<AtomId>>>,
    /// Function -> its cold parts.
    pub parts: HashMap<AtomId, Vec<AtomId>>,
    /// Cold part -> its function.
    pub parent: HashMap<AtomId, AtomId>,
    /// Entry -> its function.
    pub owner: HashMap<AtomId, AtomId>,
    /// Replacement code -> the function it replaces code of; marks on it travel with that function.
    replaces: HashMap<AtomId, AtomId>,
    /// Entries that speak about no function.
    pub problems: Vec<Refusal>,
}

impl Tables {
    /// Collects the tables of one side.
    pub fn new(side: &Side<'_>) -> Tables {
        let mut tables = Tables::default();
        tables.find_parts(side);
        tables.find_replacements(side);
        for section in side.object.section_ids() {
            let name = &side.object.section(section).name;
            if !matches!(side.treatments[section.index()].rule, Some(Rule::CodeTable(_) | Rule::RuntimeConst)) {
                continue;
            }
            for entry in &side.of_section[section.index()] {
                if side.atom(*entry).kind != Kind::Entry {
                    continue;
                }
                match tables.owner_of(side, *entry) {
                    Some(function) => {
                        let function = tables.whole(function);
                        tables.owner.insert(*entry, function);
                        let entries = tables.entries.entry(function).or_default();
                        match entries.get_mut(name) {
                            Some(list) => list.push(*entry),
                            None => drop(entries.insert(name.clone(), vec![*entry])),
                        }
                    }
                    None if is_about_no_function(side, *entry) => {}
                    None => tables.problems.push(
                        Refusal::new(
                            Reason::UnknownSection,
                            format!("an entry of `{name}` speaks about no function of the object"),
                            "report this kernel's section layout; nothing can be done in the patch",
                        )
                        .at(name, side.atom(*entry).start),
                    ),
                }
            }
        }
        tables
    }

    /// The function that an atom is part of: itself, or a cold part's parent.
    pub fn whole(&self, id: AtomId) -> AtomId {
        self.parent.get(&id).copied().unwrap_or(id)
    }

    /// The function and its cold parts.
    pub fn all_parts(&self, function: AtomId) -> Vec<AtomId> {
        let mut all = vec![function];
        all.extend(self.parts.get(&function).into_iter().flatten());
        all
    }

    fn find_parts(&mut self, side: &Side<'_>) {
        let mut by_name: HashMap<(&str, Option<SymbolId>), AtomId> = HashMap::default();
        let functions: Vec<AtomId> = side.ids().filter(|id| side.atom(*id).kind == Kind::Function).collect();
        for id in &functions {
            for symbol in &side.atom(*id).symbols {
                let symbol = side.object.symbol(*symbol);
                // Not by the file's name: an object may be of several files called `main.c`.
                by_name.insert((&symbol.name, symbol.file), *id);
                if symbol.file.is_none() {
                    by_name.entry((&symbol.name, None)).or_insert(*id);
                }
            }
        }
        for id in functions {
            let Some(parent) = parent_name(side.name(id)) else { continue };
            // A cold part is local even where its function is global.
            let file = side.atom(id).symbols.first().and_then(|s| side.object.symbol(*s).file);
            let found = by_name.get(&(parent, file)).or_else(|| by_name.get(&(parent, None)));
            if let Some(parent) = found.copied()
                && parent != id
            {
                self.parent.insert(id, parent);
                self.parts.entry(parent).or_default().push(id);
            }
        }
    }

    fn owner_of(&self, side: &Side<'_>, entry: AtomId) -> Option<AtomId> {
        match side.refs_of(entry).first()?.target {
            Target::Atom(atom, _) if side.atom(atom).kind == Kind::Function => Some(atom),
            Target::Atom(atom, _) => self.replaces.get(&atom).copied(),
            _ => None,
        }
    }

    fn find_replacements(&mut self, side: &Side<'_>) {
        for section in side.object.section_ids().filter(|id| side.object.section(*id).name == ".altinstructions") {
            for entry in &side.of_section[section.index()] {
                if let [function, replacement, ..] = side.refs_of(*entry)
                    && let (Target::Atom(function, _), Target::Atom(replacement, _)) =
                        (function.target, replacement.target)
                    && side.atom(function).kind == Kind::Function
                    && side.atom(replacement).kind == Kind::Anonymous
                {
                    self.replaces.insert(replacement, function);
                }
            }
        }
    }
}

/// Name of the function whose cold part has this name (gcc: `f.cold`, older `f.cold.1`).
fn parent_name(name: &str) -> Option<&str> {
    let at = name.rfind(".cold")?;
    let rest = &name[at + ".cold".len()..];
    let numbered = rest.strip_prefix('.').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    (rest.is_empty() || numbered).then_some(&name[..at])
}

/// Entries about replacement code, about code outside of any function, or about nothing (annotations).
fn is_about_no_function(side: &Side<'_>, entry: AtomId) -> bool {
    match side.refs_of(entry).first().map(|r| r.target) {
        Some(Target::Atom(atom, _)) => side.atom(atom).kind != Kind::Data,
        _ => side.section_name(entry).starts_with(".discard."),
    }
}
