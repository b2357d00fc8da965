//! `.config`: text in, the facts that decide whether and how this kernel can be livepatched out.
//!
//! The grammar is Kconfig's output (scripts/kconfig/confdata.c `conf_write`): `CONFIG_X=y|m|n`, a number,
//! a quoted string with backslash escapes, or the comment `# CONFIG_X is not set`. What is hard is not
//! the grammar but knowing which options break which promise; [`Config::refusals`] has each with its reason.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::error::{Reason, Refusal};

/// The configuration of one kernel.
#[derive(Debug, Clone, Default)]
pub struct Config {
    values: BTreeMap<String, String>,
}

impl Config {
    /// Parses `.config` text; all malformed lines are reported at once.
    pub fn parse(text: &str) -> Result<Config> {
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) {
                Some((name, value)) if is_name(name) => match unquote(value) {
                    Some(value) => drop(values.insert(name.to_owned(), value)),
                    None => problems.push(format!("line {}: unterminated string", number + 1)),
                },
                _ => problems.push(format!("line {}: not a configuration line: `{}`", number + 1, clip(line))),
            }
        }
        if values.is_empty() && problems.is_empty() {
            problems.push("no option is set".to_owned());
        }
        if !problems.is_empty() {
            problems.truncate(5);
            bail!("{}", problems.join("; "));
        }
        Ok(Config { values })
    }

    /// The value of an option, with or without its `CONFIG_` prefix; `None` when it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name.strip_prefix("CONFIG_").unwrap_or(name)).map(String::as_str)
    }

    /// Names of all options that are set, without their prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether the option is built in.
    pub fn is_y(&self, name: &str) -> bool {
        self.get(name) == Some("y")
    }

    /// Whether the option is built in or a module: C's `IS_ENABLED`.
    pub fn is_enabled(&self, name: &str) -> bool {
        matches!(self.get(name), Some("y" | "m"))
    }

    /// First line of `$CC --version` of the compiler that the tree was configured with.
    pub fn cc_version_text(&self) -> Option<&str> {
        self.get("CC_VERSION_TEXT").filter(|text| !text.is_empty())
    }

    /// Everything about this configuration that makes a correct livepatch impossible.
    pub fn refusals(&self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut refuse = |when: bool, message: &str, advice: &str| {
            if when {
                refusals.push(Refusal::new(Reason::KernelLacks, message, advice));
            }
        };
        refuse(
            !self.is_y("X86_64"),
            "the kernel is not for x86-64",
            "klp-build reads and writes x86-64 relocations only; build on and for an x86-64 kernel",
        );
        // kernel/livepatch/Kconfig: LIVEPATCH needs MODULES, SYSFS, KALLSYMS_ALL and HAVE_LIVEPATCH.
        refuse(
            !self.is_y("LIVEPATCH"),
            "the kernel is built without CONFIG_LIVEPATCH",
            "set CONFIG_LIVEPATCH=y, rebuild and boot that kernel; no module can add it",
        );
        refuse(
            !self.is_y("MODULES"),
            "the kernel is built without CONFIG_MODULES",
            "set CONFIG_MODULES=y: a livepatch is a module",
        );
        // kernel/livepatch/core.c looks data up by name as well as functions; kernel/module/kallsyms.c
        // keeps only executable symbols of a module without it.
        refuse(
            !self.is_y("KALLSYMS_ALL"),
            "the kernel is built without CONFIG_KALLSYMS_ALL",
            "set CONFIG_KALLSYMS_ALL=y: the livepatch core finds data by its name in kallsyms",
        );
        // Documentation/livepatch/livepatch.rst, "Livepatch": redirection hangs on ftrace's fentry site.
        refuse(
            self.is_y("LIVEPATCH") && !self.is_y("DYNAMIC_FTRACE"),
            "the kernel is built without CONFIG_DYNAMIC_FTRACE",
            "set CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE=y",
        );
        // security/Kconfig.hardening: the layout of marked structs is shuffled by a seed.
        refuse(
            ["RANDSTRUCT", "RANDSTRUCT_FULL", "RANDSTRUCT_PERFORMANCE", "GCC_PLUGIN_RANDSTRUCT"]
                .iter()
                .any(|name| self.is_y(name)),
            "the kernel is built with randomised structure layouts (CONFIG_RANDSTRUCT)",
            "set CONFIG_RANDSTRUCT_NONE=y: layouts of a separate compile cannot be trusted to be the kernel's",
        );
        // scripts/gcc-plugins/latent_entropy_plugin.c mixes random constants into every compile.
        refuse(
            self.is_y("GCC_PLUGIN_LATENT_ENTROPY"),
            "the kernel is built with CONFIG_GCC_PLUGIN_LATENT_ENTROPY",
            "turn it off: it puts random constants into functions, so no two compiles are comparable",
        );
        // init/Kconfig: the link drops unreferenced sections, so a unit does not show what the kernel holds.
        refuse(
            self.is_y("LD_DEAD_CODE_DATA_ELIMINATION"),
            "the kernel is built with CONFIG_LD_DEAD_CODE_DATA_ELIMINATION",
            "turn it off: which functions the link kept cannot be seen in the compiled units",
        );
        refuse(
            self.is_y("LTO_GCC")
                || self.is_y("LTO_CLANG")
                || self.is_y("LTO_CLANG_THIN")
                || self.is_y("LTO_CLANG_FULL"),
            "the kernel is built with link-time optimisation",
            "set CONFIG_LTO_NONE=y: with LTO the code of a unit exists only after the link",
        );
        refusals
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A value without its quotes; `None` when a string does not end.
fn unquote(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return Some(value.to_owned());
    };
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return chars.as_str().is_empty().then_some(text),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
    None
}

fn clip(line: &str) -> String {
    line.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#\n# Linux\n#\nCONFIG_CC_VERSION_TEXT=\"gcc (Debian \\\"x\\\") 12\"\nCONFIG_X86_64=y\n\
        CONFIG_LIVEPATCH=y\nCONFIG_MODULES=y\nCONFIG_KALLSYMS_ALL=y\nCONFIG_DYNAMIC_FTRACE=y\nCONFIG_EXT4_FS=m\n\
        # CONFIG_RANDSTRUCT_FULL is not set\nCONFIG_NR_CPUS=8\n";

    /// All value kinds keep their text, strings lose quotes and escapes, unset stays unset.
    #[test]
    fn values() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.cc_version_text(), Some("gcc (Debian \"x\") 12"));
        assert!(config.is_enabled("CONFIG_EXT4_FS") && !config.is_y("EXT4_FS"));
        assert_eq!(config.get("NR_CPUS"), Some("8"));
        assert_eq!(config.get("RANDSTRUCT_FULL"), None);
        assert!(config.refusals().is_empty(), "{:?}", config.refusals());
    }

    /// A configuration with several faults reports each, not the first.
    #[test]
    fn all_refusals_at_once() {
        let text = GOOD.replace("CONFIG_LIVEPATCH=y", "CONFIG_RANDSTRUCT=y").replace("CONFIG_KALLSYMS_ALL=y\n", "");
        let refusals = Config::parse(&text).unwrap().refusals();
        let text: Vec<&str> = refusals.iter().map(|r| r.message.as_str()).collect();
        assert_eq!(refusals.len(), 3, "{text:?}");
        assert!(refusals.iter().all(|r| r.reason == Reason::KernelLacks && !r.advice.is_empty()));
    }

    /// Text that is no .config is an error with line numbers, and so is one without any option.
    #[test]
    fn garbage() {
        let error = Config::parse("CONFIG_A=y\nhello\nCONFIG_B=\"x\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("line 3"), "{error}");
        assert!(Config::parse("# nothing\n").is_err());
    }
}
