// SPDX-License-Identifier: GPL-2.0-only
//! Enabling, disabling and retiring patches.
//!
//! In: a patch, checked for being well formed. Out: a transition begun, or an error with everything taken back. Hard because
//! a patch is foreign memory that user space sees through its kobjects: once shown it must be let go in two steps, the
//! second without the lock.

use super::platform::{Anomaly, Errno, Event, Hook, Platform, Side};
use super::stack::{Removed, Which};
use super::transition::{Engine, Move};

/// A patch was not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// Nothing was touched.
    Untouched(Errno),
    /// It was, and has been taken back; the caller waits for user space and lets its memory go, without the lock.
    LetGo(Errno),
}

impl<P: Platform> Engine<P> {
    /// Enables a patch.
    pub fn enable(&self, patch: P::Patch) -> Result<(), Rejected> {
        let p = &self.platform;
        if !self.states_fit(patch) {
            p.log(Event::Incompatible(patch));
            return Err(Rejected::Untouched(Errno::INVAL));
        }
        if !p.hold(patch) {
            return Err(Rejected::Untouched(Errno::NODEV));
        }
        p.adopt(patch);
        self.install(patch).and_then(|()| self.launch(patch)).map_err(|error| {
            self.let_go(patch);
            Rejected::LetGo(error)
        })
    }

    /// What writing 0 or 1 to a patch's `enabled` asks for: disable it, or turn its transition round.
    pub fn request(&self, patch: P::Patch, on: bool) -> Result<(), Errno> {
        if self.platform.enabled(patch) == on {
            return Err(Errno::INVAL);
        }
        match self.moving() {
            Some(moving) if moving.patch == patch => {
                self.reverse(moving);
                Ok(())
            }
            // A disabled patch is on its way out and does not come back.
            _ if on => Err(Errno::INVAL),
            _ => self.disable(patch),
        }
    }

    /// Ends the patch's transition now.
    pub fn force(&self, patch: P::Patch) -> Result<(), Errno> {
        match self.moving() {
            Some(moving) if moving.patch == patch => {
                self.force_move(moving);
                Ok(())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// The place of the patch in the order of enabling, from 1; of all of them when it is not listed.
    pub fn stack_order(&self, patch: P::Patch) -> usize {
        let mut order = 0usize;
        for listed in self.platform.patches() {
            order = order.wrapping_add(1);
            if listed == patch {
                break;
            }
        }
        order
    }

    /// Calls `f` for each patch that `new` replaces. `f` may retire it.
    pub(super) fn each_replaced(&self, new: P::Patch, mut f: impl FnMut(P::Patch)) {
        let p = &self.platform;
        let scope = p.scope(new);
        // Only older ones: nothing is enabled during a transition, so `new` is the last.
        for old in p.patches().take_while(|&old| old != new) {
            if scope.covers(p.scope(old)) {
                f(old);
            }
        }
    }

    /// Shows the patch, adds what it takes to replace others, finds all it changes.
    fn install(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        if !self.sets_apart(patch) {
            return Err(Errno::INVAL);
        }
        p.show_patch(patch)?;
        self.add_nops(patch)?;
        for object in p.objects(patch) {
            p.set_patched(object, false);
            p.set_module(object, if p.is_module(object) { p.find_module(object) } else { None });
            p.show_object(patch, object)?;
            for func in p.funcs(object) {
                p.show_func(object, func)?;
            }
            if self.is_loaded(object) {
                // Relocations against the kernel were written when the livepatch module was loaded.
                if p.is_module(object) {
                    p.write_relocs(patch, object)?;
                }
                self.locate(patch, object)?;
            }
        }
        p.link(patch);
        Ok(())
    }

    fn launch(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        if self.moving().is_some() {
            return Err(Errno::BUSY);
        }
        if p.enabled(patch) {
            p.anomaly(Anomaly::WrongState);
            return Err(Errno::INVAL);
        }
        // Not before: the tables are in use during a transition.
        self.reserve(patch)?;
        p.log(Event::Enabling(patch));
        let prepared = self.prepare(patch, Side::New);
        let ready = self.states_before_patch(patch).and_then(|()| self.apply_loaded(patch));
        if let Err(error) = ready {
            p.log(Event::EnableFailed(patch));
            self.cancel(prepared);
            return Err(error);
        }
        self.states_before_replace(patch);
        self.start(prepared);
        p.set_enabled(patch, true);
        self.begin_rounds();
        Ok(())
    }

    fn apply_loaded(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        for object in p.objects(patch).filter(|&o| self.is_loaded(o)) {
            self.set_up(object)?;
            self.apply_object(object).inspect_err(|_| p.log(Event::ApplyFailed(object)))?;
        }
        Ok(())
    }

    fn disable(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        if self.moving().is_some() {
            return Err(Errno::BUSY);
        }
        let prepared = self.prepare(patch, Side::Old);
        self.states_before_unpatch(patch);
        for object in p.objects(patch).filter(|&o| p.patched(o)) {
            // Only pre-patch can fail.
            let _ = p.call(object, Hook::PreUnpatch);
        }
        self.start(prepared);
        p.set_enabled(patch, false);
        self.begin_rounds();
        Ok(())
    }

    fn begin_rounds(&self) {
        match self.moving() {
            Some(moving) => self.round(moving),
            None => self.platform.anomaly(Anomaly::NoTransition),
        }
    }

    /// Runs the object's pre-patch callback, and remembers that it has to be undone.
    pub(super) fn set_up(&self, object: P::Object) -> Result<(), Errno> {
        let p = &self.platform;
        let result = p.call(object, Hook::PrePatch);
        p.set_set_up(object, result.is_ok());
        result.inspect_err(|_| p.log(Event::PrePatchFailed(object)))
    }

    /// Undoes that.
    pub(super) fn tear_down(&self, object: P::Object) {
        let p = &self.platform;
        if p.is_set_up(object) {
            let _ = p.call(object, Hook::PostUnpatch);
        }
        p.set_set_up(object, false);
    }

    /// The callbacks at the end of a transition.
    pub(super) fn run_post_hooks(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        for object in p.objects(moving.patch).filter(|&o| self.is_loaded(o)) {
            match moving.goal {
                Side::New => {
                    let _ = p.call(object, Hook::PostPatch);
                }
                Side::Old => self.tear_down(object),
            }
        }
        self.states_after(moving);
    }

    /// Whether the object is there to be patched: the kernel, or a loaded module.
    pub(super) fn is_loaded(&self, object: P::Object) -> bool {
        !self.platform.is_module(object) || self.platform.module(object).is_some()
    }

    /// Finds the functions of a loaded object, and whether the patch may have them.
    pub(super) fn locate(&self, patch: P::Patch, object: P::Object) -> Result<(), Errno> {
        let p = &self.platform;
        for func in p.funcs(object) {
            p.resolve(object, func)?;
        }
        if !self.addresses_apart(patch, object) {
            return Err(Errno::INVAL);
        }
        Ok(())
    }

    /// A no-op for each function that a replaced patch has and this one has not, so that tasks go from the one to the
    /// original with the same care as to any other replacement. By name: where they are is not known yet, and one that turns
    /// out to be at the address of another of the patch's functions is not applied (`stack.rs`).
    fn add_nops(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        let mut result = Ok(());
        self.each_replaced(patch, |old| {
            for theirs in p.objects(old) {
                if result.is_ok() {
                    result = self.add_object_nops(patch, theirs);
                }
            }
        });
        result
    }

    fn add_object_nops(&self, patch: P::Patch, theirs: P::Object) -> Result<(), Errno> {
        let p = &self.platform;
        let ours = match p.objects(patch).find(|&o| p.same_object(o, theirs)) {
            Some(object) => object,
            None => p.new_object(patch, theirs)?,
        };
        for func in p.funcs(theirs) {
            if !p.funcs(ours).any(|f| self.same_func(f, func)) {
                p.new_nop(ours, func)?;
            }
        }
        Ok(())
    }

    /// The replaced patches are off: what stood for the original is not needed any more.
    pub(super) fn discard_nops(&self, patch: P::Patch) {
        let p = &self.platform;
        if !p.scope(patch).replaces() {
            return;
        }
        if self.revert_patch(patch, Which::Nops) == Removed::InFlight {
            p.sync();
        }
        for object in p.objects(patch) {
            for func in p.funcs(object).filter(|&f| p.is_nop(f)) {
                p.drop_func(func);
            }
            if p.is_dynamic(object) {
                p.drop_object(object);
            }
        }
    }

    /// The patch is done; its memory goes when user space lets it.
    pub(super) fn retire(&self, patch: P::Patch) {
        self.let_go(patch);
        self.platform.finish_later(patch);
    }

    fn let_go(&self, patch: P::Patch) {
        let p = &self.platform;
        p.unlink(patch);
        for object in p.objects(patch) {
            for func in p.funcs(object) {
                p.drop_func(func);
            }
            p.drop_object(object);
        }
    }

    /// The transition under way if it is this patch's.
    pub fn move_of(&self, patch: P::Patch) -> Option<Move<P::Patch>> {
        self.moving().filter(|moving| moving.patch == patch)
    }
}
