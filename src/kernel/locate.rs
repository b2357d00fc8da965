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
    is_module: bool,
}

impl<'a> Locator<'a> {
    /// Prepares for symbols of `unit` in `table`; `is_module` when the table is a module's.
    pub fn new(table: &'a SymbolTable, unit: &'a UnitSymbols, is_module: bool) -> Locator<'a> {
        // Where a weak one was overridden, the kernel's lies in another unit.
        let overridden = |symbol: &UnitSymbol| symbol.weak && table.global(&symbol.name) == Some(Binding::Global);
        let globals = unit.globals.iter().filter(|symbol| !overridden(symbol));
        let names = unit.locals.iter().chain(globals).map(|symbol| symbol.name.as_str()).collect();
        Locator { table, names, groups: own_groups(table, unit), is_module }
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
    /// of the run may be the first symbol of the next unit, so there the size must be right as well.
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
            [(index, enclosed)] => (enclosed || self.gap_is(index, wanted.size)).then_some(index),
            _ => None,
        }
    }

    /// The symbols around this one that have names of the unit, without a stranger in between.
    fn run(&self, index: u32) -> std::ops::Range<u32> {
        let ours = |i: &u32| {
            let name = self.symbol(*i).name.as_str();
            let name = name.strip_prefix("__pfx_").or_else(|| name.strip_prefix("__cfi_")).unwrap_or(name);
            self.names.contains(name)
        };
        let start = (0..index).rev().take_while(ours).last().unwrap_or(index);
        let end = (index + 1..self.table.symbols.len() as u32).take_while(ours).last().unwrap_or(index);
        start..end + 1
    }

    fn symbol(&self, index: u32) -> &'a KernelSymbol {
        &self.table.symbols[index as usize]
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
mod tests {
    use super::*;

    fn symbol(name: &str, address: u64, binding: Binding, kind: Kind, file: Option<u32>) -> KernelSymbol {
        let size = file.map(|_| 16);
        KernelSymbol { name: name.to_owned(), address, size, binding, kind, file, init: false, section: None }
    }

    fn func(name: &str, size: u64) -> UnitSymbol {
        UnitSymbol { name: name.to_owned(), size, kind: Kind::Func, weak: false }
    }

    fn unit(file: &str, locals: &[&str], globals: &[&str]) -> UnitSymbols {
        let list = |names: &[&str]| names.iter().map(|name| func(name, 16)).collect();
        UnitSymbols { file: file.to_owned(), locals: list(locals), globals: list(globals) }
    }

    fn wanted(name: &str, binding: Binding) -> Wanted<'_> {
        Wanted { name, binding, size: Some(16), kind: Kind::Func }
    }

    fn located(location: Location) -> (u32, u64, Evidence) {
        match location {
            Location::Located(located) => (located.index, located.sympos, located.by),
            other => panic!("{other:?}"),
        }
    }

    /// A global that shares its name with locals gets its true position, not 0 (field survey, defect 15).
    #[test]
    fn global_among_locals() {
        use Binding::{Global, Local};
        let list = vec![symbol("event", 0, Local, Kind::Func, Some(0)), symbol("event", 16, Global, Kind::Func, None)];
        let table = SymbolTable::new(list, vec!["a.c".to_owned()]);
        let unit = unit("b.c", &[], &["event"]);
        assert_eq!(located(table.locate(&unit, &wanted("event", Global), false)), (1, 2, Evidence::OnlyOne));
    }

    /// Same file name, same function name: the group's other locals decide; a foreign lone match is missing.
    #[test]
    fn file_groups() {
        use Binding::Local;
        let names = [("init", 0), ("alpha", 0), ("init", 1), ("beta", 1), ("lone", 2)];
        let list: Vec<KernelSymbol> =
            names.iter().enumerate().map(|(i, (n, f))| symbol(n, 16 * i as u64, Local, Kind::Func, Some(*f))).collect();
        let files = ["main.c", "main.c", "other.c"].map(str::to_owned).to_vec();
        let table = SymbolTable::new(list, files);
        let unit = unit("main.c", &["init", "beta", "lone"], &[]);
        assert_eq!(located(table.locate(&unit, &wanted("init", Local), false)), (2, 2, Evidence::FileGroup));
        assert_eq!(table.locate(&unit, &wanted("lone", Local), false), Location::Missing);
    }

    /// Two groups that cannot be told apart give no answer rather than the first.
    #[test]
    fn twins_are_ambiguous() {
        use Binding::Local;
        let list = vec![symbol("init", 0, Local, Kind::Func, Some(0)), symbol("init", 16, Local, Kind::Func, Some(1))];
        let table = SymbolTable::new(list, vec!["main.c".to_owned(); 2]);
        let answer = table.locate(&unit("main.c", &["init"], &[]), &wanted("init", Local), false);
        assert_eq!(answer, Location::Ambiguous { candidates: vec![0, 1] });
    }

    /// Without file symbols the neighbours decide, prefix symbols in between notwithstanding.
    #[test]
    fn neighbourhood() {
        use Binding::Local;
        let names = ["x", "show", "y", "__pfx_store", "store", "__pfx_show", "show", "probe", "z", "show"];
        let list: Vec<KernelSymbol> =
            names.iter().enumerate().map(|(i, n)| symbol(n, 16 * i as u64, Local, Kind::Func, None)).collect();
        let table = SymbolTable::new(list, Vec::new());
        let mine = unit("drv.c", &["store", "show", "probe"], &[]);
        assert_eq!(located(table.locate(&mine, &wanted("show", Local), false)), (6, 2, Evidence::Neighbours));
        let strangers = unit("drv.c", &["show"], &[]);
        assert!(matches!(table.locate(&strangers, &wanted("show", Local), false), Location::Ambiguous { .. }));
    }

    /// A function that is shorter in the kernel than as compiled alone (a short jump) must not look like another
    /// file's, which has more room. Of variables the size says enough.
    #[test]
    fn size_is_for_data() {
        use Binding::{Global, Local};
        let list = |kind| {
            vec![
                symbol("stranger", 0x1000, Global, kind, None),
                symbol("helper", 0x1040, Local, kind, None),
                symbol("mine", 0x1070, Global, kind, None),
                symbol("other", 0x1090, Global, kind, None),
                symbol("helper", 0x2000, Local, kind, None),
                symbol("other2", 0x2040, Global, kind, None),
            ]
        };
        let mine = unit("drv.c", &["helper"], &["mine"]);
        let wanted = |kind| Wanted { name: "helper", binding: Local, size: Some(50), kind };
        let functions = SymbolTable::new(list(Kind::Func), Vec::new());
        let found = functions.locate(&mine, &wanted(Kind::Func), false);
        assert_eq!(found, Location::Ambiguous { candidates: vec![1, 4] });
        let data = SymbolTable::new(list(Kind::Object), Vec::new());
        assert_eq!(located(data.locate(&mine, &wanted(Kind::Object), false)), (4, 2, Evidence::Size));
    }

    /// Around another unit's definition that overrides ours lie the other unit's symbols.
    #[test]
    fn overridden_weak_is_no_neighbour() {
        use Binding::{Global, Local, Weak};
        let list = |hook| {
            let names = ["a0", "helper", "arch_hook", "a1", "b0", "helper", "b1", "mine"];
            let all = names.iter().enumerate().map(|(i, name)| {
                let binding = if *name == "helper" { Local } else { Global };
                symbol(name, 16 * i as u64, if *name == "arch_hook" { hook } else { binding }, Kind::Func, None)
            });
            SymbolTable::new(all.collect(), Vec::new())
        };
        let mut mine = unit("generic.c", &["helper"], &["mine", "arch_hook"]);
        mine.globals[1].weak = true;
        let found = list(Global).locate(&mine, &wanted("helper", Local), false);
        assert_eq!(found, Location::Ambiguous { candidates: vec![1, 5] });
        // The weak one itself says where the unit is.
        assert_eq!(located(list(Weak).locate(&mine, &wanted("helper", Local), false)), (1, 1, Evidence::Neighbours));
    }

    /// A weak definition that another unit overrides is said to be so: carrying our copy would be wrong.
    #[test]
    fn overridden_weak() {
        let table = SymbolTable::new(vec![symbol("arch_hook", 0, Binding::Global, Kind::Func, None)], Vec::new());
        let unit = unit("a.c", &[], &["arch_hook"]);
        match table.locate(&unit, &wanted("arch_hook", Binding::Weak), false) {
            Location::Located(located) => assert!(located.overridden),
            other => panic!("{other:?}"),
        }
    }
}
