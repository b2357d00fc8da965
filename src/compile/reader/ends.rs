//! What may stand last, and what parentheses would call there.
//!
//! In: what a level of parentheses has seen. Out: words, parameters, pastes and calls, from the last one back to the first that cannot
//! turn into nothing.

use super::{Reader, Seen};
use crate::compile::calls::{Head, Item};

impl<'t> Reader<'t, '_> {
    pub(super) fn may_vanish(&self, item: &Item<&[u8]>) -> bool {
        match item {
            Item::Word(word) => self.known.may_vanish(word),
            Item::Param(_) => true,
            Item::Paste(paste) => self.out.pastes[*paste].iter().all(|item| matches!(item, Item::Param(_))),
            Item::Call(_) | Item::Became(_) => false,
        }
    }

    /// What parentheses turn into, with what stands before them.
    pub(super) fn became(
        &self,
        head: &Item<&'t [u8]>,
        call: Option<usize>,
        inner: &[Item<&'t [u8]>],
    ) -> Vec<Item<&'t [u8]>> {
        match (call, head) {
            (Some(call), _) => vec![Item::Call(call)],
            (None, Item::Word(word)) if self.known.is_macro(word) => {
                std::iter::once(Item::Became(*word)).chain(inner.iter().copied()).collect()
            }
            (None, _) => Vec::new(),
        }
    }

    /// What these may be the ends of.
    pub(super) fn pasted_before(&self, heads: &[Head<&'t [u8]>]) -> Vec<Head<&'t [u8]>> {
        let words = heads.iter().filter_map(|head| match head {
            Head::Item(Item::Word(word)) => Some(*word),
            _ => None,
        });
        let names = words.flat_map(|word| self.known.ending_in(word));
        names.map(|name| Head::Item(Item::Word(name))).collect()
    }

    pub(super) fn matters(&self, heads: &[Head<&'t [u8]>]) -> bool {
        !heads.is_empty() && self.known.matters(heads)
    }

    /// What parentheses would call here: what stands last, and what stands before that if that may be nothing.
    pub(super) fn heads(&self) -> Vec<Head<&'t [u8]>> {
        let mut heads = Vec::new();
        let mut seen = self.levels.last().map_or(&[][..], |level| &level.seen[..]);
        let mut is_doubtful = false;
        while let [before @ .., last] = seen {
            seen = before;
            let may_vanish = match last {
                Seen::Directive => {
                    is_doubtful = true;
                    true
                }
                Seen::Item(item) => {
                    heads.push(Head::Item(*item));
                    self.may_vanish(item)
                }
                Seen::Closed(call, _) => {
                    heads.extend(call.map(Head::Result));
                    // What was called stands before, and vanishes with its parentheses.
                    match before {
                        [rest @ .., Seen::Item(item)] if self.may_vanish(item) => {
                            seen = rest;
                            true
                        }
                        _ => false,
                    }
                }
            };
            if !may_vanish && !is_doubtful {
                break;
            }
        }
        heads
    }

    /// What may stand last of what has been seen.
    pub(super) fn last(&self) -> Vec<Item<&'t [u8]>> {
        let mut last = Vec::new();
        let mut seen = self.levels.last().map_or(&[][..], |level| &level.seen[..]);
        let mut is_doubtful = false;
        while let [before @ .., end] = seen {
            seen = before;
            let may_vanish = match (end, before) {
                (Seen::Directive, _) => {
                    is_doubtful = true;
                    true
                }
                (Seen::Item(item), _) => {
                    last.push(*item);
                    self.may_vanish(item)
                }
                (Seen::Closed(call, inner), [rest @ .., Seen::Item(item)]) => {
                    seen = rest;
                    last.extend(self.became(item, *call, inner));
                    self.may_vanish(item)
                }
                // A call of what a call has become.
                (Seen::Closed(call, inner), [.., Seen::Closed(..)]) => {
                    last.extend(call.map(Item::Call));
                    last.extend(inner);
                    true
                }
                // Behind a macro's name that comes from elsewhere it is what that is handed.
                (Seen::Closed(_, inner), _) => {
                    last.extend(inner);
                    false
                }
            };
            if !may_vanish && !is_doubtful {
                break;
            }
        }
        last
    }
}
