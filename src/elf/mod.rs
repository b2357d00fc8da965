//! Bytes <-> model: the only folder that names the ELF crate.

pub mod id;
pub mod klp;
pub mod object;
mod ranges;
mod read;
mod write;

pub use id::{SectionId, SymbolId};
pub use object::{Object, Place, Reloc, Section, Symbol};
pub use ranges::data_ranges;
pub use read::read;
pub use write::write;
