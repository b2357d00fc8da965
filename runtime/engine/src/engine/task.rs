// SPDX-License-Identifier: GPL-2.0-only
//! What a task does for itself.
//!
//! In: the three words each task shares with the lock holder (its side, its pending flag) and the one all share (the
//! goal). Out: a task that switches when it leaves the kernel, and a child that is where its parent is. Hard because
//! nothing here may take a lock.

use super::platform::Side;

/// The words that tasks and the lock holder share.
pub trait Tasks {
    /// One task. A handle is valid for the call it was given to.
    type Task: Copy + Eq;

    /// The side a task is on, `None` outside of transitions.
    fn side(&self, task: Self::Task) -> Option<Side>;
    /// Puts a task on a side.
    fn set_side(&self, task: Self::Task, side: Option<Side>);
    /// Whether the task still has to switch.
    fn pending(&self, task: Self::Task) -> bool;
    /// Asks the task to switch.
    fn set_pending(&self, task: Self::Task);
    /// Takes that back.
    fn clear_pending(&self, task: Self::Task);
    /// Takes it back and says whether it was set; a full barrier.
    fn take_pending(&self, task: Self::Task) -> bool;
    /// Where tasks are asked to go.
    fn goal(&self) -> Option<Side>;
    /// Changes that. Seen only by tasks whose pending flag is set later.
    fn set_goal(&self, goal: Option<Side>);
}

/// The task passes a point where it runs no patched function: it leaves the kernel, or goes round the idle loop.
///
/// The caller keeps this away from the lock holder's grace period (preemption off). `take_pending` orders the flag before
/// the goal, and before whatever the handler loads next.
#[inline(always)]
pub fn switch_self<T: Tasks>(t: &T, task: T::Task) {
    if t.take_pending(task) {
        t.set_side(task, t.goal());
    }
}

/// A new task starts where the task that made it is. The caller holds the task list, so walks over the list see neither of
/// them meanwhile; those by number do not hold it, but they let a running task alone, as the one that forks is, and the
/// new one's number leads to it only after this.
#[inline(always)]
pub fn inherit<T: Tasks>(t: &T, parent: T::Task, child: T::Task) {
    if t.pending(parent) {
        t.set_pending(child);
    } else {
        t.clear_pending(child);
    }
    t.set_side(child, t.side(parent));
}
