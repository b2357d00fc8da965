//! Who a call may call.
//!
//! In: what stands before its parentheses, and all that has arrived so far. Out: the macros of such names. A parameter may hold any of what
//! it was handed, a paste any name that it may make, and a macro's last word may be called by what follows the macro.

use rustc_hash::FxHashSet;

use super::{Arrivals, Called, Flow};

/// Who may be called.
#[derive(Default)]
pub(super) struct Found {
    pub(super) callees: FxHashSet<usize>,
    /// Those whose ends have been looked at.
    pub(super) names: FxHashSet<usize>,
    pub(super) flows: FxHashSet<Flow>,
    /// More may be found when more has arrived.
    pub(super) is_open: bool,
}

impl Arrivals {
    pub(super) fn find_called(&self, heads: &[Called], found: &mut Found) {
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
            // What they turn into has arrived beside them.
            Flow::Call(_) | Flow::Became(_) => return,
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
}
