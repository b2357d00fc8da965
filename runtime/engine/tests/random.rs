// SPDX-License-Identifier: GPL-2.0-only
//! Random schedules: tasks run between any two steps of the engine.
//!
//! In: seeds. Out: the rules hold after every request, nothing that a handler may hold is freed, and every transition ends.
//! Handlers are atomic here and memory is in order; `interleaving.rs` splits them and reorders.

mod sim;

use klp_engine::{Phase, Scope};
use sim::*;

/// Four patches in two sets and one for everything's sake; functions in the kernel and in two modules. In half of the worlds
/// two functions have a second name, which some patches know them by.
fn world(kind: u64, tasks: usize) -> World {
    let scopes = match kind % 3 {
        0 => [Scope::Nothing, Scope::Everything, Scope::Nothing, Scope::Everything],
        1 => [Scope::Set(1), Scope::Set(1), Scope::Set(2), Scope::Set(2)],
        _ => [Scope::Set(1), Scope::Set(1), Scope::Set(1), Scope::Set(2)],
    };
    let states: [&[(u64, u32)]; 4] =
        if kind % 3 == 1 { [&[(1, 1)], &[(1, 1), (2, 1)], &[(3, 1)], &[]] } else { [&[], &[], &[], &[]] };
    let second_names = kind / 12 % 2 == 1;
    let plans: [&[(Option<usize>, &[usize])]; 4] = [
        &[(None, &[0, 1]), (Some(0), &[3])],
        if second_names { &[(None, &[6]), (Some(1), &[4])] } else { &[(None, &[0]), (Some(1), &[4])] },
        match (kind % 3 == 1, second_names) {
            // In two sets these must not touch what the first two do; by the second name that shows when the module comes.
            (true, false) => &[(None, &[2]), (Some(0), &[5])],
            (true, true) => &[(None, &[2]), (Some(0), &[7])],
            (false, false) => &[(None, &[1, 2]), (Some(0), &[3, 5])],
            (false, true) => &[(None, &[1, 2]), (Some(0), &[7, 5])],
        },
        &[(None, &[2])],
    ];
    let patches: Vec<PatchData> = (0..4).map(|i| patch(scopes[i], plans[i], states[i])).collect();
    let mut world = World::new(&[None, None, None, Some(0), Some(1), Some(0), None, Some(0)], &patches, tasks, 2);
    (world.at[6], world.at[7]) = (0, 3);
    world
}

/// One run: `steps` requests with everybody running all the time. Returns how many transitions it completed.
fn run(seed: u64, tasks: usize, steps: usize) -> usize {
    let random = Random::new(seed);
    let force = seed.is_multiple_of(4);
    let sim = Sim::busy(world(seed, tasks), seed ^ 0xabcd);
    let mut completed = 0;
    for _ in 0..steps {
        let patch = Patch(random.below(4));
        let module = Module(random.below(2));
        let life = sim.world.borrow().patches[patch.0].life;
        let was_moving = matches!(sim.world.borrow().phase, Phase::Moving(_));
        match random.below(12) {
            0..=2 if life == Life::Absent => {
                sim.world.borrow_mut().refuse = random.below(8) == 0;
                let _ = sim.enable(patch);
                sim.world.borrow_mut().refuse = false;
            }
            3 | 4 if life == Life::Held => {
                let on = random.below(2) == 0;
                let _ = sim.engine(|e| e.request(patch, on));
            }
            5 if force && life == Life::Held => {
                if sim.engine(|e| e.force(patch)).is_ok() {
                    sim.world.borrow_mut().tainted = true;
                }
            }
            6 if life == Life::LettingGo => sim.world.borrow_mut().finish(patch),
            7 if !sim.world.borrow().modules[module.0].alive => {
                sim.module_coming(module);
            }
            8 if sim.world.borrow().modules[module.0].running => {
                sim.world.borrow_mut().modules[module.0].running = false;
                if sim.is_in_use(module) {
                    sim.world.borrow_mut().modules[module.0].running = true;
                } else {
                    sim.module_going(module);
                }
            }
            9 if was_moving => drain(&sim),
            _ => sim.engine(|e| e.retry()),
        }
        let world = sim.world.borrow();
        check(&world);
        completed += usize::from(was_moving && matches!(world.phase, Phase::Quiet));
    }
    drain(&sim);
    completed
}

/// Tasks leave the kernel one after the other; the transition ends.
fn drain(sim: &Sim) {
    for _ in 0..200 {
        if matches!(sim.world.borrow().phase, Phase::Quiet) {
            break;
        }
        let tasks = sim.world.borrow().tasks.len();
        for task in (0..tasks).map(Task) {
            while !sim.world.borrow().tasks[task.0].is_outside() {
                sim.ret(task);
            }
            sim.leave_kernel(task);
        }
        sim.engine(|e| e.retry());
    }
    let world = sim.world.borrow();
    assert!(matches!(world.phase, Phase::Quiet), "a transition does not end");
    check(&world);
}

/// Few tasks, many schedules: what goes wrong between two steps goes wrong here.
#[test]
fn many_schedules() {
    let completed: usize = (1..=2000).map(|seed| run(seed, 5, 60)).sum();
    println!("{completed} transitions completed");
    assert!(completed > 2000);
}

/// Thousands of tasks, forking and exiting while they are moved.
#[test]
fn many_tasks() {
    let completed: usize = (1..=4).map(|seed| run(seed * 5 + 1, 2500, 80)).sum();
    println!("{completed} transitions completed");
    assert!(completed > 6);
}
