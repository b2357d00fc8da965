//! May a type have another layout on the two sides?
//!
//! In: both folded streams. Out: a key of what differs at file scope outside of function bodies, when types may
//! depend on it; nothing when they cannot. Units with equal keys saw the same change, so that one of them is
//! compiled with debug information for all. Being too careful costs one more compile.

use std::collections::BTreeMap;

use super::items::{body_start, cut};

/// A key of what may change layouts; `None` when nothing can.
pub(super) fn shape_key(original: &[u8], patched: &[u8]) -> Option<String> {
    let mut count: BTreeMap<&[u8], i64> = BTreeMap::new();
    for (text, step) in [(original, -1), (patched, 1)] {
        for item in cut(text) {
            *count.entry(shaping(item.text)).or_default() += step;
        }
    }
    count.retain(|text, balance| *balance != 0 && may_shape(text));
    // What is only new describes nothing that the kernel has; what is only gone, nothing that the patch uses.
    if !count.values().any(|balance| *balance < 0) || !count.values().any(|balance| *balance > 0) {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    for (text, balance) in count {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
        hasher.update(&balance.to_le_bytes());
    }
    Some(hasher.finalize().to_hex().to_string())
}

/// What stands at file scope, without a function's body.
fn shaping(item: &[u8]) -> &[u8] {
    body_start(item).map_or(item, |body| &item[..body])
}

/// Whether the text can define a type, or the prototype of a function that other files call.
fn may_shape(text: &[u8]) -> bool {
    let words = || text.split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    let defines =
        words().any(|word| matches!(word, b"struct" | b"union" | b"enum" | b"typedef" | b"pragma" | b"typeof"));
    let prototype = text.ends_with(b")") && !words().any(|word| word == b"static");
    defines || prototype
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
        ] {
            assert!(!shapes(before, after), "{before} / {after}");
        }
    }
}
