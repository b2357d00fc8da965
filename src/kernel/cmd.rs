//! One kbuild `.foo.o.cmd` file: its text in; argument vectors, objtool's arguments and dependencies out.
//!
//! The file is make syntax that fixdep (scripts/basic/fixdep.c) and Kbuild.include wrote: a variable
//! `savedcmd_<target>` (`cmd_` before 6.3) with a *shell* command in it, then `source_` and `deps_`. Make's
//! escapes are `$$` and `$(pound)`; the shell's quoting is full of traps (`-DKBUILD_MODNAME='"ext4"'`,
//! `-D"KBUILD_STR(s)=\#s"`), and the value may be several commands: compiler, then `ld -r`, then objtool.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};

/// What a `.cmd` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdFile {
    /// kbuild's target, as the file spells it.
    pub target: String,
    /// The shell commands of the value, each as an argument vector, in order.
    pub commands: Vec<Vec<String>>,
    /// Files the command read, main source first, as the file spells them.
    pub deps: Vec<String>,
}

impl CmdFile {
    /// Parses the text of a `.cmd` file.
    pub fn parse(text: &str) -> Result<CmdFile> {
        let Some((target, value)) = text.lines().find_map(saved_command) else {
            bail!("no `savedcmd_` line");
        };
        let commands = split_shell(&unmake(value))?;
        let mut deps = Vec::new();
        let prefix = (format!("source_{target} := "), format!("deps_{target} := "));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(source) = line.strip_prefix(&prefix.0) {
                deps.push(unmake(source.trim()));
            } else if let Some(first) = line.strip_prefix(&prefix.1) {
                let mut part = first;
                loop {
                    let (words, more) = match part.trim_end().strip_suffix('\\') {
                        Some(words) => (words.trim(), true),
                        None => (part.trim(), false),
                    };
                    // A file name may hold `$(pound)`, so the wildcards are told by their whole prefix.
                    if !words.is_empty() && !words.starts_with("$(wildcard ") {
                        deps.extend(words.split_whitespace().map(unmake));
                    }
                    match lines.next() {
                        Some(next) if more => part = next,
                        _ => break,
                    }
                }
            }
        }
        Ok(CmdFile { target: target.to_owned(), commands, deps })
    }

    /// The compile: the command with `-c` whose `-o` is the target.
    pub fn compile(&self) -> Option<&[String]> {
        self.commands.iter().map(Vec::as_slice).find(|argv| {
            argv.iter().any(|a| a == "-c")
                && argv.windows(2).any(|pair| pair[0] == "-o" && Path::new(&pair[1]) == Path::new(&self.target))
        })
    }

    /// objtool's arguments without its program and without the object, where the value runs objtool.
    pub fn objtool(&self) -> Option<Vec<String>> {
        let argv = self
            .commands
            .iter()
            .find(|argv| argv.first().and_then(|p| Path::new(p).file_name()).is_some_and(|name| name == "objtool"))?;
        Some(argv[1..].iter().filter(|a| **a != self.target).cloned().collect())
    }
}

/// `(target, value)` of a `savedcmd_` or `cmd_` line.
pub(super) fn saved_command(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("savedcmd_").or_else(|| line.strip_prefix("cmd_"))?.split_once(" := ")
}

/// Undoes make's escapes: `$(pound)` is `#`, `\#` is `#` (fixdep's dependencies), `$$` is `$`.
fn unmake(value: &str) -> String {
    value.replace("$(pound)", "#").replace("\\#", "#").replace("$$", "$")
}

/// Splits a shell command line into simple commands with their words, quotes resolved.
///
/// Redirections and pipes are words of their own command like any other: no compile has them, and nothing
/// here runs the others. An expansion (`$x`, backquotes) outside single quotes is refused in a compile by the
/// caller's comparison with the target; here it is kept as text.
pub fn split_shell(line: &str) -> Result<Vec<Vec<String>>> {
    let mut commands = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => bail!("unterminated ' in a saved command"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        // POSIX 2.2.3: inside double quotes a backslash only escapes these.
                        Some('\\') => match chars.next() {
                            Some(c @ ('$' | '`' | '"' | '\\')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => bail!("unterminated \" in a saved command"),
                        },
                        Some(c) => word.push(c),
                        None => bail!("unterminated \" in a saved command"),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            ' ' | '\t' | '\n' => words.extend(word.take()),
            ';' | '&' | '|' => {
                words.extend(word.take());
                while chars.next_if_eq(&c).is_some() {}
                if !words.is_empty() {
                    commands.push(std::mem::take(&mut words));
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if !words.is_empty() {
        commands.push(words);
    }
    Ok(commands)
}

/// A path without `.`, and with `..` resolved by text: kbuild's paths name real directories, not links.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Where a path of a `.cmd` file lies: relative to the source tree when inside it, else absolute.
///
/// `source` and `objdir` are absolute; the path is relative to `objdir` unless absolute. With `O=` below the
/// source tree generated files come out as `build/include/generated/...`, which no patch touches.
pub fn source_relative(path: &str, objdir: &Path, source: &Path) -> PathBuf {
    // Header patches ask for millions of these; most paths are plain.
    if !path.contains("/.")
        && let Some(relative) = source.to_str().and_then(|source| path.strip_prefix(source)?.strip_prefix('/'))
    {
        return PathBuf::from(relative);
    }
    let absolute = normalize(&objdir.join(path));
    match absolute.strip_prefix(source) {
        Ok(relative) => relative.to_owned(),
        Err(_) => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"savedcmd_fs/ext4/inode.o := gcc -Wp,-MMD,fs/ext4/.inode.o.d -I../include -D"KBUILD_STR(s)=$(pound)s" -DKBUILD_MODNAME='"ext4"' -DX=a\ b -DY="it's" -DMODULE -c -o fs/ext4/inode.o ../fs/ext4/inode.c  ; ./tools/objtool/objtool --hacks=jump_label --orc fs/ext4/inode.o

source_fs/ext4/inode.o := ../fs/ext4/inode.c

deps_fs/ext4/inode.o := \
    $(wildcard include/config/EXT4_FS) \
  ../include/linux/kconfig.h \
  include/generated/autoconf.h \
    $(wildcard include/config/FOO) \

fs/ext4/inode.o: $(deps_fs/ext4/inode.o)

$(deps_fs/ext4/inode.o):

fs/ext4/inode.o: $(wildcard ./tools/objtool/objtool)
"#;

    /// Quoting, make escapes, several commands and the dependency list all come out as kbuild meant them.
    #[test]
    fn whole_file() {
        let file = CmdFile::parse(TEXT).unwrap();
        let argv = file.compile().unwrap();
        for expected in ["-DKBUILD_STR(s)=#s", "-DKBUILD_MODNAME=\"ext4\"", "-DX=a b", "-DY=it's"] {
            assert!(argv.iter().any(|a| a == expected), "{expected} is missing in {argv:?}");
        }
        assert_eq!(argv.last().unwrap(), "../fs/ext4/inode.c");
        assert_eq!(file.objtool().unwrap(), ["--hacks=jump_label", "--orc"]);
        assert_eq!(file.deps, ["../fs/ext4/inode.c", "../include/linux/kconfig.h", "include/generated/autoconf.h"]);
    }

    /// The name of the variable before 6.3, and `&&` between commands.
    #[test]
    fn old_form() {
        let file = CmdFile::parse("cmd_a/b.o := gcc -c -o a/b.o b.c && ./tools/objtool/objtool orc generate a/b.o\n");
        let file = file.unwrap();
        assert_eq!(file.compile().unwrap(), ["gcc", "-c", "-o", "a/b.o", "b.c"]);
        assert_eq!(file.objtool().unwrap(), ["orc", "generate"]);
    }

    /// Text that is cut in a quote must not turn into a shorter, wrong command.
    #[test]
    fn unterminated() {
        assert!(CmdFile::parse("savedcmd_a.o := gcc -DX='\n").is_err());
        assert!(CmdFile::parse("hello\n").is_err());
    }

    /// In-tree, sibling and nested build directories all lead to one spelling of a source path.
    #[test]
    fn canonical_paths() {
        let source = Path::new("/src/linux");
        for (path, objdir) in [
            ("fs/proc/x.c", "/src/linux"),
            ("./fs/proc/x.c", "/src/linux"),
            ("../fs/proc/x.c", "/src/linux/build"),
            ("/src/linux/fs/ext4/../proc/x.c", "/obj"),
        ] {
            assert_eq!(source_relative(path, Path::new(objdir), source), Path::new("fs/proc/x.c"), "{path}");
        }
        let outside = source_relative("include/generated/autoconf.h", Path::new("/obj"), source);
        assert_eq!(outside, Path::new("/obj/include/generated/autoconf.h"));
    }
}
