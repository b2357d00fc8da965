//! Whose static local a variable is: the function in whose braces it is declared; and of what type it is.
//!
//! In: an object compiled with `-g`. Out: the name of each variable's symbol -> its function and its meaning. The object's
//! symbols do not say it: two functions that each declare `static int calls` make `calls.0` and `calls.1`, the numbers
//! change with every edit, and once both functions are inlined into a third, their users are the same as well.

use std::collections::BTreeMap;

use anyhow::Result;
use gimli::{AttributeValue, EntriesTreeNode, Operation, UnitOffset};

use super::info::{Debug, Slice, address};
use super::layout::{Entry, Unit, reference};
use super::means;
use super::uses::own_name;
use crate::elf::object::stt;
use crate::elf::{Object, Place};

/// Symbol -> the function that declares the variable, and what its bytes mean.
pub type Owners = BTreeMap<String, (String, String)>;

/// The functions of all static locals; `None` when the object has no debug information.
///
/// # Errors
///
/// When debug information is damaged or of an unknown kind.
pub fn owners(object: &Object) -> Result<Option<Owners>> {
    let Some(debug) = Debug::read(object)? else { return Ok(None) };
    let mut symbols: BTreeMap<u64, Option<&str>> = BTreeMap::new();
    for symbol in object.symbols.iter().filter(|symbol| symbol.st_type == stt::OBJECT) {
        if let Place::Section(section) = symbol.place {
            let at = address(section, symbol.st_value);
            // Two symbols in one place: which of them is meant cannot be told.
            symbols.entry(at).and_modify(|known| *known = None).or_insert(Some(&symbol.name));
        }
    }
    let dwarf = debug.dwarf();
    let mut found: BTreeMap<String, Option<(String, String)>> = BTreeMap::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let unit = unit.unit_ref(&dwarf);
        let mut tree = unit.entries_tree(None)?;
        walk(unit, tree.root()?, None, &mut |at, function, meaning| {
            if let Some(Some(symbol)) = symbols.get(&at) {
                let owner = Some((function.to_owned(), meaning));
                let known = found.entry((*symbol).to_owned()).or_insert_with(|| owner.clone());
                if *known != owner {
                    *known = None;
                }
            }
        })?;
    }
    Ok(Some(found.into_iter().filter_map(|(symbol, owner)| Some((symbol, owner?))).collect()))
}

/// Calls `found` with the address of every variable that is declared in a function, the function's name, and the
/// variable's meaning.
fn walk<'d>(
    unit: Unit<'d, '_>,
    node: EntriesTreeNode<'_, '_, Slice<'d>>,
    function: Option<&str>,
    found: &mut impl FnMut(u64, &str, String),
) -> Result<()> {
    let entry = node.entry();
    let own = match entry.tag() {
        gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine => own_name(unit, entry)?,
        _ => None,
    };
    if let (gimli::DW_TAG_variable, Some(function)) = (entry.tag(), function)
        && let Some(AttributeValue::Exprloc(place)) = entry.attr_value(gimli::DW_AT_location)
        && let Some(Operation::Address { address }) = place.operations(unit.encoding()).next()?
    {
        let meaning = type_of(unit, entry)?.map(|of| means::meaning(unit, of)).transpose()?;
        found(address, function, meaning.unwrap_or_default());
    }
    let function = own.as_deref().or(function);
    let mut children = node.children();
    while let Some(child) = children.next()? {
        walk(unit, child, function, found)?;
    }
    Ok(())
}

/// A variable's type; a copy has it from what it was made of.
fn type_of(unit: Unit<'_, '_>, entry: &Entry<'_>) -> Result<Option<UnitOffset>> {
    if let Some(of) = reference(entry) {
        return Ok(Some(of));
    }
    for at in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
        if let Some(AttributeValue::UnitRef(origin)) = entry.attr_value(at) {
            return Ok(reference(&unit.entry(origin)?));
        }
    }
    Ok(None)
}
