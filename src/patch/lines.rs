//! Keeps `__LINE__` of code that a patch does not touch, by `#line` directives in the patched text.
//!
//! In: a file before and after. Out: the file as the compiler is to see it. Without this, one added line shifts
//! every `__LINE__` below, and each function that hands one to a warning or a journal looks changed. Hard
//! because a directive is not harmless everywhere: in a comment it is swallowed, in a macro body or a
//! continued line it breaks the compile, in a skipped `#if` group it is not seen but still counts as a line.
//! A function that was moved keeps its numbers, too. So the line number that the preprocessor would have is tracked for every way through the conditional
//! groups, and a directive goes before the first unchanged line where it is safe and where some way is off.

use std::collections::{BTreeSet, HashMap};

use similar::{Algorithm, DiffOp};

use super::apply::split;
use super::lexer::{Conditional, LineStart, line_starts};

/// Differences between the line number the compiler would report and the line's index in the patched text:
/// one for each way through the conditional groups so far.
type Drift = BTreeSet<i64>;

/// An open conditional group.
struct Group {
    /// Drift when none of the branches so far was taken.
    untaken: Drift,
    /// Drift after one of the finished branches was taken.
    taken: Drift,
    /// There was an `#else`.
    complete: bool,
}

/// The patched text with directives that give unchanged lines their old numbers. Only for C files; a file that
/// has `#line` directives of its own is left as it is, since its numbers are not its lines anyway.
pub fn keep_line_numbers(original: &[u8], patched: &[u8]) -> Vec<u8> {
    let starts = line_starts(patched);
    if starts.iter().chain(&line_starts(original)).any(|line| line.renumbers) {
        return patched.to_vec();
    }
    let (old, new) = (split(original), split(patched));
    // Old index of each new line that is not touched.
    let mut twins = vec![None; new.len()];
    for op in similar::capture_diff_slices(Algorithm::Myers, &old, &new) {
        if let DiffOp::Equal { old_index, new_index, len } = op {
            for step in 0..len {
                twins[new_index + step] = Some(old_index + step);
            }
        }
    }
    find_moved(&old, &new, &mut twins);
    let mut out = Vec::with_capacity(patched.len() + 64);
    let mut drift = Drift::from([0]);
    let mut groups: Vec<Group> = Vec::new();
    for (at, line) in new.iter().enumerate() {
        let LineStart { safe, conditional, .. } = starts[at];
        if let Some(twin) = twins[at]
            && safe
            && conditional.is_none()
        {
            let wanted = Drift::from([twin as i64 - at as i64]);
            if drift != wanted {
                out.extend_from_slice(format!("#line {}\n", twin + 1).as_bytes());
                drift = wanted;
                // Where the group it is in is skipped, the directive is nothing but one more line.
                for group in &mut groups {
                    group.untaken = group.untaken.iter().map(|drift| drift + 1).collect();
                    group.taken = group.taken.iter().map(|drift| drift + 1).collect();
                }
            }
        }
        out.extend_from_slice(line);
        if let Some(conditional) = conditional {
            nest(conditional, &mut groups, &mut drift);
        }
    }
    out
}

/// So many lines that went from one place and came to another were moved.
const BLOCK: usize = 4;

/// Gives blocks that were moved their old lines, too: code that only stands elsewhere has not changed.
fn find_moved(old: &[Vec<u8>], new: &[Vec<u8>], twins: &mut [Option<usize>]) {
    let kept: BTreeSet<usize> = twins.iter().flatten().copied().collect();
    // Line -> where it was taken out; none when in several places.
    let mut gone: HashMap<&[u8], Option<usize>> = HashMap::new();
    for at in (0..old.len()).filter(|at| !kept.contains(at)) {
        gone.entry(&old[at]).and_modify(|other| *other = None).or_insert(Some(at));
    }
    let mut at = 0;
    while at < new.len() {
        let start = gone.get(new[at].as_slice()).copied().flatten().filter(|_| twins[at].is_none());
        let Some(from) = start else {
            at += 1;
            continue;
        };
        let same = |step: usize| {
            at + step < new.len()
                && twins[at + step].is_none()
                && from + step < old.len()
                && !kept.contains(&(from + step))
                && old[from + step] == new[at + step]
        };
        let length = (0..).take_while(|step| same(*step)).count();
        if length >= BLOCK {
            (0..length).for_each(|step| twins[at + step] = Some(from + step));
        }
        at += length.max(1);
    }
}

fn nest(conditional: Conditional, groups: &mut Vec<Group>, drift: &mut Drift) {
    match conditional {
        Conditional::Open => groups.push(Group { untaken: drift.clone(), taken: Drift::new(), complete: false }),
        Conditional::Elif | Conditional::Else => {
            if let Some(group) = groups.last_mut() {
                group.complete |= conditional == Conditional::Else;
                group.taken.append(drift);
                *drift = group.untaken.clone();
            }
        }
        Conditional::Close => {
            if let Some(mut group) = groups.pop() {
                drift.append(&mut group.taken);
                if !group.complete {
                    drift.append(&mut group.untaken);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
