// SPDX-License-Identifier: GPL-2.0-only
//! Which patches may be enabled together.
//!
//! In: a new patch and the enabled ones. Out: yes or no, with every reason logged. Hard because "together" means different
//! things: a replacing patch must know all that it inherits, a stacking one must not go back in time, and patches of
//! different sets must have nothing in common, or a no-op of one would hide the function of the other.

use super::platform::{Event, Platform};
use super::transition::Engine;

impl<P: Platform> Engine<P> {
    /// Whether both name the same function of an object. Position 0 ("the only one") and 1 are the same.
    pub(super) fn same_func(&self, a: P::Func, b: P::Func) -> bool {
        let p = &self.platform;
        p.same_name(a, b) && p.position(a).max(1) == p.position(b).max(1)
    }

    /// Whether the patch can live with the states of those that are enabled.
    pub(super) fn states_fit(&self, new: P::Patch) -> bool {
        let p = &self.platform;
        let scope = p.scope(new);
        let mut fit = true;
        for old in p.patches() {
            let apart = scope.apart(p.scope(old));
            for theirs in p.states(old) {
                match self.state(new, p.state_id(theirs)) {
                    Some(state) if apart => {
                        p.log(Event::StateConflict { new, old, state });
                        fit = false;
                    }
                    Some(state) if p.state_version(state) < p.state_version(theirs) => {
                        p.log(Event::StateTooOld { new, old, state });
                        fit = false;
                    }
                    // It would be left behind with nobody who knows how to undo it.
                    None if scope.covers(p.scope(old)) && !(P::LIVE_STATES && p.can_go(theirs)) => {
                        p.log(Event::StateTooOld { new, old, state: theirs });
                        fit = false;
                    }
                    _ => {}
                }
            }
        }
        fit
    }

    /// Whether no function of the patch is modified by a patch of another set.
    pub(super) fn sets_apart(&self, new: P::Patch) -> bool {
        let p = &self.platform;
        let scope = p.scope(new);
        let mut apart = true;
        for old in p.patches().filter(|&old| scope.apart(p.scope(old))) {
            for theirs in p.objects(old) {
                for object in p.objects(new).filter(|&o| p.same_object(o, theirs)) {
                    for func in p.funcs(object) {
                        if p.funcs(theirs).any(|f| self.same_func(f, func)) {
                            p.log(Event::FunctionConflict { new, old, object, func });
                            apart = false;
                        }
                    }
                }
            }
        }
        apart
    }
}
