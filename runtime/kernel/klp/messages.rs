// SPDX-License-Identifier: GPL-2.0-only
//! What the log says.
//!
//! In: events of the engine. Out: lines, worded as the kernel's selftests and its users' tools know them. The chatter of a
//! transition is dynamic debug, whose sites only C can have.

use super::engine::{Event, Side, Stuck};
use super::handles::{Func, Task};
use super::Kernel;
use kernel::bindings;
use kernel::prelude::*;

fn doing(side: Side) -> &'static str {
    match side {
        Side::New => "patching",
        Side::Old => "unpatching",
    }
}

fn debug(site: bindings::klp_glue_site, patch: super::handles::Patch, side: Side) {
    // SAFETY: a zero-terminated string.
    unsafe { bindings::klp_glue_debug(site, patch.name().as_char_ptr(), side == Side::New) };
}

/// Splits a reason into what C prints of it: kind, function, error.
pub(crate) fn reason(
    why: Stuck<Func>,
) -> (bindings::klp_glue_stuck, *const c_char, c_int) {
    match why {
        Stuck::Running => (bindings::klp_glue_stuck_KLP_STUCK_RUNNING, core::ptr::null(), 0),
        Stuck::Unreliable => (bindings::klp_glue_stuck_KLP_STUCK_UNRELIABLE, core::ptr::null(), 0),
        // Not as a string: that measures it, with checks, and this may run in the scheduler.
        Stuck::On(func) => (bindings::klp_glue_stuck_KLP_STUCK_SLEEPING, func.raw_name(), 0),
        Stuck::Unknown(e) => (bindings::klp_glue_stuck_KLP_STUCK_UNKNOWN, core::ptr::null(), e.to_c()),
    }
}

fn stuck(task: Task, why: Stuck<Func>) {
    let (kind, func, error) = reason(why);
    // SAFETY: the task is alive for the call, the name is zero-terminated or null.
    unsafe { bindings::klp_glue_debug_stuck(task.ptr(), kind, func, error) };
}

/// The position of a function as sysfs shows it.
fn position(func: Func) -> c_ulong {
    // SAFETY: handles.
    unsafe { (*func.ptr()).old_sympos }.max(1)
}

pub(crate) fn log(event: Event<Kernel>) {
    match event {
        Event::Incompatible(patch) => pr_err!(
            "Livepatch patch ({}) is not compatible with the already installed livepatches.\n",
            patch.name()
        ),
        Event::FunctionConflict { new, old, object, func, theirs } => {
            let (new_set, old_set) = (super::platform::set(new), super::platform::set(old));
            let (new, old) = (new.name(), old.name());
            let (object, name, position) = (object.name(), func.name(), position(func));
            if (name, position) == (theirs.name(), self::position(theirs)) {
                pr_err!(
                    "patch '{new}' (set {new_set}) modifies function '{name},{position}' of '{object}', \
                     which patch '{old}' (set {old_set}) modifies\n"
                )
            } else {
                let (their_name, their_position) = (theirs.name(), self::position(theirs));
                pr_err!(
                    "patch '{new}' (set {new_set}) modifies function '{name},{position}' of '{object}', \
                     which patch '{old}' (set {old_set}) modifies as '{their_name},{their_position}'\n"
                )
            }
        }
        Event::FunctionTwice { patch, object, first, second } => pr_err!(
            "patch '{}' modifies one function of '{}' twice, as '{},{}' and as '{},{}'\n",
            patch.name(),
            object.name(),
            first.name(),
            position(first),
            second.name(),
            position(second)
        ),
        Event::StateConflict { new, old, state } => {
            // SAFETY: handles.
            let id = unsafe { (*state.ptr()).id };
            pr_err!(
                "patch '{}' (set {}) has state {}, which patch '{}' (set {}) has\n",
                new.name(),
                super::platform::set(new),
                id,
                old.name(),
                super::platform::set(old)
            )
        }
        Event::StateTooOld { new, old, state } => {
            if cfg!(CONFIG_LIVEPATCH_REPLACE_SET) {
                // SAFETY: handles.
                let id = unsafe { (*state.ptr()).id };
                pr_err!("patch '{}' cannot take over state {} of patch '{}'\n", new.name(), id, old.name())
            }
        }
        Event::Enabling(patch) => pr_notice!("enabling patch '{}'\n", patch.name()),
        Event::Preparing(patch, side) => debug(bindings::klp_glue_site_KLP_SITE_INITIALIZING, patch, side),
        Event::Starting(patch, side) => {
            super::sysfs::transition_started();
            pr_notice!("'{}': starting {} transition\n", patch.name(), doing(side))
        }
        Event::Completing(patch, side) => debug(bindings::klp_glue_site_KLP_SITE_COMPLETING, patch, side),
        Event::Complete(patch, side) => pr_notice!("'{}': {} complete\n", patch.name(), doing(side)),
        Event::Canceling(patch) => debug(bindings::klp_glue_site_KLP_SITE_CANCELING, patch, Side::New),
        Event::Reversing(patch, side) => debug(bindings::klp_glue_site_KLP_SITE_REVERSING, patch, side),
        Event::Signaling => pr_notice!("signaling remaining tasks\n"),
        Event::Forcing => pr_warn!("forcing remaining tasks to the patched state\n"),
        Event::Stuck(task, why) => stuck(task, why),
        Event::PrePatchFailed(object) => {
            pr_warn!("pre-patch callback failed for object '{}'\n", object.name())
        }
        Event::StatePrePatchFailed(patch, state, error) => {
            // SAFETY: handles.
            let id = unsafe { (*state.ptr()).id };
            pr_warn!("pre-patch callback failed for state {} of patch '{}' ({})\n", id, patch.name(), error.to_c())
        }
        Event::ApplyFailed(object) => pr_warn!("failed to patch object '{}'\n", object.name()),
        Event::EnableFailed(patch) => pr_warn!("failed to enable patch '{}'\n", patch.name()),
        Event::ModuleInitFailed(patch, module, error) => pr_warn!(
            "failed to initialize patch '{}' for module '{}' ({})\n",
            patch.name(),
            module.name(),
            error.to_c()
        ),
        Event::ModuleApplying(patch, module) => {
            pr_notice!("applying patch '{}' to loading module '{}'\n", patch.name(), module.name())
        }
        Event::ModuleApplyFailed(patch, module, error) => pr_warn!(
            "failed to apply patch '{}' to module '{}' ({})\n",
            patch.name(),
            module.name(),
            error.to_c()
        ),
        Event::ModuleRefused(patch, module) => pr_warn!(
            "patch '{}' failed for module '{}', refusing to load module '{}'\n",
            patch.name(),
            module.name(),
            module.name()
        ),
        Event::ModuleReverting(patch, module) => {
            pr_notice!("reverting patch '{}' on unloading module '{}'\n", patch.name(), module.name())
        }
    }
}
