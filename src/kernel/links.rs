//! Headers that units read by another name: touched files in, the links of the tree that lead to them out.
//!
//! include/dt-bindings/input/linux-event-codes.h is a link to include/uapi/linux/input-event-codes.h, and kbuild's lists have the
//! name that the compiler opened. Only directories of headers are looked through; no other code is compiled through a link.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Touched files by the links that lead to them, both relative to the source tree (a canonical path).
pub(super) fn to_headers(source: &Path, touched: &[PathBuf]) -> HashMap<PathBuf, PathBuf> {
    let headers: Vec<&PathBuf> = touched.iter().filter(|path| path.extension().is_some_and(|e| e == "h")).collect();
    let mut links = HashMap::new();
    if headers.is_empty() {
        return links;
    }
    let of_architectures = std::fs::read_dir(source.join("arch")).into_iter().flatten().flatten();
    let roots = of_architectures.map(|entry| entry.path().join("include")).chain([source.join("include")]);
    let entries = roots.flat_map(|root| walkdir::WalkDir::new(root).into_iter().flatten());
    for link in entries.filter(|entry| entry.path_is_symlink()).map(walkdir::DirEntry::into_path) {
        let Ok(leads_to) = std::fs::canonicalize(&link) else { continue };
        let (Ok(link), Ok(leads_to)) = (link.strip_prefix(source), leads_to.strip_prefix(source)) else { continue };
        // A link to a directory leads to all that is in it.
        for header in &headers {
            if let Ok(rest) = header.strip_prefix(leads_to) {
                let name = if rest.as_os_str().is_empty() { link.to_owned() } else { link.join(rest) };
                links.insert(name, header.to_path_buf());
            }
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links to a header and to its directory; those to other files, out of the tree, or to nothing are none.
    #[test]
    fn found() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().canonicalize().unwrap();
        for folder in ["include/uapi/linux", "include/dt/input", "arch/x86/include/asm"] {
            std::fs::create_dir_all(source.join(folder)).unwrap();
        }
        for header in ["codes.h", "other.h"] {
            std::fs::write(source.join("include/uapi/linux").join(header), "").unwrap();
        }
        for (link, to) in [
            ("include/dt/input/event.h", "../../uapi/linux/codes.h"),
            ("include/dt/other.h", "../uapi/linux/other.h"),
            ("include/gone.h", "nowhere.h"),
            ("include/out", "/"),
            ("arch/x86/include/asm/user", "../../../../include/uapi"),
        ] {
            std::os::unix::fs::symlink(to, source.join(link)).unwrap();
        }
        let codes = PathBuf::from("include/uapi/linux/codes.h");
        let found = to_headers(&source, &[codes.clone(), "fs/a.c".into(), "include/new.h".into()]);
        let names = ["include/dt/input/event.h", "arch/x86/include/asm/user/linux/codes.h"];
        assert_eq!(found, names.map(|name| (PathBuf::from(name), codes.clone())).into());
    }
}
