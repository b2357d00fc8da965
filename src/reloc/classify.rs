//! One outside symbol -> the way it is resolved: exported, linked within the livepatch, livepatch, or refused.
//!
//! Rules in order; the first that fits decides. A local symbol is found in the table of the object it
//! is in, by file group, neighbourhood or (data only) size. A global one: owned by the patched module, exported by vmlinux (ordinary
//! relocation, with its CRC), exported by another module the object already depends on, new in another unit of this
//! patch, or global in vmlinux without an export. A module comes before vmlinux: its own definition is what its code uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::indirect::Gate;
use super::unit_symbols::unit_symbols;
use crate::diff::atoms::{AtomId, Side};
use crate::diff::closure::Outside;
use crate::diff::names;
use crate::diff::verdict::Diff;
use crate::elf::id::HashMap;
use crate::elf::klp::KlpSymbol;
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, SymbolId};
use crate::error::{Reason, Refusal};
use crate::kernel::locate::{Location, Locator, UnitSymbols, Wanted};
use crate::kernel::symtab::{Binding, KernelSymbol, Kind, SymbolTable};
use crate::kernel::symvers::Symvers;

/// What is known of the kernel.
#[derive(Clone, Copy)]
pub struct World<'k> {
    /// The object being patched: `vmlinux` or a module's name.
    pub object: &'k str,
    /// Exports of the original kernel.
    pub symvers: &'k Symvers,
    /// Symbols of vmlinux; `None` when unknown: then a symbol nobody exports is taken to be vmlinux's.
    pub vmlinux: Option<&'k SymbolTable>,
    /// Symbols of the patched object.
    pub own: Option<&'k SymbolTable>,
    /// Modules whose exports the patched object already uses.
    pub depends: &'k BTreeSet<String>,
    /// Symbols that other units of this livepatch newly define.
    pub new_globals: &'k BTreeSet<String>,
    /// What it asks of functions that are called by their address.
    pub gate: Gate,
    /// Symbols of the modules in `depends`, of those whose files are at hand.
    pub theirs: &'k BTreeMap<String, Arc<SymbolTable>>,
}

/// How a symbol is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// By the module loader, from the kernel's exports.
    Exported,
    /// By the module link, from another unit of this livepatch.
    Linked,
    /// By the livepatch core.
    Livepatch(KlpSymbol),
    /// Not at all: an undefined weak symbol is zero.
    WeakZero,
}

/// Where the kernel has something of the unit's.
struct Own {
    sympos: u32,
    /// The unit's definition is weak, and this is another unit's.
    overridden: bool,
}

/// Classifies the symbols of one unit.
pub struct Classifier<'a> {
    world: &'a World<'a>,
    original: &'a Object,
    side: &'a Side<'a>,
    unit: UnitSymbols,
    /// The object's own symbols by name, where it is its own table: without the linked object's.
    namesakes: HashMap<&'a str, Vec<SymbolId>>,
}

impl<'a> Classifier<'a> {
    /// Prepares for one unit.
    pub fn new(diff: &'a Diff<'_>, world: &'a World<'a>) -> Classifier<'a> {
        let original = diff.original.object;
        // The object itself is the table: right for whole modules.
        let namesakes = if world.own.is_none() { namesakes(original) } else { HashMap::default() };
        let unit = if world.own.is_some() { unit_symbols(original) } else { UnitSymbols::default() };
        Classifier { world, original, side: &diff.original, unit, namesakes }
    }

    /// The way one symbol is resolved.
    pub fn classify(&self, symbol: &Outside) -> Result<Resolution, Box<Refusal>> {
        let found = if symbol.local { self.local(symbol) } else { self.global(symbol) }?;
        if let Resolution::Livepatch(klp) = &found
            && let Some(why) = klp.unloadable()
        {
            return Err(Box::new(
                Refusal::new(
                    Reason::BadName,
                    format!("the kernel could not read `{}`: {why}", klp.to_name()),
                    "avoid the reference to it in the patched code",
                )
                .object(self.world.object)
                .symbol(&symbol.name),
            ));
        }
        Ok(found)
    }

    /// Name and position of a function to be replaced, by the first of its symbols that the kernel knows it by.
    ///
    /// A weak one may mean another file's definition, and then a strong alias of the same code is what there is.
    pub fn replaced(&self, atom: AtomId) -> Result<(String, u32), Box<Refusal>> {
        let symbols = &self.side.atom(atom).symbols;
        let value = |id: &SymbolId| self.original.symbol(*id).st_value;
        let start = symbols.first().map(value);
        let mut first = None;
        // An atom also has the names of places inside of it.
        for id in symbols.iter().filter(|id| Some(value(id)) == start) {
            let found = self.locate_own(*id).and_then(|own| match own.overridden {
                false => Ok((self.original.symbol(*id).name.clone(), own.sympos)),
                true => Err(self.overridden(&self.original.symbol(*id).name)),
            });
            match found {
                Ok(found) => return Ok(found),
                Err(refusal) => first = first.or(Some(refusal)),
            }
        }
        Err(first.unwrap_or_else(|| self.missing("?")))
    }

    /// The position of what a reference to a symbol of this unit leads to: where a weak one was overridden, to the
    /// definition that the kernel has.
    fn position(&self, id: SymbolId) -> Result<u32, Box<Refusal>> {
        let own = self.locate_own(id)?;
        let table = self.world.own;
        match table {
            Some(table) if own.overridden => {
                let name = &self.original.symbol(id).name;
                let found = global_position(table, name, self.world.object != "vmlinux");
                found.unwrap_or(Ok(own.sympos)).map_err(|several| self.ambiguous(name, several))
            }
            _ => Ok(own.sympos),
        }
    }

    fn local(&self, symbol: &Outside) -> Result<Resolution, Box<Refusal>> {
        let sympos = match symbol.original {
            Some(id) => self.position(id)?,
            None => 0,
        };
        Ok(Resolution::Livepatch(KlpSymbol { object: self.world.object.to_owned(), name: symbol.name.clone(), sympos }))
    }

    fn global(&self, symbol: &Outside) -> Result<Resolution, Box<Refusal>> {
        let world = self.world;
        let name = symbol.name.as_str();
        let export = world.symvers.get(name);
        let is_module = world.object != "vmlinux";
        // A module may define what vmlinux exports as well: its own code then means its own.
        let in_module = || match world.own {
            _ if !is_module => None,
            Some(own) if symbol.original.is_none() => global_position(own, name, true),
            _ => None,
        };
        let is_own = is_module && (symbol.original.is_some() || in_module().is_some());
        // A plain undefined symbol binds to vmlinux's export; one for named modules only, or in a namespace
        // that the livepatch does not import, would not.
        if !is_own && export.is_some_and(|e| e.object == "vmlinux" && e.namespace.is_empty()) {
            return Ok(Resolution::Exported);
        }
        if let Some(id) = symbol.original {
            // Defined by this unit's original.
            let sympos = self.position(id)?;
            return Ok(Resolution::Livepatch(KlpSymbol {
                object: world.object.to_owned(),
                name: name.to_owned(),
                sympos,
            }));
        }
        if world.new_globals.contains(name) {
            return Ok(Resolution::Linked);
        }
        let livepatch = |object: &str, sympos: u32| {
            Resolution::Livepatch(KlpSymbol { object: object.to_owned(), name: name.to_owned(), sympos })
        };
        if let Some(sympos) = in_module() {
            return sympos.map(|p| livepatch(world.object, p)).map_err(|n| self.ambiguous(name, n));
        }
        if let Some(export) = export.filter(|e| e.object != "vmlinux") {
            if export.object == world.object || world.depends.contains(&export.object) {
                // Without that module's table: the core finds it when it is the only one of its name, and else says so.
                let theirs = world.theirs.get(&export.object);
                let sympos = theirs.and_then(|theirs| global_position(theirs, name, true)).unwrap_or(Ok(0));
                return sympos.map(|p| livepatch(&export.object, p)).map_err(|n| self.ambiguous(name, n));
            }
            return Err(Box::new(
                Refusal::new(
                    Reason::NewDependency,
                    format!(
                        "`{name}` is exported by module `{}`, which `{}` did not need before",
                        export.object, world.object
                    ),
                    "the livepatch would refer to a module that may not be loaded; do without it",
                )
                .object(world.object)
                .symbol(name),
            ));
        }
        match world.vmlinux {
            None if symbol.weak => Ok(Resolution::WeakZero),
            None => Ok(livepatch(if export.is_some() || world.own.is_none() { "vmlinux" } else { world.object }, 0)),
            Some(vmlinux) => match global_position(vmlinux, name, false) {
                Some(sympos) => sympos.map(|p| livepatch("vmlinux", p)).map_err(|n| self.ambiguous(name, n)),
                None if symbol.weak => Ok(Resolution::WeakZero),
                None => Err(Box::new(
                    Refusal::new(
                        Reason::UnresolvedSymbol,
                        format!("`{name}` is in no object of the kernel"),
                        "the running kernel lacks it: declare it, define it in the patch, or leave it out",
                    )
                    .object(world.object)
                    .symbol(name),
                )),
            },
        }
    }

    /// The position of the object's own symbol, where the object itself is the table.
    fn position_in_itself(&self, id: SymbolId, name: &str) -> Result<u32, Box<Refusal>> {
        let namesakes = self.namesakes.get(name).map_or(&[][..], Vec::as_slice);
        let ambiguous = || self.ambiguous(name, namesakes.len());
        if self.world.object == "vmlinux" && !self.laid_out_alike(name) {
            // vmlinux counts by address, and the final link puts sections of another kind elsewhere.
            return Err(ambiguous());
        }
        let index = namesakes.iter().position(|other| *other == id).ok_or_else(ambiguous)?;
        let table =
            SymbolTable::new(namesakes.iter().map(|id| kernel_symbol(self.original, *id)).collect(), Vec::new());
        table.sympos(index as u32, self.world.object != "vmlinux").map(|p| p as u32).ok_or_else(ambiguous)
    }

    /// Whether all symbols of a name lie in sections of one kind, so that their order is the order of their files.
    fn laid_out_alike(&self, name: &str) -> bool {
        let mut sections = self.original.symbols.iter().filter(|s| s.name == name).filter_map(|s| match s.place {
            Place::Section(id) if s.st_type != stt::SECTION => Some(self.original.section(id).name.as_str()),
            _ => None,
        });
        let first = sections.next();
        sections.all(|s| Some(s) == first)
    }

    /// Where the kernel has a symbol of this unit.
    fn locate_own(&self, id: SymbolId) -> Result<Own, Box<Refusal>> {
        let world = self.world;
        let symbol = self.original.symbol(id);
        let name = symbol.name.as_str();
        let Some(table) = world.own else {
            return self.position_in_itself(id, name).map(|sympos| Own { sympos, overridden: false });
        };
        let binding = match symbol.st_bind {
            stb::LOCAL => Binding::Local,
            stb::WEAK => Binding::Weak,
            _ => Binding::Global,
        };
        let kind = if symbol.st_type == stt::FUNC { Kind::Func } else { Kind::Object };
        let wanted = Wanted { name, binding, size: Some(symbol.st_size).filter(|s| *s > 0), kind };
        match Locator::new(table, &self.unit, world.object != "vmlinux").locate(&wanted) {
            Location::Located(found) if found.init => Err(self.refusal(
                Reason::InitSection,
                format!("`{name}` lies in memory that the kernel has freed"),
                "take the reference out of the patch",
                name,
            )),
            Location::Located(found) => Ok(Own { sympos: found.sympos as u32, overridden: found.overridden }),
            Location::Ambiguous { candidates } => Err(self.ambiguous(name, candidates.len())),
            Location::Missing => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Box<Refusal> {
        self.refusal(
            Reason::UnresolvedSymbol,
            format!("`{name}` is not in the symbol table of {}", self.world.object),
            "check that the symbol table, the configuration and the compiler are those of the kernel",
            name,
        )
    }

    fn overridden(&self, name: &str) -> Box<Refusal> {
        self.refusal(
            Reason::UnresolvedSymbol,
            format!("this file's weak `{name}` is not in the kernel: another file's definition took its place"),
            "patch the definition that the kernel has",
            name,
        )
    }

    fn refusal(&self, reason: Reason, message: String, advice: &str, name: &str) -> Box<Refusal> {
        Box::new(Refusal::new(reason, message, advice).object(self.world.object).symbol(name))
    }

    fn ambiguous(&self, name: &str, candidates: usize) -> Box<Refusal> {
        Box::new(
            Refusal::new(
                Reason::AmbiguousSymbol,
                format!("the kernel has {candidates} symbols `{name}`, and which one is meant cannot be told"),
                "give the kernel's vmlinux as symbol table (--symbols): it knows which file each symbol is from",
            )
            .object(self.world.object)
            .symbol(name),
        )
    }
}

/// sympos of the one global symbol of a name: `None` when there is none, an error with the count of candidates when
/// there are several, or no position that always means it.
fn global_position(table: &SymbolTable, name: &str, is_module: bool) -> Option<Result<u32, usize>> {
    let globals: Vec<u32> =
        table.named(name).iter().copied().filter(|i| table.symbols[*i as usize].binding != Binding::Local).collect();
    match globals.as_slice() {
        [] => None,
        [one] => Some(table.sympos(*one, is_module).map(|p| p as u32).ok_or(table.named(name).len())),
        several => Some(Err(several.len())),
    }
}

/// New globals that the original unit refers to as another's: they are there already.
pub fn defined_elsewhere(diff: &Diff<'_>) -> Vec<Refusal> {
    let mut symbols = diff.original.object.symbols.iter();
    let new = diff.new_global_names();
    let used: BTreeSet<&str> = symbols
        .by_ref()
        .filter(|s| s.place == Place::Undefined && s.st_bind == stb::GLOBAL && new.contains(&s.name))
        .map(|s| s.name.as_str())
        .collect();
    used.into_iter().map(|name| already_defined(name, None)).collect()
}

/// The refusal of a new global whose name is taken; by what, where that is known.
pub fn already_defined(name: &str, by: Option<Binding>) -> Refusal {
    let (message, advice) = match by {
        Some(Binding::Weak) => (
            format!("`{name}` is new, and the kernel has a weak `{name}`, which all the rest of it would go on to use"),
            "change the weak definition itself, in its own file",
        ),
        Some(_) => (
            format!("`{name}` is new, and the kernel has a `{name}` already: there would be two of them"),
            "give the new one another name; if it is to take the other's place, change that in its own file",
        ),
        None => (
            format!(
                "`{name}` is new in this object, and the original refers to it as another's: there would be two of them"
            ),
            "compare whole modules, or leave it where it was; `klp-build` with a patch sees both files",
        ),
    };
    Refusal::new(Reason::AlreadyDefined, message, advice).symbol(name)
}

/// The object's symbols that the kernel would know, by name, in the order of the file, as in a linked module's table.
fn namesakes(object: &Object) -> HashMap<&str, Vec<SymbolId>> {
    let mut all: HashMap<&str, Vec<SymbolId>> = HashMap::default();
    for id in object.symbol_ids() {
        let symbol = object.symbol(id);
        // Labels of assembly have no type, and count (kernel/module/kallsyms.c, is_core_symbol).
        let Place::Section(section) = symbol.place else { continue };
        if symbol.st_type != stt::SECTION && object.section(section).sh_flags & shf::ALLOC != 0 {
            all.entry(&symbol.name).or_default().push(id);
        }
    }
    all
}

/// A symbol of the object as one of the kernel.
fn kernel_symbol(object: &Object, id: SymbolId) -> KernelSymbol {
    let symbol = object.symbol(id);
    KernelSymbol {
        name: symbol.name.clone(),
        address: symbol.st_value,
        size: Some(symbol.st_size),
        binding: match symbol.st_bind {
            stb::LOCAL => Binding::Local,
            stb::WEAK => Binding::Weak,
            _ => Binding::Global,
        },
        kind: match symbol.st_type {
            stt::FUNC => Kind::Func,
            stt::OBJECT => Kind::Object,
            _ => Kind::Other,
        },
        file: None,
        init: matches!(symbol.place, Place::Section(at) if names::is_init_section(&object.section(at).name)),
        section: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A global behind an init symbol of its name has no position that always means it: none is made up.
    #[test]
    fn behind_an_init_twin() {
        let symbol = |binding, init| KernelSymbol {
            name: "probe".to_owned(),
            address: 0,
            size: None,
            binding,
            kind: Kind::Func,
            file: None,
            init,
            section: None,
        };
        let list = |init| vec![symbol(Binding::Local, init), symbol(Binding::Global, false)];
        let position = |init| global_position(&SymbolTable::new(list(init), Vec::new()), "probe", true);
        assert_eq!(position(true), Some(Err(2)));
        assert_eq!(position(false), Some(Ok(2)));
    }
}
