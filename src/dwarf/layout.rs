//! The layouts of all named types of a unit, and what differs between two units' layouts.
//!
//! In: debug information. Out: type name -> size and members; or the types that two sides lay out in
//! different ways. Members without a type name of their own (`struct { ... } x;`, anonymous unions) are
//! part of the type that holds them. A type that only moved because it holds another that changed is named
//! with that one, not by itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use gimli::{AttributeValue, DebuggingInformationEntry, UnitOffset, UnitRef};

use super::info::Slice;
use super::means;

/// Deepest nesting of types that is followed; the kernel's is below ten.
const DEPTH: usize = 64;

/// Most moved members that are named.
const MOVED: usize = 2;

pub(super) type Unit<'d, 'a> = UnitRef<'a, Slice<'d>>;
pub(super) type Entry<'d> = DebuggingInformationEntry<Slice<'d>>;

/// A named type's layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes.
    pub size: u64,
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
}

/// A type with two layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Its name: `struct foo`, `union bar`, or a typedef's.
    pub name: String,
    /// What differs, a line each.
    pub what: Vec<String>,
    /// Types that hold it and change with it.
    pub holders: BTreeSet<String>,
    /// The original's source file.
    pub file: String,
}

/// All named types of a unit.
pub(super) fn layouts(unit: Unit<'_, '_>) -> Result<BTreeMap<String, Layout>> {
    let mut all = BTreeMap::new();
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        let of = match entry.tag() {
            gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => entry.offset(),
            // A type without a name goes by its typedef's.
            gimli::DW_TAG_typedef => match reference(entry) {
                Some(target) if is_aggregate(&unit.entry(target)?) && name(unit, &unit.entry(target)?)?.is_none() => {
                    target
                }
                _ => continue,
            },
            _ => continue,
        };
        let aggregate = unit.entry(of)?;
        if aggregate.attr(gimli::DW_AT_declaration).is_some() {
            continue;
        }
        let Some(label) = (if of == entry.offset() { label(unit, entry)? } else { name(unit, entry)? }) else {
            continue;
        };
        let mut layout = Layout { size: number(&aggregate, gimli::DW_AT_byte_size), ..Layout::default() };
        layout.file = file(unit, &aggregate)?;
        members(unit, of, "", 0, 0, &mut layout.members)?;
        all.entry(label).or_insert(layout);
    }
    Ok(all)
}

/// What differs between the layouts of the types that both sides have.
pub(super) fn changes(original: &BTreeMap<String, Layout>, patched: &BTreeMap<String, Layout>) -> Vec<Change> {
    let differing: BTreeMap<&str, (&Layout, &Layout)> = original
        .iter()
        .filter_map(|(name, old)| Some((name.as_str(), (old, patched.get(name)?))))
        .filter(|(_, (old, new))| !same_shape(old, new))
        .collect();
    let changed = |member: &Member| member.holds.as_deref().is_some_and(|name| differing.contains_key(name));
    // Whether everything about the type follows from members whose own types changed.
    let derived = |old: &Layout, new: &Layout| {
        let names = |layout: &Layout| layout.members.keys().cloned().collect::<BTreeSet<_>>();
        names(old) == names(new)
            && in_order(old) == in_order(new)
            && old.members.iter().any(|(_, member)| changed(member))
            && old.members.iter().all(|(name, member)| member.size == new.members[name].size || changed(member))
    };
    let roots = differing.iter().filter(|(_, (old, new))| !derived(old, new));
    roots
        .map(|(name, (old, new))| Change {
            name: (*name).to_owned(),
            what: differences(old, new),
            holders: holders(name, original).into_iter().filter(|h| differing.contains_key(h.as_str())).collect(),
            file: old.file.clone(),
        })
        .collect()
}

/// Members as they lie in memory.
fn in_order(layout: &Layout) -> Vec<&str> {
    let mut members: Vec<(u64, &str)> = layout.members.iter().map(|(name, m)| (m.offset, name.as_str())).collect();
    members.sort_unstable();
    members.into_iter().map(|(_, name)| name).collect()
}

/// Types that hold `name`, directly or not.
pub(super) fn holders(name: &str, all: &BTreeMap<String, Layout>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(inner) = open.pop() {
        for (outer, layout) in all {
            let holds = layout.members.values().any(|member| member.holds.as_deref() == Some(&inner));
            if holds && found.insert(outer.clone()) {
                open.push(outer.clone());
            }
        }
    }
    found
}

/// The same but for names: a member that was renamed is still where it was.
fn same_shape(old: &Layout, new: &Layout) -> bool {
    old == new || (old.size == new.size && differences(old, new).is_empty())
}

fn differences(old: &Layout, new: &Layout) -> Vec<String> {
    let mut what = Vec::new();
    if old.size != new.size {
        what.push(format!("its size was {}, and is {}", bytes(old.size * 8), bytes(new.size * 8)));
    }
    let place = |member: &Member| (member.offset, member.size);
    let gone: Vec<_> = old.members.iter().filter(|(name, _)| !new.members.contains_key(*name)).collect();
    let come: Vec<_> = new.members.iter().filter(|(name, _)| !old.members.contains_key(*name)).collect();
    for (name, member) in &gone {
        if !come.iter().any(|(_, other)| place(other) == place(member)) {
            what.push(format!("`{name}` was at {}, and is gone", at(member.offset)));
        }
    }
    for (name, member) in &come {
        if !gone.iter().any(|(_, other)| place(other) == place(member)) {
            what.push(format!("`{name}` is new at {}", at(member.offset)));
        }
    }
    // What is in one place on both sides, under whatever name.
    for (name, before) in &old.members {
        let now: Vec<&Member> = match new.members.get(name) {
            Some(same) => vec![same],
            None => come.iter().map(|(_, renamed)| *renamed).collect(),
        };
        // A union has several in one place.
        let here: Vec<&Member> = now.into_iter().filter(|after| place(after) == place(before)).collect();
        if let Some(after) = here.first()
            && !here.iter().any(|after| means::agree(&before.meaning, &after.meaning))
        {
            what.push(format!("`{name}` was a `{}`, and in its place is a `{}`", before.meaning, after.meaning));
        }
    }
    let mut moved = Vec::new();
    for name in in_order(old) {
        let before = &old.members[name];
        let Some(after) = new.members.get(name) else { continue };
        if before.offset != after.offset {
            moved.push(format!("`{name}` was at {}, and is at {}", at(before.offset), at(after.offset)));
        } else if before.size != after.size {
            what.push(format!("`{name}` had {}, and has {}", bytes(before.size), bytes(after.size)));
        }
    }
    // One new member moves all behind it: the first few say where.
    let more = moved.len().saturating_sub(MOVED);
    moved.truncate(MOVED);
    what.extend(moved);
    if more > 0 {
        let members = if more == 1 { "member" } else { "members" };
        what.push(format!("{more} more {members} moved"));
    }
    what
}

/// A size, for people.
fn bytes(bits: u64) -> String {
    match (bits / 8, bits % 8) {
        (1, 0) => "1 byte".to_owned(),
        (n, 0) => format!("{n} bytes"),
        _ => format!("{bits} bits"),
    }
}

/// An offset, for people.
fn at(bits: u64) -> String {
    if bits.is_multiple_of(8) { format!("byte {}", bits / 8) } else { format!("bit {bits}") }
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
    let mut unnamed = 0;
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() != gimli::DW_TAG_member {
            continue;
        }
        let Some(target) = reference(entry) else { continue };
        let (size, inner) = extent(unit, target, depth)?;
        let bits = number(entry, gimli::DW_AT_bit_size);
        let start = match entry.attr_value(gimli::DW_AT_data_bit_offset).and_then(|value| value.udata_value()) {
            Some(bit) => bit,
            None => number(entry, gimli::DW_AT_data_member_location) * 8,
        };
        let label = match name(unit, entry)? {
            Some(label) => label,
            None => {
                unnamed += 1;
                String::new()
            }
        };
        let aggregate = unit.entry(inner)?;
        let own = if is_aggregate(&aggregate) { label_of_type(unit, target, inner)? } else { None };
        if is_aggregate(&aggregate) && own.is_none() && depth < DEPTH {
            let path = if label.is_empty() { prefix.to_owned() } else { format!("{prefix}{label}.") };
            members(unit, inner, &path, base + start, depth + 1, into)?;
            if label.is_empty() {
                continue;
            }
        }
        let label = if label.is_empty() { format!("(unnamed {unnamed})") } else { label };
        let size = if bits != 0 { bits } else { size * 8 };
        into.insert(
            format!("{prefix}{label}"),
            Member { offset: base + start, size, holds: own, meaning: means::meaning(unit, target)? },
        );
    }
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
            (
                gimli::DW_TAG_typedef
                | gimli::DW_TAG_const_type
                | gimli::DW_TAG_volatile_type
                | gimli::DW_TAG_restrict_type
                | gimli::DW_TAG_atomic_type,
                Some(next),
            ) => at = next,
            (gimli::DW_TAG_array_type, Some(next)) => {
                factor = factor.saturating_mul(elements(unit, at)?);
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

/// Elements of an array type; 0 for a flexible one.
fn elements(unit: Unit<'_, '_>, of: UnitOffset) -> Result<u64> {
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    let mut count = 1u64;
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() == gimli::DW_TAG_subrange_type {
            let given = |at| entry.attr_value(at).and_then(|value| value.udata_value());
            let bound =
                given(gimli::DW_AT_count).or_else(|| given(gimli::DW_AT_upper_bound).map(|n| n.wrapping_add(1)));
            count = count.saturating_mul(bound.unwrap_or(0));
        }
    }
    Ok(count)
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
