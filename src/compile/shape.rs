//! May a type or a variable have another layout on the two sides?
//!
//! In: both folded streams. Out: a key of what differs among declarations, when layouts may depend on it; nothing when
//! they cannot. Units with equal keys saw the same change, so that one of them is compiled with debug information for all. What is
//! the same text on both sides and still another layout is in the key as well: `int x[NR]` depends on an enumeration,
//! which every reader of a header sees, while only one may have the array. Being too careful costs one more compile.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::{Names, declarations, is_prototype, names};
use super::items::{Item, cut, words};

/// Declarations with how many more of each the patched side has.
type Balance = BTreeMap<Vec<u8>, i64>;

/// A key of what may change layouts; `None` when nothing can.
pub(super) fn shape_key(original: &[u8], patched: &[u8]) -> Option<String> {
    let (old, new) = (cut(original), cut(patched));
    let mut items: BTreeMap<&[u8], (i64, &Item<'_>)> = BTreeMap::new();
    for (all, step) in [(&old, -1), (&new, 1)] {
        for item in all {
            items.entry(item.text).or_insert((0, item)).0 += step;
        }
    }
    let mut differing = Balance::new();
    for (balance, item) in items.values().filter(|(balance, _)| *balance != 0) {
        for text in declarations(item) {
            *differing.entry(text).or_default() += balance;
        }
    }
    differing.retain(|_, balance| *balance != 0);
    // What is only new describes nothing that the kernel has; what is only gone, nothing that the patch uses.
    if !differing.values().any(|balance| *balance < 0) || !differing.values().any(|balance| *balance > 0) {
        return None;
    }
    let unchanged = items.values().filter(|(balance, _)| *balance == 0).map(|(_, item)| *item).collect::<Vec<_>>();
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &[u8], balance: i64| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
        hasher.update(&balance.to_le_bytes());
    };
    differing.iter().for_each(|(text, balance)| add(text, *balance));
    dependents(&unchanged, affected(&differing)).iter().for_each(|text| add(text, 0));
    Some(hasher.finalize().to_hex().to_string())
}

/// Names whose meaning may be another on the two sides.
#[derive(Default)]
struct Affected {
    all: BTreeSet<Vec<u8>>,
    typedefs: BTreeSet<Vec<u8>>,
}

impl Affected {
    /// Whether there is a name among them that was not there.
    fn add(&mut self, found: Names) -> bool {
        match found {
            Names::Typedef(name) => {
                self.typedefs.insert(name.clone());
                self.all.insert(name)
            }
            Names::Enumeration(tag, names) => {
                let before = self.all.len();
                self.all.extend(tag.into_iter().chain(names.into_iter().map(|(name, _)| name)));
                self.all.len() > before
            }
        }
    }
}

/// Typedefs that differ, and names of enumerations that do, from the first one on that is another.
fn affected(differing: &Balance) -> Affected {
    let found: Vec<(bool, Names)> = differing
        .iter()
        .flat_map(|(text, balance)| names(text).into_iter().map(move |names| (*balance > 0, names)))
        .collect();
    let mut affected = Affected::default();
    for (side, names) in &found {
        let mut names = names.clone();
        if let Names::Enumeration(tag, all) = &mut names {
            let others: Vec<_> = found
                .iter()
                .filter_map(|(other, names)| match names {
                    Names::Enumeration(other_tag, others) if other != side && other_tag == tag => Some(others),
                    _ => None,
                })
                .collect();
            if let [other] = others[..] {
                let same = all.iter().zip(other).take_while(|(one, other)| one == other).count();
                all.drain(..same);
            }
        }
        affected.add(names);
    }
    affected
}

/// Declarations that are the same on both sides and mention what is not, directly or by way of other such.
fn dependents(unchanged: &[&Item<'_>], mut affected: Affected) -> BTreeSet<Vec<u8>> {
    if affected.all.is_empty() {
        return BTreeSet::new();
    }
    let mut found = BTreeSet::new();
    let mentions = |text: &[u8], names: &BTreeSet<Vec<u8>>| words(text).any(|word| names.contains(word));
    loop {
        let mut more = Vec::new();
        for item in unchanged.iter().filter(|item| mentions(item.text, &affected.all)) {
            for text in declarations(item).into_iter().filter(|text| mentions(text, &affected.all)) {
                // Nobody who calls a function passes another thing because an enumeration has more names.
                let is_function = text.ends_with(b")");
                if (is_function && !(is_prototype(&text) && mentions(&text, &affected.typedefs)))
                    || found.contains(&text)
                {
                    continue;
                }
                more.extend(names(&text));
                found.insert(text);
            }
        }
        let grown = more.into_iter().filter(|names| affected.add(names.clone())).count();
        if grown == 0 {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(before: &str, after: &str) -> bool {
        shape_key(before.as_bytes(), after.as_bytes()).is_some()
    }

    /// Every way to give a type another layout must lead to a comparison.
    #[test]
    fn shapes_types() {
        for (before, after) in [
            ("struct s{int x;};", "struct s{int y;int x;};"),
            ("typedef struct{int x;}s;", "typedef struct{long x;}s;"),
            ("struct __attribute__((packed)){int x;}v;", "struct __attribute__((packed)){int x;int y;}v;"),
            ("static struct __attribute__((packed)){int x;}v;", "static struct __attribute__((packed)){int y;}v;"),
            ("enum{N=1};struct s{int x[N];};", "enum{N=2};struct s{int x[N];};"),
            ("typedef int t;struct s{t x;};", "typedef long t;struct s{t x;};"),
            ("\n#pragma pack(1)\nstruct s{int x;};", "\n#pragma pack(2)\nstruct s{int x;};"),
            ("int f(int a){return a;}", "int f(long a){return a;}"),
            ("static u32 v[8][4];", "static u32 v[4][8];"),
            ("u32*v;", "u64*v;"),
            ("int f(void){static u32 v=1;return v;}", "int f(void){static s32 v=1;return v;}"),
            ("int f(void){struct s{int x;}*v=g();return v->x;}", "int f(void){struct s{int y,x;}*v=g();return v->x;}"),
        ] {
            assert!(shapes(before, after), "{before} / {after}");
        }
    }

    /// Code, texts and new types lay nothing out anew: the common patch pays nothing.
    #[test]
    fn leaves_types_alone() {
        for (before, after) in [
            ("struct s{int x;};int f(struct s*s){return 1;}", "struct s{int x;};int f(struct s*s){return 2;}"),
            ("int f(void){return 1;}", "struct n{int x;};int f(void){struct n n;return 1;}"),
            ("static int f(int a){return a;}", "static int f(long a){return a;}"),
            ("struct s{int x;};int a;", "int a;struct s{int x;};"),
            ("static struct s v={.x=1};", "static struct s v={.x=2};"),
            ("static void*__UNIQUE_ID_f1=&f;", "static void*__UNIQUE_ID_f2=&f;"),
            ("int f(void){return 1;}", "int f(void){static int v;return v++;}"),
            ("extern u32 v;int f(int a);", "extern u64 v;int f(long a);"),
        ] {
            assert!(!shapes(before, after), "{before} / {after}");
        }
    }

    /// One unit speaks for another only if it sees all that depends on the change, whatever text that has.
    #[test]
    fn who_depends_is_in_the_key() {
        let key = |rest: &str, before: &str, after: &str| {
            shape_key((before.to_owned() + rest).as_bytes(), (after.to_owned() + rest).as_bytes()).unwrap()
        };
        for (before, after, dependent) in [
            ("enum{A,N};", "enum{A,B,N};", "struct p{int x[N];int y;};"),
            ("enum{A,N};", "enum{A,B,N};", "enum{M=N+1};struct p{int x[M];};"),
            ("enum e{A,C};", "enum e{A,B,C};", "struct p{enum e x;};"),
            ("enum e{A,C};", "enum e{A,B,C};", "int f(void){static enum e x;return x;}"),
            ("typedef u32 t;", "typedef u64 t;", "struct p{t x;};"),
            ("typedef u32 t;", "typedef u64 t;", "typedef t q;struct p{q x;};"),
            ("typedef u32 t;", "typedef u64 t;", "int f(t x){return x;}"),
        ] {
            assert_ne!(key(dependent, before, after), key("", before, after), "{dependent}");
        }
        // What only mentions names that keep their numbers, and code, need no compile of their own.
        for other in
            ["struct p{int x[A];};", "int f(int x){return N;}", "static int f(enum e x){return x;}", "int f(enum e x);"]
        {
            let (before, after) = ("enum e{A,N};", "enum e{A,B,N};");
            assert_eq!(key(other, before, after), key("", before, after), "{other}");
        }
    }
}
