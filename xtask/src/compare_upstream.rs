//! `cargo xtask compare-upstream [NAME]...`: the patches through the kernel's own klp-build, and what differs from ours.
//!
//! Upstream's script works only in the tree it lies in and rebuilds that tree, so it gets a copy of the source with a
//! build in place: ten minutes the first time, half a minute for each patch. Compared are the functions that a module
//! replaces with their sympos, and the kernel symbols that its code refers to. tests/upstream-differences.toml lists
//! the differences that are meant, each with its reason; any other fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use walkdir::WalkDir;
use xshell::{Shell, cmd};

use crate::corpus::{self, Expect};
use crate::kernel::{self, Kernel};
use crate::{Args, apt, build, dirs, vm};

/// What upstream's script needs besides a kernel build: line counts of patches, its checksums, its awk.
pub const PACKAGES: &[&str] = &["patchutils", "libxxhash-dev", "gawk"];

/// What a module's tables and registration refer to; says nothing about the patched code.
const PLUMBING: &[&str] = &["klp_enable_patch", "__fentry__", "__x86_return_thunk", "module_layout"];

/// What one tool's module does, as lines that can be compared.
type Facts = BTreeSet<String>;

/// Lines by patch that are meant to differ, with the reason.
type Known = BTreeMap<String, BTreeMap<String, String>>;

/// The task.
pub fn run(args: Args<'_>) -> Result<()> {
    kernel::install_build_packages()?;
    apt::install(PACKAGES)?;
    let kernel = kernel::prepare("linux-7", false)?;
    let klp_build = build::klp_build()?;
    let _lock = dirs::lock("upstream")?;
    let upstream = Upstream::new(&kernel)?;
    let list = dirs::root().join("tests/upstream-differences.toml");
    let known: Known =
        toml::from_str(&dirs::read(&list)?).with_context(|| format!("failed to read `{}`", list.display()))?;
    let out = dirs::scratch("upstream")?;
    let mut unexplained = 0;
    for item in corpus::for_kernel("linux-7")?.into_iter().filter(|i| i.entry.expect == Expect::Patch) {
        if !args.is_empty() && !args.iter().any(|a| item.name.contains(a.as_str())) {
            continue;
        }
        let theirs = upstream.build(&klp_build, &item.patch, &out.path().join("livepatch-upstream.ko"));
        let ours = ours(&klp_build, &kernel, &item.patch, &out.path().join("livepatch-ours.ko"));
        let (theirs, ours) = (facts_or_failure(theirs), facts_or_failure(ours));
        let differences: BTreeSet<String> = theirs
            .difference(&ours)
            .map(|fact| format!("only upstream: {fact}"))
            .chain(ours.difference(&theirs).map(|fact| format!("only ours: {fact}")))
            .collect();
        let none = BTreeMap::new();
        let reasons = known.get(&item.name).unwrap_or(&none);
        println!("{:<28} {} facts, {} differences", item.name, theirs.union(&ours).count(), differences.len());
        for difference in &differences {
            // A failure's text names files and lines that vary; its head is what is listed.
            match reasons.iter().find(|(key, _)| difference.starts_with(key.as_str())) {
                Some((_, reason)) => println!("    {difference}\n        because {reason}"),
                None => {
                    println!("    {difference}\n        UNEXPLAINED");
                    unexplained += 1;
                }
            }
        }
        for stale in reasons.keys().filter(|key| !differences.iter().any(|d| d.starts_with(key.as_str()))) {
            println!("    listed, but not seen: {stale}");
            unexplained += 1;
        }
    }
    if unexplained > 0 {
        bail!("{unexplained} differences without a reason, or reasons without a difference, in `{}`", list.display());
    }
    Ok(())
}

/// That a tool fails is a fact about it too.
fn facts_or_failure(facts: Result<Facts>) -> Facts {
    facts.unwrap_or_else(|error| [format!("no module: {error:#}").replace('\n', " ")].into())
}

/// Ours, on the ordinary build of the same source and configuration.
fn ours(klp_build: &Path, kernel: &Kernel, patch: &Path, module: &Path) -> Result<Facts> {
    std::fs::remove_file(module).ok();
    let output = Command::new(klp_build)
        .args(kernel.options())
        .arg("--output")
        .arg(module)
        .arg(patch)
        .output()
        .with_context(|| format!("failed to run `{}`", klp_build.display()))?;
    if !output.status.success() {
        bail!("{}", first_error(&output.stderr));
    }
    let mut facts = functions(klp_build, module)?;
    facts.extend(references(&[module.to_path_buf()])?);
    Ok(facts)
}

fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("error")).collect();
    lines.first().map_or_else(|| vm::tail(&text, 2), |l| (*l).to_owned())
}

/// A copy of the source that upstream's script may build and patch in place.
pub struct Upstream {
    tree: PathBuf,
}

impl Upstream {
    /// The copy, made when there is none.
    pub fn new(kernel: &Kernel) -> Result<Upstream> {
        let tree = dirs::dev_cache()?.join("upstream/linux-7");
        let (source, config) = (&kernel.source, &kernel.config);
        dirs::complete(&tree, |dir| {
            eprintln!("copying {} for upstream's klp-build", source.display());
            let sh = Shell::new()?;
            cmd!(sh, "cp -a {source}/. {dir}").quiet().run()?;
            cmd!(sh, "cp {config} {dir}/.config").quiet().run()?;
            cmd!(sh, "make -s -C {dir} olddefconfig").quiet().run()?;
            Ok(())
        })?;
        Ok(Upstream { tree })
    }

    /// Where it is.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Runs the script; the original is built only once, its objects are kept in `klp-tmp`.
    fn build(&self, klp_build: &Path, patch: &Path, module: &Path) -> Result<Facts> {
        std::fs::remove_file(module).ok();
        let built = self.tree.join("klp-tmp/1-orig/.complete").exists();
        let step: &[&str] = if built { &["-S", "2"] } else { &[] };
        let what = if built { "patched objects only" } else { "a whole build first: minutes" };
        eprintln!("upstream: {} ({what})", patch.display());
        let output = Command::new("scripts/livepatch/klp-build")
            .current_dir(&self.tree)
            .arg("-T")
            .args(step)
            .arg("-o")
            .arg(module)
            .arg(patch)
            .envs([
                ("KBUILD_BUILD_USER", "klp"),
                ("KBUILD_BUILD_HOST", "build"),
                ("KBUILD_BUILD_TIMESTAMP", "2026-01-01"),
            ])
            .output()
            .context("failed to run upstream's klp-build")?;
        if !output.status.success() {
            bail!("{}", first_error(&output.stderr));
        }
        let mut facts = functions(klp_build, module)?;
        let objects: Vec<PathBuf> = WalkDir::new(self.tree.join("klp-tmp/4-diff"))
            .into_iter()
            .flatten()
            .map(walkdir::DirEntry::into_path)
            .filter(|p| p.extension().is_some_and(|e| e == "o"))
            .collect();
        // Not the module: its init.c allocates, ours has static tables.
        facts.extend(references(&objects)?);
        Ok(facts)
    }
}

/// "replaces OBJECT NAME,SYMPOS" for each function of a livepatch module, of whichever tool.
fn functions(klp_build: &Path, module: &Path) -> Result<Facts> {
    let sh = Shell::new()?;
    let text = cmd!(sh, "{klp_build} inspect --json {module}").quiet().read().context("failed to inspect a module")?;
    let json: Value = serde_json::from_str(&text).context("failed to read what `klp-build inspect` printed")?;
    let mut facts = Facts::new();
    for object in json["objects"].as_array().context("failed to find `objects` in what `klp-build inspect` printed")? {
        for function in object["functions"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            let name = text(&function["function"]);
            facts.insert(format!("replaces {} {name},{}", text(&object["name"]), function["sympos"]));
        }
    }
    Ok(facts)
}

/// "refers to NAME" for each kernel symbol that `files` together need; livepatch symbols keep their full name.
fn references(files: &[PathBuf]) -> Result<Facts> {
    let sh = Shell::new()?;
    let (mut undefined, mut defined) = (Facts::new(), Facts::new());
    for file in files {
        let text = cmd!(sh, "readelf -sW {file}").quiet().read();
        let text = text.with_context(|| format!("failed to read symbols of `{}`", file.display()))?;
        for (section, name) in text.lines().filter_map(symbol) {
            // Upstream's stand-ins for livepatch symbols, which are in the list under their own names.
            if name.starts_with(".klp.tombstone.") {
                continue;
            }
            if section == "UND" || name.starts_with(".klp.sym.") {
                undefined.insert(name.to_owned());
            } else {
                defined.insert(name.to_owned());
            }
        }
    }
    let needed = undefined.difference(&defined).filter(|name| !PLUMBING.contains(&name.as_str()));
    Ok(needed.map(|name| format!("refers to {name}")).collect())
}

/// Section and name of a line of `readelf -sW`; the section may print as `OS [0xff20]`.
fn symbol(line: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_row = words.first()?.strip_suffix(':')?.bytes().all(|b| b.is_ascii_digit());
    (is_row && words.len() >= 8).then(|| (words[6], words[words.len() - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that matter are read: undefined, livepatch (whose section has a space in it), defined.
    #[test]
    fn reads_readelf() {
        assert_eq!(
            symbol("     3: 0000000000000000     0 NOTYPE  GLOBAL DEFAULT  UND seq_printf"),
            Some(("UND", "seq_printf"))
        );
        let klp =
            "    24: 0000000000000000     0 OBJECT  GLOBAL DEFAULT OS [0xff20] .klp.sym.vmlinux.saved_command_line,0";
        assert_eq!(symbol(klp), Some(("OS", ".klp.sym.vmlinux.saved_command_line,0")));
        assert_eq!(symbol("   Num:    Value          Size Type    Bind   Vis      Ndx Name"), None);
        assert_eq!(symbol("     0: 0000000000000000     0 NOTYPE  LOCAL  DEFAULT  UND "), None);
    }
}
