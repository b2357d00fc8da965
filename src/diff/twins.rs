//! Which function or datum of the original is which one of the patched object.
//!
//! In: two sides. Out: [`Twins`], a one-to-one map, plus the groups where it cannot be told. The levels,
//! from certain to refuse, each with a real symbol that needs it:
//!
//! 1. Same name, same source file, one on each side (`meminfo_proc_show`); a name that a recompilation
//!    may renumber is not a name for this purpose. Of two files of one name (`core.c`, hundreds of
//!    `main.c`) the first is the first, as long as both sides have as many.
//! 2. Same name, one on each side, scope or file changed (a `static` taken away); data that stays
//!    static in another file also needs a common user.
//! 3. Same stem, one on each side: `proc_sys_fill_cache.isra.0`; for data also a common user
//!    (`cad_work.4` of `ctrl_alt_del`), since a variable removed here and added there is not the same. Debug
//!    information is asked whenever such a variable travels: another owner or another type is another variable.
//! 4. Same stem, several: the pair that alone shares users, size and contents (`__quirk.7`, `.8`);
//!    then users and size; then users. Contents decide among data of one function only when it has as
//!    many on both sides: else one of them came or went, and it may be any.
//!    Where debug information says in whose braces each is declared, that comes first: `new_cpus.1` and
//!    `.4` of kernel/cgroup/cpuset.c are of two functions that both end up inlined into a third.
//! 5. Several variables of one function are taken by contents, and equal ones (two `__quirk` in it) in the order of
//!    their use, on trial: right if the function turns out not to have changed, ambiguous if it has.
//! 6. What then remains on *both* sides is ambiguous: refused when something carried depends on it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::atoms::{AtomId, Kind, Side, Target};
use super::ends::Ends;
use super::files::{FileKey, Files};
use super::users::{Users, users, users_of};
use super::verdict::{FunctionVerdict, Verdict};
use super::{Owner, Owners, names, tables};
use crate::elf::Symbol;
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::{shf, stb};

/// The map between two sides.
#[derive(Debug, Default)]
pub struct Twins {
    /// Original -> patched.
    pub forward: HashMap<AtomId, AtomId>,
    /// Patched -> original.
    pub backward: HashMap<AtomId, AtomId>,
    /// Patched atoms whose original is one of several: the candidates.
    pub ambiguous: HashMap<AtomId, Vec<AtomId>>,
    /// Pairs on trial (level 5), as groups of (original, patched).
    pub on_trial: Vec<Vec<(AtomId, AtomId)>>,
    /// Patched constant tables without a name of their own -> the original's equal one: the kernel may hold its
    /// address, as it does of a function's `static const struct file_operations`.
    pub constants: HashMap<AtomId, AtomId>,
    /// Patched functions and constants that stay in memory, and whose originals are gone after boot.
    pub revived: HashMap<AtomId, AtomId>,
    /// References to where one datum ends and another one starts.
    pub ends: Ends,
}

/// What `module_init` and `module_exit` call a module's own functions.
const LOADERS: [&str; 2] = ["init_module", "cleanup_module"];

impl Twins {
    fn pair(&mut self, original: AtomId, patched: AtomId) {
        self.forward.insert(original, patched);
        self.backward.insert(patched, original);
    }

    /// What was gone after boot and now stays is another thing: nobody may be led to the original. What ran at boot was
    /// led to it in time. A variable would lose what boot wrote into it, and is left to be refused.
    /// A function that nothing else leads to has run, wherever it lies now.
    pub fn part_from_boot(&mut self, original: &Side<'_>, patched: &Side<'_>, tables: &tables::Tables) {
        let stays = |old: AtomId, new: AtomId| {
            original.is_gone(old)
                && !patched.is_gone(new)
                && original.rule(old).is_none()
                && patched.rule(new).is_none()
                && (patched.atom(new).kind == Kind::Function
                    || !(original.is_writable(old) || patched.is_writable(new)))
        };
        self.revived = self.backward.iter().filter(|(new, old)| stays(**old, **new)).map(|(n, o)| (*n, *o)).collect();
        if self.revived.is_empty() {
            return;
        }
        let is_loaded = |id: AtomId| patched.object.section(patched.atom(id).section).sh_flags & shf::ALLOC != 0;
        let leads = |id: &AtomId| {
            let is_entry = patched.atom(*id).kind == Kind::Entry;
            is_loaded(*id) && !is_entry && !patched.is_gone(*id) && !patched.section_name(*id).starts_with(".discard.")
        };
        let mut wanted: HashSet<AtomId> = HashSet::default();
        for id in patched.ids().filter(leads) {
            let whole = tables.whole(id);
            let targets = patched.refs_of(id).iter().filter_map(|r| match r.target {
                Target::Atom(target, _) => Some(tables.whole(target)),
                _ => None,
            });
            wanted.extend(targets.filter(|target| *target != whole));
        }
        self.revived.retain(|new, _| {
            let whole = tables.whole(*new);
            // Nobody but the loader calls a module's own two by these names (include/linux/module.h).
            let is_called = |s: &Symbol| s.st_bind != stb::LOCAL && !LOADERS.contains(&s.name.as_str());
            let mut names = patched.atom(whole).symbols.iter().map(|s| patched.object.symbol(*s));
            patched.atom(*new).kind == Kind::Data || names.any(is_called) || wanted.contains(&whole)
        });
        for (new, old) in &self.revived {
            self.backward.remove(new);
            self.forward.remove(old);
        }
    }

    /// Level 5: pairs on trial that a changed function uses are ambiguous after all.
    pub fn end_trials(&mut self, new: &Side<'_>, tables: &tables::Tables, functions: &[FunctionVerdict]) {
        if self.on_trial.is_empty() {
            return;
        }
        let mut used: HashSet<AtomId> = HashSet::default();
        for id in functions.iter().filter(|f| f.verdict != Verdict::Same).filter_map(|f| f.patched) {
            let entries = tables.entries.get(&id).into_iter().flat_map(|e| e.values().flatten().copied());
            for part in tables.all_parts(id).into_iter().chain(entries) {
                used.extend(new.refs_of(part).iter().filter_map(|r| match r.target {
                    Target::Atom(atom, _) => Some(atom),
                    _ => None,
                }));
            }
        }
        for group in std::mem::take(&mut self.on_trial) {
            if !group.iter().any(|(_, patched)| used.contains(patched)) {
                continue;
            }
            let candidates: Vec<AtomId> = group.iter().map(|(original, _)| *original).collect();
            for (original, patched) in group {
                self.forward.remove(&original);
                self.backward.remove(&patched);
                self.ambiguous.insert(patched, candidates.clone());
            }
        }
    }
}

/// Pairs the functions and the named data of two sides.
pub fn correlate<'o>(original: &'o Side<'_>, patched: &'o Side<'_>, owners: Option<Owners<'_>>) -> Twins {
    let mut twins = Twins::default();
    let files = Files::new(original, patched);
    let certain = |side: &Side<'_>, id: AtomId| !names::is_numbered(side.name(id));
    let scope = |side: &Side<'_>, id: AtomId, key: Option<FileKey>| if side.is_global(id) { None } else { key };
    // 1: name and file.
    let full = |side: &'o Side<'_>, key: &dyn Fn(AtomId) -> Option<FileKey>, id: AtomId| {
        certain(side, id).then(|| (name(side, id), scope(side, id, key(id))))
    };
    let (theirs, ours) = rayon::join(
        || index(original, &twins.forward, |id| full(original, &|id| files.of_old(original, id), id)),
        || index(patched, &twins.backward, |id| full(patched, &|id| files.of_new(patched, id), id)),
    );
    pair_unique(&theirs, &ours, &mut twins, |_, _| true);
    let (old_users, new_users) = rayon::join(
        || users(original, |id| !twins.forward.contains_key(&id)),
        || users(patched, |id| !twins.backward.contains_key(&id)),
    );
    // 2: name alone.
    let (theirs, ours) = rayon::join(
        || index(original, &twins.forward, |id| certain(original, id).then(|| name(original, id))),
        || index(patched, &twins.backward, |id| certain(patched, id).then(|| name(patched, id))),
    );
    pair_unique(&theirs, &ours, &mut twins, |old, new| {
        original.atom(old).kind == Kind::Function
            || original.is_global(old)
            || patched.is_global(new)
            || original.file(old) == patched.file(new)
            || !users_of(&old_users, old).is_disjoint(users_of(&new_users, new))
    });
    // Other names of one function: an alias may have become the first.
    pair_by_alias(original, patched, &mut twins);
    // 3 and 4 for functions first, since users of data are named by their functions.
    for kind in [Kind::Function, Kind::Data] {
        let owners = owners.filter(|_| kind == Kind::Data);
        pair_numbered((original, patched), &mut twins, kind, &files, (&old_users, &new_users), owners);
    }
    twins
}

fn name<'s>(side: &'s Side<'_>, id: AtomId) -> (Kind, &'s str) {
    (side.atom(id).kind, side.name(id))
}

/// Functions and named data that have an identity.
fn candidates<'s>(side: &'s Side<'_>) -> impl Iterator<Item = AtomId> + 's {
    side.ids().filter(|id| {
        let atom = side.atom(*id);
        matches!(atom.kind, Kind::Function | Kind::Data) && !atom.symbols.is_empty() && !side.is_private(*id)
    })
}

fn file_scope<'o>(side: &Side<'o>, id: AtomId) -> Option<&'o str> {
    if side.is_global(id) { None } else { side.file(id) }
}

fn index<K: std::hash::Hash + Eq>(
    side: &Side<'_>,
    taken: &HashMap<AtomId, AtomId>,
    key: impl Fn(AtomId) -> Option<K>,
) -> HashMap<K, Vec<AtomId>> {
    let mut map: HashMap<K, Vec<AtomId>> = HashMap::default();
    for id in candidates(side).filter(|id| !taken.contains_key(id)) {
        if let Some(key) = key(id) {
            map.entry(key).or_default().push(id);
        }
    }
    map
}

fn pair_unique<K: std::hash::Hash + Eq>(
    theirs: &HashMap<K, Vec<AtomId>>,
    ours: &HashMap<K, Vec<AtomId>>,
    twins: &mut Twins,
    accept: impl Fn(AtomId, AtomId) -> bool,
) {
    for (key, old) in theirs {
        if let ([old], Some([new])) = (old.as_slice(), ours.get(key).map(Vec::as_slice)) {
            if accept(*old, *new) {
                twins.pair(*old, *new);
            } else {
                twins.ambiguous.insert(*new, vec![*old]);
            }
        }
    }
}

fn pair_by_alias(original: &Side<'_>, patched: &Side<'_>, twins: &mut Twins) {
    let mut by_name: HashMap<(&str, Option<&str>), Option<AtomId>> = HashMap::default();
    for id in candidates(original).filter(|id| !twins.forward.contains_key(id)) {
        for symbol in &original.atom(id).symbols {
            let key = (original.object.symbol(*symbol).name.as_str(), file_scope(original, id));
            by_name.entry(key).and_modify(|e| *e = None).or_insert(Some(id));
        }
    }
    let open: Vec<AtomId> = candidates(patched).filter(|id| !twins.backward.contains_key(id)).collect();
    for id in open {
        for symbol in &patched.atom(id).symbols {
            let key = (patched.object.symbol(*symbol).name.as_str(), file_scope(patched, id));
            if let Some(Some(old)) = by_name.get(&key)
                && !twins.forward.contains_key(old)
                && original.atom(*old).kind == patched.atom(id).kind
                && !names::is_numbered(key.0)
            {
                twins.pair(*old, id);
                break;
            }
        }
    }
}

/// Levels 3 to 6 for one kind.
fn pair_numbered(
    (original, patched): (&Side<'_>, &Side<'_>),
    twins: &mut Twins,
    kind: Kind,
    files: &Files,
    (old_users, new_users): (&Users, &Users),
    owners: Option<Owners<'_>>,
) {
    let mut theirs: BTreeMap<(Cow<'_, str>, Option<FileKey>), Vec<AtomId>> = BTreeMap::new();
    for id in open(original, &twins.forward, kind) {
        theirs.entry((names::stem(original.name(id)), files.of_old(original, id))).or_default().push(id);
    }
    let mut ours: BTreeMap<(Cow<'_, str>, Option<FileKey>), Vec<AtomId>> = BTreeMap::new();
    for id in open(patched, &twins.backward, kind) {
        ours.entry((names::stem(patched.name(id)), files.of_new(patched, id))).or_default().push(id);
    }
    for (key, old) in &theirs {
        let Some(new) = ours.get(key) else { continue };
        let texts = |side, all: &[AtomId]| all.iter().all(|id| is_text_for_tracers(side, *id));
        if texts(original, old) && texts(patched, new) {
            pair_texts((original, patched), twins, (old, new));
            continue;
        }
        if let ([old], [new]) = (old.as_slice(), new.as_slice()) {
            let (a, b) = (users_of(old_users, *old), users_of(new_users, *new));
            let has_state = original.is_writable(*old) || patched.is_writable(*new);
            let told = owners.filter(|_| has_state).and_then(|o| o.agree(original.name(*old), patched.name(*new)));
            if told == Some(false) {
                twins.ambiguous.insert(*new, vec![*old]);
            } else if told == Some(true)
                || kind == Kind::Function
                || !a.is_disjoint(b)
                || (a.is_empty() && b.is_empty())
            {
                twins.pair(*old, *new);
            } else {
                twins.ambiguous.insert(*new, vec![*old]);
            }
            continue;
        }
        let groups = owners.and_then(|owners| by_owner((original, patched), (old, new), owners));
        for (old, new) in groups.as_ref().into_iter().flatten() {
            match (old.as_slice(), new.as_slice()) {
                ([one], [other]) => twins.pair(*one, *other),
                (old, new) => pair_levels((original, patched), twins, (old, new), (old_users, new_users)),
            }
        }
        if groups.is_none() {
            pair_levels((original, patched), twins, (old, new), (old_users, new_users));
        }
        let rest: Vec<AtomId> = old.iter().copied().filter(|id| !twins.forward.contains_key(id)).collect();
        if !rest.is_empty() {
            for id in new.iter().copied().filter(|id| !twins.backward.contains_key(id)) {
                twins.ambiguous.insert(id, rest.clone());
            }
        }
    }
}

impl Owners<'_> {
    /// Whether two variables are declared in functions of one name, and mean the same.
    fn agree(&self, old: &str, new: &str) -> Option<bool> {
        let ((function, meaning), (other, other_meaning)) = (self.original.get(old)?, self.patched.get(new)?);
        // What a pointer leads to may have got a name.
        let is_any = |text: &str| text == "void *";
        let are_pointers = meaning.ends_with('*') && other_meaning.ends_with('*');
        let same = meaning == other_meaning || (are_pointers && (is_any(meaning) || is_any(other_meaning)));
        Some(function == other && same)
    }
}

/// Splits candidates of one stem by the functions that declare them and by what they mean, where that is known of all.
fn by_owner(
    (original, patched): (&Side<'_>, &Side<'_>),
    (old, new): (&[AtomId], &[AtomId]),
    owners: Owners<'_>,
) -> Option<Vec<(Vec<AtomId>, Vec<AtomId>)>> {
    let mut groups: BTreeMap<&Owner, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    for id in old {
        groups.entry(owners.original.get(original.name(*id))?).or_default().0.push(*id);
    }
    for id in new {
        groups.entry(owners.patched.get(patched.name(*id))?).or_default().1.push(*id);
    }
    Some(groups.into_values().collect())
}

fn open<'s>(side: &'s Side<'_>, taken: &'s HashMap<AtomId, AtomId>, kind: Kind) -> impl Iterator<Item = AtomId> + 's {
    candidates(side).filter(move |id| side.atom(*id).kind == kind && !taken.contains_key(id))
}

fn pair_levels(
    (original, patched): (&Side<'_>, &Side<'_>),
    twins: &mut Twins,
    candidates: (&[AtomId], &[AtomId]),
    users: (&Users, &Users),
) {
    // Several variables of the same users: neither contents, which may change, nor what is left over says which is which.
    let mut alike: BTreeMap<_, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    let key = |side: &Side<'_>, users: &Users, id: AtomId| {
        let atom = side.atom(id);
        (atom.kind == Kind::Data && side.is_writable(id)).then(|| (users_of(users, id).clone(), atom.end - atom.start))
    };
    for id in candidates.0 {
        key(original, users.0, *id).into_iter().for_each(|key| alike.entry(key).or_default().0.push(*id));
    }
    for id in candidates.1 {
        key(patched, users.1, *id).into_iter().for_each(|key| alike.entry(key).or_default().1.push(*id));
    }
    alike.retain(|_, (old, new)| old.len() > 1 || new.len() > 1);
    for level in 0..3 {
        pair_level(original, patched, twins, candidates, level, users);
    }
    for (old, new) in alike.into_values() {
        let of_old = old.iter().filter_map(|id| Some((*id, *twins.forward.get(id)?)));
        let of_new = new.iter().filter_map(|id| Some((*twins.backward.get(id)?, *id)));
        let group: BTreeMap<AtomId, AtomId> = of_old.chain(of_new).collect();
        twins.on_trial.push(group.into_iter().collect());
    }
}

/// One of the levels 4 and 5: pairs what alone has its signature.
fn pair_level(
    original: &Side<'_>,
    patched: &Side<'_>,
    twins: &mut Twins,
    (old, new): (&[AtomId], &[AtomId]),
    level: usize,
    (old_users, new_users): (&Users, &Users),
) {
    let old: Vec<AtomId> = old.iter().copied().filter(|id| !twins.forward.contains_key(id)).collect();
    let new: Vec<AtomId> = new.iter().copied().filter(|id| !twins.backward.contains_key(id)).collect();
    let outer = |side: &Side<'_>, users: &Users, id: AtomId| {
        let size = side.atom(id).end - side.atom(id).start;
        (users_of(users, id).clone(), (level < 2).then_some(size))
    };
    let mut map: BTreeMap<_, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    let mut balance: BTreeMap<_, i64> = BTreeMap::new();
    for id in old {
        let outer = outer(original, old_users, id);
        *balance.entry(outer.clone()).or_default() += 1;
        map.entry((outer, (level == 0).then(|| shape(original, id)))).or_default().0.push(id);
    }
    for id in new {
        let outer = outer(patched, new_users, id);
        *balance.entry(outer.clone()).or_default() -= 1;
        map.entry((outer, (level == 0).then(|| shape(patched, id)))).or_default().1.push(id);
    }
    for ((outer, _), (mut old, mut new)) in map {
        if old.is_empty() || old.len() != new.len() {
            continue;
        }
        let is_data = original.atom(old[0]).kind == Kind::Data;
        if is_data && level == 0 && balance[&outer] != 0 {
            continue;
        }
        if old.len() == 1 {
            twins.pair(old[0], new[0]);
        } else if is_data && level < 2 && !outer.0.is_empty() {
            let by_use = |users: &Users, id: &AtomId| users.get(id).map(|u| u.first_use.clone());
            old.sort_by_key(|id| by_use(old_users, id));
            new.sort_by_key(|id| by_use(new_users, id));
            let group: Vec<(AtomId, AtomId)> = old.into_iter().zip(new).collect();
            group.iter().for_each(|(a, b)| twins.pair(*a, *b));
            twins.on_trial.push(group);
        } else if !is_data && level == 0 {
            // Equal code with equal users: each is as good as the other.
            old.into_iter().zip(new).for_each(|(a, b)| twins.pair(a, b));
        }
    }
}

/// A pointer by which trace tools find a text that the code records by its address, and that nobody writes
/// (`tracepoint_string` in include/linux/tracepoint.h).
fn is_text_for_tracers(side: &Side<'_>, id: AtomId) -> bool {
    side.section_name(id) == "__tracepoint_str"
}

/// Two with one text mean the same, whoever uses them; a text that the original has not is a new one.
fn pair_texts((original, patched): (&Side<'_>, &Side<'_>), twins: &mut Twins, (old, new): (&[AtomId], &[AtomId])) {
    let mut by_text: HashMap<_, Vec<AtomId>> = HashMap::default();
    for id in old.iter().rev() {
        by_text.entry(shape(original, *id)).or_default().push(*id);
    }
    for id in new {
        if let Some(twin) = by_text.get_mut(&shape(patched, *id)).and_then(Vec::pop) {
            twins.pair(twin, *id);
        }
    }
}

/// Contents as far as they do not depend on the rest of the object: bytes, and the stems of what is referred to.
fn shape(side: &Side<'_>, id: AtomId) -> (Vec<u8>, Vec<(u64, String, i64)>) {
    let start = side.atom(id).start;
    let refs = side.refs_of(id).iter().map(|r| {
        let (name, addend) = match r.target {
            Target::Atom(atom, offset) => match side.atom(atom).kind {
                Kind::Text => (String::from_utf8_lossy(side.bytes(atom)).into_owned(), offset),
                Kind::Function | Kind::Data => (names::stem(side.name(atom)).into_owned(), offset),
                _ => (String::new(), 0),
            },
            Target::Symbol(symbol, addend) => (side.object.symbol(symbol).name.clone(), addend),
            Target::Nothing(addend) => (String::new(), addend),
        };
        (r.reloc.r_offset - start, name, addend)
    });
    (side.bytes(id).to_vec(), refs.collect())
}
