//! The layouts of all named types of a unit.
//!
//! In: debug information. Out: type name -> size and members. Members without a type name of their own
//! (`struct { ... } x;`, anonymous unions) are part of the type that holds them; so they are of a variable, which is
//! described as a type with one member. Types that are defined in a function's braces go by its name as well.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use gimli::{
    AttributeValue, DebuggingInformationEntry, Endianity, EntriesTreeNode, Reader, Section, UnitOffset, UnitRef,
};

use super::info::Slice;
use super::uses::own_name;
use super::{alignment, enums, means};

/// Deepest nesting of types that is followed; the kernel's is below ten.
const DEPTH: usize = 64;

pub(super) type Unit<'d, 'a> = UnitRef<'a, Slice<'d>>;
pub(super) type Entry<'d> = DebuggingInformationEntry<Slice<'d>>;

/// A named type's layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes.
    pub size: u64,
    /// To how many bytes its objects are aligned.
    pub alignment: u64,
    /// By name; `a.b` for a member of an unnamed member.
    pub members: BTreeMap<String, Member>,
    /// The type's source file, as the compiler was told of it.
    pub file: String,
}

/// A member's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Bits from the start of the type.
    pub offset: u64,
    /// Bits.
    pub size: u64,
    /// The named type that it is or is an array of.
    pub holds: Option<String>,
    /// What its bytes mean ([`super::means`]).
    pub meaning: String,
    /// The enumeration whose numbers it holds ([`super::enums`]).
    pub numbers: Option<String>,
}

/// All types of a unit.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    /// By name: `struct foo`, a typedef's, or `struct foo (in f)` for one that is defined in the function `f`.
    pub of: BTreeMap<String, Layout>,
    /// Types that the unit knows by name, whether it knows their members or not.
    pub known: BTreeSet<String>,
    /// Whether these are all that the source names. A compiler leaves out what is not used, unless it is told not to, and then
    /// says that it was told so.
    pub complete: bool,
    alignments: alignment::Known,
}

/// What tells a compiler not to leave out types.
const COMPLETE: &str = "-fno-eliminate-unused-debug-types";

/// Stands between the name of a type and that of the function that defines it.
const IN: &str = " (in ";

/// What something goes by that is defined in a function.
pub(super) fn in_function(name: &str, function: &str) -> String {
    format!("{name}{IN}{function})")
}

/// A type's name without that of the function that defines it.
pub(super) fn without_function(name: &str) -> &str {
    name.split(IN).next().unwrap_or(name)
}

/// Whether a type is defined in a function.
pub(super) fn is_of_function(name: &str) -> bool {
    name.contains(IN)
}

/// All named types of a unit.
pub(super) fn layouts(unit: Unit<'_, '_>) -> Result<Layouts> {
    let mut all = Layouts::default();
    let mut tree = unit.entries_tree(None)?;
    let root = tree.root()?;
    if let Some(producer) = root.entry().attr_value(gimli::DW_AT_producer) {
        all.complete = unit.attr_string(producer)?.to_string_lossy().contains(COMPLETE);
    }
    let mut children = root.children();
    while let Some(node) = children.next()? {
        if node.entry().tag() == gimli::DW_TAG_subprogram {
            if let Some(function) = own_name(unit, node.entry())? {
                inside(unit, node, &function, &mut all)?;
            }
        } else {
            one(unit, node.entry(), "", &mut all)?;
        }
    }
    Ok(all)
}

/// Adds the types that are defined in a function's braces.
fn inside<'d>(
    unit: Unit<'d, '_>,
    node: EntriesTreeNode<'_, '_, Slice<'d>>,
    function: &str,
    all: &mut Layouts,
) -> Result<()> {
    let mut children = node.children();
    while let Some(child) = children.next()? {
        match child.entry().tag() {
            gimli::DW_TAG_lexical_block => inside(unit, child, function, all)?,
            _ => one(unit, child.entry(), &in_function("", function), all)?,
        }
    }
    Ok(())
}

/// Adds the type that an entry gives a name to, if it does.
fn one<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>, place: &str, all: &mut Layouts) -> Result<()> {
    let (of, label) = match entry.tag() {
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => (entry.offset(), label(unit, entry)?),
        // A type without a name goes by its typedef's.
        gimli::DW_TAG_typedef => match unnamed(unit, entry)? {
            Some(target) => (target, name(unit, entry)?),
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    let aggregate = unit.entry(of)?;
    let Some(label) = label else { return Ok(()) };
    let label = label + place;
    all.known.insert(label.clone());
    if aggregate.attr(gimli::DW_AT_declaration).is_some() {
        return Ok(());
    }
    let mut layout = Layout { size: number(&aggregate, gimli::DW_AT_byte_size), ..Layout::default() };
    layout.file = file(unit, &aggregate)?;
    layout.alignment = alignment::of(unit, of, &mut all.alignments)?;
    members(unit, of, "", 0, 0, &mut layout.members)?;
    // Blocks of one function may each have their own: `struct priv (in f)`, `struct priv (in f) 2`.
    let mut path = label.clone();
    for n in 2.. {
        match all.of.get(&path) {
            None => break,
            Some(known) if place.is_empty() || *known == layout => return Ok(()),
            Some(_) => path = format!("{label} {n}"),
        }
    }
    all.known.insert(path.clone());
    all.of.insert(path, layout);
    Ok(())
}

/// The aggregate without a name that a typedef stands for: qualified, or in arrays, but not by another typedef.
fn unnamed<'d>(unit: Unit<'d, '_>, typedef: &Entry<'d>) -> Result<Option<UnitOffset>> {
    let mut at = reference(typedef);
    for _ in 0..DEPTH {
        let Some(target) = at else { return Ok(None) };
        let entry = unit.entry(target)?;
        if is_aggregate(&entry) {
            return Ok(name(unit, &entry)?.is_none().then_some(target));
        }
        at = if is_qualifier(&entry) || entry.tag() == gimli::DW_TAG_array_type { reference(&entry) } else { None };
    }
    Ok(None)
}

/// A variable of this type, as the only member of nothing else.
///
/// `given` is the alignment that its own declaration asks for, or 0.
pub(super) fn of_variable(unit: Unit<'_, '_>, name: &str, of: UnitOffset, given: u64) -> Result<Layout> {
    let (size, _) = extent(unit, of, 0)?;
    let alignment = alignment::of(unit, of, &mut alignment::Known::new())?.max(given);
    let mut layout = Layout { size, alignment, ..Layout::default() };
    add(unit, Thing { label: name, prefix: "", of, start: 0, bits: 0 }, 0, &mut layout.members)?;
    Ok(layout)
}

/// Adds the members of the aggregate at `of`, which starts at bit `base` of the type.
fn members(
    unit: Unit<'_, '_>,
    of: UnitOffset,
    prefix: &str,
    base: u64,
    depth: usize,
    into: &mut BTreeMap<String, Member>,
) -> Result<()> {
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() != gimli::DW_TAG_member {
            continue;
        }
        let Some(of) = reference(entry) else { continue };
        let label = name(unit, entry)?.unwrap_or_default();
        let bits = number(entry, gimli::DW_AT_bit_size);
        let start = base + first_bit(unit, entry, of, bits, depth)?;
        add(unit, Thing { label: &label, prefix, of, start, bits }, depth, into)?;
    }
    Ok(())
}

/// Where a member starts in its aggregate, in bits.
pub(super) fn first_bit<'d>(
    unit: Unit<'d, '_>,
    member: &Entry<'d>,
    of: UnitOffset,
    bits: u64,
    depth: usize,
) -> Result<u64> {
    let given = |at| member.attr_value(at).and_then(|value| value.udata_value());
    if let Some(bit) = given(gimli::DW_AT_data_bit_offset) {
        return Ok(bit);
    }
    let start = number(member, gimli::DW_AT_data_member_location) * 8;
    // DWARF before 5 counts from the highest bit of what the bit field is stored in.
    let Some(from_top) = given(gimli::DW_AT_bit_offset) else { return Ok(start) };
    if !unit.dwarf.debug_info.reader().endian().is_little_endian() {
        return Ok(start + from_top);
    }
    let storage = match given(gimli::DW_AT_byte_size) {
        Some(bytes) => bytes,
        None => extent(unit, of, depth)?.0,
    };
    Ok((start + storage * 8).saturating_sub(from_top + bits))
}

/// What lies somewhere in a type, or is a variable.
struct Thing<'a> {
    /// Its name; empty for an unnamed one.
    label: &'a str,
    /// What it is in: `a.` for a member of `a`.
    prefix: &'a str,
    /// Its type.
    of: UnitOffset,
    /// Its first bit.
    start: u64,
    /// Its size if it is a bit field, else 0.
    bits: u64,
}

fn add(unit: Unit<'_, '_>, thing: Thing<'_>, depth: usize, into: &mut BTreeMap<String, Member>) -> Result<()> {
    let Thing { label, prefix, of, start, bits } = thing;
    let (size, inner) = extent(unit, of, depth)?;
    let aggregate = unit.entry(inner)?;
    let own = if is_aggregate(&aggregate) { label_of_type(unit, of, inner)? } else { None };
    if is_aggregate(&aggregate) && own.is_none() && depth < DEPTH {
        let path = if label.is_empty() { prefix.to_owned() } else { format!("{prefix}{label}.") };
        members(unit, inner, &path, start, depth + 1, into)?;
        if label.is_empty() {
            return Ok(());
        }
    }
    let mut path = format!("{prefix}{label}");
    if label.is_empty() {
        let unnamed = (1..).map(|n| format!("{prefix}(unnamed {n})")).find(|path| !into.contains_key(path));
        path = unnamed.unwrap_or(path);
    }
    let size = if bits != 0 { bits } else { size * 8 };
    let (meaning, numbers) = (means::meaning(unit, of)?, enums::enumeration(unit, of)?);
    into.insert(path, Member { offset: start, size, holds: own, meaning, numbers });
    Ok(())
}

/// The name of the aggregate at `inner`, which `target` is through typedefs and arrays.
fn label_of_type(unit: Unit<'_, '_>, target: UnitOffset, inner: UnitOffset) -> Result<Option<String>> {
    if let Some(label) = label(unit, &unit.entry(inner)?)? {
        return Ok(Some(label));
    }
    // Without a name of its own it goes by the typedef next to it.
    let (mut at, mut found) = (target, None);
    while at != inner {
        let entry = unit.entry(at)?;
        if entry.tag() == gimli::DW_TAG_typedef {
            found = name(unit, &entry)?;
        }
        match reference(&entry) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(found)
}

/// Size in bytes of a type, and the type that it is, or is an array of, without typedefs and qualifiers.
fn extent(unit: Unit<'_, '_>, mut at: UnitOffset, depth: usize) -> Result<(u64, UnitOffset)> {
    let mut factor = 1u64;
    for _ in depth..DEPTH {
        let entry = unit.entry(at)?;
        match (entry.tag(), reference(&entry)) {
            (tag, Some(next)) if tag == gimli::DW_TAG_typedef || is_qualifier(&entry) => at = next,
            (gimli::DW_TAG_array_type, Some(next)) => {
                factor = dimensions(unit, at)?.into_iter().fold(factor, u64::saturating_mul);
                at = next;
            }
            (gimli::DW_TAG_pointer_type, _) => {
                let size = entry.attr_value(gimli::DW_AT_byte_size).and_then(|value| value.udata_value());
                return Ok((factor.saturating_mul(size.unwrap_or(8)), at));
            }
            _ => return Ok((factor.saturating_mul(number(&entry, gimli::DW_AT_byte_size)), at)),
        }
    }
    Ok((0, at))
}

/// Elements of an array type in each of its dimensions; 0 in a flexible one.
pub(super) fn dimensions(unit: Unit<'_, '_>, of: UnitOffset) -> Result<Vec<u64>> {
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    let mut counts = Vec::new();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() == gimli::DW_TAG_subrange_type {
            let given = |at| entry.attr_value(at).and_then(|value| value.udata_value());
            let bound =
                given(gimli::DW_AT_count).or_else(|| given(gimli::DW_AT_upper_bound).map(|n| n.wrapping_add(1)));
            counts.push(bound.unwrap_or(0));
        }
    }
    Ok(counts)
}

/// Whether a type is another one with a qualifier.
pub(super) fn is_qualifier(entry: &Entry<'_>) -> bool {
    matches!(
        entry.tag(),
        gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
    )
}

pub(super) fn is_aggregate(entry: &Entry<'_>) -> bool {
    matches!(entry.tag(), gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type)
}

/// The type that an entry refers to, within its unit.
pub(super) fn reference(entry: &Entry<'_>) -> Option<UnitOffset> {
    match entry.attr_value(gimli::DW_AT_type) {
        Some(AttributeValue::UnitRef(offset)) => Some(offset),
        _ => None,
    }
}

pub(super) fn name<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<Option<String>> {
    let Some(value) = entry.attr_value(gimli::DW_AT_name) else { return Ok(None) };
    Ok(Some(unit.attr_string(value)?.to_string_lossy().into_owned()))
}

/// `struct foo`, `union bar`.
pub(super) fn label<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<Option<String>> {
    let keyword = if entry.tag() == gimli::DW_TAG_union_type { "union" } else { "struct" };
    Ok(name(unit, entry)?.map(|name| format!("{keyword} {name}")))
}

pub(super) fn number(entry: &Entry<'_>, at: gimli::DwAt) -> u64 {
    entry.attr_value(at).and_then(|value| value.udata_value()).unwrap_or(0)
}

/// The file that declares the entry.
fn file<'d>(unit: Unit<'d, '_>, entry: &Entry<'d>) -> Result<String> {
    let Some(AttributeValue::FileIndex(index)) = entry.attr_value(gimli::DW_AT_decl_file) else {
        return Ok(String::new());
    };
    let Some(program) = &unit.line_program else { return Ok(String::new()) };
    let Some(file) = program.header().file(index) else { return Ok(String::new()) };
    Ok(unit.attr_string(file.path_name())?.to_string_lossy().into_owned())
}
