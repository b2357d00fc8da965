//! What the bytes of a member mean: a value of some size, the address of what, an object of which type.
//!
//! In: a type. Out: a text that is the same for two types when code that was compiled against one of them finds in an
//! object of the other what it expects. Signs, names of plain types and qualifiers make no difference; what a pointer
//! leads to, and what a function behind one takes and gives, does.

use anyhow::Result;
use gimli::UnitOffset;

use super::layout::{Unit, dimensions, first_bit, is_qualifier, label, name, number, reference};

/// Deepest nesting of types that is spelled out.
const DEPTH: usize = 16;

/// The meaning of a member of this type.
pub(super) fn meaning(unit: Unit<'_, '_>, of: UnitOffset) -> Result<String> {
    let (mut at, mut depth) = (of, 0);
    // A structure around one thing is that thing: `refcount_t`, `atomic_t`.
    while let Some(inner) = only_member(unit, at)?.filter(|_| depth < DEPTH) {
        (at, depth) = (inner, depth + 1);
    }
    spell(unit, Some(at), Plain::BySize, 0)
}

/// How types are spelled that are no more than a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// As the source does: `unsigned int`.
    ByName,
    /// By what they take: a sign makes no difference to memory.
    BySize,
}

/// The type of the only member of a structure that is no larger, typedefs and qualifiers aside.
fn only_member(unit: Unit<'_, '_>, mut at: UnitOffset) -> Result<Option<UnitOffset>> {
    for _ in 0..DEPTH {
        let entry = unit.entry(at)?;
        match entry.tag() {
            gimli::DW_TAG_structure_type => {
                let mut tree = unit.entries_tree(Some(at))?;
                let mut children = tree.root()?.children();
                let mut members = Vec::new();
                while let Some(node) = children.next()? {
                    if node.entry().tag() == gimli::DW_TAG_member {
                        members.push(
                            reference(node.entry()).filter(|_| node.entry().attr(gimli::DW_AT_bit_size).is_none()),
                        );
                    }
                }
                return Ok(if let [Some(only)] = members[..] { Some(only) } else { None });
            }
            tag if tag == gimli::DW_TAG_typedef || is_qualifier(&entry) => match reference(&entry) {
                Some(next) => at = next,
                None => return Ok(None),
            },
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// A type as text; qualifiers make no difference, and typedefs only give a name to what has none.
pub(super) fn spell(unit: Unit<'_, '_>, at: Option<UnitOffset>, plain: Plain, depth: usize) -> Result<String> {
    let (mut at, mut typedef, mut counts) = (at, None, Vec::new());
    for _ in 0..=DEPTH {
        let Some(target) = at else { break };
        let entry = unit.entry(target)?;
        match entry.tag() {
            gimli::DW_TAG_typedef => typedef = name(unit, &entry)?.or(typedef),
            gimli::DW_TAG_array_type => counts.extend(dimensions(unit, target)?),
            _ if is_qualifier(&entry) => {}
            _ => {
                let element = alone(unit, target, typedef, plain, depth)?;
                return Ok(if counts.is_empty() { element } else { format!("{element} {}", brackets(&counts)) });
            }
        }
        at = reference(&entry);
    }
    Ok(if at.is_none() { "void" } else { "..." }.to_owned())
}

/// `[8][4]`; a dimension without a bound, or of nothing, is `[]`.
fn brackets(counts: &[u64]) -> String {
    counts.iter().map(|count| if *count == 0 { "[]".to_owned() } else { format!("[{count}]") }).collect()
}

/// A type that is no typedef, array or qualified one; `typedef` is what it goes by without a name of its own.
fn alone(unit: Unit<'_, '_>, at: UnitOffset, typedef: Option<String>, plain: Plain, depth: usize) -> Result<String> {
    if depth > DEPTH {
        return Ok("...".to_owned());
    }
    let entry = unit.entry(at)?;
    let own = || Ok::<_, anyhow::Error>(name(unit, &entry)?.unwrap_or_default());
    let is_float = |name: &str| name.contains("float") || name.contains("double");
    Ok(match entry.tag() {
        gimli::DW_TAG_pointer_type => format!("{} *", spell(unit, reference(&entry), plain, depth + 1)?),
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => match label(unit, &entry)?.or(typedef) {
            Some(label) => label,
            // One that is not behind a pointer is described by its members, one by one.
            None if depth == 0 => "struct {}".to_owned(),
            None => unnamed(unit, at, plain, depth + 1)?,
        },
        gimli::DW_TAG_subroutine_type => prototype(unit, at, reference(&entry), plain, depth + 1)?,
        gimli::DW_TAG_base_type | gimli::DW_TAG_enumeration_type if plain == Plain::BySize && !is_float(&own()?) => {
            format!("{}-byte integer", number(&entry, gimli::DW_AT_byte_size))
        }
        gimli::DW_TAG_enumeration_type => format!("enum {}", own()?),
        gimli::DW_TAG_base_type => own()?,
        _ => match reference(&entry) {
            Some(next) => spell(unit, Some(next), plain, depth + 1)?,
            None => "void".to_owned(),
        },
    })
}

/// `struct { a: 4-byte integer, b: 8-byte integer at 8, c: 3 bits of 4-byte integer at 16 }`.
fn unnamed(unit: Unit<'_, '_>, of: UnitOffset, plain: Plain, depth: usize) -> Result<String> {
    let mut members = Vec::new();
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() == gimli::DW_TAG_member {
            let label = name(unit, entry)?.unwrap_or_default();
            let of = spell(unit, reference(entry), plain, depth)?;
            let bits = number(entry, gimli::DW_AT_bit_size);
            let part = if bits == 0 { String::new() } else { format!("{bits} bits of ") };
            let start = reference(entry).map(|of| first_bit(unit, entry, of, bits, depth)).transpose()?.unwrap_or(0);
            let place = match (start / 8, start % 8) {
                (0, 0) => String::new(),
                (byte, 0) => format!(" at {byte}"),
                (byte, bit) => format!(" at {byte}.{bit}"),
            };
            members.push(format!("{label}: {part}{of}{place}"));
        }
    }
    let keyword = if unit.entry(of)?.tag() == gimli::DW_TAG_union_type { "union" } else { "struct" };
    Ok(format!("{keyword} {{ {} }}", members.join(", ")))
}

/// `result (parameter, parameter)` of a function or a function type.
pub(super) fn prototype(
    unit: Unit<'_, '_>,
    of: UnitOffset,
    result: Option<UnitOffset>,
    plain: Plain,
    depth: usize,
) -> Result<String> {
    let mut parameters = Vec::new();
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        match node.entry().tag() {
            gimli::DW_TAG_formal_parameter => parameters.push(spell(unit, reference(node.entry()), plain, depth)?),
            gimli::DW_TAG_unspecified_parameters => parameters.push("...".to_owned()),
            _ => {}
        }
    }
    let parameters = if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") };
    Ok(format!("{} ({parameters})", spell(unit, result, plain, depth)?))
}
