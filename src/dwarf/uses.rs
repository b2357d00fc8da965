//! Who uses a unit's types: functions, variables, and other types.
//!
//! In: debug information. Out: type name -> [`Users`]. A function uses the types of its parameters and variables,
//! those of functions inlined into it included, seen through pointers and arrays. What it reaches by following
//! pointers further is not seen, and need not be: where that matters its code is not the same on both sides.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use gimli::UnitOffset;

use super::layout::{Entry, Unit, is_aggregate, label, name, reference};
use super::variables::address_of;

/// Deepest chain of pointers, arrays and typedefs that is followed.
const DEPTH: usize = 64;

/// Who uses a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Users {
    /// Functions with code, by name.
    pub functions: BTreeSet<String>,
    /// Those of them that have an object of it on their stack.
    pub on_stack: BTreeSet<String>,
    /// Functions, with code or inlined, that have its address from somewhere: in a variable of theirs, or as their result.
    pub pointed_to: BTreeSet<String>,
    /// Variables that outlive a call.
    pub variables: BTreeSet<String>,
    /// Types that have a member of it, or a pointer to it.
    pub types: BTreeSet<String>,
}

/// The users of every named type of the unit.
pub(super) fn uses(unit: Unit<'_, '_>) -> Result<BTreeMap<String, Users>> {
    let mut all: BTreeMap<String, Users> = BTreeMap::new();
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry().clone();
        match entry.tag() {
            gimli::DW_TAG_subprogram => function(unit, &entry, &mut all)?,
            gimli::DW_TAG_variable if entry.attr(gimli::DW_AT_declaration).is_none() => {
                if let (Some(used), Some(name)) = (used(unit, &entry)?, own_name(unit, &entry)?) {
                    all.entry(used.name).or_default().variables.insert(name);
                }
            }
            gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
                if let Some(outer) = label(unit, &entry)? {
                    member_types(unit, entry.offset(), &outer, 0, &mut all)?;
                }
            }
            gimli::DW_TAG_typedef => {
                if let (Some(of), Some(outer)) = (reference(&entry), name(unit, &entry)?) {
                    let aggregate = unit.entry(of)?;
                    if is_aggregate(&aggregate) && label(unit, &aggregate)?.is_none() {
                        member_types(unit, of, &outer, 0, &mut all)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(all)
}

fn has_code(entry: &Entry<'_>) -> bool {
    entry.attr(gimli::DW_AT_low_pc).is_some() || entry.attr(gimli::DW_AT_ranges).is_some()
}

fn function<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>, all: &mut BTreeMap<String, Users>) -> Result<()> {
    let Some(function) = own_name(unit, entry)? else { return Ok(()) };
    let has_code = has_code(entry);
    if let Some(used) = used(unit, entry)?.filter(|used| !used.by_value) {
        all.entry(used.name).or_default().pointed_to.insert(function.clone());
    }
    let mut tree = unit.entries_tree(Some(entry.offset()))?;
    let mut open = vec![];
    collect(tree.root()?, &mut open)?;
    for entry in &open {
        let Some(used) = used(unit, entry)? else { continue };
        let users = all.entry(used.name).or_default();
        let is_variable = entry.tag() == gimli::DW_TAG_variable;
        if is_variable && !used.by_value {
            users.pointed_to.insert(function.clone());
        }
        let is_static = is_variable && address_of(unit, entry)?.is_some();
        if used.by_value && is_static {
            users.variables.extend(own_name(unit, entry)?);
        }
        if has_code {
            users.functions.insert(function.clone());
            if is_variable && used.by_value && !is_static {
                users.on_stack.insert(function.clone());
            }
        }
    }
    Ok(())
}

/// Parameters and variables at any depth of scopes and inlined functions.
fn collect<'d>(node: gimli::EntriesTreeNode<'_, '_, super::info::Slice<'d>>, into: &mut Vec<Entry<'d>>) -> Result<()> {
    if matches!(node.entry().tag(), gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable) {
        into.push(node.entry().clone());
    }
    let mut children = node.children();
    while let Some(child) = children.next()? {
        collect(child, into)?;
    }
    Ok(())
}

fn member_types(
    unit: Unit<'_, '_>,
    of: UnitOffset,
    outer: &str,
    depth: usize,
    all: &mut BTreeMap<String, Users>,
) -> Result<()> {
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        let (gimli::DW_TAG_member, Some(target)) = (entry.tag(), reference(entry)) else { continue };
        match peel(unit, target)? {
            Peeled::Named(used) if used.name != outer => {
                all.entry(used.name).or_default().types.insert(outer.to_owned());
            }
            Peeled::Unnamed(inner) if depth < DEPTH => member_types(unit, inner, outer, depth + 1, all)?,
            _ => {}
        }
    }
    Ok(())
}

/// A named type, and whether a thing is of it rather than a way to it.
struct Used {
    name: String,
    by_value: bool,
}

enum Peeled {
    Named(Used),
    Unnamed(UnitOffset),
    Other,
}

/// The named type of a parameter or a variable; an inlined one has it from its origin.
fn used<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<Option<Used>> {
    let target = match (reference(entry), origin(unit, entry)?) {
        (Some(target), _) => target,
        (None, Some(origin)) => match reference(&origin) {
            Some(target) => target,
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    Ok(match peel(unit, target)? {
        Peeled::Named(used) => Some(used),
        _ => None,
    })
}

/// The name of a function or variable; a copy has it from what it was made of.
pub(super) fn own_name<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<Option<String>> {
    match (name(unit, entry)?, origin(unit, entry)?) {
        (Some(name), _) => Ok(Some(name)),
        (None, Some(origin)) => name(unit, &origin),
        (None, None) => Ok(None),
    }
}

/// What an inlined or out-of-line copy was made of.
pub(super) fn origin<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<Option<Entry<'d>>> {
    for at in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
        if let Some(gimli::AttributeValue::UnitRef(offset)) = entry.attr_value(at) {
            return Ok(Some(unit.entry(offset)?));
        }
    }
    Ok(None)
}

fn peel(unit: Unit<'_, '_>, mut at: UnitOffset) -> Result<Peeled> {
    let (mut by_value, mut typedef) = (true, None);
    for _ in 0..DEPTH {
        let entry = unit.entry(at)?;
        match entry.tag() {
            gimli::DW_TAG_pointer_type => (by_value, typedef) = (false, None),
            gimli::DW_TAG_typedef => typedef = name(unit, &entry)?,
            gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
                return Ok(match label(unit, &entry)?.or(typedef) {
                    Some(name) => Peeled::Named(Used { name, by_value }),
                    None => Peeled::Unnamed(at),
                });
            }
            gimli::DW_TAG_array_type
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type => {}
            _ => return Ok(Peeled::Other),
        }
        match reference(&entry) {
            Some(next) => at = next,
            None => return Ok(Peeled::Other),
        }
    }
    Ok(Peeled::Other)
}
