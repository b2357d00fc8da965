// SPDX-License-Identifier: GPL-2.0-only
//! The data of the simulated kernel, and what its tasks do.
//!
//! In: a description of patches. Out: worlds. Code has addresses: the original at place `n` and the replacement `f` each
//! have a span of their own, so that stacks are lists of addresses as in a real kernel. Several names may be at one place.

use klp_engine::{Phase, Scope, Side, Span};

/// Index of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Patch(pub usize);
/// Index of an object of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Object(pub usize);
/// Index of a function of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Func(pub usize);
/// A module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Module(pub usize);
/// Index of a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Task(pub usize);
/// A patched function, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stack(pub usize);
/// A state of a patch: patch and place in its table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State(pub usize, pub usize);

/// Where a patch is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    /// Its module is not loaded; its tables are as new.
    Absent,
    /// The engine has it.
    Held,
    /// The engine has let go, but its memory is still there.
    LettingGo,
    /// Forced: it stays for ever and cannot be enabled again.
    Pinned,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PatchData {
    pub scope: Scope,
    pub life: Life,
    pub enabled: bool,
    pub forced: bool,
    /// Module (or the kernel) and names.
    pub plan: Vec<(Option<Module>, Vec<usize>)>,
    pub objects: Vec<Object>,
    /// Number, version, owned.
    pub states: Vec<(u64, u32, bool)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ObjectData {
    pub patch: Patch,
    pub module: Option<Module>,
    pub tied: bool,
    pub patched: bool,
    pub dynamic: bool,
    pub set_up: bool,
    pub relocated: bool,
    pub funcs: Vec<Func>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FuncData {
    pub patch: Patch,
    pub object: Object,
    pub name: usize,
    pub nop: bool,
    pub applied: bool,
    pub transition: bool,
    pub resolved: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TaskData {
    pub alive: bool,
    pub idle: bool,
    pub online: bool,
    pub side: Option<bool>,
    pub pending: bool,
    /// Return addresses, innermost last.
    pub frames: Vec<usize>,
    /// The handler at this place has decided on this address, and was preempted before it runs.
    pub entering: Option<(usize, usize)>,
}

impl TaskData {
    /// A task in user space, or an idle processor's.
    pub fn new(idle: bool) -> TaskData {
        TaskData { alive: true, idle, online: true, side: None, pending: false, frames: vec![], entering: None }
    }

    /// Where it is, and where it is about to be.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.frames.iter().copied().chain(self.entering.map(|(_, target)| target))
    }

    /// Whether it could leave the kernel.
    pub fn is_outside(&self) -> bool {
        self.frames.is_empty() && self.entering.is_none()
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ModuleData {
    /// It may run.
    pub running: bool,
    pub alive: bool,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub patches: Vec<PatchData>,
    pub objects: Vec<Option<ObjectData>>,
    pub funcs: Vec<Option<FuncData>>,
    pub modules: Vec<ModuleData>,
    pub tasks: Vec<TaskData>,
    /// Per place, newest first; `None`: calls are not redirected.
    pub stacks: Vec<Option<Vec<Func>>>,
    /// What handlers take without asking, by place.
    pub settled: Vec<Option<Func>>,
    /// The module a name is in.
    pub home: Vec<Option<Module>>,
    /// The place of a name: its own number, or that of another name for the same function.
    pub at: Vec<usize>,
    /// All that a patch puts in the place of one function is one piece of code, whatever the names.
    pub one_code: bool,
    pub list: Vec<Patch>,
    pub goal: Option<Side>,
    pub hook: bool,
    pub retry: bool,
    pub phase: Phase<Patch>,
    pub room: usize,
    /// Start, end and function of the published table.
    pub table: Vec<(usize, usize, Func)>,
    /// Taken off a stack since the last grace period: a handler may hold it.
    pub hazard: Vec<Func>,
    /// The current or a past transition was forced: stacks may be anything.
    pub tainted: bool,
    /// How often a state came into being minus how often it ended.
    pub lives: Vec<(u64, i32)>,
    /// The next pre-patch callback fails.
    pub refuse: bool,
    /// The next relocations cannot be written.
    pub unwritable: bool,
    /// What readers are told without the lock.
    pub shown: Option<Patch>,
}

const ORIGINAL: usize = 1_000;
const REPLACEMENT: usize = 1_000_000;
const STEP: usize = 16;

/// Where the original at a place is.
pub fn original(place: usize) -> Span {
    let start = ORIGINAL + place * STEP;
    Span { start, end: start + 10 }
}

/// Where its handler returns to.
pub fn entry(place: usize) -> usize {
    original(place).start + 1
}

/// Where a replacement is.
pub fn replacement(func: Func) -> Span {
    let start = REPLACEMENT + func.0 * STEP;
    Span { start, end: start + 10 }
}

/// What a return address is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    Original(usize),
    Replacement(Func),
}

pub fn code_at(address: usize) -> Code {
    if address < REPLACEMENT {
        Code::Original((address - ORIGINAL) / STEP)
    } else {
        Code::Replacement(Func((address - REPLACEMENT) / STEP))
    }
}

impl World {
    /// A world of `tasks` tasks and `idle` processors, where name `i` is in module `home[i]`, with these patches.
    pub fn new(home: &[Option<usize>], patches: &[PatchData], tasks: usize, idle: usize) -> World {
        let modules = home.iter().flatten().max().map_or(0, |m| m + 1);
        let mut world = World {
            patches: patches.to_vec(),
            objects: vec![],
            funcs: vec![],
            modules: vec![ModuleData { running: false, alive: false }; modules],
            tasks: (0..idle).map(|_| TaskData::new(true)).chain((0..tasks).map(|_| TaskData::new(false))).collect(),
            stacks: vec![None; home.len()],
            settled: vec![None; home.len()],
            home: home.iter().map(|m| m.map(Module)).collect(),
            at: (0..home.len()).collect(),
            one_code: false,
            list: vec![],
            goal: None,
            hook: false,
            retry: false,
            phase: Phase::Quiet,
            room: 0,
            table: vec![],
            hazard: vec![],
            tainted: false,
            lives: vec![],
            refuse: false,
            unwritable: false,
            shown: None,
        };
        for i in 0..patches.len() {
            world.lay_out(Patch(i));
        }
        world
    }

    /// Gives a patch's static tables a place, as loading its module does.
    pub fn lay_out(&mut self, patch: Patch) {
        let plan = self.patches[patch.0].plan.clone();
        self.patches[patch.0].objects.clear();
        for (module, names) in plan {
            let object = self.add_object(patch, module, false);
            for name in names {
                assert_eq!(self.home[name], module, "a name is in one module");
                self.add_func(object, name, false);
            }
        }
        self.patches[patch.0].life = Life::Absent;
        self.patches[patch.0].enabled = false;
        for state in &mut self.patches[patch.0].states {
            state.2 = false;
        }
    }

    pub fn add_object(&mut self, patch: Patch, module: Option<Module>, dynamic: bool) -> Object {
        let data = ObjectData {
            patch,
            module,
            tied: false,
            patched: false,
            dynamic,
            set_up: false,
            relocated: false,
            funcs: vec![],
        };
        let object = Object(place(&mut self.objects, data));
        self.patches[patch.0].objects.push(object);
        object
    }

    pub fn add_func(&mut self, object: Object, name: usize, nop: bool) -> Func {
        let patch = self.object(object).patch;
        let data = FuncData { patch, object, name, nop, applied: false, transition: false, resolved: false };
        let func = Func(place(&mut self.funcs, data));
        self.object_mut(object).funcs.push(func);
        func
    }

    pub fn object(&self, o: Object) -> &ObjectData {
        self.objects[o.0].as_ref().expect("an object is used after it was freed")
    }
    pub fn object_mut(&mut self, o: Object) -> &mut ObjectData {
        self.objects[o.0].as_mut().expect("an object is used after it was freed")
    }
    pub fn func(&self, f: Func) -> &FuncData {
        self.funcs[f.0].as_ref().expect("a function is used after it was freed")
    }
    pub fn func_mut(&mut self, f: Func) -> &mut FuncData {
        self.funcs[f.0].as_mut().expect("a function is used after it was freed")
    }

    /// The place of the function that it replaces.
    pub fn place(&self, f: Func) -> usize {
        self.at[self.func(f).name]
    }

    pub fn free_func(&mut self, f: Func) {
        assert!(!self.hazard.contains(&f), "a function is freed while a handler may hold it");
        assert!(
            self.stacks.iter().flatten().all(|stack| !stack.contains(&f)),
            "a function is freed while it is on a stack"
        );
        self.funcs[f.0] = None;
    }

    /// The module of a patch is unloaded: its code and tables go.
    pub fn finish(&mut self, patch: Patch) {
        assert_eq!(self.patches[patch.0].life, Life::LettingGo);
        if self.patches[patch.0].forced {
            self.patches[patch.0].life = Life::Pinned;
            return;
        }
        for i in 0..self.funcs.len() {
            if self.funcs[i].as_ref().is_some_and(|f| f.patch == patch) {
                self.free_func(Func(i));
            }
        }
        for object in &mut self.objects {
            if object.as_ref().is_some_and(|o| o.patch == patch) {
                *object = None;
            }
        }
        self.lay_out(patch);
    }

    /// The life of a state changes by one.
    pub fn count_state(&mut self, id: u64, by: i32) {
        match self.lives.iter_mut().find(|(known, _)| *known == id) {
            Some((_, n)) => *n += by,
            None => self.lives.push((id, by)),
        }
        self.lives.retain(|&(_, n)| n != 0);
        self.lives.sort_unstable();
    }

    pub fn side(&self, t: Task) -> Option<Side> {
        self.tasks[t.0].side.map(|new| if new { Side::New } else { Side::Old })
    }

    /// Order of tasks does not matter: one order for all of them. What only counts up is cut.
    pub fn canonical(mut self) -> World {
        self.tasks.sort_unstable();
        match &mut self.phase {
            Phase::Moving(moving) => moving.rounds = moving.rounds.min(1),
            // Nobody reads the table, and the retry that may still come does nothing.
            Phase::Quiet => {
                self.table.clear();
                self.retry = false;
            }
        }
        self
    }
}

/// The first free place, so that worlds that differ by dead memory only are the same.
fn place<T>(slots: &mut Vec<Option<T>>, data: T) -> usize {
    match slots.iter().position(Option::is_none) {
        Some(i) => {
            slots[i] = Some(data);
            i
        }
        None => {
            slots.push(Some(data));
            slots.len() - 1
        }
    }
}

/// A patch: its scope, its functions by module, its states by number and version.
pub fn patch(scope: Scope, plan: &[(Option<usize>, &[usize])], states: &[(u64, u32)]) -> PatchData {
    PatchData {
        scope,
        life: Life::Absent,
        enabled: false,
        forced: false,
        plan: plan.iter().map(|(m, names)| (m.map(Module), names.to_vec())).collect(),
        objects: vec![],
        states: states.iter().map(|&(id, version)| (id, version, false)).collect(),
    }
}
