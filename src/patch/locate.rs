//! Where a hunk fits in a file: at its place, moved by an offset, or with some context left out (fuzz).
//!
//! In: the file's lines and one hunk. Out: the place, or the place it is nearest to. The rules are those of
//! GNU patch, since that is what patches are tested with: the place named by `@@` plus the last hunk's
//! offset is tried first, then farther and farther away in both directions; a hunk with less context on
//! one side lies at that end of the file; only when nothing fits, up to two lines of context at either end
//! are left out, and the search starts again. What is left out is kept as the file has it.

use super::{Hunk, Op};

/// Lines of context that may be left out at either end of a hunk.
const MAX_FUZZ: usize = 2;

/// Where a hunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the first line that the old side matches, leading fuzz left out.
    pub(super) at: usize,
    /// Leading hunk lines left out.
    pub(super) skip_head: usize,
    /// Trailing hunk lines left out.
    pub(super) skip_tail: usize,
    /// Context lines allowed to differ to get here.
    pub(super) fuzz: usize,
    /// How far from where the hunk says.
    pub(super) offset: isize,
}

/// Finds the place of a hunk at or after line index `floor`; `drift` is the last hunk's offset.
pub(super) fn locate(file: &[Vec<u8>], hunk: &Hunk, drift: isize, floor: usize) -> Option<Place> {
    let old: Vec<&[u8]> = hunk.old().map(|line| line.text.as_slice()).collect();
    let context = |lines: &mut dyn Iterator<Item = &super::Line>| lines.take_while(|l| l.op == Op::Context).count();
    let prefix = context(&mut hunk.lines.iter());
    let suffix = context(&mut hunk.lines.iter().rev());
    let most = prefix.max(suffix);
    // `@@ -N,0` names the line the new lines come after.
    let stated = if old.is_empty() { hunk.old_start } else { hunk.old_start.saturating_sub(1) };
    for fuzz in 0..=MAX_FUZZ.min(most) {
        let head = (fuzz + prefix).checked_sub(most);
        let tail = (fuzz + suffix).checked_sub(most);
        let (skip_head, skip_tail) = (head.unwrap_or(0), tail.unwrap_or(0));
        let Some(pattern) = old.get(skip_head..old.len().saturating_sub(skip_tail)) else { continue };
        if pattern.is_empty() && !old.is_empty() {
            continue;
        }
        let want = stated as isize + skip_head as isize;
        let place = |at: usize| Place { at, skip_head, skip_tail, fuzz, offset: at as isize - want };
        let fits = |at: usize| at >= floor && matches(file, at, pattern);
        if head.is_none() && hunk.old_start <= 1 {
            // Less context before than after: only the start of the file can be meant.
            if fits(0) && (tail.is_some() || pattern.len() == file.len()) {
                return Some(place(0));
            }
            continue;
        }
        if tail.is_none() {
            // Less context after than before: only the end of the file can be meant.
            if let Some(at) = file.len().checked_sub(pattern.len())
                && fits(at)
            {
                return Some(place(at));
            }
            continue;
        }
        // Also the lines left out must have room in the file.
        let last = (file.len() + skip_head).checked_sub(old.len())?;
        // From beyond either end, that end is nearest.
        let guess = (want + drift).clamp(0, file.len() as isize);
        for distance in 0..=file.len() as isize {
            for at in [guess + distance, guess - distance] {
                if at >= skip_head as isize && at as usize <= last && fits(at as usize) {
                    return Some(place(at as usize));
                }
            }
        }
    }
    None
}

fn matches(file: &[Vec<u8>], at: usize, pattern: &[&[u8]]) -> bool {
    file.get(at..at + pattern.len()).is_some_and(|lines| lines.iter().zip(pattern).all(|(have, want)| have == want))
}

/// The place that has most of the old lines: (line index, how many match). Nearest to the stated place wins ties.
pub(super) fn nearest(file: &[Vec<u8>], hunk: &Hunk) -> (usize, usize) {
    let old: Vec<&[u8]> = hunk.old().map(|line| line.text.as_slice()).collect();
    let stated = hunk.old_start.saturating_sub(1);
    let score = |at: usize| {
        let same = file[at..].iter().zip(&old).filter(|(have, want)| have == *want);
        // A blank line or a lone brace fits anywhere.
        same.filter(|(have, _)| have.trim_ascii().len() > 1).count()
    };
    let best =
        (0..file.len()).map(|at| (score(at), at)).max_by_key(|&(score, at)| (score, usize::MAX - at.abs_diff(stated)));
    match best {
        Some((score, at)) if score > 0 => (at, score),
        _ => (stated.min(file.len()), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn lines(text: &str) -> Vec<Vec<u8>> {
        text.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect()
    }

    fn hunk(body: &str) -> Hunk {
        parse(format!("--- a/f.c\n+++ b/f.c\n{body}").as_bytes(), "t").unwrap().remove(0).hunks.remove(0)
    }

    /// The nearest match wins, and the last hunk's drift moves the first guess.
    #[test]
    fn offset() {
        let file = lines("x\na\nb\nc\nx\nx\nx\na\nb\nc\n");
        let hunk = hunk("@@ -3,3 +3,3 @@\n a\n-b\n+B\n c\n");
        assert_eq!(locate(&file, &hunk, 0, 0).unwrap().at, 1);
        assert_eq!(locate(&file, &hunk, 4, 0).unwrap().at, 7);
        assert_eq!(locate(&file, &hunk, 0, 2).unwrap().at, 7);
    }

    /// A line number far beyond the file is the nearest match all the same, and takes no longer.
    #[test]
    fn far_away() {
        let file = lines("a\nb\nc\nx\na\nb\nc\nx\nx\n");
        for start in ["400000000000", "18446744073709551615"] {
            let hunk = hunk(&format!("@@ -{start},3 +{start},3 @@\n a\n-b\n+B\n c\n"));
            assert_eq!(locate(&file, &hunk, 0, 0).unwrap().at, 4);
            assert_eq!(locate(&file, &hunk, -(1 << 60), 0).unwrap().at, 0);
        }
    }

    /// Context may differ in up to two lines at an end, and in no more.
    #[test]
    fn fuzz() {
        let hunk = hunk("@@ -1,7 +1,7 @@\n a\n b\n c\n-d\n+D\n e\n f\n g\n");
        let place = locate(&lines("A\nB\nc\nd\ne\nf\ng\n"), &hunk, 0, 0).unwrap();
        assert_eq!((place.at, place.fuzz, place.skip_head), (2, 2, 2));
        assert_eq!(locate(&lines("A\nB\nC\nd\ne\nf\ng\n"), &hunk, 0, 0), None);
        assert_eq!(locate(&lines("a\nb\nc\n!\ne\nf\ng\n"), &hunk, 0, 0), None);
    }

    /// A hunk with less context before than after is for the start of the file, and nowhere else, unless fuzzy;
    /// but no hunk goes in with none of its old lines found.
    #[test]
    fn anchored_at_the_start() {
        let two = hunk("@@ -1,2 +1,3 @@\n+new\n a\n b\n");
        assert_eq!(locate(&lines("a\nb\nc\n"), &two, 0, 0).unwrap().at, 0);
        assert_eq!(locate(&lines("x\na\nb\nc\n"), &two, 0, 0), None);
        let three = hunk("@@ -1,3 +1,4 @@\n a\n+new\n b\n c\n");
        let moved = locate(&lines("x\na\nb\nc\n"), &three, 0, 0).unwrap();
        assert_eq!((moved.at, moved.fuzz, moved.skip_tail), (1, 1, 1));
    }
}
