//! Which arguments of a compile name the source tree, and what they become in the mirror.
//!
//! In: a unit's command and where its trees are. Out: the command that compiles the mirror instead. Hard because
//! the tree is named in many ways: absolute or relative to the build directory, through links, in an argument
//! of its own or glued to an option, on the left of a prefix map; because the build directory may lie in
//! the source tree or the other way round; and because `__FILE__` has to come out the same in the end.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::command::{TAKES_VALUE, source_index};

/// The trees of a build, and the mirror that stands in for the source.
pub(super) struct Paths {
    source: [PathBuf; 2],
    objdir: [PathBuf; 2],
    mirror: PathBuf,
}

/// Options whose value is a path, glued on; longer ones first.
const GLUED: &[&str] = &["-idirafter", "-isystem", "-include", "-imacros", "-iquote", "-I"];

/// Options whose value is `OLD=NEW`.
const MAPS: &[&str] = &["-fmacro-prefix-map=", "-ffile-prefix-map=", "-fdebug-prefix-map="];

impl Paths {
    pub(super) fn new(source: &Path, objdir: &Path, mirror: &Path) -> Result<Paths> {
        let both = |path: &Path| -> Result<[PathBuf; 2]> {
            let canonical = fs::canonicalize(path).with_context(|| format!("failed to find `{}`", path.display()))?;
            Ok([std::path::absolute(path)?, canonical])
        };
        Ok(Paths { source: both(source)?, objdir: both(objdir)?, mirror: mirror.to_path_buf() })
    }

    /// Built in the source tree itself.
    pub(super) fn in_tree(&self) -> bool {
        self.source[1] == self.objdir[1]
    }

    /// The working directory of the original's compile, and of the patched one's.
    pub(super) fn cwd(&self, patched: bool) -> &Path {
        if patched && self.in_tree() { &self.mirror } else { &self.objdir[1] }
    }

    /// The command with the mirror in the place of the source tree.
    pub(super) fn in_mirror(&self, command: &[String]) -> Vec<String> {
        let options = command.iter().position(|arg| arg.starts_with('-')).unwrap_or(command.len());
        let source = source_index(command);
        let mut out = command[..options].to_vec();
        // First, so that whatever map the command has takes precedence (the last one that fits wins).
        let spelling = self.spelling_in(command);
        let mirror = self.mirror.display();
        out.push(format!("-fmacro-prefix-map={mirror}={spelling}"));
        // Debug information also names the working directory, which the system spells.
        let debug = if self.in_tree() { self.source[1].display().to_string() } else { spelling };
        out.push(format!("-fdebug-prefix-map={mirror}={debug}"));
        let mut at = options;
        while at < command.len() {
            let arg = &command[at];
            if GLUED.contains(&arg.as_str()) && at + 1 < command.len() {
                out.push(arg.clone());
                out.push(self.path_or_same(&command[at + 1]));
                at += 1;
            } else if TAKES_VALUE.contains(&arg.as_str()) && at + 1 < command.len() {
                out.extend([arg.clone(), command[at + 1].clone()]);
                at += 1;
            } else if Some(at) == source {
                out.push(self.path_or_same(arg));
            } else {
                self.option(arg, &mut out);
            }
            at += 1;
        }
        out
    }

    fn option(&self, arg: &str, out: &mut Vec<String>) {
        for map in MAPS {
            if let Some((old, new)) = arg.strip_prefix(map).and_then(|value| value.split_once('=')) {
                // The original may still be named: the build directory can lie in it.
                out.push(arg.to_string());
                out.extend(self.path(old).map(|path| format!("{map}{path}={new}")));
                return;
            }
        }
        for option in GLUED {
            if let Some(value) = arg.strip_prefix(option) {
                return out.push(format!("{option}{}", self.path_or_same(value)));
            }
        }
        // `-fplugin=`, `-fsanitize-ignorelist=` and whatever else takes a file.
        if let Some((option, value)) = arg.split_once('=')
            && (option.starts_with("-f") || option.starts_with("--"))
            && value.contains('/')
        {
            return out.push(format!("{option}={}", self.path_or_same(value)));
        }
        out.push(arg.to_string());
    }

    fn path_or_same(&self, path: &str) -> String {
        self.path(path).unwrap_or_else(|| path.to_string())
    }

    /// Paths of the command that the compiler follows inside the mirror through a `..`: those of a build in the tree, relative to it.
    pub(super) fn inside_by_parents<'a>(&self, command: &'a [String]) -> impl Iterator<Item = PathBuf> + 'a {
        let path = |arg: &'a String| GLUED.iter().find_map(|option| arg.strip_prefix(option)).unwrap_or(arg);
        let in_tree = self.in_tree();
        let paths = command.iter().map(path).map(Path::new).filter(move |_| in_tree);
        let by_parents =
            |path: &&Path| path.is_relative() && path.components().any(|part| part == Component::ParentDir);
        paths.filter(by_parents).map(Path::to_path_buf)
    }

    /// A path in the mirror for one in the source tree; `None` for any other, and for one that is relative to a
    /// working directory which is the mirror itself.
    fn path(&self, path: &str) -> Option<String> {
        if path.is_empty() || (self.in_tree() && !Path::new(path).is_absolute()) {
            return None;
        }
        let inside = self.inside(path)?;
        let slash = if path.ends_with('/') { "/" } else { "" };
        let mapped = if inside.as_os_str().is_empty() { self.mirror.clone() } else { self.mirror.join(inside) };
        Some(format!("{}{slash}", mapped.display()))
    }

    /// Where in the source tree a path lies, if it does and is not the build directory's.
    fn inside(&self, path: &str) -> Option<PathBuf> {
        let full = self.objdir[1].join(path);
        let up = full.components().any(|part| part == Component::ParentDir);
        let canonical = canonical(&full);
        let spelled = if up { None } else { Some(full.clone()) };
        let under = |roots: &[PathBuf; 2]| {
            let hit =
                |path: &PathBuf| roots.iter().find_map(|root| path.strip_prefix(root).ok().map(Path::to_path_buf));
            spelled.as_ref().and_then(hit).or_else(|| canonical.as_ref().and_then(hit))
        };
        let build_is_inside = !self.in_tree() && self.objdir[1].starts_with(&self.source[1]);
        if build_is_inside && under(&self.objdir).is_some() {
            return None;
        }
        under(&self.source)
    }

    /// How the command spells the source tree.
    pub(super) fn spelling_in(&self, command: &[String]) -> String {
        let source = source_index(command).and_then(|at| self.spelling(&command[at]));
        source.unwrap_or_else(|| self.source[0].display().to_string())
    }

    /// Where the mirror is.
    pub(super) fn mirror(&self) -> &Path {
        &self.mirror
    }

    /// The main source as the command has it, without the part inside the tree.
    fn spelling(&self, main: &str) -> Option<String> {
        let inside = self.inside(main)?;
        let root = main.strip_suffix(inside.to_str()?)?.trim_end_matches('/');
        (!root.is_empty()).then(|| root.to_string())
    }

    /// The spellings of the trees, those that others begin with last.
    fn spellings(&self) -> Vec<(&[u8], &'static [u8])> {
        let mut all: Vec<(&[u8], &'static [u8])> = Vec::new();
        for (paths, blank) in [(&self.source, &b"\0source\0"[..]), (&self.objdir, &b"\0build\0"[..])] {
            all.extend(paths.iter().map(|path| (path.as_os_str().as_encoded_bytes(), blank)));
        }
        all.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        all
    }

    /// Text or argument without the names of the trees: the same for any copy of them.
    pub(super) fn blanked(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for (path, blank) in self.spellings() {
            let mut next = Vec::with_capacity(out.len());
            let mut at = 0;
            for found in memchr::memmem::find_iter(&out, path) {
                next.extend_from_slice(&out[at..found]);
                next.extend_from_slice(blank);
                at = found + path.len();
            }
            next.extend_from_slice(&out[at..]);
            out = next;
        }
        out
    }

    /// Whether an object may hold the name of a tree; debug information, which may be packed, always may.
    pub(super) fn are_named_in(&self, object: &[u8]) -> bool {
        let has = |bytes: &[u8]| memchr::memmem::find(object, bytes).is_some();
        has(b".debug_info") || self.spellings().into_iter().any(|(path, _)| has(path))
    }

    /// Compiler output for people: the mirror's files by the names they have in the source tree.
    pub(super) fn readable(&self, text: &str) -> String {
        let mirror = self.mirror.display().to_string();
        text.replace(&format!("{mirror}/"), "").replace(&mirror, &self.source[0].display().to_string())
    }
}

/// The canonical form, also of a path whose last parts do not exist: the patch may create them.
fn canonical(path: &Path) -> Option<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => Some(path),
        Err(_) => Some(canonical(path.parent()?)?.join(path.file_name()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(source: &str, objdir: &str, command: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        for path in [source, objdir] {
            fs::create_dir_all(base.join(path).join("include")).unwrap();
        }
        fs::create_dir_all(base.join(source).join("fs")).unwrap();
        fs::write(base.join(source).join("fs/x.c"), "").unwrap();
        let at = |path: &str| path.replace('@', &base.display().to_string());
        let paths = Paths::new(&base.join(source), &base.join(objdir), Path::new("/m")).unwrap();
        let command: Vec<String> = at(command).split_whitespace().map(String::from).collect();
        paths.in_mirror(&command).join(" ").replace(&base.display().to_string(), "@")
    }

    /// An `O=` build that names its source absolutely, in every form.
    #[test]
    fn absolute() {
        assert_eq!(
            map(
                "s",
                "o",
                "gcc -I@/s/include -I./include -I @/s/include -include @/s/fs/x.h -isystem@/s/i -fmacro-prefix-map=@/s/= \
                -fplugin=@/s/p.so -DX=@/s/y -D @/s -I@/s2/include -c @/s/fs/x.c"
            ),
            "gcc -fmacro-prefix-map=/m=@/s -fdebug-prefix-map=/m=@/s -I/m/include -I./include -I /m/include -include /m/fs/x.h \
             -isystem/m/i -fmacro-prefix-map=@/s/= -fmacro-prefix-map=/m/= -fplugin=/m/p.so -DX=@/s/y -D @/s -I@/s2/include -c /m/fs/x.c"
        );
    }

    /// A build directory inside the source tree, named by `..`: the source is not the build directory.
    #[test]
    fn relative() {
        assert_eq!(
            map("s", "s/o", "gcc -I../include -I./include -I@/s/o/include -fmacro-prefix-map=../= -c ../fs/x.c"),
            "gcc -fmacro-prefix-map=/m=.. -fdebug-prefix-map=/m=.. -I/m/include -I./include -I@/s/o/include -fmacro-prefix-map=../= \
             -fmacro-prefix-map=/m/= -c /m/fs/x.c"
        );
    }

    /// A build in the tree runs in the mirror: what is relative stays as it is.
    #[test]
    fn in_tree() {
        assert_eq!(
            map("s", "s", "gcc -I./include -I@/s/include -include ./include/x.h -fmacro-prefix-map=./= -c fs/x.c"),
            "gcc -fmacro-prefix-map=/m=@/s -fdebug-prefix-map=/m=@/s -I./include -I/m/include -include ./include/x.h \
             -fmacro-prefix-map=./= -c fs/x.c"
        );
    }
}
