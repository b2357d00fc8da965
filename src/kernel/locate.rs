//! Which of the kernel's same-named symbols is the one that a unit means: a unit's symbols and a table in,
//! one symbol with its position out, or the candidates when it cannot be told. Never a guess.
//!
//! Levels, from certain to refuse; each has a case in linux 7:
//!  1. binding: a global is the only global of its name, and its position counts the locals too
//!     (`event_function` is a function in one file and an array in another);
//!  2. file group: vmlinux and modules have STT_FILE symbols; of the groups with the unit's base name the one
//!     whose locals are the unit's locals (hundreds of `main.c`, each with its own `init`);
//!  3. neighbourhood, for tables without groups: a unit's functions lie together in address order, so
//!     the right `show` has the unit's other functions around it, one of them in no other unit;
//!  4. size, when exactly one candidate can have the unit's, for data only: the kernel's own compile may have shorter
//!     jumps in a function than the unit's, which has each in a section of its own;
//!  5. else ambiguous, with all candidates.

use std::collections::{HashMap, HashSet};

use super::symtab::{Binding, KernelSymbol, Kind, SymbolTable};

/// A symbol that the unit defines.
#[derive(Debug, Clone)]
pub struct UnitSymbol {
    /// Name.
    pub name: String,
    /// `st_size`.
    pub size: u64,
    /// Code or data.
    pub kind: Kind,
    /// Another unit may have a strong definition of the name.
    pub weak: bool,
}

/// What a unit's object file defines, as far as kallsyms would show it.
#[derive(Debug, Clone, Default)]
pub struct UnitSymbols {
    /// Base name of the main source file: the name of its STT_FILE symbol.
    pub file: String,
    /// Local symbols.
    pub locals: Vec<UnitSymbol>,
    /// Global and weak symbols.
    pub globals: Vec<UnitSymbol>,
    /// Names of the functions in the order in which they are linked, one list for each kind of text (`.text`,
    /// `.text.unlikely`, ...): the linker script may put each kind elsewhere.
    pub functions: Vec<Vec<String>>,
}

/// One symbol that is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Name.
    pub name: &'a str,
    /// How the unit defines it.
    pub binding: Binding,
    /// Size in the unit, when it is a whole symbol.
    pub size: Option<u64>,
    /// Code or data.
    pub kind: Kind,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel has one symbol of this name and binding.
    OnlyOne,
    /// Its STT_FILE group.
    FileGroup,
    /// The symbols around it.
    Neighbours,
    /// Its size.
    Size,
}

/// The symbol that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its index in [`SymbolTable::symbols`].
    pub index: u32,
    /// Its position: 0 when the name is unique in the object, else counted from 1.
    pub sympos: u64,
    /// It lies in memory that is freed after boot or load.
    pub init: bool,
    /// The unit's definition is weak and the kernel has a strong one of another unit in its place.
    pub overridden: bool,
    /// What decided.
    pub by: Evidence,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// This one.
    Located(Located),
    /// One of these, but which cannot be told (or has no position that always means it).
    Ambiguous {
        /// Indices in [`SymbolTable::symbols`].
        candidates: Vec<u32>,
    },
    /// The kernel has no such symbol.
    Missing,
}

impl SymbolTable {
    /// Finds one symbol; for many of a unit, make one [`Locator`].
    pub fn locate(&self, unit: &UnitSymbols, wanted: &Wanted<'_>, is_module: bool) -> Location {
        Locator::new(self, unit, is_module).locate(wanted)
    }
}

/// Finds a unit's symbols in the table of its object.
#[derive(Debug)]
pub struct Locator<'a> {
    table: &'a SymbolTable,
    /// Names of the unit that are the unit's in the kernel, too.
    names: HashSet<&'a str>,
    /// The unit's own STT_FILE groups: one, or several when they cannot be told apart.
    groups: Vec<u32>,
    unit: &'a UnitSymbols,
    is_module: bool,
}

impl<'a> Locator<'a> {
    /// Prepares for symbols of `unit` in `table`; `is_module` when the table is a module's.
    pub fn new(table: &'a SymbolTable, unit: &'a UnitSymbols, is_module: bool) -> Locator<'a> {
        // Where a weak one was overridden, the kernel's lies in another unit.
        let overridden = |symbol: &UnitSymbol| symbol.weak && table.global(&symbol.name) == Some(Binding::Global);
        let globals = unit.globals.iter().filter(|symbol| !overridden(symbol));
        let names = unit.locals.iter().chain(globals).map(|symbol| symbol.name.as_str()).collect();
        Locator { table, names, groups: own_groups(table, unit), unit, is_module }
    }

    /// Finds one symbol of the unit.
    pub fn locate(&self, wanted: &Wanted<'_>) -> Location {
        let symbol = |index| self.symbol(index);
        let local = wanted.binding == Binding::Local;
        let mut candidates: Vec<u32> = self
            .table
            .named(wanted.name)
            .iter()
            .copied()
            .filter(|i| self.binding_fits(symbol(*i), local) && kind_fits(symbol(*i), wanted.kind))
            .collect();
        let mut by = Evidence::OnlyOne;
        if local && !self.table.files.is_empty() {
            candidates.retain(|i| symbol(*i).file.is_some_and(|file| self.groups.contains(&file)));
            by = Evidence::FileGroup;
        } else if candidates.len() > 1
            && let Some(best) = self.best_neighbourhood(&candidates, wanted)
        {
            candidates = vec![best];
            by = Evidence::Neighbours;
        }
        if candidates.len() > 1 && wanted.kind != Kind::Func {
            let fitting: Vec<u32> = candidates.iter().copied().filter(|i| self.size_fits(*i, wanted.size)).collect();
            if let [only] = fitting[..] {
                candidates = vec![only];
                by = Evidence::Size;
            }
        }
        let index = match candidates[..] {
            [] => return Location::Missing,
            [index] => index,
            _ => return Location::Ambiguous { candidates },
        };
        match self.table.sympos(index, self.is_module) {
            Some(sympos) => Location::Located(Located {
                index,
                sympos,
                init: symbol(index).init,
                overridden: wanted.binding == Binding::Weak && symbol(index).binding == Binding::Global,
                by,
            }),
            None => Location::Ambiguous { candidates: self.table.named(wanted.name).to_vec() },
        }
    }

    /// Local or not; a text table's absolute symbols (per-cpu data before 6.15) do not tell.
    fn binding_fits(&self, symbol: &KernelSymbol, local: bool) -> bool {
        let untold = self.table.files.is_empty() && symbol.kind == Kind::Other;
        untold || (symbol.binding == Binding::Local) == local
    }

    /// The only candidate in a run of the unit's symbols that also holds one that no other unit has.
    ///
    /// Such an anchor is needed: `__quirk.0` lies among names that other units have too. A candidate at the edge
    /// of the run may be the first symbol of the next unit, so there the size must be right as well, and a function
    /// must be where the unit's order has it.
    fn best_neighbourhood(&self, candidates: &[u32], wanted: &Wanted<'_>) -> Option<u32> {
        let anchored: Vec<(u32, bool)> = candidates
            .iter()
            .filter_map(|i| {
                let run = self.run(*i);
                let anchored = run.clone().any(|k| {
                    let name = self.symbol(k).name.as_str();
                    name != wanted.name && self.names.contains(name) && self.table.named(name).len() == 1
                });
                anchored.then_some((*i, run.start < *i && *i + 1 < run.end))
            })
            .collect();
        match anchored[..] {
            [(index, enclosed)] => {
                (enclosed || (self.gap_is(index, wanted.size) && self.is_in_order(index, wanted))).then_some(index)
            }
            _ => None,
        }
    }

    /// The symbols around this one that have names of the unit, without a stranger in between.
    fn run(&self, index: u32) -> std::ops::Range<u32> {
        let ours = |i: &u32| {
            let name = self.symbol(*i).name.as_str();
            self.names.contains(without_padding(name))
        };
        let start = (0..index).rev().take_while(ours).last().unwrap_or(index);
        let end = (index + 1..self.table.symbols.len() as u32).take_while(ours).last().unwrap_or(index);
        start..end + 1
    }

    fn symbol(&self, index: u32) -> &'a KernelSymbol {
        &self.table.symbols[index as usize]
    }

    /// Whether a function at the edge of a run lies beside the function that the unit has beside it, too.
    fn is_in_order(&self, index: u32, wanted: &Wanted<'_>) -> bool {
        if wanted.kind != Kind::Func {
            return true;
        }
        // A function's own padding lies before it.
        let function = |i: &u32| without_padding(&self.symbol(*i).name) == self.symbol(*i).name;
        let before = (0..index).rev().find(function).map(|i| self.symbol(i).name.as_str());
        let after = (index + 1..self.table.symbols.len() as u32).find(function).map(|i| self.symbol(i).name.as_str());
        let is = |there: Option<&str>, here: Option<&String>| there.is_some() && there == here.map(String::as_str);
        self.unit.functions.iter().any(|list| {
            (0..list.len())
                .filter(|at| list[*at] == wanted.name)
                .any(|at| is(before, at.checked_sub(1).and_then(|at| list.get(at))) || is(after, list.get(at + 1)))
        })
    }

    /// Whether the distance to the next symbol is the size and what alignment and call padding may add.
    fn gap_is(&self, index: u32, size: Option<u64>) -> bool {
        const PADDING: u64 = 64;
        size.zip(self.table.room(index)).is_some_and(|(size, gap)| (size..size + PADDING).contains(&gap))
    }

    /// Whether the kernel's symbol can have this size: the same where the table has sizes, else not more than
    /// the distance to the next symbol (alignment may add any amount).
    fn size_fits(&self, index: u32, size: Option<u64>) -> bool {
        match (size, self.symbol(index).size) {
            (None, _) => true,
            (Some(wanted), Some(size)) => wanted == size,
            (Some(wanted), None) => self.table.room(index).is_none_or(|gap| wanted <= gap),
        }
    }
}

/// A function's name, also from the symbol of the padding or the type hash before it.
fn without_padding(name: &str) -> &str {
    name.strip_prefix("__pfx_").or_else(|| name.strip_prefix("__cfi_")).unwrap_or(name)
}

fn kind_fits(symbol: &KernelSymbol, wanted: Kind) -> bool {
    wanted == Kind::Other || symbol.kind == Kind::Other || symbol.kind == wanted
}

/// The groups of the unit's file name whose locals are most like the unit's; several only when equally so.
fn own_groups(table: &SymbolTable, unit: &UnitSymbols) -> Vec<u32> {
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let named: Vec<u32> =
        (0..table.files.len() as u32).filter(|f| base(&table.files[*f as usize]) == unit.file).collect();
    if named.len() < 2 {
        return named;
    }
    // Names that the link adds, drops or numbers anew say nothing about who is who.
    let telling =
        |name: &str| !name.starts_with("__pfx_") && !name.starts_with("__UNIQUE_ID_") && !name.starts_with("__cfi_");
    let ours: HashMap<&str, u64> = unit
        .locals
        .iter()
        .filter(|s| s.kind != Kind::Other && telling(&s.name))
        .map(|s| (s.name.as_str(), s.size))
        .collect();
    let score = |file: u32| -> (i64, usize) {
        let group: HashMap<&str, u64> = table
            .group(file)
            .iter()
            .map(|i| &table.symbols[*i as usize])
            .filter(|s| s.kind != Kind::Other && telling(&s.name))
            .map(|s| (s.name.as_str(), s.size.unwrap_or(0)))
            .collect();
        let shared = ours.keys().filter(|name| group.contains_key(*name)).count() as i64;
        let same_size = ours.iter().filter(|(name, size)| group.get(*name) == Some(size)).count();
        (3 * shared - ours.len() as i64 - group.len() as i64, same_size)
    };
    let scores: Vec<(i64, usize)> = named.iter().map(|file| score(*file)).collect();
    let best = scores.iter().max().copied();
    named.into_iter().zip(scores).filter(|(_, score)| Some(*score) == best).map(|(file, _)| file).collect()
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
