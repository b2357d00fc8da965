//! Prototypes of the functions that other files can call.
//!
//! In: debug information. Out: function -> its prototype as text. Two texts differ when a caller that was compiled
//! against one of them would pass, or take back, something else by the other.

use std::collections::BTreeMap;

use anyhow::Result;
use gimli::UnitOffset;

use super::layout::{Unit, label, name, reference};

/// Deepest nesting of types that is spelled out.
const DEPTH: usize = 16;

/// The prototypes of all global functions with code.
pub(super) fn prototypes(unit: Unit<'_, '_>) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry().clone();
        let global = entry.tag() == gimli::DW_TAG_subprogram && entry.attr(gimli::DW_AT_external).is_some();
        let defined = entry.attr(gimli::DW_AT_declaration).is_none() && entry.attr(gimli::DW_AT_prototyped).is_some();
        if global
            && defined
            && let Some(name) = name(unit, &entry)?
        {
            all.insert(name, prototype(unit, entry.offset(), reference(&entry), 0)?);
        }
    }
    Ok(all)
}

/// `result (parameter, parameter)` of a function or a function type.
fn prototype(unit: Unit<'_, '_>, of: UnitOffset, result: Option<UnitOffset>, depth: usize) -> Result<String> {
    let mut parameters = Vec::new();
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        match node.entry().tag() {
            gimli::DW_TAG_formal_parameter => parameters.push(spell(unit, reference(node.entry()), depth)?),
            gimli::DW_TAG_unspecified_parameters => parameters.push("...".to_owned()),
            _ => {}
        }
    }
    let parameters = if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") };
    Ok(format!("{} ({parameters})", spell(unit, result, depth)?))
}

/// A type as text; qualifiers and typedefs of plain types make no difference to a caller.
fn spell(unit: Unit<'_, '_>, at: Option<UnitOffset>, depth: usize) -> Result<String> {
    let Some(at) = at else { return Ok("void".to_owned()) };
    if depth > DEPTH {
        return Ok("...".to_owned());
    }
    let entry = unit.entry(at)?;
    let inner = || spell(unit, reference(&entry), depth + 1);
    Ok(match entry.tag() {
        gimli::DW_TAG_pointer_type => format!("{} *", inner()?),
        gimli::DW_TAG_array_type => format!("{} []", inner()?),
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
            label(unit, &entry)?.unwrap_or_else(|| "struct {}".to_owned())
        }
        gimli::DW_TAG_enumeration_type => format!("enum {}", name(unit, &entry)?.unwrap_or_default()),
        gimli::DW_TAG_subroutine_type => prototype(unit, at, reference(&entry), depth + 1)?,
        gimli::DW_TAG_base_type => name(unit, &entry)?.unwrap_or_default(),
        _ => inner()?,
    })
}
