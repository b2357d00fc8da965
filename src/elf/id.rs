//! Typed indices into an [`Object`](super::Object): a section number can never be used as a symbol number.

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
