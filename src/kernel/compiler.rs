//! The compiler: make variables, environment and configuration in, the one that built the kernel out.
//!
//! kbuild records `$CC --version`'s first line in CONFIG_CC_VERSION_TEXT (Makefile, init/Kconfig). Another
//! compiler inlines, clones and names differently, and then nothing about the running kernel can be concluded
//! from what it makes; so a mismatch is refused. Distributions configure with a name such as
//! `x86_64-linux-gnu-gcc-12` that is the first word of that line: the same program under another name
//! counts as the same when everything after the name agrees.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::config::Config;
use crate::error::{Reason, Refusal};

/// A C compiler that was run once to see who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The program and arguments that belong to it (`ccache gcc` has two words).
    pub command: Vec<String>,
    /// First line of `--version`.
    pub version: String,
}

impl Compiler {
    /// Runs `command --version`.
    pub fn probe(command: &[String]) -> Result<Compiler> {
        let shown = command.join(" ");
        let [program, arguments @ ..] = command else { bail!("the name of the compiler is empty") };
        let output = Command::new(program)
            .args(arguments)
            .arg("--version")
            .env("LC_ALL", "C")
            .output()
            .with_context(|| format!("failed to run the compiler `{shown}`"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // The same filter as the Makefile's CC_VERSION_TEXT: `#` would end a make line.
        let version = text.lines().next().unwrap_or_default().replace('#', "");
        if !output.status.success() || version.is_empty() {
            bail!("failed to ask the compiler `{shown}` for its version");
        }
        Ok(Compiler { command: command.to_vec(), version })
    }

    /// The compiler for a configuration: what the make variables or the environment name (as kbuild takes
    /// them: CC, LLVM, CROSS_COMPILE), else what the configuration recorded.
    pub fn choose(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Result<Compiler> {
        if let Some(cc) = variable("CC") {
            return Compiler::probe(&words(&cc));
        }
        let cross = variable("CROSS_COMPILE").unwrap_or_default();
        // Makefile: LLVM=1, LLVM=/path/to/bin/, LLVM=-18.
        if let Some(llvm) = variable("LLVM").filter(|llvm| llvm != "0") {
            let (prefix, suffix) = match llvm.as_str() {
                path if path.ends_with('/') => (path, ""),
                suffix if suffix.starts_with('-') => ("", suffix),
                _ => ("", ""),
            };
            return Compiler::probe(&[format!("{prefix}clang{suffix}")]);
        }
        if config.is_y("CC_IS_CLANG") {
            return Compiler::probe(&["clang".to_owned()]);
        }
        let plain = Compiler::probe(&[format!("{cross}gcc")]);
        let recorded = config.cc_version_text().and_then(|text| text.split_whitespace().next());
        match (plain, recorded) {
            (Ok(plain), _) if plain.is_the_one(config) => Ok(plain),
            // The first word of gcc's line is the name it was called by.
            (plain, Some(name)) => match Compiler::probe(&[name.to_owned()]) {
                Ok(named) if named.is_the_one(config) => Ok(named),
                _ => plain,
            },
            (plain, None) => plain,
        }
    }

    /// Whether this is the compiler that the tree was configured with.
    pub fn is_the_one(&self, config: &Config) -> bool {
        config.cc_version_text().is_some_and(|text| same(text, &self.version))
    }

    /// The refusal when it is not.
    pub fn refusal(&self, config: &Config) -> Option<Refusal> {
        let built_with = config.cc_version_text().unwrap_or("(nothing recorded)");
        (!self.is_the_one(config)).then(|| {
            Refusal::new(
                Reason::CompilerMismatch,
                format!(
                    "the kernel was built by `{built_with}`, but `{}` is `{}`",
                    self.command.join(" "),
                    self.version
                ),
                "install that compiler, or name it with CC= or LLVM= in the environment or with --make",
            )
        })
    }
}

/// Words of a make variable that holds a command.
pub fn words(value: &str) -> Vec<String> {
    value.split_whitespace().map(str::to_owned).collect()
}

/// Equal but for the name that gcc was called by.
fn same(recorded: &str, version: &str) -> bool {
    let after_name = |text: &str| match text.split_once(" (") {
        Some((name, rest)) if !name.contains(' ') => Some(rest.trim_end().to_owned()),
        _ => None,
    };
    recorded.trim_end() == version.trim_end()
        || after_name(recorded).is_some_and(|rest| after_name(version) == Some(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One gcc under two names is one compiler; another release or packaging is not.
    #[test]
    fn names_do_not_matter() {
        let debian = "x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0";
        assert!(same(debian, "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"));
        assert!(!same(debian, "gcc (Debian 12.2.0-14) 12.2.0"));
        assert!(same("Debian clang version 14.0.6", "Debian clang version 14.0.6"));
        assert!(!same("Debian clang version 14.0.6", "clang version 14.0.6"));
    }

    /// The refusal names both compilers, or nobody can act on it.
    #[test]
    fn mismatch_names_both() {
        let config = Config::parse("CONFIG_CC_VERSION_TEXT=\"gcc (X) 9\"\n").unwrap();
        let compiler = Compiler { command: vec!["gcc".to_owned()], version: "gcc (Y) 12".to_owned() };
        let refusal = compiler.refusal(&config).unwrap();
        assert_eq!(refusal.reason, Reason::CompilerMismatch);
        assert!(refusal.message.contains("gcc (X) 9") && refusal.message.contains("gcc (Y) 12"));
    }

    /// A compiler that is not there is an error that names it.
    #[test]
    fn absent() {
        let error = Compiler::probe(&["no-such-compiler-here".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no-such-compiler-here"));
    }
}
