// SPDX-License-Identifier: GPL-2.0-only
//! The steps that tasks and modules of the simulated kernel can take.
//!
//! In: a world, and chance. Out: the world after a call, a return, a fork, a module's coming. Between any two steps of the
//! engine other tasks may run: that is how a test puts them there. A task can be preempted between the handler's choice and
//! what it chose.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use klp_engine::*;

use super::view::View;
use super::world::*;

/// A source of chance; small, and the same everywhere.
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    pub fn below(&self, n: usize) -> usize {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        ((x >> 32) as usize) % n
    }
}

/// A world, and how much goes on in it while the engine works.
pub struct Sim {
    pub world: RefCell<World>,
    random: Option<Random>,
    /// The task list, oldest first. A place in `tasks` is a number, which a younger task may take.
    pub(super) list: RefCell<BTreeMap<u64, usize>>,
    /// Nobody may run now: a walk that holds the task list keeps forks away, a look at a stack keeps its task away.
    pub(super) no_forks: Cell<bool>,
    pub(super) frozen: Cell<Option<Task>>,
    running: Cell<bool>,
    current: Cell<Option<Task>>,
    pub events: Cell<usize>,
    /// Stacks looked at while the task list was held.
    pub looks_under_lock: Cell<usize>,
}

impl Sim {
    /// A world where only the engine acts.
    pub fn quiet(world: World) -> Sim {
        Sim::with(world, None)
    }

    /// A world where others act all the time.
    pub fn busy(world: World, seed: u64) -> Sim {
        Sim::with(world, Some(Random::new(seed)))
    }

    fn with(world: World, random: Option<Random>) -> Sim {
        let born = world.tasks.iter().enumerate().filter(|(_, task)| task.alive && !task.idle);
        Sim {
            list: RefCell::new(born.map(|(place, _)| (place as u64, place)).collect()),
            world: RefCell::new(world),
            random,
            no_forks: Cell::new(false),
            frozen: Cell::new(None),
            running: Cell::new(false),
            current: Cell::new(None),
            events: Cell::new(0),
            looks_under_lock: Cell::new(0),
        }
    }

    pub(super) fn w(&self) -> std::cell::Ref<'_, World> {
        self.world.borrow()
    }
    pub(super) fn m(&self) -> std::cell::RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// Between two steps of the engine.
    pub(super) fn tick(&self) {
        let Some(random) = &self.random else { return };
        if self.running.get() || random.below(4) != 0 {
            return;
        }
        self.running.set(true);
        let tasks = self.w().tasks.len();
        let task = Task(random.below(tasks));
        if self.frozen.get() != Some(task) && self.w().tasks[task.0].alive {
            let names = self.w().home.len();
            match random.below(10) {
                _ if self.w().tasks[task.0].entering.is_some() => self.arrive(task),
                0..=3 => self.call(task, random.below(names)),
                4..=6 => self.ret(task),
                7 | 8 => self.leave_kernel(task),
                _ if self.no_forks.get() || self.w().tasks[task.0].idle => self.doze(task),
                _ if random.below(3) == 0 => self.exit(task),
                _ => self.fork(task),
            }
        }
        self.running.set(false);
    }

    /// A walk over the task list lets go of it for a moment. Whether it lost its place.
    pub(super) fn pause(&self) -> bool {
        let Some(random) = &self.random else { return false };
        if self.running.get() || random.below(8) != 0 {
            return false;
        }
        self.no_forks.set(false);
        (0..random.below(16)).for_each(|_| self.tick());
        self.no_forks.set(true);
        random.below(16) == 0
    }

    /// A task acts: `f` runs as that task, and nobody else meanwhile.
    fn act<R>(&self, task: Task, f: impl FnOnce() -> R) -> R {
        let before = (self.current.replace(Some(task)), self.running.replace(true));
        let result = f();
        self.current.set(before.0);
        self.running.set(before.1);
        result
    }

    /// The task calls the function of that name, if it is there; the handler decides what runs.
    pub fn call(&self, task: Task, name: usize) {
        let home = self.w().home[name];
        let there = home.is_none_or(|m| self.w().modules[m.0].running);
        if !there || self.w().tasks[task.0].frames.len() >= 3 || self.w().tasks[task.0].entering.is_some() {
            return;
        }
        let place = self.w().at[name];
        let redirected = self.w().stacks[place].is_some();
        let target = redirected.then(|| self.act(task, || redirect(self, Stack(place)))).flatten();
        let span = target.map_or(original(place), replacement);
        self.m().tasks[task.0].entering = Some((place, span.start + 5));
        if !redirected || self.random.as_ref().is_none_or(|random| random.below(4) != 0) {
            self.arrive(task);
        }
    }

    /// What the handler chose runs.
    fn arrive(&self, task: Task) {
        let mut world = self.m();
        let data = &mut world.tasks[task.0];
        data.frames.extend(data.entering.take().map(|(_, target)| target));
    }

    /// It returns from the innermost one.
    pub fn ret(&self, task: Task) {
        self.arrive(task);
        self.m().tasks[task.0].frames.pop();
    }

    /// It is back in user space, or round the idle loop.
    pub fn leave_kernel(&self, task: Task) {
        if self.w().tasks[task.0].is_outside() {
            self.act(task, || switch_self(self, task));
        }
    }

    /// It has a child, in the first free place.
    pub fn fork(&self, task: Task) {
        let mut world = self.m();
        let child = TaskData::new(false);
        let place = world.tasks.iter().position(|t| !t.alive);
        let place = match place {
            Some(place) => {
                world.tasks[place] = child;
                place
            }
            None if world.tasks.len() < 4000 => {
                world.tasks.push(child);
                world.tasks.len() - 1
            }
            None => return,
        };
        drop(world);
        let last = self.list.borrow().last_key_value().map_or(0, |(born, _)| born + 1);
        self.list.borrow_mut().insert(last, place);
        self.act(task, || inherit(self, task, Task(place)));
    }

    /// It ends, if others are left.
    pub fn exit(&self, task: Task) {
        let mut world = self.m();
        if world.tasks.iter().filter(|t| t.alive && !t.idle).count() > 1 && world.tasks[task.0].is_outside() {
            world.tasks[task.0].alive = false;
            self.list.borrow_mut().retain(|_, place| *place != task.0);
        }
    }

    /// It is about to sleep, with the help of the scheduler's hook.
    pub fn doze(&self, task: Task) {
        if self.w().hook && self.frozen.get().is_none() {
            let phase = self.w().phase;
            let engine = Engine::resume(View(self), phase);
            self.act(task, || engine.about_to_sleep(task));
        }
    }

    /// Runs the engine on this world and keeps what phase it ends in.
    pub fn engine<R>(&self, f: impl FnOnce(&Engine<View<'_>>) -> R) -> R {
        let phase = self.w().phase;
        let engine = Engine::resume(View(self), phase);
        let result = f(&engine);
        self.m().phase = engine.phase();
        result
    }

    /// Asks for a patch to be enabled; what it leaves behind is cleaned up as the caller of the engine has to.
    pub fn enable(&self, patch: Patch) -> Result<(), Errno> {
        assert_eq!(self.w().patches[patch.0].life, Life::Absent);
        match self.engine(|e| e.enable(patch)) {
            Ok(()) => Ok(()),
            Err(Rejected::Untouched(error)) => Err(error),
            Err(Rejected::LetGo(error)) => {
                self.m().patches[patch.0].life = Life::LettingGo;
                self.m().finish(patch);
                Err(error)
            }
        }
    }

    pub fn module_coming(&self, module: Module) -> bool {
        let fine = self.engine(|e| e.module_coming(module)).is_ok();
        self.m().modules[module.0].running = fine;
        if !fine {
            self.nobody_calls(module);
        }
        fine
    }

    pub fn module_going(&self, module: Module) {
        let mut world = self.m();
        world.modules[module.0].running = false;
        let home = world.home.clone();
        for task in &world.tasks {
            for address in task.places() {
                let name = match code_at(address) {
                    Code::Original(name) => name,
                    Code::Replacement(func) => world.func(func).name,
                };
                assert_ne!(home[name], Some(module), "a module goes while it runs");
            }
        }
        drop(world);
        self.engine(|e| e.module_going(module));
        self.nobody_calls(module);
    }

    /// Functions of a module that does not run have no callers, so no handler holds their replacements.
    fn nobody_calls(&self, module: Module) {
        let mut world = self.m();
        let World { hazard, funcs, home, .. } = &mut *world;
        hazard.retain(|f| funcs[f.0].as_ref().is_some_and(|f| home[f.name] != Some(module)));
    }

    /// Whether a task is in a module, so that it cannot go.
    pub fn is_in_use(&self, module: Module) -> bool {
        let world = self.w();
        let mut places = world.tasks.iter().filter(|t| t.alive).flat_map(TaskData::places);
        places.any(|address| {
            let name = match code_at(address) {
                Code::Original(name) => Some(name),
                Code::Replacement(func) => world.funcs[func.0].as_ref().map(|f| f.name),
            };
            name.is_some_and(|name| world.home[name] == Some(module))
        })
    }
}

impl Redirect for Sim {
    type Stack = Stack;
    type Func = Func;

    fn settled(&self, stack: Stack) -> Option<Func> {
        self.tick();
        self.w().settled[stack.0]
    }
    fn top(&self, stack: Stack) -> Option<Func> {
        self.tick();
        self.w().stacks[stack.0].as_ref()?.first().copied()
    }
    fn below(&self, stack: Stack, func: Func) -> Option<Func> {
        self.tick();
        let world = self.w();
        let stack = world.stacks[stack.0].as_ref()?;
        stack.iter().skip_while(|&&f| f != func).nth(1).copied()
    }
    fn in_transition(&self, func: Func) -> bool {
        self.tick();
        self.w().func(func).transition
    }
    fn current_side(&self) -> Option<Side> {
        self.tick();
        self.current.get().and_then(|task| self.w().side(task))
    }
    fn is_nop(&self, func: Func) -> bool {
        self.w().func(func).nop
    }
    fn anomaly(&self, what: Anomaly) {
        panic!("anomaly: {what:?} in {:#?}", self.w());
    }
}

impl Tasks for Sim {
    type Task = Task;

    fn side(&self, task: Task) -> Option<Side> {
        self.w().side(task)
    }
    fn set_side(&self, task: Task, side: Option<Side>) {
        self.tick();
        self.m().tasks[task.0].side = side.map(|side| side == Side::New);
    }
    fn pending(&self, task: Task) -> bool {
        self.w().tasks[task.0].pending
    }
    fn set_pending(&self, task: Task) {
        self.m().tasks[task.0].pending = true;
    }
    fn clear_pending(&self, task: Task) {
        self.m().tasks[task.0].pending = false;
    }
    fn take_pending(&self, task: Task) -> bool {
        std::mem::take(&mut self.m().tasks[task.0].pending)
    }
    fn goal(&self) -> Option<Side> {
        self.w().goal
    }
    fn set_goal(&self, goal: Option<Side>) {
        self.tick();
        self.m().goal = goal;
    }
}
