//! Is a file the one that this machine runs? What the running kernel says of itself in, a mismatch or nothing out.
//!
//! An upgrade puts another kernel, or another module, under the same path while the old one still runs: Debian keeps the
//! release over security updates of one ABI. The kernel and its loaded modules show their build ids (/sys/kernel/notes,
//! /sys/module/NAME/notes/.note.gnu.build-id: kernel/ksysfs.c, kernel/module/sysfs.c), and a file that holds that very note is the one that was
//! loaded. A kernel linked without build ids has its banner, which names version, compiler and time (fs/proc/version.c).

use std::path::{Path, PathBuf};

use memchr::memmem;

/// What runs here, as far as files that were found by the running release have to be of it.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// The kernel, when its image was found, not named.
    kernel: Option<Identity>,
    /// /sys/module, when the modules' directory was found, not named.
    modules: Option<PathBuf>,
}

/// How the running kernel can be told from another build.
#[derive(Debug, Clone)]
enum Identity {
    /// The bytes of its build id's note.
    BuildId(Vec<u8>),
    /// /proc/version, without the end of the line.
    Banner(String),
}

impl Running {
    /// The kernel below a file system root; `image` and `modules` say whether those were found and have to be what runs.
    pub(super) fn below(root: &Path, image: bool, modules: bool) -> Running {
        let notes = std::fs::read(root.join("sys/kernel/notes")).ok();
        let banner = || std::fs::read_to_string(root.join("proc/version")).ok();
        let identity = notes
            .and_then(|notes| build_id_note(&notes).map(<[u8]>::to_vec))
            .map(Identity::BuildId)
            .or_else(|| banner().map(|text| Identity::Banner(text.trim_end().to_owned())));
        Running { kernel: identity.filter(|_| image), modules: modules.then(|| root.join("sys/module")) }
    }

    /// What is wrong with an image, given its loaded pieces and its banner.
    pub fn is_not_image<'b>(&self, mut pieces: impl Iterator<Item = &'b [u8]>, banner: Option<&str>) -> Option<String> {
        let said = banner.unwrap_or("nothing of itself");
        let (is_it, why) = match self.kernel.as_ref()? {
            Identity::BuildId(note) => (
                pieces.any(|bytes| memmem::find(bytes, note).is_some()),
                format!("its build id is not in the file, which says `{said}`"),
            ),
            Identity::Banner(runs) => (
                banner.is_none_or(|banner| banner.trim_end() == runs),
                format!("it says `{runs}`, and the file `{said}`"),
            ),
        };
        (!is_it).then(|| format!("the kernel that runs is another build: {why}"))
    }

    /// What is wrong with a module's file, given its bytes; nothing when the module is not loaded or has no build id.
    pub fn is_not_module(&self, name: &str, file: &[u8]) -> Option<String> {
        let notes = std::fs::read(self.modules.as_ref()?.join(name).join("notes/.note.gnu.build-id")).ok()?;
        let note = build_id_note(&notes)?;
        memmem::find(file, note)
            .is_none()
            .then(|| format!("the module `{name}` that is loaded is another build: its build id is not in the file"))
    }
}

/// The note with the build id, header included, among notes (elf(5): sizes of name and contents, type, and both padded to four).
fn build_id_note(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let (name, contents) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        let size = 12usize.checked_add(name.next_multiple_of(4))?.checked_add(contents.next_multiple_of(4))?;
        let note = notes.get(..size)?;
        if word(notes, 8)? == NT_GNU_BUILD_ID && note.get(12..16) == Some(b"GNU\0") && contents > 0 {
            return Some(note);
        }
        notes = &notes[size..];
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::put;
    use super::*;

    fn note(kind: u32, name: &str, contents: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32 + 1, contents.len() as u32, kind] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(name.bytes());
        bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
        bytes.extend(contents);
        bytes
    }

    /// A kernel package that was upgraded without a reboot holds another build id under the same release.
    #[test]
    fn upgraded_without_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let mine = note(3, "GNU", b"twenty bytes of mine");
        put(dir.path(), "sys/kernel/notes", [note(3, "Xen", b"pvh."), mine.clone(), note(6, "Linux", b"")].concat());
        put(dir.path(), "proc/version", b"Linux version 6.1.0-x (a)\n");
        let running = Running::below(dir.path(), true, true);
        let pieces = |id: &[u8]| vec![b"text".to_vec(), [b"data", id, b"more"].concat()];
        let wrong = |pieces: &[Vec<u8>]| {
            running.is_not_image(pieces.iter().map(Vec::as_slice), Some("Linux version 6.1.0-x (b)"))
        };
        assert_eq!(wrong(&pieces(&mine)), None);
        let text = wrong(&pieces(&note(3, "GNU", b"twenty bytes, others"))).unwrap();
        assert!(text.contains("another build") && text.contains("6.1.0-x (b)"), "{text}");
        // An image that was named is the user's business.
        assert_eq!(Running::below(dir.path(), false, true).is_not_image(std::iter::empty(), None), None);
    }

    /// Without build ids the banner tells.
    #[test]
    fn banner_without_build_id() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "proc/version", b"Linux version 6.1.0-x (a@b) #1 SMP Debian 6.1.52-1\n");
        let running = Running::below(dir.path(), true, true);
        let wrong = |banner| running.is_not_image(std::iter::empty(), Some(banner));
        assert_eq!(wrong("Linux version 6.1.0-x (a@b) #1 SMP Debian 6.1.52-1"), None);
        let text = wrong("Linux version 6.1.0-x (a@b) #1 SMP Debian 6.1.55-1").unwrap();
        assert!(text.contains("6.1.52-1") && text.contains("6.1.55-1"), "{text}");
    }

    /// A module that is loaded must be the file's; one that is not loaded may be anything.
    #[test]
    fn module_that_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let mine = note(3, "GNU", b"twenty bytes of mine");
        put(dir.path(), "sys/module/ext4/notes/.note.gnu.build-id", &mine);
        let running = Running::below(dir.path(), true, true);
        assert_eq!(running.is_not_module("ext4", &[b"\x7fELF".to_vec(), mine].concat()), None);
        assert!(running.is_not_module("ext4", b"\x7fELF").unwrap().contains("`ext4` that is loaded is another build"));
        assert_eq!(running.is_not_module("xfs", b"\x7fELF"), None);
    }
}
