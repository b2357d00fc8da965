//! The numbers that enumerations give to names.
//!
//! In: debug information. Out: name -> number, and which enumeration it is of; and those that have another number on the
//! two sides. Code is compiled again with the new numbers; what was stored before keeps the old ones. A name that only counts the
//! others grows with every one that is added, and is rarely stored.

use std::collections::BTreeMap;

use anyhow::Result;
use gimli::{EntriesTreeNode, UnitOffset};

use super::info::Slice;
use super::layout::{Entry, Unit, in_function, is_qualifier, name, reference};
use super::uses::own_name;

/// Deepest chain of typedefs and arrays that is followed.
const DEPTH: usize = 64;

/// A name of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The enumeration: `enum foo`, a typedef's name, or the first of its names.
    pub of: String,
    /// How many names the enumeration has.
    pub among: usize,
    /// The number.
    pub value: i128,
    /// Whether it is one that counts the others.
    pub counts: bool,
}

/// By name.
pub(super) type Numbers = BTreeMap<String, Named>;

/// A name with two numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renumbered<'a> {
    /// The name.
    pub name: &'a str,
    /// What it was.
    pub old: &'a Named,
    /// What it is.
    pub new: &'a Named,
}

/// What gives names to numbers, in the order of the source.
#[derive(Default)]
struct Found<'d> {
    /// Enumerations, and the functions in whose braces they are.
    enumerations: Vec<(Entry<'d>, Option<String>)>,
    /// What goes by a typedef's name.
    typedefs: BTreeMap<UnitOffset, String>,
}

/// The names of all enumerations of a unit. Those of an enumeration in a function's braces go by its name as well.
pub(super) fn numbers(unit: Unit<'_, '_>) -> Result<Numbers> {
    let mut found = Found::default();
    let mut tree = unit.entries_tree(None)?;
    look(unit, tree.root()?, None, &mut found)?;
    let mut all = Numbers::new();
    for (entry, function) in &found.enumerations {
        let Some(of) = label(unit, entry, found.typedefs.get(&entry.offset()).cloned())? else { continue };
        let names = names(unit, entry.offset())?;
        let (among, counting) = (names.len(), counting(&names));
        for (name, value) in names {
            let counts = counting.contains(&name);
            let name = function.as_ref().map_or(name.clone(), |function| in_function(&name, function));
            all.entry(name).or_insert(Named { of: of.clone(), among, value, counts });
        }
    }
    Ok(all)
}

/// Looks at the entries below one, in functions and their blocks as well.
fn look<'d>(
    unit: Unit<'d, '_>,
    node: EntriesTreeNode<'_, '_, Slice<'d>>,
    function: Option<&str>,
    found: &mut Found<'d>,
) -> Result<()> {
    let mut children = node.children();
    while let Some(child) = children.next()? {
        let entry = child.entry();
        match (entry.tag(), reference(entry)) {
            (gimli::DW_TAG_enumeration_type, _) => {
                found.enumerations.push((entry.clone(), function.map(str::to_owned)));
            }
            (gimli::DW_TAG_typedef, Some(target)) => {
                if let Some(name) = name(unit, entry)? {
                    found.typedefs.entry(target).or_insert(name);
                }
            }
            (gimli::DW_TAG_subprogram, _) => {
                let own = own_name(unit, entry)?;
                look(unit, child, own.as_deref().or(function), found)?;
            }
            (gimli::DW_TAG_lexical_block, _) => look(unit, child, function, found)?,
            _ => {}
        }
    }
    Ok(())
}

/// The enumeration that a type is, or is an array of.
pub(super) fn enumeration(unit: Unit<'_, '_>, of: UnitOffset) -> Result<Option<String>> {
    let (mut at, mut typedef) = (of, None);
    for _ in 0..DEPTH {
        let entry = unit.entry(at)?;
        match entry.tag() {
            gimli::DW_TAG_enumeration_type => return label(unit, &entry, typedef),
            gimli::DW_TAG_typedef => typedef = name(unit, &entry)?,
            gimli::DW_TAG_array_type => {}
            _ if is_qualifier(&entry) => {}
            _ => return Ok(None),
        }
        match reference(&entry) {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// What an enumeration is called: without a name or a typedef, by the first name in it.
fn label<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>, typedef: Option<String>) -> Result<Option<String>> {
    if let Some(name) = name(unit, entry)? {
        return Ok(Some(format!("enum {name}")));
    }
    if typedef.is_some() {
        return Ok(typedef);
    }
    Ok(names(unit, entry.offset())?.into_iter().next().map(|(name, _)| name))
}

/// An enumeration's names in the order of the source.
fn names(unit: Unit<'_, '_>, of: UnitOffset) -> Result<Vec<(String, i128)>> {
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    let mut all = Vec::new();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        let value = entry
            .attr_value(gimli::DW_AT_const_value)
            .and_then(|value| value.udata_value().map(i128::from).or_else(|| value.sdata_value().map(i128::from)));
        if let (gimli::DW_TAG_enumerator, Some(value), Some(name)) = (entry.tag(), value, name(unit, entry)?) {
            all.push((name, value));
        }
    }
    Ok(all)
}

/// The names that count the others: the last ones, with the highest numbers, and called so.
fn counting(names: &[(String, i128)]) -> Vec<String> {
    let mut last: Vec<String> = Vec::new();
    for (at, (name, value)) in names.iter().enumerate().rev() {
        let highest = names[..at].iter().all(|(_, other)| other <= value);
        if !highest || !is_called_a_count(name) {
            break;
        }
        last.push(name.clone());
    }
    last
}

/// `NR_FOO`, `FOO_MAX`, `__FOO_LAST`, `FOO_ITEMS`.
fn is_called_a_count(name: &str) -> bool {
    const WORDS: [&str; 16] = [
        "NR", "N", "CNT", "NB", "END", "SIZE", "LEN", "LENGTH", "LIMIT", "TOTAL", "ITEMS", "ENTRIES", "TYPES",
        "STATES", "GROUPS", "COUNTERS",
    ];
    const PARTS: [&str; 4] = ["MAX", "NUM", "LAST", "COUNT"];
    name.to_ascii_uppercase()
        .split('_')
        .any(|word| WORDS.contains(&word) || PARTS.iter().any(|part| word.starts_with(part) || word.ends_with(part)))
}

/// The names that both sides have, with another number.
pub(super) fn renumbered<'a>(old: &'a Numbers, new: &'a Numbers) -> Vec<Renumbered<'a>> {
    let both = old.iter().filter_map(|(name, old)| Some(Renumbered { name, old, new: new.get(name)? }));
    both.filter(|named| named.old.value != named.new.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter is the last of its enumeration and called one; another last name is a value like all.
    #[test]
    fn counters() {
        for (names, expected) in [
            (vec![("A", 0), ("NR_STAT_GROUPS", 1)], vec!["NR_STAT_GROUPS"]),
            (vec![("A", 0), ("B", 1), ("__A_LAST", 2), ("A_MAX", 1)], vec![]),
            (vec![("A", 0), ("__A_AFTER_LAST", 1), ("A_MAX", 1)], vec!["A_MAX", "__A_AFTER_LAST"]),
            (vec![("A", 0), ("NFPROTO_NUMPROTO", 1)], vec!["NFPROTO_NUMPROTO"]),
            (vec![("A_MAX", 0), ("B", 1)], vec![]),
            (vec![("IDLE", 0), ("DONE", 1)], vec![]),
            (vec![("IDLE", 0), ("SUSPEND", 1)], vec![]),
        ] {
            let names: Vec<_> = names.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(counting(&names), expected, "{names:?}");
        }
    }
}
