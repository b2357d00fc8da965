// SPDX-License-Identifier: GPL-2.0-only
//! The life of system states.
//!
//! In: the states that patches declare. Out: their callbacks, once when a state comes into being and once when it ends,
//! however many patches hand it on meanwhile. Hard because a replace moves a state between two entries: exactly one of
//! them is `owned`, and only an owned entry ends the state.
//!
//! | moment | entry of the moving patch | entry of a replaced patch, unknown to the new one |
//! |---|---|---|
//! | enable | new: pre-patch, then owned | pre-unpatch |
//! | enabled | new: post-patch; else takes ownership | post-unpatch, shadows freed, not owned |
//! | enable undone | owned: post-unpatch, shadows freed, not owned | post-patch |
//! | disable | owned: pre-unpatch | |
//! | disabled | owned: post-unpatch, shadows freed, not owned | |
//! | disable undone | owned: post-patch | |
//!
//! State callbacks enclose the objects' own: first before anything, last after everything.

use super::platform::{Anomaly, Errno, Event, Hook, Platform, Side};
use super::transition::{Engine, Move};

impl<P: Platform> Engine<P> {
    /// The patch's entry for a state.
    pub fn state(&self, patch: P::Patch, id: u64) -> Option<P::State> {
        let p = &self.platform;
        p.states(patch).find(|&s| p.state_id(s) == id)
    }

    /// The newest entry for a state among the patches enabled before the one in transition, and of its set.
    pub fn previous_state(&self, id: u64) -> Option<P::State> {
        let p = &self.platform;
        let Some(moving) = self.moving() else {
            p.anomaly(Anomaly::NoTransition);
            return None;
        };
        let scope = p.scope(moving.patch);
        let older = p.patches().take_while(|&old| old != moving.patch);
        older.filter(|&old| !scope.apart(p.scope(old))).filter_map(|old| self.state(old, id)).last()
    }

    fn owner_before(&self, new: P::Patch, id: u64) -> Option<P::State> {
        let p = &self.platform;
        let mut found = None;
        self.each_replaced(new, |old| {
            found = found.or(self.state(old, id).filter(|&s| p.owned(s)));
        });
        found
    }

    /// Calls `f` for the states that end when `new` has replaced its predecessors.
    fn each_ending(&self, new: P::Patch, mut f: impl FnMut(P::Patch, P::State)) {
        let p = &self.platform;
        self.each_replaced(new, |old| {
            for state in p.states(old) {
                if p.owned(state) && self.state(new, p.state_id(state)).is_none() {
                    f(old, state);
                }
            }
        });
    }

    pub(super) fn states_before_patch(&self, patch: P::Patch) -> Result<(), Errno> {
        let p = &self.platform;
        if !P::LIVE_STATES {
            return Ok(());
        }
        for state in p.states(patch) {
            p.set_owned(state, false);
        }
        for state in p.states(patch) {
            if self.owner_before(patch, p.state_id(state)).is_none() {
                p.call_state(patch, state, Hook::PrePatch)
                    .inspect_err(|&error| p.log(Event::StatePrePatchFailed(patch, state, error)))?;
                p.set_owned(state, true);
            }
        }
        Ok(())
    }

    /// Nothing can fail any more: tell the states that end.
    pub(super) fn states_before_replace(&self, patch: P::Patch) {
        if P::LIVE_STATES {
            self.each_ending(patch, |old, state| {
                let _ = self.platform.call_state(old, state, Hook::PreUnpatch);
            });
        }
    }

    pub(super) fn states_before_unpatch(&self, patch: P::Patch) {
        let p = &self.platform;
        if P::LIVE_STATES {
            for state in p.states(patch).filter(|&s| p.owned(s)) {
                let _ = p.call_state(patch, state, Hook::PreUnpatch);
            }
        }
    }

    pub(super) fn states_after(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        let patch = moving.patch;
        if !P::LIVE_STATES {
            return;
        }
        match moving.goal {
            Side::New => {
                for state in p.states(patch) {
                    match self.owner_before(patch, p.state_id(state)) {
                        Some(theirs) => {
                            p.set_owned(theirs, false);
                            p.set_owned(state, true);
                        }
                        None => {
                            let _ = p.call_state(patch, state, Hook::PostPatch);
                        }
                    }
                }
                self.each_ending(patch, |old, state| self.end(old, state));
            }
            Side::Old => {
                for state in p.states(patch).filter(|&s| p.owned(s)) {
                    self.end(patch, state);
                }
                // A cancelled enable has told nobody; a reversed one has.
                if moving.asked {
                    self.each_ending(patch, |old, state| {
                        let _ = p.call_state(old, state, Hook::PostPatch);
                    });
                }
            }
        }
    }

    fn end(&self, patch: P::Patch, state: P::State) {
        let p = &self.platform;
        let _ = p.call_state(patch, state, Hook::PostUnpatch);
        p.drop_shadows(state);
        p.set_owned(state, false);
    }
}
