//! Files of kernels that tests make: paths and contents in, a tree out.

use std::path::Path;

/// Writes a file below `root`, with the directories it needs.
pub(super) fn put(root: &Path, path: &str, contents: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}
