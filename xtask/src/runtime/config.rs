//! Which kernels with the runtime there are.
//!
//! In: words of the command line. Out: a kernel configuration, and what else differs with it. Hard because the same test
//! scripts run in all of them, and each is minutes to build: what only adds checks must not change what is checked.

use anyhow::Result;

use crate::dirs;

/// How struct klp_patch looks, and who watches the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// As in mainline.
    Stock,
    /// With replace sets.
    Sets,
    /// As in mainline, in a kernel that checks locks, RCU, memory and lists.
    Debug,
    /// With replace sets, in such a kernel.
    DebugSets,
    /// As in mainline, in a kernel that checks each access to memory, compiled by clang.
    Kasan,
    /// With replace sets, in such a kernel.
    KasanSets,
    /// As in mainline, with mainline's C core: what the Rust core is measured against.
    C,
}

impl Config {
    /// For paths and messages.
    pub fn name(self) -> &'static str {
        match self {
            Config::Stock => "stock",
            Config::Sets => "sets",
            Config::Debug => "debug",
            Config::DebugSets => "debug-sets",
            Config::Kasan => "kasan",
            Config::KasanSets => "kasan-sets",
            Config::C => "c",
        }
    }

    /// What its configuration says.
    pub fn fragment(self) -> Result<String> {
        let read = |name: &str| dirs::read(&dirs::root().join("tests/kernels").join(name));
        let base = read("runtime-7.config")?;
        if self == Config::C {
            return Ok(base.replace("CONFIG_LIVEPATCH_RUST=y", "# CONFIG_LIVEPATCH_RUST is not set"));
        }
        let sets = if self.has_sets() {
            "CONFIG_LIVEPATCH_REPLACE_SET=y\n"
        } else {
            "# CONFIG_LIVEPATCH_REPLACE_SET is not set\n"
        };
        let watch = match self {
            Config::Debug | Config::DebugSets => read("runtime-7-debug.config")?,
            Config::Kasan | Config::KasanSets => read("runtime-7-kasan.config")?,
            _ => String::new(),
        };
        Ok(base + sets + &watch)
    }

    /// Debugging changes every object, so it has a directory of its own; the others differ in little.
    pub fn objdir(self) -> &'static str {
        match self {
            Config::Debug | Config::DebugSets => "build-debug",
            Config::Kasan | Config::KasanSets => "build-kasan",
            _ => "build",
        }
    }

    /// Whether struct klp_patch says which set it replaces.
    pub fn has_sets(self) -> bool {
        matches!(self, Config::Sets | Config::DebugSets | Config::KasanSets)
    }

    /// The same with replace sets.
    pub fn with_sets(self) -> Config {
        match self {
            Config::Debug => Config::DebugSets,
            Config::Kasan => Config::KasanSets,
            Config::Stock => Config::Sets,
            other => other,
        }
    }

    /// Whether the kernel looks for leaked memory.
    pub fn has_kmemleak(self) -> bool {
        matches!(self, Config::Debug | Config::DebugSets)
    }

    /// Whether clang has to compile it.
    pub fn has_kasan(self) -> bool {
        matches!(self, Config::Kasan | Config::KasanSets)
    }
}
