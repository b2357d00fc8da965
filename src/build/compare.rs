//! From two objects per unit to patch objects: verdicts, proof against the image, references.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;

use super::indirect;
use super::inputs::Workbench;
use super::moved;
use super::owners;
use crate::check::live::always_running;
use crate::diff::verdict::Elsewhere;
use crate::diff::{self, Diff, closure, names};
use crate::elf::{self, Object};
use crate::emit::plan::UnitPatch;
use crate::emit::{self, readback};
use crate::error::{Reason, Refusal};
use crate::kernel::Kernel;
use crate::kernel::codec;
use crate::kernel::symtab::SymbolTable;
use crate::kernel::unit::Unit;
use crate::reloc::indirect::Gate;
use crate::reloc::{self, World};
use crate::report::Report;
use crate::request::Request;
use crate::verify::{self, Evidence, Loaded};

/// The verdict on each pair, in the order of the units.
pub(super) fn compare<'o>(
    bench: Workbench<'_>,
    units: &[Unit],
    objects: &'o [(usize, Object, Object)],
    report: &mut Report,
) -> Result<Vec<(usize, Diff<'o>)>> {
    let tags = fs::read_to_string(bench.kernel.source().join("include/linux/alloc_tag.h"));
    let makes_counters = tags.is_ok_and(|header| diff::alloc_tags::are_counters_made_at_load(&header));
    let options = |unit: &Unit| diff::Options {
        makes_counters,
        require_call_sites: true,
        carry_tables: bench.request.carry_tables,
        built_in: unit.object == "vmlinux",
    };
    let mut diffs: Vec<(usize, Diff<'o>)> = objects
        .par_iter()
        .map(|(unit, original, patched)| {
            let diff = diff::diff(original, patched, options(&units[*unit]))
                .with_context(|| format!("failed to compare `{}`", units[*unit].target.display()))?;
            Ok((*unit, diff))
        })
        .collect::<Result<_>>()?;
    // One after the other: each compiles with all the jobs there are.
    for ((index, original, patched), (_, diff)) in objects.iter().zip(&mut diffs) {
        let unit = &units[*index];
        if closure::asks_for_owners(diff)
            && let Some(settled) = owners::settle(bench, unit, (original, patched), options(unit))?
        {
            *diff = settled;
        }
    }
    report.refusals.extend(moved::settle(bench.kernel, units, &mut diffs)?);
    // What moved into another file and became static there has no callers but those that are compiled again.
    let new = diffs.iter().flat_map(|(_, diff)| &diff.functions).filter(|f| f.verdict == diff::Verdict::New);
    let come: HashSet<String> = new.map(|f| names::stem(&f.name).into_owned()).collect();
    for (unit, diff) in &diffs {
        let unit = &units[*unit];
        report.add(&unit.object, Some(&unit.source.display().to_string()), diff);
        report.notes.extend(diff.notes.iter().map(|note| format!("{}: {note}", unit.object)));
        report.warnings.extend(diff.warnings.iter().map(|warning| format!("{}: {warning}", unit.object)));
        let removed = diff.removed_globals().filter(|name| !come.contains(*name));
        report.warnings.extend(removed.map(|name| diff::removed_warning(&unit.object, name)));
        report.refusals.extend(diff.refusals.iter().cloned().map(|r| r.object(&unit.object)));
        let changed = diff.functions.iter().filter(|f| f.verdict == diff::Verdict::Changed);
        report.warnings.extend(changed.filter_map(|f| {
            let why = always_running(&unit.object, &f.name)?;
            Some(format!("{}: {why} [{}]", unit.object, Reason::AlwaysRunning))
        }));
        if !diff.is_empty() && carries_livepatches_out(&unit.source) {
            report.refusals.push(recursion(unit));
        }
    }
    Ok(diffs)
}

/// Whether the code in this file is what redirects functions and looks at stacks: were one of its functions
/// redirected, it would be in the middle of doing so.
fn carries_livepatches_out(source: &Path) -> bool {
    const FILES: [&str; 6] = [
        "kernel/trace/ftrace.c",
        "kernel/trace/trace_functions.c",
        "kernel/stacktrace.c",
        "arch/x86/kernel/ftrace.c",
        "arch/x86/kernel/stacktrace.c",
        "arch/x86/kernel/unwind_orc.c",
    ];
    source.starts_with("kernel/livepatch") || FILES.iter().any(|file| source == Path::new(file))
}

fn recursion(unit: &Unit) -> Refusal {
    let source = unit.source.display();
    Refusal::new(
        Reason::Recursion,
        format!("`{source}` is part of what carries a livepatch out, and cannot be changed by one"),
        "fix it with a new kernel",
    )
    .object(&unit.object)
}

/// What the units' objects are checked against, where it is known.
pub(super) fn load(kernel: &Kernel, units: &[Unit]) -> Result<BTreeMap<String, Loaded>> {
    let objects: BTreeSet<&str> = units.iter().map(|unit| unit.object.as_str()).collect();
    let load = |object: &str| -> Result<Option<(String, Loaded)>> {
        Ok(verify::load(kernel, object)?.map(|loaded| (object.to_owned(), loaded)))
    };
    objects.into_iter().filter_map(|object| load(object).transpose()).collect()
}

/// Whether the kernel holds what the functions to be replaced were compiled to.
pub(super) fn verify(
    kernel: &Kernel,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    request: &Request,
    loaded: &BTreeMap<String, Loaded>,
    report: &mut Report,
) -> Result<()> {
    if request.no_verify {
        report.warnings.push(
            "NOT VERIFIED, as --no-verify asks: nothing says that the kernel holds the code that this patch was compiled \
             against; if it does not, the livepatch can crash it"
                .to_owned(),
        );
        return Ok(());
    }
    let mut verified = 0;
    for (index, diff) in diffs {
        let unit = &units[*index];
        let changed = diff.functions.iter().filter(|f| f.verdict == diff::Verdict::Changed);
        let which: Vec<_> = changed.filter_map(|f| f.original).chain(diff.moved_away.iter().copied()).collect();
        if which.is_empty() {
            continue;
        }
        let Some(loaded) = loaded.get(&unit.object) else {
            report.warnings.push(format!(
                "not verified: no image of `{}` is known to check `{}` against (--image, --modules)",
                unit.object,
                unit.source.display()
            ));
            continue;
        };
        match verify::verify_unit(&diff.original, &which, loaded) {
            Err(error) => report.warnings.push(format!("not verified: {error:#}")),
            Ok(findings) => {
                verified += findings.iter().filter(|f| f.is_equal() && which.contains(&f.atom)).count();
                let evidence = Evidence::gather(loaded, diff.original.object, kernel.release());
                report.refusals.extend(findings.iter().filter_map(|f| f.refusal(&unit.object, &evidence)));
            }
        }
    }
    report.verified = Some(verified);
    if verified == 0 {
        return Ok(());
    }
    let is = if verified == 1 { "function is" } else { "functions are" };
    report.notes.push(format!("verified: {verified} {is} in the kernel as compiled here"));
    Ok(())
}

/// Closure, references and patch object of each unit.
pub(super) fn resolve(
    kernel: &Kernel,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    request: &Request,
    loaded: &BTreeMap<String, Loaded>,
    report: &mut Report,
) -> Result<Vec<UnitPatch>> {
    let mut new_globals: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (index, diff) in diffs {
        new_globals.entry(&units[*index].object).or_default().extend(diff.new_global_names());
    }
    let vmlinux = kernel.symbols("vmlinux").context("failed to read the kernel's symbols")?;
    let mut parts = Vec::new();
    let mut given_away = Vec::new();
    for (index, diff) in diffs.iter().filter(|(_, d)| !d.is_empty()) {
        let unit = &units[*index];
        let own: Arc<SymbolTable> =
            if unit.object == "vmlinux" { vmlinux.clone() } else { kernel.symbols(&unit.object)? };
        let depends = depends(kernel, unit, diff)?;
        let symbols = |module: &String| Some((module.clone(), kernel.symbols(module).ok()?));
        let theirs: BTreeMap<String, Arc<SymbolTable>> = depends.iter().filter_map(symbols).collect();
        // A module may use what the patch adds to vmlinux, unless it means its own by the name. Not the other way round.
        let mut linked = new_globals[unit.object.as_str()].clone();
        if unit.object != "vmlinux" {
            let added = new_globals.get("vmlinux").into_iter().flatten();
            linked.extend(added.filter(|name| own.global(name).is_none()).cloned());
        }
        let world = World {
            object: &unit.object,
            symvers: kernel.symvers(),
            vmlinux: Some(&vmlinux),
            own: Some(&own),
            depends: &depends,
            new_globals: &linked,
            gate: Gate::of_kernel(kernel.config()),
            theirs: &theirs,
        };
        let closure = diff::closure::closure(diff);
        let resolved = reloc::resolve(diff, &closure, &world);
        if let Some(loaded) = loaded.get(&unit.object) {
            let evidence = Evidence::gather(loaded, diff.original.object, kernel.release());
            let (_, wrong) = verify::data::sizes(diff.original.object, &closure, loaded, &evidence);
            report.refusals.extend(wrong.into_iter().map(|r| r.object(&unit.object)));
        }
        report
            .refusals
            .extend(closure.refusals.iter().chain(&resolved.refusals).cloned().map(|r| r.object(&unit.object)));
        report.warnings.extend(resolved.warnings.iter().cloned());
        given_away.extend(resolved.indirect.iter().cloned().map(|given| (*index, given)));
        report
            .warnings
            .extend(diff::warnings(diff, &closure).iter().map(|warning| format!("{}: {warning}", unit.object)));
        if !resolved.account.adds_up() {
            return Err(anyhow!("the account of `{}` does not add up: {:?}", unit.target.display(), resolved.account));
        }
        report.account.add(&resolved.account);
        if request.debug {
            report.list(&unit.object, reloc::account::list(diff, &closure, &resolved));
        }
        let mut patch = emit::patch_object::build(diff, &closure, &resolved);
        for (here, elsewhere) in &diff.elsewhere {
            let Elsewhere::Moved { from, original } = elsewhere else { continue };
            match reloc::classify::Classifier::new(&diffs[*from].1, &world).replaced(*original) {
                Ok((old_name, sympos)) => patch.replace(diff.patched.name(*here), old_name, sympos),
                Err(refusal) => report.refusals.push(*refusal),
            }
        }
        report.refusals.extend(patch.refusals.iter().cloned().map(|r| r.object(&unit.object)));
        let object = report.object(&unit.object);
        for replacement in &patch.replacements {
            let name = &replacement.old_name;
            if let Some(found) =
                object.functions.iter_mut().find(|f| f.function == *name && f.unit.as_deref() == unit.source.to_str())
            {
                found.sympos = Some(replacement.sympos);
            }
        }
        object.callbacks.extend(patch.callbacks.iter().map(|c| c.kind.to_owned()));
        let mut held = diff::held(diff, &closure);
        held.extend(diff::alloc_tags::carried_counters(diff, &closure));
        parts.push(UnitPatch { target: unit.target.display().to_string(), object: unit.object.clone(), patch, held });
    }
    report.refusals.extend(twice(kernel, &parts)?);
    indirect::judge(kernel, request, units, diffs, loaded, &given_away, report)?;
    report.warnings.extend(diff::moved_calls::warnings(diffs.iter().map(|(_, diff)| diff)));
    let mut said = HashSet::new();
    report.refusals.retain(|r| said.insert((r.message.clone(), r.object.clone())));
    Ok(parts)
}

/// Functions that two units would replace: one name twice, or two names of one address. The kernel runs one of the replacements only,
/// and the runtime refuses them.
fn twice(kernel: &Kernel, parts: &[UnitPatch]) -> Result<Vec<Refusal>> {
    let mut objects: BTreeMap<&str, Vec<(&str, &str, u64)>> = BTreeMap::new();
    for part in parts {
        let replaced = part.patch.replacements.iter().map(|r| (part.target.as_str(), &*r.old_name, r.sympos.into()));
        objects.entry(&part.object).or_default().extend(replaced);
    }
    let mut refusals = Vec::new();
    for (object, functions) in objects.into_iter().filter(|(_, functions)| functions.len() > 1) {
        let table = kernel.symbols(object)?;
        refusals.extend(replaced_twice(&table, &functions).into_iter().map(|refusal| refusal.object(object)));
    }
    Ok(refusals)
}

/// The same for one object: units with the functions they replace, and positions.
fn replaced_twice(table: &SymbolTable, functions: &[(&str, &str, u64)]) -> Vec<Refusal> {
    let pairs = table.twice(functions.iter().map(|(_, name, sympos)| (*name, *sympos)));
    let refusal = |(first, second): (usize, usize)| {
        let ((a, f, _), (b, g, _)) = (functions[first], functions[second]);
        Refusal::new(
            Reason::FormatRule,
            format!("`{f}` of {a} and `{g}` of {b} are one function of the kernel, and both change"),
            "change it in the file that the kernel has it from",
        )
        .symbol(g)
    };
    pairs.into_iter().map(refusal).collect()
}

/// Modules whose exports the patched module already uses: of this unit, and those it says it depends on.
pub(super) fn depends(kernel: &Kernel, unit: &Unit, diff: &Diff<'_>) -> Result<BTreeSet<String>> {
    let mut depends = BTreeSet::new();
    for symbol in &diff.original.object.symbols {
        if symbol.place == elf::Place::Undefined
            && let Some(export) = kernel.symvers().get(&symbol.name)
            && export.object != "vmlinux"
        {
            depends.insert(export.object.clone());
        }
    }
    if let Some(path) = kernel.module_file(&unit.object)? {
        depends.extend(says_it_depends_on(path).with_context(|| {
            format!("failed to read from `{}` which modules `{}` depends on", path.display(), unit.object)
        })?);
    }
    Ok(depends)
}

/// What a module's file, compressed or not, names in `depends=`.
fn says_it_depends_on(path: &Path) -> Result<Vec<String>> {
    let module = elf::read(&codec::plain(fs::read(path)?)?)?;
    let lists: Vec<String> = readback::modinfo(&module, "depends").collect();
    Ok(lists.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::symtab::{Binding, KernelSymbol, Kind};

    /// What two units change of one function, by one name or by two, is refused; namesakes at other addresses are not.
    #[test]
    fn one_function_of_two_units() {
        let symbol = |name: &str, address| KernelSymbol {
            name: name.to_owned(),
            address,
            size: None,
            binding: Binding::Global,
            kind: Kind::Func,
            file: None,
            init: false,
            section: None,
        };
        let list = vec![symbol("f", 16), symbol("also_f", 16), symbol("g", 32), symbol("g", 48)];
        let table = SymbolTable::new(list, Vec::new());
        let said = |functions: &[(&str, &str, u64)]| -> Vec<String> {
            replaced_twice(&table, functions).iter().map(ToString::to_string).collect()
        };
        assert_eq!(said(&[("a.o", "f", 0), ("a.o", "g", 1), ("b.o", "g", 2)]), [""; 0]);
        let text = "of a.o and `also_f` of b.o are one function of the kernel, and both change [format-rule]";
        assert_eq!(said(&[("a.o", "f", 0), ("b.o", "also_f", 0)]), [format!("`f` {text}")]);
        let text = "`f` of a.o and `f` of b.o are one function of the kernel, and both change [format-rule]";
        assert_eq!(said(&[("a.o", "f", 0), ("b.o", "f", 0)]), [text]);
    }

    /// Distributions compress modules: what they depend on is read all the same, and what is no module is no silent "nothing".
    #[test]
    fn dependencies_of_a_compressed_module() {
        use std::io::Write;
        let data = b"name=x\0depends=ext4,jbd2\0".to_vec();
        let modinfo = elf::Section {
            name: ".modinfo".to_owned(),
            sh_type: 1,
            sh_size: data.len() as u64,
            sh_addralign: 1,
            data,
            ..elf::Section::default()
        };
        let module =
            Object { e_machine: 62, is_64: true, little_endian: true, sections: vec![modinfo], ..Object::default() };
        let plain = elf::write(&module).unwrap();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&plain).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("x.ko", plain), ("x.ko.gz", packer.finish().unwrap())] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            assert_eq!(says_it_depends_on(&path).unwrap(), ["ext4", "jbd2"], "{name}");
        }
        let path = dir.path().join("cut.ko.gz");
        fs::write(&path, b"\x1f\x8b cut short").unwrap();
        assert!(says_it_depends_on(&path).is_err());
    }

    /// Protects the kernel from a livepatch of livepatching itself; files beside it are not affected.
    #[test]
    fn what_carries_livepatches_out() {
        for (file, expected) in [
            ("kernel/livepatch/transition.c", true),
            ("arch/x86/kernel/unwind_orc.c", true),
            ("kernel/trace/trace.c", false),
            ("samples/livepatch/livepatch-sample.c", false),
        ] {
            assert_eq!(carries_livepatches_out(Path::new(file)), expected, "{file}");
        }
    }
}
