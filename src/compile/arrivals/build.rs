//! Numbers the words, parameters, pastes and calls of all texts, each text's own behind those of the one before.
//!
//! In: definitions and calls as they were read. Out: the same by number. Hard because an argument may turn into nothing, which
//! depends on what its parameters turn out to be.

use rustc_hash::FxHashSet;

use super::{Arrivals, Arrived, Called, Callee, Calling, Flow, Given, number};
use crate::compile::calls::{Arg, Call, Head, Item};
use crate::compile::flows::{Definition, Flows};

impl Arrivals {
    pub(super) fn add_definition(&mut self, definition: &Definition<'_>, flows: &Flows<'_>) {
        let name = self.words.number(definition.name);
        let (param, paste) = (self.params.len(), self.pastes.len());
        let body = &definition.body;
        let variadic = definition.params.variadic;
        self.params.extend(
            (0..definition.matters.len())
                .map(|place| Arrived { has_comma: variadic == Some(place), ..Arrived::default() }),
        );
        for pieces in &body.pastes {
            let pieces = self.flows(pieces, param, paste);
            self.pastes.push(pieces);
        }
        let first_call = self.callings.len();
        self.add_calls(&body.calls, param, paste, flows);
        let edges: FxHashSet<Flow> = self.flows(&body.whole.edges, param, paste).into_iter().collect();
        let tail = body.tail.iter().map(|head| self.called(head, param, paste, first_call)).collect();
        let top = self.flows(&body.whole.top, param, paste);
        self.by_name.entry(name).or_default().push(self.callees.len());
        self.callees.push(Callee {
            is_function: definition.params.is_function,
            matters: definition.matters.clone(),
            variadic,
            first_param: param,
            pastes: paste..self.pastes.len(),
            calls: first_call..self.callings.len(),
            edges: edges.into_iter().collect(),
            tail,
            top,
            has_comma: body.has_comma,
        });
    }

    pub(super) fn add_calls<W: AsRef<[u8]>>(
        &mut self,
        calls: &[Call<W>],
        param: usize,
        paste: usize,
        known: &Flows<'_>,
    ) {
        let first_call = self.callings.len();
        self.first_call = first_call;
        for call in calls {
            let heads = call.heads.iter().map(|head| self.called(head, param, paste, first_call)).collect();
            let args = call.args.iter().map(|arg| self.given(arg, param, paste, known)).collect();
            let (done, is_settled) = (FxHashSet::default(), false);
            self.callings.push(Calling { heads, args, mixed: call.mixed, done, is_settled });
        }
    }

    fn given<W: AsRef<[u8]>>(&mut self, arg: &Arg<W>, param: usize, paste: usize, known: &Flows<'_>) -> Given {
        let unique = |flows: Vec<Flow>| flows.into_iter().collect::<FxHashSet<Flow>>().into_iter().collect::<Vec<_>>();
        let is_there = |item: &Item<W>| matches!(item, Item::Word(word) if !known.vanishes(word.as_ref()));
        let vanishes = !arg.has_more && !arg.top.iter().any(is_there);
        let top = unique(self.flows(&arg.top, param, paste));
        let mut with = Vec::new();
        let mut open = top.clone();
        let mut vanishes_with = vanishes.then_some(());
        while let Some(flow) = open.pop() {
            match flow {
                Flow::Param(param) => with.push(param),
                Flow::Paste(paste) => open.extend(&self.pastes[paste as usize]),
                Flow::Word(word) if known.vanishes(self.words.text(word)) => {}
                Flow::Word(_) => vanishes_with = None,
                // What was called decides.
                Flow::Call(_) | Flow::Became(_) => {}
            }
        }
        let items = unique(self.flows(&arg.items, param, paste));
        let edges = unique(self.flows(&arg.edges, param, paste));
        let is_long = arg.has_more || arg.items.len() > 1;
        Given { edges, items, top, is_long, vanishes_with: vanishes_with.map(|()| with) }
    }

    fn flows<W: AsRef<[u8]>>(&mut self, items: &[Item<W>], param: usize, paste: usize) -> Vec<Flow> {
        items.iter().map(|item| self.flow(item, param, paste)).collect()
    }

    fn flow<W: AsRef<[u8]>>(&mut self, item: &Item<W>, first_param: usize, first_paste: usize) -> Flow {
        match item {
            Item::Word(word) => Flow::Word(self.words.number(word.as_ref())),
            Item::Param(param) => Flow::Param(number(first_param + param)),
            Item::Paste(paste) => Flow::Paste(number(first_paste + paste)),
            Item::Call(call) => Flow::Call(number(self.first_call + call)),
            Item::Became(word) => Flow::Became(self.words.number(word.as_ref())),
        }
    }

    fn called<W: AsRef<[u8]>>(&mut self, head: &Head<W>, param: usize, paste: usize, first_call: usize) -> Called {
        match head {
            Head::Item(item) => Called::Flow(self.flow(item, param, paste)),
            Head::Result(call) => Called::Result(first_call + call),
        }
    }
}
