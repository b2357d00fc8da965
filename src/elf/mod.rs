//! Bytes <-> model: the only folder that names the ELF crate.

pub mod id;
pub mod object;

pub use id::{SectionId, SymbolId};
pub use object::{Object, Place, Reloc, Section, Symbol};
