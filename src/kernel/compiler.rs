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
        let (plain, recorded) = if config.is_y("CC_IS_CLANG") {
            ("clang".to_owned(), clang_with_version(config))
        } else {
            // The first word of gcc's line is the name it was called by.
            let name = config.cc_version_text().and_then(|text| text.split_whitespace().next());
            (format!("{cross}gcc"), name.map(str::to_owned))
        };
        match (Compiler::probe(&[plain]), recorded) {
            (Ok(plain), _) if plain.is_the_one(config) => Ok(plain),
            (plain, Some(name)) => match Compiler::probe(&[name]) {
                Ok(named) if named.is_the_one(config) => Ok(named),
                _ => plain,
            },
            (plain, None) => plain,
        }
    }

    /// What make has to be told so that kbuild takes this compiler, where nobody named one: `CC`, or `LLVM` where the tools
    /// that go with clang linked the kernel, too (CONFIG_LD_IS_LLD; Documentation/kbuild/llvm.rst).
    pub fn make_variable(&self, config: &Config, cross: &str) -> Option<(String, String)> {
        let command = self.command.join(" ");
        match command.strip_prefix("clang") {
            Some(suffix) if config.is_y("CC_IS_CLANG") && config.is_y("LD_IS_LLD") => {
                Some(("LLVM".to_owned(), if suffix.is_empty() { "1" } else { suffix }.to_owned()))
            }
            _ => (command != format!("{cross}gcc")).then(|| ("CC".to_owned(), command)),
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

/// The name under which distributions install one of several clangs: `clang-19` (init/Kconfig, CLANG_VERSION: 190107 is 19.1.7).
fn clang_with_version(config: &Config) -> Option<String> {
    let version: u32 = config.get("CLANG_VERSION")?.parse().ok()?;
    Some(format!("clang-{}", version / 10_000))
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

    /// kbuild takes the compiler that was found, with the linker that the kernel was linked by.
    #[test]
    fn make_is_told() {
        let told = |command: &str, config: &str| {
            let compiler = Compiler { command: words(command), version: String::new() };
            let variable = compiler.make_variable(&Config::parse(config).unwrap(), "x-");
            variable.map(|(name, value)| format!("{name}={value}")).unwrap_or_default()
        };
        let (clang, lld) = ("CONFIG_CC_IS_CLANG=y\n", "CONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y\n");
        let gcc = "CONFIG_CC_IS_GCC=y\n";
        assert_eq!(told("clang-19", lld), "LLVM=-19");
        assert_eq!(told("clang", lld), "LLVM=1");
        assert_eq!(told("clang-19", clang), "CC=clang-19");
        assert_eq!((told("x-gcc", gcc), told("gcc-12", gcc)), (String::new(), "CC=gcc-12".to_owned()));
        let config = Config::parse("CONFIG_CC_IS_CLANG=y\nCONFIG_CLANG_VERSION=190107\n").unwrap();
        assert_eq!(clang_with_version(&config).as_deref(), Some("clang-19"));
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
