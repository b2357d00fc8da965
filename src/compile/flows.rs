//! What matters of macros before any file is read: to which of them it matters what they are handed.
//!
//! In: all macros. Out: what each calls and pastes, and for each the places whose arguments can end up in a paste or be called.
//! Hard because a file has a hundred times more calls than those: [`super::arrivals`] only follows what matters.

use std::collections::{HashMap, HashSet};

use super::calls::{Arg, Call, Calls, Head, Item, Known};
use super::items::{is_word, words};
use super::macros::{Macros, Parameters, parameters};
use super::reader::read;

/// One definition.
pub(super) struct Definition<'m> {
    pub(super) name: &'m [u8],
    pub(super) params: Parameters<'m>,
    pub(super) body: Calls<&'m [u8]>,
    /// By parameter: whether it matters what it stands for.
    pub(super) matters: Vec<bool>,
}

/// All definitions, and what is known of their names.
pub(super) struct Flows<'m> {
    macros: &'m Macros,
    vanishing: HashSet<&'m [u8]>,
    endings: HashMap<&'m [u8], Vec<&'m [u8]>>,
    pub(super) definitions: Vec<Definition<'m>>,
    /// By name of those that matter: the place from which on nothing does.
    until: HashMap<&'m [u8], usize>,
}

/// While macros themselves are read, every call matters that can be one of a macro.
struct All<'m, 'l> {
    macros: &'m Macros,
    vanishing: &'l HashSet<&'m [u8]>,
    endings: &'l HashMap<&'m [u8], Vec<&'m [u8]>>,
}

impl<'t, 'm: 't> Known<'t> for All<'m, '_> {
    fn may_vanish(&self, word: &[u8]) -> bool {
        self.vanishing.contains(word)
    }

    fn ending_in(&self, word: &[u8]) -> Vec<&'t [u8]> {
        self.endings.get(word).cloned().unwrap_or_default()
    }

    fn is_macro(&self, word: &[u8]) -> bool {
        self.macros.is_macro(word)
    }

    fn matters(&self, heads: &[Head<&[u8]>]) -> bool {
        heads.iter().any(|head| match head {
            Head::Item(Item::Word(word)) => self.macros.is_macro(word),
            _ => true,
        })
    }
}

impl<'t, 'm: 't> Known<'t> for Flows<'m> {
    fn may_vanish(&self, word: &[u8]) -> bool {
        self.vanishing.contains(word)
    }

    fn ending_in(&self, word: &[u8]) -> Vec<&'t [u8]> {
        self.endings.get(word).cloned().unwrap_or_default()
    }

    fn is_macro(&self, word: &[u8]) -> bool {
        self.macros.is_macro(word)
    }

    fn matters(&self, heads: &[Head<&[u8]>]) -> bool {
        heads.iter().any(|head| match head {
            Head::Item(Item::Word(word)) => self.until.contains_key(word),
            _ => true,
        })
    }
}

impl<'m> Flows<'m> {
    /// Reads the macros; `None` when it cannot be told what they do.
    pub(super) fn new(macros: &'m Macros) -> Option<Flows<'m>> {
        let vanishing = vanishing(macros);
        let endings = endings(macros);
        let known = All { macros, vanishing: &vanishing, endings: &endings };
        let mut definitions = Vec::new();
        for (name, replacement) in macros.all() {
            let params = parameters(replacement);
            let has = |what: &[u8]| memchr::memmem::find(replacement, what).is_some();
            if has(b"__VA_OPT__") && has(b"##") {
                return None;
            }
            let body = read(params.body, &params.names, false, &known);
            // What such a macro opens is closed by whoever uses it.
            if body.is_open {
                return None;
            }
            let matters = vec![false; params.names.len()];
            definitions.push(Definition { name, params, body, matters });
        }
        let mut flows = Flows { macros, vanishing, endings, definitions, until: HashMap::new() };
        flows.find_what_matters();
        Some(flows)
    }

    /// The calls of a file that matter, with what matters of their arguments.
    pub(super) fn calls(&self, text: &[u8]) -> Vec<Call<Vec<u8>>> {
        let found = read(text, &[], true, self);
        let owned = |items: &[Item<&[u8]>]| {
            let mut words: Vec<&[u8]> = Vec::new();
            for item in items {
                match item {
                    Item::Word(word) => words.push(word),
                    Item::Call(_) | Item::Became(_) => {}
                    Item::Paste(paste) => words.extend(found.pastes[*paste].iter().filter_map(|item| match item {
                        Item::Word(word) => Some(*word),
                        _ => None,
                    })),
                    Item::Param(_) => {}
                }
            }
            words.sort_unstable();
            words.dedup();
            let others = items.iter().filter_map(|item| match item {
                Item::Call(call) => Some(Item::Call(*call)),
                Item::Became(word) => Some(Item::Became(word.to_vec())),
                _ => None,
            });
            words.into_iter().map(|word| Item::Word(word.to_vec())).chain(others).collect::<Vec<_>>()
        };
        let of = |call: &Call<&[u8]>| {
            let until = call.heads.iter().map(|head| self.until(head)).max().unwrap_or_default();
            let until = if call.mixed && until > 0 { usize::MAX } else { until };
            let of_arg = |arg: &Arg<&[u8]>| Arg {
                edges: owned(&arg.edges),
                items: owned(&arg.items),
                top: owned(&arg.top),
                has_more: arg.has_more,
            };
            let args = call.args.iter().take(until).map(of_arg).collect();
            let heads = call.heads.iter().flat_map(|head| match head {
                Head::Result(call) => vec![Head::Result(*call)],
                Head::Item(item) => owned(&[*item]).into_iter().map(Head::Item).collect(),
            });
            Call { heads: heads.collect(), args, mixed: call.mixed }
        };
        found.calls.iter().map(of).collect()
    }

    /// Whether a word may turn into nothing.
    pub(super) fn vanishes(&self, word: &[u8]) -> bool {
        self.vanishing.contains(word)
    }

    /// The place from which on it does not matter what is handed to it.
    fn until(&self, head: &Head<&[u8]>) -> usize {
        match head {
            Head::Item(Item::Word(word)) => self.until.get(word).copied().unwrap_or_default(),
            _ => usize::MAX,
        }
    }

    /// From pastes and called parameters up to whatever may be handed to them.
    fn find_what_matters(&mut self) {
        let mut is_new = true;
        while is_new {
            is_new = false;
            for index in 0..self.definitions.len() {
                let matters = self.what_matters(&self.definitions[index]);
                let definition = &mut self.definitions[index];
                is_new |= definition.matters != matters;
                definition.matters = matters;
                let until = self.until_of(&self.definitions[index]);
                let Some(until) = until else { continue };
                let known = self.until.entry(self.definitions[index].name);
                let before = matches!(known, std::collections::hash_map::Entry::Occupied(_));
                let known = known.or_default();
                is_new |= !before || *known < until;
                *known = until.max(*known);
            }
        }
    }

    fn what_matters(&self, definition: &Definition<'m>) -> Vec<bool> {
        let mut matters = definition.matters.clone();
        let body = &definition.body;
        let mut add = |items: &mut dyn Iterator<Item = &Item<&[u8]>>| {
            let mut open: Vec<&Item<&[u8]>> = items.collect();
            let mut calls = HashSet::new();
            while let Some(item) = open.pop() {
                match item {
                    Item::Param(param) => matters[*param] = true,
                    // What that turns into may be what it is handed.
                    Item::Call(call) if calls.insert(*call) => {
                        open.extend(body.calls[*call].args.iter().flat_map(|arg| &arg.edges));
                    }
                    _ => {}
                }
            }
        };
        add(&mut body.pastes.iter().flatten());
        let heads = body.calls.iter().flat_map(|call| &call.heads).chain(&body.tail);
        let items = heads.filter_map(|head| match head {
            Head::Item(item) => Some(item),
            Head::Result(_) => None,
        });
        add(&mut items.into_iter());
        for call in &body.calls {
            let until = call.heads.iter().map(|head| self.until(head)).max().unwrap_or_default();
            let until = if call.mixed && until > 0 { usize::MAX } else { until };
            add(&mut call.args.iter().take(until).flat_map(|arg| &arg.edges));
        }
        matters
    }

    /// `None` when nothing matters.
    fn until_of(&self, definition: &Definition<'m>) -> Option<usize> {
        let of_tail = definition.body.tail.iter().filter_map(|head| match head {
            Head::Item(Item::Word(word)) => self.until.get(word).copied(),
            _ => Some(usize::MAX),
        });
        if !definition.params.is_function {
            return of_tail.max();
        }
        let last = definition.matters.iter().rposition(|matters| *matters);
        let is_edge = |place: &usize| definition.body.whole.edges.contains(&Item::Param(*place));
        let last = last.map(|last| (last..definition.matters.len()).rev().find(is_edge).unwrap_or(last).max(last));
        let last = last.map(|last| if definition.params.variadic == Some(last) { usize::MAX } else { last + 1 });
        // What it turns into may be called.
        last.or(of_tail.max().map(|_| 0))
    }
}

/// The names by what they end in.
fn endings(macros: &Macros) -> HashMap<&[u8], Vec<&[u8]>> {
    let mut endings: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    let names: HashSet<&[u8]> = macros.all().map(|(name, _)| name).collect();
    for name in names {
        (1..name.len()).for_each(|at| endings.entry(&name[at..]).or_default().push(name));
    }
    endings
}

/// Names that may turn into nothing.
fn vanishing(macros: &Macros) -> HashSet<&[u8]> {
    let is_only_words = |body: &[u8]| body.iter().all(|byte| is_word(*byte) || b" \t(),".contains(byte));
    let all: Vec<(&[u8], Parameters<'_>)> =
        macros.all().map(|(name, text)| (name, parameters(text))).filter(|(_, all)| is_only_words(all.body)).collect();
    let mut vanishing = HashSet::new();
    loop {
        let before = vanishing.len();
        for (name, params) in &all {
            if words(params.body).all(|word| params.names.contains(&word) || vanishing.contains(word)) {
                vanishing.insert(*name);
            }
        }
        if vanishing.len() == before {
            return vanishing;
        }
    }
}
