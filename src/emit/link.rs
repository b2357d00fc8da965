//! The plan -> a linked module, by the kernel's own build system.
//!
//! In: a plan, the text of `init.c`, where to build. Out: the path of the `.ko` that kbuild made in the
//! private work directory. Units go in as finished objects, so that kbuild links and checks but does not
//! compile them. modpost is told to warn about undefined symbols: the livepatch ones are undefined on
//! purpose, and the finished module is checked symbol by symbol afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::plan::Plan;
use crate::compile::run;
use crate::elf;
use crate::error::ToolFailure;

/// What the link needs to know of the kernel and the run.
#[derive(Debug, Clone)]
pub struct Link<'a> {
    /// Module name, without `.ko`.
    pub name: &'a str,
    /// What `make -C` takes.
    pub build_dir: &'a Path,
    /// Variables for make, as `VAR=VALUE`.
    pub make_vars: &'a [(String, String)],
    /// Jobs at a time.
    pub jobs: usize,
    /// objtool to run on each unit, where kbuild would not run it on the finished module.
    pub objtool: Option<Vec<String>>,
}

/// What the link made.
#[derive(Debug)]
pub struct Linked {
    /// The module's file.
    pub module: PathBuf,
    /// What kbuild and objtool said, lines that mean nothing here left out.
    pub said: Vec<String>,
}

/// Links the module in `work`, which must exist and be empty.
///
/// # Errors
///
/// [`ToolFailure`] when kbuild fails.
pub fn link(plan: &Plan, init_c: &str, link: &Link<'_>, work: &Path) -> Result<Linked> {
    let write = |name: &str, bytes: &[u8]| {
        let path = work.join(name);
        fs::write(&path, bytes).with_context(|| format!("failed to write `{}`", path.display()))
    };
    let mut said = String::new();
    let stems = std::iter::once("init").chain(plan.units.iter().map(|(stem, _)| stem.as_str()));
    let stems = member_names(link.name, stems);
    let members: Vec<String> = stems.iter().map(|stem| format!("{stem}.o")).collect();
    write(&format!("{}.c", stems[0]), init_c.as_bytes())?;
    for (stem, (_, object)) in stems[1..].iter().zip(&plan.units) {
        let bytes = elf::write(object).with_context(|| format!("failed to write the patch object `{stem}`"))?;
        // An object without a source and with an empty record of its making: kbuild links it as it is.
        write(&format!("{stem}.o"), &bytes)?;
        write(&format!(".{stem}.o.cmd"), b"")?;
        if let Some(objtool) = &link.objtool {
            said.push_str(&run_objtool(objtool, &work.join(format!("{stem}.o")), link)?);
        }
    }
    write("Kbuild", format!("obj-m := {0}.o\n{0}-y := {1}\n", link.name, members.join(" ")).as_bytes())?;

    let mut make = run::kbuild();
    make.arg("-C").arg(link.build_dir).arg(format!("M={}", work.display())).arg(format!("-j{}", link.jobs.max(1)));
    make.args(["-s", "KBUILD_MODPOST_WARN=1", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    make.args(link.make_vars.iter().map(|(k, v)| format!("{k}={v}")));
    // Debug information names the directory it was made in, which is another one in every run.
    let given = link.make_vars.iter().find(|(name, _)| name == "KCFLAGS").map(|(_, value)| value.clone());
    let given = given.or_else(|| std::env::var("KCFLAGS").ok()).unwrap_or_default();
    make.arg(format!("KCFLAGS={given} -ffile-prefix-map={}=.", work.display()));
    // A compiler that is killed leaves its temporary files: where they go with the run.
    let tmp = work.join("tmp");
    fs::create_dir_all(&tmp).with_context(|| format!("failed to make `{}`", tmp.display()))?;
    make.env("TMPDIR", &tmp);
    let output = run::output(&mut make)?;
    let module = work.join(format!("{}.ko", link.name));
    if !output.status.success() || !module.exists() {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(ToolFailure { doing: format!("link the module `{}` with kbuild", link.name), output: text }.into());
    }
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let said = said.lines().filter(|line| !is_expected(line)).map(str::to_owned).collect();
    Ok(Linked { module, said })
}

/// The members' names in the Kbuild file: what kbuild links of them has the module's name, which none of them may have.
fn member_names<'s>(module: &str, stems: impl Iterator<Item = &'s str>) -> Vec<String> {
    let mut taken = BTreeSet::from([module.to_owned()]);
    let free = |stem: &str| {
        let mut name = stem.to_owned();
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    stems.map(free).collect()
}

/// Lines that every livepatch link prints: names the livepatch core resolves are undefined on purpose.
fn is_expected(line: &str) -> bool {
    line.trim().is_empty()
        || line.contains(" undefined!")
        || line.contains("unresolved symbol warnings")
        || line.contains("Skipping BTF generation")
}

fn run_objtool(command: &[String], object: &Path, link: &Link<'_>) -> Result<String> {
    let Some((program, args)) = command.split_first() else { return Ok(String::new()) };
    let output = run::output(Command::new(program).args(args).arg(object).current_dir(link.build_dir))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(ToolFailure { doing: format!("run objtool on `{}`", object.display()), output: text }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module may be called what one of its members is; kbuild would have it be made of itself.
    #[test]
    fn members_and_the_module() {
        let names = |module| member_names(module, ["init", "fs_x", "fs_x_"].into_iter());
        assert_eq!(names("livepatch-fix"), ["init", "fs_x", "fs_x_"]);
        assert_eq!(names("init"), ["init_", "fs_x", "fs_x_"]);
        assert_eq!(names("fs_x"), ["init", "fs_x_", "fs_x__"]);
    }
}
