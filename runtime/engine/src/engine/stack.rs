// SPDX-License-Identifier: GPL-2.0-only
//! Putting functions on their stacks and taking them off.
//!
//! In: an object of a patch. Out: its functions redirected, or not any more. Hard because handlers read the stacks
//! meanwhile: a function is complete before it is pushed, and is freed only after a grace period that follows its removal.

use super::platform::{Anomaly, Errno, Platform};
use super::transition::Engine;

/// Whether what was taken off may still be in a handler's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Removed {
    /// No: all stacks were closed, which waits.
    Settled,
    /// Yes: something still stands on a stack it was removed from.
    InFlight,
}

/// Which functions of an object are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All.
    All,
    /// Those the engine made to stand for the original.
    Nops,
}

impl<P: Platform> Engine<P> {
    /// Redirects all functions of the object, or none.
    pub(super) fn apply_object(&self, object: P::Object) -> Result<(), Errno> {
        let p = &self.platform;
        if p.patched(object) {
            p.anomaly(Anomaly::AlreadyApplied);
            return Err(Errno::INVAL);
        }
        for func in p.funcs(object).filter(|&func| !self.is_spare(object, func)) {
            if let Err(error) = self.apply(func) {
                let _ = self.revert_object(object, Which::All);
                return Err(error);
            }
        }
        p.set_patched(object, true);
        Ok(())
    }

    /// Takes the object's functions off their stacks.
    pub(super) fn revert_object(&self, object: P::Object, which: Which) -> Removed {
        let p = &self.platform;
        let mut removed = Removed::Settled;
        for func in p.funcs(object).filter(|&f| p.applied(f) && (which == Which::All || p.is_nop(f))) {
            if self.revert(func) == Removed::InFlight {
                removed = Removed::InFlight;
            }
        }
        if which == Which::All || p.is_dynamic(object) {
            p.set_patched(object, false);
        }
        removed
    }

    /// Takes all functions of the patch off their stacks.
    pub(super) fn revert_patch(&self, patch: P::Patch, which: Which) -> Removed {
        let p = &self.platform;
        let mut removed = Removed::Settled;
        for object in p.objects(patch).filter(|&o| p.patched(o)) {
            if self.revert_object(object, which) == Removed::InFlight {
                removed = Removed::InFlight;
            }
        }
        removed
    }

    /// Whether another function of the object stands for this one: a no-op for a name of what the patch modifies by another, or
    /// for a second name of what it gives back; or one replacement under two names. On the stack it would be above the other,
    /// and one step down would not be what tasks ran before.
    fn is_spare(&self, object: P::Object, func: P::Func) -> bool {
        // The other has been applied, so there is a stack; without one there is nothing to compare.
        self.platform.find_stack(func).is_some() && self.twin(object, func).is_some()
    }

    fn apply(&self, func: P::Func) -> Result<(), Errno> {
        let p = &self.platform;
        if p.applied(func) {
            p.anomaly(Anomaly::AlreadyApplied);
            return Err(Errno::INVAL);
        }
        let stack = match p.find_stack(func) {
            Some(stack) => {
                p.push(stack, func);
                stack
            }
            None => p.open_stack(func)?,
        };
        p.set_applied(func, true);
        self.settle(stack);
        Ok(())
    }

    fn revert(&self, func: P::Func) -> Removed {
        let p = &self.platform;
        let Some(stack) = p.find_stack(func) else {
            p.anomaly(Anomaly::NotApplied);
            return Removed::Settled;
        };
        let alone = p.top(stack) == Some(func) && p.below(stack, func).is_none();
        let removed = if alone {
            p.close_stack(stack, func);
            Removed::Settled
        } else {
            p.remove(stack, func);
            self.settle(stack);
            Removed::InFlight
        };
        p.set_applied(func, false);
        removed
    }

    /// Makes handlers ask for the side of the task where this function is the newest, or no longer.
    pub(super) fn flag(&self, func: P::Func, on: bool) {
        let p = &self.platform;
        p.set_transition(func, on);
        // The functions of a module that is not loaded are on no stack.
        if p.applied(func) {
            if let Some(stack) = p.find_stack(func) {
                self.settle(stack);
            }
        }
    }

    /// Brings the settled word of a stack up to date; after each change of the stack or of a flag on it.
    ///
    /// Invariant: all tasks agree about the top whenever it has no flag. Flags go on before tasks are asked and come off
    /// after the last has switched; a function without one is put on a stack, or uncovered, only while the tasks are on the
    /// side that runs it, or before the module it is in has any.
    fn settle(&self, stack: P::Stack) {
        let p = &self.platform;
        // A no-op has no address: the long way.
        let top = p.top(stack).filter(|&func| !p.in_transition(func) && !p.is_nop(func));
        p.set_settled(stack, top);
    }
}
