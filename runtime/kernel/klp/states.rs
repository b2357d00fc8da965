// SPDX-License-Identifier: GPL-2.0-only
//! States of the system that patches introduce and end; with replace sets only.
//!
//! In: an entry of a patch's table. Out: its callbacks called, its shadow variables freed. Without sets struct klp_state
//! has none of these fields, and the engine does not ask.

#[cfg(CONFIG_LIVEPATCH_REPLACE_SET)]
pub(crate) use live::*;
#[cfg(not(CONFIG_LIVEPATCH_REPLACE_SET))]
pub(crate) use stock::*;

#[cfg(not(CONFIG_LIVEPATCH_REPLACE_SET))]
mod stock {
    use super::super::engine::{Errno, Hook};
    use super::super::handles::{Patch, State};

    pub(crate) fn can_go(_state: State) -> bool {
        false
    }
    pub(crate) fn owned(_state: State) -> bool {
        false
    }
    pub(crate) fn set_owned(_state: State, _on: bool) {}
    pub(crate) fn call_state(_patch: Patch, _state: State, _hook: Hook) -> Result<(), Errno> {
        Ok(())
    }
    pub(crate) fn drop_shadows(_state: State) {}
}

#[cfg(CONFIG_LIVEPATCH_REPLACE_SET)]
mod live {
    use super::super::engine::{Errno, Hook};
    use super::super::handles::{Patch, State};
    use super::super::platform::check;
    use super::super::shadow;

    pub(crate) fn can_go(state: State) -> bool {
        // SAFETY: handles.
        let (shadow, callbacks) = unsafe { ((*state.ptr()).is_shadow, (*state.ptr()).callbacks) };
        shadow || callbacks.pre_unpatch.is_some() || callbacks.post_unpatch.is_some()
    }
    pub(crate) fn owned(state: State) -> bool {
        // SAFETY: handles; lock.
        unsafe { (*state.ptr()).owned }
    }
    pub(crate) fn set_owned(state: State, on: bool) {
        // SAFETY: handles; lock.
        unsafe { (*state.ptr()).owned = on }
    }
    pub(crate) fn call_state(patch: Patch, state: State, hook: Hook) -> Result<(), Errno> {
        // SAFETY: handles; the callbacks are functions of the patch's module, or null.
        unsafe {
            let callbacks = &raw const (*state.ptr()).callbacks;
            let void = match hook {
                Hook::PrePatch => return (*callbacks).pre_patch.map_or(Ok(()), |f| check(f(patch.ptr(), state.ptr()))),
                Hook::PostPatch => (*callbacks).post_patch,
                Hook::PreUnpatch => (*callbacks).pre_unpatch,
                Hook::PostUnpatch => (*callbacks).post_unpatch,
            };
            if let Some(f) = void {
                f(patch.ptr(), state.ptr());
            }
        }
        Ok(())
    }
    pub(crate) fn drop_shadows(state: State) {
        // SAFETY: handles; the destructor is a function of the patch's module, or null.
        unsafe {
            if (*state.ptr()).is_shadow {
                shadow::klp_shadow_free_all((*state.ptr()).id, (*state.ptr()).callbacks.shadow_dtor);
            }
        }
    }
}
