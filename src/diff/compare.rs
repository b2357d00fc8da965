//! Are two atoms the same? By what they *mean*: bytes outside relocation fields, then relocations by target.
//!
//! In: two sides and their twins. Out: yes, or the first difference. Things with identity (functions,
//! variables) are equal when they are twins; things without (texts, constants, switch tables, private
//! constants, table entries) are equal when their contents are, recursively. That recursion is where
//! changed tables and initialisers are seen whose bytes no function holds.

use std::cell::RefCell;

use super::alloc_tags;
use super::arch::Use;
use super::atoms::{AtomId, Kind, Ref, Side, Target};
use super::names;
use super::twins::Twins;
use crate::elf::id::HashMap;
use crate::elf::object::stb;
use crate::elf::{Place, SectionId, SymbolId};

/// The first place where two atoms differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Offset in the original atom.
    pub original: u64,
    /// Offset in the patched atom.
    pub patched: u64,
    /// What differs, for people.
    pub what: String,
}

/// Compares atoms of two sides.
pub struct Compare<'a, 'o> {
    /// Original side.
    pub original: &'a Side<'o>,
    /// Patched side.
    pub patched: &'a Side<'o>,
    /// Which atom is which.
    pub twins: &'a Twins,
    /// Answers so far; `None` while being worked out, which counts as equal (greatest fixed point).
    memo: RefCell<HashMap<(AtomId, AtomId), Option<bool>>>,
    /// Pairs found equal while others were still being worked out: taken back when one of those is not.
    assumed: RefCell<Vec<(AtomId, AtomId)>>,
}

impl<'a, 'o> Compare<'a, 'o> {
    /// A comparison under this map.
    pub fn new(original: &'a Side<'o>, patched: &'a Side<'o>, twins: &'a Twins) -> Self {
        Compare { original, patched, twins, memo: RefCell::new(HashMap::default()), assumed: RefCell::new(Vec::new()) }
    }

    /// The first difference between the contents of two atoms, if any.
    pub fn difference(&self, old: AtomId, new: AtomId) -> Option<Difference> {
        let (a, b) = (self.original.atom(old), self.patched.atom(new));
        let (place_a, place_b) = (self.original.extent(old), self.patched.extent(new));
        let (start_a, start_b) = (place_a.0, place_b.0);
        let (len_a, len_b) = (place_a.1 - start_a, place_b.1 - start_b);
        let bytes_a = self.original.bytes_between(a.section, place_a);
        let bytes_b = self.patched.bytes_between(b.section, place_b);
        let refs_a = refs_within(self.original, old, place_a);
        let refs_b = refs_within(self.patched, new, place_b);
        let at = |original: u64, patched: u64, what: String| Some(Difference { original, patched, what });

        // Bytes first, outside of relocation fields, so that the reported place is the first in the code.
        let fields = |side: &Side<'_>, refs: &[Ref], start: u64| -> Vec<(u64, u64)> {
            refs.iter()
                .map(|r| {
                    let from = r.reloc.r_offset - start;
                    (from, from + u64::from(side.arch.field_size(r.reloc.r_type).unwrap_or(0)))
                })
                .collect()
        };
        // What has no bytes in the file (.bss) is zero in memory.
        let zeros = |len: u64| vec![0; len as usize];
        // Beside its references a tag has nothing but the line it is for.
        let are_tags = alloc_tags::is_tag(self.original, old) && alloc_tags::is_tag(self.patched, new);
        let unmasked = |a: &[u8], b: &[u8]| {
            let len = a.len().min(b.len());
            if a[..len] == b[..len] {
                return None;
            }
            let (fields_a, fields_b) = (fields(self.original, refs_a, start_a), fields(self.patched, refs_b, start_b));
            first_unmasked_difference(a, b, &fields_a, &fields_b)
        };
        let byte_difference = match (bytes_a.is_empty() && len_a > 0, bytes_b.is_empty() && len_b > 0) {
            _ if are_tags => None,
            (true, false) => unmasked(&zeros(len_b), bytes_b),
            (false, true) => unmasked(bytes_a, &zeros(len_a)),
            _ => unmasked(bytes_a, bytes_b),
        };
        let mut ref_difference = None;
        for (ra, rb) in refs_a.iter().zip(refs_b) {
            let (oa, ob) = (ra.reloc.r_offset - start_a, rb.reloc.r_offset - start_b);
            if byte_difference.is_some_and(|d| d < oa.min(ob)) {
                break;
            }
            if oa != ob {
                ref_difference = Some((oa, ob, "a reference moved".to_owned()));
                break;
            }
            if let Some(what) = self.reference_difference(old, ra, new, rb) {
                ref_difference = Some((oa, ob, what));
                break;
            }
        }
        if let Some((oa, ob, what)) = ref_difference {
            return at(oa, ob, what);
        }
        if let Some(d) = byte_difference {
            return at(d, d, "instructions or bytes differ".to_owned());
        }
        if len_a != len_b {
            let d = len_a.min(len_b);
            return at(d, d, format!("size {len_a} became {len_b}"));
        }
        if refs_a.len() != refs_b.len() {
            let d = refs_a.len().min(refs_b.len());
            let place = |refs: &[Ref], start: u64, end: u64| refs.get(d).map_or(end, |r| r.reloc.r_offset - start);
            return at(
                place(refs_a, start_a, len_a),
                place(refs_b, start_b, len_b),
                "a reference was added or removed".to_owned(),
            );
        }
        None
    }

    /// Whether two atoms have the same contents.
    pub fn same(&self, old: AtomId, new: AtomId) -> bool {
        // All pieces of a run have one answer.
        let (old, new) = (self.original.whole_run(old).0, self.patched.whole_run(new).0);
        if let Some(known) = self.memo.borrow().get(&(old, new)) {
            return known.unwrap_or(true);
        }
        self.memo.borrow_mut().insert((old, new), None);
        let before = self.assumed.borrow().len();
        let same = self.difference(old, new).is_none();
        let mut memo = self.memo.borrow_mut();
        memo.insert((old, new), Some(same));
        let mut assumed = self.assumed.borrow_mut();
        if same {
            assumed.push((old, new));
        } else {
            // They may be equal only because this pair was taken to be.
            for pair in assumed.drain(before..) {
                memo.remove(&pair);
            }
        }
        same
    }

    /// What differs between two references, if anything. The atoms they stand in matter for
    /// references of a table entry back into its own function.
    fn reference_difference(&self, old: AtomId, ra: &Ref, new: AtomId, rb: &Ref) -> Option<String> {
        // Where the assembler left no relocation, the decoder says which it would have been: a branch is a branch.
        let is_call = |side: &Side<'_>, r: &Ref| r.usage == Use::Branch && side.arch.is_pc_relative(r.reloc.r_type);
        let both_calls = is_call(self.original, ra) && is_call(self.patched, rb);
        if ra.reloc.r_type != rb.reloc.r_type && !both_calls {
            return Some("the kind of a reference changed".to_owned());
        }
        match (ra.target, rb.target) {
            (Target::Nothing(a), Target::Nothing(b)) => (a != b).then(|| "a constant differs".to_owned()),
            (Target::Symbol(a, x), Target::Symbol(b, y)) => {
                let (name_a, name_b) = (self.old_symbol(a), self.new_symbol(b));
                if name_a != name_b {
                    return Some(format!("refers to `{name_b}` instead of `{name_a}`"));
                }
                (x != y).then(|| format!("refers to `{name_a}` at another offset"))
            }
            (Target::Atom(a, x), Target::Atom(b, y)) => {
                let (weak_a, weak_b) = (weak_alias(self.original, a, ra), weak_alias(self.patched, b, rb));
                if weak_a != weak_b {
                    let name_a = weak_a.unwrap_or_else(|| own_name(self.original, a));
                    let name_b = weak_b.unwrap_or_else(|| own_name(self.patched, b));
                    return Some(format!("refers to `{name_b}` instead of `{name_a}`"));
                }
                self.atom_difference(old, a, x, new, b, y)
            }
            // A global that moved into or out of this object is still the same symbol.
            (Target::Atom(a, x), Target::Symbol(b, y)) => {
                let name = self.new_symbol(b);
                let base = self.patched.object.symbol(b).st_value as i64;
                let same = self.original.is_global(a)
                    && has_name(self.original, a, name)
                    && x - ra.adjust == y.wrapping_add(base);
                (!same).then(|| format!("refers to `{name}` instead of `{}`", self.original.name(a)))
            }
            (Target::Symbol(a, x), Target::Atom(b, y)) => {
                let name = self.old_symbol(a);
                let base = self.original.object.symbol(a).st_value as i64;
                let same = self.patched.is_global(b)
                    && has_name(self.patched, b, name)
                    && y - rb.adjust == x.wrapping_add(base);
                (!same).then(|| format!("refers to `{}` instead of `{name}`", self.patched.name(b)))
            }
            _ => Some("a reference changed".to_owned()),
        }
    }

    fn atom_difference(&self, old: AtomId, a: AtomId, x: i64, new: AtomId, b: AtomId, y: i64) -> Option<String> {
        let (ka, kb) = (self.original.atom(a).kind, self.patched.atom(b).kind);
        if a == old && b == new {
            return (x != y).then(|| "an internal reference moved".to_owned());
        }
        let identity = |side: &Side<'_>, id: AtomId, kind: Kind| {
            matches!(kind, Kind::Function | Kind::Data) && !side.is_private(id)
        };
        let (ia, ib) = (identity(self.original, a, ka), identity(self.patched, b, kb));
        if ia != ib {
            return Some(format!("refers to `{}` instead of `{}`", self.patched.name(b), self.original.name(a)));
        }
        if ia {
            let ran = self.twins.revived.get(&b) == Some(&a) && self.original.is_gone(old);
            if self.twins.forward.get(&a) != Some(&b) && !ran {
                // The end of one thing may be the start of the next one: what counts is the place in the kernel.
                if self.place_in_original(b, y) == Some((self.original.atom(a).section, self.place(a, x))) {
                    return None;
                }
                return Some(format!("refers to `{}` instead of `{}`", self.patched.name(b), self.original.name(a)));
            }
            // The padding before a function may differ between sides; what counts is the distance to its symbol.
            let base = |side: &Side<'_>, id: AtomId| {
                let atom = side.atom(id);
                atom.symbols.first().map_or(0, |s| side.object.symbol(*s).st_value as i64 - atom.start as i64)
            };
            let (dx, dy) = (x - base(self.original, a), y - base(self.patched, b));
            return (dx != dy).then(|| format!("refers to `{}` at another offset", self.original.name(a)));
        }
        // Of a run without names, the place in the run.
        let (from_a, from_b) = (self.original.extent(a).0, self.patched.extent(b).0);
        let x = x + (self.original.atom(a).start - from_a) as i64;
        let y = y + (self.patched.atom(b).start - from_b) as i64;
        if ka != kb || x != y {
            return Some(format!("refers to other private data (`{}`)", self.patched.name(b)));
        }
        if ka == Kind::Data && names::stem(self.original.name(a)) != names::stem(self.patched.name(b)) {
            return Some(format!("refers to `{}` instead of `{}`", self.patched.name(b), self.original.name(a)));
        }
        (!self.same(a, b)).then(|| match ka {
            Kind::Text => {
                format!("the text \"{}\" became \"{}\"", text(self.original.bytes(a)), text(self.patched.bytes(b)))
            }
            _ => format!("the contents of `{}` changed", self.patched.name(b)),
        })
    }

    fn place(&self, id: AtomId, offset: i64) -> i64 {
        self.original.atom(id).start as i64 + offset
    }

    /// Where the original has what lies at an offset of a patched datum.
    fn place_in_original(&self, id: AtomId, offset: i64) -> Option<(SectionId, i64)> {
        let twin = *self.twins.backward.get(&id).filter(|_| self.patched.atom(id).kind == Kind::Data)?;
        Some((self.original.atom(twin).section, self.place(twin, offset)))
    }

    fn old_symbol(&self, id: SymbolId) -> &'o str {
        symbol_name(self.original, id)
    }

    fn new_symbol(&self, id: SymbolId) -> &'o str {
        symbol_name(self.patched, id)
    }
}

/// References in an atom's extent: known, unless it is more than the atom.
fn refs_within<'s>(side: &'s Side<'_>, id: AtomId, extent: (u64, u64)) -> &'s [Ref] {
    let atom = side.atom(id);
    if (atom.start, atom.end) == extent { side.refs_of(id) } else { side.refs_between(atom.section, extent) }
}

fn symbol_name<'o>(side: &Side<'o>, id: SymbolId) -> &'o str {
    let symbol = side.object.symbol(id);
    debug_assert!(!matches!(symbol.place, Place::Section(_)) || symbol.st_type == 3 || symbol.st_size == 0);
    &symbol.name
}

/// The weak name by which a reference leads to what also has a name of its own: another file's definition may take that name's
/// place, and then the two are different things.
fn weak_alias<'o>(side: &Side<'o>, id: AtomId, r: &Ref) -> Option<&'o str> {
    let symbol = side.object.symbol(r.reloc.symbol?);
    (symbol.st_bind == stb::WEAK && strong_name(side, id, symbol.st_value).is_some()).then_some(&symbol.name)
}

/// The name that no other file can take.
fn own_name<'o>(side: &Side<'o>, id: AtomId) -> &'o str {
    let start = side.atom(id).symbols.first().map_or(0, |s| side.object.symbol(*s).st_value);
    strong_name(side, id, start).unwrap_or_else(|| side.name(id))
}

fn strong_name<'o>(side: &Side<'o>, id: AtomId, at: u64) -> Option<&'o str> {
    let mut symbols = side.atom(id).symbols.iter().map(|s| side.object.symbol(*s));
    symbols.find(|s| s.st_bind != stb::WEAK && s.st_value == at).map(|s| s.name.as_str())
}

fn has_name(side: &Side<'_>, id: AtomId, name: &str) -> bool {
    side.atom(id).symbols.iter().any(|s| side.object.symbol(*s).name == name)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).escape_debug().to_string()
}

/// The first offset at which two byte strings differ outside of the given fields.
fn first_unmasked_difference(a: &[u8], b: &[u8], fields_a: &[(u64, u64)], fields_b: &[(u64, u64)]) -> Option<u64> {
    let len = a.len().min(b.len());
    let covered = |fields: &[(u64, u64)], at: u64| {
        let after = fields.partition_point(|(from, _)| *from <= at);
        after > 0 && fields[after - 1].1 > at
    };
    (0..len)
        .find(|i| a[*i] != b[*i] && !(covered(fields_a, *i as u64) && covered(fields_b, *i as u64)))
        .map(|i| i as u64)
}
