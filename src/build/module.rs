//! From the plan to the module's file: link, livepatch sections, checks, signature.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::check;
use crate::diff::names;
use crate::elf;
use crate::emit::init::{self, ReplaceMode};
use crate::emit::plan::Plan;
use crate::emit::{self, finish, link, readback};
use crate::error::Refusal;
use crate::kernel::Kernel;
use crate::kernel::abi::Replace;
use crate::kernel::unit::Unit;
use crate::output;
use crate::reloc::indirect::Gate;
use crate::report::Report;
use crate::request::Request;

/// objtool's arguments, where kbuild runs it on units and not on a linked module: without unwind data made
/// there, a livepatch's functions could not be unwound (scripts/Makefile.lib, `delay-objtool`).
pub(super) fn unit_objtool(kernel: &Kernel, units: &[Unit]) -> Option<Vec<String>> {
    const DELAYED_BY: [&str; 3] = ["LTO_CLANG", "X86_KERNEL_IBT", "KLP_BUILD"];
    if DELAYED_BY.iter().any(|option| kernel.config().is_y(option)) {
        return None;
    }
    units.iter().find_map(|unit| unit.objtool.clone())
}

/// Links, finishes and checks the module.
pub(super) fn make_module(
    kernel: &Kernel,
    request: &Request,
    plan: &Plan,
    replace: ReplaceMode,
    objtool: Option<Vec<String>>,
    work: &Path,
    report: &mut Report,
) -> Result<Vec<u8>> {
    let dir = work.join("module");
    fs::create_dir(&dir).with_context(|| format!("failed to make `{}`", dir.display()))?;
    let names: Vec<String> = request.patches.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
    let description = format!("Livepatch of {}", names.join(", "));
    // It is also in the tables; here tools can read it without knowing the kernel's structures.
    let info: Vec<(String, String)> = match (replace, kernel.abi().replace) {
        (ReplaceMode::Set(set), _) => vec![("replace_set".to_owned(), set.to_string())],
        (ReplaceMode::All, _) => vec![("replace".to_owned(), "Y".to_owned())],
        (ReplaceMode::Nothing, Replace::Boolean) => vec![("replace".to_owned(), "N".to_owned())],
        (ReplaceMode::Nothing, _) => Vec::new(),
    };
    if plan.held.iter().any(|name| names::is_alloc_tag_counters(name, ".data..percpu")) {
        report.warnings.push(
            "the livepatch allocates memory, and this kernel counts what a module allocates in memory that goes with the module \
             (CONFIG_MEM_ALLOC_PROFILING): the module can be disabled but never be removed"
                .to_owned(),
        );
    }
    let stays = !plan.held.is_empty();
    let text = init::render(&request.name, &description, &plan.tables, &plan.states, replace, stays, &info);
    let objtool = objtool.map(|args| {
        let program = kernel.module_build_dir().join("tools/objtool/objtool").display().to_string();
        std::iter::once(program).chain(args).collect()
    });
    let how = link::Link {
        name: &request.name,
        build_dir: kernel.module_build_dir(),
        make_vars: kernel.make_vars(),
        jobs: request.jobs,
        objtool,
    };
    let link::Linked { module: path, said } = link::link(plan, &text, &how, &dir)?;
    // What objtool does not understand it cannot give unwind data.
    let said = said.into_iter().filter(|line| !is_about_table(line));
    let (warnings, notes): (Vec<_>, Vec<_>) = said.partition(|line| line.contains("objtool:"));
    report.warnings.extend(warnings);
    report.notes.extend(notes);
    let bytes = fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let linked = elf::read(&bytes).context("failed to read the linked module")?;
    let module = finish::finish(linked, &plan.link_names).context("failed to finish the module")?;
    let bytes = elf::write(&module).context("failed to write the module")?;
    report.refusals.extend(readback::check(&bytes, plan, kernel.symvers())?);
    if kernel.config().is_y("UNWINDER_ORC") {
        report.refusals.extend(readback::unwindable(&module));
    }
    if let Some(before) = Gate::of_kernel(kernel.config()).hash {
        report.refusals.extend(readback::hashes(&module, before));
    }
    // kbuild takes the release and the CRCs from the build directory, which may have been built again since.
    report.refusals.extend(check::built_for(kernel, &module).into_iter().map(|refusal| Refusal {
        advice: format!(
            "`{}`, where the module was linked, is not of this kernel: name the build directory that it was built in",
            kernel.module_build_dir().display()
        ),
        ..refusal
    }));
    Ok(bytes)
}

/// Whether objtool asks for an ENDBR because the address of a static function stands in our own `struct klp_func` table (it
/// knows the table of upstream's tool by its section). The livepatch core never jumps there: ftrace returns to it.
fn is_about_table(line: &str) -> bool {
    let table = line.split("objtool: ").nth(1).and_then(|said| said.strip_prefix("functions_"));
    table.is_some_and(|said| {
        said.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("+0x")
            && said.contains(": data relocation to !ENDBR: ")
    })
}

/// Signs the module where there is a key.
pub(super) fn sign_module(kernel: &Kernel, request: &Request, module: Vec<u8>, work: &Path) -> Result<(Vec<u8>, bool)> {
    let Some(pair) = emit::sign::choose(kernel, request.sign.as_ref()) else { return Ok((module, false)) };
    let path = work.join("to-sign.ko");
    fs::write(&path, &module).with_context(|| format!("failed to write `{}`", path.display()))?;
    emit::sign::sign(kernel, &pair, &path)?;
    let signed = fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok((signed, true))
}

/// Writes the module.
pub(super) fn write_module(path: &Path, bytes: &[u8]) -> Result<()> {
    // A build for several kernels has a directory for each.
    let dir = output::folder(path);
    fs::create_dir_all(&dir).with_context(|| format!("failed to make `{}`", dir.display()))?;
    output::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what objtool says of the table goes, and nothing else that it says of ENDBRs.
    #[test]
    fn warnings_about_the_table() {
        assert!(is_about_table("x.o: warning: objtool: functions_0+0x8: data relocation to !ENDBR: qdisc_create+0x0"));
        assert!(is_about_table("x.o: warning: objtool: functions_12+0x28: data relocation to !ENDBR: f+0x0"));
        assert!(!is_about_table("x.o: warning: objtool: ops+0x8: data relocation to !ENDBR: f+0x0"));
        assert!(!is_about_table("x.o: warning: objtool: functions_x+0x8: data relocation to !ENDBR: f+0x0"));
        assert!(!is_about_table("x.o: warning: objtool: functions_0+0x8: something else"));
    }
}
