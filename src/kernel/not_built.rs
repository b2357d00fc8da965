//! A touched file that reaches no unit: path and findings in, a refusal with advice out.
//!
//! "Not built" alone sends people searching; the Makefile beside the file usually names the option.

use std::path::Path;

use super::units::{Outside, Why};
use crate::error::{Reason, Refusal};

/// The refusal for a file that no unit of vmlinux or of a module reads.
pub(super) fn refusal(path: &Path, outside: &[&Outside], source: &Path) -> Refusal {
    let shown = path.display();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("Kconfig") || name == "Makefile" || name == "Kbuild" || name.starts_with("Makefile.") {
        return Refusal::new(
            Reason::BuildSystem,
            format!("`{shown}` changes what is compiled, not code"),
            "leave that file out of the patch; a livepatch cannot change the configuration of a running kernel",
        );
    }
    let first = |why| outside.iter().find(|o| o.why == why).map(|o| o.target.display().to_string());
    if let Some(target) = first(Why::OtherImage).or_else(|| first(Why::Vdso)) {
        return Refusal::new(
            Reason::UnsupportedFile,
            format!(
                "`{shown}` is only in `{target}`, which is no part of the kernel's own code (vDSO, boot, realmode)"
            ),
            "such images are copied out at boot and cannot be livepatched",
        );
    }
    if first(Why::Assembly).is_some() || name.ends_with(".S") {
        return Refusal::new(
            Reason::UnsupportedFile,
            format!("`{shown}` reaches assembly only"),
            "patch the C callers instead; assembly has no functions that can be compared and redirected",
        );
    }
    if first(Why::Rust).is_some() || name.ends_with(".rs") {
        return Refusal::new(
            Reason::UnsupportedFile,
            format!("`{shown}` reaches Rust code only"),
            "klp-build patches functions of C units",
        );
    }
    let advice = match option_for(path, source) {
        Some(option) => format!("{option} would build it; if the kernel that runs has it, this is not its build tree"),
        None => "check that the patch is for this kernel and that its configuration builds the file".to_owned(),
    };
    Refusal::new(Reason::NotBuilt, format!("`{shown}` is in no object that this configuration builds"), advice)
}

/// The `CONFIG_` option of the `obj-$(CONFIG_X) += ... name.o` line beside the file.
fn option_for(path: &Path, source: &Path) -> Option<String> {
    let object = format!("{}.o", path.file_stem()?.to_str()?);
    let dir = source.join(path.parent()?);
    let text = ["Kbuild", "Makefile"].iter().find_map(|name| std::fs::read_to_string(dir.join(name)).ok())?;
    let text = text.replace("\\\n", " ");
    let line = text.lines().find(|line| {
        line.contains("$(CONFIG_")
            && line.split_once('=').is_some_and(|(_, list)| list.split_whitespace().any(|w| w == object))
    })?;
    let option = line.split_once("$(")?.1.split_once(')')?.0;
    Some(option.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Rust file is refused by name, whether the build compiles it or not.
    #[test]
    fn rust() {
        let path = Path::new("drivers/block/rnull.rs");
        let compiled =
            Outside { target: "drivers/block/rnull.o".into(), reads: vec![path.into()], why: Why::Rust, unit: None };
        for outside in [&[][..], &[&compiled][..]] {
            let found = refusal(path, outside, Path::new("/nowhere"));
            assert_eq!(found.to_string(), "`drivers/block/rnull.rs` reaches Rust code only [unsupported-file]");
            assert_eq!(found.advice, "klp-build patches functions of C units");
        }
    }
}
