//! The repository's own programs, built: the path of `klp-build` for those that run it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::dirs;

/// Builds klp-build as users get it and says where it is. `KLP_BUILD` in the environment names another one, to try
/// a build of somebody else's on the same patches.
pub fn klp_build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KLP_BUILD") {
        eprintln!("using {} as KLP_BUILD says", Path::new(&path).display());
        return Ok(PathBuf::from(path));
    }
    let sh = Shell::new()?;
    sh.change_dir(dirs::root());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    eprintln!("building klp-build");
    let messages = cmd!(sh, "{cargo} build --release --bin klp-build --message-format json-render-diagnostics")
        .quiet()
        .read()
        .context("failed to build `klp-build`")?;
    // Cargo says where the file is: the target directory may be anywhere.
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    executable.context("failed to find the built `klp-build` in cargo's messages")
}
