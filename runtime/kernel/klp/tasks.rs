// SPDX-License-Identifier: GPL-2.0-only
//! Walks over tasks, and looks at their stacks.
//!
//! In: closures of the engine. Out: the same called for each task, by C. Hard because a stack can be read only while its
//! task cannot run: C holds it still and calls back.

use super::engine::{Errno, Idle, Stuck};
use super::handles::{Func, Task};
use kernel::bindings;
use kernel::prelude::*;

/// C calls back with the closure that `arg` points to.
unsafe extern "C" fn call_task(task: *mut bindings::task_struct, arg: *mut c_void) {
    // SAFETY: `arg` is what `each_task` passed; it waits for the walk.
    let f = unsafe { &mut *arg.cast::<&mut dyn FnMut(Task)>() };
    if let Some(task) = Task::new(task) {
        f(task);
    }
}

/// The same for idle tasks.
unsafe extern "C" fn call_idle(task: *mut bindings::task_struct, cpu: c_uint, online: bool, arg: *mut c_void) {
    // SAFETY: `arg` is what `each_idle` passed; it waits for the walk.
    let f = unsafe { &mut *arg.cast::<&mut dyn FnMut(Idle<Task>)>() };
    if let Some(task) = Task::new(task) {
        f(Idle { task, cpu, online });
    }
}

pub(crate) type Check<'a> = &'a mut dyn FnMut(&[usize]) -> Result<(), Stuck<Func>>;

struct Inspection<'a> {
    check: Check<'a>,
    outcome: Result<(), Stuck<Func>>,
}

/// Looks at a stack while its task cannot run.
unsafe extern "C" fn call_inspect(task: *mut bindings::task_struct, arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is what `inspect` passed; it waits for the call.
    let inspection = unsafe { &mut *arg.cast::<Inspection<'_>>() };
    inspection.outcome = look(task, inspection.check);
    0
}

fn look(task: *mut bindings::task_struct, check: Check<'_>) -> Result<(), Stuck<Func>> {
    // SAFETY: the task is alive for the call; preemption is off, so the buffer is ours.
    let (buffer, depth) = unsafe {
        if task != bindings::get_current() && bindings::task_curr(task) != 0 {
            return Err(Stuck::Running);
        }
        let buffer = bindings::klp_glue_stack_buffer();
        (buffer, bindings::stack_trace_save_tsk_reliable(task, buffer, bindings::KLP_GLUE_STACK_ENTRIES))
    };
    let depth = usize::try_from(depth).map_err(|_| Stuck::Unreliable)?;
    // SAFETY: so many entries have been written.
    check(unsafe { core::slice::from_raw_parts(buffer.cast(), depth) })
}

/// Calls `f` for each task but the idle ones, with the task list held for some at a time.
pub(crate) fn each(mut f: &mut dyn FnMut(Task)) {
    // SAFETY: `call_task` gets what it expects, during this call only.
    unsafe { bindings::klp_glue_each_task(Some(call_task), (&raw mut f).cast()) }
}

/// Calls `f` for each task but the idle ones, one at a time.
pub(crate) fn visit(f: &mut dyn FnMut(Task)) {
    let mut number = 1;
    // SAFETY: each task is held until it is put.
    while let Some(task) = Task::new(unsafe { bindings::klp_glue_next_task(&mut number) }) {
        f(task);
        // SAFETY: held by the line above.
        unsafe { bindings::klp_glue_put_task(task.ptr()) };
    }
}

/// Calls `f` for the idle tasks.
pub(crate) fn each_idle(mut f: &mut dyn FnMut(Idle<Task>)) {
    // SAFETY: `call_idle` gets what it expects, during this call only.
    unsafe { bindings::klp_glue_each_idle(Some(call_idle), (&raw mut f).cast()) }
}

/// Calls `check` with the return addresses on a stack.
pub(crate) fn inspect(task: Task, check: Check<'_>) -> Result<(), Stuck<Func>> {
    let mut inspection = Inspection { check, outcome: Err(Stuck::Unknown(Errno::INVAL)) };
    let arg: *mut c_void = (&raw mut inspection).cast();
    // SAFETY: `call_inspect` gets what it expects, during this call only; the task is alive.
    unsafe {
        if task.ptr() == bindings::get_current() {
            bindings::klp_glue_preempt_disable();
            call_inspect(task.ptr(), arg);
            bindings::klp_glue_preempt_enable();
        } else {
            bindings::task_call_func(task.ptr(), Some(call_inspect), arg);
        }
    }
    inspection.outcome
}

/// Makes a task that sleeps leave the kernel, or go round its loop.
pub(crate) fn nudge(task: Task) {
    // SAFETY: the task is alive for the call.
    unsafe {
        if bindings::klp_glue_task_is_kthread(task.ptr()) {
            bindings::wake_up_state(task.ptr(), bindings::TASK_INTERRUPTIBLE);
        } else {
            bindings::klp_glue_set_notify_signal(task.ptr());
        }
    }
}
