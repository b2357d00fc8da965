//! All units of one livepatch -> what the module link gets: objects, table contents, link names.
//!
//! In: the patch objects. Out: a [`Plan`]. Two problems are solved here. The tables in `init.c` must
//! reach functions that are local to their unit: those become global, renamed only where two would
//! clash. And objtool must see the true names of kernel functions to know which of them never return,
//! while the module tools must not take them for exports of another module: a livepatch symbol of
//! vmlinux has its plain name during the link where that name is free, any other an opaque one; the
//! map back is part of the plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::init::ObjectTable;
use super::patch_object::PatchObject;
use super::states::State;
use crate::elf::klp::KlpSymbol;
use crate::elf::object::{Symbol, stb, stt};
use crate::elf::{Object, Place, SymbolId};
use crate::kernel::symvers::Symvers;

/// One unit's contribution.
#[derive(Debug)]
pub struct UnitPatch {
    /// kbuild's target: `fs/proc/meminfo.o`.
    pub target: String,
    /// The kernel object it patches.
    pub object: String,
    /// Its part.
    pub patch: PatchObject,
    /// Carried tables whose address may be kept by somebody, and counters of what others free.
    pub held: Vec<String>,
}

/// What a link name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkName {
    /// Object whose arrival makes the relocation possible: names the `.klp.rela.<object>.` section.
    pub rela_object: String,
    /// The symbol.
    pub symbol: KlpSymbol,
}

/// Everything the module link needs.
#[derive(Debug)]
pub struct Plan {
    /// File stem and contents of each unit's object.
    pub units: Vec<(String, Object)>,
    /// The tables for `init.c`.
    pub tables: Vec<ObjectTable>,
    /// The system states of the livepatch.
    pub states: Vec<State<String>>,
    /// What undefined names of the linked module stand for.
    pub link_names: BTreeMap<String, LinkName>,
    /// Carried tables whose address may be kept by somebody, and counters of what others free: the module must stay.
    pub held: Vec<String>,
}

/// Plans the link.
pub fn plan(mut units: Vec<UnitPatch>, symvers: &Symvers) -> Plan {
    units.iter_mut().for_each(|unit| name_keys(&mut unit.patch.object, symvers));
    let plain_uses = plain_uses(&units);
    let labels = promote(&mut units, &plain_uses);
    let mut taken: BTreeSet<String> = plain_uses;
    for unit in &units {
        let defined = unit.patch.object.symbols.iter().filter(|s| matches!(s.place, Place::Section(_)));
        taken.extend(defined.map(|s| s.name.clone()));
    }
    let link_names = rename_livepatch_symbols(&mut units, &taken, symvers);
    let tables = tables(&units, &labels);
    let states = states(&units, &labels);
    let held = units.iter().flat_map(|unit| unit.held.iter().cloned()).collect();
    let mut stems = BTreeSet::new();
    let units = units
        .into_iter()
        .map(|unit| {
            let base: String = unit
                .target
                .trim_end_matches(".o")
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let mut stem = base.clone();
            let mut n = 1;
            while !stems.insert(stem.clone()) {
                stem = format!("{base}_{n}");
                n += 1;
            }
            (stem, unit.patch.object)
        })
        .collect();
    Plan { units, tables, states, link_names, held }
}

/// Adds the keys of exported static calls to the symbols.
///
/// objtool makes a static call site of every call of a trampoline. It names the key where the object has it as a symbol, else the
/// trampoline, and that the kernel takes only where the key is not exported (kernel/static_call_inline.c,
/// `static_call_add_module`). Code of vmlinux keeps its keys by `.discard.addressable`, which does not travel.
fn name_keys(object: &mut Object, symvers: &Symvers) {
    let named: BTreeSet<&str> = object.symbols.iter().map(|s| s.name.as_str()).collect();
    let trampolines = object.symbols.iter().filter(|s| s.place == Place::Undefined);
    let keys = trampolines.filter_map(|s| static_call_key(&s.name));
    let missing: BTreeSet<String> =
        keys.filter(|key| symvers.get(key).is_some() && !named.contains(key.as_str())).collect();
    object.symbols.extend(missing.into_iter().map(|name| Symbol {
        name,
        st_value: 0,
        st_size: 0,
        st_type: stt::NOTYPE,
        st_bind: stb::GLOBAL,
        st_other: 0,
        place: Place::Undefined,
        file: None,
    }));
}

/// The key of the static call whose trampoline has this name (include/linux/static_call_types.h).
pub(super) fn static_call_key(trampoline: &str) -> Option<String> {
    Some(format!("__SCK__{}", trampoline.strip_prefix("__SCT__")?))
}

/// Undefined names that mean themselves: exports and what units link to among each other.
fn plain_uses(units: &[UnitPatch]) -> BTreeSet<String> {
    let symbols = units.iter().flat_map(|u| &u.patch.object.symbols);
    symbols
        .filter(|s| s.place == Place::Undefined && KlpSymbol::parse(&s.name).is_none())
        .map(|s| s.name.clone())
        .collect()
}

/// Makes the functions that tables point to global; gives the label of each (unit, symbol).
fn promote(units: &mut [UnitPatch], plain_uses: &BTreeSet<String>) -> HashMap<(usize, u32), String> {
    let mut taken = plain_uses.clone();
    // Two objects of the kernel may have globals of one name.
    let mut twice: BTreeSet<String> = plain_uses.clone();
    let mut once: BTreeSet<&str> = BTreeSet::new();
    for unit in units.iter() {
        let globals = unit.patch.object.symbols.iter().filter(|s| s.st_bind != stb::LOCAL);
        let names = globals.filter(|s| matches!(s.place, Place::Section(_))).map(|s| s.name.as_str());
        for name in names {
            taken.insert(name.to_owned());
            if !once.insert(name) {
                twice.insert(name.to_owned());
            }
        }
    }
    for unit in units.iter_mut() {
        let patch = &mut unit.patch;
        for id in patch.named_in_tables() {
            if patch.object.symbol(id).st_bind != stb::LOCAL {
                continue;
            }
            rename(&mut patch.object, id, &mut taken);
            patch.object.symbols[id.index()].st_bind = stb::GLOBAL;
        }
        // What another unit means by an export's name is the kernel's: its address must not become one in the module. Only what
        // is new has to keep its name, for other units to link to.
        for place in patch.replacements.iter().map(|r| patch.object.symbol(r.symbol).place).collect::<Vec<_>>() {
            let names: Vec<SymbolId> = patch.object.symbol_ids().collect();
            for id in names {
                let symbol = patch.object.symbol(id);
                if symbol.place == place && symbol.st_bind != stb::LOCAL && twice.contains(&symbol.name) {
                    rename(&mut patch.object, id, &mut taken);
                }
            }
        }
        patch.locals_first();
    }
    let mut labels = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        let patch = &unit.patch;
        for id in patch.named_in_tables() {
            labels.insert((i, id.0), patch.object.symbol(id).name.clone());
        }
    }
    labels
}

/// Gives a function a name that nobody has, where its own is taken.
fn rename(object: &mut Object, id: SymbolId, taken: &mut BTreeSet<String>) {
    let base = object.symbol(id).name.clone();
    let mut name = base.clone();
    let mut n = 1;
    while !taken.insert(name.clone()) {
        name = format!("{base}.klp{n}");
        n += 1;
    }
    if name == base {
        return;
    }
    // objtool finds the function that a cold part belongs to by name (tools/objtool/elf.c, `read_symbols`).
    let cold = format!("{base}.cold");
    for symbol in object.symbols.iter_mut().filter(|s| matches!(s.place, Place::Section(_))) {
        if let Some(rest) = symbol.name.strip_prefix(&cold)
            && (rest.is_empty() || rest.starts_with('.'))
        {
            symbol.name = format!("{name}.cold{rest}");
        }
    }
    object.symbols[id.index()].name = name;
}

fn rename_livepatch_symbols(
    units: &mut [UnitPatch],
    taken: &BTreeSet<String>,
    symvers: &Symvers,
) -> BTreeMap<String, LinkName> {
    // How many different livepatch symbols have each plain name.
    let mut meanings: HashMap<String, BTreeSet<KlpSymbol>> = HashMap::new();
    for unit in units.iter() {
        for klp in unit.patch.object.symbols.iter().filter_map(|s| KlpSymbol::parse(&s.name)) {
            meanings.entry(klp.name.clone()).or_default().insert(klp);
        }
    }
    let mut names = BTreeMap::new();
    for unit in units.iter_mut() {
        for symbol in &mut unit.patch.object.symbols {
            let Some(klp) = KlpSymbol::parse(&symbol.name).filter(|_| symbol.place == Place::Undefined) else {
                continue;
            };
            let of_vmlinux = klp.object == "vmlinux";
            let rela_object = if of_vmlinux { "vmlinux".to_owned() } else { unit.object.clone() };
            let plain = of_vmlinux
                && meanings[&klp.name].len() == 1
                && !taken.contains(&klp.name)
                && symvers.get(&klp.name).is_none()
                // objtool would make a static call site of it, which only an exported trampoline can have.
                && !klp.name.starts_with("__SCT__")
                && klp.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
            let link = if plain { klp.name.clone() } else { format!(".klp.link.{rela_object}.{}", symbol.name) };
            names.insert(link.clone(), LinkName { rela_object, symbol: klp });
            symbol.name = link;
        }
    }
    names
}

fn states(units: &[UnitPatch], labels: &HashMap<(usize, u32), String>) -> Vec<State<String>> {
    let all = units.iter().enumerate().flat_map(|(i, unit)| unit.patch.states.iter().map(move |state| (i, state)));
    let mut states: Vec<_> = all
        .map(|(i, state)| State {
            id: state.id,
            version: state.version,
            is_shadow: state.is_shadow,
            functions: state.functions.iter().map(|(member, id)| (*member, labels[&(i, id.0)].clone())).collect(),
        })
        .collect();
    states.sort_by_key(|state| state.id);
    states
}

fn tables(units: &[UnitPatch], labels: &HashMap<(usize, u32), String>) -> Vec<ObjectTable> {
    let mut by_object: BTreeMap<(bool, &str), ObjectTable> = BTreeMap::new();
    for (i, unit) in units.iter().enumerate() {
        if unit.patch.replacements.is_empty() && unit.patch.callbacks.is_empty() {
            continue;
        }
        let key = (unit.object != "vmlinux", unit.object.as_str());
        let table = by_object.entry(key).or_default();
        table.object = unit.object.clone();
        for r in &unit.patch.replacements {
            table.functions.push((r.old_name.clone(), r.sympos, labels[&(i, r.symbol.0)].clone()));
        }
        for c in &unit.patch.callbacks {
            table.callbacks.push((c.kind.to_owned(), labels[&(i, c.symbol.0)].clone()));
        }
    }
    by_object.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::object::shf;
    use crate::elf::{Section, SectionId};
    use crate::emit::patch_object::Replacement;

    fn unit(target: &str, symbols: &[(&str, Option<u32>, u8)], replaces: &[u32]) -> UnitPatch {
        let mut patch = PatchObject::default();
        for (name, section, st_bind) in symbols {
            let place = section.map_or(Place::Undefined, |s| Place::Section(SectionId(s)));
            let (name, st_type) = ((*name).to_owned(), stt::FUNC);
            let (st_value, st_size, st_other, file) = (0, 0, 0, None);
            patch.object.symbols.push(Symbol {
                name,
                st_value,
                st_size,
                st_type,
                st_bind: *st_bind,
                st_other,
                place,
                file,
            });
            if let Some(section) = section {
                let needed = *section as usize + 1;
                let code = Section {
                    name: format!(".text.{section}"),
                    sh_flags: shf::ALLOC | shf::EXECINSTR,
                    ..Section::default()
                };
                patch.object.sections.resize(patch.object.sections.len().max(needed), code);
            }
        }
        let old = |id: &u32| (patch.object.symbols[*id as usize].name.clone(), SymbolId(*id));
        let replacements =
            replaces.iter().map(old).map(|(old_name, symbol)| Replacement { old_name, sympos: 0, symbol });
        patch.replacements = replacements.collect();
        UnitPatch { target: target.to_owned(), object: "vmlinux".to_owned(), patch, held: Vec::new() }
    }

    /// The address of an exported function that changed is the kernel's in every unit: had the module a symbol of that name, the
    /// link would take it, and the address would be gone with the module. Cold parts keep the name of what they are part of.
    #[test]
    fn no_definition_takes_the_place_of_an_export() {
        let (global, local) = (stb::GLOBAL, stb::LOCAL);
        let changed = unit(
            "a.o",
            &[("f.cold", Some(1), local), ("f", Some(0), global), ("alias", Some(0), global), ("g", Some(2), global)],
            &[1, 3],
        );
        let user = unit("b.o", &[("f", None, global), ("alias", None, global), ("new", None, global)], &[]);
        // Another object's `g`.
        let third = unit("c.o", &[("new", Some(0), global), ("g", Some(1), global)], &[1]);
        let plan = plan(vec![changed, user, third], &Symvers::default());
        let names = |i: usize| plan.units[i].1.symbols.iter().map(|s: &Symbol| s.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(0), ["f.klp1.cold", "f.klp1", "alias.klp1", "g.klp1"]);
        assert_eq!(names(1), ["f", "alias", "new"]);
        assert_eq!(names(2), ["new", "g.klp2"]);
        let table = &plan.tables[0].functions;
        let expected = [
            ("f".to_owned(), 0, "f.klp1".to_owned()),
            ("g".to_owned(), 0, "g.klp1".to_owned()),
            ("g".to_owned(), 0, "g.klp2".to_owned()),
        ];
        assert_eq!(table.as_slice(), expected.as_slice());
    }
}
