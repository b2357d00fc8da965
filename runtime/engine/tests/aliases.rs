// SPDX-License-Identifier: GPL-2.0-only
//! One function with several names.
//!
//! In: patches that replace the function at one address by different names, as `__do_sys_getpid` and `__x64_sys_getpid`.
//! Out: what counts is the address. Sets do not share it, no no-op hides what its own patch puts there, a patch has it once;
//! also where the address is known only when a module is loaded.

mod sim;

use klp_engine::{Errno, Phase, Scope, Side};
use sim::*;

/// Names 0 and 1 are one function of the kernel, 3 and 4 one of the module; 2 is the kernel's, 5 the module's.
fn world(patches: &[PatchData]) -> World {
    let mut world = World::new(&[None, None, None, Some(0), Some(0), Some(0)], patches, 2, 0);
    (world.at[1], world.at[4]) = (0, 3);
    world
}

/// All tasks leave the kernel, and the transition ends.
fn settle(sim: &Sim) {
    for task in [Task(0), Task(1)] {
        while !sim.world.borrow().tasks[task.0].is_outside() {
            sim.ret(task);
        }
        sim.leave_kernel(task);
    }
    sim.engine(|e| e.retry());
    assert!(matches!(sim.world.borrow().phase, Phase::Quiet));
    check(&sim.world.borrow());
}

fn enable(sim: &Sim, patch: Patch) -> Result<(), Errno> {
    let result = sim.enable(patch);
    if result.is_ok() {
        settle(sim);
    }
    check(&sim.world.borrow());
    result
}

/// What runs when a task that is outside calls the function: a replacement by that patch, or the original.
fn runs(sim: &Sim, task: Task, name: usize) -> Option<Patch> {
    sim.call(task, name);
    let world = sim.world.borrow();
    let patch = match code_at(*world.tasks[task.0].frames.last().expect("it is called")) {
        Code::Original(_) => None,
        Code::Replacement(func) => Some(world.func(func).patch),
    };
    drop(world);
    sim.ret(task);
    patch
}

const A: Patch = Patch(0);
const B: Patch = Patch(1);
const C: Patch = Patch(2);

/// The second of two sets is refused; were it not, its fix would be gone while the first is replaced.
#[test]
fn two_sets_do_not_share_an_address() {
    let a = patch(Scope::Set(1), &[(None, &[0])], &[]);
    let b = patch(Scope::Set(2), &[(None, &[1])], &[]);
    let next = patch(Scope::Set(1), &[(None, &[2])], &[]);
    let sim = Sim::quiet(world(&[a, b, next]));
    enable(&sim, A).unwrap();
    assert_eq!(enable(&sim, B), Err(Errno::INVAL));
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 1)), (Some(A), Some(A)));
    enable(&sim, C).unwrap();
    sim.world.borrow_mut().finish(A);
    // Nobody has it any more.
    enable(&sim, B).unwrap();
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 2)), (Some(B), Some(C)));
}

/// Different functions of two sets do live side by side, and a set may change the name by which it replaces one.
#[test]
fn other_addresses_are_free() {
    let a = patch(Scope::Set(1), &[(None, &[0]), (Some(0), &[3])], &[]);
    let b = patch(Scope::Set(2), &[(None, &[2]), (Some(0), &[5])], &[]);
    let next = patch(Scope::Set(1), &[(None, &[1]), (Some(0), &[4])], &[]);
    let sim = Sim::quiet(world(&[a, b, next]));
    enable(&sim, A).unwrap();
    enable(&sim, B).unwrap();
    assert!(sim.module_coming(Module(0)));
    enable(&sim, C).unwrap();
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 2)), (Some(C), Some(B)));
    assert_eq!((runs(&sim, Task(0), 3), runs(&sim, Task(0), 5)), (Some(C), Some(B)));
}

/// The new patch has the function by another name: the no-op for the old name must not hide it from tasks that switched.
fn replaced_by_another_name(scope: Scope) {
    let a = patch(scope, &[(None, &[0]), (Some(0), &[3])], &[]);
    let b = patch(scope, &[(None, &[1]), (Some(0), &[4])], &[]);
    let sim = Sim::quiet(world(&[a, b]));
    enable(&sim, A).unwrap();
    // The module comes and goes in the middle of it, too.
    for there_before in [true, false] {
        if there_before {
            assert!(sim.module_coming(Module(0)));
        }
        let (old, new) = if there_before { (A, B) } else { (B, A) };
        sim.call(Task(1), 1);
        sim.enable(new).unwrap();
        if !there_before {
            sim.ret(Task(0));
            sim.module_going(Module(0));
            assert!(sim.module_coming(Module(0)));
        }
        sim.leave_kernel(Task(0));
        sim.engine(|e| e.retry());
        assert!(matches!(sim.world.borrow().phase, Phase::Moving(m) if m.goal == Side::New));
        check(&sim.world.borrow());
        for name in [0, 1, 3, 4] {
            assert_eq!(runs(&sim, Task(0), name), Some(new), "name {name} on the new side");
        }
        sim.ret(Task(1));
        for name in [0, 1, 3, 4] {
            assert_eq!(runs(&sim, Task(1), name), Some(old), "name {name} on the old side");
        }
        settle(&sim);
        assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 3)), (Some(new), Some(new)));
        sim.world.borrow_mut().finish(old);
    }
}

#[test]
fn everything_is_replaced_by_another_name() {
    replaced_by_another_name(Scope::Everything);
}

#[test]
fn a_set_is_replaced_by_another_name() {
    replaced_by_another_name(Scope::Set(1));
}

/// Stacked patches by two names, replaced by one that has neither: one no-op is enough, and two do not pile up.
#[test]
fn two_no_ops_for_one_address() {
    let a = patch(Scope::Nothing, &[(None, &[0])], &[]);
    let b = patch(Scope::Nothing, &[(None, &[1])], &[]);
    let all = patch(Scope::Everything, &[(None, &[2])], &[]);
    let sim = Sim::quiet(world(&[a, b, all]));
    enable(&sim, A).unwrap();
    enable(&sim, B).unwrap();
    assert_eq!(runs(&sim, Task(0), 0), Some(B));
    sim.call(Task(1), 0);
    sim.enable(C).unwrap();
    sim.leave_kernel(Task(0));
    sim.engine(|e| e.retry());
    check(&sim.world.borrow());
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 1)), (None, None));
    sim.ret(Task(1));
    assert_eq!((runs(&sim, Task(1), 0), runs(&sim, Task(1), 1)), (Some(B), Some(B)));
    // Back again, and then to the end.
    sim.engine(|e| e.request(C, false)).unwrap();
    sim.leave_kernel(Task(0));
    check(&sim.world.borrow());
    assert_eq!(runs(&sim, Task(0), 1), Some(B));
    sim.engine(|e| e.request(C, true)).unwrap();
    settle(&sim);
    assert_eq!(runs(&sim, Task(0), 0), None);
}

/// One patch that replaces a function twice, by two names: which of them is meant? If both are the same code, none is wrong.
#[test]
fn one_patch_has_an_address_once() {
    let a = patch(Scope::Nothing, &[(None, &[0, 1, 2])], &[]);
    let b = patch(Scope::Nothing, &[(None, &[0]), (Some(0), &[3, 4])], &[]);
    let two = world(&[a, b]);
    let sim = Sim::quiet(two.clone());
    assert_eq!(enable(&sim, A), Err(Errno::INVAL));
    enable(&sim, B).unwrap();
    assert!(!sim.module_coming(Module(0)), "the module's function is replaced twice");
    check(&sim.world.borrow());
    assert_eq!(runs(&sim, Task(0), 0), Some(B));

    let sim = Sim::quiet(World { one_code: true, ..two });
    enable(&sim, A).unwrap();
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 1), runs(&sim, Task(0), 2)), (Some(A), Some(A), Some(A)));
    enable(&sim, B).unwrap();
    assert!(sim.module_coming(Module(0)));
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 3), runs(&sim, Task(0), 4)), (Some(B), Some(B), Some(B)));
    sim.engine(|e| e.request(B, false)).unwrap();
    settle(&sim);
    sim.engine(|e| e.request(A, false)).unwrap();
    settle(&sim);
    assert_eq!((runs(&sim, Task(0), 0), runs(&sim, Task(0), 4)), (None, None));
}

/// Two sets that meet in a module that is not loaded are both enabled; the module is refused while they are.
#[test]
fn two_sets_meet_in_a_module_that_comes() {
    let a = patch(Scope::Set(1), &[(Some(0), &[3])], &[]);
    let b = patch(Scope::Set(2), &[(Some(0), &[4])], &[]);
    let sim = Sim::quiet(world(&[a, b]));
    enable(&sim, A).unwrap();
    enable(&sim, B).unwrap();
    assert!(!sim.module_coming(Module(0)));
    check(&sim.world.borrow());
    sim.engine(|e| e.request(B, false)).unwrap();
    settle(&sim);
    sim.world.borrow_mut().finish(B);
    assert!(sim.module_coming(Module(0)));
    assert_eq!(runs(&sim, Task(0), 4), Some(A));
    // Now it is seen at once.
    assert_eq!(enable(&sim, B), Err(Errno::INVAL));
}

/// Relocations that could not be written are not cleared; those that were are, when something else fails.
#[test]
fn a_refused_module_leaves_no_relocations() {
    let a = patch(Scope::Set(1), &[(Some(0), &[3])], &[]);
    let b = patch(Scope::Set(2), &[(Some(0), &[5])], &[]);
    let sim = Sim::quiet(world(&[a, b]));
    enable(&sim, A).unwrap();
    enable(&sim, B).unwrap();
    sim.world.borrow_mut().unwritable = true;
    assert!(!sim.module_coming(Module(0)));
    sim.world.borrow_mut().refuse = true;
    assert!(!sim.module_coming(Module(0)));
    assert!(sim.world.borrow().objects.iter().flatten().all(|object| !object.relocated && !object.tied));
    assert!(sim.module_coming(Module(0)));
    check(&sim.world.borrow());
}
