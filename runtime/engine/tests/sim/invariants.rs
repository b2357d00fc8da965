// SPDX-License-Identifier: GPL-2.0-only
//! What must hold whenever the engine is not at work.
//!
//! In: a world. Out: a panic that says which rule it breaks.

use std::collections::BTreeMap;

use klp_engine::{Phase, Scope, Side};

use super::world::*;

/// Panics if the world breaks a rule.
pub fn check(world: &World) {
    code_is_there(world);
    stacks_hold_what_is_applied(world);
    callbacks_balance(world);
    match world.phase {
        Phase::Quiet => {
            assert_eq!(world.shown, None, "a transition is shown that is over");
            quiet(world);
        }
        Phase::Moving(moving) => {
            assert_eq!(world.shown, Some(moving.patch), "a transition is not shown");
            consistent(world, moving.patch, moving.goal);
        }
    }
    if !world.tainted {
        one_patch_per_set(world);
    }
}

/// No task will return into code that is gone.
fn code_is_there(world: &World) {
    for task in &world.tasks {
        for address in task.places() {
            if let Code::Replacement(func) = code_at(address) {
                assert!(world.funcs[func.0].is_some(), "a task runs in freed code: {world:#?}");
            }
        }
    }
}

fn stacks_hold_what_is_applied(world: &World) {
    for (place, stack) in world.stacks.iter().enumerate() {
        let stack = stack.as_deref().unwrap_or_default();
        for &func in stack {
            let data = world.func(func);
            assert_eq!(world.at[data.name], place);
            assert!(data.applied && data.resolved, "on a stack but not applied: {data:?}");
            assert!(world.list.contains(&data.patch), "on a stack but its patch is not listed");
        }
        let applied = world.funcs.iter().flatten().filter(|f| f.applied && world.at[f.name] == place).count();
        assert_eq!(applied, stack.len(), "applied but not on a stack");
        let agreed = stack.first().copied().filter(|&f| !world.func(f).transition && !world.func(f).nop);
        assert_eq!(world.settled[place], agreed, "the settled word is not what all tasks run");
    }
}

/// A task outside of all transitions is on no side, and nothing asks.
fn quiet(world: &World) {
    assert!(world.goal.is_none() && !world.hook);
    assert!(world.tasks.iter().filter(|t| t.alive).all(|t| t.side.is_none() && !t.pending), "{world:#?}");
    assert!(world.funcs.iter().flatten().all(|f| !f.transition && !f.nop), "{world:#?}");
    assert!(world.objects.iter().flatten().all(|o| !o.dynamic));
    for patch in &world.list {
        assert!(world.patches[patch.0].enabled, "a listed patch is not enabled, and nothing moves");
    }
    // Replaced or disabled code is on no stack, or the patch was forced.
    for task in world.tasks.iter().filter(|t| t.alive) {
        for address in task.places() {
            if let Code::Replacement(func) = code_at(address) {
                let patch = world.func(func).patch;
                let data = &world.patches[patch.0];
                assert!(
                    data.enabled || data.forced,
                    "a task is in the code of {patch:?}, which is gone; list {:?}, stacks {:?}, {task:?}, {data:?}",
                    world.list,
                    world.stacks
                );
            }
        }
    }
}

/// While a patch moves, all a task has on its stack of the functions it changes is of the side the task is on: it never
/// sees old and new mixed between two points where it may switch.
fn consistent(world: &World, moving: Patch, goal: Side) {
    assert_eq!(world.goal, Some(goal));
    let changed: BTreeMap<usize, Func> = world
        .funcs
        .iter()
        .enumerate()
        .filter_map(|(i, f)| f.as_ref().map(|f| (Func(i), f)))
        // Where another patch stands above it, tasks do not see it come or go.
        .filter(|(i, f)| f.patch == moving && world.stacks[world.at[f.name]].iter().flatten().next() == Some(i))
        .map(|(i, f)| (world.at[f.name], i))
        .collect();
    for task in world.tasks.iter().filter(|t| t.alive) {
        let side = task.side.expect("a task in a transition has a side");
        let goal_side = goal == Side::New;
        assert!(side == goal_side || task.pending || world.phase_is_new(), "nobody asks a task to switch: {world:#?}");
        if world.tainted {
            continue;
        }
        for address in task.places() {
            let (place, new) = match code_at(address) {
                Code::Original(place) => (place, changed.get(&place).is_some_and(|&f| world.func(f).nop)),
                Code::Replacement(func) => (world.place(func), world.func(func).patch == moving),
            };
            // A no-op and the original are one code; either side may be in it where nothing else was before.
            let ambiguous =
                changed.get(&place).is_some_and(|&f| world.func(f).nop) && !has_previous(world, place, moving);
            if changed.contains_key(&place) && !ambiguous {
                assert_eq!(
                    new, side,
                    "old and new of {moving:?} are mixed on {task:?}: {:?}, {:?}, list {:?}",
                    world.phase, world.stacks, world.list
                );
            }
        }
    }
}

fn has_previous(world: &World, place: usize, moving: Patch) -> bool {
    world.stacks[place].iter().flatten().any(|&f| world.func(f).patch != moving)
}

fn one_patch_per_set(world: &World) {
    let mut enabled: BTreeMap<u32, usize> = BTreeMap::new();
    for patch in &world.list {
        if let Scope::Set(set) = world.patches[patch.0].scope {
            *enabled.entry(set).or_default() += 1;
        }
    }
    let most = if matches!(world.phase, Phase::Quiet) { 1 } else { 2 };
    assert!(enabled.values().all(|&n| n <= most), "a set has more patches than it may");
    // Functions of different sets never share a stack.
    for stack in world.stacks.iter().flatten() {
        let mut scopes = stack.iter().map(|&f| world.patches[world.func(f).patch.0].scope);
        if let Some(first) = scopes.next() {
            assert!(scopes.all(|s| !s.apart(first)), "two sets share a function");
        }
    }
}

/// A state is there at most once; in quiet times exactly the states of enabled patches are.
fn callbacks_balance(world: &World) {
    assert!(world.lives.iter().all(|&(_, n)| n == 1), "a state came twice, or went twice: {:?}", world.lives);
    if matches!(world.phase, Phase::Quiet) {
        let mut declared: Vec<u64> =
            world.list.iter().flat_map(|p| world.patches[p.0].states.iter().map(|s| s.0)).collect();
        declared.sort_unstable();
        declared.dedup();
        let there: Vec<u64> = world.lives.iter().map(|&(id, _)| id).collect();
        if world.list.iter().all(|p| world.patches[p.0].scope != Scope::Nothing) {
            assert_eq!(there, declared, "states and enabled patches do not agree");
        }
    }
}

impl World {
    /// Tasks have not been asked yet.
    fn phase_is_new(&self) -> bool {
        matches!(self.phase, Phase::Moving(moving) if !moving.asked)
    }
}
