//! Typed indices into an [`Object`](super::Object): a section number can never be used as a symbol number. And tables
//! keyed by them.

/// Index of a section in [`Object::sections`](super::Object::sections).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionId(pub u32);

/// Index of a symbol in [`Object::symbols`](super::Object::symbols).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymbolId(pub u32);

impl SectionId {
    /// The position in the section list.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl SymbolId {
    /// The position in the symbol list.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A map keyed by ids and names of objects at hand: nobody chooses them to make them collide, so the quick hash of the Rust
/// compiler serves. A whole `vmlinux.o` has a million of them.
pub type HashMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// A set of the same.
pub type HashSet<K> = rustc_hash::FxHashSet<K>;
