//! What may be more than it looks: several arguments, or several words.
//!
//! In: what macros and calls are. Out: whether what stands in an argument may turn into more. Hard because what is put in for a parameter
//! is split by its commas only where the text is read again, which is in another macro's call.

use rustc_hash::FxHashSet;

use super::{Arrivals, Flow};

impl Arrivals {
    /// Finds the macros that may turn into several arguments.
    pub(super) fn find_several(&mut self) {
        loop {
            let before = self.several.len();
            for (index, callee) in self.callees.iter().enumerate() {
                if callee.has_comma || self.may_be_several(&callee.top, &[]) {
                    self.several.insert(index);
                }
            }
            if self.several.len() == before {
                return;
            }
        }
    }

    pub(super) fn is_any(&self, name: u32, is_function: bool, of: &FxHashSet<usize>) -> bool {
        let callees = self.by_name.get(&name).into_iter().flatten();
        callees.filter(|callee| self.callees[**callee].is_function == is_function).any(|callee| of.contains(callee))
    }

    /// Whether what stands there, outside of parentheses and at any depth, may turn into several arguments.
    pub(super) fn may_be_several(&self, top: &[Flow], items: &[Flow]) -> bool {
        let is = |flow: &Flow| match flow {
            Flow::Param(param) => self.params[*param as usize].has_comma,
            Flow::Word(name) => self.is_any(*name, false, &self.several),
            Flow::Became(name) => self.is_any(*name, true, &self.several),
            Flow::Paste(paste) => self.names(*paste).any(|name| self.is_any(name, false, &self.several)),
            Flow::Call(call) => {
                self.callings[*call as usize].done.iter().any(|(callee, _)| self.several.contains(callee))
            }
        };
        let passes = |flow: &Flow| match flow {
            Flow::Became(name) => self.is_any(*name, true, &self.passing),
            Flow::Call(call) => {
                self.callings[*call as usize].done.iter().any(|(callee, _)| self.passing.contains(callee))
            }
            _ => false,
        };
        top.iter().any(is) || (top.iter().any(passes) && items.iter().any(is))
    }

    /// Finds the macros that turn into what they are handed although it does not matter what that is.
    pub(super) fn find_passing(&mut self) {
        loop {
            let before = self.passing.len();
            for (index, callee) in self.callees.iter().enumerate() {
                let passes = |flow: &Flow| match flow {
                    Flow::Param(param) => !callee.matters[*param as usize - callee.first_param],
                    Flow::Word(name) | Flow::Became(name) => {
                        self.is_any(*name, true, &self.passing) || self.is_any(*name, false, &self.passing)
                    }
                    _ => false,
                };
                if callee.top.iter().any(passes) {
                    self.passing.insert(index);
                }
            }
            if self.passing.len() == before {
                return;
            }
        }
    }

    /// Whether a paste may be more than one word.
    pub(super) fn is_long(&self, paste: u32) -> bool {
        let is_long = |flow: &Flow| matches!(flow, Flow::Param(param) if self.params[*param as usize].is_long);
        self.named.contains_key(&paste) || self.pastes[paste as usize].iter().any(is_long)
    }
}
