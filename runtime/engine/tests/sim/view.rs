// SPDX-License-Identifier: GPL-2.0-only
//! The words that handlers and tasks share with the engine, in a borrowed world.
//!
//! In: a world in its cell. Out: what the engine is generic over; `platform` adds what only the lock holder may do.

use klp_engine::*;

use super::steps::Sim;
use super::world::*;

/// A borrowed world; what the engine is generic over.
#[derive(Clone, Copy)]
pub struct View<'a>(pub &'a Sim);

impl Redirect for View<'_> {
    type Stack = Stack;
    type Func = Func;
    fn settled(&self, stack: Stack) -> Option<Func> {
        self.0.settled(stack)
    }
    fn top(&self, stack: Stack) -> Option<Func> {
        self.0.top(stack)
    }
    fn below(&self, stack: Stack, func: Func) -> Option<Func> {
        let listed = self.0.w().stacks[stack.0].iter().flatten().any(|&f| f == func);
        assert!(listed, "the engine asks what is below a function that is not on the stack");
        self.0.below(stack, func)
    }
    fn in_transition(&self, func: Func) -> bool {
        self.0.in_transition(func)
    }
    fn current_side(&self) -> Option<Side> {
        self.0.current_side()
    }
    fn is_nop(&self, func: Func) -> bool {
        self.0.is_nop(func)
    }
    fn anomaly(&self, what: Anomaly) {
        self.0.anomaly(what)
    }
}

impl Tasks for View<'_> {
    type Task = Task;
    fn side(&self, task: Task) -> Option<Side> {
        self.0.side(task)
    }
    fn set_side(&self, task: Task, side: Option<Side>) {
        self.0.set_side(task, side)
    }
    fn pending(&self, task: Task) -> bool {
        self.0.pending(task)
    }
    fn set_pending(&self, task: Task) {
        self.0.set_pending(task)
    }
    fn clear_pending(&self, task: Task) {
        self.0.clear_pending(task)
    }
    fn take_pending(&self, task: Task) -> bool {
        self.0.take_pending(task)
    }
    fn goal(&self) -> Option<Side> {
        self.0.goal()
    }
    fn set_goal(&self, goal: Option<Side>) {
        self.0.set_goal(goal)
    }
}

impl View<'_> {
    pub(super) fn w(&self) -> std::cell::Ref<'_, World> {
        self.0.tick();
        self.0.w()
    }
    pub(super) fn m(&self) -> std::cell::RefMut<'_, World> {
        self.0.tick();
        self.0.m()
    }
}
