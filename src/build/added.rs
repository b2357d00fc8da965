//! New `.c` files that a patch adds to an object: the change of the makefile in, units with borrowed commands out.
//!
//! kbuild never compiled such a file, so nothing says with which flags it would. A sibling in the same object does: its command,
//! with the names changed. Hard because a makefile can say anything. Only one thing is accepted, and is the usual one: the names of
//! new files in lists of objects (Documentation/kbuild/makefiles.rst, "The kbuild files"), outside of conditionals. Whatever
//! else a patch does to a makefile is refused, as it always was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::error::{Reason, Refusal};
use crate::kernel::Kernel;
use crate::kernel::unit::Unit;
use crate::patch::{self, Applied, FileChange};

/// More siblings than these are not asked for their commands where each would have to be compiled.
const SIBLINGS: usize = 3;

/// What the new files come to.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Units of new files.
    pub units: Vec<Unit>,
    /// What is not understood, and new files that nothing builds.
    pub refusals: Vec<Refusal>,
    /// What was done.
    pub notes: Vec<String>,
}

/// Whether a path is judged here, by its contents, and not by its name.
pub(super) fn is_makefile(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "Makefile" || name == "Kbuild")
}

/// Finds the units of the new files.
pub(super) fn find(kernel: &Kernel, applied: &Applied) -> Result<Added> {
    let mut added = Added::default();
    let new: BTreeSet<&Path> = applied
        .files
        .iter()
        .filter(|file| file.original.is_none() && file.path.extension().is_some_and(|e| e == "c"))
        .filter(|file| matches!(patch::classify(&file.path), patch::Verdict::Code))
        .map(|file| file.path.as_path())
        .collect();
    let mut built: BTreeSet<PathBuf> = BTreeSet::new();
    for file in applied.files.iter().filter(|file| is_makefile(&file.path)) {
        match joins(file, &new) {
            Err(why) => {
                if let patch::Verdict::Refused(refusal) = patch::classify(&file.path) {
                    added.refusals.push(Refusal { message: format!("{} ({why})", refusal.message), ..refusal });
                }
            }
            Ok(joins) => {
                for join in joins {
                    built.insert(join.source.clone());
                    match unit(kernel, &join, file)? {
                        Ok(unit) => {
                            added.notes.push(format!(
                                "`{}` is new in {}, and is compiled as its siblings are",
                                join.source.display(),
                                unit.object
                            ));
                            added.units.push(unit);
                        }
                        Err(refusal) => added.refusals.push(refusal),
                    }
                }
            }
        }
    }
    let includes = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let texts = applied.files.iter().filter(|file| file.path != path).filter_map(|file| file.patched.as_ref());
        texts.into_iter().any(|text| memchr::memmem::find(text, name).is_some())
    };
    for path in new.iter().filter(|path| !built.contains(**path) && !includes(path)) {
        added.refusals.push(Refusal::new(
            Reason::NotBuilt,
            format!("`{}` is new, and the patch adds it to no object", path.display()),
            "add it to a list of objects in its directory's Makefile, or include it",
        ));
    }
    Ok(added)
}

/// A new file, and the list it joins.
#[derive(Debug, PartialEq, Eq)]
struct Join {
    source: PathBuf,
    /// `obj`, or the object that it becomes part of.
    list: String,
    /// `y`, `m`, `objs`, or an option.
    when: String,
}

/// A line of a makefile without its spelling: continuations joined, blanks folded, comments gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Logical {
    text: String,
    conditional: bool,
}

fn logical(text: &[u8]) -> Vec<Logical> {
    let text = String::from_utf8_lossy(text).replace("\\\n", " ");
    let mut depth = 0usize;
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let folded = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let word = folded.split([' ', '(']).next().unwrap_or_default();
        if word == "endif" {
            depth = depth.saturating_sub(1);
        }
        if !folded.is_empty() {
            lines.push(Logical { conditional: depth > 0, text: folded.clone() });
        }
        if matches!(word, "ifeq" | "ifneq" | "ifdef" | "ifndef" | "define") {
            depth += 1;
        }
    }
    lines
}

/// `proc-$(CONFIG_X) += a.o b.o` -> (`proc`, `CONFIG_X`, `+=`, the words).
fn assignment(line: &str) -> Option<(String, String, &str, Vec<&str>)> {
    let (left, operator, right) = ["+=", ":=", "="]
        .into_iter()
        .find_map(|operator| line.split_once(operator).map(|(left, right)| (left.trim(), operator, right)))?;
    let (list, when) = left.rsplit_once('-')?;
    let when = when.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(when);
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let is_when = matches!(when, "y" | "m" | "objs") || when.starts_with("CONFIG_");
    (is_name(list) && is_when && is_name(when))
        .then(|| (list.to_owned(), when.to_owned(), operator, right.split_whitespace().collect()))
}

/// The new files that a changed makefile adds to lists; an error when it does anything else.
fn joins(file: &FileChange, new: &BTreeSet<&Path>) -> Result<Vec<Join>, String> {
    let (Some(before), Some(after)) = (&file.original, &file.patched) else {
        return Err("it is new, or gone".to_owned());
    };
    let (before, after) = (logical(before), logical(after));
    let dir = file.path.parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, &before, &after) {
        let (old, lines) = match op {
            DiffOp::Equal { .. } => continue,
            DiffOp::Delete { old_index, .. } => return Err(format!("`{}` goes", before[old_index].text)),
            DiffOp::Insert { new_index, new_len, .. } => (None, &after[new_index..new_index + new_len]),
            DiffOp::Replace { old_index, old_len: 1, new_index, new_len } => {
                (Some(&before[old_index]), &after[new_index..new_index + new_len])
            }
            DiffOp::Replace { old_index, .. } => return Err(format!("`{}` changes", before[old_index].text)),
        };
        let mut old = old;
        for line in lines {
            let refuse = || Err(format!("`{}` is more than a new file in a list", line.text));
            let Some((list, when, operator, words)) = assignment(&line.text) else { return refuse() };
            // The line that took the place of an old one has all its words, in their order, and new ones.
            let kept = match old.and_then(|old| assignment(&old.text)) {
                Some((l, w, o, kept)) if (&l, &w, o) == (&list, &when, operator) => {
                    let mut rest = words.iter();
                    if !kept.iter().all(|word| rest.any(|other| other == word)) {
                        return refuse();
                    }
                    old = None;
                    kept
                }
                _ if operator != "+=" => return refuse(),
                _ => Vec::new(),
            };
            if line.conditional {
                return Err(format!("`{}` is inside a conditional", line.text));
            }
            for word in words.iter().filter(|word| !kept.contains(word)) {
                let source = dir.join(word).with_extension("c");
                if !word.ends_with(".o") || !new.contains(source.as_path()) {
                    return Err(format!("`{word}` is not the object of a new file"));
                }
                found.push(Join { source, list: list.clone(), when: when.clone() });
            }
        }
        if let Some(old) = old {
            return Err(format!("`{}` changes", old.text));
        }
    }
    Ok(found)
}

/// The unit of a new file, or why there is none.
fn unit(kernel: &Kernel, join: &Join, makefile: &FileChange) -> Result<Result<Unit, Refusal>> {
    let source = join.source.display();
    let not_built = |message: String, advice: &str| Ok(Err(Refusal::new(Reason::NotBuilt, message, advice)));
    let value = match join.when.as_str() {
        option if option.starts_with("CONFIG_") => kernel.config().get(option).unwrap_or("n"),
        "objs" => "y",
        when => when,
    };
    match (join.list.as_str(), value) {
        (_, "y") => {}
        ("obj", "m") => {
            let message = format!("`{source}` would be a new module, which is no change of a running object");
            return not_built(message, "build it as a module of its own, and load it before the livepatch");
        }
        (_, "m") => {}
        _ => {
            let message = format!("`{source}` is not built in this configuration: {} is not set", join.when);
            return not_built(message, "check that the patch is for this kernel");
        }
    }
    let dir = join.source.parent().unwrap_or(Path::new(""));
    let text = makefile.original.as_deref().unwrap_or_default();
    let mut candidates: Vec<PathBuf> = logical(text)
        .iter()
        .filter_map(|line| assignment(&line.text).map(|(list, _, _, words)| (list, words.join(" "))))
        .filter(|(list, _)| *list == join.list)
        .flat_map(|(_, words)| words.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| word.ends_with(".o"))
        .map(|word| dir.join(word).with_extension("c"))
        .filter(|path| kernel.source().join(path).is_file())
        .collect();
    if kernel.is_private() {
        candidates.truncate(SIBLINGS);
    }
    let siblings: Vec<Unit> = match candidates.is_empty() {
        true => Vec::new(),
        false => kernel.units_reached_by(&candidates)?.units,
    };
    let siblings = siblings.into_iter().filter(|unit| candidates.contains(&unit.source));
    let name = stem(&join.source);
    let mut commands: BTreeMap<Vec<String>, (usize, Unit)> = BTreeMap::new();
    for sibling in siblings.filter(|sibling| join.list != "obj" || sibling.object == "vmlinux") {
        let renamed = renamed(&sibling, &name, join.list == "obj");
        commands.entry(renamed).or_insert((0, sibling)).0 += 1;
    }
    // Flags of single files make them differ; most siblings have the directory's.
    let Some((command, (_, sibling))) = commands.into_iter().max_by_key(|(_, (count, _))| *count) else {
        let message = format!("`{source}` is new in `{}`, of which this configuration builds no other file", join.list);
        return not_built(message, "put the new code into a file that is built already");
    };
    Ok(Ok(Unit {
        target: join.source.with_extension("o"),
        source: join.source.clone(),
        command,
        objtool: sibling.objtool,
        deps: vec![join.source.clone()],
        object: sibling.object,
    }))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A sibling's command with another file's name: source, target, and what kbuild tells the code of its name
/// (scripts/Makefile.lib, `name_flags` and `modname_flags`); a file that is an object of its own is its own module name, too.
fn renamed(sibling: &Unit, name: &str, own: bool) -> Vec<String> {
    let old = stem(&sibling.source);
    let quoted = |text: &str| text.replace(['-', '.'], "_");
    let path = |text: &str| {
        let (dir, file) = text.rsplit_once('/').map_or(("", text), |(dir, file)| (&text[..dir.len() + 1], file));
        let rest = file.strip_prefix(&old).or_else(|| file.strip_prefix('.')?.strip_prefix(&old))?;
        let dot = if file.starts_with('.') { "." } else { "" };
        rest.starts_with('.').then(|| format!("{dir}{dot}{name}{rest}"))
    };
    let rename = |arg: &String| -> String {
        if let Some((option, value)) = arg.split_once('=').filter(|(option, _)| option.starts_with("-D")) {
            let bare = value.trim_matches(['\'', '"']);
            let is_name = option == "-DKBUILD_BASENAME" && bare == quoted(&old);
            let is_module = own && ["-DKBUILD_MODNAME", "-D__KBUILD_MODNAME"].contains(&option);
            if is_name || (is_module && bare.ends_with(&quoted(&old))) {
                return format!("{option}={}", value.replace(&quoted(&old), &quoted(name)));
            }
            if own && option == "-DKBUILD_MODFILE" {
                return format!("{option}={}", value.replace(&format!("/{old}\""), &format!("/{name}\"")));
            }
            return arg.clone();
        }
        if let Some(list) = arg.strip_prefix("-Wp,") {
            let parts: Vec<String> =
                list.split(',').map(|part| path(part).unwrap_or_else(|| part.to_owned())).collect();
            return format!("-Wp,{}", parts.join(","));
        }
        path(arg).unwrap_or_else(|| arg.clone())
    };
    sibling.command.iter().map(rename).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: &str, after: &str) -> Result<Vec<String>, String> {
        let file = FileChange {
            path: "fs/proc/Makefile".into(),
            original: Some(before.into()),
            patched: Some(after.into()),
            spans: Vec::new(),
        };
        let new: BTreeSet<&Path> = [Path::new("fs/proc/extra.c"), Path::new("fs/proc/more.c")].into();
        let joins = joins(&file, &new)?;
        Ok(joins.into_iter().map(|j| format!("{} {} {}", j.source.display(), j.list, j.when)).collect())
    }

    const BEFORE: &str = "obj-y += proc.o\nproc-y := a.o \\\n\tb.o\nifdef X\nproc-y += c.o\nendif\n";

    /// A new file in a list, on a line of its own or on one that was there, also with other blanks and comments.
    #[test]
    fn new_files_join_lists() {
        let line = |text: &str| change(BEFORE, &format!("{BEFORE}{text}"));
        assert_eq!(line("proc-y\t+= extra.o # new\n").unwrap(), ["fs/proc/extra.c proc y"]);
        assert_eq!(
            line("obj-$(CONFIG_Z) += extra.o more.o\n").unwrap(),
            ["fs/proc/extra.c obj CONFIG_Z", "fs/proc/more.c obj CONFIG_Z"]
        );
        let within = change(BEFORE, &BEFORE.replace("\tb.o", "\tb.o extra.o")).unwrap();
        assert_eq!(within, ["fs/proc/extra.c proc y"]);
        assert_eq!(change(BEFORE, &format!("# a comment\n\n{BEFORE}")).unwrap(), [""; 0]);
    }

    /// Anything else that a makefile can do is not understood, and so refused.
    #[test]
    fn nothing_else_does() {
        let line = |text: &str| change(BEFORE, &format!("{BEFORE}{text}")).unwrap_err();
        assert_eq!(line("proc-y += d.o\n"), "`d.o` is not the object of a new file");
        assert!(line("CFLAGS_extra.o += -DX\n").contains("more than a new file"));
        assert!(line("proc-y := extra.o\n").contains("more than a new file"));
        assert!(line("proc-y += $(wildcard *.o)\n").contains("is not the object"));
        assert!(line("ifdef Y\nproc-y += extra.o\nendif\n").contains("more than a new file"));
        let inside = change(BEFORE, &BEFORE.replace("c.o\n", "c.o\nproc-y += extra.o\n")).unwrap_err();
        assert_eq!(inside, "`proc-y += extra.o` is inside a conditional");
        assert!(change(BEFORE, &BEFORE.replace("a.o ", "")).unwrap_err().contains("more than a new file"));
        assert!(change(BEFORE, &BEFORE.replace("obj-y += proc.o\n", "")).unwrap_err().contains("goes"));
    }

    fn command(source: &str, command: &str, name: &str, own: bool) -> String {
        let unit = Unit {
            target: Path::new(source).with_extension("o"),
            source: source.into(),
            command: command.split(' ').map(str::to_owned).collect(),
            objtool: None,
            deps: Vec::new(),
            object: "vmlinux".to_owned(),
        };
        renamed(&unit, name, own).join(" ")
    }

    /// Every place that names the sibling names the new file; what merely looks like it stays.
    #[test]
    fn borrowed_commands() {
        let given = "gcc -Wp,-MMD,fs/proc/.stat.o.d -I/l/include/stat -DKBUILD_MODFILE=\"fs/proc/proc\" \
                     -DKBUILD_BASENAME=\"stat\" -DKBUILD_MODNAME=\"proc\" -c -o fs/proc/stat.o /l/fs/proc/stat.c";
        assert_eq!(
            command("fs/proc/stat.c", given, "ex-tra", false),
            "gcc -Wp,-MMD,fs/proc/.ex-tra.o.d -I/l/include/stat -DKBUILD_MODFILE=\"fs/proc/proc\" \
             -DKBUILD_BASENAME=\"ex_tra\" -DKBUILD_MODNAME=\"proc\" -c -o fs/proc/ex-tra.o /l/fs/proc/ex-tra.c"
        );
        let given = "gcc -DKBUILD_MODFILE=\"fs/open\" -DKBUILD_BASENAME=\"open\" -DKBUILD_MODNAME=\"open\" \
                     -D__KBUILD_MODNAME=kmod_open -o fs/open.o fs/open.c";
        assert_eq!(
            command("fs/open.c", given, "extra", true),
            "gcc -DKBUILD_MODFILE=\"fs/extra\" -DKBUILD_BASENAME=\"extra\" -DKBUILD_MODNAME=\"extra\" \
             -D__KBUILD_MODNAME=kmod_extra -o fs/extra.o fs/extra.c"
        );
    }
}
