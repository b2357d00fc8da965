//! Files -> a cpio archive ("newc") that the kernel unpacks into its first root.
//!
//! Written here rather than with cpio(1) because device nodes need no root this way and the archive is the same
//! for the same files; the format is a header of eight-digit hex fields per file.

use std::collections::BTreeMap;

/// What one name in the archive is.
enum Node {
    Dir,
    File { mode: u32, data: Vec<u8> },
    Char { major: u32, minor: u32 },
}

/// An archive in the making; directories above a file are added by themselves.
pub struct Initramfs {
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    /// An archive with nothing but `/dev/console`, which the kernel opens for init.
    pub fn new() -> Initramfs {
        let mut fs = Initramfs { nodes: BTreeMap::new() };
        fs.put("dev/console", Node::Char { major: 5, minor: 1 });
        fs
    }

    /// Adds a file; `path` is absolute in the guest.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode: 0o644, data: data.into() });
    }

    /// Adds an executable file.
    pub fn program(&mut self, path: &str, data: impl Into<Vec<u8>>) {
        self.put(path, Node::File { mode: 0o755, data: data.into() });
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Dir);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// The archive's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (ino, (path, node)) in self.nodes.iter().enumerate() {
            let (mode, data, rdev): (u32, &[u8], (u32, u32)) = match node {
                Node::Dir => (0o040_755, &[], (0, 0)),
                Node::File { mode, data } => (0o100_000 | mode, data, (0, 0)),
                Node::Char { major, minor } => (0o020_600, &[], (*major, *minor)),
            };
            entry(&mut out, ino as u32 + 1, path, mode, data, rdev);
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[], (0, 0));
        out
    }
}

fn entry(out: &mut Vec<u8>, ino: u32, path: &str, mode: u32, data: &[u8], rdev: (u32, u32)) {
    let name_size = path.len() as u32 + 1;
    out.extend(b"070701");
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    for field in [ino, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, rdev.0, rdev.1, name_size, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    pad(out);
    out.extend(data);
    pad(out);
}

/// Names and data end on a multiple of four.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel stops unpacking at the first misaligned header, and needs a directory before what is in it.
    #[test]
    fn layout() {
        let mut fs = Initramfs::new();
        fs.program("/bin/a/b", *b"xyz");
        let bytes = fs.into_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let headers: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(headers.len(), 6, "bin, bin/a, bin/a/b, dev, dev/console, trailer");
        assert!(headers.iter().all(|at| at % 4 == 0), "{headers:?}");
        assert!(text.find("bin/a\0") < text.find("bin/a/b\0"));
        assert!(text.contains("000081ed"), "regular file, 0755");
    }
}
