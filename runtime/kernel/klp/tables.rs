// SPDX-License-Identifier: GPL-2.0-only
//! A patch's tables: made walkable, shown in sysfs, added to, and let go.
//!
//! In: the static arrays of a livepatch module. Out: lists of objects and functions, with what the engine adds to them.
//! Hard because both kinds are one to all readers and differ at their end: what was added is freed by its release function.

use super::engine::Errno;
use super::handles::{each_static_func, each_static_object, Func, Object, Patch};
use super::platform::check;
use super::{hot, symbols};
use kernel::bindings;
use kernel::prelude::*;

/// Links an object that was just made known to C into its patch.
fn init_object(patch: Patch, object: Object) {
    // SAFETY: handles; lock.
    unsafe {
        bindings::klp_glue_init_object(object.ptr());
        bindings::list_add_tail(&raw mut (*object.ptr()).node, &raw mut (*patch.ptr()).obj_list);
    }
}

fn init_func(object: Object, func: Func) {
    // SAFETY: handles; lock.
    unsafe {
        bindings::klp_glue_init_func(func.ptr());
        bindings::list_add_tail(&raw mut (*func.ptr()).node, &raw mut (*object.ptr()).func_list);
    }
}

fn duplicate(string: *const c_char) -> Result<*const c_char, Errno> {
    // SAFETY: a zero-terminated string.
    let copy = unsafe { bindings::kstrdup(string, bindings::GFP_KERNEL) };
    if copy.is_null() {
        return Err(Errno::NOMEM);
    }
    Ok(copy)
}

/// Makes the tables walkable.
pub(crate) fn adopt(patch: Patch) {
    // SAFETY: handles; lock.
    unsafe {
        bindings::klp_glue_init_patch(patch.ptr());
        (*patch.ptr()).enabled = false;
        (*patch.ptr()).forced = false;
    }
    each_static_object(patch, |object| {
        init_object(patch, object);
        each_static_func(object, |func| init_func(object, func));
    });
}

/// Shows the patch to user space.
pub(crate) fn show_patch(patch: Patch) -> Result<(), Errno> {
    // SAFETY: the kobject is initialised; the root is there since boot.
    check(unsafe {
        bindings::kobject_add(
            &raw mut (*patch.ptr()).kobj,
            bindings::klp_root_kobj,
            c"%s".as_char_ptr(),
            patch.name().as_char_ptr(),
        )
    })
}

/// Shows the object to user space.
pub(crate) fn show_object(patch: Patch, object: Object) -> Result<(), Errno> {
    if object.module_name().is_some_and(|name| name.count_bytes() >= symbols::MODULE_NAME_LEN) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the kobjects are initialised, the parent is shown.
    check(unsafe {
        bindings::kobject_add(
            &raw mut (*object.ptr()).kobj,
            &raw mut (*patch.ptr()).kobj,
            c"%s".as_char_ptr(),
            object.name().as_char_ptr(),
        )
    })
}

/// Shows the function to user space.
pub(crate) fn show_func(object: Object, func: Func) -> Result<(), Errno> {
    // SAFETY: handles; lock; the kobjects are initialised, the parent is shown.
    unsafe {
        let ptr = func.ptr();
        if ((*ptr).new_func.is_null() && !(*ptr).nop) || func.name().count_bytes() >= symbols::KSYM_NAME_LEN {
            return Err(Errno::INVAL);
        }
        (*ptr).patched = false;
        hot::set_transition(func, false);
        check(bindings::kobject_add(
            &raw mut (*ptr).kobj,
            &raw mut (*object.ptr()).kobj,
            c"%s,%lu".as_char_ptr(),
            (*ptr).old_name,
            (*ptr).old_sympos.max(1),
        ))
    }
}

/// A new object of the patch like `like`, without functions.
pub(crate) fn new_object(patch: Patch, like: Object) -> Result<Object, Errno> {
    let name = match like.module_name() {
        Some(name) => duplicate(name.as_char_ptr())?,
        None => core::ptr::null(),
    };
    // SAFETY: zeroed memory is a valid object; it is freed by its release function, or here.
    unsafe {
        let ptr = bindings::klp_glue_zalloc(size_of::<bindings::klp_object>()).cast();
        let Some(object) = Object::new(ptr) else {
            bindings::kfree(name.cast());
            return Err(Errno::NOMEM);
        };
        (*ptr).name = name;
        (*ptr).dynamic = true;
        init_object(patch, object);
        Ok(object)
    }
}

/// A no-op for the function that `like` replaces.
pub(crate) fn new_nop(object: Object, like: Func) -> Result<(), Errno> {
    let name = duplicate(like.name().as_char_ptr())?;
    // SAFETY: zeroed memory is a valid function; it is freed by its release function, or here.
    unsafe {
        let ptr: *mut bindings::klp_func = bindings::klp_glue_zalloc(size_of::<bindings::klp_func>()).cast();
        let Some(func) = Func::new(ptr) else {
            bindings::kfree(name.cast());
            return Err(Errno::NOMEM);
        };
        (*ptr).old_name = name;
        (*ptr).old_sympos = (*like.ptr()).old_sympos;
        (*ptr).nop = true;
        init_func(object, func);
    }
    Ok(())
}

/// Forgets an object.
pub(crate) fn drop_object(object: Object) {
    // SAFETY: handles; this is the end of this one.
    unsafe {
        bindings::klp_glue_list_del(&raw mut (*object.ptr()).node);
        bindings::kobject_put(&raw mut (*object.ptr()).kobj);
    }
}

/// Forgets a function.
pub(crate) fn drop_func(func: Func) {
    // SAFETY: handles; this is the end of this one.
    unsafe {
        bindings::klp_glue_list_del(&raw mut (*func.ptr()).node);
        bindings::kobject_put(&raw mut (*func.ptr()).kobj);
    }
}
