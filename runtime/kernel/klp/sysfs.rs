// SPDX-License-Identifier: GPL-2.0-only
//! /sys/kernel/livepatch and debugfs.
//!
//! In: reads and writes of a patch's files. Out: requests to the engine. Hard because a file's reader keeps its kobject:
//! the files of objects and functions go under the lock, so their readers must not take it; those of patches go without.
//! What is one word is read without the lock anyway: its holder may be at it for long.

use super::handles::{Func, Object, Patch, Task};
use super::{messages, Lock};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use kernel::bindings;
use kernel::prelude::*;

type Attr = bindings::kobj_attribute;

const NANOSECONDS: u64 = 1_000_000_000;

static STARTED: AtomicU64 = AtomicU64::new(0);

/// The patch in transition, for readers. Compared only, never followed.
static MOVING: AtomicPtr<bindings::klp_patch> = AtomicPtr::new(core::ptr::null_mut());

/// From now on this patch is in transition, or none is.
pub(crate) fn set_moving(patch: Option<Patch>) {
    MOVING.store(patch.map_or(core::ptr::null_mut(), Patch::ptr), Ordering::Relaxed);
}

/// Tasks have been asked to switch.
pub(crate) fn transition_started() {
    // SAFETY: reads the clock.
    STARTED.store(unsafe { bindings::klp_glue_seconds() }, Ordering::Relaxed);
}

fn patch_of(kobj: *mut bindings::kobject) -> *mut bindings::klp_patch {
    // SAFETY: these attributes are a patch's.
    unsafe { kernel::container_of!(kobj, bindings::klp_patch, kobj) }
}

/// Calls `f` with the engine, locked, and the patch of the file.
fn with_patch<R>(kobj: *mut bindings::kobject, default: R, f: impl FnOnce(&Lock, Patch) -> R) -> R {
    let lock = Lock::take();
    Patch::new(patch_of(kobj)).map_or(default, |patch| f(&lock, patch))
}

fn emit(buf: *mut c_char, value: c_int) -> isize {
    // SAFETY: a sysfs buffer.
    unsafe { bindings::sysfs_emit(buf, c"%d\n".as_char_ptr(), value) as isize }
}

fn parse_bool(buf: *const c_char) -> Result<bool, isize> {
    let mut value = false;
    // SAFETY: sysfs terminates the buffer.
    match unsafe { bindings::kstrtobool(buf, &mut value) } {
        0 => Ok(value),
        error => Err(error as isize),
    }
}

/// A file of a patch that shows a number.
macro_rules! show {
    ($name:ident, |$patch:ident| $value:expr) => {
        #[export]
        unsafe extern "C" fn $name(kobj: *mut bindings::kobject, _attr: *mut Attr, buf: *mut c_char) -> isize {
            let $patch = patch_of(kobj);
            emit(buf, $value)
        }
    };
}

/// A file of a patch that a truth value is written to.
macro_rules! store {
    ($name:ident, |$lock:ident, $patch:ident, $on:ident| $request:expr) => {
        #[export]
        unsafe extern "C" fn $name(
            kobj: *mut bindings::kobject,
            _attr: *mut Attr,
            buf: *const c_char,
            count: usize,
        ) -> isize {
            let $on = match parse_bool(buf) {
                Ok(on) => on,
                Err(error) => return error,
            };
            with_patch(kobj, 0, |$lock, $patch| match $request {
                Ok(()) => count as isize,
                Err(error) => error.to_c() as isize,
            })
        }
    };
}

// SAFETY: the reader keeps the patch.
show!(klp_rust_enabled_show, |patch| unsafe { (&raw const (*patch).enabled).read_volatile() }.into());
show!(klp_rust_transition_show, |patch| (MOVING.load(Ordering::Relaxed) == patch).into());
// A walk over the list: with the lock.
show!(klp_rust_stack_order_show, |patch| {
    let lock = Lock::take();
    Patch::new(patch).map_or(0, |patch| lock.engine().stack_order(patch) as c_int)
});

store!(klp_rust_enabled_store, |lock, patch, on| lock.engine().request(patch, on));
// Writing 0 asks for nothing.
store!(klp_rust_force_store, |lock, patch, on| if on { lock.engine().force(patch) } else { Ok(()) });

#[export]
unsafe extern "C" fn klp_rust_replace_show(kobj: *mut bindings::kobject, _attr: *mut Attr, buf: *mut c_char) -> isize {
    let patch = patch_of(kobj);
    #[cfg(CONFIG_LIVEPATCH_REPLACE_SET)]
    // SAFETY: the reader keeps the patch; a sysfs buffer.
    return unsafe { bindings::sysfs_emit(buf, c"%u\n".as_char_ptr(), (*patch).replace_set) as isize };
    #[cfg(not(CONFIG_LIVEPATCH_REPLACE_SET))]
    // SAFETY: the reader keeps the patch.
    emit(buf, unsafe { (*patch).replace }.into())
}

#[export]
unsafe extern "C" fn klp_rust_patched_show(kobj: *mut bindings::kobject, _attr: *mut Attr, buf: *mut c_char) -> isize {
    // SAFETY: an object's attribute; the reader keeps the object. No lock: see above.
    emit(buf, unsafe {
        let object = kernel::container_of!(kobj, bindings::klp_object, kobj);
        (&raw const (*object).patched).read_volatile().into()
    })
}

/// Nobody looks at the patch any more.
#[export]
unsafe extern "C" fn klp_rust_release_patch(kobj: *mut bindings::kobject) {
    // SAFETY: initialised when the patch was adopted; the waiter may free it right after.
    unsafe { bindings::complete(&raw mut (*patch_of(kobj)).finish) };
}

/// The same for an object: one that the engine made is freed.
#[export]
unsafe extern "C" fn klp_rust_release_object(kobj: *mut bindings::kobject) {
    // SAFETY: an object's kobject; nothing else refers to it.
    unsafe {
        let object: *mut bindings::klp_object = kernel::container_of!(kobj, bindings::klp_object, kobj);
        if let (true, Some(object)) = ((*object).dynamic, Object::new(object)) {
            bindings::kfree((*object.ptr()).name.cast());
            bindings::kvfree(object.ptr().cast());
        }
    }
}

/// The same for a function: a no-op is freed.
#[export]
unsafe extern "C" fn klp_rust_release_func(kobj: *mut bindings::kobject) {
    // SAFETY: a function's kobject; nothing else refers to it.
    unsafe {
        let func: *mut bindings::klp_func = kernel::container_of!(kobj, bindings::klp_func, kobj);
        if let (true, Some(func)) = ((*func).nop, Func::new(func)) {
            bindings::kfree((*func.ptr()).old_name.cast());
            bindings::kvfree(func.ptr().cast());
        }
    }
}

/// Lists the tasks that hold the transition up: number, name, for how many seconds, where it is.
#[export]
unsafe extern "C" fn klp_rust_blockers(m: *mut bindings::seq_file) {
    let lock = Lock::take();
    // SAFETY: reads the clock.
    let now = unsafe { bindings::klp_glue_seconds() };
    let started = STARTED.load(Ordering::Relaxed);
    lock.engine().blockers(&mut |task: Task, why| {
        let (kind, func, _) = messages::reason(why);
        // SAFETY: the task is alive for the call; set once, before it runs.
        let born = unsafe { (*task.ptr()).start_time } / NANOSECONDS;
        // A task that was forked later has held nothing up before. Its clock is finer: it may seem to be born after now.
        let seconds = now.saturating_sub(started.max(born));
        // SAFETY: the task is alive for the call; the name is zero-terminated or null.
        unsafe { bindings::klp_glue_show_blocker(m, task.ptr(), kind, func, seconds) };
    });
}
