//! Units of a tree that is only configured: touched files in, units that kbuild made one by one out.
//!
//! There are no dependency lists yet. For a `.c` file kbuild says whether its object is part of this kernel; a file
//! that is not may still be included by one that is. Headers and included files are followed through the text of
//! `#include` lines, by base name, which finds too much rather than too little; the lists of the compiles that
//! are then made decide. A header that half the kernel includes would mean compiling half the kernel: that
//! is an error which says so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use memchr::memmem;
use rayon::prelude::*;

use super::cmd::normalize;
use super::configured::{self, Private};
use super::links;
use super::shadows::{self, Include};
use super::units::{self, Build, Reach};

/// More directories than this are not asked for their objects.
const MOST_DIRECTORIES: usize = 24;

/// The units that read any of `touched` (relative to the source tree), compiled in the private directory.
pub(super) fn reached_by(private: &Private, touched: &[PathBuf], jobs: usize) -> Result<Reach> {
    let mut objects = Objects { private, jobs, known: HashMap::new() };
    let mut targets = BTreeSet::new();
    let mut follow = Vec::new();
    for path in touched.iter().filter(|path| private.source.join(path).is_file()) {
        let is_c = path.extension().is_some_and(|e| e == "c");
        if is_c && objects.has(path)? {
            targets.insert(path.with_extension("o"));
        } else if is_c || path.extension().is_some_and(|e| e == "h") {
            follow.push(path.clone());
        }
    }
    follow.extend(links::to_headers(&private.source, touched).into_keys());
    let created: Vec<PathBuf> = touched.iter().filter(|path| !private.source.join(path).exists()).cloned().collect();
    if !follow.is_empty() || !created.is_empty() {
        let includers = includers(&private.source, &follow, &created)?;
        let directories: BTreeSet<&Path> = includers.iter().filter_map(|path| path.parent()).collect();
        if directories.len() > MOST_DIRECTORIES {
            bail!(
                "`{}` may reach {} files in {} directories: for such a patch the kernel must be built once; \
                 build it and name the build directory with -O",
                follow.first().unwrap_or_else(|| &created[0]).display(),
                includers.len(),
                directories.len()
            );
        }
        for path in &includers {
            if objects.has(path)? {
                targets.insert(path.with_extension("o"));
            }
        }
    }
    let targets: Vec<PathBuf> = targets.into_iter().collect();
    if !targets.is_empty() {
        let goals: Vec<String> = targets.iter().map(|target| target.display().to_string()).collect();
        let goals: Vec<&str> = goals.iter().map(String::as_str).collect();
        private.make(&goals, &format!("compile `{}`", goals.join("`, `")), jobs)?;
    }
    let build = Build { source: &private.source, objdir: &private.objdir, modules: None };
    units::units_of_targets(build, touched, &targets)
}

/// What kbuild makes, by directory, asked once each.
struct Objects<'a> {
    private: &'a Private,
    jobs: usize,
    known: HashMap<PathBuf, HashSet<PathBuf>>,
}

impl Objects<'_> {
    /// Whether the object of a `.c` file is part of this kernel.
    fn has(&mut self, source: &Path) -> Result<bool> {
        let target = source.with_extension("o");
        // An object that was made before was asked about before.
        if self.private.objdir.join(units::cmd_path(&target)).is_file() {
            return Ok(true);
        }
        let Some(dir) = source.parent() else { return Ok(false) };
        if !self.known.contains_key(dir) {
            let objects = configured::objects_in(self.private, dir, self.jobs)?;
            self.known.insert(dir.to_owned(), objects);
        }
        Ok(self.known[dir].contains(&target))
    }
}

/// All `.c` files that may include any of these, directly or through headers and other `.c` files; and those that would find one of
/// the `created` files where they include another of its name now.
fn includers(source: &Path, files: &[PathBuf], created: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    // A file that a created one hides may be anywhere.
    let all = source_files(source, if created.is_empty() { files } else { &[] })?;
    let has_namesake = |path: &&PathBuf| all.iter().any(|other| other.file_name() == path.file_name());
    let created: Vec<&PathBuf> = created.iter().filter(has_namesake).collect();
    let finds = |path: &&PathBuf| {
        let text = std::fs::read(source.join(path)).unwrap_or_default();
        created.iter().any(|created| finds(&text, path, created))
    };
    let mut frontier: Vec<PathBuf> = match created.is_empty() {
        true => Vec::new(),
        false => all.par_iter().filter(finds).cloned().collect(),
    };
    let is_c = |path: &&PathBuf| path.extension().is_some_and(|e| e == "c");
    let mut found: BTreeSet<PathBuf> = frontier.iter().filter(is_c).cloned().collect();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    frontier.extend(files.iter().cloned());
    while !frontier.is_empty() {
        let names: Vec<Vec<u8>> = frontier
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| name.as_encoded_bytes().to_vec())
            .filter(|name| seen.insert(name.clone()))
            .collect();
        let next: Vec<PathBuf> = all
            .par_iter()
            .filter(|path| {
                let text = std::fs::read(source.join(path)).unwrap_or_default();
                names.iter().any(|name| includes(&text, name))
            })
            .cloned()
            .collect();
        found.extend(next.iter().filter(is_c).cloned());
        frontier = next;
    }
    Ok(found)
}

/// `.c` and `.h` files that can include the given ones: the whole tree for public headers, else the directory
/// that is common to all, one above it included.
fn source_files(source: &Path, files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let is_public = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "include");
    let start = match files {
        [only] if !is_public(only) => only.parent().and_then(Path::parent).unwrap_or(Path::new("")),
        _ => Path::new(""),
    };
    let mut list = Vec::new();
    for entry in walkdir::WalkDir::new(source.join(start)) {
        let entry = entry.with_context(|| format!("failed to list `{}`", source.join(start).display()))?;
        let path = entry.path().strip_prefix(source).unwrap_or(entry.path());
        let skipped = ["tools", "scripts", "Documentation", "samples"].iter().any(|dir| path.starts_with(dir));
        if !skipped && path.extension().is_some_and(|e| e == "c" || e == "h") {
            list.push(path.to_owned());
        }
    }
    Ok(list)
}

/// Whether a file may find the created one by an `#include` line that finds another now: beside it, in a directory of public headers, or in
/// one of its subsystem. Which directories it looks in is not known before it is compiled.
fn finds(text: &[u8], path: &Path, created: &Path) -> bool {
    let Some(name) = created.file_name().and_then(|name| name.to_str()) else { return false };
    let own = path.parent().unwrap_or(Path::new(""));
    shadows::includes(text, &[name]).iter().any(|include| {
        let (name, beside) = match include {
            Include::Quoted(name) => (name, normalize(&own.join(name)) == created),
            Include::Angled(name) => (name, false),
            Include::Computed => return false,
        };
        let below = Path::new(name.trim_start_matches("./").trim_start_matches("../"));
        let dir = created.ancestors().nth(below.components().count()).filter(|_| created.ends_with(below));
        let is_near = |dir: &Path| {
            let subsystem = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(dir);
            dir.ends_with("include") || dir.ends_with("include/uapi") || own.starts_with(subsystem)
        };
        beside || dir.is_some_and(is_near)
    })
}

/// Whether a text has an `#include` line whose path ends in this name.
fn includes(text: &[u8], name: &[u8]) -> bool {
    memmem::find_iter(text, name).any(|at| {
        let line_start = memchr::memrchr(b'\n', &text[..at]).map_or(0, |i| i + 1);
        let line = text[line_start..at].trim_ascii_start();
        let Some(rest) = line.strip_prefix(b"#") else { return false };
        rest.trim_ascii_start().starts_with(b"include")
            && matches!(text[at - 1], b'"' | b'<' | b'/')
            && matches!(text.get(at + name.len()), Some(b'"' | b'>'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only include lines count, by the whole last part of the path.
    #[test]
    fn include_lines() {
        assert!(includes(b"int a;\n # include \"../x/rt.c\"\n", b"rt.c"));
        assert!(includes(b"#include <linux/rt.h>\n", b"rt.h"));
        assert!(!includes(b"/* see rt.c */\n#include \"art.c\"\n#include \"rt.cc\"\n", b"rt.c"));
    }

    /// Chains through headers and included .c files lead to the files that are compiled.
    #[test]
    fn chains() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("k/s/part.h", "");
        put("k/s/mid.h", "#include \"part.h\"\n");
        put("k/s/rt.c", "#include \"mid.h\"\n");
        put("k/s/policy.c", "#include \"rt.c\"\n");
        put("k/s/other.c", "#include \"apart.h\"\n");
        let found = includers(dir.path(), &[PathBuf::from("k/s/part.h")], &[]).unwrap();
        let expected: BTreeSet<PathBuf> = ["k/s/rt.c", "k/s/policy.c"].map(PathBuf::from).into();
        assert_eq!(found, expected);
    }

    /// Who includes a name that a new file takes is found; who includes another file of that name, and who has none yet, is not.
    #[test]
    fn new_files() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("include/uapi/linux/foo.h", "");
        put("include/linux/mid.h", "#include <linux/foo.h>\n");
        put("fs/a.c", "#include <linux/mid.h>\n");
        put("fs/b.c", "#include <net/foo.h>\n");
        put("fs/c.c", "#include \"../fs/foo.h\"\n");
        put("drv/x/d.c", "#include <foo.h>\n");
        let of = |created: &str| {
            let found = includers(dir.path(), &[], &[PathBuf::from(created)]).unwrap();
            found.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("include/linux/foo.h"), ["fs/a.c"]);
        assert_eq!(of("fs/foo.h"), ["fs/c.c"]);
        assert_eq!(of("drv/inc/foo.h"), ["drv/x/d.c"]);
        assert_eq!(of("include/linux/new.h"), [""; 0]);
    }
}
