//! What the image says of how it was built, to tell people why it may differ.
//!
//! In: the image's banner and the unit's `.comment`. Out: one line of advice with both.

use std::sync::LazyLock;

use memchr::memmem;

use super::Loaded;
use crate::elf::Object;

/// How image and unit were made, as far as they say.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// `Linux version ...` of the image, or `vermagic` of the module.
    pub image: Option<String>,
    /// Release of the tree that the unit was compiled in.
    pub tree: Option<String>,
    /// Compilers that the module's file names, in `.comment`.
    pub image_compiler: Option<String>,
    /// The compiler that the unit's object names.
    pub unit_compiler: Option<String>,
}

impl Evidence {
    /// Gathers it.
    pub fn gather(loaded: &Loaded, unit: &Object, tree: &str) -> Evidence {
        Evidence {
            image: loaded.banner.clone(),
            tree: Some(tree.to_owned()),
            image_compiler: loaded.comment.clone(),
            unit_compiler: comment(unit),
        }
    }

    /// What to do about a difference.
    pub fn advice(&self) -> String {
        static USUAL: LazyLock<String> = LazyLock::new(|| {
            "use the source, configuration and compiler that the kernel was built with (another compiler, another \
             option, or another patch level are the usual causes)"
                .to_owned()
        });
        let mut facts = Vec::new();
        let mut say = |what: &str, value: &Option<String>| {
            if let Some(value) = value {
                facts.push(format!("{what} says `{}`", value.trim()));
            }
        };
        say("the image", &self.image);
        say("its .comment", &self.image_compiler);
        say("the tree", &self.tree);
        say("the compiled object", &self.unit_compiler);
        if facts.is_empty() { USUAL.clone() } else { format!("{}; {}", *USUAL, facts.join(", ")) }
    }
}

/// `linux_banner` (init/version-timestamp.c), found by its text: the symbol table may be the wrong one.
pub(super) fn banner<'b>(mut pieces: impl Iterator<Item = &'b [u8]>) -> Option<String> {
    const START: &[u8] = b"Linux version ";
    pieces.find_map(|bytes| {
        memmem::find_iter(bytes, START).find_map(|at| {
            let text = &bytes[at..bytes.len().min(at + 1024)];
            // Format strings have `%s` there.
            text.get(START.len()).filter(|b| b.is_ascii_digit())?;
            String::from_utf8(text[..memchr::memchr2(0, b'\n', text)?].to_vec()).ok()
        })
    })
}

/// All different texts of `.comment`.
pub(super) fn comment(object: &Object) -> Option<String> {
    let section = object.section(object.section_named(".comment")?);
    let mut texts: Vec<&str> =
        section.data.split(|b| *b == 0).filter_map(|t| std::str::from_utf8(t).ok()).filter(|t| !t.is_empty()).collect();
    texts.sort_unstable();
    texts.dedup();
    (!texts.is_empty()).then(|| texts.join(", "))
}
