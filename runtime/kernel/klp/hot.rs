// SPDX-License-Identifier: GPL-2.0-only
//! The words that handlers and tasks read without a lock.
//!
//! In: calls from the ftrace handler, the scheduler, the way out of the kernel. Out: the engine's answer. Nothing here
//! sleeps, allocates or can panic (tests look for panics in the object file), and nothing here can be traced: functions
//! compiled by rustc have no ftrace call, and the C they call is notrace.

use super::engine::{self, Anomaly, Redirect, Side, Tasks};
use super::handles::{Func, Stack, Task};
use super::Kernel;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use kernel::bindings;
use kernel::prelude::*;

/// Warns of what cannot happen: once for each place that says so, whatever else has been warned of. Fit for the handler.
macro_rules! warn_once {
    ($what:literal) => {{
        static SAID: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);
        $crate::hot::warn(&SAID, $what);
    }};
}
pub(crate) use warn_once;

#[cold]
pub(crate) fn warn(said: &AtomicBool, what: &CStr) {
    if !said.swap(true, Ordering::Relaxed) {
        // SAFETY: a zero-terminated string.
        unsafe { bindings::klp_glue_warn(what.as_char_ptr()) };
    }
}

const IDLE: i32 = bindings::KLP_TRANSITION_IDLE;

/// Where tasks are asked to go.
static GOAL: AtomicI32 = AtomicI32::new(IDLE);

#[inline(always)]
fn decode(word: i32) -> Option<Side> {
    match word {
        0 => Some(Side::Old),
        1 => Some(Side::New),
        _ => None,
    }
}

#[inline(always)]
fn encode(side: Option<Side>) -> i32 {
    match side {
        Some(Side::Old) => 0,
        Some(Side::New) => 1,
        None => IDLE,
    }
}

#[inline(always)]
fn patch_state(task: Task) -> &'static AtomicI32 {
    // SAFETY: words; the task is alive for the call.
    unsafe { AtomicI32::from_ptr(&raw mut (*task.ptr()).patch_state) }
}

#[inline(always)]
fn transition_flag(func: Func) -> &'static AtomicBool {
    // SAFETY: words; a function is kept for a grace period after it left its stack.
    unsafe { AtomicBool::from_ptr(&raw mut (*func.ptr()).transition) }
}

/// The function whose `stack_node` follows the node at `node` on `stack`.
#[inline(always)]
fn next_on(stack: Stack, node: *mut bindings::list_head) -> Option<Func> {
    // SAFETY: words; list_add_rcu() writes this one with release semantics. list_del_rcu() does not: it leads past an entry to
    // the one below, which was complete, and in the list, long before.
    let next = unsafe { AtomicPtr::from_ptr(&raw mut (*node).next) }.load(Ordering::Acquire);
    // SAFETY: the stack is alive while handlers can run.
    if next == unsafe { &raw mut (*stack.ptr()).funcs } {
        return None;
    }
    // SAFETY: all other entries are functions.
    Some(unsafe { Func::new_unchecked(kernel::container_of!(next, bindings::klp_func, stack_node)) })
}

/// What the C part of the handler loads before it calls Rust; null: ask.
#[inline(always)]
fn settled(stack: Stack) -> &'static AtomicPtr<c_void> {
    // SAFETY: words; the lock holder keeps the stack while it writes this.
    unsafe { AtomicPtr::from_ptr(&raw mut (*stack.ptr()).settled) }
}

impl Redirect for Kernel {
    type Stack = Stack;
    type Func = Func;

    #[inline(always)]
    fn settled(&self, _stack: Stack) -> Option<Func> {
        // The handler has looked, and comes here when there was nothing.
        None
    }

    #[inline(always)]
    fn top(&self, stack: Stack) -> Option<Func> {
        // SAFETY: the stack is alive while handlers can run.
        next_on(stack, unsafe { &raw mut (*stack.ptr()).funcs })
    }

    #[inline(always)]
    fn below(&self, stack: Stack, func: Func) -> Option<Func> {
        // SAFETY: a function is kept for a grace period after it left its stack.
        next_on(stack, unsafe { &raw mut (*func.ptr()).stack_node })
    }

    #[inline(always)]
    fn in_transition(&self, func: Func) -> bool {
        transition_flag(func).load(Ordering::Acquire)
    }

    fn current_side(&self) -> Option<Side> {
        // SAFETY: there is always a current task.
        Task::new(unsafe { bindings::get_current() }).and_then(|task| self.side(task))
    }

    #[inline(always)]
    fn is_nop(&self, func: Func) -> bool {
        // SAFETY: constant while the function is on a stack.
        unsafe { (*func.ptr()).nop }
    }

    #[cold]
    fn anomaly(&self, what: Anomaly) {
        match what {
            Anomaly::EmptyStack => warn_once!(c"a handler found no replacement"),
            Anomaly::SideUnknown => warn_once!(c"a handler met a task without a side"),
            Anomaly::NotQuiet => warn_once!(c"a transition began during another"),
            Anomaly::TaskNotIdle => warn_once!(c"a task was left over from a transition"),
            Anomaly::NoTransition => warn_once!(c"there is no transition"),
            Anomaly::NotApplied => warn_once!(c"a function was not applied"),
            Anomaly::AlreadyApplied => warn_once!(c"a function was applied twice"),
            Anomaly::WrongState => warn_once!(c"the patch was in the wrong state"),
            Anomaly::RangesFull => warn_once!(c"the range table is too small"),
        }
    }
}

impl Tasks for Kernel {
    type Task = Task;

    #[inline(always)]
    fn side(&self, task: Task) -> Option<Side> {
        decode(patch_state(task).load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn set_side(&self, task: Task, side: Option<Side>) {
        patch_state(task).store(encode(side), Ordering::Relaxed);
    }

    #[inline(always)]
    fn pending(&self, task: Task) -> bool {
        // SAFETY: the task is alive for the call.
        unsafe { bindings::klp_glue_pending(task.ptr()) }
    }

    fn set_pending(&self, task: Task) {
        // SAFETY: the task is alive for the call.
        unsafe { bindings::klp_glue_set_pending(task.ptr()) }
    }

    fn clear_pending(&self, task: Task) {
        // SAFETY: the task is alive for the call.
        unsafe { bindings::klp_glue_clear_pending(task.ptr()) }
    }

    #[inline(always)]
    fn take_pending(&self, task: Task) -> bool {
        // SAFETY: the task is alive for the call.
        unsafe { bindings::klp_glue_take_pending(task.ptr()) }
    }

    #[inline(always)]
    fn goal(&self) -> Option<Side> {
        decode(GOAL.load(Ordering::Relaxed))
    }

    fn set_goal(&self, goal: Option<Side>) {
        GOAL.store(encode(goal), Ordering::Relaxed);
    }
}

pub(crate) fn set_settled(stack: Stack, func: Option<Func>) {
    // SAFETY: constant while the function is on a stack; a no-op, which has no address, is never settled.
    let target = func.map_or(core::ptr::null_mut(), |func| unsafe { (*func.ptr()).new_func });
    settled(stack).store(target, Ordering::Release);
}

pub(crate) fn set_transition(func: Func, on: bool) {
    transition_flag(func).store(on, Ordering::Relaxed);
}

/// The kernel as the handler sees it: the running task is at hand.
#[derive(Clone, Copy)]
struct Entry(Task);

impl Redirect for Entry {
    type Stack = Stack;
    type Func = Func;

    #[inline(always)]
    fn settled(&self, stack: Stack) -> Option<Func> {
        Kernel.settled(stack)
    }
    #[inline(always)]
    fn top(&self, stack: Stack) -> Option<Func> {
        Kernel.top(stack)
    }
    #[inline(always)]
    fn below(&self, stack: Stack, func: Func) -> Option<Func> {
        Kernel.below(stack, func)
    }
    #[inline(always)]
    fn in_transition(&self, func: Func) -> bool {
        Kernel.in_transition(func)
    }
    #[inline(always)]
    fn current_side(&self) -> Option<Side> {
        Kernel.side(self.0)
    }
    #[inline(always)]
    fn is_nop(&self, func: Func) -> bool {
        Kernel.is_nop(func)
    }
    fn anomaly(&self, what: Anomaly) {
        Kernel.anomaly(what);
    }
}

/// What the handler shall make the task run; null for the original.
#[export]
unsafe extern "C" fn klp_rust_redirect(
    stack: *mut bindings::klp_stack,
    task: *mut bindings::task_struct,
) -> *mut c_void {
    // SAFETY: the handler passes the stack it was registered with, and the current task.
    let (stack, task) = unsafe { (Stack::new_unchecked(stack), Task::new_unchecked(task)) };
    match engine::redirect(&Entry(task), stack) {
        // SAFETY: constant while the function is on a stack.
        Some(func) => unsafe { (*func.ptr()).new_func },
        None => core::ptr::null_mut(),
    }
}

/// The task passes a safe point. Preemption is off.
#[export]
unsafe extern "C" fn klp_rust_switch_self(task: *mut bindings::task_struct) {
    if let Some(task) = Task::new(task) {
        engine::switch_self(&Kernel, task);
    }
}

/// The running task has a child.
#[export]
unsafe extern "C" fn klp_copy_process(child: *mut bindings::task_struct) {
    // SAFETY: there is always a current task.
    if let (Some(parent), Some(child)) = (Task::new(unsafe { bindings::get_current() }), Task::new(child)) {
        engine::inherit(&Kernel, parent, child);
    }
}

/// The running task is about to sleep. Preemption is off.
#[export]
unsafe extern "C" fn klp_rust_about_to_sleep(task: *mut bindings::task_struct) {
    if let Some(task) = Task::new(task) {
        // Uses no cell of the engine, so the lock is not needed.
        super::ENGINE.0.about_to_sleep(task);
    }
}
