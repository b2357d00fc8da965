//! Could macros paste a name together that no file has as a word?
//!
//! In: all pastes, and what may arrive at the parameters in them. Out: whether a name may come of them. Hard because what is
//! pasted can itself have been pasted: each part of the name is asked about, the short ones first.

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::arrivals::{Arrivals, Arrived, Flow};

/// Ways in which names are made.
pub(super) struct Grammar<'a> {
    all: &'a Arrivals,
    /// Pastes by the first word of theirs that is no parameter; of a kernel's many thousand, few are of interest for one name.
    by_literal: FxHashMap<u32, Vec<u32>>,
    /// Those without, by what they may begin with; and those that may begin with what is no word of a file.
    by_first: FxHashMap<u32, Vec<u32>>,
    open: Vec<u32>,
    /// All words that could be a part.
    parts: FxHashSet<u32>,
    /// Words that turn into numbers which no file has.
    counters: Vec<Flow>,
}

impl<'a> Grammar<'a> {
    pub(super) fn new(all: &'a Arrivals) -> Grammar<'a> {
        let mut grammar = Grammar {
            all,
            by_literal: FxHashMap::default(),
            by_first: FxHashMap::default(),
            open: vec![],
            parts: FxHashSet::default(),
            counters: vec![],
        };
        let counters = [&b"__COUNTER__"[..], b"__LINE__", b"__INCLUDE_LEVEL__"].map(|word| all.words.find(word));
        grammar.counters.extend(counters.into_iter().flatten().map(Flow::Word));
        for (paste, pieces) in (0..).zip(&all.pastes) {
            let mut literals = pieces.iter().filter_map(|piece| match piece {
                Flow::Word(word) => Some(*word),
                _ => None,
            });
            match literals.clone().next() {
                Some(word) => grammar.by_literal.entry(word).or_default().push(paste),
                None => match pieces.first().and_then(|first| grammar.words_of(first)) {
                    Some(words) => {
                        words.into_iter().for_each(|word| grammar.by_first.entry(word).or_default().push(paste));
                    }
                    None => grammar.open.push(paste),
                },
            }
            grammar.parts.extend(&mut literals);
            let params = pieces.iter().filter_map(|piece| match piece {
                Flow::Param(param) => all.params.get(*param as usize),
                _ => None,
            });
            let arrived = params.flat_map(|param| &param.raw).filter_map(|flow| match flow {
                Flow::Word(word) => Some(*word),
                _ => None,
            });
            grammar.parts.extend(arrived);
        }
        grammar
    }

    /// What a parameter may stand for, if that is only words, and never nothing.
    fn words_of(&self, flow: &Flow) -> Option<Vec<u32>> {
        let Flow::Param(param) = flow else { return None };
        let Arrived { raw, may_be_empty, .. } = self.all.params.get(*param as usize)?;
        let word = |flow: &Flow| match flow {
            Flow::Word(word) if !self.counters.contains(flow) => Some(*word),
            _ => None,
        };
        if *may_be_empty { None } else { raw.iter().map(word).collect() }
    }

    /// Whether the name may be pasted together of more than one word.
    pub(super) fn may_make(&self, name: &[u8]) -> bool {
        self.may_be_parts(name) && !Made::new(self, name).whole().is_empty()
    }

    /// Which of these macros the pastes may name, with nothing beside one word of theirs, too.
    pub(super) fn macros(&self, pastes: &FxHashSet<u32>, names: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
        if pastes.is_empty() {
            return Vec::new();
        }
        let names: FxHashSet<u32> = names.collect();
        let alone = pastes.iter().flat_map(|paste| self.alone(*paste).map(|word| (*paste, word)));
        let mut all: Vec<(u32, u32)> = alone.filter(|(_, word)| names.contains(word)).collect();
        let of = |name: &u32| {
            let text = self.all.words.text(*name);
            let made = if self.may_be_parts(text) { Made::new(self, text).whole() } else { Vec::new() };
            made.into_iter().filter(|paste| pastes.contains(paste)).map(|paste| (paste, *name)).collect::<Vec<_>>()
        };
        all.extend(names.par_iter().flat_map_iter(of).collect::<Vec<_>>());
        all
    }

    /// The words that the paste is when all beside them is nothing.
    fn alone(&self, paste: u32) -> impl Iterator<Item = u32> {
        let pieces = &self.all.pastes[paste as usize];
        let arrived = |flow: &Flow| match flow {
            Flow::Param(param) => self.all.params.get(*param as usize),
            _ => None,
        };
        let is_needed = |flow: &Flow| !arrived(flow).is_some_and(|param| param.may_be_empty);
        let needed: Vec<usize> = (0..pieces.len()).filter(|at| is_needed(&pieces[*at])).take(2).collect();
        let may_be_alone = move |at: usize| needed.iter().all(|other| *other == at);
        let alone = pieces.iter().enumerate().filter(move |(at, _)| may_be_alone(*at)).map(|(_, piece)| piece);
        let flows = alone.flat_map(move |piece| arrived(piece).into_iter().flat_map(|param| &param.raw).chain([piece]));
        flows.filter_map(|flow| match flow {
            Flow::Word(word) => Some(*word),
            _ => None,
        })
    }

    /// Whether there are words for all of it, more than one.
    fn may_be_parts(&self, name: &[u8]) -> bool {
        let is =
            |part: &[u8]| is_number(part) || self.all.words.find(part).is_some_and(|word| self.parts.contains(&word));
        let mut made = vec![false; name.len() + 1];
        made[0] = true;
        for end in 1..=name.len() {
            made[end] = (0..end).any(|start| made[start] && (start, end) != (0, name.len()) && is(&name[start..end]));
        }
        made[name.len()]
    }
}

/// What a counter or a line's number may be.
fn is_number(part: &[u8]) -> bool {
    part.iter().all(u8::is_ascii_digit)
}

/// What makes which part of one name.
struct Made<'g> {
    grammar: &'g Grammar<'g>,
    length: usize,
    /// By start and end: the word that the part is; never the whole of the name.
    words: Vec<Option<u32>>,
    numbers: Vec<bool>,
    /// By start and end: the pastes that make it.
    pastes: Vec<Vec<u32>>,
}

impl<'g> Made<'g> {
    fn new(grammar: &'g Grammar<'g>, name: &[u8]) -> Made<'g> {
        let length = name.len();
        let size = (length + 1) * (length + 1);
        let (words, numbers, pastes) = (vec![None; size], vec![false; size], vec![Vec::new(); size]);
        let mut made = Made { grammar, length, words, numbers, pastes };
        let mut candidates: Vec<u32> = grammar.open.clone();
        for start in 0..length {
            for end in start + 1..=length {
                let at = made.at(start, end);
                made.numbers[at] = is_number(&name[start..end]);
                let word = grammar.all.words.find(&name[start..end]);
                for by_word in [&grammar.by_literal, &grammar.by_first] {
                    candidates.extend(word.and_then(|word| by_word.get(&word)).into_iter().flatten());
                }
                made.words[at] = word.filter(|_| end - start < length);
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let spans = (1..=length).flat_map(|size| (0..=length - size).map(move |start| (start, start + size)));
        // Most parts are neither a word that is pasted nor made of such.
        let mut is_of_parts = vec![false; size];
        for (start, end) in spans {
            let at = made.at(start, end);
            let is_part = made.numbers[at] || made.words[at].is_some_and(|word| grammar.parts.contains(&word));
            let of_two = |mid: usize| is_of_parts[made.at(start, mid)] && is_of_parts[made.at(mid, end)];
            is_of_parts[at] = is_part || (start + 1..end).any(of_two);
            if !is_of_parts[at] {
                continue;
            }
            loop {
                let is_new = |paste: &&u32| !made.pastes[at].contains(paste) && made.fits(**paste, start, end);
                let new: Vec<u32> = candidates.iter().filter(is_new).copied().collect();
                if new.is_empty() {
                    break;
                }
                made.pastes[at].extend(new);
            }
        }
        made
    }

    fn whole(mut self) -> Vec<u32> {
        let at = self.at(0, self.length);
        std::mem::take(&mut self.pastes[at])
    }

    fn at(&self, start: usize, end: usize) -> usize {
        start * (self.length + 1) + end
    }

    /// Whether the paste can make this part.
    fn fits(&self, paste: u32, start: usize, end: usize) -> bool {
        let mut reached = vec![start];
        for piece in &self.grammar.all.pastes[paste as usize] {
            let mut next = Vec::new();
            for from in reached {
                match piece {
                    Flow::Word(word) => {
                        let to = from + self.grammar.all.words.text(*word).len();
                        if to <= end && self.words[self.at(from, to)] == Some(*word) {
                            next.push(to);
                        }
                    }
                    Flow::Param(param) => next.extend((from..=end).filter(|to| self.arrives(*param, from, *to))),
                    _ => {}
                }
            }
            next.sort_unstable();
            next.dedup();
            reached = next;
        }
        reached.contains(&end)
    }

    /// Whether a parameter may stand for this part.
    fn arrives(&self, param: u32, start: usize, end: usize) -> bool {
        let at = self.at(start, end);
        let Arrived { raw, may_be_empty, .. } = &self.grammar.all.params[param as usize];
        let of_paste = || self.pastes[at].iter().any(|paste| raw.contains(&Flow::Paste(*paste)));
        (start == end && *may_be_empty)
            || (start < end && self.numbers[at] && self.grammar.counters.iter().any(|word| raw.contains(word)))
            || self.words[at].is_some_and(|word| raw.contains(&Flow::Word(word)))
            || of_paste()
    }
}

#[cfg(test)]
#[path = "pastes_tests.rs"]
mod tests;
