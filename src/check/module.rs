//! A module by itself: what keeps it from loading on a kernel, whatever else is loaded there.
//!
//! In: a module and a kernel. Out: a refusal for each reason of the loader (kernel/module/) and of the livepatch core: what
//! `loader.rs` has, signature, livepatch sections, positions of symbols and of replaced functions, unwind data, the members of
//! `struct klp_patch`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;

use super::{Candidate, Finding, about, loader};
use crate::elf::klp::KlpSymbol;
use crate::elf::{Object, Place};
use crate::emit::readback;
use crate::error::{Reason, Refusal};
use crate::inspect::Inspection;
use crate::kernel::Kernel;
use crate::kernel::abi::Replace;
use crate::kernel::symtab::{Kind, SymbolTable};
use crate::reloc::indirect::Gate;
use crate::verify::{self, Loaded};

pub(super) const REBUILD: &str = "build the livepatch for this kernel";

/// Everything that keeps a module from loading.
///
/// # Errors
///
/// When the kernel's tables cannot be read.
pub fn module(kernel: &Kernel, candidate: &Candidate, notes: &mut Vec<String>) -> Result<Vec<Refusal>> {
    let Candidate { object: module, found, .. } = candidate;
    let mut refusals = Vec::new();
    let config = kernel.config();
    refusals.extend(loader::magic(found.vermagic.as_deref().unwrap_or_default(), kernel.release(), config));
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
    refusals.extend(loader::imports(kernel.symvers(), module, &name, may_miss));
    refusals.extend(loader::versions(kernel.symvers(), module, config));
    refusals.extend(loader::terms(module));
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
    if let Some(before) = Gate::of_kernel(config).hash {
        let unlisted = readback::hashes(module, before).into_iter();
        refusals.extend(unlisted.map(|rule| Refusal { advice: REBUILD.to_owned(), ..rule }));
    }
    let mut unseen = BTreeSet::new();
    for ((object, symbol), positions) in &wanted(module, found) {
        if object != "vmlinux" && kernel.module_file(object)?.is_none() {
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

#[cfg(test)]
mod tests {
    use super::super::samples::{said, section, undefined};
    use super::*;
    use crate::elf::object::Reloc;
    use crate::elf::{Section, SectionId, SymbolId};
    use crate::inspect::{Function, PatchedObject, inspect};
    use crate::kernel::symtab::{Binding, KernelSymbol};
    use crate::kernel::symvers::Symvers;

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
