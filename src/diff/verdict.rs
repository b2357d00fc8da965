//! The result types of a comparison.

use std::collections::BTreeSet;

use serde::Serialize;

use super::atoms::{AtomId, Side};
use super::compare::Difference;
use super::tables::Tables;
use super::twins::Twins;
use crate::elf::id::{HashMap, HashSet};
use crate::elf::object::stb;
use crate::error::Refusal;

/// What became of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Same code, same tables.
    Same,
    /// Will be replaced.
    Changed,
    /// Did not exist.
    New,
    /// Exists no more; the kernel keeps it.
    Removed,
}

/// One function's verdict.
#[derive(Debug, Clone)]
pub struct FunctionVerdict {
    /// Name as kallsyms has it: the original's for a changed or removed one.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// The original function.
    pub original: Option<AtomId>,
    /// The patched function.
    pub patched: Option<AtomId>,
    /// First difference, for a changed one.
    pub why: Option<Difference>,
}

/// What became of data.
#[derive(Debug, Default)]
pub struct DataChanges {
    /// Constant tables whose contents changed and that only changed functions read: carried anew.
    pub recarried: HashSet<AtomId>,
    /// Those of them whose address code takes: what keeps it must not lose the module.
    pub held: Vec<String>,
    /// Tables of a function's own that travel, where the kernel's own function has another one.
    pub replaced: HashSet<AtomId>,
    /// New data that other units may refer to: carried even when nothing in this unit does.
    pub new_globals: Vec<AtomId>,
}

/// What a unit's comparison takes for new, and the kernel has already; only all units together tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// The kernel's own is meant by every reference.
    Kernels,
    /// A function that another unit had: it replaces the kernel's.
    Moved {
        /// Which of the run's units.
        from: usize,
        /// The function there.
        original: AtomId,
    },
}

/// Everything a comparison found.
pub struct Diff<'o> {
    /// Original side.
    pub original: Side<'o>,
    /// Patched side.
    pub patched: Side<'o>,
    /// Which atom is which.
    pub twins: Twins,
    /// Tables of the original.
    pub old_tables: Tables,
    /// Tables of the patched side.
    pub new_tables: Tables,
    /// All functions, in the patched object's order, removed ones last.
    pub functions: Vec<FunctionVerdict>,
    /// Data that travels.
    pub data: DataChanges,
    /// What is not new to the kernel: it came from another unit.
    pub elsewhere: HashMap<AtomId, Elsewhere>,
    /// Functions of the original that went to another unit, and are replaced by that one's.
    pub moved_away: HashSet<AtomId>,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
    /// What to think about, whether anything travels or not.
    pub warnings: Vec<String>,
    /// Why the answer is no.
    pub refusals: Vec<Refusal>,
    /// The kernel makes the counters of a module's allocation tags itself.
    pub makes_counters: bool,
}

impl Diff<'_> {
    /// Whether nothing changed that a livepatch could or should carry.
    pub fn is_empty(&self) -> bool {
        self.refusals.is_empty()
            && self.data.new_globals.is_empty()
            && !self.functions.iter().any(|f| matches!(f.verdict, Verdict::Changed | Verdict::New))
    }

    /// Patched-side functions that travel, by verdict.
    pub fn carried_functions(&self) -> HashMap<AtomId, Verdict> {
        self.functions
            .iter()
            .filter(|f| matches!(f.verdict, Verdict::Changed | Verdict::New))
            .filter_map(|f| Some((f.patched?, f.verdict)))
            .collect()
    }

    /// Global functions that are gone, and went to no other unit: whoever is not compiled again still calls them.
    pub fn removed_globals(&self) -> impl Iterator<Item = &str> {
        let side = &self.original;
        let is_global =
            |id: AtomId| side.atom(id).symbols.iter().any(|s| side.object.symbol(*s).st_bind == stb::GLOBAL);
        let removed = self.functions.iter().filter(|f| f.verdict == Verdict::Removed);
        removed
            .filter(move |f| {
                let stays = |id: &AtomId| is_global(*id) && !side.is_gone(*id) && !self.moved_away.contains(id);
                f.original.as_ref().is_some_and(stays)
            })
            .map(|f| f.name.as_str())
    }

    /// Source names of the functions that the livepatch replaces, or that are gone.
    pub fn replaced_names(&self) -> BTreeSet<String> {
        let of = self.functions.iter().filter(|f| matches!(f.verdict, Verdict::Changed | Verdict::Removed));
        of.map(|f| f.name.split('.').next().unwrap_or(&f.name).to_owned()).collect()
    }

    /// Names of the new global functions and data of this unit: other units of the patch may link to them.
    pub fn new_global_names(&self) -> BTreeSet<String> {
        let functions = self.functions.iter().filter(|f| f.verdict == Verdict::New).filter_map(|f| f.patched);
        functions
            .chain(self.data.new_globals.iter().copied())
            .filter(|id| self.patched.is_global(*id) && !self.elsewhere.contains_key(id))
            .flat_map(|id| self.patched.atom(id).symbols.iter())
            .map(|s| self.patched.object.symbol(*s).name.clone())
            .collect()
    }
}
