//! Patches -> contents: applied in order, stacked in memory, never on disk.
//!
//! In: parsed patches in their order and a way to read a file of the tree. Out: per touched file what it was
//! and what it becomes. Hard part: a later patch builds on what an earlier one made, so each hunk is placed
//! in the current contents, while git's renames and copies start from what was there before their whole change;
//! and a person who has to repair a patch wants all of its failures at once, each with the lines that were wanted and
//! those that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::locate::{Place, locate, nearest};
use super::{FilePatch, Hunk, Kind, Op, check};

/// What the patches of a run make of the tree.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The touched files, by path. A file that ends up as it was is not among them.
    pub files: Vec<FileChange>,
    /// Things worth knowing: a hunk that moved.
    pub notes: Vec<String>,
    /// Things to look at: a hunk that fits only when some of its context is left out.
    pub warnings: Vec<String>,
}

/// One touched file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Relative to the kernel tree.
    pub path: PathBuf,
    /// What it holds in the tree; `None`: it is new.
    pub original: Option<Vec<u8>>,
    /// What the patches make of it; `None`: it is gone.
    pub patched: Option<Vec<u8>>,
    /// The changed places, in order.
    pub spans: Vec<Span>,
}

/// A changed place: line ranges, counted from 1, ends excluded; an empty range is where nothing was or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// In the tree's file.
    pub original: std::ops::Range<usize>,
    /// In the patched file.
    pub patched: std::ops::Range<usize>,
}

impl Applied {
    /// The change of a file, if it is touched.
    pub fn get(&self, path: &Path) -> Option<&FileChange> {
        self.files.binary_search_by(|file| file.path.as_path().cmp(path)).ok().map(|at| &self.files[at])
    }
}

/// A file while patches are applied to it.
struct State {
    original: Option<Vec<u8>>,
    lines: Option<Vec<Vec<u8>>>,
}

/// Applies patches in order; `read` gives a file of the unpatched tree, `None` when there is none.
pub fn apply(patches: &[FilePatch], read: impl Fn(&Path) -> Result<Option<Vec<u8>>>) -> Result<Applied> {
    let mut run = Run {
        read: &read,
        files: BTreeMap::new(),
        before: BTreeMap::new(),
        written: BTreeSet::new(),
        out: Applied::default(),
        problems: Vec::new(),
    };
    if !patches.is_empty() && patches.iter().all(|patch| patch.hunks.is_empty()) {
        run.problems.extend(patches.iter().filter_map(only_moves));
    }
    for change in patches.chunk_by(|a, b| (&a.patch, a.change) == (&b.patch, b.change)) {
        run.begin(change)?;
        change.iter().try_for_each(|patch| run.file(patch))?;
    }
    let Run { files, mut out, problems, .. } = run;
    check(problems).context("failed to apply the patch")?;
    for (path, state) in files {
        let patched = state.lines.map(|lines| lines.concat());
        if patched != state.original {
            let spans = spans(state.original.as_deref().unwrap_or_default(), patched.as_deref().unwrap_or_default());
            out.files.push(FileChange { path, original: state.original, patched, spans });
        }
    }
    Ok(out)
}

/// What is wrong with a move when there is nothing else.
fn only_moves(patch: &FilePatch) -> Option<String> {
    let (verb, from) = match &patch.kind {
        Kind::Rename(from) => ("renames", from),
        Kind::Copy(from) => ("copies", from),
        _ => return None,
    };
    let what = format!("{verb} `{}` without changing it: there is no code to patch", from.display());
    Some(format!("{}:{}: {what}", patch.patch, patch.line))
}

/// A file's contents.
type Lines = Vec<Vec<u8>>;

struct Run<'a> {
    read: &'a dyn Fn(&Path) -> Result<Option<Vec<u8>>>,
    files: BTreeMap<PathBuf, State>,
    /// What the current change renames or copies, as it was before it; and whether it is renamed.
    before: BTreeMap<PathBuf, (Option<Lines>, bool)>,
    /// What the current change has written so far.
    written: BTreeSet<PathBuf>,
    out: Applied,
    problems: Vec<String>,
}

impl Run<'_> {
    fn state(&mut self, path: &Path) -> Result<&mut State> {
        if !self.files.contains_key(path) {
            let original = (self.read)(path).with_context(|| format!("failed to read `{}`", path.display()))?;
            let lines = original.as_deref().map(split);
            self.files.insert(path.to_path_buf(), State { original, lines });
        }
        Ok(self.files.get_mut(path).expect("inserted above"))
    }

    /// The file that a patch without `a/` and `b/` may have meant, of whose name the kernel's own directory was left out.
    fn without_prefix(&self, path: &Path) -> Option<PathBuf> {
        const TOP: [&str; 17] = [
            "arch", "block", "certs", "crypto", "drivers", "fs", "include", "init", "io_uring", "ipc", "kernel", "lib",
            "mm", "net", "security", "sound", "virt",
        ];
        let there = |file: &PathBuf| matches!((self.read)(file), Ok(Some(_)));
        TOP.iter().map(|top| Path::new(top).join(path)).find(there)
    }

    /// Keeps what the change speaks of as it was: git's renames and copies do not depend on their order.
    fn begin(&mut self, change: &[FilePatch]) -> Result<()> {
        self.before.clear();
        self.written.clear();
        for patch in change {
            if let Kind::Rename(from) | Kind::Copy(from) = &patch.kind {
                let lines = self.state(from)?.lines.clone();
                self.before.entry(from.clone()).or_insert((lines, false)).1 |= matches!(patch.kind, Kind::Rename(_));
            }
        }
        Ok(())
    }

    /// Whether another file may take its place: the current change renames it, and has put nothing there yet.
    fn leaves(&self, path: &Path) -> bool {
        self.before.get(path).is_some_and(|(_, renamed)| *renamed) && !self.written.contains(path)
    }

    fn file(&mut self, patch: &FilePatch) -> Result<()> {
        let path = &patch.path;
        let at = format!("{}:{}", patch.patch, patch.line);
        let source = match &patch.kind {
            Kind::Rename(from) | Kind::Copy(from) => from,
            _ => path,
        };
        let shown = source.display();
        let lines = match source == path {
            true => self.state(source)?.lines.clone(),
            false => self.before.get(source).and_then(|(lines, _)| lines.clone()),
        };
        let mut lines = match (&patch.kind, lines) {
            (Kind::Mode, Some(_)) => {
                self.out.notes.push(format!("{at}: only the permissions of `{shown}` change: ignored"));
                return Ok(());
            }
            (Kind::Create, None) => Vec::new(),
            (Kind::Create, Some(lines)) if lines.is_empty() => lines,
            (Kind::Create, Some(_)) if self.leaves(path) => Vec::new(),
            (Kind::Create, Some(_)) => {
                self.problems.push(format!("{at}: the patch creates `{shown}`, which exists already"));
                return Ok(());
            }
            (_, None) => {
                let hint = self.without_prefix(source).map_or(String::new(), |there| {
                    let there = there.display();
                    format!(
                        ", but `{there}`; the first directory of a name is left out, as by -p1: make the patch without --no-prefix"
                    )
                });
                self.problems.push(format!("{at}: the patch changes `{shown}`, which the tree does not have{hint}"));
                return Ok(());
            }
            (_, Some(lines)) => lines,
        };
        if source != path && self.state(path)?.lines.is_some() && !self.leaves(path) {
            self.problems.push(format!("{at}: the patch moves a file to `{}`, which exists already", path.display()));
            return Ok(());
        }
        self.hunks(patch, &mut lines);
        if let Kind::Rename(from) = &patch.kind
            && !self.written.contains(from)
        {
            self.state(from)?.lines = None;
        }
        self.written.insert(path.clone());
        if patch.kind == Kind::Delete {
            if !lines.is_empty() && self.problems.is_empty() {
                self.problems.push(format!("{at}: the patch deletes `{shown}`, but not all of its lines"));
            }
            self.state(path)?.lines = None;
            return Ok(());
        }
        self.state(path)?.lines = Some(lines);
        Ok(())
    }

    fn hunks(&mut self, patch: &FilePatch, lines: &mut Vec<Vec<u8>>) {
        let mut drift = 0;
        // Hunks speak of the old file: `grown` is how much this patch's earlier hunks moved what follows.
        let mut grown = 0isize;
        let mut floor = 0;
        for (number, hunk) in patch.hunks.iter().enumerate() {
            let what = format!("{}:{}: hunk {} of `{}`", patch.patch, hunk.line, number + 1, patch.path.display());
            let Some(place) = locate(lines, hunk, drift + grown, floor) else {
                self.problems.push(explain(&what, lines, hunk));
                continue;
            };
            drift = place.offset - grown;
            let line = place.at + 1;
            if place.fuzz > 0 {
                self.out.warnings.push(format!(
                    "{what} fits at line {line} only with fuzz {} (context lines that differ); is this the place it is meant for?\n{}",
                    place.fuzz,
                    indent(&hunk.quote())
                ));
            } else if drift != 0 {
                self.out.notes.push(format!("{what} applied at line {line} (offset {drift:+} lines)"));
            }
            let (removed, added) = replace(lines, hunk, place);
            floor = place.at + added;
            grown += added as isize - removed as isize;
        }
    }
}

/// Puts a hunk's new side in; how many lines went and came.
fn replace(lines: &mut Vec<Vec<u8>>, hunk: &Hunk, place: Place) -> (usize, usize) {
    let body = &hunk.lines[place.skip_head..hunk.lines.len() - place.skip_tail];
    let removed = body.iter().filter(|line| line.op != Op::Add).count();
    let new: Vec<Vec<u8>> = body.iter().filter(|line| line.op != Op::Remove).map(|line| line.text.clone()).collect();
    let added = new.len();
    lines.splice(place.at..place.at + removed, new);
    // Only a file's last line goes without a newline; GNU patch, too, writes one before whatever follows.
    let last = lines.len().saturating_sub(1);
    for line in &mut lines[place.at.saturating_sub(1).min(last)..(place.at + added).min(last)] {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
    }
    (removed, added)
}

/// Why a hunk does not fit: the hunk, and the place that is nearest to what it wants.
fn explain(what: &str, lines: &[Vec<u8>], hunk: &Hunk) -> String {
    let reversed = Hunk {
        line: hunk.line,
        old_start: hunk.new_start,
        new_start: hunk.old_start,
        lines: hunk
            .lines
            .iter()
            .cloned()
            .map(|mut line| {
                line.op = flip(line.op);
                line
            })
            .collect(),
    };
    let mut out = format!("{what} does not apply");
    if hunk.new_side().next().is_some() && locate(lines, &reversed, 0, 0).is_some_and(|place| place.fuzz == 0) {
        out.push_str("; it looks as if the tree has this change already");
    }
    out.push_str(&format!(":\n{}", indent(&hunk.quote())));
    let (at, same) = nearest(lines, hunk);
    let wanted = hunk.old().count();
    let place = match same {
        0 => format!("nothing like it is in the file; at line {} there is:\n", at + 1),
        _ => format!("nearest place: line {}, where {same} of its {wanted} old lines match:\n", at + 1),
    };
    out.push_str(&place);
    for (number, line) in lines.iter().enumerate().skip(at).take(wanted.max(1)) {
        let text = String::from_utf8_lossy(line);
        out.push_str(&format!("    {:>6}  {}\n", number + 1, text.trim_end_matches('\n')));
    }
    out.truncate(out.trim_end().len());
    out
}

fn flip(op: Op) -> Op {
    match op {
        Op::Context => Op::Context,
        Op::Remove => Op::Add,
        Op::Add => Op::Remove,
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Lines with the newlines they end in.
pub(super) fn split(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
}

fn spans(original: &[u8], patched: &[u8]) -> Vec<Span> {
    let (original, patched) = (split(original), split(patched));
    similar::capture_diff_slices(similar::Algorithm::Myers, &original, &patched)
        .into_iter()
        .filter(|op| op.tag() != similar::DiffTag::Equal)
        .map(|op| {
            let line = |range: std::ops::Range<usize>| range.start + 1..range.end + 1;
            Span { original: line(op.old_range()), patched: line(op.new_range()) }
        })
        .collect()
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
