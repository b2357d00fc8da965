//! What arrives at the parameters of macros.
//!
//! In: what macros do ([`super::flows`]), and the calls of all files. Out: for each parameter that matters the words and pastes that
//! it may stand for. Hard because who is called may be a parameter, or pasted together: it is found from what has arrived,
//! until nothing more arrives. A call in a replacement counts whoever uses the macro, and what one user hands to a
//! macro counts for all of them: more may arrive here than in any unit, never less.

mod build;
mod called;
mod copies;
mod named;
mod several;

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::calls::Call;
use super::flows::Flows;
use called::Found;

/// A word, a parameter of some macro, or a paste of some macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flow {
    Word(u32),
    Param(u32),
    Paste(u32),
    /// What a call turns into.
    Call(u32),
    /// What a macro turns into, beside what it is handed.
    Became(u32),
}

/// All words, by number.
#[derive(Default)]
pub(super) struct Words {
    numbers: FxHashMap<Vec<u8>, u32>,
    texts: Vec<Vec<u8>>,
}

impl Words {
    fn number(&mut self, word: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = number(self.texts.len());
        self.numbers.insert(word.to_vec(), number);
        self.texts.push(word.to_vec());
        number
    }

    pub(super) fn find(&self, word: &[u8]) -> Option<u32> {
        self.numbers.get(word).copied()
    }

    pub(super) fn text(&self, word: u32) -> &[u8] {
        self.texts.get(word as usize).map_or(&[], Vec::as_slice)
    }
}

/// What a parameter may stand for.
#[derive(Default)]
pub(super) struct Arrived {
    /// As it is handed over: what `##` works on.
    pub(super) raw: FxHashSet<Flow>,
    /// With what macros in it turn into, too; in the order of arrival.
    full: Vec<Flow>,
    is_in_full: FxHashSet<Flow>,
    /// May stand for several arguments.
    has_comma: bool,
    /// May stand for nothing.
    pub(super) may_be_empty: bool,
    /// May stand for more than one word.
    is_long: bool,
}

/// One definition, with its parameters and pastes numbered among all.
#[derive(Clone)]
struct Callee {
    is_function: bool,
    matters: Vec<bool>,
    variadic: Option<usize>,
    first_param: usize,
    pastes: Range<usize>,
    calls: Range<usize>,
    /// What may stand first or last.
    edges: Vec<Flow>,
    tail: Vec<Called>,
    /// What stands outside of parentheses.
    top: Vec<Flow>,
    has_comma: bool,
}

#[derive(Clone, Copy)]
enum Called {
    Flow(Flow),
    Result(usize),
}

/// An argument.
#[derive(Clone)]
struct Given {
    edges: Vec<Flow>,
    items: Vec<Flow>,
    top: Vec<Flow>,
    /// Nothing if these are; `None` when it is never nothing.
    vanishes_with: Option<Vec<u32>>,
    /// More than one word.
    is_long: bool,
}

/// A call, in a replacement or a file.
struct Calling {
    heads: Vec<Called>,
    args: Vec<Given>,
    mixed: bool,
    /// Who has been handed these, and the place from which on places were uncertain.
    done: FxHashSet<(usize, usize)>,
    /// Nothing that arrives can change it.
    is_settled: bool,
}

/// All that is known.
pub(super) struct Arrivals {
    pub(super) words: Words,
    pub(super) params: Vec<Arrived>,
    pub(super) pastes: Vec<Vec<Flow>>,
    callees: Vec<Callee>,
    by_name: FxHashMap<u32, Vec<usize>>,
    callings: Vec<Calling>,
    /// From parameter to parameter: how much of the first has gone to the second.
    edges: FxHashMap<(usize, usize), usize>,
    /// How much was known when it was last asked which macros pastes may name: nothing of it ever becomes less.
    asked: Option<[usize; 6]>,
    /// The macros that a paste may name.
    named: FxHashMap<u32, FxHashSet<u32>>,
    /// Where it has arrived what a call turns into.
    waiting: FxHashMap<u32, FxHashSet<usize>>,
    /// Macros that may turn into several arguments.
    several: FxHashSet<usize>,
    /// Macros that may turn into what they are handed.
    passing: FxHashSet<usize>,
    /// Of the text at hand.
    first_call: usize,
    /// Macros that do nothing but paste: each call has a copy of its own, else all that is pasted anywhere would
    /// be pasted with all else.
    pasters: FxHashSet<usize>,
    copies: FxHashMap<(usize, usize), usize>,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Arrivals {
    /// Lets everything arrive.
    pub(super) fn new(flows: &Flows<'_>, files: &[Vec<Call<Vec<u8>>>]) -> Arrivals {
        let mut all = Arrivals {
            words: Words::default(),
            params: Vec::new(),
            pastes: Vec::new(),
            callees: Vec::new(),
            by_name: FxHashMap::default(),
            callings: Vec::new(),
            edges: FxHashMap::default(),
            asked: None,
            named: FxHashMap::default(),
            waiting: FxHashMap::default(),
            several: FxHashSet::default(),
            passing: FxHashSet::default(),
            first_call: 0,
            pasters: FxHashSet::default(),
            copies: FxHashMap::default(),
        };
        flows.definitions.iter().for_each(|definition| all.add_definition(definition, flows));
        all.find_pasters();
        all.find_passing();
        files.iter().for_each(|calls| all.add_calls(calls, 0, 0, flows));
        all.find_several();
        while all.hand_over() | all.name_pasted() {
            all.find_several();
        }
        all
    }

    fn names(&self, paste: u32) -> impl Iterator<Item = u32> {
        self.named.get(&paste).into_iter().flatten().copied()
    }

    /// Hands arguments to all who may be called, and on from there; whether anything was new.
    fn hand_over(&mut self) -> bool {
        let mut is_new = false;
        for index in 0..self.callings.len() {
            if self.callings[index].is_settled {
                continue;
            }
            let mut found = Found::default();
            self.find_called(&self.callings[index].heads, &mut found);
            let calling = &self.callings[index];
            // Only what is put in for a parameter is split by the commas in it; what a macro turns into is not, here.
            let is_several = |flow: &Flow| matches!(flow, Flow::Param(param) if self.params[*param as usize].has_comma);
            let splits = |arg: &Given| arg.top.iter().any(is_several);
            let uncertain = match calling.mixed {
                true => 0,
                false => calling.args.iter().position(splits).unwrap_or(usize::MAX),
            };
            let is_fixed = calling.args.iter().flat_map(|arg| &arg.items).all(|flow| matches!(flow, Flow::Word(_)));
            self.callings[index].is_settled = is_fixed && !found.is_open && !self.is_of_pastes(index);
            let mut is_called = false;
            for callee in found.callees {
                let callee = self.own_copy(index, callee);
                is_called |= self.callings[index].done.insert((callee, uncertain));
                is_new |= self.hand(index, callee, uncertain);
            }
            is_new |= is_called;
            let waiting = self.waiting.get(&number(index)).filter(|_| is_called).cloned().unwrap_or_default();
            waiting.into_iter().for_each(|param| self.fill(param, self.result_of(index)));
        }
        loop {
            let mut moved = false;
            let edges: Vec<((usize, usize), usize)> = self.edges.iter().map(|(edge, done)| (*edge, *done)).collect();
            for ((from, to), done) in edges {
                let new: Vec<Flow> = self.params[from].full[done..].to_vec();
                if !new.is_empty() {
                    moved = true;
                    self.edges.insert((from, to), done + new.len());
                    new.into_iter().for_each(|flow| self.arrive(to, flow));
                }
            }
            is_new |= moved;
            if !moved {
                return is_new;
            }
        }
    }

    /// Whether a word of the call may come to mean more when a paste turns out to name a macro.
    fn is_of_pastes(&self, calling: usize) -> bool {
        let words = self.callings[calling].args.iter().flat_map(|arg| &arg.top);
        words.into_iter().any(|flow| !matches!(flow, Flow::Word(word) if !self.by_name.contains_key(word)))
    }

    /// Hands the arguments of a call to one that it may call; whether that tells something new.
    fn hand(&mut self, calling: usize, callee: usize, uncertain: usize) -> bool {
        let mut is_new = false;
        let args = self.callings[calling].args.clone();
        let mixed = self.callings[calling].mixed;
        let Callee { matters, variadic, first_param, .. } = &self.callees[callee];
        let (matters, variadic, first_param) = (matters.clone(), *variadic, *first_param);
        let mut set = |all: &mut Arrivals, param: usize, has_comma: bool, may_be_empty: bool, is_long: bool| {
            let arrived = &mut all.params[param];
            is_new |= (has_comma && !arrived.has_comma) || (may_be_empty && !arrived.may_be_empty);
            is_new |= is_long && !arrived.is_long;
            arrived.has_comma |= has_comma;
            arrived.may_be_empty |= may_be_empty;
            arrived.is_long |= is_long;
        };
        for (place, arg) in args.iter().enumerate() {
            let start = variadic.map_or(place, |variadic| place.min(variadic));
            let end = if place >= uncertain { matters.len() } else { (start + 1).min(matters.len()) };
            let start = if mixed { 0 } else { start };
            // What was put in for a parameter has been split when it arrives.
            let others: Vec<Flow> = arg.top.iter().filter(|flow| !matches!(flow, Flow::Param(_))).copied().collect();
            let has_comma = self.may_be_several(&others, &arg.items);
            let may_be_long = |flow: &Flow| match flow {
                Flow::Param(param) => self.params[*param as usize].is_long,
                Flow::Word(name) => self.by_name.contains_key(name),
                Flow::Paste(paste) => self.is_long(*paste),
                Flow::Call(_) | Flow::Became(_) => true,
            };
            let is_long = arg.is_long || arg.top.iter().any(may_be_long);
            let is_empty = |param: &u32| self.params[*param as usize].may_be_empty;
            let vanishes = arg.vanishes_with.as_ref().is_some_and(|params| params.iter().all(is_empty));
            for param in (start..end).filter(|param| matters[*param]).map(|param| first_param + param) {
                set(self, param, has_comma, vanishes || mixed || place >= uncertain, is_long);
                for flow in &arg.edges {
                    match flow {
                        Flow::Param(from) => {
                            self.edges.entry((*from as usize, param)).or_default();
                        }
                        flow => self.arrive(param, *flow),
                    }
                }
            }
        }
        // What is not handed over is nothing.
        for place in args.len()..matters.len() {
            set(self, first_param + place, false, true, false);
        }
        is_new
    }

    fn arrive(&mut self, param: usize, flow: Flow) {
        if self.params[param].raw.insert(flow) {
            self.fill(param, vec![flow]);
        }
    }

    /// Adds what these turn into.
    fn fill(&mut self, param: usize, mut open: Vec<Flow>) {
        while let Some(flow) = open.pop() {
            if let Flow::Param(from) = flow {
                self.edges.entry((from as usize, param)).or_default();
                continue;
            }
            let arrived = &mut self.params[param];
            if !arrived.is_in_full.insert(flow) {
                continue;
            }
            arrived.full.push(flow);
            match flow {
                Flow::Word(name) => open.extend(self.edges_of(name, false)),
                Flow::Paste(paste) => {
                    open.extend(self.names(paste).map(Flow::Word));
                    open.extend(self.ends_of(paste));
                }
                // What it is handed stands beside it.
                Flow::Became(name) => {
                    open.extend(self.edges_of(name, true).into_iter().filter(|flow| !matches!(flow, Flow::Param(_))));
                }
                Flow::Call(call) => {
                    self.waiting.entry(call).or_default().insert(param);
                    open.extend(self.result_of(call as usize));
                }
                Flow::Param(_) => {}
            }
        }
    }

    /// What stands first or last in macros of this name.
    fn edges_of(&self, name: u32, is_function: bool) -> Vec<Flow> {
        let callees = self.by_name.get(&name).into_iter().flatten().map(|callee| &self.callees[*callee]);
        callees.filter(|callee| callee.is_function == is_function).flat_map(|callee| &callee.edges).copied().collect()
    }

    /// What stands first or last in what a call turns into, as far as it is known who is called.
    fn result_of(&self, calling: usize) -> Vec<Flow> {
        let Calling { args, mixed, done, .. } = &self.callings[calling];
        let mut out = Vec::new();
        for (callee, uncertain) in done {
            let callee = &self.callees[*callee];
            for flow in &callee.edges {
                let Flow::Param(param) = flow else {
                    out.push(*flow);
                    continue;
                };
                let place = *param as usize - callee.first_param;
                let is_of = |at: &usize| {
                    *mixed
                        || at == &place
                        || (*at >= *uncertain && *at <= place)
                        || callee.variadic.is_some_and(|v| v == place && *at >= v)
                };
                out.extend(args.iter().enumerate().filter(|(at, _)| is_of(at)).flat_map(|(_, arg)| &arg.edges));
            }
        }
        out
    }
}
