//! Which function or datum of the original is which one of the patched object.
//!
//! In: two sides. Out: [`Twins`], a one-to-one map, plus the groups where it cannot be told. Never by
//! position. The levels, from certain to refuse, each with a real symbol that needs it:
//!
//! 1. Same name, same source file, one on each side (`meminfo_proc_show`); a name that a recompilation
//!    may renumber is not a name for this purpose.
//! 2. Same name, one on each side, scope or file changed (a `static` taken away).
//! 3. Same stem, one on each side: `proc_sys_fill_cache.isra.0`; for data also a common user
//!    (`cad_work.4` of `ctrl_alt_del`), since a variable removed here and added there is not the same.
//! 4. Same stem, several: the pair that alone shares users, size and contents (`__quirk.7`, `.8`);
//!    then users and size; then users.
//! 5. What then remains on *both* sides is ambiguous: refused when something carried depends on it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::atoms::{AtomId, Kind, Side, Target};
use super::names;

/// The map between two sides.
#[derive(Debug, Default)]
pub struct Twins {
    /// Original -> patched.
    pub forward: HashMap<AtomId, AtomId>,
    /// Patched -> original.
    pub backward: HashMap<AtomId, AtomId>,
    /// Patched atoms whose original is one of several: the candidates.
    pub ambiguous: HashMap<AtomId, Vec<AtomId>>,
}

impl Twins {
    fn pair(&mut self, original: AtomId, patched: AtomId) {
        self.forward.insert(original, patched);
        self.backward.insert(patched, original);
    }
}

/// Pairs the functions and the named data of two sides.
pub fn correlate(original: &Side<'_>, patched: &Side<'_>) -> Twins {
    let mut twins = Twins::default();
    let certain = |side: &Side<'_>, id: AtomId| !names::is_numbered(side.name(id));
    // 1: name and file.
    pair_unique(original, patched, &mut twins, |side, id| {
        certain(side, id).then(|| (side.atom(id).kind, side.name(id).to_owned(), scope(side, id).map(str::to_owned)))
    });
    // 2: name alone.
    pair_unique(original, patched, &mut twins, |side, id| {
        certain(side, id).then(|| (side.atom(id).kind, side.name(id).to_owned()))
    });
    // Other names of one function: an alias may have become the first.
    pair_by_alias(original, patched, &mut twins);
    // 3 and 4 for functions first, since users of data are named by their functions.
    for kind in [Kind::Function, Kind::Data] {
        pair_numbered(original, patched, &mut twins, kind);
    }
    twins
}

/// Functions and named data that have an identity.
fn candidates<'s>(side: &'s Side<'_>) -> impl Iterator<Item = AtomId> + 's {
    side.ids().filter(|id| {
        let atom = side.atom(*id);
        matches!(atom.kind, Kind::Function | Kind::Data) && !atom.symbols.is_empty() && !side.is_private(*id)
    })
}

fn scope<'o>(side: &Side<'o>, id: AtomId) -> Option<&'o str> {
    if side.is_global(id) { None } else { side.file(id) }
}

fn pair_unique<K: std::hash::Hash + Eq>(
    original: &Side<'_>,
    patched: &Side<'_>,
    twins: &mut Twins,
    key: impl Fn(&Side<'_>, AtomId) -> Option<K>,
) {
    let index = |side: &Side<'_>, taken: &HashMap<AtomId, AtomId>| {
        let mut map: HashMap<K, Vec<AtomId>> = HashMap::new();
        for id in candidates(side).filter(|id| !taken.contains_key(id)) {
            if let Some(key) = key(side, id) {
                map.entry(key).or_default().push(id);
            }
        }
        map
    };
    let theirs = index(original, &twins.forward);
    let ours = index(patched, &twins.backward);
    for (key, old) in &theirs {
        if let ([old], Some([new])) = (old.as_slice(), ours.get(key).map(Vec::as_slice)) {
            twins.pair(*old, *new);
        }
    }
}

fn pair_by_alias(original: &Side<'_>, patched: &Side<'_>, twins: &mut Twins) {
    let mut by_name: HashMap<(&str, Option<&str>), Option<AtomId>> = HashMap::new();
    for id in candidates(original).filter(|id| !twins.forward.contains_key(id)) {
        for symbol in &original.atom(id).symbols {
            let key = (original.object.symbol(*symbol).name.as_str(), scope(original, id));
            by_name.entry(key).and_modify(|e| *e = None).or_insert(Some(id));
        }
    }
    let open: Vec<AtomId> = candidates(patched).filter(|id| !twins.backward.contains_key(id)).collect();
    for id in open {
        for symbol in &patched.atom(id).symbols {
            let key = (patched.object.symbol(*symbol).name.as_str(), scope(patched, id));
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

/// Levels 3 to 5 for one kind.
fn pair_numbered(original: &Side<'_>, patched: &Side<'_>, twins: &mut Twins, kind: Kind) {
    let group = |side: &Side<'_>, taken: &HashMap<AtomId, AtomId>| {
        let mut map: BTreeMap<(String, Option<String>), Vec<AtomId>> = BTreeMap::new();
        for id in candidates(side).filter(|id| !taken.contains_key(id) && side.atom(*id).kind == kind) {
            let stem = names::stem(side.name(id));
            map.entry((stem, side.file(id).map(str::to_owned))).or_default().push(id);
        }
        map
    };
    let theirs = group(original, &twins.forward);
    let ours = group(patched, &twins.backward);
    if theirs.is_empty() || ours.is_empty() {
        return;
    }
    let old_users = users(original);
    let new_users = users(patched);
    for (key, old) in &theirs {
        let Some(new) = ours.get(key) else { continue };
        if let ([old], [new]) = (old.as_slice(), new.as_slice()) {
            let shared = kind == Kind::Function
                || old_users.get(old).is_none_or(BTreeSet::is_empty)
                || !old_users[old].is_disjoint(new_users.get(new).unwrap_or(&BTreeSet::new()));
            if shared {
                twins.pair(*old, *new);
            } else {
                twins.ambiguous.insert(*new, vec![*old]);
            }
            continue;
        }
        let no_one = BTreeSet::new();
        for level in 0..3 {
            let signature = |side: &Side<'_>, users: &HashMap<AtomId, BTreeSet<String>>, id: AtomId| {
                let size = side.atom(id).end - side.atom(id).start;
                let content = if level == 0 { Some(shape(side, id)) } else { None };
                (users.get(&id).unwrap_or(&no_one).clone(), (level < 2).then_some(size), content)
            };
            let mut map: HashMap<_, (Vec<AtomId>, Vec<AtomId>)> = HashMap::new();
            for id in old.iter().filter(|id| !twins.forward.contains_key(id)) {
                map.entry(signature(original, &old_users, *id)).or_default().0.push(*id);
            }
            for id in new.iter().filter(|id| !twins.backward.contains_key(id)) {
                map.entry(signature(patched, &new_users, *id)).or_default().1.push(*id);
            }
            for (old, new) in map.values() {
                if let ([old], [new]) = (old.as_slice(), new.as_slice()) {
                    twins.pair(*old, *new);
                }
            }
        }
        let rest: Vec<AtomId> = old.iter().copied().filter(|id| !twins.forward.contains_key(id)).collect();
        if !rest.is_empty() {
            let open: HashSet<AtomId> = new.iter().copied().filter(|id| !twins.backward.contains_key(id)).collect();
            for id in open {
                twins.ambiguous.insert(id, rest.clone());
            }
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
                Kind::Function | Kind::Data => (names::stem(side.name(atom)), offset),
                _ => (String::new(), 0),
            },
            Target::Symbol(symbol, addend) => (side.object.symbol(symbol).name.clone(), addend),
            Target::Nothing(addend) => (String::new(), addend),
        };
        (r.reloc.r_offset - start, name, addend)
    });
    (side.bytes(id).to_vec(), refs.collect())
}

/// Stems of the functions (or data) that refer to each datum, `.cold` parts counted as their parents.
fn users(side: &Side<'_>) -> HashMap<AtomId, BTreeSet<String>> {
    let mut users: HashMap<AtomId, BTreeSet<String>> = HashMap::new();
    for id in side.ids().filter(|id| matches!(side.atom(*id).kind, Kind::Function | Kind::Data)) {
        for r in side.refs_of(id) {
            if let Target::Atom(target, _) = r.target
                && matches!(side.atom(target).kind, Kind::Data | Kind::Function)
                && target != id
            {
                let name = names::stem(side.name(id));
                let name = name.split(".cold").next().unwrap_or(&name).split('.').next().unwrap_or_default().to_owned();
                users.entry(target).or_default().insert(name);
            }
        }
    }
    users
}
