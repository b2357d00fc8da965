// SPDX-License-Identifier: GPL-2.0-only
//! What the rest of the kernel calls.
//!
//! In: livepatch modules (enable, states), the module loader (coming, going), work items (retry, finish). Out: requests to
//! the engine, error numbers as C has them. Hard because callbacks of a patch come back in here while the lock is held:
//! the two state queries take none.

use super::engine::Rejected;
use super::handles::{each_static_func, each_static_object, Module, Patch};
use super::hot::warn_once;
use super::platform::to_c;
use super::{Lock, ENGINE};
use kernel::bindings;
use kernel::prelude::*;

const INVAL: c_int = -22;
const NODEV: c_int = -19;

/// Whether the patch's tables are complete enough to be walked.
fn is_well_formed(patch: Patch) -> bool {
    // SAFETY: handles.
    if unsafe { (*patch.ptr()).mod_.is_null() || (*patch.ptr()).objs.is_null() } {
        return false;
    }
    let mut well = true;
    each_static_object(patch, |object| {
        // SAFETY: handles.
        well &= !unsafe { (*object.ptr()).funcs }.is_null();
        // SAFETY: handles.
        each_static_func(object, |func| well &= !unsafe { (*func.ptr()).old_name }.is_null());
    });
    well
}

/// Enables a patch; called by its module's init function.
#[export]
unsafe extern "C" fn klp_enable_patch(patch: *mut bindings::klp_patch) -> c_int {
    let Some(patch) = Patch::new(patch).filter(|&patch| is_well_formed(patch)) else {
        return INVAL;
    };
    // SAFETY: the module is running its init function.
    if !unsafe { (*patch.module()).klp } {
        pr_err!("module {} is not marked as a livepatch module\n", patch.name());
        return INVAL;
    }
    // SAFETY: written once, at boot.
    if unsafe { bindings::klp_root_kobj }.is_null() {
        return NODEV;
    }
    // SAFETY: reads a constant.
    if !unsafe { bindings::klp_glue_have_reliable_stack() } {
        pr_warn!("This architecture doesn't have support for the livepatch consistency model.\n");
        pr_warn!("The livepatch transition may never complete.\n");
    }
    let result = Lock::take().engine().enable(patch);
    match result {
        Ok(()) => 0,
        Err(Rejected::Untouched(error)) => error.to_c(),
        Err(Rejected::LetGo(error)) => {
            // SAFETY: the engine has let go of it.
            unsafe { klp_rust_finish(patch.ptr()) };
            error.to_c()
        }
    }
}

/// The end of a patch: waits until nobody looks at it, then gives its module back. Without the lock: a reader of its files
/// may be waiting for that.
#[export]
unsafe extern "C" fn klp_rust_finish(patch: *mut bindings::klp_patch) {
    // SAFETY: the engine has let go of it; the module reference keeps it until the last line.
    unsafe {
        let (module, forced) = ((*patch).mod_, (*patch).forced);
        bindings::kobject_put(&raw mut (*patch).kobj);
        bindings::wait_for_completion(&raw mut (*patch).finish);
        // A forced patch's code may still be running.
        if !forced {
            bindings::module_put(module);
        }
    }
}

/// A second has passed.
#[export]
unsafe extern "C" fn klp_rust_retry() {
    Lock::take().engine().retry();
}

/// A module is about to run its init function.
#[export]
unsafe extern "C" fn klp_module_coming(module: *mut bindings::module) -> c_int {
    let Some(module) = Module::new(module) else {
        return INVAL;
    };
    // SAFETY: handles.
    if unsafe { (*module.ptr()).state } != bindings::module_state_MODULE_STATE_COMING {
        warn_once!(c"a coming module is in the wrong state");
        return INVAL;
    }
    if module.name() == c"vmlinux" {
        pr_err!("vmlinux.ko: invalid module name\n");
        return INVAL;
    }
    to_c(Lock::take().engine().module_coming(module))
}

/// A module has run its exit function, or failed to start.
#[export]
unsafe extern "C" fn klp_module_going(module: *mut bindings::module) {
    let Some(module) = Module::new(module) else { return };
    // SAFETY: handles.
    let state = unsafe { (*module.ptr()).state };
    if state != bindings::module_state_MODULE_STATE_GOING && state != bindings::module_state_MODULE_STATE_COMING {
        warn_once!(c"a going module is in the wrong state");
        return;
    }
    Lock::take().engine().module_going(module);
}

/// The patch's entry for a state. Called by the patch itself, at any time.
#[export]
unsafe extern "C" fn klp_get_state(patch: *mut bindings::klp_patch, id: c_ulong) -> *mut bindings::klp_state {
    let state = Patch::new(patch).and_then(|patch| ENGINE.0.state(patch, id as u64));
    state.map_or(core::ptr::null_mut(), |state| state.ptr())
}

/// The newest entry for a state among the patches enabled before the one in transition. Called by callbacks, which run
/// with the lock held.
#[export]
unsafe extern "C" fn klp_get_prev_state(id: c_ulong) -> *mut bindings::klp_state {
    ENGINE.0.previous_state(id as u64).map_or(core::ptr::null_mut(), |state| state.ptr())
}
