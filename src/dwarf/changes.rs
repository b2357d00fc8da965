//! What differs between two sides' layouts.
//!
//! In: the layouts of both sides. Out: the types that they lay out in different ways. A type that only moved because it
//! holds another that changed is named with that one, not by itself. Hard because names may change and mean nothing: a
//! member or a type that is only called something else is still what it was, and only its contents say so.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Layout, Layouts, Member, is_of_function};

/// Most moved members that are named.
const MOVED: usize = 2;

/// A type with two layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Its name: `struct foo`, `union bar`, or a typedef's.
    pub name: String,
    /// What differs, a line each.
    pub what: Vec<String>,
    /// Types that hold it and change with it.
    pub holders: BTreeSet<String>,
    /// Whether only one source file can know it.
    pub private: bool,
}

/// Pairs of types that are held against each other already: what leads back to them says nothing new.
type Assumed = Vec<(String, String)>;

/// Both sides.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    /// The original's layouts.
    pub old: &'a Layouts,
    /// The patched side's.
    pub new: &'a Layouts,
}

impl Sides<'_> {
    /// What differs between the layouts of the types that both sides have.
    pub(super) fn changes(&self) -> Vec<Change> {
        let differing: BTreeMap<&str, (&Layout, &str, &Layout)> = self
            .old
            .of
            .iter()
            .filter_map(|(name, old)| {
                let (now, new) = self.same_name(name)?;
                Some((name.as_str(), (old, now, new)))
            })
            .filter(|(_, (old, _, new))| !self.same_shape(old, new, &mut Assumed::new()))
            .collect();
        let changed = |member: &Member| member.holds.as_deref().is_some_and(|name| differing.contains_key(name));
        // Whether everything about the type follows from members whose own types changed.
        let derived = |old: &Layout, new: &Layout| {
            let names = |layout: &Layout| layout.members.keys().cloned().collect::<BTreeSet<_>>();
            let follows = |before: &Member, after: &Member| {
                let same = before.size == after.size || changed(before);
                same && self.agree(&before.meaning, &after.meaning, &mut Assumed::new())
            };
            names(old) == names(new)
                && in_order(old) == in_order(new)
                && old.members.values().any(changed)
                && old.members.iter().all(|(name, before)| follows(before, &new.members[name]))
        };
        let roots = differing.iter().filter(|(_, (old, _, new))| !derived(old, new));
        roots
            .map(|(name, (old, now, new))| {
                let mut what = self.differences(old, new);
                if now != name {
                    what.insert(0, format!("it is a `{now}`"));
                }
                let mut holders = holders(name, self.old);
                holders.retain(|holder| differing.contains_key(holder.as_str()));
                let private = old.file.ends_with(".c") || is_of_function(name);
                Change { name: (*name).to_owned(), what, holders, private }
            })
            .collect()
    }

    /// The patched side's type of a name, where a structure may have become a union.
    fn same_name(&self, name: &str) -> Option<(&str, &Layout)> {
        let found = |name: &str| self.new.of.get_key_value(name).map(|(name, layout)| (name.as_str(), layout));
        if self.new.known.contains(name) {
            return found(name);
        }
        let other = match name.split_once(' ')? {
            ("struct", tag) => format!("union {tag}"),
            ("union", tag) => format!("struct {tag}"),
            _ => return None,
        };
        if self.old.known.contains(&other) { None } else { found(&other) }
    }

    /// Whether a type that one side does not name is not there.
    pub(super) fn is_complete(&self) -> bool {
        self.old.complete && self.new.complete
    }

    /// Whether one type is the other under another name: one went, the other came, and both have the same layout. Types
    /// that have no name but a typedef's are told apart by nothing but their layouts.
    pub(super) fn same_type(&self, one: &str, other: &str) -> bool {
        self.is_renamed(one, other, &mut Assumed::new())
    }

    fn is_renamed(&self, one: &str, other: &str, assumed: &mut Assumed) -> bool {
        if assumed.iter().any(|(a, b)| a == one && b == other) {
            return true;
        }
        let is_typedef = |name: &str| !name.contains(' ');
        let renamed = self.is_complete() && !self.new.known.contains(one) && !self.old.known.contains(other);
        let (Some(old), Some(new)) = (self.old.of.get(one), self.new.of.get(other)) else { return false };
        let by_layout = is_typedef(one) && is_typedef(other);
        if !renamed && !by_layout {
            return false;
        }
        assumed.push((one.to_owned(), other.to_owned()));
        let same = self.same_shape(old, new, assumed);
        assumed.pop();
        same
    }

    /// Whether what was stored as the one can be read as the other. A pointer to anything is any pointer.
    fn agree(&self, one: &str, other: &str, assumed: &mut Assumed) -> bool {
        const ANY: &str = "void *";
        let ((element, counts), (other_element, other_counts)) = (element(one), element(other));
        let pointer = |text: &str| text.ends_with('*');
        if counts == other_counts
            && (element == ANY || other_element == ANY)
            && pointer(element)
            && pointer(other_element)
        {
            return true;
        }
        if one == other {
            return true;
        }
        let (one, other) = (parts(one), parts(other));
        one.len() == other.len() && one.iter().zip(&other).all(|(a, b)| a == b || self.is_renamed(a, b, assumed))
    }

    /// The same but for names: a member that was renamed is still where it was.
    fn same_shape(&self, old: &Layout, new: &Layout, assumed: &mut Assumed) -> bool {
        old == new || (old.size == new.size && self.differences_assuming(old, new, assumed).is_empty())
    }

    /// What differs, a line each.
    pub(super) fn differences(&self, old: &Layout, new: &Layout) -> Vec<String> {
        self.differences_assuming(old, new, &mut Assumed::new())
    }

    fn differences_assuming(&self, old: &Layout, new: &Layout, assumed: &mut Assumed) -> Vec<String> {
        let mut what = Vec::new();
        if old.size != new.size {
            what.push(format!("its size was {}, and is {}", bytes(old.size * 8), bytes(new.size * 8)));
        }
        // Objects that exist may lie anywhere that was round enough.
        if new.alignment > old.alignment {
            what.push(format!("its alignment was {}, and is {}", bytes(old.alignment * 8), bytes(new.alignment * 8)));
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
                && !here.iter().any(|after| self.agree(&before.meaning, &after.meaning, assumed))
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

    /// Members that only have another name, old and new.
    pub(super) fn renamed<'l>(&self, old: &'l Layout, new: &'l Layout) -> Vec<(&'l str, &'l str)> {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let is_group = |member: &Member| member.meaning.starts_with("struct {}");
        let mut found = Vec::new();
        for (name, before) in old.members.iter().filter(|(name, m)| !new.members.contains_key(*name) && !is_group(m)) {
            let place = (before.offset, before.size);
            let here: Vec<_> = new.members.iter().filter(|(_, after)| (after.offset, after.size) == place).collect();
            // One that was put into braces, or taken out of them, has its name still.
            if here.iter().any(|(now, _)| last(now) == last(name)) {
                continue;
            }
            if let Some((now, _)) = here.iter().find(|(now, after)| {
                !old.members.contains_key(*now) && self.agree(&before.meaning, &after.meaning, &mut Assumed::new())
            }) {
                found.push((name.as_str(), now.as_str()));
            }
        }
        found
    }
}

/// A meaning without array dimensions, and they.
fn element(meaning: &str) -> (&str, &str) {
    let bare = meaning.trim_end_matches(|c: char| c.is_ascii_digit() || c == '[' || c == ']');
    if bare.len() < meaning.len() && bare.ends_with(' ') {
        (bare.trim_end(), &meaning[bare.len()..])
    } else {
        (meaning, "")
    }
}

/// The words and other characters of a meaning; `struct foo` is one.
fn parts(meaning: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word_end = |at: usize| meaning[at..].find(|c| !is_word(c)).map_or(meaning.len(), |length| at + length);
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(first) = meaning[at..].chars().next() {
        let mut end = if is_word(first) { word_end(at) } else { at + first.len_utf8() };
        if matches!(&meaning[at..end], "struct" | "union" | "enum") && word_end(end + 1) > end + 1 {
            end = word_end(end + 1);
        }
        parts.push(&meaning[at..end]);
        at = end;
    }
    parts
}

/// Members as they lie in memory.
fn in_order(layout: &Layout) -> Vec<&str> {
    let mut members: Vec<(u64, &str)> = layout.members.iter().map(|(name, m)| (m.offset, name.as_str())).collect();
    members.sort_unstable();
    members.into_iter().map(|(_, name)| name).collect()
}

/// Types that hold `name`, directly or not.
pub(super) fn holders(name: &str, all: &Layouts) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(inner) = open.pop() {
        for (outer, layout) in &all.of {
            let holds = layout.members.values().any(|member| member.holds.as_deref() == Some(&inner));
            if holds && found.insert(outer.clone()) {
                open.push(outer.clone());
            }
        }
    }
    found
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
