// SPDX-License-Identifier: GPL-2.0-only
//! The stacks of replacements, one per patched function, and ftrace's part in them.
//!
//! In: a function of a patch. Out: its place on the stack of the function it replaces. Hard because handlers read a stack
//! while it changes: it is complete before ftrace knows it, and freed after ftrace has waited for all who may be on it.

use super::engine::{Errno, Span};
use super::handles::{Func, Stack};
use super::hot::warn_once;
use super::platform::check;
use core::cell::UnsafeCell;
use kernel::bindings;
use kernel::prelude::*;

const BUCKETS: usize = 256;

/// The stacks, by the address of the function they redirect.
struct Stacks(UnsafeCell<[*mut bindings::klp_stack; BUCKETS]>);

// SAFETY: lock.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([core::ptr::null_mut(); BUCKETS]));

/// The link that points to the stack of the function at `address`, or the null one at the end of its bucket.
fn stack_link(address: *mut c_void) -> *mut *mut bindings::klp_stack {
    // Functions are 16-byte aligned; addresses close together should not share a bucket.
    let index = (address as usize >> 4) % BUCKETS;
    // SAFETY: lock; the index is within the array, and links are followed while they lead to live stacks.
    unsafe {
        let mut link = (*STACKS.0.get()).as_mut_ptr().add(index);
        while !(*link).is_null() && (**link).old_func != address {
            link = &raw mut (**link).next;
        }
        link
    }
}

fn old_func(func: Func) -> *mut c_void {
    // SAFETY: handles; lock.
    unsafe { (*func.ptr()).old_func }
}

fn node_func(func: Func) -> *mut bindings::list_head {
    // SAFETY: handles.
    unsafe { &raw mut (*func.ptr()).stack_node }
}

/// The first bytes of the function, up to the return address of its handler.
pub(crate) fn entry_span(func: Func) -> Span {
    let start = old_func(func) as usize;
    // SAFETY: any address may be asked for.
    let call = unsafe { bindings::ftrace_location(start) };
    // The return address is the one after the call, and part of it.
    Span { start, end: call.wrapping_add(bindings::KLP_GLUE_CALL_SIZE as usize).wrapping_add(1) }
}

/// The stack of the function that `func` replaces.
pub(crate) fn find(func: Func) -> Option<Stack> {
    // SAFETY: the link is live; lock.
    Stack::new(unsafe { *stack_link(old_func(func)) })
}

/// Makes a stack and redirects calls to it.
pub(crate) fn open(func: Func) -> Result<Stack, Errno> {
    let address = old_func(func);
    // SAFETY: any address may be asked for.
    let location = unsafe { bindings::ftrace_location(address as usize) };
    if address.is_null() || location == 0 {
        pr_err!("failed to find location for function '{}'\n", func.name());
        return Err(Errno::INVAL);
    }
    // SAFETY: the new stack is ours until it is registered, and again when that fails; handlers find `func` on it.
    unsafe {
        let Some(handle) = Stack::new(bindings::klp_glue_new_stack()) else {
            return Err(Errno::NOMEM);
        };
        let stack = handle.ptr();
        (*stack).old_func = address;
        bindings::klp_glue_list_add_rcu(node_func(func), &raw mut (*stack).funcs);
        if let Err(error) = register(stack, location, func) {
            bindings::klp_glue_list_del_rcu(node_func(func));
            bindings::kfree(stack.cast());
            return Err(error);
        }
        *stack_link(address) = stack;
        Ok(handle)
    }
}

/// Ends that.
pub(crate) fn close(stack: Stack, func: Func) {
    let stack = stack.ptr();
    // SAFETY: handles; lock. Unregistering waits for handlers, so nobody reads the stack after that.
    unsafe {
        let address = (*stack).old_func;
        let fops = &raw mut (*stack).fops;
        let location = bindings::ftrace_location(address as usize);
        if bindings::unregister_ftrace_function(fops) != 0 || bindings::ftrace_set_filter_ip(fops, location, 1, 0) != 0
        {
            warn_once!(c"a handler could not be unregistered");
        }
        bindings::klp_glue_list_del_rcu(node_func(func));
        *stack_link(address) = (*stack).next;
        bindings::kfree(stack.cast());
    }
}

/// Puts `func` on top.
pub(crate) fn push(stack: Stack, func: Func) {
    // SAFETY: handles; lock.
    unsafe { bindings::klp_glue_list_add_rcu(node_func(func), &raw mut (*stack.ptr()).funcs) }
}

/// Takes `func` off.
pub(crate) fn remove(func: Func) {
    // SAFETY: handles; lock; the function is on this stack.
    unsafe { bindings::klp_glue_list_del_rcu(node_func(func)) }
}

/// Starts redirecting the function at `location` to `stack`.
///
/// # Safety
///
/// The stack is complete and stays until it is unregistered.
unsafe fn register(stack: *mut bindings::klp_stack, location: usize, func: Func) -> Result<(), Errno> {
    // SAFETY: as the caller promises.
    unsafe {
        let fops = &raw mut (*stack).fops;
        check(bindings::ftrace_set_filter_ip(fops, location, 0, 0)).inspect_err(|error| {
            pr_err!("failed to set ftrace filter for function '{}' ({})\n", func.name(), error.to_c())
        })?;
        check(bindings::register_ftrace_function(fops)).inspect_err(|error| {
            pr_err!("failed to register ftrace handler for function '{}' ({})\n", func.name(), error.to_c());
            bindings::ftrace_set_filter_ip(fops, location, 1, 0);
        })
    }
}
