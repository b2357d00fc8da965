// SPDX-License-Identifier: GPL-2.0-only
//! Which addresses must not be on a stack.
//!
//! In: the spans of code a transition takes out of use. Out: for one return address, the function it is in, in log N steps.
//! Hard because spans may touch or overlap (aliases, sizes taken from symbol tables): each entry carries how far any entry
//! up to it reaches, so one comparison answers for all of them.
//!
//! The way in counts, too: a handler that has made its choice can be preempted before the choice runs. All that its stack
//! shows is that the function is being entered, and what it will run may be what goes out of use.

use super::platform::{Anomaly, Errno, Platform, Side};
use super::transition::{Engine, Move};

/// A piece of code: first address, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First address.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unsafe<F> {
    /// The code that goes out of use.
    pub span: Span,
    /// The furthest end of this entry and all before it.
    pub reach: usize,
    /// The function of the moving patch it belongs to.
    pub func: F,
}

/// What a table holds once filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeTable {
    /// So many entries, sorted.
    Entries(usize),
    /// There was no room: nothing can be said of any stack.
    Unknown,
}

/// Sorts `table` and computes its reaches.
fn arrange<F: Copy>(table: &mut [Unsafe<F>]) {
    table.sort_unstable_by_key(|entry| entry.span.start);
    let mut reach = 0;
    for entry in table {
        reach = entry.span.end.max(reach);
        entry.reach = reach;
    }
}

/// The function whose span holds `address`.
pub(super) fn find<F: Copy>(table: &[Unsafe<F>], address: usize) -> Option<F> {
    let upto = table.partition_point(|entry| entry.span.start <= address);
    let candidates = table.get(..upto)?;
    if candidates.last()?.reach <= address {
        return None;
    }
    // Some entry reaches past the address; with disjoint spans it is the last one.
    candidates.iter().rev().find(|entry| address < entry.span.end).map(|entry| entry.func)
}

impl<P: Platform> Engine<P> {
    /// Makes sure that a transition of `patch` will find room, whatever modules come and go meanwhile.
    pub(super) fn reserve(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        let funcs: usize = p.objects(patch).map(|object| p.funcs(object).count()).sum();
        // What is left, and the way in.
        p.reserve_ranges(funcs.saturating_mul(2))
    }

    /// Recomputes the table. Callers make sure that no task may switch on what the old one left out.
    pub(super) fn rebuild_ranges(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        p.publish_ranges(&mut |room| {
            let mut used = 0;
            for object in p.objects(moving.patch).filter(|&o| p.patched(o)) {
                for func in p.funcs(object).filter(|&f| p.applied(f)) {
                    for span in [self.leaving(moving.goal, func), p.entry_span(func)] {
                        let Some(slot) = room.get_mut(used) else {
                            p.anomaly(Anomaly::RangesFull);
                            return RangeTable::Unknown;
                        };
                        *slot = Unsafe { span, reach: 0, func };
                        used = used.wrapping_add(1);
                    }
                }
            }
            if let Some(table) = room.get_mut(..used) {
                arrange(table);
            }
            RangeTable::Entries(used)
        });
    }

    /// The code that tasks leave when they go to `goal`: the patch's own, or what ran before it.
    fn leaving(&self, goal: Side, func: P::Func) -> Span {
        let p = &self.platform;
        match goal {
            Side::Old => p.new_span(func),
            Side::New => match p.find_stack(func).and_then(|stack| p.below(stack, func)) {
                Some(previous) => p.new_span(previous),
                None => p.old_span(func),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(spans: [(usize, usize); N]) -> [Unsafe<usize>; N] {
        let mut i = 0;
        let mut table = spans.map(|(start, end)| {
            i += 1;
            Unsafe { span: Span { start, end }, reach: 0, func: i }
        });
        arrange(&mut table);
        table
    }

    /// The first address is inside, the one after the last is not, gaps and the far sides are not.
    #[test]
    fn edges() {
        let t = table([(100, 110), (50, 60), (110, 120)]);
        for (address, expect) in
            [(49, None), (50, Some(2)), (59, Some(2)), (60, None), (109, Some(1)), (110, Some(3)), (120, None)]
        {
            assert_eq!(find(&t, address), expect, "address {address}");
        }
        assert_eq!(find(&table([]), 5), None);
    }

    /// For random tables with overlaps the answer agrees with looking at every entry.
    #[test]
    fn agrees_with_linear_search() {
        let mut seed = 1u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        for _ in 0..2000 {
            let t = table([(); 7].map(|()| {
                let start = random(64);
                (start, start + random(20))
            }));
            for address in 0..90 {
                let inside = t.iter().any(|e| e.span.start <= address && address < e.span.end);
                assert_eq!(find(&t, address).is_some(), inside, "{t:?} at {address}");
            }
        }
    }
}
