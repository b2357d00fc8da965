//! New files that compilers would find instead of ones that they read now.
//!
//! In: the files that a patch creates, and a unit's command with what it read. Out: which of the new files it may read. No list of a
//! build has them: include/linux/foo.h is found by `#include <linux/foo.h>` where include/uapi/linux/foo.h is read now, and a file
//! beside the source before any other. So the `#include` lines of what the unit read are followed as the compiler would. Only units
//! that read a file of the same name are asked: what another would find anew was not there when it was built, except for
//! `__has_include`. Whether it makes a difference, preprocessing tells.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use memchr::memmem;

use super::cmd::{CmdFile, normalize, source_relative};
use super::units::Build;

/// The files that a patch creates.
pub(super) struct Shadows<'a> {
    build: Build<'a>,
    created: Vec<&'a Path>,
    names: Vec<&'a str>,
    /// By file, as kbuild's lists spell it: what it includes of these names.
    read: RwLock<HashMap<String, Arc<Vec<Include>>>>,
}

/// What an `#include` line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Include {
    /// `"x.h"`: beside the file itself, or as the next.
    Quoted(String),
    /// `<linux/x.h>`: in the directories of the command.
    Angled(String),
    /// A macro, which may come to any name.
    Computed,
}

impl<'a> Shadows<'a> {
    pub(super) fn new(build: Build<'a>, touched: &'a [PathBuf]) -> Shadows<'a> {
        let created: Vec<&Path> =
            touched.iter().map(PathBuf::as_path).filter(|path| !build.source.join(path).exists()).collect();
        let names: BTreeSet<&str> = created.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        Shadows { build, created, names: names.into_iter().collect(), read: RwLock::default() }
    }

    /// The new files that the compile may read.
    pub(super) fn read_by(&self, file: &CmdFile) -> Vec<PathBuf> {
        let is_named = |dep: &String, name: &str| {
            dep.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        if !self.names.iter().any(|name| file.deps.iter().any(|dep| is_named(dep, name))) {
            return Vec::new();
        }
        let directories = self.directories(file);
        let mut found = BTreeSet::new();
        for dep in &file.deps {
            let includes = self.includes(dep);
            if includes.is_empty() {
                continue;
            }
            let own = self.relative(dep).parent().map(Path::to_path_buf).unwrap_or_default();
            for created in &self.created {
                if includes.iter().any(|include| leads_to(include, created, &own, &directories, &file.deps)) {
                    found.insert(created.to_path_buf());
                }
            }
        }
        found.into_iter().collect()
    }

    fn relative(&self, path: &str) -> PathBuf {
        source_relative(path, self.build.objdir, self.build.source)
    }

    /// Where the command looks for headers.
    fn directories(&self, file: &CmdFile) -> BTreeSet<PathBuf> {
        const OPTIONS: [&str; 4] = ["-I", "-iquote", "-isystem", "-idirafter"];
        let argv = file.compile().unwrap_or_default();
        let glued = argv.iter().filter_map(|arg| OPTIONS.iter().find_map(|option| arg.strip_prefix(option)));
        let apart = argv.windows(2).filter(|pair| OPTIONS.contains(&pair[0].as_str())).map(|pair| pair[1].as_str());
        glued.chain(apart).filter(|path| !path.is_empty()).map(|path| self.relative(path)).collect()
    }

    fn includes(&self, dep: &str) -> Arc<Vec<Include>> {
        if let Some(known) = self.read.read().unwrap_or_else(|e| e.into_inner()).get(dep) {
            return known.clone();
        }
        let text = std::fs::read(self.build.objdir.join(dep)).unwrap_or_default();
        let mut read = self.read.write().unwrap_or_else(|e| e.into_inner());
        read.entry(dep.to_owned()).or_insert_with(|| Arc::new(includes(&text, &self.names))).clone()
    }
}

/// How many last parts two paths have in common.
fn same_end(a: &Path, b: &Path) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Whether the compiler may find the file by this include in a file of the directory `own`.
fn leads_to(include: &Include, created: &Path, own: &Path, directories: &BTreeSet<PathBuf>, deps: &[String]) -> bool {
    let in_directories = |name: &str| directories.iter().any(|dir| normalize(&dir.join(name)) == created);
    match include {
        Include::Quoted(name) => normalize(&own.join(name)) == created || in_directories(name),
        Include::Angled(name) => in_directories(name),
        // The name is one by which something is found now.
        Include::Computed => {
            let most = deps.iter().map(|dep| same_end(Path::new(dep), created)).max().unwrap_or(0);
            created.ancestors().skip(1).take(most).any(|dir| dir == own || directories.contains(dir))
        }
    }
}

/// What the lines of a file include, as far as it has one of these names or is not known; and what it asks for (`__has_include`).
pub(super) fn includes(text: &[u8], names: &[&str]) -> Vec<Include> {
    let mut found = Vec::new();
    for at in memmem::find_iter(text, b"include") {
        let before = &text[memchr::memrchr(b'\n', &text[..at]).map_or(0, |i| i + 1)..at];
        let after = &text[at + b"include".len()..];
        let after = after.strip_prefix(b"_next").unwrap_or(after);
        let line = after.split(|b| *b == b'\n').next().unwrap_or_default();
        let directive = before.trim_ascii().strip_prefix(b"#").is_some_and(|rest| rest.trim_ascii().is_empty());
        let operand = match () {
            () if directive => line.trim_ascii_start(),
            () if before.ends_with(b"__has_") => {
                line.trim_ascii_start().strip_prefix(b"(").unwrap_or_default().trim_ascii_start()
            }
            () => continue,
        };
        let until = |end: u8| {
            let name = operand[1..].split(|b| *b == end).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        };
        let named = |name: &str| names.iter().any(|known| Path::new(name).file_name().is_some_and(|n| n == *known));
        match operand.first() {
            Some(b'"') => found.extend(Some(until(b'"')).filter(|name| named(name)).map(Include::Quoted)),
            Some(b'<') => found.extend(Some(until(b'>')).filter(|name| named(name)).map(Include::Angled)),
            Some(b) if b.is_ascii_alphabetic() || *b == b'_' => found.push(Include::Computed),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(name: &str) -> Include {
        Include::Quoted(name.to_owned())
    }

    fn angled(name: &str) -> Include {
        Include::Angled(name.to_owned())
    }

    /// Directives in their forms, with one of the names; not prose, nor other names.
    #[test]
    fn lines() {
        let text = b"#include <linux/a.h>\n # include \"../b.h\" /* x */\n#include_next <a.h>\n#include \"c.h\"\n/* include <a.h> */\n\
                     #include MACRO(x)\n#if __has_include(<x/a.h>) || __has_include (\"b.h\")\n#define INCLUDE \"a.h\"\n#include <a.hx>";
        let found = includes(text, &["a.h", "b.h"]);
        assert_eq!(
            found,
            [angled("linux/a.h"), quoted("../b.h"), angled("a.h"), Include::Computed, angled("x/a.h"), quoted("b.h")]
        );
    }

    /// A name leads to what the command's directories make of it, a quoted one to what is beside the file, too; a macro to what has the
    /// end of something that is read.
    #[test]
    fn leads() {
        let directories: BTreeSet<PathBuf> = ["include", "include/uapi", "drv"].map(PathBuf::from).into();
        let deps = ["./include/uapi/linux/foo.h".to_owned(), "fs/a.c".to_owned()];
        let leads = |include: Include, created: &str| {
            leads_to(&include, Path::new(created), Path::new("fs"), &directories, &deps)
        };
        assert!(leads(angled("linux/foo.h"), "include/linux/foo.h"));
        assert!(!leads(angled("linux/foo.h"), "include/net/foo.h"));
        assert!(leads(quoted("foo.h"), "fs/foo.h") && leads(quoted("foo.h"), "drv/foo.h"));
        assert!(!leads(angled("foo.h"), "fs/foo.h") && !leads(quoted("foo.h"), "mm/foo.h"));
        assert!(leads(quoted("../mm/foo.h"), "mm/foo.h") && leads(angled("../mm/foo.h"), "mm/foo.h"));
        assert!(leads(Include::Computed, "include/linux/foo.h") && leads(Include::Computed, "fs/foo.h"));
        assert!(!leads(Include::Computed, "net/linux/foo.h") && !leads(Include::Computed, "include/linux/bar.h"));
    }
}
