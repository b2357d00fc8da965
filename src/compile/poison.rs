//! Ask the compiler whether a unit has one of some names, written or pasted together.
//!
//! In: the names that a patch is about, the headers without what it changes in them, a unit's command. Out: whether
//! preprocessing the unit comes upon one of the names. `#pragma GCC poison` makes each of them an error wherever it is read: in code,
//! in a condition, in an argument that a macro drops, and where `##` makes it. In dead branches and in texts it is none. Nothing else
//! says this much: the output of a preprocessor has no trace of a name that was asked for and not found.
//! A unit that comes through has no use for what was left out, so that leaving it out changed nothing: with either version of it the
//! unit's other tokens are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::paths::Paths;
use super::{Mirror, Tree, run};

/// What every unit is asked with.
pub(super) struct Poison {
    /// The tree, its touched headers without what the patch is about.
    paths: Paths,
    /// Poisons the names; nothing where the patch is about none, as with one that changes comments.
    header: Option<PathBuf>,
}

impl Poison {
    /// Prepares in `work`, a directory that is not there yet. `headers`: by touched file what stays of it; nothing for one that no
    /// unit which is asked about may read.
    pub(super) fn new(
        names: &BTreeSet<Vec<u8>>,
        headers: BTreeMap<PathBuf, Option<&[u8]>>,
        tree: &Tree,
        work: &Path,
    ) -> Result<Poison> {
        const NOT_READ: &[u8] = b"#error this file is not in the unit's records\n";
        let is_all_there = headers.values().all(Option::is_some);
        let contents = headers.into_iter().map(|(path, text)| (path, Some(text.unwrap_or(NOT_READ).to_vec())));
        let mirror = Mirror::create(&work.join("tree"), &tree.source, contents.collect())?;
        let mut poisoned: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        // Whether a file is there that comes or goes.
        if !is_all_there {
            poisoned.extend([&b"__has_include"[..], b"__has_include_next"]);
        }
        let header = (!poisoned.is_empty()).then(|| mirror.root().with_file_name("names.h"));
        if let Some(header) = &header {
            let text = [b"#pragma GCC poison ", &poisoned.join(&b' ')[..], b"\n"].concat();
            fs::write(header, text).with_context(|| format!("failed to write `{}`", header.display()))?;
        }
        Ok(Poison { paths: Paths::new(&tree.source, &tree.objdir, mirror.root())?, header })
    }

    /// Whether the unit with this command comes upon none of the names. Any trouble says no: then the unit is looked at like others.
    pub(super) fn is_free(&self, command: &[String]) -> bool {
        let Some(header) = &self.header else { return true };
        // Files of this option are read before all others, ours included.
        if command.iter().any(|argument| argument.starts_with("-imacros")) {
            return false;
        }
        let mut command = self.paths.in_mirror(command);
        let options = command.iter().position(|argument| argument.starts_with('-')).unwrap_or(command.len());
        command.splice(options..options, ["-include".to_owned(), header.display().to_string()]);
        command.extend(["-w", "-Wfatal-errors", "-E", "-o", "/dev/null"].map(str::to_owned));
        let output = run::output(
            Command::new(&command[0])
                .args(&command[1..])
                .current_dir(self.paths.cwd(true))
                .env("TMPDIR", header.with_file_name("")),
        );
        output.is_ok_and(|output| output.status.success())
    }
}
