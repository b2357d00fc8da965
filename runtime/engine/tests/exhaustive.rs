// SPDX-License-Identifier: GPL-2.0-only
//! Every future of a small world.
//!
//! In: two patches, three tasks, a module that comes and goes, every request at every moment. Out: the rules hold in all
//! reachable worlds, and from each of them a transition ends once all tasks leave the kernel. Requests are atomic here, as
//! they are under the lock; what happens between their steps is for `random.rs`.

mod sim;

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use klp_engine::{Phase, Scope, Side, Stuck};
use sim::*;

/// A step of the small world.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enable(Patch, bool),
    Request(Patch, bool),
    Force(Patch),
    Retry,
    Coming(Module, bool),
    Going(Module),
    Finish(Patch),
    Call(Task, usize),
    Return(Task),
    LeaveKernel(Task),
    Sleep(Task),
}

/// Takes a step if it is possible; the world after it.
fn take(world: &World, step: Step) -> Option<World> {
    let possible = match step {
        Step::Enable(p, _) => world.patches[p.0].life == Life::Absent,
        Step::Request(p, _) | Step::Force(p) => world.patches[p.0].life == Life::Held,
        Step::Retry => world.retry,
        Step::Coming(m, _) => !world.modules[m.0].alive,
        Step::Going(m) => world.modules[m.0].running,
        Step::Finish(p) => world.patches[p.0].life == Life::LettingGo,
        Step::Call(t, name) => {
            world.tasks[t.0].frames.is_empty() && world.home[name].is_none_or(|m| world.modules[m.0].running)
        }
        Step::Return(t) => !world.tasks[t.0].frames.is_empty(),
        Step::LeaveKernel(t) => world.tasks[t.0].frames.is_empty() && world.tasks[t.0].pending,
        Step::Sleep(t) => world.hook && world.tasks[t.0].pending,
    };
    if !possible {
        return None;
    }
    let sim = Sim::quiet(world.clone());
    match step {
        Step::Enable(p, refuse) => {
            sim.world.borrow_mut().refuse = refuse;
            let _ = sim.enable(p);
            sim.world.borrow_mut().refuse = false;
        }
        Step::Request(p, on) => {
            let _ = sim.engine(|e| e.request(p, on));
        }
        Step::Force(p) => {
            if sim.engine(|e| e.force(p)).is_ok() {
                sim.world.borrow_mut().tainted = true;
            }
        }
        Step::Retry => {
            sim.world.borrow_mut().retry = false;
            sim.engine(|e| e.retry());
        }
        Step::Coming(m, refuse) => {
            sim.world.borrow_mut().refuse = refuse;
            sim.module_coming(m);
            sim.world.borrow_mut().refuse = false;
        }
        Step::Going(m) => {
            if sim.is_in_use(m) {
                return None;
            }
            sim.module_going(m);
        }
        Step::Finish(p) => sim.world.borrow_mut().finish(p),
        Step::Call(t, name) => sim.call(t, name),
        Step::Return(t) => sim.ret(t),
        Step::LeaveKernel(t) => sim.leave_kernel(t),
        Step::Sleep(t) => sim.doze(t),
    }
    assert_eq!(sim.looks_under_lock.get(), 0, "a stack was read while the task list was held");
    Some(sim.world.into_inner())
}

/// All tasks leave the kernel; then one round must end the transition.
fn ends(world: &World) {
    if matches!(world.phase, Phase::Quiet) {
        return;
    }
    let mut world = world.clone();
    for task in &mut world.tasks {
        task.frames.clear();
    }
    assert!(world.retry, "a transition waits for nothing");
    let sim = Sim::quiet(world);
    sim.engine(|e| e.retry());
    let world = sim.world.into_inner();
    assert!(matches!(world.phase, Phase::Quiet), "a transition does not end: {world:#?}");
    check(&world);
}

/// The tasks that are said to hold the transition up are those that the next round leaves behind, and they are where they
/// are said to be.
fn blockers_are_told(world: &World) {
    let sim = Sim::quiet(world.clone());
    let mut told = Vec::new();
    sim.engine(|e| {
        e.blockers(&mut |task, why| {
            let Stuck::On(func) = why else { panic!("{task:?} is stuck for another reason: {why:?}") };
            told.push((task, func));
        });
    });
    assert_eq!(sim.world.borrow().clone(), *world, "a look at a transition changes it");
    let Phase::Moving(moving) = world.phase else {
        assert!(told.is_empty(), "tasks hold up what is not there");
        return;
    };
    assert!(told.iter().all(|&(_, func)| world.func(func).patch == moving.patch), "{told:?} is not of {moving:?}");
    sim.engine(|e| e.retry());
    let after = sim.world.into_inner();
    let mut left: Vec<Task> = Vec::new();
    if let Phase::Moving(_) = after.phase {
        let goal = moving.goal == Side::New;
        left.extend(
            (0..after.tasks.len()).map(Task).filter(|t| after.tasks[t.0].alive && after.tasks[t.0].side != Some(goal)),
        );
    }
    told.sort_by_key(|(task, _)| task.0);
    assert_eq!(told.iter().map(|&(task, _)| task).collect::<Vec<_>>(), left, "{world:#?}");
}

fn explore(start: World) -> (usize, usize) {
    let patches: Vec<Patch> = (0..start.patches.len()).map(Patch).collect();
    let modules: Vec<Module> = (0..start.modules.len()).map(Module).collect();
    let mut steps = vec![Step::Retry];
    for &p in &patches {
        steps.extend([Step::Enable(p, false), Step::Enable(p, true), Step::Force(p), Step::Finish(p)]);
        steps.extend([Step::Request(p, false), Step::Request(p, true)]);
    }
    for &m in &modules {
        steps.extend([Step::Coming(m, false), Step::Coming(m, true), Step::Going(m)]);
    }
    for t in (0..start.tasks.len()).map(Task) {
        steps.extend((0..start.home.len()).map(|name| Step::Call(t, name)));
        steps.extend([Step::Return(t), Step::LeaveKernel(t), Step::Sleep(t)]);
    }
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([start.canonical()]);
    let mut taken = 0;
    while let Some(world) = queue.pop_front() {
        for &step in &steps {
            // After a forced transition stacks may be anything: follow it to its end, but begin nothing new.
            if world.tainted && matches!(step, Step::Enable(..) | Step::Call(..)) {
                continue;
            }
            let Some(next) = take(&world, step) else { continue };
            taken += 1;
            let next = next.canonical();
            let mut hasher = DefaultHasher::new();
            next.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                check(&next);
                ends(&next);
                blockers_are_told(&next);
                queue.push_back(next);
            }
        }
    }
    (seen.len(), taken)
}

/// Name 0 is in the kernel and in both patches, name 1 in the module and in the first only, so the second needs a no-op
/// for it.
fn overlapping(first: Scope, second: Scope, states: [&[(u64, u32)]; 2]) -> World {
    let a = patch(first, &[(None, &[0]), (Some(0), &[1])], states[0]);
    let b = patch(second, &[(None, &[0])], states[1]);
    World::new(&[None, Some(0)], &[a, b], 3, 0)
}

/// The stock kernel's two kinds: one patch stacks, the other replaces everything.
#[test]
fn stacking_and_replacing() {
    let (worlds, steps) = explore(overlapping(Scope::Nothing, Scope::Everything, [&[], &[]]));
    println!("stacking and replacing: {worlds} worlds, {steps} steps");
    assert!(worlds > 10_000);
}

/// Two patches of one set: each replaces the other, with no-ops one way; the second has a state that the first has not.
#[test]
fn one_set() {
    let (worlds, steps) = explore(overlapping(Scope::Set(1), Scope::Set(1), [&[(1, 1)], &[(1, 1), (2, 1)]]));
    println!("one set: {worlds} worlds, {steps} steps");
    assert!(worlds > 10_000);
}

/// Two sets that modify different functions live side by side, in any order.
#[test]
fn two_sets() {
    let a = patch(Scope::Set(1), &[(None, &[0]), (Some(0), &[1])], &[(1, 1)]);
    let b = patch(Scope::Set(2), &[(None, &[2])], &[(2, 1)]);
    let (worlds, steps) = explore(World::new(&[None, Some(0), None], &[a, b], 3, 0));
    println!("two sets: {worlds} worlds, {steps} steps");
    assert!(worlds > 10_000);
}

/// One patch replaces the other, and both have a function of the kernel and one of the module by different names: nothing is
/// mixed, and no no-op hides what was put there.
#[test]
fn another_name() {
    let a = patch(Scope::Everything, &[(None, &[0]), (Some(0), &[2])], &[]);
    let b = patch(Scope::Everything, &[(None, &[1]), (Some(0), &[3])], &[]);
    let mut start = World::new(&[None, None, Some(0), Some(0)], &[a, b], 3, 0);
    (start.at[1], start.at[3]) = (0, 2);
    let (worlds, steps) = explore(start);
    println!("another name: {worlds} worlds, {steps} steps");
    assert!(worlds > 10_000);
}

/// Two sets that have a function of the module by different names: the module and both of them are never there together.
#[test]
fn two_sets_by_two_names() {
    let a = patch(Scope::Set(1), &[(None, &[0]), (Some(0), &[1])], &[]);
    let b = patch(Scope::Set(2), &[(Some(0), &[2])], &[]);
    let mut start = World::new(&[None, Some(0), Some(0)], &[a, b], 3, 0);
    start.at[2] = 1;
    let (worlds, steps) = explore(start);
    println!("two sets by two names: {worlds} worlds, {steps} steps");
    assert!(worlds > 5_000);
}
