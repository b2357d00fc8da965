// SPDX-License-Identifier: GPL-2.0-only
//! The way into a patched function.
//!
//! In: the stack of replacements of one function, newest first, and the side of the task that calls. Out: the replacement
//! to run, or none for the original. Runs in any context, before the function, with no lock: it allocates nothing, takes
//! nothing, cannot panic. Hard because the lock holder changes the stack and the words around it at the same time; every
//! load below that must not move up is an acquire in the implementation.
//!
//! Nearly all calls come when no transition concerns the function. For them each stack has a settled word: the replacement
//! that every task runs, if there is one, and nothing while there may be two answers. The rules that make it enough to read
//! that one word:
//!
//! * it names the top of the stack, and only while that is not in transition (`stack.rs` writes it, the lock holder only);
//! * it is given when all tasks are on one side, so whoever sees it early sees what the long way would have found;
//! * it is taken away before any task is asked to switch. A task that sees it late has not switched: each way to switch is
//!   a full barrier or a lock between reading that it was asked and the next call.

use super::platform::{Anomaly, Side};

/// The loads that entering a patched function needs.
pub trait Redirect {
    /// One patched function's stack of replacements.
    type Stack: Copy;
    /// One replacement.
    type Func: Copy + Eq;

    /// What all tasks run, if no transition concerns this stack.
    fn settled(&self, stack: Self::Stack) -> Option<Self::Func>;
    /// The newest replacement. Ordered before [`in_transition`](Self::in_transition).
    fn top(&self, stack: Self::Stack) -> Option<Self::Func>;
    /// The replacement that `func` was put on top of.
    fn below(&self, stack: Self::Stack, func: Self::Func) -> Option<Self::Func>;
    /// Whether tasks differ about `func`. Ordered before [`current_side`](Self::current_side).
    fn in_transition(&self, func: Self::Func) -> bool;
    /// Which side the running task is on; `None` when no transition knows it.
    fn current_side(&self) -> Option<Side>;
    /// Whether `func` stands for the original.
    fn is_nop(&self, func: Self::Func) -> bool;
    /// Something that cannot happen has happened; report it once.
    fn anomaly(&self, what: Anomaly);
}

/// Picks what the running task shall run in place of the function that owns `stack`; `None` is the original.
///
/// Invariant: while `func.in_transition`, at most one replacement (the one that moves) stands above what the task ran
/// before, so one step down is the whole of history.
#[inline(always)]
pub fn redirect<R: Redirect>(r: &R, stack: R::Stack) -> Option<R::Func> {
    if let Some(func) = r.settled(stack) {
        return Some(func);
    }
    let Some(mut func) = r.top(stack) else {
        r.anomaly(Anomaly::EmptyStack);
        return None;
    };
    if r.in_transition(func) {
        match r.current_side() {
            Some(Side::New) => {}
            Some(Side::Old) => func = r.below(stack, func)?,
            // The function flag is cleared, and seen cleared by all, before any task forgets its side.
            None => r.anomaly(Anomaly::SideUnknown),
        }
    }
    if r.is_nop(func) {
        None
    } else {
        Some(func)
    }
}
