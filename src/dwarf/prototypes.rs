//! Prototypes of the functions that other files can call.
//!
//! In: debug information. Out: function -> its prototype as text. Two texts differ when a caller that was compiled
//! against one of them would pass, or take back, something else by the other.

use std::collections::BTreeMap;

use anyhow::Result;

use super::layout::{Unit, name, reference};
use super::means::{Plain, prototype};

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
            all.insert(name, prototype(unit, entry.offset(), reference(&entry), Plain::ByName, 0)?);
        }
    }
    Ok(all)
}
