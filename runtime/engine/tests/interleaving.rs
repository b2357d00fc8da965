// SPDX-License-Identifier: GPL-2.0-only
//! The engine against one task, every interleaving of their loads and stores, in every order that memory may show them.
//!
//! In: one task that calls a function and leaves the kernel, the real engine in a second thread (`tiny`). Out: between two
//! points where the task may switch it sees one version only, having switched it sees the other, and no handler meets a
//! task without a side; so the settled word, which handlers read first, is there and gone at the right times. Each part
//! that this rests on is left out once, and the test must fail.
//!
//! Not covered: smp_wmb() is a C11 release fence and the handler's loads are acquires, which is what the binding does but
//! a little stronger than the kernel's model; dependency ordering is not modelled; more than one task is left to `random.rs`.

mod tiny;

use klp_engine::{Engine, Side};
use loom::sync::Arc;
use tiny::{Tiny, Without};

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Enables a patch with the task taking part, no race.
fn enable_quietly(tiny: &Tiny, engine: &Engine<&Tiny>, patch: u8) {
    engine.enable(patch).unwrap();
    tiny.leave_kernel();
    engine.retry();
    assert!(engine.moving().is_none());
}

/// The end of a race: the task leaves the kernel once more, which must be enough.
fn settle(tiny: &Tiny, engine: &Engine<&Tiny>) {
    if engine.moving().is_some() {
        tiny.leave_kernel();
        engine.retry();
    }
    assert!(engine.moving().is_none(), "the transition does not end");
}

/// The task calls, leaves the kernel and calls twice while `patch` is enabled, over `before` older patches.
fn enabling_over(before: u8, without: Without) {
    explore(move || {
        let tiny = Arc::new(Tiny::new(without));
        let engine = Engine::new(&*tiny);
        (0..before).for_each(|patch| enable_quietly(&tiny, &engine, patch));
        tiny.count_barriers();
        let old = before.checked_sub(1);
        let new = Some(before);
        let task = {
            let tiny = tiny.clone();
            loom::thread::spawn(move || {
                assert_eq!(tiny.call(), old, "new before the first switch");
                let side = tiny.leave_kernel();
                let (second, third) = (tiny.call(), tiny.call());
                match side {
                    Some(Side::New) => assert_eq!((second, third), (new, new), "old after the switch"),
                    // Quiet, too: the transition may not have begun, or be over already.
                    _ => assert!(second == third || third == new, "old after new"),
                }
            })
        };
        engine.enable(before).unwrap();
        task.join().unwrap();
        settle(&tiny, &engine);
        assert_eq!(tiny.call(), new, "old after the transition");
    });
}

/// The same while the newest of `patches` patches is disabled.
fn disabling_of(patches: u8, without: Without) {
    explore(move || {
        let tiny = Arc::new(Tiny::new(without));
        let engine = Engine::new(&*tiny);
        (0..patches).for_each(|patch| enable_quietly(&tiny, &engine, patch));
        tiny.count_barriers();
        let top = patches - 1;
        let (new, old) = (Some(top), top.checked_sub(1));
        let task = {
            let tiny = tiny.clone();
            loom::thread::spawn(move || {
                assert_eq!(tiny.call(), new, "old before the switch");
                let side = tiny.leave_kernel();
                let (second, third) = (tiny.call(), tiny.call());
                match side {
                    Some(Side::Old) => assert_eq!((second, third), (old, old), "new after the switch"),
                    _ => assert!(second == third || third == old, "new after old"),
                }
            })
        };
        engine.request(top, false).unwrap();
        task.join().unwrap();
        settle(&tiny, &engine);
        assert_eq!(tiny.call(), old, "new after the transition");
    });
}

/// No interleaving shows the new version to a task that has not switched, or a task without a side to a handler.
#[test]
fn enabling() {
    enabling_over(0, Without::Nothing);
}

/// The same where another patch is settled: its word is gone before a task that switched can call.
#[test]
fn enabling_over_another() {
    enabling_over(1, Without::Nothing);
}

/// The new version until the task leaves the kernel, the old one after, and never a closed stack's function.
#[test]
fn disabling() {
    disabling_of(1, Without::Nothing);
}

/// The same where another patch is below: its word is back when no task needs the side any more.
#[test]
fn disabling_over_another() {
    disabling_of(2, Without::Nothing);
}

/// Without any barrier the test sees the difference.
#[test]
#[should_panic]
fn enabling_needs_its_barriers() {
    enabling_over(0, Without::Barriers);
}

/// Sides before function flags: a handler would meet a task without a side.
#[test]
#[should_panic]
fn sides_come_before_flags() {
    disabling_of(1, Without::Barrier(1));
}

/// Function flags before stacks: a handler would take the new function for a settled one.
#[test]
#[should_panic]
fn flags_come_before_stacks() {
    enabling_over(0, Without::Barrier(2));
}

/// Stacks and settled words before pending flags: a task that switched would still see the word of the older patch.
#[test]
#[should_panic]
fn words_go_before_tasks_are_asked() {
    enabling_over(1, Without::Barrier(3));
}

/// A settled word that stays would hide the patch above it.
#[test]
#[should_panic]
fn words_are_taken_away() {
    enabling_over(1, Without::Withdrawal);
}

/// One that stays would keep tasks in a patch that goes.
#[test]
#[should_panic]
fn words_of_a_patch_that_goes_are_taken_away() {
    disabling_of(1, Without::Withdrawal);
}

/// One that is given before all tasks have switched would take the others along.
#[test]
#[should_panic]
fn words_wait_for_all_tasks() {
    enabling_over(1, Without::Patience);
}
