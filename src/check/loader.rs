//! What the loader itself asks of a module (kernel/module/): version magic, exports with their CRCs and namespaces, licence.
//!
//! In: a module, and what the kernel exports and how it is configured. Out: a refusal for each thing that it would not accept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::module::REBUILD;
use crate::elf::object::stb;
use crate::elf::{Object, Place, Symbol};
use crate::emit::readback;
use crate::error::{Reason, Refusal};
use crate::kernel::Kernel;
use crate::kernel::config::Config;
use crate::kernel::symvers::Symvers;

/// Whether a module says that it is for this kernel: version magic, and the CRCs of what it imports.
pub fn built_for(kernel: &Kernel, module: &Object) -> Vec<Refusal> {
    let vermagic = readback::modinfo(module, "vermagic").next().unwrap_or_default();
    let mut refusals: Vec<Refusal> = magic(&vermagic, kernel.release(), kernel.config()).into_iter().collect();
    refusals.extend(mismatches(kernel.symvers(), module).into_values());
    refusals
}

/// Whether the version magic is this kernel's (include/linux/vermagic.h).
///
/// With CONFIG_MODVERSIONS the loader forgives another release (kernel/module/version.c `same_magic`), since exports have
/// CRCs. What a livepatch replaces has none, so another release is an error here in any case.
pub(super) fn magic(magic: &str, release: &str, config: &Config) -> Option<Refusal> {
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

/// Undefined symbols: exported at all, with the same CRC, and to this module.
pub(super) fn imports(symvers: &Symvers, module: &Object, name: &str, may_miss: bool) -> Vec<Refusal> {
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
pub(super) fn versions(symvers: &Symvers, module: &Object, config: &Config) -> Vec<Refusal> {
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
pub(super) fn terms(module: &Object) -> Vec<Refusal> {
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
    use super::super::samples::{said, section, undefined};
    use super::*;

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
}
