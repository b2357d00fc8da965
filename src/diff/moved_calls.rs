//! Calls that a patch moves from one function to another, and references that it takes in one and drops in another.
//!
//! In: the comparisons of all units. Out: a warning for each pair of places. What has been through the first place before the
//! livepatch comes is never called for, or dropped without having been taken. Say that `put(x)` moves from where an object
//! dies to where its file is closed. The code of both functions is right, yet an object whose file was closed before
//! the livepatch came is never put. Nothing in the code tells whether there are such objects; a person has to.

use std::collections::{BTreeMap, BTreeSet};

use super::arch::Use;
use super::atoms::{AtomId, Kind, Side, Target};
use super::names;
use super::tables::Tables;
use super::verdict::{Diff, FunctionVerdict, Verdict};

/// Words of names that take a reference, and those that drop it.
const PAIRS: [(&str, &str); 7] = [
    ("get", "put"),
    ("hold", "put"),
    ("grab", "put"),
    ("ref", "unref"),
    ("pin", "unpin"),
    ("acquire", "release"),
    ("register", "unregister"),
];

/// What a function calls, by source names; and itself.
struct Calls<'d> {
    name: &'d str,
    verdict: Verdict,
    before: BTreeSet<String>,
    after: BTreeSet<String>,
}

impl Calls<'_> {
    fn gained(&self) -> impl Iterator<Item = &String> {
        self.after.difference(&self.before)
    }
}

/// What to say of them.
pub fn warnings<'d, 'o: 'd>(diffs: impl IntoIterator<Item = &'d Diff<'o>>) -> Vec<String> {
    let functions: Vec<Calls<'d>> = diffs.into_iter().flat_map(of_unit).collect();
    let mut moved: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for (from, callee) in functions.iter().flat_map(|f| f.before.difference(&f.after).map(move |c| (f, c))) {
        let gained = |f: &&Calls<'_>| !f.before.contains(callee) && f.after.contains(callee);
        for to in
            functions.iter().filter(gained).filter(|to| !is_ordinary(callee) && !on_one_path(&functions, from, to))
        {
            let (froms, tos) = moved.entry(callee).or_default();
            froms.insert(from.name);
            tos.insert(to.name);
        }
    }
    let mut together: BTreeMap<(BTreeSet<&str>, BTreeSet<&str>), BTreeSet<&str>> = BTreeMap::new();
    for (callee, places) in moved {
        together.entry(places).or_default().insert(callee);
    }
    let list = |names: &BTreeSet<&str>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let warn = |((from, to), callees): (&(BTreeSet<&str>, BTreeSet<&str>), &BTreeSet<&str>)| {
        let (was, is, call) = if callees.len() == 1 { ("was", "is", "the call") } else { ("were", "are", "the calls") };
        format!(
            "{} {was} called by {} and {is} called by {}: what has been through one of them before the livepatch comes may \
             need {call} in neither or in both",
            list(callees),
            list(from),
            list(to)
        )
    };
    together.iter().map(warn).chain(taken_and_dropped(&functions)).collect()
}

/// References that one function begins to take and another one begins to drop: `get_device` here, `put_device` there.
fn taken_and_dropped(functions: &[Calls<'_>]) -> Vec<String> {
    let gained = |word: fn(&str) -> bool| -> Vec<(&Calls<'_>, &String)> {
        let all = functions.iter().flat_map(|f| f.gained().map(move |callee| (f, callee)));
        all.filter(|(_, callee)| callee.split('_').any(word)).collect()
    };
    let takers = gained(|word| PAIRS.iter().any(|(take, _)| *take == word));
    let droppers = gained(|word| PAIRS.iter().any(|(_, drop)| *drop == word));
    let mut found = Vec::new();
    for &(takes, taking) in &takers {
        for &(drops, dropping) in &droppers {
            if !is_pair(taking, dropping) || drops.gained().any(|c| c == taking) || on_one_path(functions, takes, drops)
            {
                continue;
            }
            found.push(format!(
                "`{}` begins to call `{taking}` and `{}` to call `{dropping}`: what has been through the first before the \
                 livepatch comes is dropped without having been taken",
                takes.name, drops.name
            ));
        }
    }
    found
}

/// Whether two names differ in one word, which says that a reference is taken by one and dropped by the other.
fn is_pair(taking: &str, dropping: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) = (taking.split('_').collect(), dropping.split('_').collect());
    let mut differing = one.iter().zip(&other).filter(|(a, b)| a != b);
    let first = differing.next();
    one.len() == other.len() && differing.next().is_none() && first.is_some_and(|(a, b)| PAIRS.contains(&(*a, *b)))
}

/// The functions of a unit that are not what they were.
fn of_unit<'d>(diff: &'d Diff<'_>) -> Vec<Calls<'d>> {
    let read = |f: &'d FunctionVerdict| Calls {
        name: &f.name,
        verdict: f.verdict,
        before: f.original.map(|id| calls(&diff.original, &diff.old_tables, id)).unwrap_or_default(),
        after: f.patched.map(|id| calls(&diff.patched, &diff.new_tables, id)).unwrap_or_default(),
    };
    diff.functions.iter().filter(|f| f.verdict != Verdict::Same).map(read).collect()
}

/// Source names of what a function calls, its cold parts included.
fn calls(side: &Side<'_>, tables: &Tables, whole: AtomId) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for part in tables.all_parts(whole).into_iter().filter(|id| side.atom(*id).kind == Kind::Function) {
        for r in side.refs_of(part).iter().filter(|r| r.usage == Use::Branch) {
            let callee = match r.target {
                Target::Atom(target, _) if tables.whole(target) == whole => continue,
                Target::Atom(target, _) => side.name(tables.whole(target)),
                Target::Symbol(symbol, _) => side.object.symbol(symbol).name.as_str(),
                Target::Nothing(_) => continue,
            };
            out.insert(names::stem(callee).into_owned());
        }
    }
    out
}

/// Whether one of the two functions calls the other, or what did not stay as it was leads from one to the other: then whoever
/// comes through one comes through both.
fn on_one_path(functions: &[Calls<'_>], from: &Calls<'_>, to: &Calls<'_>) -> bool {
    let reaches = |start: &Calls<'_>, end: &Calls<'_>| {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut next: Vec<String> = vec![names::stem(start.name).into_owned()];
        while let Some(name) = next.pop() {
            for f in functions.iter().filter(|f| names::stem(f.name) == name) {
                next.extend(f.before.union(&f.after).filter(|c| seen.insert((*c).clone())).cloned());
            }
        }
        seen.contains(&*names::stem(end.name))
    };
    from.name == to.name || reaches(from, to) || reaches(to, from) || took_its_place(functions, from, to)
}

/// Whether a helper that is gone or new stands where the other one did: some function called the one and calls the other.
fn took_its_place(functions: &[Calls<'_>], from: &Calls<'_>, to: &Calls<'_>) -> bool {
    let (old, new) = (names::stem(from.name), names::stem(to.name));
    let calls = |f: &Calls<'_>| f.before.contains(&*old) && f.after.contains(&*new);
    (from.verdict == Verdict::Removed || to.verdict == Verdict::New) && functions.iter().any(calls)
}

/// What is called everywhere and leaves no trace on what it is called for.
fn is_ordinary(callee: &str) -> bool {
    const PARTS: [&str; 11] =
        ["lock", "print", "warn", "trace", "fentry", "thunk", "stack_chk", "mem", "str", "sched", "static_call"];
    PARTS.iter().any(|part| callee.contains(part))
}
