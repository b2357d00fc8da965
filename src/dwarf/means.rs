//! What the bytes of a member mean: a value of some size, the address of what, an object of which type.
//!
//! In: a type. Out: a text that is the same for two types when code that was compiled against one of them finds in an
//! object of the other what it expects. Signs, names of plain types and qualifiers make no difference; what a pointer
//! leads to, and what a function behind one takes and gives, does.

use anyhow::Result;
use gimli::UnitOffset;

use super::layout::{Unit, label, name, number, reference};

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

/// Whether what was stored as the one can be read as the other. A pointer to anything is any pointer.
pub(super) fn agree(one: &str, other: &str) -> bool {
    const ANY: &str = "void *";
    let pointer = |text: &str| text.ends_with('*');
    one == other || ((one == ANY || other == ANY) && pointer(one) && pointer(other))
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
            gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type => match reference(&entry) {
                Some(next) => at = next,
                None => return Ok(None),
            },
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// A type as text; qualifiers and typedefs make no difference.
pub(super) fn spell(unit: Unit<'_, '_>, at: Option<UnitOffset>, plain: Plain, depth: usize) -> Result<String> {
    let Some(at) = at else { return Ok("void".to_owned()) };
    if depth > DEPTH {
        return Ok("...".to_owned());
    }
    let entry = unit.entry(at)?;
    let inner = || spell(unit, reference(&entry), plain, depth + 1);
    let own = || Ok::<_, anyhow::Error>(name(unit, &entry)?.unwrap_or_default());
    let is_float = |name: &str| name.contains("float") || name.contains("double");
    Ok(match entry.tag() {
        gimli::DW_TAG_pointer_type => format!("{} *", inner()?),
        gimli::DW_TAG_array_type => format!("{} []", inner()?),
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
            label(unit, &entry)?.unwrap_or_else(|| "struct {}".to_owned())
        }
        gimli::DW_TAG_subroutine_type => prototype(unit, at, reference(&entry), plain, depth + 1)?,
        gimli::DW_TAG_base_type | gimli::DW_TAG_enumeration_type if plain == Plain::BySize && !is_float(&own()?) => {
            format!("{}-byte integer", number(&entry, gimli::DW_AT_byte_size))
        }
        gimli::DW_TAG_enumeration_type => format!("enum {}", own()?),
        gimli::DW_TAG_base_type => own()?,
        _ => inner()?,
    })
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
