//! A module by itself: what keeps it from loading on a kernel, whatever else is loaded there.
//!
//! In: a module and a kernel. Out: a refusal for each reason of the loader (kernel/module/) and of the livepatch core: version
//! magic, signature, exports with their CRCs and namespaces, livepatch sections, positions of symbols and of replaced
//! functions, unwind data, the members of `struct klp_patch`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;

use super::Candidate;
use crate::elf::klp::KlpSymbol;
use crate::elf::object::stb;
use crate::elf::{Object, Place};
use crate::emit::readback;
use crate::error::{Reason, Refusal};
use crate::inspect::Inspection;
use crate::kernel::Kernel;
use crate::kernel::abi::Replace;
use crate::kernel::config::Config;
use crate::kernel::symtab::SymbolTable;
use crate::kernel::symvers::Symvers;

const REBUILD: &str = "build the livepatch for this kernel";

/// Everything that keeps a module from loading.
///
/// # Errors
///
/// When the kernel's tables cannot be read.
pub fn module(kernel: &Kernel, candidate: &Candidate, notes: &mut Vec<String>) -> Result<Vec<Refusal>> {
    let Candidate { object: module, found, .. } = candidate;
    let mut refusals = Vec::new();
    let config = kernel.config();
    refusals.extend(magic(found.vermagic.as_deref().unwrap_or_default(), kernel.release(), config));
    if config.is_y("MODULE_SIG_FORCE") && !candidate.is_signed {
        refusals.push(Refusal::new(
            Reason::Unsigned,
            "the kernel loads signed modules only, and the module carries no signature",
            "sign it with a key that the kernel trusts (--sign-key, --sign-cert)",
        ));
    }
    lacks(kernel, found, &mut refusals);
    let name = found.name.replace('-', "_");
    let may_miss = config.is_y("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS");
    refusals.extend(imports(kernel.symvers(), module, &name, may_miss));
    let broken = found.broken_rules.iter().cloned();
    refusals.extend(broken.map(|rule| Refusal { advice: "build the livepatch again".to_owned(), ..rule }));
    let calls = readback::static_calls(module, kernel.symvers()).into_iter();
    refusals.extend(calls.map(|rule| Refusal { advice: REBUILD.to_owned(), ..rule }));
    if config.is_y("UNWINDER_ORC") {
        let missing = readback::unwindable(module).into_iter();
        refusals.extend(missing.map(|rule| Refusal { advice: UNWIND.to_owned(), ..rule }));
    }
    let mut unseen = BTreeSet::new();
    for ((object, symbol), positions) in &wanted(module, found) {
        if object != "vmlinux" && kernel.module_file(object).is_none() {
            unseen.insert(object.clone());
            continue;
        }
        let table = kernel.symbols(object)?;
        for position in positions {
            if let Some((reason, why)) = unresolvable(&table, symbol, *position) {
                let message = format!("`{symbol},{position}` {why}");
                refusals.push(Refusal::new(reason, message, REBUILD).object(object).symbol(symbol));
            }
        }
    }
    for object in unseen {
        notes.push(format!(
            "the file of module `{object}` is not known here, so what it has was not checked (--modules)"
        ));
    }
    Ok(refusals)
}

const UNWIND: &str = "run objtool on the module: the transition would never end without unwind data";

/// Whether the version magic is this kernel's (include/linux/vermagic.h).
///
/// With CONFIG_MODVERSIONS the loader forgives another release (kernel/module/version.c `same_magic`), since exports have
/// CRCs. What a livepatch replaces has none, so another release is an error here in any case.
fn magic(magic: &str, release: &str, config: &Config) -> Option<Refusal> {
    let mut words = magic.split_whitespace();
    let built_for = words.next().unwrap_or_default();
    if built_for != release {
        let message = format!("the module is for kernel `{built_for}`, and this one is `{release}`");
        return Some(Refusal::new(Reason::OtherKernel, message, REBUILD));
    }
    // The other words are an architecture's or the seed of a randomised layout, which nothing here knows.
    const KNOWN: [&str; 5] = ["SMP", "preempt", "preempt_rt", "mod_unload", "modversions"];
    let has: BTreeSet<&str> = words.filter(|word| KNOWN.contains(word)).collect();
    let preempt = match (config.is_y("PREEMPT_RT"), config.is_y("PREEMPT_BUILD")) {
        (true, _) => "preempt_rt",
        (false, true) => "preempt",
        (false, false) => "",
    };
    let on = |option, word| if config.is_y(option) { word } else { "" };
    let wanted = [on("SMP", "SMP"), preempt, on("MODULE_UNLOAD", "mod_unload"), on("MODVERSIONS", "modversions")];
    let wanted: BTreeSet<&str> = wanted.into_iter().filter(|word| !word.is_empty()).collect();
    (has != wanted).then(|| {
        let list = |words: &BTreeSet<&str>| words.iter().copied().collect::<Vec<_>>().join(" ");
        let message =
            format!("the module's version magic says `{}`, and this kernel's `{}`", list(&has), list(&wanted));
        Refusal::new(Reason::OtherKernel, message, REBUILD)
    })
}

/// Members of the livepatch structures that the module uses and the kernel does not have.
fn lacks(kernel: &Kernel, found: &Inspection, refusals: &mut Vec<Refusal>) {
    let abi = kernel.abi();
    let mut lacks = |message: String| refusals.push(Refusal::new(Reason::KernelLacks, message, REBUILD));
    if found.replace_set.is_some() && abi.replace != Replace::Set {
        lacks("the module has a replace set, and this kernel's `struct klp_patch` has none".to_owned());
    }
    if !found.states.is_empty() && !abi.states {
        lacks("the module has states, and this kernel's `struct klp_patch` has none".to_owned());
    }
    for state in &found.states {
        if !state.callbacks.is_empty() && !abi.state_callbacks {
            lacks(format!("state {} has callbacks, and this kernel's `struct klp_state` has none", state.id));
        }
        if state.shadow && !abi.state_shadow {
            lacks(format!("state {} owns a shadow variable, which this kernel's `struct klp_state` cannot", state.id));
        }
    }
}

/// Positions by object and name: of livepatch symbols, and of functions to be replaced.
fn wanted(module: &Object, found: &Inspection) -> BTreeMap<(String, String), BTreeSet<u64>> {
    let mut wanted: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Livepatch) {
        if let Some(klp) = KlpSymbol::parse(&symbol.name) {
            wanted.entry((klp.object, klp.name)).or_default().insert(u64::from(klp.sympos));
        }
    }
    for object in &found.objects {
        for function in &object.functions {
            wanted.entry((object.name.clone(), function.function.clone())).or_default().insert(function.sympos);
        }
    }
    wanted
}

/// Why the livepatch core would not find a position (kernel/livepatch/core.c `klp_find_object_symbol`).
fn unresolvable(table: &SymbolTable, name: &str, position: u64) -> Option<(Reason, String)> {
    match (table.named(name).len(), position) {
        (0, _) => Some((Reason::UnresolvedSymbol, "is not in the object".to_owned())),
        (1, 0) => None,
        (count, 0) => {
            Some((Reason::AmbiguousSymbol, format!("is one of {count}, and the module says that there is one")))
        }
        (count, position) if position as usize > count => {
            let there = if count == 1 { "is".to_owned() } else { "are".to_owned() };
            Some((Reason::UnresolvedSymbol, format!("is not there: there {there} {count}")))
        }
        _ => None,
    }
}

/// Undefined symbols: exported at all, with the same CRC, and to this module.
fn imports(symvers: &Symvers, module: &Object, name: &str, may_miss: bool) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let crcs = crcs(module);
    let imported: BTreeSet<String> = readback::modinfo(module, "import_ns").collect();
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Undefined && !s.name.is_empty()) {
        let Some(export) = symvers.get(&symbol.name) else {
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
            refusals.push(Refusal::new(Reason::CrcMismatch, message, REBUILD).symbol(&symbol.name));
        }
        // kernel/module/main.c `verify_namespace_is_imported`.
        let namespace = &export.namespace;
        let is_mine = match namespace.strip_prefix("module:") {
            Some(list) => list.split(',').any(|pattern| matches(pattern, name)),
            None => namespace.is_empty() || imported.contains(namespace) || may_miss,
        };
        if !is_mine {
            refusals.push(
                Refusal::new(
                    Reason::MissingNamespace,
                    format!("`{}` is exported in `{namespace}`, and the module does not import that", symbol.name),
                    "make it a livepatch symbol (klp-build does), or add MODULE_IMPORT_NS",
                )
                .symbol(&symbol.name),
            );
        }
    }
    refusals
}

/// A name of a namespace for modules; one that ends with `*` stands for all that begin so.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.replace('-', "_");
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// CRC of each import, in either form (kernel/module/version.c): `__versions` has entries of 64 bytes (struct
/// modversion_info), the extended one has numbers and texts in two sections.
fn crcs(module: &Object) -> HashMap<String, u32> {
    const ENTRY: usize = 64;
    let data = |name: &str| module.sections.iter().find(|s| s.name == name).map_or(&[][..], |s| &s.data);
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let classic = data("__versions").chunks_exact(ENTRY).filter_map(|entry| {
        let name = entry[8..].split(|b| *b == 0).next()?;
        Some((text(name), number(&entry[..4])?))
    });
    let names = data("__version_ext_names").split(|b| *b == 0).map(text);
    let extended = names.zip(data("__version_ext_crcs").chunks_exact(4).filter_map(number));
    classic.chain(extended.filter(|(name, _)| !name.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::object::Reloc;
    use crate::elf::{Section, Symbol, SymbolId};
    use crate::kernel::symtab::{Binding, KernelSymbol, Kind};

    fn undefined(names: &[&str]) -> Vec<Symbol> {
        let symbol = |name: &&str| Symbol {
            name: (*name).to_owned(),
            st_value: 0,
            st_size: 0,
            st_type: 0,
            st_bind: stb::GLOBAL,
            st_other: 0,
            place: Place::Undefined,
            file: None,
        };
        names.iter().map(symbol).collect()
    }

    fn section(name: &str, data: &[u8]) -> Section {
        Section { name: name.to_owned(), data: data.to_vec(), sh_size: data.len() as u64, ..Section::default() }
    }

    fn said(refusals: &[Refusal]) -> Vec<String> {
        refusals.iter().map(ToString::to_string).collect()
    }

    /// The words of the version magic decide beside the release; an architecture's own words do not.
    #[test]
    fn version_magic() {
        let config =
            Config::parse("CONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\n")
                .unwrap();
        let said = |text: &str| magic(text, "7.3.4", &config).map(|refusal| refusal.to_string());
        assert_eq!(said("7.3.4 SMP preempt mod_unload modversions "), None);
        assert_eq!(said("7.3.4 SMP preempt mod_unload modversions RANDSTRUCT_00"), None);
        assert_eq!(
            said("7.3.5 SMP preempt mod_unload modversions ").as_deref(),
            Some("the module is for kernel `7.3.5`, and this one is `7.3.4` [other-kernel]")
        );
        let text =
            "the module's version magic says `SMP mod_unload`, and this kernel's `SMP mod_unload modversions preempt`";
        assert_eq!(said("7.3.4 SMP mod_unload "), Some(format!("{text} [other-kernel]")));
    }

    /// What no kernel exports, what has another CRC, and what is in a namespace: each is said, both forms of CRCs are read.
    #[test]
    fn imports_are_checked() {
        let symvers = "0x00000001\tsame\tvmlinux\tEXPORT_SYMBOL\t\n\
                       0x00000002\tother\tvmlinux\tEXPORT_SYMBOL\t\n\
                       0x00000003\tlong\tvmlinux\tEXPORT_SYMBOL_GPL\t\n\
                       0x00000004\tspaced\tvmlinux\tEXPORT_SYMBOL_GPL\tSOUND\n\
                       0x00000005\tforkvm\tvmlinux\tEXPORT_SYMBOL_GPL\tmodule:kvm-*\n";
        let symvers = Symvers::parse(symvers).unwrap();
        let mut versions = Vec::new();
        for (crc, name) in [(1u64, "same"), (9, "other")] {
            let mut entry = [0; 64];
            entry[..8].copy_from_slice(&crc.to_le_bytes());
            entry[8..8 + name.len()].copy_from_slice(name.as_bytes());
            versions.extend(entry);
        }
        let mut module = Object {
            little_endian: true,
            sections: vec![
                section("__versions", &versions),
                section("__version_ext_crcs", &7u32.to_le_bytes()),
                section("__version_ext_names", b"long\0"),
            ],
            symbols: undefined(&["same", "other", "long", "none", "spaced", "forkvm"]),
            ..Object::default()
        };
        assert_eq!(
            said(&imports(&symvers, &module, "livepatch_x", false)),
            [
                "`other` has CRC 0x00000002 in this kernel and 0x00000009 in the module [crc-mismatch]",
                "`long` has CRC 0x00000003 in this kernel and 0x00000007 in the module [crc-mismatch]",
                "`none` is exported by nothing in this kernel [unresolved-symbol]",
                "`spaced` is exported in `SOUND`, and the module does not import that [missing-namespace]",
                "`forkvm` is exported in `module:kvm-*`, and the module does not import that [missing-namespace]",
            ]
        );
        module.symbols = undefined(&["spaced", "forkvm"]);
        module.sections.push(section(".modinfo", b"import_ns=SOUND\0"));
        assert_eq!(said(&imports(&symvers, &module, "kvm_intel", false)), [""; 0]);
    }

    /// A site may name a trampoline only where its key is not exported.
    #[test]
    fn static_call_sites() {
        let exports = "0x0\t__SCT__shown\tvmlinux\tEXPORT_SYMBOL\t\n0x0\t__SCK__shown\tvmlinux\tEXPORT_SYMBOL\t\n\
                       0x0\t__SCT__half\tvmlinux\tEXPORT_SYMBOL\t\n";
        let symvers = Symvers::parse(exports).unwrap();
        let symbols = undefined(&["__SCT__shown", "__SCK__shown", "__SCT__half"]);
        let sites = |names: &[usize]| {
            let reloc = |at: &usize| Reloc { r_offset: 4, r_type: 2, symbol: Some(SymbolId(*at as u32)), r_addend: 0 };
            let relocs = names.iter().map(reloc).collect();
            let sections = vec![Section { relocs, ..section(".static_call_sites", &[0; 8]) }];
            said(&readback::static_calls(&Object { sections, symbols: symbols.clone(), ..Object::default() }, &symvers))
        };
        assert_eq!(sites(&[1, 2]), [""; 0]);
        assert_eq!(
            sites(&[0]),
            ["a static call site names `__SCT__shown` and not its key, which this kernel exports: it would not load \
              [format-rule]"]
        );
    }

    /// A position the kernel would not find, or that would mean another symbol than the module thinks.
    #[test]
    fn positions() {
        let symbol = |name: &str, address| KernelSymbol {
            name: name.to_owned(),
            address,
            size: None,
            binding: Binding::Local,
            kind: Kind::Func,
            file: None,
            init: false,
        };
        let table = SymbolTable::new(vec![symbol("one", 1), symbol("two", 2), symbol("two", 3)], Vec::new());
        let said =
            |name: &str, position| unresolvable(&table, name, position).map(|(reason, why)| (reason.code(), why));
        assert_eq!(said("one", 0), None);
        assert_eq!(said("one", 1), None);
        assert_eq!(said("two", 2), None);
        assert_eq!(said("none", 0), Some(("unresolved-symbol", "is not in the object".to_owned())));
        let text = "is one of 2, and the module says that there is one";
        assert_eq!(said("two", 0), Some(("ambiguous-symbol", text.to_owned())));
        assert_eq!(said("two", 3), Some(("unresolved-symbol", "is not there: there are 2".to_owned())));
    }
}
