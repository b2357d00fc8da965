//! The runtime in a kernel source tree.
//!
//! In: a linux 7 tree. Out: the same with our files under kernel/livepatch/ and a handful of edits, or without them. Hard
//! because trees differ: every edit names the text it replaces, all are checked before the first is written, and what
//! does not match is refused with the whole list.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::dirs;

/// A piece of text that takes the place of another, found exactly once.
struct Edit {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const MAKEFILE: &str = "kernel/livepatch/Makefile";
const KCONFIG: &str = "kernel/livepatch/Kconfig";
const HEADER: &str = "include/linux/livepatch.h";
const BINDINGS: &str = "rust/bindings/bindings_helper.h";
const TEMPLATE: &str = "scripts/livepatch/init.c";

const EDITS: &[Edit] = &[
    Edit {
        file: MAKEFILE,
        from: "\nlivepatch-objs := core.o patch.o shadow.o state.o transition.o\n",
        to: "\nifdef CONFIG_LIVEPATCH_RUST\n\
             livepatch-objs := glue.o klp.o\n\
             else\n\
             livepatch-objs := core.o patch.o shadow.o state.o transition.o\n\
             endif\n",
    },
    Edit {
        file: KCONFIG,
        from: "\nconfig HAVE_KLP_BUILD\n",
        to: concat!("\n", include_str!("../../../runtime/kernel/Kconfig.rust"), "config HAVE_KLP_BUILD\n"),
    },
    Edit {
        file: BINDINGS,
        from: "\n#include <../../drivers/base/base.h>\n",
        to: "\n#include <../../drivers/base/base.h>\n\
             \n\
             #ifdef CONFIG_LIVEPATCH_RUST\n\
             #include <../../kernel/livepatch/glue.h>\n\
             #endif\n",
    },
    Edit {
        file: HEADER,
        from: "\n * @replace:\treplace all actively used patches\n",
        to: "\n * @replace:\treplace all actively used patches\n \
             * @replace_set: replace the actively used patches of this set (with CONFIG_LIVEPATCH_REPLACE_SET)\n",
    },
    Edit {
        file: HEADER,
        from: "\n\tbool replace;\n",
        to: "\n#ifdef CONFIG_LIVEPATCH_REPLACE_SET\n\
             \tunsigned int replace_set;\n\
             #else\n\
             \tbool replace;\n\
             #endif\n",
    },
    Edit {
        file: HEADER,
        from: "\n/**\n * struct klp_state - ",
        to: concat!(
            "\n#ifdef CONFIG_LIVEPATCH_REPLACE_SET\n",
            "struct klp_patch;\n",
            "struct klp_state;\n\n",
            "/**\n",
            " * struct klp_state_callbacks - the life of a system state\n",
            " * @pre_patch:\tbefore the state is introduced; may fail\n",
            " * @post_patch:\tafter all tasks use the livepatch that introduced it\n",
            " * @pre_unpatch: before tasks leave the last livepatch that has it\n",
            " * @post_unpatch: after all tasks have\n",
            " * @shadow_dtor: frees what a shadow variable of the state refers to\n",
            " */\n",
            "struct klp_state_callbacks {\n",
            "\tint (*pre_patch)(struct klp_patch *patch, struct klp_state *state);\n",
            "\tvoid (*post_patch)(struct klp_patch *patch, struct klp_state *state);\n",
            "\tvoid (*pre_unpatch)(struct klp_patch *patch, struct klp_state *state);\n",
            "\tvoid (*post_unpatch)(struct klp_patch *patch, struct klp_state *state);\n",
            "\tvoid (*shadow_dtor)(void *obj, void *shadow_data);\n",
            "};\n",
            "#endif\n\n",
            "/**\n * struct klp_state - ",
        ),
    },
    Edit {
        file: HEADER,
        from: "\n\tunsigned int version;\n\tvoid *data;\n",
        to: "\n\tunsigned int version;\n\tvoid *data;\n\
             #ifdef CONFIG_LIVEPATCH_REPLACE_SET\n\
             \tstruct klp_state_callbacks callbacks;\n\
             \tbool is_shadow;\n\
             \tbool owned; /* internal: removing this entry ends the state */\n\
             #endif\n",
    },
    // Upstream's own klp-build, so that it goes on working where there are sets.
    Edit {
        file: TEMPLATE,
        from: "\n#ifdef KLP_NO_REPLACE\n",
        to: "\n#if defined(CONFIG_LIVEPATCH_REPLACE_SET)\n\
             \tpatch->replace_set = 1;\n\
             #elif defined(KLP_NO_REPLACE)\n",
    },
];

/// Makes replace sets the default of the configuration.
const SETS: Edit = Edit {
    file: KCONFIG,
    from: "\n\tdepends on LIVEPATCH_RUST\n\thelp\n\t  Gives each",
    to: "\n\tdepends on LIVEPATCH_RUST\n\tdefault y\n\thelp\n\t  Gives each",
};

/// What goes to kernel/livepatch/: place below runtime/, place there.
const FILES: &[(&str, &str)] = &[
    ("kernel/klp.rs", "klp.rs"),
    ("kernel/glue.c", "glue.c"),
    ("kernel/glue.h", "glue.h"),
    ("kernel/klp", "klp"),
    ("engine/src/engine", "engine"),
];

/// The edited files with their new content, or every reason why not.
struct Plan {
    root: PathBuf,
    files: Vec<(PathBuf, String)>,
    problems: Vec<String>,
}

impl Plan {
    fn new(root: &Path) -> Result<Plan> {
        for part in ["kernel/livepatch/core.c", "rust/kernel/lib.rs", "Kconfig"] {
            if !root.join(part).is_file() {
                bail!("failed to find a linux 7 source tree in `{}`: there is no {part}", root.display());
            }
        }
        Ok(Plan { root: root.to_path_buf(), files: Vec::new(), problems: Vec::new() })
    }

    fn text(&mut self, file: &str) -> Result<&mut String> {
        let path = self.root.join(file);
        if let Some(at) = self.files.iter().position(|(known, _)| *known == path) {
            return Ok(&mut self.files[at].1);
        }
        let text = dirs::read(&path)?;
        self.files.push((path, text));
        Ok(&mut self.files.last_mut().expect("just pushed").1)
    }

    /// `from` becomes `to`, unless `to` is there already; neither is a problem.
    fn edit(&mut self, file: &str, from: &str, to: &str) -> Result<()> {
        let text = self.text(file)?;
        // A replacement that contains what it replaces has to be looked for first, and the other way round.
        if to.contains(from) && text.contains(to) || to.len() < from.len() && !text.contains(from) && text.contains(to)
        {
            return Ok(());
        }
        match text.matches(from).count() {
            1 => *text = text.replacen(from, to, 1),
            0 if text.contains(to) => {}
            n => {
                let line = from.trim().lines().next().unwrap_or_default();
                self.problems.push(format!("{file}: expected `{line}` once, found it {n} times"));
            }
        }
        Ok(())
    }

    /// Takes the default for sets back, wherever it was put.
    fn without_sets(&mut self) -> Result<()> {
        let text = self.text(SETS.file)?;
        *text = text.replace(SETS.to, SETS.from);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if !self.problems.is_empty() {
            bail!("failed to edit `{}`, nothing was changed:\n  {}", self.root.display(), self.problems.join("\n  "));
        }
        for (path, text) in self.files {
            // Unchanged files keep their time, so that make does not rebuild what depends on them.
            if dirs::read(&path)? != text {
                dirs::write(&path, text)?;
            }
        }
        Ok(())
    }
}

/// Puts the runtime into the tree; a second time changes nothing.
pub fn install(root: &Path, sets: bool) -> Result<()> {
    let mut plan = Plan::new(root)?;
    plan.without_sets()?;
    for edit in EDITS {
        plan.edit(edit.file, edit.from, edit.to)?;
    }
    if sets {
        plan.edit(SETS.file, SETS.from, SETS.to)?;
    }
    plan.finish()?;
    let (ours, theirs) = (dirs::root().join("runtime"), root.join("kernel/livepatch"));
    FILES.iter().try_for_each(|(from, to)| copy(&ours.join(from), &theirs.join(to)))
}

/// Takes the runtime out again.
pub fn remove(root: &Path) -> Result<()> {
    let mut plan = Plan::new(root)?;
    plan.without_sets()?;
    for edit in EDITS {
        plan.edit(edit.file, edit.to, edit.from)?;
    }
    plan.finish()?;
    for (_, name) in FILES {
        let path = root.join("kernel/livepatch").join(name);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove `{}`", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Copies what differs, and removes what is no longer there, leaving what kbuild put beside it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        let text = dirs::read(from)?;
        if dirs::read(to).ok().as_ref() != Some(&text) {
            dirs::write(to, text)?;
        }
        return Ok(());
    }
    dirs::create(to)?;
    let names = |dir: &Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(dir).with_context(|| format!("failed to read `{}`", dir.display()))?;
        Ok(entries.flatten().map(|entry| entry.file_name()).collect())
    };
    let ours = names(from)?;
    for name in names(to)? {
        if Path::new(&name).extension().is_some_and(|e| e == "rs") && !ours.contains(&name) {
            fs::remove_file(to.join(&name))
                .with_context(|| format!("failed to remove a stale file in `{}`", to.display()))?;
        }
    }
    ours.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with just the lines the edits look for.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for part in ["kernel/livepatch/core.c", "rust/kernel/lib.rs", "Kconfig"] {
            dirs::create(dir.path().join(part).parent().unwrap()).unwrap();
            dirs::write(&dir.path().join(part), "").unwrap();
        }
        for edit in EDITS {
            let path = dir.path().join(edit.file);
            dirs::create(path.parent().unwrap()).unwrap();
            let text = dirs::read(&path).unwrap_or_default();
            dirs::write(&path, format!("{text}{}", edit.from)).unwrap();
        }
        dir
    }

    fn contents(root: &Path) -> Vec<(PathBuf, String)> {
        let mut files: Vec<_> =
            EDITS.iter().map(|e| (root.join(e.file), dirs::read(&root.join(e.file)).unwrap())).collect();
        files.sort();
        files
    }

    /// Installing twice is installing once, with sets or without, and removing gives the pristine tree back.
    #[test]
    fn there_and_back() {
        let dir = tree();
        let pristine = contents(dir.path());
        for sets in [false, true] {
            install(dir.path(), sets).unwrap();
            let once = contents(dir.path());
            assert_ne!(once, pristine);
            install(dir.path(), sets).unwrap();
            assert_eq!(contents(dir.path()), once);
            assert!(dir.path().join("kernel/livepatch/engine/mod.rs").is_file());
        }
        install(dir.path(), false).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(contents(dir.path()), pristine);
        assert!(!dir.path().join("kernel/livepatch/engine").exists());
        remove(dir.path()).unwrap();
    }

    /// A tree that does not match is refused with every mismatch, and is not touched.
    #[test]
    fn refuses_a_strange_tree() {
        let dir = tree();
        dirs::write(&dir.path().join(MAKEFILE), "livepatch-objs := other.o\n").unwrap();
        dirs::write(&dir.path().join(BINDINGS), "").unwrap();
        let before = contents(dir.path());
        let error = install(dir.path(), false).unwrap_err().to_string();
        assert!(error.contains(MAKEFILE) && error.contains(BINDINGS), "{error}");
        assert_eq!(contents(dir.path()), before);
    }
}
