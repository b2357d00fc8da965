//! What arrives at the parameters of macros.
//!
//! In: what macros do ([`super::flows`]), and the calls of all files. Out: for each parameter that matters the words and pastes that
//! it may stand for. Hard because who is called may be a parameter, or pasted together: it is found from what has arrived,
//! until nothing more arrives. A call in a replacement counts whoever uses the macro, and what one user hands to a
//! macro counts for all of them: more may arrive here than in any unit, never less.

use rustc_hash::{FxHashMap, FxHashSet};

use super::calls::{Arg, Call, Head, Item};
use super::flows::{Definition, Flows};
use super::pastes::Grammar;

/// A word, a parameter of some macro, or a paste of some macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flow {
    Word(u32),
    Param(u32),
    Paste(u32),
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
}

/// One definition, with its parameters and pastes numbered among all.
struct Callee {
    name: u32,
    is_function: bool,
    matters: Vec<bool>,
    variadic: Option<usize>,
    first_param: usize,
    /// The words and pastes that may stand first or last.
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
    /// The macros that a paste may name.
    named: FxHashMap<u32, FxHashSet<u32>>,
    /// Macros that may turn into several arguments.
    several: FxHashSet<u32>,
    /// Macros that may turn into what they are handed.
    passing: FxHashSet<u32>,
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
            named: FxHashMap::default(),
            several: FxHashSet::default(),
            passing: FxHashSet::default(),
        };
        flows.definitions.iter().for_each(|definition| all.add_definition(definition, flows));
        files.iter().for_each(|calls| all.add_calls(calls, 0, 0, flows));
        loop {
            let t = std::time::Instant::now();
            all.find_several();
            let a = all.hand_over();
            let t1 = t.elapsed();
            let b = all.name_pasted();
            eprintln!("TRACE round {a} {b} {t1:?} {:?} callings {} open {} edges {} params {} full {} max {:?} named {}", t.elapsed(), all.callings.len(),
                all.callings.iter().filter(|c| !c.is_settled).count(), all.edges.len(), all.params.len(), all.params.iter().map(|p| p.full.len()).sum::<usize>(),
                all.params.iter().map(|p| p.full.len()).max(), all.named.values().map(|n| n.len()).sum::<usize>());
            let mut sizes: Vec<(usize, usize, usize)> = all.params.iter().enumerate().map(|(i, p)| (p.full.len(), p.raw.len(), i)).collect();
            sizes.sort_unstable();
            for (full, raw, param) in sizes.iter().rev().take(12) {
                let c = all.callees.iter().enumerate().find(|(_, c)| c.first_param <= *param && *param < c.first_param + c.matters.len());
                if let Some((_, c)) = c {
                    eprintln!("   {full} {raw} {} {}", String::from_utf8_lossy(all.words.text(c.name)), param - c.first_param);
                }
            }
            for (p, names) in &all.named { if names.len() > 20 {
                let t: Vec<String> = all.pastes[*p as usize].iter().map(|f| match f { Flow::Word(w) => String::from_utf8_lossy(all.words.text(*w)).into_owned(),
                 Flow::Param(q) => format!("<{} {} {}>", all.params[*q as usize].raw.len(), all.params[*q as usize].may_be_empty,
                   all.callees.iter().find(|c| c.first_param <= *q as usize && (*q as usize) < c.first_param + c.matters.len()).map(|c| String::from_utf8_lossy(all.words.text(c.name)).into_owned()).unwrap_or_default()), _ => "?".into() }).collect();
                eprintln!("   paste {t:?} names {} {:?}", names.len(), names.iter().take(8).map(|w| String::from_utf8_lossy(all.words.text(*w)).into_owned()).collect::<Vec<_>>());
            } }
            if !(a | b) { break }
        }
        all
    }

    fn add_definition(&mut self, definition: &Definition<'_>, flows: &Flows<'_>) {
        let name = self.words.number(definition.name);
        let (param, paste) = (self.params.len(), self.pastes.len());
        let body = &definition.body;
        let variadic = definition.params.variadic;
        self.params.extend((0..definition.matters.len()).map(|place| Arrived {
            has_comma: variadic == Some(place),
            ..Arrived::default()
        }));
        for pieces in &body.pastes {
            let pieces = self.flows(pieces, param, paste);
            self.pastes.push(pieces);
        }
        let first_call = self.callings.len();
        self.add_calls(&body.calls, param, paste, flows);
        // What a parameter stands for has been seen at the edge of the text that uses the macro.
        let edges = self.flows(&body.whole.edges, param, paste);
        let edges: FxHashSet<Flow> = edges.into_iter().filter(|flow| !matches!(flow, Flow::Param(_))).collect();
        let tail = body.tail.iter().map(|head| self.called(head, param, paste, first_call)).collect();
        let top = self.flows(&body.whole.top, param, paste);
        self.by_name.entry(name).or_default().push(self.callees.len());
        self.callees.push(Callee {
            name,
            is_function: definition.params.is_function,
            matters: definition.matters.clone(),
            variadic,
            first_param: param,
            edges: edges.into_iter().collect(),
            tail,
            top,
            has_comma: body.has_comma,
        });
    }

    fn add_calls<W: AsRef<[u8]>>(&mut self, calls: &[Call<W>], param: usize, paste: usize, known: &Flows<'_>) {
        let first_call = self.callings.len();
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
            }
        }
        let items = unique(self.flows(&arg.items, param, paste));
        let edges = unique(self.flows(&arg.edges, param, paste));
        Given { edges, items, top, vanishes_with: vanishes_with.map(|()| with) }
    }

    fn flows<W: AsRef<[u8]>>(&mut self, items: &[Item<W>], param: usize, paste: usize) -> Vec<Flow> {
        items.iter().map(|item| self.flow(item, param, paste)).collect()
    }

    fn flow<W: AsRef<[u8]>>(&mut self, item: &Item<W>, first_param: usize, first_paste: usize) -> Flow {
        match item {
            Item::Word(word) => Flow::Word(self.words.number(word.as_ref())),
            Item::Param(param) => Flow::Param(number(first_param + param)),
            Item::Paste(paste) => Flow::Paste(number(first_paste + paste)),
        }
    }

    fn called<W: AsRef<[u8]>>(&mut self, head: &Head<W>, param: usize, paste: usize, first_call: usize) -> Called {
        match head {
            Head::Item(item) => Called::Flow(self.flow(item, param, paste)),
            Head::Result(call) => Called::Result(first_call + call),
        }
    }

    /// Finds the macros that may turn into several arguments, and those that may turn into what they are handed.
    fn find_several(&mut self) {
        loop {
            let before = self.several.len() + self.passing.len();
            for callee in &self.callees {
                if callee.has_comma || self.may_be_several(&callee.top, &[]) {
                    self.several.insert(callee.name);
                }
                let passes = |flow: &Flow| match flow {
                    Flow::Param(_) => true,
                    Flow::Word(word) => self.passing.contains(word),
                    Flow::Paste(paste) => self.names(*paste).any(|name| self.passing.contains(&name)),
                };
                if callee.top.iter().any(passes) {
                    self.passing.insert(callee.name);
                }
            }
            if self.several.len() + self.passing.len() == before {
                return;
            }
        }
    }

    fn names(&self, paste: u32) -> impl Iterator<Item = u32> {
        self.named.get(&paste).into_iter().flatten().copied()
    }

    /// Whether what stands there, outside of parentheses and at any depth, may turn into several arguments.
    fn may_be_several(&self, top: &[Flow], items: &[Flow]) -> bool {
        let of_name = |name: u32| self.several.contains(&name);
        let is = |flow: &Flow| match flow {
            Flow::Param(param) => self.params[*param as usize].has_comma,
            Flow::Word(word) => of_name(*word),
            Flow::Paste(paste) => self.names(*paste).any(of_name),
        };
        let passes = |flow: &Flow| match flow {
            Flow::Param(_) => true,
            Flow::Word(word) => self.passing.contains(word),
            Flow::Paste(paste) => self.names(*paste).any(|name| self.passing.contains(&name)),
        };
        top.iter().any(is) || (top.iter().any(passes) && items.iter().any(is))
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
            // Only what is put in for a parameter can be split by the commas in it.
            let is_param = |arg: &Given| arg.items.iter().any(|flow| matches!(flow, Flow::Param(_)));
            let splits = |arg: &Given| is_param(arg) && self.may_be_several(&arg.top, &arg.items);
            let uncertain = match calling.mixed {
                true => 0,
                false => calling.args.iter().position(splits).unwrap_or(usize::MAX),
            };
            let is_fixed = calling.args.iter().flat_map(|arg| &arg.items).all(|flow| matches!(flow, Flow::Word(_)));
            self.callings[index].is_settled = is_fixed && !found.is_open && !self.is_of_pastes(index);
            for callee in found.callees {
                is_new |= self.callings[index].done.insert((callee, uncertain));
                is_new |= self.hand(index, callee, uncertain);
            }
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
        let mut set = |all: &mut Arrivals, param: usize, has_comma: bool, may_be_empty: bool| {
            let arrived = &mut all.params[param];
            is_new |= (has_comma && !arrived.has_comma) || (may_be_empty && !arrived.may_be_empty);
            arrived.has_comma |= has_comma;
            arrived.may_be_empty |= may_be_empty;
        };
        for (place, arg) in args.iter().enumerate() {
            let start = variadic.map_or(place, |variadic| place.min(variadic));
            let end = if place >= uncertain { matters.len() } else { (start + 1).min(matters.len()) };
            let start = if mixed { 0 } else { start };
            let has_comma = self.may_be_several(&arg.top, &arg.items);
            let is_empty = |param: &u32| self.params[*param as usize].may_be_empty;
            let vanishes = arg.vanishes_with.as_ref().is_some_and(|params| params.iter().all(is_empty));
            for param in (start..end).filter(|param| matters[*param]).map(|param| first_param + param) {
                set(self, param, has_comma, vanishes || mixed || place >= uncertain);
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
            set(self, first_param + place, false, true);
        }
        is_new
    }

    fn arrive(&mut self, param: usize, flow: Flow) {
        let arrived = &mut self.params[param];
        if !arrived.raw.insert(flow) {
            return;
        }
        let mut open = vec![flow];
        while let Some(flow) = open.pop() {
            if !arrived.is_in_full.insert(flow) {
                continue;
            }
            arrived.full.push(flow);
            let names = match flow {
                Flow::Word(word) => vec![word],
                Flow::Param(_) => Vec::new(),
                Flow::Paste(paste) => self.named.get(&paste).into_iter().flatten().copied().collect(),
            };
            for callee in names.iter().flat_map(|name| self.by_name.get(name)).flatten() {
                open.extend(&self.callees[*callee].edges);
            }
        }
    }

    fn find_called(&self, heads: &[Called], found: &mut Found) {
        for head in heads {
            match head {
                Called::Flow(flow) => self.find_named(*flow, found),
                // As far as it is known who that call calls.
                Called::Result(call) => {
                    found.is_open = true;
                    for (callee, _) in &self.callings[*call].done {
                        if found.names.insert(*callee) {
                            self.find_called(&self.callees[*callee].tail, found);
                        }
                    }
                }
            }
        }
    }

    fn find_named(&self, flow: Flow, found: &mut Found) {
        let name = match flow {
            Flow::Word(word) => word,
            Flow::Param(_) | Flow::Paste(_) if !found.flows.insert(flow) => return,
            Flow::Param(param) => {
                found.is_open = true;
                return self.params[param as usize].full.iter().for_each(|flow| self.find_named(*flow, found));
            }
            Flow::Paste(paste) => {
                found.is_open = true;
                return self.names(paste).for_each(|name| self.find_named(Flow::Word(name), found));
            }
        };
        for callee in self.by_name.get(&name).into_iter().flatten() {
            if self.callees[*callee].is_function {
                found.callees.insert(*callee);
            } else if found.names.insert(*callee) {
                self.find_called(&self.callees[*callee].tail, found);
            }
        }
    }

    /// Asks which macros the pastes that are called or handed over may name; whether any is new.
    fn name_pasted(&mut self) -> bool {
        let heads = self.callings.iter().flat_map(|calling| &calling.heads);
        let heads = heads.chain(self.callees.iter().flat_map(|callee| &callee.tail)).filter_map(|head| match head {
            Called::Flow(flow) => Some(*flow),
            Called::Result(_) => None,
        });
        let arrived = self.params.iter().flat_map(|param| param.full.iter().copied());
        let active = heads.chain(arrived).filter_map(|flow| match flow {
            Flow::Paste(paste) => Some(paste),
            _ => None,
        });
        let active: FxHashSet<u32> = active.collect();
        let found = Grammar::new(self).macros(&active, self.by_name.keys().copied());
        let mut new: FxHashSet<u32> = FxHashSet::default();
        for (paste, name) in found {
            if self.named.entry(paste).or_default().insert(name) {
                new.insert(paste);
            }
        }
        // Wherever such a paste has arrived, what it names has.
        for param in 0..self.params.len() {
            let arrived = self.params[param].full.iter().filter_map(|flow| match flow {
                Flow::Paste(paste) if new.contains(paste) => self.named.get(paste),
                _ => None,
            });
            let names: Vec<u32> = arrived.flatten().copied().collect();
            names.into_iter().for_each(|name| self.arrive(param, Flow::Word(name)));
        }
        !new.is_empty()
    }
}

/// Who may be called.
#[derive(Default)]
struct Found {
    callees: FxHashSet<usize>,
    /// Those whose ends have been looked at.
    names: FxHashSet<usize>,
    flows: FxHashSet<Flow>,
    /// More may be found when more has arrived.
    is_open: bool,
}
