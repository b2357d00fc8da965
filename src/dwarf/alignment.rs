//! To how many bytes objects of a type are aligned.
//!
//! In: a type. Out: bytes. Hard because debug information says it only where the source does: everywhere else it follows from
//! the parts, and what is packed shows in nothing but where they lie.

use std::collections::BTreeMap;

use anyhow::Result;
use gimli::UnitOffset;

use super::layout::{Entry, Unit, is_aggregate, number, reference};

/// What was found so far: most structures hold others.
pub(super) type Known = BTreeMap<UnitOffset, u64>;

/// Deepest nesting of types that is followed.
const DEPTH: usize = 64;

/// To how many bytes a type is aligned: as its source says, else as its parts are. What is packed has members in places
/// that are not as round as they would be.
pub(super) fn of(unit: Unit<'_, '_>, at: UnitOffset, known: &mut Known) -> Result<u64> {
    inner(unit, at, 0, known)
}

fn inner(unit: Unit<'_, '_>, at: UnitOffset, depth: usize, known: &mut Known) -> Result<u64> {
    if let Some(known) = known.get(&at) {
        return Ok(*known);
    }
    let found = look(unit, at, depth, known)?;
    known.insert(at, found);
    Ok(found)
}

fn look(unit: Unit<'_, '_>, at: UnitOffset, depth: usize, known: &mut Known) -> Result<u64> {
    let entry = unit.entry(at)?;
    let given = number(&entry, gimli::DW_AT_alignment);
    if given != 0 || depth > DEPTH {
        return Ok(given.max(1));
    }
    let Some(next) = reference(&entry) else {
        if !is_aggregate(&entry) {
            return Ok(if entry.tag() == gimli::DW_TAG_pointer_type { 8 } else { rounded(&entry) });
        }
        let size = number(&entry, gimli::DW_AT_byte_size);
        let mut tree = unit.entries_tree(Some(at))?;
        let mut children = tree.root()?.children();
        let mut most = 1;
        while let Some(node) = children.next()? {
            let member = node.entry();
            let (gimli::DW_TAG_member, Some(part)) = (member.tag(), reference(member)) else { continue };
            let own = match number(member, gimli::DW_AT_alignment) {
                0 => inner(unit, part, depth + 1, known)?,
                own => own,
            };
            let place = number(member, gimli::DW_AT_data_member_location);
            if place.is_multiple_of(own) && size.is_multiple_of(own) {
                most = most.max(own);
            }
        }
        return Ok(most);
    };
    match entry.tag() {
        gimli::DW_TAG_pointer_type => Ok(8),
        gimli::DW_TAG_enumeration_type => Ok(rounded(&entry)),
        _ => inner(unit, next, depth + 1, known),
    }
}

/// A plain type's alignment is its size.
fn rounded(entry: &Entry<'_>) -> u64 {
    let size = number(entry, gimli::DW_AT_byte_size);
    if size.is_power_of_two() { size } else { 1 }
}
