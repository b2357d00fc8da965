//! A file in two versions -> its change in pieces, and a diff of any of them.
//!
//! Between two point releases a header collects the members and prototypes of many fixes. A fix takes what it needs of
//! one, and the smallest thing that still applies by itself is a hunk.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::text::{self, Change, Sides};

/// Lines above a hunk in which a declaration that it continues may begin.
const LEAD: usize = 8;

/// How one file differs.
pub struct FileChange {
    /// What all of it is about.
    pub whole: Change,
    /// Hunks with one line of context, in order.
    pub pieces: Vec<Piece>,
    /// The unified diff, with `a/` and `b/` and three lines of context.
    diff: String,
}

/// One hunk.
pub struct Piece {
    /// What it is about.
    pub names: Change,
    /// Functions that it lies in or whose heads are in it, by their old and new names.
    pub functions: BTreeSet<String>,
    /// Names that come or go on its lines: on added lines and none that it removes, or the other way round.
    pub moved: BTreeSet<String>,
    /// It does nothing but include files, or no more.
    pub only_includes: bool,
    text: String,
}

impl FileChange {
    /// Reads the change of `path` from the tree `old` to the tree `new`, and all names of both versions.
    pub fn read(old: &Path, new: &Path, path: &Path) -> Result<(FileChange, Sides)> {
        let (a, b) = (old.join(path), new.join(path));
        let name = path.display();
        let (label_a, label_b) = match a.exists() {
            true => (format!("a/{name}"), format!("b/{name}")),
            false => ("/dev/null".to_owned(), format!("b/{name}")),
        };
        let left = if a.exists() { a.clone() } else { "/dev/null".into() };
        let sh = Shell::new()?;
        let diff = |context: &str| -> Result<String> {
            // 1 says that they differ.
            let command = cmd!(sh, "diff {context} --label {label_a} --label {label_b} {left} {b}");
            let output = command.quiet().ignore_status().output();
            let output = output.with_context(|| format!("failed to compare `{name}`"))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let text = |p: &Path| std::fs::read(p).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default();
        let before = text(&a);
        let sides = Sides::new(&before, &text(&b));
        Ok((FileChange::new(diff("-U3")?, &diff("-U1")?, &before, &sides), sides))
    }

    fn new(diff: String, small: &str, before: &str, sides: &Sides) -> FileChange {
        let lines: Vec<&str> = before.lines().collect();
        let piece = |text: &str| {
            // The name that a continued line belongs to is often some lines up, and a structure's further.
            let first = (start(text).max(1) as usize - 1).min(lines.len());
            let (head, body) = text.split_once('\n').unwrap_or((text, ""));
            let mut with_lead = format!("{head}\n");
            if let Some(tag) = enclosing(&lines[..first]).filter(|line| line.starts_with("struct ")) {
                with_lead.push_str(&format!(" {tag}\n"));
            }
            for line in &lines[first.saturating_sub(LEAD)..first] {
                with_lead.push_str(&format!(" {line}\n"));
            }
            let heads = body.lines().filter_map(|line| line.get(1..)).filter(|line| is_head(line));
            let functions = enclosing(&lines[..first]).into_iter().filter(|line| is_head(line)).chain(heads);
            let functions = functions.filter_map(|line| text::calls(line).first().map(|n| (*n).to_owned())).collect();
            let changed = || body.lines().filter(|line| line.starts_with(['+', '-'])).map(|line| line[1..].trim());
            Piece {
                names: Change::new(&(with_lead + body), sides),
                functions,
                moved: sides.moved(body),
                only_includes: changed().all(|line| line.is_empty() || line.starts_with("#include")),
                text: text.to_owned(),
            }
        };
        let pieces = hunks(small).into_iter().map(piece).collect();
        FileChange { whole: Change::new(&diff, sides), pieces, diff }
    }

    /// All of it, and each piece.
    pub fn parts(&mut self) -> impl Iterator<Item = &mut Change> {
        std::iter::once(&mut self.whole).chain(self.pieces.iter_mut().map(|piece| &mut piece.names))
    }

    /// A diff of these pieces alone.
    pub fn only(&self, pieces: &BTreeSet<usize>) -> String {
        if pieces.len() == self.pieces.len() {
            return self.diff.clone();
        }
        let mut out: String = self.diff.split_inclusive('\n').take(2).collect();
        let mut moved = 0;
        for &at in pieces {
            let text = &self.pieces[at].text;
            let body = text.split_once('\n').map_or("", |(_, body)| body);
            let count = |sign| body.lines().filter(|l| l.starts_with([' ', sign])).count() as i64;
            let (before, after) = (count('-'), count('+'));
            let start = start(text);
            out.push_str(&format!("@@ -{start},{before} +{},{after} @@\n{body}", start + moved));
            moved += after - before;
        }
        out
    }
}

/// The line that begins the function or structure in which what follows `lines` lies.
fn enclosing<'l>(lines: &[&'l str]) -> Option<&'l str> {
    let begins = |line: &&&str| is_head(line) || line.starts_with('}') || is_structure(line);
    lines.iter().rev().find(begins).copied().filter(|line| !line.starts_with('}'))
}

fn is_structure(line: &str) -> bool {
    line.starts_with("struct ") && line.trim_end().ends_with('{')
}

/// Whether a function's definition begins on this line.
fn is_head(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && line.contains('(')
        && !line.trim_end().ends_with(';')
}

/// The hunks of a unified diff of one file.
fn hunks(diff: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = diff.match_indices("\n@@ ").map(|(at, _)| at + 1).collect();
    starts.push(diff.len());
    starts.windows(2).map(|pair| &diff[pair[0]..pair[1]]).collect()
}

/// The line of the old file at which a hunk begins.
fn start(hunk: &str) -> i64 {
    let digits = hunk.trim_start_matches("@@ -");
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The pieces of a change between two texts.
#[cfg(test)]
pub fn pieces_of(before: &str, after: &str) -> Vec<Piece> {
    let dir = tempfile::tempdir().expect("a directory for two files");
    for (side, text) in [("a", before), ("b", after)] {
        std::fs::create_dir(dir.path().join(side)).expect("it is new");
        std::fs::write(dir.path().join(side).join("x.c"), text).expect("it can be written");
    }
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    FileChange::read(&a, &b, Path::new("x.c")).expect("diff runs").0.pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "--- a/x.h\n+++ b/x.h\n@@ -1,2 +1,4 @@\n a\n+b\n+c\n d\n@@ -10,3 +12,3 @@\n e\n-f\n+g\n h\n";

    /// A part of a diff is a diff: heads, counts, and the lines where it comes to lie.
    #[test]
    fn a_part_is_a_diff() {
        let (before, after) = ("a\nd\ne\nf\nh\n", "a\nb\nc\nd\ne\ng\nh\n");
        let change = FileChange::new(DIFF.to_owned(), DIFF, before, &Sides::new(before, after));
        assert_eq!(change.pieces.len(), 2);
        assert_eq!(change.only(&[0, 1].into()), DIFF);
        assert_eq!(change.only(&[1].into()), "--- a/x.h\n+++ b/x.h\n@@ -10,3 +10,3 @@\n e\n-f\n+g\n h\n");
        assert_eq!(change.pieces[1].names.fresh, ["g".to_owned()].into());
    }

    /// Two hunks of one function belong together, as do those of one that gets another name.
    #[test]
    fn hunks_know_their_functions() {
        let before = "int f(int a)\n{\n\tx;\n\ty;\n\tz;\n}\nint other;\n";
        let small = "--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n-int f(int a)\n+int g(int a)\n {\n@@ -4,2 +4,1 @@\n \ty;\n-\tz;\n@@ -7,1 +6,1 @@\n-int other;\n+int more;\n";
        let change = FileChange::new(small.to_owned(), small, before, &Sides::new(before, before));
        let functions: Vec<Vec<&str>> =
            change.pieces.iter().map(|p| p.functions.iter().map(String::as_str).collect()).collect();
        assert_eq!(functions, [vec!["f", "g"], vec!["f"], vec![]]);
    }

    /// A parameter far below its function's name still belongs to it.
    #[test]
    fn declarations_that_a_hunk_continues() {
        let (before, after) = ("int f(int a,\n\tint b,\n\tint c);\n", "int f(int a,\n\tint b,\n\tlong c);\n");
        let small = "--- a/x.h\n+++ b/x.h\n@@ -2,2 +2,2 @@\n \tint b,\n-\tint c);\n+\tlong c);\n";
        let change = FileChange::new(small.to_owned(), small, before, &Sides::new(before, after));
        assert_eq!(change.pieces[0].names.declared, ["f".to_owned()].into());
    }
}
