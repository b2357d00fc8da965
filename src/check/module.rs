//! A module by itself: what keeps it from loading on a kernel, whatever else is loaded there.
//!
//! In: a module and a kernel. Out: a refusal for each reason of the loader (kernel/module/) and of the livepatch core: version
//! magic, signature, exports with their CRCs and namespaces, livepatch sections, positions of symbols and of replaced
//! functions, unwind data, the members of `struct klp_patch`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::Result;

use super::{Candidate, Finding, about};
use crate::elf::klp::KlpSymbol;
use crate::elf::object::stb;
use crate::elf::{Object, Place, Symbol};
use crate::emit::readback;
use crate::error::{Reason, Refusal};
use crate::inspect::Inspection;
use crate::kernel::Kernel;
use crate::kernel::abi::Replace;
use crate::kernel::config::Config;
use crate::kernel::symtab::{Kind, SymbolTable};
use crate::kernel::symvers::Symvers;
use crate::verify::{self, Loaded};

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
    refusals.extend(versions(kernel.symvers(), module, config));
    refusals.extend(terms(module));
    refusals.extend(repeated(found));
    refusals.extend(unhookable(kernel, found)?);
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

/// Whether a module says that it is for this kernel: version magic, and the CRCs of what it imports.
pub fn built_for(kernel: &Kernel, module: &Object) -> Vec<Refusal> {
    let vermagic = readback::modinfo(module, "vermagic").next().unwrap_or_default();
    let mut refusals: Vec<Refusal> = magic(&vermagic, kernel.release(), kernel.config()).into_iter().collect();
    refusals.extend(mismatches(kernel.symvers(), module).into_values());
    refusals
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
    // Before 5.16 there is no PREEMPT_BUILD; since then PREEMPT selects it.
    let preempt = match (config.is_y("PREEMPT_RT"), config.is_y("PREEMPT_BUILD") || config.is_y("PREEMPT")) {
        // A kernel may have both, and which word comes first has changed.
        (true, true) if has.contains("preempt") => "preempt",
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
    let mut mismatches = mismatches(symvers, module);
    let imported: BTreeSet<String> = readback::modinfo(module, "import_ns").collect();
    for symbol in module.symbols.iter().filter(|s| s.place == Place::Undefined && !s.name.is_empty()) {
        let Some(export) = symvers.get(&symbol.name) else {
            if symbol.st_bind != stb::WEAK {
                let message = format!("`{}` is exported by nothing in this kernel", symbol.name);
                refusals.push(Refusal::new(Reason::UnresolvedSymbol, message, REBUILD).symbol(&symbol.name));
            }
            continue;
        };
        refusals.extend(mismatches.remove(&symbol.name));
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

/// CRCs that the loader asks for and the module does not have (kernel/module/version.c `check_version`): of its own layout always,
/// and of each import unless it has the extended form, which may leave some out.
fn versions(symvers: &Symvers, module: &Object, config: &Config) -> Vec<Refusal> {
    if !config.is_y("MODVERSIONS") {
        return Vec::new();
    }
    let crcs = crcs(module);
    let has = |name: &str| module.sections.iter().any(|s| s.name == name);
    let (is_extended, is_classic) = (has("__version_ext_crcs"), has("__versions"));
    let mut refusals = Vec::new();
    if let (Some(export), Some(crc)) = (symvers.get("module_layout"), crcs.get("module_layout"))
        && export.crc != 0
        && *crc != export.crc
    {
        let message =
            format!("a module's layout has CRC {:#010x} in this kernel and {crc:#010x} in the module", export.crc);
        refusals.push(Refusal::new(Reason::CrcMismatch, message, REBUILD).symbol("module_layout"));
    }
    if is_extended || (!is_classic && config.is_y("MODULE_FORCE_LOAD")) {
        return refusals;
    }
    let undefined = module.symbols.iter().filter(|s| s.place == Place::Undefined && !s.name.is_empty());
    let names = undefined.map(|s| s.name.as_str()).chain(["module_layout"]);
    let missing: BTreeSet<&str> = names
        .filter(|name| symvers.get(name).is_some_and(|export| export.crc != 0) && !crcs.contains_key(*name))
        .collect();
    refusals.extend(missing.into_iter().map(|name| {
        let message = format!("`{name}` has a CRC in this kernel, and the module says none");
        Refusal::new(Reason::CrcMismatch, message, REBUILD).symbol(name)
    }));
    refusals
}

/// What the module says of itself and the loader does not accept: `klp_enable_patch` is for GPL modules only, and namespaces of modules
/// are implicit (kernel/module/main.c `copy_modinfo_import_ns`).
fn terms(module: &Object) -> Vec<Refusal> {
    // include/linux/license.h
    const GPL: [&str; 6] =
        ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];
    let mut refusals = Vec::new();
    let license = readback::modinfo(module, "license").next();
    if !license.as_deref().is_some_and(|license| GPL.contains(&license)) {
        let said = license.map_or("none".to_owned(), |license| format!("`{license}`"));
        let message =
            format!("the module's licence is {said}, and the kernel gives `klp_enable_patch` to GPL modules only");
        refusals.push(Refusal::new(Reason::FormatRule, message, "say MODULE_LICENSE(\"GPL\")"));
    }
    for namespace in readback::modinfo(module, "import_ns").filter(|namespace| namespace.starts_with("module:")) {
        let message = format!("the module imports the namespace `{namespace}`, which the loader allows nobody");
        refusals.push(Refusal::new(Reason::MissingNamespace, message, "take the MODULE_IMPORT_NS out"));
    }
    refusals
}

/// Objects and functions that stand there twice: both would have the same directory below /sys/kernel/livepatch
/// (kernel/livepatch/core.c `klp_init_object_loaded`, `klp_init_func`, where position 0 is written as 1).
fn repeated(found: &Inspection) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut objects = BTreeSet::new();
    for object in &found.objects {
        if !objects.insert(&object.name) {
            let message = format!("the object `{}` stands in the module's table twice", object.name);
            refusals.push(Refusal::new(Reason::FormatRule, message, REBUILD).object(&object.name));
        }
        let mut functions = BTreeSet::new();
        for function in &object.functions {
            if !functions.insert((&function.function, function.sympos.max(1))) {
                let message = format!("`{},{}` is replaced twice", function.function, function.sympos);
                let refusal = Refusal::new(Reason::FormatRule, message, REBUILD);
                refusals.push(refusal.object(&object.name).symbol(&function.function));
            }
        }
    }
    refusals
}

/// Functions that the module replaces twice, by two names of one address: only one of the replacements would run. A core with sets
/// refuses that, unless both are the same code; the others let it pass, and then one step down the stack is not what tasks ran.
pub(super) fn twice(
    found: &Inspection,
    has: Replace,
    table: impl Fn(&str) -> Option<Arc<SymbolTable>>,
) -> Vec<Finding> {
    let module = found.name.replace('-', "_");
    let mut findings = Vec::new();
    for object in &found.objects {
        let Some(table) = table(&object.name) else { continue };
        let functions = &object.functions;
        for (first, second) in table.twice(functions.iter().map(|f| (f.function.as_str(), f.sympos))) {
            let (first, second) = (&functions[first], &functions[second]);
            let one_code = first.code.is_some() && first.code == second.code;
            // A name that stands there twice is said by `repeated`.
            if first.function == second.function || has == Replace::Set && one_code {
                continue;
            }
            let [a, b] = [first, second].map(|f| format!("`{},{}`", f.function, f.sympos));
            let message = format!("{a} and {b} are one function, which `{module}` replaces twice");
            let refusal = about(Reason::FormatRule, &object.name, &second.function, message, "replace it by one name");
            findings.push(match has {
                Replace::Set => Finding::error(&module, refusal),
                _ => Finding::warning(&module, refusal),
            });
        }
    }
    findings
}

/// Functions to be replaced that ftrace knows no place of (kernel/livepatch/patch.c `klp_patch_func`), as far as an image tells.
fn unhookable(kernel: &Kernel, found: &Inspection) -> Result<Vec<Refusal>> {
    let mut refusals = Vec::new();
    // Elsewhere the call is not behind the entry (arm64 has it before).
    if !kernel.config().is_y("X86_64") {
        return Ok(refusals);
    }
    for object in found.objects.iter().filter(|object| !object.functions.is_empty()) {
        let Some(loaded) = verify::load(kernel, &object.name)? else { continue };
        for function in &object.functions {
            let named = loaded.table().named(&function.function);
            let Some(at) = named.get((function.sympos.max(1) - 1) as usize) else { continue };
            let symbol = &loaded.table().symbols[*at as usize];
            let why = if symbol.kind == Kind::Object {
                "is data"
            } else if symbol.init {
                "is gone after boot"
            } else if is_without_call(&loaded, symbol.address) {
                "has no ftrace call site"
            } else {
                continue;
            };
            let message = format!("`{},{}` {why}, so it cannot be replaced", function.function, function.sympos);
            let refusal = Refusal::new(Reason::NotHookable, message, "replace functions that call it");
            refusals.push(refusal.object(&object.name).symbol(&function.function));
        }
    }
    Ok(refusals)
}

/// Whether the table of call sites is known and has none behind this function's entry (an ENDBR or padding comes before the call).
fn is_without_call(loaded: &Loaded, address: u64) -> bool {
    const ENTRY: u64 = 16;
    loaded.has_call_site(address..address + ENTRY) == Some(false)
}

/// Imports that have another CRC in this kernel, by name.
fn mismatches(symvers: &Symvers, module: &Object) -> BTreeMap<String, Refusal> {
    let crcs = crcs(module);
    let undefined = module.symbols.iter().filter(|s| s.place == Place::Undefined);
    let mismatch = |symbol: &Symbol| {
        let (crc, export) = (crcs.get(&symbol.name)?, symvers.get(&symbol.name)?);
        let message =
            format!("`{}` has CRC {:#010x} in this kernel and {crc:#010x} in the module", symbol.name, export.crc);
        let refusal = Refusal::new(Reason::CrcMismatch, message, REBUILD).symbol(&symbol.name);
        (export.crc != 0 && *crc != export.crc).then(|| (symbol.name.clone(), refusal))
    };
    undefined.filter_map(mismatch).collect()
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
    use crate::elf::{Section, SectionId, SymbolId};
    use crate::inspect::{Function, PatchedObject, inspect};
    use crate::kernel::symtab::{Binding, KernelSymbol};

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
        let with = |options: &str, word: &str| {
            let config = Config::parse(options).unwrap();
            magic(&format!("7.3.4 {word} "), "7.3.4", &config).map(|refusal| refusal.to_string())
        };
        let both = "CONFIG_PREEMPT_RT=y\nCONFIG_PREEMPT_BUILD=y\n";
        for (options, word) in [
            ("CONFIG_PREEMPT=y\n", "preempt"),
            ("CONFIG_PREEMPT_RT=y\n", "preempt_rt"),
            (both, "preempt"),
            (both, "preempt_rt"),
        ] {
            assert_eq!(with(options, word), None, "{options}");
        }
        assert!(with("CONFIG_PREEMPT_RT=y\n", "preempt").is_some() && with(both, "").is_some());
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

    /// What would fail in the loader or in sysfs: no CRC, another layout, another licence, a module's namespace, the same twice.
    #[test]
    fn what_the_loader_asks_for() {
        let symvers = Symvers::parse(
            "0x00000001\tsame\tvmlinux\tEXPORT_SYMBOL\t\n0x00000002\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n",
        )
        .unwrap();
        let entry = |crc: u64, name: &str| {
            let mut entry = [0; 64];
            entry[..8].copy_from_slice(&crc.to_le_bytes());
            entry[8..8 + name.len()].copy_from_slice(name.as_bytes());
            entry.to_vec()
        };
        let module =
            |sections| Object { little_endian: true, sections, symbols: undefined(&["same"]), ..Object::default() };
        let (strict, lax) = ("CONFIG_MODVERSIONS=y\n", "CONFIG_MODVERSIONS=y\nCONFIG_MODULE_FORCE_LOAD=y\n");
        let asked = |sections, config| said(&versions(&symvers, &module(sections), &Config::parse(config).unwrap()));
        let none = |name: &str| format!("`{name}` has a CRC in this kernel, and the module says none [crc-mismatch]");
        let classic = |entries: [Vec<u8>; 2]| vec![section("__versions", &entries.concat())];
        assert_eq!(asked(classic([entry(1, "same"), entry(2, "module_layout")]), strict), [""; 0]);
        assert_eq!(asked(classic([entry(2, "module_layout"), Vec::new()]), lax), [none("same")]);
        let layout = "a module's layout has CRC 0x00000002 in this kernel and 0x00000003 in the module [crc-mismatch]";
        assert_eq!(asked(classic([entry(1, "same"), entry(3, "module_layout")]), strict), [layout]);
        assert_eq!(asked(Vec::new(), strict), [none("module_layout"), none("same")]);
        assert_eq!(asked(Vec::new(), lax), [""; 0]);
        let of = |info: &[u8]| said(&terms(&module(vec![section(".modinfo", info)])));
        assert_eq!(of(b"license=Dual MIT/GPL\0"), [""; 0]);
        assert_eq!(
            of(b"license=Proprietary\0import_ns=module:kvm\0import_ns=SOUND\0"),
            [
                "the module's licence is `Proprietary`, and the kernel gives `klp_enable_patch` to GPL modules only [format-rule]",
                "the module imports the namespace `module:kvm`, which the loader allows nobody [missing-namespace]",
            ]
        );
    }

    fn symbol(name: &str, address: u64) -> KernelSymbol {
        let (binding, kind) = (Binding::Local, Kind::Func);
        KernelSymbol {
            name: name.to_owned(),
            address,
            size: None,
            binding,
            kind,
            file: None,
            init: false,
            section: None,
        }
    }

    /// Two names of one function in one module: a core with sets refuses two replacements; the same one twice is none.
    #[test]
    fn one_function_replaced_twice() {
        let names = ["f", "also_f", "g"].into_iter().zip([16, 16, 32]);
        let table = Arc::new(SymbolTable::new(names.map(|(name, at)| symbol(name, at)).collect(), Vec::new()));
        let said = |names: &[(&str, u64)], has| -> Vec<String> {
            let function = |(name, code): &(&str, u64)| Function {
                function: (*name).to_owned(),
                sympos: 0,
                code: Some((SectionId(1), *code)),
            };
            let functions = names.iter().map(function).collect();
            let info = section(".modinfo", b"livepatch=Y\0name=livepatch-x\0");
            let mut found = inspect(&Object { sections: vec![info], ..Object::default() }).unwrap();
            found.objects = vec![PatchedObject { name: "vmlinux".to_owned(), functions, callbacks: Vec::new() }];
            let findings = twice(&found, has, |object| (object == "vmlinux").then(|| table.clone()));
            findings.iter().map(|finding| format!("{:?}: {}", finding.severity, finding.what)).collect()
        };
        let text = "vmlinux: `f,0` and `also_f,0` are one function, which `livepatch_x` replaces twice [format-rule]";
        assert_eq!(said(&[("f", 0), ("g", 16), ("also_f", 32)], Replace::Set), [format!("Error: {text}")]);
        assert_eq!(said(&[("f", 0), ("also_f", 32)], Replace::Boolean), [format!("Warning: {text}")]);
        assert_eq!(said(&[("f", 0), ("also_f", 0)], Replace::Set), [""; 0]);
        assert_eq!(said(&[("f", 0), ("also_f", 0)], Replace::Boolean), [format!("Warning: {text}")]);
        assert_eq!(said(&[("f", 0), ("g", 16), ("elsewhere", 32)], Replace::Set), [""; 0]);
    }

    /// A position the kernel would not find, or that would mean another symbol than the module thinks.
    #[test]
    fn positions() {
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
