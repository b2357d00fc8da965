//! No panic on the paths that run in every patched call and every fork.
//!
//! In: the core's object file, disassembled. Out: an error that names the function if a path from an entry point leads to
//! core's panicking code. Hard because a check that the optimiser removed is fine and one that it did not is a BUG() in a
//! place that cannot bear it: the only witness is the object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

/// Where the kernel enters. The scheduler's hook is not here: it may print, and printing has checks.
const ENTRIES: &[&str] = &["klp_rust_redirect", "klp_rust_switch_self", "klp_copy_process"];

/// Checks an object file.
pub fn check(object: &Path) -> Result<()> {
    let sh = Shell::new()?;
    let text = cmd!(sh, "objdump -dr --no-show-raw-insn {object}").quiet().read().context("failed to run `objdump`")?;
    match panics(&text)? {
        paths if paths.is_empty() => Ok(()),
        paths => bail!("hot paths can panic in `{}`: {}", object.display(), paths.join(", ")),
    }
}

/// What can panic, as `entry -> ... symbol`.
fn panics(disassembly: &str) -> Result<Vec<String>> {
    let mut calls: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut function = "";
    for line in disassembly.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")).map(|(_, name)| name) {
            function = name;
            calls.entry(name).or_default();
        } else if let Some((_, target)) = line.split_once("R_X86_64_") {
            let target = target.split_whitespace().nth(1).unwrap_or_default();
            let symbol = target.split(['-', '+']).next().unwrap_or_default();
            calls.entry(function).or_default().insert(symbol);
        } else if let Some((_, target)) = line.split_once('<') {
            // A call or jump within the section has no relocation.
            let symbol = target.split(['>', '+']).next().unwrap_or_default();
            calls.entry(function).or_default().insert(symbol);
        }
    }
    let mut found = Vec::new();
    for &entry in ENTRIES {
        if !calls.contains_key(entry) {
            bail!("failed to find `{entry}` in the object");
        }
        let (mut left, mut seen) = (vec![entry], BTreeSet::new());
        while let Some(name) = left.pop() {
            if name.contains("panicking") || name.contains("slice_index_fail") {
                found.push(format!("{entry} -> {name}"));
            } else if seen.insert(name) {
                left.extend(calls.get(name).into_iter().flatten());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "0000 <klp_rust_redirect>:\n 0: call 5 <help>\n\n0010 <help>:\n 10: ret\n\n\
                         0020 <klp_rust_switch_self>:\n\n0030 <klp_copy_process>:\n";

    /// A panic two calls away is found; one that no entry leads to is not; a missing entry is an error.
    #[test]
    fn finds_panics() {
        assert_eq!(panics(CLEAN).unwrap(), Vec::<String>::new());
        let other = format!("{CLEAN}\n0040 <other>:\n\t\t41: R_X86_64_PLT32\t_RN9panicking-0x4\n");
        assert_eq!(panics(&other).unwrap(), Vec::<String>::new());
        let dirty = CLEAN.replace(" 10: ret", "\t\t11: R_X86_64_PLT32\t_RN9panicking-0x4");
        assert_eq!(panics(&dirty).unwrap(), ["klp_rust_redirect -> _RN9panicking"]);
        assert!(panics("").is_err());
    }
}
