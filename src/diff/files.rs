//! Which source file of the original is which one of the patched side, where an object was made of several.
//!
//! In: two sides. Out: for each atom a number that both sides share. Hundreds of files are called `main.c`: the first is
//! the first, as long as both sides have as many.

use super::atoms::{AtomId, Side};
use crate::elf::SymbolId;
use crate::elf::id::HashMap;
use crate::elf::object::stt;

/// A source file of both sides: a number for its name and which of several of that name it is.
pub(super) type FileKey = usize;

/// The source files of both sides, matched by name and order.
pub(super) struct Files {
    old: HashMap<SymbolId, FileKey>,
    new: HashMap<SymbolId, FileKey>,
}

impl Files {
    pub(super) fn new(original: &Side<'_>, patched: &Side<'_>) -> Files {
        let list = |side: &Side<'_>| {
            let mut seen: HashMap<String, Vec<SymbolId>> = HashMap::default();
            for id in side.object.symbol_ids().filter(|id| side.object.symbol(*id).st_type == stt::FILE) {
                seen.entry(side.object.symbol(id).name.clone()).or_default().push(id);
            }
            seen
        };
        let (theirs, ours) = (list(original), list(patched));
        let mut numbers: HashMap<(String, usize), FileKey> = HashMap::default();
        let mut keys = |mine: &HashMap<String, Vec<SymbolId>>, other: &HashMap<String, Vec<SymbolId>>| {
            let mut keys = HashMap::default();
            for (name, ids) in mine {
                let matched = other.get(name).is_some_and(|o| o.len() == ids.len());
                for (i, id) in ids.iter().enumerate() {
                    let next = numbers.len();
                    let key = (name.clone(), if matched { i } else { 0 });
                    keys.insert(*id, *numbers.entry(key).or_insert(next));
                }
            }
            keys
        };
        Files { old: keys(&theirs, &ours), new: keys(&ours, &theirs) }
    }

    fn key(keys: &HashMap<SymbolId, FileKey>, side: &Side<'_>, id: AtomId) -> Option<FileKey> {
        keys.get(&side.object.symbol(*side.atom(id).symbols.first()?).file?).copied()
    }

    /// The source file of the original's atom.
    pub(super) fn of_old(&self, side: &Side<'_>, id: AtomId) -> Option<FileKey> {
        Files::key(&self.old, side, id)
    }

    /// The source file of the patched atom.
    pub(super) fn of_new(&self, side: &Side<'_>, id: AtomId) -> Option<FileKey> {
        Files::key(&self.new, side, id)
    }
}
