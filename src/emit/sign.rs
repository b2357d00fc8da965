//! Signs the finished module, with the kernel's own tool.
//!
//! In: the module's file, and a key with its certificate: the ones asked for, else the kernel build's own
//! (Documentation/admin-guide/module-signing.rst). Out: whether it was signed. Last of all steps, since
//! every change of the file undoes a signature.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::compile::run;
use crate::error::ToolFailure;
use crate::kernel::Kernel;

/// Key and certificate to sign with, if any.
pub fn choose(kernel: &Kernel, asked: Option<&(PathBuf, PathBuf)>) -> Option<(PathBuf, PathBuf)> {
    if let Some(pair) = asked {
        return Some(pair.clone());
    }
    if !kernel.config().is_y("MODULE_SIG") {
        return None;
    }
    // A relative key is looked for as scripts/Makefile.modinst does; the certificate is always made in certs/.
    let named = kernel.config().get("MODULE_SIG_KEY").map_or("certs/signing_key.pem", |name| name.trim_matches('"'));
    let key = [kernel.objdir(), kernel.source()].map(|dir| dir.join(named)).into_iter().find(|key| key.is_file())?;
    let certificate = kernel.objdir().join("certs/signing_key.x509");
    certificate.is_file().then_some((key, certificate))
}

/// Signs `module` in place.
///
/// # Errors
///
/// When the kernel's build has no `scripts/sign-file`, or it fails.
pub fn sign(kernel: &Kernel, (key, certificate): &(PathBuf, PathBuf), module: &Path) -> Result<()> {
    let program = kernel.module_build_dir().join("scripts/sign-file");
    if !program.is_file() {
        bail!(
            "failed to sign the module: `{}` is missing; build the kernel with CONFIG_MODULE_SIG, or sign it elsewhere",
            program.display()
        );
    }
    let hash = kernel.config().get("MODULE_SIG_HASH").map_or("sha512", |h| h.trim_matches('"'));
    let output = run::output(Command::new(&program).arg(hash).arg(key).arg(certificate).arg(module))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(ToolFailure { doing: "sign the module".to_owned(), output: text }.into())
}
