//! The variables that the kernel keeps, and of which type they are.
//!
//! In: debug information. Out: the variables of file scope and the static ones in functions, each described as a type with one
//! member. What a constant holds is in the code's own hands, and what lies in start-up data is gone: neither is kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use gimli::{AttributeValue, EntriesTreeNode, Operation};

use super::changes::Sides;
use super::info::{Debug, Slice};
use super::layout::{Entry, Layout, Unit, number, of_variable, reference};
use super::uses::{origin, own_name};

/// Where a variable is declared and how it is called there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// As the source calls it.
    pub name: String,
    /// The function in whose braces it is declared.
    pub function: Option<String>,
}

/// In the order of their declarations: blocks of one function may have several of a name.
pub(super) type Variables = BTreeMap<Name, Vec<Layout>>;

/// The variables of a unit that outlive a call and can be written.
pub(super) fn variables(unit: Unit<'_, '_>, debug: &Debug) -> Result<Variables> {
    let mut all = Variables::new();
    let mut seen = BTreeSet::new();
    let mut tree = unit.entries_tree(None)?;
    walk(unit, tree.root()?, None, &mut |entry, address, function| {
        // An inlined function's variable is described for each copy, and is one.
        if !debug.keeps(address) || !seen.insert(address) {
            return Ok(());
        }
        let origin = origin(unit, entry)?;
        let of = reference(entry).or_else(|| origin.as_ref().and_then(reference));
        if let (Some(of), Some(name)) = (of, own_name(unit, entry)?) {
            let given = |entry: &Entry<'_>| number(entry, gimli::DW_AT_alignment);
            let given = given(entry).max(origin.as_ref().map_or(0, given));
            let layout = of_variable(unit, &name, of, given)?;
            all.entry(Name { name, function: function.map(str::to_owned) }).or_default().push(layout);
        }
        Ok(())
    })?;
    Ok(all)
}

/// Where a variable always is; `None` for one that is in registers or on a stack.
pub(super) fn address_of<'d>(unit: Unit<'d, '_>, variable: &Entry<'d>) -> Result<Option<u64>> {
    let Some(AttributeValue::Exprloc(place)) = variable.attr_value(gimli::DW_AT_location) else { return Ok(None) };
    Ok(match place.operations(unit.encoding()).next()? {
        Some(Operation::Address { address }) => Some(address),
        _ => None,
    })
}

/// Calls `found` with each variable that has an address, the address, and the function that declares it.
fn walk<'d>(
    unit: Unit<'d, '_>,
    node: EntriesTreeNode<'_, '_, Slice<'d>>,
    function: Option<&str>,
    found: &mut impl FnMut(&Entry<'d>, u64, Option<&str>) -> Result<()>,
) -> Result<()> {
    let entry = node.entry();
    let own = match entry.tag() {
        gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine => own_name(unit, entry)?,
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type | gimli::DW_TAG_enumeration_type => return Ok(()),
        _ => None,
    };
    if entry.tag() == gimli::DW_TAG_variable
        && let Some(address) = address_of(unit, entry)?
    {
        found(entry, address, function)?;
    }
    let function = own.as_deref().or(function);
    let mut children = node.children();
    while let Some(child) = children.next()? {
        walk(unit, child, function, found)?;
    }
    Ok(())
}

/// Variables that are of another type on the two sides, and what differs. One of another size is not the same variable, or
/// is refused for that.
pub(super) fn changed<'o>(old: &'o Variables, new: &Variables, sides: Sides<'_>) -> Vec<(&'o Name, Vec<String>)> {
    let mut changed = Vec::new();
    for (name, before) in old {
        let after = match new.get(name) {
            Some(after) => after,
            // It may be declared in another function now.
            None => match only(new, old, name) {
                Some(after) => after,
                None => continue,
            },
        };
        // Which of several is which cannot be told when there are not as many.
        if before.len() != after.len() {
            continue;
        }
        let same_size = before.iter().zip(after).filter(|(before, after)| before.size == after.size);
        let what: Vec<String> = same_size.flat_map(|(before, after)| sides.differences(before, after)).collect();
        if !what.is_empty() {
            changed.push((name, what));
        }
    }
    changed
}

/// What else has this variable's name, where it is the only such on both sides.
fn only<'n>(new: &'n Variables, old: &Variables, name: &Name) -> Option<&'n Vec<Layout>> {
    let come: Vec<_> = new.iter().filter(|(other, _)| other.name == name.name && !old.contains_key(*other)).collect();
    let gone = old.keys().filter(|other| other.name == name.name && !new.contains_key(*other)).count();
    match (&come[..], gone) {
        ([(_, after)], 1) => Some(after),
        _ => None,
    }
}
