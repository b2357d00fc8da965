// SPDX-License-Identifier: GPL-2.0-only
//! Which patches may be enabled together.
//!
//! In: a new patch and the enabled ones. Out: yes or no, with every reason logged. Hard because "together" means different
//! things: a replacing patch must know all that it inherits, a stacking one must not go back in time, and patches of
//! different sets must have nothing in common, or a no-op of one would hide the function of the other. Functions are told
//! apart by name as long as nothing else is known of them, and by address as soon as they are found: one may have several
//! names (`__do_sys_getpid` is `__x64_sys_getpid`), and its stack is that of the address.

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
                        if let Some(theirs) = p.funcs(theirs).find(|&f| self.same_func(f, func)) {
                            p.log(Event::FunctionConflict { new, old, object, func, theirs });
                            apart = false;
                        }
                    }
                }
            }
        }
        apart
    }

    /// The same by address, for an object whose functions have been found; and no two replacements of the patch are for one
    /// address, since only one of them would run.
    pub(super) fn addresses_apart(&self, new: P::Patch, object: P::Object) -> bool {
        let p = &self.platform;
        let mut apart = true;
        for func in p.funcs(object) {
            if let Some((old, theirs)) = self.other_set_at(new, object, func) {
                p.log(Event::FunctionConflict { new, old, object, func, theirs });
                apart = false;
            }
            // Two names of the replacement are as good as one.
            let twin =
                self.twin(object, func).filter(|&first| !p.is_nop(func) && p.new_span(first) != p.new_span(func));
            if let Some(first) = twin {
                p.log(Event::FunctionTwice { patch: new, object, first, second: func });
                apart = false;
            }
        }
        apart
    }

    /// The patch of another set that modifies the function, by whatever name. A stack has functions of one set only, so the
    /// newest is enough.
    fn other_set_at(&self, new: P::Patch, object: P::Object, func: P::Func) -> Option<(P::Patch, P::Func)> {
        let p = &self.platform;
        let top = p.top(p.find_stack(func)?)?;
        let scope = p.scope(new);
        p.patches().filter(|&old| scope.apart(p.scope(old))).find_map(|old| {
            let mut objects = p.objects(old).filter(|&o| p.same_object(o, object));
            objects.any(|theirs| p.funcs(theirs).any(|f| f == top)).then_some((old, top))
        })
    }

    /// An earlier function of the object at the same address. The object is loaded.
    pub(super) fn twin(&self, object: P::Object, func: P::Func) -> Option<P::Func> {
        let p = &self.platform;
        let start = p.old_span(func).start;
        p.funcs(object).take_while(|&f| f != func).find(|&f| p.old_span(f).start == start)
    }
}
