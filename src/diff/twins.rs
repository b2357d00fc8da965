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

use super::atoms::{AtomId, Kind, Side, Target};
use super::ends::Ends;
use super::files::{FileKey, Files};
use super::users::{users, users_of};
use super::verdict::{FunctionVerdict, Verdict};
use super::{Owners, names, numbered, tables};
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
    /// Two that are one.
    pub(super) fn pair(&mut self, original: AtomId, patched: AtomId) {
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
        numbered::pair_numbered((original, patched), &mut twins, kind, &files, (&old_users, &new_users), owners);
    }
    twins
}

fn name<'s>(side: &'s Side<'_>, id: AtomId) -> (Kind, &'s str) {
    (side.atom(id).kind, side.name(id))
}

/// Functions and named data that have an identity.
pub(super) fn candidates<'s>(side: &'s Side<'_>) -> impl Iterator<Item = AtomId> + 's {
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
