//! What a livepatch module patches, read from its tables: of any tool's making, without the kernel's headers.
//!
//! In: a module. Out: an [`Inspection`]. Three forms exist. Ordinary modules hold a static `struct
//! klp_patch`, found by its reference to `__this_module`; only the first members of each structure are
//! read, whose places have been the same since 5.5 (include/linux/livepatch.h). Modules of Linux
//! 6.19's klp-build hold `.init.klp_objects` and `.init.klp_funcs` (include/linux/livepatch_external.h),
//! those of kpatch-build `.kpatch.funcs` ([`kpatch`]), and both build the real tables when they are loaded.
//! What is of no known form is unknown, never empty: "replaces nothing" would be a false "no conflict".

mod kpatch;
mod states;

use serde::Serialize;

pub use states::State;

use crate::elf::klp::KlpSymbol;
use crate::elf::object::{shf, stt};
use crate::elf::{Object, Place, Reloc, SectionId};
use crate::emit::readback;
use crate::error::Refusal;

/// A replaced function.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Function {
    /// Name in the kernel.
    pub function: String,
    /// Position among its namesakes; 0 when unique.
    pub sympos: u64,
    /// Where the code is that takes its place: section of the module, and offset. sysfs does not tell.
    #[serde(skip)]
    pub code: Option<(SectionId, u64)>,
}

/// A patched object.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct PatchedObject {
    /// `vmlinux` or a module's name.
    pub name: String,
    /// What is replaced in it.
    pub functions: Vec<Function>,
    /// Members of `struct klp_callbacks` that are set.
    pub callbacks: Vec<String>,
}

/// A livepatch relocation section.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Relocations {
    /// Object whose presence it waits for.
    pub object: String,
    /// Section it applies to.
    pub section: String,
    /// How many there are.
    pub count: usize,
    /// The symbols, as `object.name,sympos`.
    pub symbols: Vec<String>,
}

/// What a livepatch module says.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// Version magic of the kernel it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vermagic: Option<String>,
    /// The set it replaces, where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_set: Option<u32>,
    /// Whether it replaces all livepatches, where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// The member of `struct klp_patch` that says it, where nothing else does: 0 or 1 may be the boolean or a set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_member: Option<u32>,
    /// System states it owns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// It has a table of states of an unknown form.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub states_unknown: bool,
    /// The patched objects.
    pub objects: Vec<PatchedObject>,
    /// What it patches cannot be read: its tables are of an unknown form.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub objects_unknown: bool,
    /// Its livepatch relocations.
    pub relocations: Vec<Relocations>,
    /// Loader rules it breaks.
    pub broken_rules: Vec<Refusal>,
}

const CALLBACKS: [&str; 4] = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"];

/// Reads a livepatch module; `None` when it does not say that it is one.
pub fn inspect(module: &Object) -> Option<Inspection> {
    if readback::modinfo(module, "livepatch").next()? != "Y" {
        return None;
    }
    let reader = Reader { module };
    let Tables { objects, states, replace: member } = reader.tables();
    // klp-build writes one of the two; of another tool's module the headers would have to tell what the member is.
    let set = readback::modinfo(module, "replace_set").next().and_then(|s| s.parse().ok());
    let replace = readback::modinfo(module, "replace").next().and_then(|value| match value.as_str() {
        "Y" => Some(true),
        "N" => Some(false),
        _ => None,
    });
    let set = set.or_else(|| member.filter(|value| *value > 1));
    Some(Inspection {
        name: readback::modinfo(module, "name").next().unwrap_or_default(),
        vermagic: readback::modinfo(module, "vermagic").next(),
        replace_set: set,
        replace: replace.filter(|_| set.is_none()),
        replace_member: member.filter(|_| set.is_none() && replace.is_none()),
        states_unknown: states.is_none(),
        states: states.unwrap_or_default(),
        objects_unknown: objects.is_none(),
        objects: objects.unwrap_or_default(),
        relocations: relocations(module),
        broken_rules: readback::rules(module),
    })
}

fn relocations(module: &Object) -> Vec<Relocations> {
    let mut out = Vec::new();
    for section in &module.sections {
        for (object, relocs) in &section.klp_relocs {
            let mut symbols: Vec<String> = relocs
                .iter()
                .filter_map(|r| KlpSymbol::parse(&module.symbol(r.symbol?).name))
                .map(|s| format!("{}.{},{}", s.object, s.name, s.sympos))
                .collect();
            symbols.sort();
            symbols.dedup();
            out.push(Relocations {
                object: object.clone(),
                section: section.name.clone(),
                count: relocs.len(),
                symbols,
            });
        }
    }
    out
}

struct Reader<'m> {
    module: &'m Object,
}

/// What a patch's tables say; of an unknown form, nothing.
#[derive(Default)]
struct Tables {
    /// `None` when they are not understood.
    objects: Option<Vec<PatchedObject>>,
    /// `None` when there is a table that is not understood.
    states: Option<Vec<State>>,
    replace: Option<u32>,
}

impl Tables {
    /// Of a tool that builds the tables at load and leaves out the states: whether it replaces is in its code.
    fn built_at_load(objects: Option<Vec<PatchedObject>>) -> Tables {
        let states = objects.is_some().then(Vec::new);
        Tables { objects: objects.filter(|objects| !objects.is_empty()), states, replace: None }
    }
}

/// A place in a section.
type At = (SectionId, u64);

impl Reader<'_> {
    fn tables(&self) -> Tables {
        if let Some(section) = self.module.section_named(".init.klp_objects") {
            return Tables::built_at_load(self.external(section));
        }
        if let Some(section) = self.module.section_named(kpatch::FUNCTIONS) {
            return Tables::built_at_load(kpatch::read(self, section));
        }
        for id in self.module.section_ids() {
            for reloc in &self.module.section(id).relocs {
                let symbol = reloc.symbol.map(|s| self.module.symbol(s));
                if symbol.is_none_or(|s| s.name != "__this_module") || id_is_code(self.module, id) {
                    continue;
                }
                // struct klp_patch: mod, objs, states, replace or replace_set.
                let Some(objects) = self.pointer((id, reloc.r_offset + 8)) else { continue };
                let objects = self.objects(objects);
                if !objects.is_empty() {
                    let replace = self.value((id, reloc.r_offset + 24), 4).map(|v| v as u32);
                    let states = match self.pointer((id, reloc.r_offset + 16)) {
                        None => Some(Vec::new()),
                        Some(at) => {
                            let (start, end) = self.extent(at);
                            (start == at.1).then(|| states::read(self, at, end - start)).flatten()
                        }
                    };
                    return Tables { objects: Some(objects), states, replace };
                }
            }
        }
        Tables::default()
    }

    /// struct klp_object: name, funcs, callbacks; one for each pointer to a table of functions.
    fn objects(&self, at: At) -> Vec<PatchedObject> {
        let (start, end) = self.extent(at);
        let mut out = Vec::new();
        let places: Vec<u64> = self.relocs(at.0, start, end).map(|r| r.r_offset).collect();
        for place in places {
            let Some(functions) = self.pointer((at.0, place)) else { continue };
            let table = self.module.section(functions.0);
            // The name is a pointer too, but into a table of texts.
            if table.sh_flags & shf::EXECINSTR != 0 || table.sh_flags & shf::WRITE == 0 || place < start + 8 {
                continue;
            }
            let object = place - 8;
            out.push(PatchedObject {
                name: self.text((at.0, object)).unwrap_or_else(|| "vmlinux".to_owned()),
                functions: self.functions(functions),
                callbacks: self.callbacks((at.0, place + 8)),
            });
        }
        out
    }

    /// struct klp_func: old_name, new_func, old_sympos.
    fn functions(&self, at: At) -> Vec<Function> {
        let (start, end) = self.extent(at);
        let mut out = Vec::new();
        for reloc in self.relocs(at.0, start.max(at.1), end) {
            let place = (at.0, reloc.r_offset);
            let new_function = self.pointer((at.0, reloc.r_offset + 8));
            if let (Some(name), Some(code)) = (self.text(place), new_function)
                && id_is_code(self.module, code.0)
            {
                let sympos = self.value((at.0, reloc.r_offset + 16), 8).unwrap_or(0);
                out.push(Function { function: name, sympos, code: Some(code) });
            }
        }
        out
    }

    /// `struct klp_object_ext` tables: name, funcs, four callbacks and a flag, nr_funcs. `None` when an entry is something else.
    fn external(&self, id: SectionId) -> Option<Vec<PatchedObject>> {
        const SIZE: u64 = 64;
        let section = self.module.section(id);
        (0..section.sh_size / SIZE)
            .map(|i| {
                let at = i * SIZE;
                let count = self.value((id, at + 56), 4)?;
                let functions = self.pointer((id, at + 8));
                let function = |n: u64| -> Option<Function> {
                    let (table, start) = functions?;
                    let place = start + n * 24;
                    let (function, code) = (self.text((table, place))?, self.pointer((table, place + 8)));
                    Some(Function { function, sympos: self.value((table, place + 16), 8)?, code })
                };
                Some(PatchedObject {
                    name: self.text((id, at)).unwrap_or_else(|| "vmlinux".to_owned()),
                    functions: (0..count).map(function).collect::<Option<_>>()?,
                    callbacks: self.callbacks((id, at + 16)),
                })
            })
            .collect()
    }

    fn callbacks(&self, at: At) -> Vec<String> {
        let set = |i: usize| self.reloc((at.0, at.1 + 8 * i as u64)).is_some();
        (0..4).filter(|i| set(*i)).map(|i| CALLBACKS[i].to_owned()).collect()
    }

    fn relocs(&self, id: SectionId, start: u64, end: u64) -> impl Iterator<Item = &Reloc> {
        self.module.section(id).relocs.iter().filter(move |r| (start..end).contains(&r.r_offset))
    }

    fn reloc(&self, at: At) -> Option<&Reloc> {
        self.module.section(at.0).relocs.iter().find(|r| r.r_offset == at.1)
    }

    /// What the pointer at this place points to.
    fn pointer(&self, at: At) -> Option<At> {
        let reloc = self.reloc(at)?;
        let symbol = self.module.symbol(reloc.symbol?);
        match symbol.place {
            Place::Section(id) => Some((id, symbol.st_value.wrapping_add_signed(reloc.r_addend))),
            _ => None,
        }
    }

    fn text(&self, at: At) -> Option<String> {
        let (id, offset) = self.pointer(at)?;
        if id_is_code(self.module, id) {
            return None;
        }
        let bytes = self.module.section(id).data.get(offset as usize..)?;
        let end = bytes.iter().position(|b| *b == 0)?;
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn value(&self, at: At, size: usize) -> Option<u64> {
        let bytes = self.module.section(at.0).data.get(at.1 as usize..at.1 as usize + size)?;
        let mut word = [0; 8];
        if self.module.little_endian {
            word[..size].copy_from_slice(bytes);
            Some(u64::from_le_bytes(word))
        } else {
            word[8 - size..].copy_from_slice(bytes);
            Some(u64::from_be_bytes(word))
        }
    }

    /// The datum around a place: the symbol that covers it, else up to the end of the section.
    fn extent(&self, at: At) -> (u64, u64) {
        let covering = self.module.symbols.iter().find(|s| {
            s.place == Place::Section(at.0)
                && s.st_type == stt::OBJECT
                && (s.st_value..s.st_value + s.st_size).contains(&at.1)
        });
        covering.map_or((at.1, self.module.section(at.0).sh_size), |s| (s.st_value, s.st_value + s.st_size))
    }
}

fn id_is_code(module: &Object, id: SectionId) -> bool {
    module.section(id).sh_flags & shf::EXECINSTR != 0
}
