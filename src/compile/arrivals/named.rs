//! Which macros the pastes name.
//!
//! In: what has arrived. Out: for each paste that is called or handed over the macros that it may be, which arrive in its place. Hard
//! because every macro's name is asked about, of all pastes, whenever more has arrived: so it is not asked again when nothing has.

use rustc_hash::FxHashSet;

use super::super::pastes::Grammar;
use super::{Arrivals, Arrived, Called, Flow};

impl Arrivals {
    /// Asks which macros the pastes that are called or handed over may name; whether any is new.
    pub(super) fn name_pasted(&mut self) -> bool {
        let known = Some(self.known());
        let found = if known == self.asked { Vec::new() } else { self.macros_of_pastes() };
        self.asked = known;
        let mut new: FxHashSet<u32> = FxHashSet::default();
        for (paste, name) in found {
            if self.named.entry(paste).or_default().insert(name) {
                new.insert(paste);
            }
        }
        // Wherever such a paste has arrived, what it names has, and the ends of what is more than one word.
        let mut is_new = !new.is_empty();
        for param in 0..self.params.len() {
            let pastes = self.params[param].full.iter().filter_map(|flow| match flow {
                Flow::Paste(paste) => Some(*paste),
                _ => None,
            });
            let pastes: Vec<u32> = pastes.collect();
            let named = pastes.iter().filter(|paste| new.contains(paste)).flat_map(|paste| self.names(*paste));
            let named: Vec<Flow> = named.map(Flow::Word).collect();
            let edges = self.edges.len();
            let ends = pastes.iter().flat_map(|paste| self.ends_of(*paste)).collect();
            self.fill(param, named);
            self.fill(param, ends);
            is_new |= self.edges.len() > edges;
        }
        is_new
    }

    /// All that the names depend on.
    fn known(&self) -> [usize; 6] {
        let sum = |of: fn(&Arrived) -> usize| self.params.iter().map(of).sum();
        let [raw, full, empty] = [sum(|p| p.raw.len()), sum(|p| p.full.len()), sum(|p| usize::from(p.may_be_empty))];
        [self.pastes.len(), self.callees.len(), self.callings.len(), raw, full, empty]
    }

    /// Each paste that is called or handed over, with each macro that it may name.
    fn macros_of_pastes(&self) -> Vec<(u32, u32)> {
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
        Grammar::new(self).macros(&active, self.by_name.keys().copied())
    }

    /// What stands first or last in a paste of more than one word.
    pub(super) fn ends_of(&self, paste: u32) -> Vec<Flow> {
        let pieces = &self.pastes[paste as usize];
        let is_long = |flow: &&Flow| matches!(flow, Flow::Param(param) if self.params[*param as usize].is_long);
        pieces.first().into_iter().chain(pieces.last()).filter(is_long).copied().collect()
    }
}
