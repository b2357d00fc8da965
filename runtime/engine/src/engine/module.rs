// SPDX-License-Identifier: GPL-2.0-only
//! Patched modules that come and go.
//!
//! In: a module that is loaded but has not run yet, or that has run for the last time. Out: the patches that are about it
//! applied, or taken off. Hard because it also happens in the middle of a transition, when callbacks that mark its end must
//! wait for it, and because one patch that does not fit refuses the module: what earlier patches did is taken back. That
//! two sets modify one function under two names may show only here, and is such a misfit.

use super::platform::{Errno, Event, Hook, Platform};
use super::stack::Which;
use super::transition::Engine;

impl<P: Platform> Engine<P> {
    /// A module is about to run. An error refuses it.
    pub fn module_coming(&self, module: P::Module) -> Result<(), Errno> {
        let p = &self.platform;
        // Patches that are enabled from now on see to the module themselves.
        p.set_alive(module, true);
        for patch in p.patches() {
            let Some(object) = self.object_about(patch, module) else { continue };
            if let Err(error) = self.attach(patch, object, module) {
                p.log(Event::ModuleRefused(patch, module));
                p.set_alive(module, false);
                self.detach_all(module, Some(patch));
                self.refresh_ranges();
                return Err(error);
            }
        }
        self.refresh_ranges();
        Ok(())
    }

    /// A module will not run any more, or failed to start.
    pub fn module_going(&self, module: P::Module) {
        self.platform.set_alive(module, false);
        self.detach_all(module, None);
        self.refresh_ranges();
    }

    fn object_about(&self, patch: P::Patch, module: P::Module) -> Option<P::Object> {
        let p = &self.platform;
        p.objects(patch).find(|&o| p.is_about(o, module))
    }

    /// Applies one patch to the module, or leaves nothing of it there.
    fn attach(&self, patch: P::Patch, object: P::Object, module: P::Module) -> Result<(), Errno> {
        let p = &self.platform;
        let init_failed = |&error: &Errno| p.log(Event::ModuleInitFailed(patch, module, error));
        p.write_relocs(patch, object).inspect_err(init_failed)?;
        p.set_module(object, Some(module));
        let located = self.locate(patch, object).inspect_err(init_failed);
        let applied = located.and_then(|()| self.apply_to(patch, object, module));
        if applied.is_err() {
            self.unfit(patch, object);
        }
        applied
    }

    fn apply_to(&self, patch: P::Patch, object: P::Object, module: P::Module) -> Result<(), Errno> {
        let p = &self.platform;
        p.log(Event::ModuleApplying(patch, module));
        self.set_up(object)?;
        if let Err(error) = self.apply_object(object) {
            p.log(Event::ModuleApplyFailed(patch, module, error));
            self.tear_down(object);
            return Err(error);
        }
        // In a transition its end calls this.
        if !self.is_moving(patch) {
            let _ = p.call(object, Hook::PostPatch);
        }
        Ok(())
    }

    /// Takes the patches older than `limit` (all without one) off the module.
    fn detach_all(&self, module: P::Module, limit: Option<P::Patch>) {
        let p = &self.platform;
        for patch in p.patches().take_while(|&patch| Some(patch) != limit) {
            let Some(object) = self.object_about(patch, module).filter(|&o| p.module(o) == Some(module)) else {
                continue;
            };
            // In a transition to the old side its start called this; to the new one the module was never all patched.
            if !self.is_moving(patch) {
                let _ = p.call(object, Hook::PreUnpatch);
            }
            p.log(Event::ModuleReverting(patch, module));
            let _ = self.revert_object(object, Which::All);
            self.tear_down(object);
            self.unfit(patch, object);
        }
    }

    /// Forgets all that was found in the module.
    fn unfit(&self, patch: P::Patch, object: P::Object) {
        let p = &self.platform;
        p.clear_relocs(patch, object);
        p.set_module(object, None);
        for func in p.funcs(object) {
            p.forget(func);
        }
    }

    /// The set of patched objects has changed under a transition.
    ///
    /// Late is fine both ways: a coming module is on no stack before the caller returns, a gone one is on none.
    fn refresh_ranges(&self) {
        if let Some(moving) = self.moving() {
            self.rebuild_ranges(moving);
        }
    }
}
