//! Would this livepatch module load on that kernel, and what would it conflict with?
//!
//! In: modules and a kernel. Out: a refusal for everything that makes the loader or the livepatch core
//! say no: version magic, exports and their CRCs, positions of livepatch symbols, functions to be
//! replaced, the replace member, and functions that livepatches of different sets both replace.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use crate::elf::klp::KlpSymbol;
use crate::elf::object::stb;
use crate::elf::{Object, Place};
use crate::error::{Reason, Refusal};
use crate::inspect::Inspection;
use crate::kernel::Kernel;
use crate::kernel::abi::Replace;
use crate::kernel::symtab::SymbolTable;

const REBUILD: &str = "build the livepatch for this kernel";

/// Everything that keeps `module` from loading.
///
/// # Errors
///
/// When the kernel's tables cannot be read.
pub fn check(kernel: &Kernel, module: &Object, found: &Inspection) -> Result<Vec<Refusal>> {
    let mut refusals = found.broken_rules.clone();
    let release = found.vermagic.as_deref().and_then(|v| v.split_whitespace().next()).unwrap_or_default();
    if release != kernel.release() {
        refusals.push(Refusal::new(
            Reason::FormatRule,
            format!("the module is for kernel `{release}`, and this one is `{}`", kernel.release()),
            REBUILD,
        ));
    }
    if found.replace_set.is_some() && kernel.abi().replace != Replace::Set {
        refusals.push(Refusal::new(
            Reason::KernelLacks,
            "the module has a replace set, and this kernel's `struct klp_patch` has none",
            REBUILD,
        ));
    }
    undefined(kernel, module, &mut refusals);
    let mut wanted: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Livepatch) {
        if let Some(klp) = KlpSymbol::parse(&symbol.name) {
            wanted.entry((klp.object, klp.name)).or_default().push(u64::from(klp.sympos));
        }
    }
    for object in &found.objects {
        for function in &object.functions {
            wanted.entry((object.name.clone(), function.function.clone())).or_default().push(function.sympos);
        }
    }
    for ((object, name), positions) in &wanted {
        if object != "vmlinux" && kernel.module_file(object).is_none() {
            continue;
        }
        let table = kernel.symbols(object)?;
        for position in positions {
            if let Some(why) = unresolvable(&table, name, *position) {
                refusals.push(
                    Refusal::new(Reason::UnresolvedSymbol, format!("`{name},{position}` {why}"), REBUILD)
                        .object(object)
                        .symbol(name),
                );
            }
        }
    }
    refusals.dedup_by(|a, b| a.message == b.message && a.object == b.object);
    Ok(refusals)
}

/// Why the livepatch core would not find a position (kernel/livepatch/core.c `klp_find_object_symbol`).
fn unresolvable(table: &SymbolTable, name: &str, position: u64) -> Option<String> {
    match (table.named(name).len(), position) {
        (0, _) => Some("is not in the object".to_owned()),
        (1, 0) => None,
        (count, 0) => Some(format!("is one of {count}, and the module says that there is one")),
        (count, position) if position as usize > count => Some(format!("is not there: there are {count}")),
        _ => None,
    }
}

/// Undefined symbols: exported at all, and with the same CRC.
fn undefined(kernel: &Kernel, module: &Object, refusals: &mut Vec<Refusal>) {
    let crcs = crcs(module);
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Undefined && !s.name.is_empty()) {
        let Some(export) = kernel.symvers().get(&symbol.name) else {
            if symbol.st_bind != stb::WEAK {
                let message = format!("`{}` is exported by nothing in this kernel", symbol.name);
                refusals.push(Refusal::new(Reason::UnresolvedSymbol, message, REBUILD).symbol(&symbol.name));
            }
            continue;
        };
        if let Some(crc) = crcs.get(&symbol.name)
            && export.crc != 0
            && *crc != export.crc
        {
            let message =
                format!("`{}` has CRC {:#010x} in this kernel and {crc:#010x} in the module", symbol.name, export.crc);
            refusals.push(Refusal::new(Reason::FormatRule, message, REBUILD).symbol(&symbol.name));
        }
    }
}

/// `__versions`: CRC and name of each import (struct modversion_info, include/linux/module.h: 8 and 56 bytes).
fn crcs(module: &Object) -> HashMap<String, u32> {
    const ENTRY: usize = 64;
    let data = module.sections.iter().find(|s| s.name == "__versions").map_or(&[][..], |s| &s.data);
    data.chunks_exact(ENTRY)
        .filter_map(|entry| {
            let crc = u32::from_le_bytes(entry[..4].try_into().ok()?);
            let name = entry[8..].split(|b| *b == 0).next()?;
            Some((String::from_utf8_lossy(name).into_owned(), crc))
        })
        .collect()
}

/// Functions that two livepatches of different sets both replace: the second one would be refused, or
/// would take the first one's fix away while it is being enabled.
pub fn conflicts(modules: &[Inspection]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (i, a) in modules.iter().enumerate() {
        for b in &modules[i + 1..] {
            // Without sets, the later livepatch of a function simply lies on top of the earlier one.
            let (Some(x), Some(y)) = (a.replace_set, b.replace_set) else { continue };
            if x == y {
                continue;
            }
            for object in &a.objects {
                let others = b.objects.iter().filter(|o| o.name == object.name).flat_map(|o| &o.functions);
                for function in others.filter(|f| object.functions.contains(f)) {
                    let (name, position) = (&function.function, function.sympos);
                    refusals.push(
                        Refusal::new(
                            Reason::KernelLacks,
                            format!(
                                "`{}` and `{}` are of sets {x} and {y} and both replace `{name},{position}`",
                                a.name, b.name
                            ),
                            "put both changes into one livepatch, or both livepatches into one set",
                        )
                        .object(&object.name)
                        .symbol(name),
                    );
                }
            }
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Function, PatchedObject};

    fn livepatch(name: &str, set: Option<u32>, function: &str, sympos: u64) -> Inspection {
        let functions = vec![Function { function: function.to_owned(), sympos }];
        Inspection {
            name: name.to_owned(),
            vermagic: None,
            replace_set: set,
            replace: None,
            objects: vec![PatchedObject { name: "vmlinux".to_owned(), functions, callbacks: Vec::new() }],
            relocations: Vec::new(),
            broken_rules: Vec::new(),
        }
    }

    /// Two sets may not both replace a function: one of them would be refused, or lost while the other comes.
    #[test]
    fn sets_conflict_by_function_and_position() {
        let a = livepatch("a", Some(1), "meminfo_proc_show", 0);
        let said = |other: Inspection| -> Vec<String> {
            conflicts(&[a.clone(), other]).into_iter().map(|refusal| refusal.message).collect()
        };
        let text = "`a` and `b` are of sets 1 and 2 and both replace `meminfo_proc_show,0`";
        assert_eq!(said(livepatch("b", Some(2), "meminfo_proc_show", 0)), [text]);
        for other in [
            livepatch("b", Some(1), "meminfo_proc_show", 0),
            livepatch("b", Some(2), "meminfo_proc_show", 2),
            livepatch("b", Some(2), "cmdline_proc_show", 0),
            livepatch("b", None, "meminfo_proc_show", 0),
        ] {
            assert_eq!(said(other), [""; 0]);
        }
    }
}
