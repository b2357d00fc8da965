//! The repository's files -> the layout rules they break. Pure reading, so that it also runs as a test.
//!
//! The rules keep the architecture honest: which folder may name the ELF crate, which may do I/O, how long a
//! file may be, that each says what it is for. Each message names the file, the line and the rule.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

/// A file may not be longer; one half of it is worth a warning.
const HARD_LIMIT: usize = 800;
const SOFT_LIMIT: usize = 400;

/// I/O that the pure stages must not name.
const IO: &[&str] = &["std::fs", "std::process", "std::io", "std::env"];

/// What is wrong, and what is getting long.
#[derive(Debug, Default)]
pub struct Findings {
    /// Broken rules.
    pub errors: Vec<String>,
    /// Files worth splitting soon.
    pub warnings: Vec<String>,
}

/// Checks every file of the repository at `root` that is ours.
pub fn check(root: &Path) -> Findings {
    let mut findings = Findings::default();
    for top in ["src", "xtask", "runtime", "templates", "tests", "examples", "fuzz", "benches"] {
        let files = WalkDir::new(root.join(top)).sort_by_file_name().into_iter();
        for entry in files.filter_entry(|e| e.file_name() != "target").flatten() {
            if !entry.file_type().is_file() {
                continue;
            }
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_string_lossy().into_owned();
            file(&path, &text, &mut findings);
        }
    }
    findings
}

fn file(path: &str, text: &str, findings: &mut Findings) {
    let mut error = |message: String| findings.errors.push(message);
    let is_rust = path.ends_with(".rs");
    let in_kernel = path.starts_with("runtime/") || path.starts_with("templates/");
    if in_kernel && (is_rust || path.ends_with(".c") || path.ends_with(".h")) {
        let head = text.lines().next().unwrap_or_default();
        if !head.contains("SPDX-License-Identifier: GPL-2.0-only") {
            error(format!("{path}:1: what goes into a kernel opens with `SPDX-License-Identifier: GPL-2.0-only`"));
        }
    }
    if is_rust {
        let opening = text.lines().find(|l| !l.contains("SPDX-License-Identifier") && !l.trim().is_empty());
        if !opening.is_some_and(|l| l.starts_with("//!")) {
            error(format!("{path}:1: a file opens with `//!`: what comes in, what goes out, why it is hard"));
        }
        // Tests at the end of a file do not count: they are read one at a time.
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text).lines().count();
        let whole = text.lines().count();
        if whole > HARD_LIMIT {
            error(format!("{path}: {whole} lines; the limit is {HARD_LIMIT}"));
        } else if code > SOFT_LIMIT {
            findings.warnings.push(format!("{path}: {code} lines without tests; aim for {SOFT_LIMIT}"));
        }
        rust_lines(path, text, &mut findings.errors);
    }
}

fn rust_lines(path: &str, text: &str, errors: &mut Vec<String>) {
    let tool = path.starts_with("src/");
    let pure = ["src/diff/", "src/reloc/", "src/dwarf/"].iter().any(|folder| path.starts_with(folder));
    let may_decode_elf = path.starts_with("src/elf/");
    for (number, line) in text.lines().enumerate() {
        let code = &code_of(line);
        let mut error = |message: &str| errors.push(format!("{path}:{}: {message}", number + 1));
        if tool && !may_decode_elf && names_crate(code, "object") {
            error("only src/elf names the `object` crate");
        }
        if tool && !path.starts_with("src/dwarf/") && (names_crate(code, "gimli") || names_crate(code, "addr2line")) {
            error("only src/dwarf names the crates that read debug information");
        }
        if pure && IO.iter().any(|io| code.contains(io)) {
            error("diff, reloc and dwarf do no I/O: they are functions of two models");
        }
        if pure && ["fs", "process", "io", "env"].iter().any(|m| code.contains("use std::{") && has_word(code, m)) {
            error("diff, reloc and dwarf do no I/O: they are functions of two models");
        }
        if tool && has_word(code, "unsafe") {
            error("no `unsafe` outside runtime/kernel");
        }
        if code.trim_start().starts_with(IGNORED) || code.contains(UNFINISHED) {
            error("no ignored tests, nothing unfinished");
        }
    }
}

/// Put together, so that whoever looks for such places does not find this one.
const IGNORED: &str = concat!("#[", "ignore");
const UNFINISHED: &str = concat!("to", "do!(");

/// The line without comments and the text of string literals; good enough for code that rustfmt has seen.
fn code_of(line: &str) -> String {
    let unquoted: Vec<&str> = line.split('"').step_by(2).collect();
    let code = unquoted.join("\"\"");
    code.split("//").next().unwrap_or_default().to_owned()
}

/// `object::` as a crate's name: not `self::object::`, not `my_object::`.
fn names_crate(code: &str, name: &str) -> bool {
    let needle = format!("{name}::");
    code.match_indices(&needle).any(|(at, _)| {
        let before = &code[..at];
        // A leading `::` names the crate too, unless a path goes on before it.
        let before = match before.strip_suffix("::") {
            Some(path) if path.ends_with(|c: char| c.is_alphanumeric() || c == '_') => return false,
            Some(path) => path,
            None => before,
        };
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    }) || code.trim_start().starts_with(&format!("extern crate {name}"))
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(path: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        file(path, text, &mut findings);
        findings.errors
    }

    /// Each rule fires on what it forbids and stays quiet on what it allows; a rule that cannot fire is no rule.
    #[test]
    fn each_rule_fires() {
        for (path, line) in [
            ("src/diff/a.rs", "use object::read;"),
            ("src/build/a.rs", "let x = gimli::DW_TAG_member;"),
            ("src/diff/a.rs", "let x = ::object::elf::R;"),
            ("src/reloc/a.rs", "use std::fs;"),
            ("src/reloc/a.rs", "use std::{collections::BTreeMap, io};"),
            ("src/main.rs", "unsafe { x() }"),
            ("tests/a.rs", &format!("{IGNORED}]")),
            ("xtask/src/a.rs", &format!("{UNFINISHED})")),
        ] {
            assert_eq!(errors(path, &format!("//! A.\n{line}\n")).len(), 1, "{path}: {line}");
        }
        for (path, line) in [
            ("src/elf/read.rs", "use object::read;"),
            ("src/diff/a.rs", "use crate::elf::object::Object; // not object::read"),
            ("src/diff/a.rs", "klp_object::x()"),
            ("src/emit/a.rs", "use std::fs;"),
            ("runtime/kernel/a.rs", "unsafe { x() }"),
        ] {
            let head = if path.starts_with("runtime") { "// SPDX-License-Identifier: GPL-2.0-only\n" } else { "" };
            assert_eq!(errors(path, &format!("{head}//! A.\n{line}\n")), Vec::<String>::new(), "{path}: {line}");
        }
    }

    /// Length, head and licence line are rules too.
    #[test]
    fn files_are_checked_whole() {
        assert_eq!(errors("src/a.rs", "use x;\n").len(), 1);
        assert_eq!(errors("src/a.rs", &format!("//! A.\n{}", "x();\n".repeat(HARD_LIMIT))).len(), 1);
        assert_eq!(errors("templates/init.c", "int x;\n").len(), 1);
        assert_eq!(errors("runtime/engine/src/a.rs", "//! A.\n").len(), 1);
    }
}
