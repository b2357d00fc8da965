// SPDX-License-Identifier: GPL-2.0-only
//! Moving every task from one side to the other.
//!
//! In: a patch whose functions shall be used, or no longer. Out: the same once each task has passed a moment when it ran
//! none of the code that changes. Hard because tasks switch by themselves meanwhile, fork and exit, and because the order
//! of four writes is what they rely on: sides, then function flags (and with them settled words), then stacks, then pending
//! flags.
//!
//! A transition is a token. [`Prepared`] can be started or cancelled, once; after the start only reversing, forcing and
//! retrying are left, and they exist only on what [`Engine::moving`] returns.

use core::cell::Cell;

use super::platform::{Anomaly, Event, Platform, Side, Stuck};
use super::ranges::find;
use super::stack::Which;
use super::task::switch_self;

/// Rounds (about a second each) between two signals to the tasks that hold a transition up.
const SIGNAL_ROUNDS: u32 = 15;

/// A transition under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move<T> {
    /// The patch that comes or goes.
    pub patch: T,
    /// Where tasks go.
    pub goal: Side,
    /// Whether tasks have ever been asked; if not, the patches to be replaced have not been told either.
    pub asked: bool,
    /// How often all tasks have been tried in vain since they were asked.
    pub rounds: u32,
}

/// What the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase<T> {
    /// All tasks agree.
    Quiet,
    /// They are on their way.
    Moving(Move<T>),
}

/// The engine: one per kernel, used under the livepatch lock except where a method says otherwise.
///
/// Its state is in cells because callbacks of a patch ask it questions while it works.
pub struct Engine<P: Platform> {
    pub(super) platform: P,
    phase: Cell<Phase<P::Patch>>,
}

/// A transition that tasks have not heard of yet.
#[must_use = "start or cancel it"]
pub(super) struct Prepared<T>(Move<T>);

impl<P: Platform> Engine<P> {
    /// An engine with nothing to do.
    pub const fn new(platform: P) -> Self {
        Engine { platform, phase: Cell::new(Phase::Quiet) }
    }

    /// An engine in the given phase; for tests that explore many futures of one moment.
    pub const fn resume(platform: P, phase: Phase<P::Patch>) -> Self {
        Engine { platform, phase: Cell::new(phase) }
    }

    /// The kernel it runs on.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase<P::Patch> {
        self.phase.get()
    }

    /// The transition under way.
    pub fn moving(&self) -> Option<Move<P::Patch>> {
        match self.phase.get() {
            Phase::Quiet => None,
            Phase::Moving(moving) => Some(moving),
        }
    }

    /// Whether it is this patch's transition.
    pub fn is_moving(&self, patch: P::Patch) -> bool {
        self.moving().is_some_and(|moving| moving.patch == patch)
    }

    /// Puts all tasks on the side they are on anyway, and makes handlers ask for it.
    ///
    /// Invariant: a function flag is set only while every task has a side, so no handler meets a task without one.
    pub(super) fn prepare(&self, patch: P::Patch, goal: Side) -> Prepared<P::Patch> {
        let p = &self.platform;
        if self.moving().is_some() {
            p.anomaly(Anomaly::NotQuiet);
        }
        let moving = Move { patch, goal, asked: false, rounds: 0 };
        self.phase.set(Phase::Moving(moving));
        p.set_moving(Some(patch));
        // Without effect until pending flags are set.
        p.set_goal(Some(goal));
        p.log(Event::Preparing(patch, goal));
        self.every_task(&mut |task| {
            if p.side(task).is_some_and(|side| side == goal) {
                p.anomaly(Anomaly::TaskNotIdle);
            }
            p.set_side(task, Some(goal.other()));
        });
        // Sides and goal before function flags, and before pending flags.
        p.write_barrier();
        self.flag_functions(patch, true);
        // Function flags before stacks (patching) and before pending flags (unpatching).
        p.write_barrier();
        Prepared(moving)
    }

    /// Asks the tasks to switch.
    pub(super) fn start(&self, prepared: Prepared<P::Patch>) {
        self.ask(prepared.0);
    }

    /// Takes the functions off again before any task was asked.
    pub(super) fn cancel(&self, prepared: Prepared<P::Patch>) {
        let p = &self.platform;
        p.log(Event::Canceling(prepared.0.patch));
        p.set_goal(Some(Side::Old));
        self.complete(Move { goal: Side::Old, ..prepared.0 });
    }

    fn ask(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        self.phase.set(Phase::Moving(Move { asked: true, rounds: 0, ..moving }));
        p.log(Event::Starting(moving.patch, moving.goal));
        // Nobody reads the table now: no task is pending.
        self.rebuild_ranges(moving);
        // Stacks and settled words before pending flags: a task that switches must not miss what it switched to.
        p.write_barrier();
        self.every_task(&mut |task| {
            if p.side(task) != Some(moving.goal) {
                p.set_pending(task);
            }
        });
        p.set_sched_hook(true);
    }

    /// Turns the transition round.
    pub(super) fn reverse(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        p.log(Event::Reversing(moving.patch, moving.goal));
        self.every_task(&mut |task| p.clear_pending(task));
        // Every task that saw its flag set has finished switching.
        p.sync();
        let back = Move { goal: moving.goal.other(), ..moving };
        p.set_enabled(moving.patch, back.goal == Side::New);
        p.set_goal(Some(back.goal));
        // The goal before pending flags.
        p.write_barrier();
        self.ask(back);
    }

    /// Switches all tasks, ready or not. The next round completes the transition.
    ///
    /// What loses its users without proof is kept for ever: the patch that goes, or those it replaces.
    pub(super) fn force_move(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        p.log(Event::Forcing);
        self.every_task(&mut |task| switch_self(p, task));
        match moving.goal {
            Side::Old => p.set_forced(moving.patch),
            Side::New => self.each_replaced(moving.patch, |old| p.set_forced(old)),
        }
    }

    /// One more round, if there is a transition.
    pub fn retry(&self) {
        if let Some(moving) = self.moving() {
            self.round(moving);
        }
    }

    /// Tries all tasks; completes when all are there.
    pub(super) fn round(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        if !self.try_all(moving.goal) {
            if moving.rounds != 0 && moving.rounds % SIGNAL_ROUNDS == 0 {
                self.signal(moving);
            }
            self.phase.set(Phase::Moving(Move { rounds: moving.rounds.wrapping_add(1), ..moving }));
            p.retry_later();
            return;
        }
        p.set_sched_hook(false);
        self.complete(moving);
        if !p.enabled(moving.patch) {
            self.retire(moving.patch);
        } else {
            self.each_replaced(moving.patch, |old| self.retire(old));
        }
    }

    /// Whether all tasks are at the goal, after trying those that are not.
    ///
    /// Stacks are read with no lock on the task list. A task that was missed (it forked behind the walk, or changed its
    /// number) is found by the second look, which only compares a word per task and so may hold that lock, for some tasks at
    /// a time. Once it finds none, there will be none: a child starts where its parent is.
    fn try_all(&self, goal: Side) -> bool {
        let p = &self.platform;
        let mut all = true;
        p.visit_tasks(&mut |task| all &= self.try_switch(task));
        p.each_idle(&mut |idle| {
            if !idle.online {
                // Nothing runs there.
                p.clear_pending(idle.task);
                p.set_side(idle.task, Some(goal));
            } else if !self.try_switch(idle.task) {
                all = false;
                p.nudge_idle(idle.cpu);
            }
        });
        if all {
            p.each_task(&mut |task| {
                all &= p.side(task) == Some(goal);
                // Asked a second time just as it switched, or the child of such a one.
                if all && p.pending(task) {
                    p.clear_pending(task);
                }
            });
        }
        all
    }

    /// Switches a task if nothing that changes is on its stack. Also called by tasks about to sleep, without the lock: it
    /// uses the shared words only.
    fn try_switch(&self, task: P::Task) -> bool {
        let p = &self.platform;
        let goal = p.goal();
        if p.side(task) == goal {
            return true;
        }
        if !p.reliable_stacks() {
            return false;
        }
        let outcome = p.inspect(task, &mut |addresses| {
            self.check(addresses)?;
            p.clear_pending(task);
            p.set_side(task, goal);
            Ok(())
        });
        match outcome {
            Ok(()) => true,
            Err(why) => {
                p.log(Event::Stuck(task, why));
                false
            }
        }
    }

    /// Whether a task with these return addresses may switch.
    fn check(&self, addresses: &[usize]) -> Result<(), Stuck<P::Func>> {
        self.platform.read_ranges(|table| match table {
            None => Err(Stuck::Unreliable),
            Some(table) => match addresses.iter().find_map(|&address| find(table, address)) {
                Some(func) => Err(Stuck::On(func)),
                None => Ok(()),
            },
        })
    }

    /// The running task is about to sleep. No lock; preemption is off.
    pub fn about_to_sleep(&self, task: P::Task) {
        let p = &self.platform;
        if p.pending(task) {
            // The flag before the goal.
            p.read_barrier();
            self.try_switch(task);
        }
    }

    /// Calls `f` for each task that holds the transition up, with the reason.
    pub fn blockers(&self, f: &mut dyn FnMut(P::Task, Stuck<P::Func>)) {
        let p = &self.platform;
        let Some(moving) = self.moving() else { return };
        let mut look = |task| {
            if p.side(task) == Some(moving.goal) {
                return;
            }
            if let Err(why) = p.inspect(task, &mut |addresses| self.check(addresses)) {
                f(task, why);
            }
        };
        p.visit_tasks(&mut look);
        p.each_idle(&mut |idle| {
            if idle.online {
                look(idle.task);
            }
        });
    }

    fn signal(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        if moving.rounds == SIGNAL_ROUNDS {
            p.log(Event::Signaling);
        }
        p.each_task(&mut |task| {
            if p.pending(task) {
                p.nudge(task);
            }
        });
    }

    /// All tasks are at the goal, or never left: make it the only side there is.
    fn complete(&self, moving: Move<P::Patch>) {
        let p = &self.platform;
        let Move { patch, goal, .. } = moving;
        p.log(Event::Completing(patch, goal));
        match goal {
            Side::New => {
                self.each_replaced(patch, |old| {
                    p.set_enabled(old, false);
                    // Its memory stays until it is retired, after the grace period below.
                    let _ = self.revert_patch(old, Which::All);
                });
                self.discard_nops(patch);
            }
            Side::Old => {
                let _ = self.revert_patch(patch, Which::All);
                // No handler may pick one of them once its flag is gone.
                p.sync();
            }
        }
        self.flag_functions(patch, false);
        if goal == Side::New {
            // No handler that saw a flag may meet a task without a side.
            p.sync();
        }
        self.every_task(&mut |task| {
            if p.pending(task) {
                p.anomaly(Anomaly::TaskNotIdle);
            }
            p.set_side(task, None);
        });
        self.run_post_hooks(moving);
        p.log(Event::Complete(patch, goal));
        p.set_goal(None);
        p.set_moving(None);
        self.phase.set(Phase::Quiet);
    }

    fn flag_functions(&self, patch: P::Patch, on: bool) {
        let p = &self.platform;
        for object in p.objects(patch) {
            for func in p.funcs(object) {
                self.flag(func, on);
            }
        }
    }

    fn every_task(&self, f: &mut dyn FnMut(P::Task)) {
        self.platform.each_task(f);
        self.platform.each_idle(&mut |idle| f(idle.task));
    }
}
