//! Which translation units a patch can reach: touched source files in, [`Unit`]s out.
//!
//! The answer is in the dependency lists of a finished build, one `.foo.o.cmd` a unit. A distribution build
//! has 25,000 of them with 60 KB each, so all are searched as bytes for the touched files' base names, and only
//! hits are parsed. Base names, since lists spell paths as the compiler met them (`fs/xfs/../foo.h`).
//! A `.c` file may be reached through another unit that includes it (kernel/sched/build_policy.c), a header through a link
//! ([`super::links`]), and a file that the patch creates through what it takes the place of ([`super::shadows`]).
//! Not every hit is code of the running kernel: vDSO, boot and realmode images, assembly, and leftovers of an
//! earlier configuration are reported apart, with the reason.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memchr::memmem::Finder;
use rayon::prelude::*;

use super::cmd::{CmdFile, source_relative};
use super::generated::{self, Generated};
use super::links;
use super::not_built;
use super::shadows::Shadows;
use super::symvers::module_name;
use super::unit::Unit;
use crate::error::Refusal;

/// Why something that reads a touched file is not a unit that can be livepatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Assembly: there is no C function to compare.
    Assembly,
    /// Rust code.
    Rust,
    /// Linked into an image that runs before or beside the kernel: boot loader stub, realmode, purgatory.
    OtherImage,
    /// Linked into the vDSO, which programs have mapped.
    Vdso,
    /// In no archive or module of this configuration: left over from an earlier one.
    NotLinked,
}

/// A compile that reads a touched file, but is not a unit of vmlinux or of a module.
#[derive(Debug, Clone)]
pub struct Outside {
    /// kbuild's target, relative to the build directory.
    pub target: PathBuf,
    /// The touched files it reads.
    pub reads: Vec<PathBuf>,
    /// Why it does not count.
    pub why: Why,
    /// The compile, where what it makes of the files matters to who runs the kernel: assembly, and the vDSO.
    pub unit: Option<Unit>,
}

/// What a set of touched files reaches.
#[derive(Debug, Default)]
pub struct Reach {
    /// Units whose code may change, by object and target.
    pub units: Vec<Unit>,
    /// Other compiles that read the files.
    pub outside: Vec<Outside>,
    /// Sources that the build generated from the files.
    pub generated: Vec<Generated>,
    /// Touched files that reach no unit.
    pub refusals: Vec<Refusal>,
}

/// A finished build to search: absolute, canonical directories, and the modules it makes.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// Source tree.
    pub source: &'a Path,
    /// Build directory.
    pub objdir: &'a Path,
    /// Names of the modules of this configuration; `None` when not known.
    pub modules: Option<&'a HashSet<String>>,
}

/// Finds the units that read any of `touched` (relative to the source tree).
pub fn units_reached_by(build: Build<'_>, touched: &[PathBuf]) -> Result<Reach> {
    let links = links::to_headers(build.source, touched);
    let found = Search::new(build, touched, &links).directory(build.objdir, true)?;
    Ok(sum_up(found, touched, build))
}

/// The same for these targets only, which were compiled.
pub(super) fn units_of_targets(build: Build<'_>, touched: &[PathBuf], targets: &[PathBuf]) -> Result<Reach> {
    let links = links::to_headers(build.source, touched);
    let search = Search::new(build, touched, &links);
    let found: Result<Vec<_>> =
        targets.iter().map(|target| search.command(&build.objdir.join(cmd_path(target)))).collect();
    Ok(sum_up(found?.into_iter().flatten().collect(), touched, build))
}

fn sum_up(mut found: Vec<Hit>, touched: &[PathBuf], build: Build<'_>) -> Reach {
    found.sort_by(|a, b| a.target().cmp(b.target()));
    let mut reach = Reach::default();
    let mut reached: HashSet<PathBuf> = HashSet::new();
    for hit in found {
        match hit {
            Hit::Units(units, reads) => {
                reached.extend(reads);
                reach.units.extend(units);
            }
            Hit::Outside(outside) => reach.outside.push(outside),
            Hit::Generated(generated) => reach.generated.push(generated),
        }
    }
    reach.units.sort_by(|a, b| (&a.object, &a.target).cmp(&(&b.object, &b.target)));
    for path in touched.iter().filter(|path| !reached.contains(*path) && build.source.join(path).exists()) {
        let why: Vec<&Outside> = reach.outside.iter().filter(|o| o.reads.contains(path)).collect();
        reach.refusals.push(not_built::refusal(path, &why, build.source));
    }
    reach
}

/// The unit of one target, from its `.cmd` file.
pub fn unit_of_target(build: Build<'_>, target: &Path) -> Result<Vec<Unit>> {
    let path = build.objdir.join(cmd_path(target));
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read the compile command `{}`", path.display()))?;
    let file = CmdFile::parse(&text).with_context(|| format!("failed to parse `{}`", path.display()))?;
    units(&file, build).with_context(|| format!("no compile of kernel code in `{}`", path.display()))
}

/// Where kbuild keeps the command of a target.
pub fn cmd_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.cmd"))
}

enum Hit {
    Units(Vec<Unit>, Vec<PathBuf>),
    Outside(Outside),
    Generated(Generated),
}

impl Hit {
    fn target(&self) -> &Path {
        match self {
            Hit::Units(units, _) => &units[0].target,
            Hit::Outside(outside) => &outside.target,
            Hit::Generated(generated) => &generated.file,
        }
    }
}

struct Search<'a> {
    build: Build<'a>,
    touched: HashSet<&'a Path>,
    /// Touched files by the links that lead to them.
    links: &'a HashMap<PathBuf, PathBuf>,
    /// Touched files that are not there yet.
    shadows: Shadows<'a>,
    /// All their names.
    finders: Vec<Finder<'a>>,
}

impl<'a> Search<'a> {
    fn new(build: Build<'a>, touched: &'a [PathBuf], links: &'a HashMap<PathBuf, PathBuf>) -> Search<'a> {
        let names: HashSet<&OsStr> = touched.iter().chain(links.keys()).filter_map(|path| path.file_name()).collect();
        let finders = names.into_iter().map(|name| Finder::new(name.as_encoded_bytes())).collect();
        let shadows = Shadows::new(build, touched);
        Search { build, touched: touched.iter().map(PathBuf::as_path).collect(), links, shadows, finders }
    }

    fn directory(&self, dir: &Path, top: bool) -> Result<Vec<Hit>> {
        // Directories of a tree that hold programs for the build host, or no objects at all.
        const NO_KERNEL_CODE: [&str; 7] = ["scripts", "tools", "Documentation", "include", "usr", "LICENSES", ".git"];
        let list = || -> std::io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
            let (mut directories, mut commands) = (Vec::new(), Vec::new());
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.as_encoded_bytes();
                if name.starts_with(b".") && (name.ends_with(b".o.cmd") || generated::is_command(name)) {
                    commands.push(entry.path());
                } else if entry.file_type()?.is_dir() && !(top && NO_KERNEL_CODE.iter().any(|n| n.as_bytes() == name)) {
                    directories.push(entry.path());
                }
            }
            Ok((directories, commands))
        };
        let (directories, commands) = list().with_context(|| format!("failed to list `{}`", dir.display()))?;
        let (below, here) = rayon::join(
            || directories.par_iter().map(|dir| self.directory(dir, false)).collect::<Result<Vec<_>>>(),
            || commands.par_iter().map(|path| self.command(path)).collect::<Result<Vec<_>>>(),
        );
        let mut hits: Vec<Hit> = here?.into_iter().flatten().collect();
        hits.extend(below?.into_iter().flatten());
        Ok(hits)
    }

    fn command(&self, path: &Path) -> Result<Option<Hit>> {
        let bytes = std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        if path.file_name().is_some_and(|name| generated::is_command(name.as_encoded_bytes())) {
            let text = String::from_utf8_lossy(&bytes);
            return Ok(generated::generated(&text, self.build, &self.touched).map(Hit::Generated));
        }
        if !self.finders.iter().any(|finder| mentions(&bytes, finder)) {
            return Ok(None);
        }
        let file = CmdFile::parse(&String::from_utf8_lossy(&bytes))
            .with_context(|| format!("failed to parse `{}`", path.display()))?;
        let mut reads: Vec<PathBuf> = file
            .deps
            .iter()
            .filter(|dep| self.finders.iter().any(|f| dep.as_bytes().ends_with(f.needle())))
            .map(|dep| self.behind_link(source_relative(dep, self.build.objdir, self.build.source)))
            .filter(|dep| self.touched.contains(dep.as_path()))
            .collect();
        let shadows = self.shadows.read_by(&file);
        reads.extend(shadows.iter().cloned());
        reads.sort();
        reads.dedup();
        // Programs for the build host and user space are not the kernel.
        if reads.is_empty() || !is_kernel_code(&file) {
            return Ok(None);
        }
        let outside = |why| {
            let unit = matches!(why, Why::Assembly | Why::Vdso)
                .then(|| file.compile().map(|command| unit(&file, command, "vmlinux".to_owned(), self.build)));
            let unit = unit.flatten().map(|unit| self.with_touched(unit, &shadows));
            Hit::Outside(Outside { target: target_of(&file), reads: reads.clone(), why, unit })
        };
        Ok(Some(match classify(&file, self.build) {
            Some(why) => outside(why),
            None => match units(&file, self.build) {
                Some(units) => {
                    let units = units.into_iter().map(|unit| self.with_touched(unit, &shadows));
                    Hit::Units(units.collect(), reads)
                }
                None => outside(Why::NotLinked),
            },
        }))
    }

    /// With all touched files among what it reads, by their own names.
    fn with_touched(&self, unit: Unit, shadows: &[PathBuf]) -> Unit {
        let deps = unit.deps.into_iter().map(|dep| self.behind_link(dep)).chain(shadows.iter().cloned()).collect();
        Unit { deps, ..unit }
    }

    /// The touched file that a link leads to; any other path as it is.
    fn behind_link(&self, path: PathBuf) -> PathBuf {
        self.links.get(&path).cloned().unwrap_or(path)
    }
}

/// Whether the name occurs as the last part of a path.
fn mentions(bytes: &[u8], finder: &Finder<'_>) -> bool {
    finder.find_iter(bytes).any(|at| {
        let end = bytes.get(at + finder.needle().len());
        (at == 0 || matches!(bytes[at - 1], b'/' | b' ' | b'\t'))
            && end.is_none_or(|b| b.is_ascii_whitespace() || *b == b'\\')
    })
}

fn target_of(file: &CmdFile) -> PathBuf {
    super::cmd::normalize(Path::new(&file.target))
}

/// `-D__KERNEL__` is on every compile of kernel code (Makefile, KBUILD_CPPFLAGS), and on nothing else.
///
/// What modpost and the link make for themselves (`ext4.mod.o`, `.vmlinux.export.o`, the version string)
/// is made anew for every module and image and holds no code of the patch.
fn is_kernel_code(file: &CmdFile) -> bool {
    let target = target_of(file);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with('.') || name.ends_with(".mod.o") || name == "version-timestamp.o" {
        return false;
    }
    let main = file.deps.first().map(String::as_str).unwrap_or_default();
    main.ends_with(".rs") || file.commands.iter().flatten().any(|argument| argument == "-D__KERNEL__")
}

fn classify(file: &CmdFile, build: Build<'_>) -> Option<Why> {
    let main = file.deps.first().map(String::as_str).unwrap_or_default();
    let argv = file.compile()?;
    // Makefiles of images that run before or beside the kernel say so to include/linux/export.h.
    if argv.iter().any(|a| a == "-DBUILD_VDSO") {
        return Some(Why::Vdso);
    }
    if argv.iter().any(|a| a == "-D__DISABLE_EXPORTS" || a == "-D_SETUP" || a == "-D__BOOT_COMPRESSED") {
        return Some(Why::OtherImage);
    }
    let linked = match argv.iter().any(|a| a == "-DMODULE") {
        true => module_names(argv)
            .is_some_and(|names| build.modules.is_none_or(|modules| names.iter().any(|name| modules.contains(name)))),
        false => in_archive(&target_of(file), build.objdir),
    };
    match linked {
        false => Some(Why::NotLinked),
        true if main.ends_with(".S") => Some(Why::Assembly),
        true if main.ends_with(".rs") => Some(Why::Rust),
        true => None,
    }
}

/// Whether kbuild's archives name the object: `built-in.a` or `lib.a` of its directory or of one above.
///
/// The lists are in the archives' own command files. Without any (a tree that was never linked) nothing can
/// be told, and the object counts.
fn in_archive(target: &Path, objdir: &Path) -> bool {
    let mut told = false;
    for dir in target.ancestors().skip(1) {
        let relative = target.strip_prefix(dir).unwrap_or(target);
        for archive in [".built-in.a.cmd", ".lib.a.cmd"] {
            if let Ok(text) = std::fs::read_to_string(objdir.join(dir).join(archive)) {
                told = true;
                if text.split_whitespace().any(|word| Path::new(word) == relative || Path::new(word) == target) {
                    return true;
                }
            }
        }
    }
    !told
}

/// Modules that a compile with `-DMODULE` is for; several names are joined with `:` (scripts/Makefile.lib).
fn module_names(argv: &[String]) -> Option<Vec<String>> {
    let value = argv.iter().find_map(|a| a.strip_prefix("-DKBUILD_MODNAME="))?;
    Some(value.trim_matches('"').split(':').map(module_name).collect())
}

/// The units of a compile: one for vmlinux, or one for each module that shares the object.
fn units(file: &CmdFile, build: Build<'_>) -> Option<Vec<Unit>> {
    let command = file.compile()?;
    let objects = match command.iter().any(|a| a == "-DMODULE") {
        true => module_names(command)?
            .into_iter()
            .filter(|name| build.modules.is_none_or(|modules| modules.contains(name)))
            .collect(),
        false => vec!["vmlinux".to_owned()],
    };
    let units: Vec<Unit> = objects.into_iter().map(|object| unit(file, command, object, build)).collect();
    (!units.is_empty() && units[0].source.extension() == Some(OsStr::new("c"))).then_some(units)
}

fn unit(file: &CmdFile, command: &[String], object: String, build: Build<'_>) -> Unit {
    let deps: Vec<PathBuf> = file.deps.iter().map(|dep| source_relative(dep, build.objdir, build.source)).collect();
    Unit {
        target: target_of(file),
        source: deps.first().cloned().unwrap_or_default(),
        command: command.to_vec(),
        objtool: file.objtool(),
        deps,
        object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn tree() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (source, objdir) = (root.join("src"), root.join("obj"));
        let put = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for file in [
            "fs/a.c",
            "fs/b.c",
            "fs/part.c",
            "fs/m.c",
            "fs/old.c",
            "include/x.h",
            "fs/s.S",
            "scripts/h.c",
            "fs/unused.c",
        ] {
            put(source.join(file), "");
        }
        put(source.join("fs/Makefile"), "obj-y += a.o\nobj-$(CONFIG_UNUSED_FS) += unused.o\n");
        let command = |name: &str, main: &str, flags: &str, deps: &[&str]| {
            let mut text = format!(
                "savedcmd_{name} := gcc -D__KERNEL__ {flags} -c -o {name} {0}/{main}\n\nsource_{name} := {0}/{main}\n\ndeps_{name} := \\\n",
                source.display()
            );
            for dep in deps {
                text.push_str(&format!("    $(wildcard include/config/X) \\\n  {}/{dep} \\\n", source.display()));
            }
            put(objdir.join(cmd_path(Path::new(name))), &(text + "\n"));
        };
        command("fs/a.o", "fs/a.c", "-DKBUILD_MODNAME='\"a\"'", &["fs/../include/x.h", "fs/part.c"]);
        command("fs/b.o", "fs/b.c", "-DKBUILD_MODNAME='\"b\"'", &["include/xx.h"]);
        command("fs/m.o", "fs/m.c", "-DMODULE -DKBUILD_MODNAME='\"m-one:m2\"'", &["include/x.h"]);
        command("fs/old.o", "fs/old.c", "-DKBUILD_MODNAME='\"old\"'", &["include/x.h"]);
        command("fs/s.o", "fs/s.S", "-D__ASSEMBLY__", &["include/x.h"]);
        command("scripts/h.o", "scripts/h.c", "", &["include/x.h"]);
        put(
            objdir.join("fs/.built-in.a.cmd"),
            "savedcmd_fs/built-in.a := rm -f fs/built-in.a; printf \"fs/%s \" a.o b.o s.o | xargs ar\n",
        );
        (dir, source, objdir)
    }

    fn reach(touched: &[&str]) -> Reach {
        let (_dir, source, objdir) = tree();
        let modules = HashSet::from(["m_one".to_owned(), "m2".to_owned()]);
        let build = Build { source: &source, objdir: &objdir, modules: Some(&modules) };
        let touched: Vec<PathBuf> = touched.iter().map(PathBuf::from).collect();
        units_reached_by(build, &touched).unwrap()
    }

    /// A header reaches its readers however the path is spelled, a shared object counts for each module, and
    /// stale objects and assembly are set apart; a header with a longer name is another file.
    #[test]
    fn header() {
        let reach = reach(&["include/x.h"]);
        let found: Vec<(&str, &str)> =
            reach.units.iter().map(|u| (u.object.as_str(), u.target.to_str().unwrap())).collect();
        assert_eq!(found, [("m2", "fs/m.o"), ("m_one", "fs/m.o"), ("vmlinux", "fs/a.o")]);
        let outside: Vec<Why> = reach.outside.iter().map(|o| o.why).collect();
        assert_eq!(outside, [Why::NotLinked, Why::Assembly]);
        // What matters can be preprocessed.
        let sources: Vec<_> = reach.outside.iter().map(|o| o.unit.as_ref().map(|unit| unit.source.as_path())).collect();
        assert_eq!(sources, [None, Some(Path::new("fs/s.S"))]);
        assert!(reach.refusals.is_empty());
    }

    /// A .c file that another unit includes reaches the includer.
    #[test]
    fn included_source() {
        let reach = reach(&["fs/part.c"]);
        assert_eq!(reach.units.len(), 1);
        assert_eq!(reach.units[0].source, Path::new("fs/a.c"));
    }

    /// A file that nothing compiles is a refusal that names the option which would build it.
    #[test]
    fn not_built() {
        let reach = reach(&["fs/unused.c", "fs/a.c"]);
        assert_eq!(reach.units.len(), 1);
        assert_eq!(reach.refusals.len(), 1);
        assert_eq!(reach.refusals[0].reason, Reason::NotBuilt);
        assert!(reach.refusals[0].advice.contains("CONFIG_UNUSED_FS"), "{}", reach.refusals[0].advice);
    }
}
