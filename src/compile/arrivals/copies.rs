//! Macros that do nothing but paste: each call has a copy of its own.
//!
//! In: all macros, and a call. Out: the macro that it calls, or the copy that is its own. Without these, whatever is pasted by
//! `__PASTE(a, b)` anywhere would be pasted with all else that is.

use rustc_hash::FxHashSet;

use super::{Arrivals, Arrived, Called, Calling, Flow, Given, number};

impl Arrivals {
    /// A macro that is one paste, or one call of such a macro.
    pub(super) fn find_pasters(&mut self) {
        loop {
            let before = self.pasters.len();
            for (index, callee) in self.callees.iter().enumerate().filter(|(_, callee)| callee.is_function) {
                let is_paster = match callee.top[..] {
                    [Flow::Paste(_)] => callee.calls.is_empty(),
                    [Flow::Word(name), Flow::Call(_)] if callee.calls.len() == 1 => {
                        let called = self.by_name.get(&name).into_iter().flatten();
                        let mut called = called.map(|callee| self.pasters.contains(callee)).peekable();
                        called.peek().is_some() && called.all(|is| is)
                    }
                    _ => false,
                };
                if is_paster {
                    self.pasters.insert(index);
                }
            }
            if self.pasters.len() == before {
                return;
            }
        }
    }

    /// The callee, or this call's copy of it.
    pub(super) fn own_copy(&mut self, calling: usize, callee: usize) -> usize {
        if !self.pasters.contains(&callee) {
            return callee;
        }
        if let Some(copy) = self.copies.get(&(calling, callee)) {
            return *copy;
        }
        let mut copy = self.callees[callee].clone();
        let (param, paste, call) = (self.params.len(), self.pastes.len(), self.callings.len());
        let of = |flow: &Flow| match *flow {
            Flow::Param(old) => Flow::Param(number(old as usize - copy.first_param + param)),
            Flow::Paste(old) => Flow::Paste(number(old as usize - copy.pastes.start + paste)),
            Flow::Call(old) => Flow::Call(number(old as usize - copy.calls.start + call)),
            flow => flow,
        };
        let all = |flows: &[Flow]| flows.iter().map(of).collect::<Vec<Flow>>();
        let heads = |heads: &[Called]| {
            let of_head = |head: &Called| match head {
                Called::Flow(flow) => Called::Flow(of(flow)),
                Called::Result(old) => Called::Result(old - copy.calls.start + call),
            };
            heads.iter().map(of_head).collect::<Vec<Called>>()
        };
        let pastes: Vec<Vec<Flow>> = self.pastes[copy.pastes.clone()].iter().map(|pieces| all(pieces)).collect();
        let given = |given: &Given| Given {
            edges: all(&given.edges),
            items: all(&given.items),
            is_long: given.is_long,
            top: all(&given.top),
            vanishes_with: given
                .vanishes_with
                .as_ref()
                .map(|with| with.iter().map(|old| number(*old as usize - copy.first_param + param)).collect()),
        };
        let callings = self.callings[copy.calls.clone()].iter().map(|calling| Calling {
            heads: heads(&calling.heads),
            args: calling.args.iter().map(given).collect(),
            mixed: calling.mixed,
            done: FxHashSet::default(),
            is_settled: false,
        });
        let callings: Vec<Calling> = callings.collect();
        let (edges, tail, top) = (all(&copy.edges), heads(&copy.tail), all(&copy.top));
        (copy.edges, copy.tail, copy.top) = (edges, tail, top);
        copy.first_param = param;
        copy.pastes = paste..paste + pastes.len();
        copy.calls = call..call + callings.len();
        self.params.extend(
            (0..copy.matters.len())
                .map(|place| Arrived { has_comma: copy.variadic == Some(place), ..Arrived::default() }),
        );
        self.pastes.extend(pastes);
        self.callings.extend(callings);
        self.copies.insert((calling, callee), self.callees.len());
        self.callees.push(copy);
        self.callees.len() - 1
    }
}
