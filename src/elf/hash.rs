//! Hash tables keyed by ids and names of objects at hand: nobody chooses the keys to make them collide, so the quick hash
//! of the Rust compiler serves. A whole `vmlinux.o` has a million of them.

/// A map.
pub type HashMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// A set.
pub type HashSet<K> = rustc_hash::FxHashSet<K>;
