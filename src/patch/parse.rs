//! Patch text -> the files it touches and their hunks.
//!
//! In: the bytes of one patch file, as `diff -u`, git or a mailer made it. Out: a [`FilePatch`] per file, in
//! order. Hard because the format has no frame: prose, mail headers and signatures surround the diffs, and
//! a removed line `-- x` looks just like a file header. So hunks are read by the line counts in their `@@`
//! line, never by what lines look like, and only outside hunks are headers looked for. (`diffy` 0.5 was tried: it
//! drops a line in silence that the counts do not cover, wants to know beforehand whether git made the patch,
//! takes a time stamp after a blank for part of the name, and tells byte offsets where people need lines.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::check;
use super::header::{self, GitHeader};

/// What a patch does to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePatch {
    /// Name of the patch it is from, for messages.
    pub patch: String,
    /// Line in the patch where it starts, counted from 1.
    pub line: usize,
    /// Which change of the patch it is part of: a mailbox holds several. Renames and copies speak of the files before theirs.
    pub change: usize,
    /// What kind of change it is.
    pub kind: Kind,
    /// The file, relative to the kernel tree; of a rename, its new name.
    pub path: PathBuf,
    /// The changes, in file order.
    pub hunks: Vec<Hunk>,
}

impl FilePatch {
    /// The files that are not afterwards what they were: a rename takes one away.
    pub fn changes(&self) -> impl Iterator<Item = &Path> {
        let from = match &self.kind {
            Kind::Rename(from) => Some(from.as_path()),
            _ => None,
        };
        from.into_iter().chain([self.path.as_path()])
    }
}

/// Kinds of changes to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The file exists before and after.
    Modify,
    /// The file is new.
    Create,
    /// The file is gone afterwards.
    Delete,
    /// The file has the contents of another, changed or not; the other one is gone afterwards.
    Rename(PathBuf),
    /// The file has the contents of another, changed or not; the other one stays.
    Copy(PathBuf),
    /// Only the permissions change.
    Mode,
}

/// One `@@` group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// Line in the patch of its `@@`, counted from 1.
    pub line: usize,
    /// First old line, counted from 1; with no old lines, the line it comes after.
    pub old_start: usize,
    /// The same, on the new side.
    pub new_start: usize,
    /// The lines of both sides.
    pub lines: Vec<Line>,
}

/// A line of a hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which side it is on.
    pub op: Op,
    /// Its bytes, with the newline it ends in, if it does.
    pub text: Vec<u8>,
}

/// Which side a line is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Both.
    Context,
    /// Only the old.
    Remove,
    /// Only the new.
    Add,
}

impl Hunk {
    /// The lines of the old side.
    pub fn old(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.op != Op::Add)
    }

    /// The lines of the new side.
    pub fn new_side(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.op != Op::Remove)
    }

    /// First and last line, as the old side counts, that the hunk takes out or puts something before; lines that it adds
    /// count from where they are added.
    pub fn changed_old_lines(&self) -> (usize, usize) {
        let (mut at, mut added) = (self.old_start.max(1), 0);
        let (mut first, mut last) = (usize::MAX, 0);
        for line in &self.lines {
            if line.op == Op::Context {
                (at, added) = (at + 1, 0);
                continue;
            }
            first = first.min(at);
            last = last.max(at + added);
            if line.op == Op::Remove {
                at += 1;
            } else {
                added += 1;
            }
        }
        (first, last)
    }

    /// Its `@@` line, as diff and git write it: a count of one is left out.
    pub fn range(&self) -> String {
        let side =
            |start: usize, count: usize| if count == 1 { format!("{start}") } else { format!("{start},{count}") };
        let (old, new) = (side(self.old_start, self.old().count()), side(self.new_start, self.new_side().count()));
        format!("@@ -{old} +{new} @@")
    }

    /// The hunk as text, as it stood in the patch.
    pub fn quote(&self) -> String {
        let (old, new) = (self.old().count(), self.new_side().count());
        let mut out = format!("@@ -{},{old} +{},{new} @@\n", self.old_start, self.new_start);
        for line in &self.lines {
            out.push(match line.op {
                Op::Context => ' ',
                Op::Remove => '-',
                Op::Add => '+',
            });
            out.push_str(String::from_utf8_lossy(&line.text).trim_end_matches('\n'));
            out.push('\n');
        }
        out
    }
}

/// Parses one patch; `name` is what messages call it. An empty patch is an error, and so is every part that
/// no source patch can have: a binary change, a name outside the tree, a part in another format.
pub fn parse(text: &[u8], name: &str) -> Result<Vec<FilePatch>> {
    let (lines, seen) = (split(text), BTreeSet::new());
    let mut parser = Parser { name, lines, at: 0, change: 0, seen, files: Vec::new(), problems: Vec::new() };
    parser.run();
    let Parser { files, mut problems, .. } = parser;
    if files.is_empty() && problems.is_empty() {
        problems.push(match text.trim_ascii().is_empty() {
            true => "the patch is empty".into(),
            false => "there is no diff in it (expected `--- a/FILE`, `+++ b/FILE` and `@@` lines)".into(),
        });
    }
    check(problems).with_context(|| format!("failed to parse `{name}`"))?;
    Ok(files)
}

/// Lines with their newlines; a patch that a mail program gave CRLF line ends gets plain ones.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = text.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    let crlf = |line: &&Vec<u8>| line.starts_with(b"+++ ") || line.starts_with(b"@@ -");
    let mut headers = lines.iter().filter(crlf).peekable();
    if headers.peek().is_some() && headers.all(|line| line.ends_with(b"\r\n")) {
        for line in &mut lines {
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                line.push(b'\n');
            }
        }
    }
    lines
}

struct Parser<'a> {
    name: &'a str,
    lines: Vec<Vec<u8>>,
    at: usize,
    /// The change that is being read, and the files that it has touched so far.
    change: usize,
    seen: BTreeSet<PathBuf>,
    files: Vec<FilePatch>,
    problems: Vec<String>,
}

impl Parser<'_> {
    fn problem(&mut self, line: usize, what: impl std::fmt::Display) {
        self.problems.push(format!("{}:{line}: {what}", self.name));
    }

    /// The line at `at`, without its newline.
    fn line(&self, at: usize) -> Option<&[u8]> {
        self.lines.get(at).map(|line| line.strip_suffix(b"\n").unwrap_or(line))
    }

    fn is_header(&self, at: usize) -> bool {
        let starts = |at, prefix: &[u8]| self.line(at).is_some_and(|line| line.starts_with(prefix));
        starts(at, b"--- ") && starts(at + 1, b"+++ ")
    }

    fn run(&mut self) {
        while self.at < self.lines.len() {
            let line = self.line(self.at).unwrap_or_default().to_vec();
            if let Some(rest) = line.strip_prefix(b"diff --git ") {
                self.git(rest);
            } else if self.is_header(self.at) {
                self.file(GitHeader { line: self.at + 1, ..GitHeader::default() });
            } else if line.starts_with(b"GIT binary patch") || is_binary_line(&line) {
                self.problem(self.at + 1, "a binary change cannot become a livepatch");
                self.at += 1;
            } else if line.starts_with(b"diff --cc ") || line.starts_with(b"diff --combined ") {
                self.problem(self.at + 1, "a merge's combined diff cannot be applied; make it with `git diff A B`");
                self.at += 1;
            } else if is_only_in(&line) {
                self.problem(self.at + 1, "a file that only one side has is left out here; make the diff with -N");
                self.at += 1;
            } else if range(&line).is_some() {
                self.problem(self.at + 1, "a hunk without `---` and `+++` lines before it");
                self.at += 1;
            } else if self.is_context_format(self.at) {
                self.problem(self.at + 1, "a change in context format is not read; make the diff with -u");
                self.at += 1;
            } else {
                if self.begins_change(self.at) {
                    self.next_change();
                }
                self.at += 1;
            }
        }
    }

    /// `***************` and `*** 1,7 ****`, which `diff -c` opens each hunk with.
    fn is_context_format(&self, at: usize) -> bool {
        let stars = |line: &[u8]| line.strip_prefix(b"***************").is_some_and(|rest| !rest.starts_with(b"*"));
        let range =
            |line: &[u8]| line.strip_prefix(b"*** ").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit));
        self.line(at).is_some_and(stars) && self.line(at + 1).is_some_and(range)
    }

    /// The first line of a mail in a mailbox, or of a commit as `git log -p` shows it.
    fn begins_change(&self, at: usize) -> bool {
        let after_blank = at == 0 || self.line(at - 1).is_some_and(|line| line.trim_ascii().is_empty());
        let line = self.line(at).unwrap_or_default();
        // `From 0123abc Mon Sep 17 00:00:00 2001`: the time tells it from prose.
        let time = |five: &[u8]| five[2] == b':' && [0, 1, 3, 4].iter().all(|at| five[*at].is_ascii_digit());
        let mail = line.starts_with(b"From ") && line.windows(5).any(time);
        let commit =
            line.strip_prefix(b"commit ").map(|rest| rest.iter().take_while(|b| b.is_ascii_hexdigit()).count());
        after_blank && (mail || commit.is_some_and(|digits| digits >= 7))
    }

    fn next_change(&mut self) {
        self.change += 1;
        self.seen.clear();
    }

    /// From `diff --git` to the end of that file's part.
    fn git(&mut self, rest: &[u8]) {
        let mut git = GitHeader { line: self.at + 1, path: header::git_line(rest), ..GitHeader::default() };
        self.at += 1;
        while let Some(line) = self.line(self.at).map(<[u8]>::to_vec) {
            if self.is_header(self.at) {
                return if self.continues(&git) { self.file(git) } else { self.without_hunks(git) };
            }
            let name = |prefix: &str| line.strip_prefix(prefix.as_bytes()).map(header::bare);
            if let Some(path) = name("rename from ") {
                git.rename.0 = self.named(path);
            } else if let Some(path) = name("rename to ") {
                git.rename.1 = self.named(path);
            } else if let Some(path) = name("copy from ") {
                git.copy.0 = self.named(path);
            } else if let Some(path) = name("copy to ") {
                git.copy.1 = self.named(path);
            } else if line.starts_with(b"new file mode ") {
                git.create = true;
            } else if line.starts_with(b"deleted file mode ") {
                git.delete = true;
            } else if line.starts_with(b"old mode ") || line.starts_with(b"new mode ") {
                git.mode = true;
            } else if line.starts_with(b"GIT binary patch") || is_binary_line(&line) {
                let what = git.path.as_ref().map_or("a file".into(), |path| format!("`{}`", path.display()));
                self.problem(self.at + 1, format!("a binary change (of {what}) cannot become a livepatch"));
                self.at += 1;
                return;
            } else if !line.starts_with(b"index ")
                && !line.starts_with(b"similarity index ")
                && !line.starts_with(b"dissimilarity index ")
            {
                break;
            }
            self.at += 1;
        }
        self.without_hunks(git);
    }

    /// Whether the `---` and `+++` lines here speak of the file that git's lines before them speak of: another one's, without git's
    /// lines, may follow a rename that changes nothing.
    fn continues(&self, git: &GitHeader) -> bool {
        let name = |at| header::name(&self.line(at).unwrap_or_default()[4..], true);
        match (name(self.at), name(self.at + 1)) {
            (Ok(old), Ok(new)) => git.is_about(old.path.as_deref(), new.path.as_deref()),
            // What is wrong with a name is said when it is read.
            _ => true,
        }
    }

    fn named(&mut self, path: Result<PathBuf, String>) -> Option<PathBuf> {
        path.map_err(|problem| self.problem(self.at + 1, problem)).ok()
    }

    /// A git header with no `---` after it: an empty file, a mode, or a move.
    fn without_hunks(&mut self, git: GitHeader) {
        match (git.rename, git.copy) {
            ((Some(from), Some(to)), _) => return self.push(git.line, Kind::Rename(from), to, Vec::new()),
            (_, (Some(from), Some(to))) => return self.push(git.line, Kind::Copy(from), to, Vec::new()),
            ((None, None), (None, None)) => {}
            _ => return self.problem(git.line, "a rename or copy that does not name both files"),
        }
        let kind = match (git.create, git.delete, git.mode) {
            (true, false, _) => Kind::Create,
            (false, true, _) => Kind::Delete,
            (false, false, true) => Kind::Mode,
            _ => return self.problem(git.line, "a `diff --git` line with no change after it"),
        };
        match git.path {
            Some(path) => self.push(git.line, kind, path, Vec::new()),
            None => self.problem(git.line, "cannot tell which file this `diff --git` line names"),
        }
    }

    fn push(&mut self, line: usize, kind: Kind, path: PathBuf, hunks: Vec<Hunk>) {
        // No diff has a file twice: the next one has begun.
        if !self.seen.insert(path.clone()) {
            self.next_change();
            self.seen.insert(path.clone());
        }
        self.files.push(FilePatch { patch: self.name.into(), line, change: self.change, kind, path, hunks });
    }

    /// From `---` to the last hunk of the file.
    fn file(&mut self, git: GitHeader) {
        let is_git = git.path.is_some() || git.rename.0.is_some() || git.copy.0.is_some();
        let start = self.at + 1;
        let old = header::name(&self.line(self.at).unwrap_or_default()[4..], true);
        let new = header::name(&self.line(self.at + 1).unwrap_or_default()[4..], true);
        self.at += 2;
        let mut hunks = Vec::new();
        while let Some(found) = self.line(self.at).and_then(range) {
            match self.hunk(found) {
                Some(hunk) => hunks.push(hunk),
                None => return,
            }
        }
        let (old, new) = match (old, new) {
            (Ok(old), Ok(new)) => (old, new),
            (old, new) => {
                for (at, name) in [(start, old), (start + 1, new)] {
                    if let Err(problem) = name {
                        self.problem(at, problem);
                    }
                }
                return;
            }
        };
        if hunks.is_empty() {
            return self.problem(start, "file header without a hunk");
        }
        // Without git's words for it, GNU diff's: no lines on one side, and that side's stamp is the epoch.
        let none = |side: &dyn Fn(&Hunk) -> bool| hunks.len() == 1 && side(&hunks[0]);
        let no_old = none(&|hunk| hunk.old_start == 0 && hunk.old().next().is_none());
        let no_new = none(&|hunk| hunk.new_start == 0 && hunk.new_side().next().is_none());
        let (kind, path) = match (old.path, new.path) {
            (None, None) => return self.problem(start, "both file names are /dev/null"),
            (None, Some(path)) => (Kind::Create, path),
            (Some(path), None) => (Kind::Delete, path),
            (Some(from), Some(path)) if git.rename.0.is_some() => (Kind::Rename(from), path),
            (Some(from), Some(path)) if git.copy.0.is_some() => (Kind::Copy(from), path),
            (Some(_), Some(path)) if git.create || (!is_git && no_old && old.epoch) => (Kind::Create, path),
            (Some(_), Some(path)) if git.delete || (!is_git && no_new && new.epoch) => (Kind::Delete, path),
            (Some(_), Some(path)) => (Kind::Modify, path),
        };
        self.push(git.line, kind, path, hunks);
    }

    /// One hunk, by the counts of its `@@` line.
    fn hunk(&mut self, (old_start, old_len, new_start, new_len): (usize, usize, usize, usize)) -> Option<Hunk> {
        let start = self.at + 1;
        self.at += 1;
        let (mut old, mut new) = (0, 0);
        let mut lines: Vec<Line> = Vec::new();
        while old < old_len || new < new_len {
            let Some(raw) = self.lines.get(self.at) else {
                self.problem(start, format!("the patch ends in the middle of this hunk ({old} of {old_len} old, {new} of {new_len} new lines)"));
                return None;
            };
            let (op, text) = match raw.first() {
                Some(b' ') => (Op::Context, raw[1..].to_vec()),
                Some(b'-') => (Op::Remove, raw[1..].to_vec()),
                Some(b'+') => (Op::Add, raw[1..].to_vec()),
                // An empty context line whose blank an editor or mailer took away; and one that lost it with a tab kept.
                Some(b'\n' | b'\t') => (Op::Context, raw.clone()),
                Some(b'\\') if !lines.is_empty() => {
                    no_newline(&mut lines);
                    self.at += 1;
                    continue;
                }
                _ => {
                    let (at, want) =
                        (self.at + 1, format!("{old} of {old_len} old, {new} of {new_len} new lines seen"));
                    self.problem(at, format!("this line does not belong into the hunk of line {start} ({want})"));
                    return None;
                }
            };
            old += usize::from(op != Op::Add);
            new += usize::from(op != Op::Remove);
            if old > old_len || new > new_len {
                self.problem(
                    self.at + 1,
                    format!("the hunk of line {start} has other lines than its `@@` line counts"),
                );
                return None;
            }
            lines.push(Line { op, text });
            self.at += 1;
        }
        if self.line(self.at).is_some_and(|line| line.starts_with(b"\\")) {
            no_newline(&mut lines);
            self.at += 1;
        }
        self.after_hunk(start);
        if lines.is_empty() || lines.iter().all(|line| line.op == Op::Context) {
            self.problem(start, "this hunk changes nothing");
        }
        Some(Hunk { line: start, old_start, new_start, lines })
    }

    /// A `+` or `-` line right after a hunk means that the counts are wrong, and that a change would be lost.
    fn after_hunk(&mut self, start: usize) {
        let Some(line) = self.line(self.at) else { return };
        // `-- ` alone opens a mail signature, which is what git format-patch ends in.
        let signature = line == b"-- " || line == b"--" || line == b"---";
        if !signature && !self.is_header(self.at) && matches!(line.first(), Some(b'+' | b'-')) {
            self.problem(self.at + 1, format!("the hunk of line {start} has more lines than its `@@` line counts"));
        }
    }
}

/// `\ No newline at end of file` speaks about the line before it.
fn no_newline(lines: &mut [Line]) {
    if let Some(line) = lines.last_mut()
        && line.text.last() == Some(&b'\n')
    {
        line.text.pop();
    }
}

fn is_binary_line(line: &[u8]) -> bool {
    (line.starts_with(b"Binary files ") || line.starts_with(b"Files ")) && line.ends_with(b" differ")
}

/// `Only in b/fs: new.c`, which diff -r says instead of showing the file.
fn is_only_in(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    matches!(words[..], [b"Only", b"in", dir, _] if dir.ends_with(b":"))
}

/// No file has so many lines; a number beyond it means the end of the file as well.
const MOST_LINES: usize = 1 << 40;

/// Reads `@@ -A[,B] +C[,D] @@`.
fn range(line: &[u8]) -> Option<(usize, usize, usize, usize)> {
    let rest = std::str::from_utf8(line.strip_prefix(b"@@ -")?.split(|&b| b == b'@').next()?).ok()?;
    let (old, new) = rest.strip_suffix(' ')?.split_once(" +")?;
    let side = |text: &str| -> Option<(usize, usize)> {
        match text.split_once(',') {
            Some((start, len)) => Some((start.parse().ok()?, len.parse().ok()?)),
            None => Some((text.parse().ok()?, 1)),
        }
    };
    let ((old_start, old_len), (new_start, new_len)) = (side(old)?, side(new)?);
    Some((old_start.min(MOST_LINES), old_len, new_start.min(MOST_LINES), new_len))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
