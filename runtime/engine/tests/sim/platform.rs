// SPDX-License-Identifier: GPL-2.0-only
//! The simulated kernel's side of the engine's traits.
//!
//! In: calls of the engine. Out: changes of the world, checked for making sense at that moment. Every call may first let
//! other tasks run (`steps`).

use klp_engine::*;

use super::view::View;
use super::world::*;

type Items<T> = std::vec::IntoIter<T>;

impl Platform for View<'_> {
    type Patch = Patch;
    type Object = Object;
    type Module = Module;
    type State = State;
    type Patches = Items<Patch>;
    type Objects = Items<Object>;
    type Funcs = Items<Func>;
    type States = Items<State>;
    const LIVE_STATES: bool = true;

    fn scope(&self, p: Patch) -> Scope {
        self.w().patches[p.0].scope
    }
    fn enabled(&self, p: Patch) -> bool {
        self.w().patches[p.0].enabled
    }
    fn set_enabled(&self, p: Patch, on: bool) {
        self.m().patches[p.0].enabled = on;
    }
    fn set_forced(&self, p: Patch) {
        self.m().patches[p.0].forced = true;
    }
    fn patches(&self) -> Items<Patch> {
        self.w().list.clone().into_iter()
    }
    fn link(&self, p: Patch) {
        self.m().list.push(p);
    }
    fn unlink(&self, p: Patch) {
        self.m().list.retain(|&listed| listed != p);
    }
    fn hold(&self, p: Patch) -> bool {
        self.m().patches[p.0].life = Life::Held;
        true
    }
    fn adopt(&self, _: Patch) {}
    fn show_patch(&self, _: Patch) -> Result<(), Errno> {
        Ok(())
    }
    fn objects(&self, p: Patch) -> Items<Object> {
        self.w().patches[p.0].objects.clone().into_iter()
    }
    fn finish_later(&self, p: Patch) {
        self.m().patches[p.0].life = Life::LettingGo;
    }

    fn funcs(&self, o: Object) -> Items<Func> {
        self.w().object(o).funcs.clone().into_iter()
    }
    fn show_object(&self, _: Patch, _: Object) -> Result<(), Errno> {
        Ok(())
    }
    fn is_module(&self, o: Object) -> bool {
        self.w().object(o).module.is_some()
    }
    fn same_object(&self, a: Object, b: Object) -> bool {
        let world = self.w();
        world.object(a).module == world.object(b).module
    }
    fn is_about(&self, o: Object, module: Module) -> bool {
        self.w().object(o).module == Some(module)
    }
    fn module(&self, o: Object) -> Option<Module> {
        let world = self.w();
        world.object(o).module.filter(|_| world.object(o).tied)
    }
    fn set_module(&self, o: Object, module: Option<Module>) {
        self.m().object_mut(o).tied = module.is_some();
    }
    fn find_module(&self, o: Object) -> Option<Module> {
        let world = self.w();
        world.object(o).module.filter(|m| world.modules[m.0].alive)
    }
    fn set_alive(&self, module: Module, alive: bool) {
        self.m().modules[module.0].alive = alive;
    }
    fn patched(&self, o: Object) -> bool {
        self.w().object(o).patched
    }
    fn set_patched(&self, o: Object, on: bool) {
        self.m().object_mut(o).patched = on;
    }
    fn is_dynamic(&self, o: Object) -> bool {
        self.w().object(o).dynamic
    }
    fn call(&self, o: Object, hook: Hook) -> Result<(), Errno> {
        let world = self.w();
        // Whatever is called must be there to be called, and set up unless it is the call that does that.
        assert!(
            world.object(o).module.is_none() || world.object(o).tied,
            "a callback for an object that is not loaded"
        );
        assert_eq!(world.object(o).set_up, hook != Hook::PrePatch, "{hook:?} out of order");
        let refuse = world.refuse;
        drop(world);
        if hook == Hook::PrePatch && refuse {
            self.m().refuse = false;
            return Err(Errno(5));
        }
        Ok(())
    }
    fn is_set_up(&self, o: Object) -> bool {
        self.w().object(o).set_up
    }
    fn set_set_up(&self, o: Object, on: bool) {
        self.m().object_mut(o).set_up = on;
    }
    fn write_relocs(&self, _: Patch, o: Object) -> Result<(), Errno> {
        assert!(!self.w().object(o).relocated, "relocations are written twice");
        if std::mem::take(&mut self.m().unwritable) {
            return Err(Errno(8));
        }
        self.m().object_mut(o).relocated = true;
        Ok(())
    }
    fn clear_relocs(&self, _: Patch, o: Object) {
        assert!(self.w().object(o).relocated, "relocations are cleared that were not written");
        self.m().object_mut(o).relocated = false;
    }
    fn new_object(&self, p: Patch, like: Object) -> Result<Object, Errno> {
        let module = self.w().object(like).module;
        Ok(self.m().add_object(p, module, true))
    }
    fn drop_object(&self, o: Object) {
        let mut world = self.m();
        let patch = world.object(o).patch;
        world.patches[patch.0].objects.retain(|&other| other != o);
        if world.object(o).dynamic {
            world.objects[o.0] = None;
        }
    }

    fn show_func(&self, _: Object, f: Func) -> Result<(), Errno> {
        let mut world = self.m();
        world.func_mut(f).applied = false;
        world.func_mut(f).transition = false;
        Ok(())
    }
    fn same_name(&self, a: Func, b: Func) -> bool {
        let world = self.w();
        world.func(a).name == world.func(b).name
    }
    fn position(&self, _: Func) -> usize {
        0
    }
    fn resolve(&self, _: Object, f: Func) -> Result<(), Errno> {
        self.m().func_mut(f).resolved = true;
        Ok(())
    }
    fn forget(&self, f: Func) {
        assert!(!self.w().func(f).applied, "an applied function is forgotten");
        self.m().func_mut(f).resolved = false;
    }
    fn old_span(&self, f: Func) -> Span {
        original(self.w().place(f))
    }
    fn new_span(&self, f: Func) -> Span {
        let world = self.w();
        if world.func(f).nop {
            original(world.place(f))
        } else if world.one_code {
            let same = |g: &usize| {
                let g = world.funcs[*g].as_ref();
                g.is_some_and(|g| g.patch == world.func(f).patch && !g.nop && world.at[g.name] == world.place(f))
            };
            replacement(Func((0..world.funcs.len()).find(same).expect("the function itself")))
        } else {
            replacement(f)
        }
    }
    fn entry_span(&self, f: Func) -> Span {
        let place = self.w().place(f);
        Span { start: original(place).start, end: entry(place) + 1 }
    }
    fn applied(&self, f: Func) -> bool {
        self.w().func(f).applied
    }
    fn set_applied(&self, f: Func, on: bool) {
        self.m().func_mut(f).applied = on;
    }
    fn set_transition(&self, f: Func, on: bool) {
        self.m().func_mut(f).transition = on;
    }
    fn find_stack(&self, f: Func) -> Option<Stack> {
        let world = self.w();
        assert!(world.func(f).resolved, "a stack is looked for without an address");
        let place = world.place(f);
        world.stacks[place].as_ref().map(|_| Stack(place))
    }
    fn open_stack(&self, f: Func) -> Result<Stack, Errno> {
        let mut world = self.m();
        let place = world.place(f);
        assert!(world.stacks[place].replace(vec![f]).is_none(), "two stacks for one function");
        Ok(Stack(place))
    }
    fn close_stack(&self, stack: Stack, f: Func) {
        // The word is part of the stack.
        self.m().settled[stack.0] = None;
        assert_eq!(self.m().stacks[stack.0].take(), Some(vec![f]), "a stack is closed that holds something else");
    }
    fn push(&self, stack: Stack, f: Func) {
        self.m().stacks[stack.0].as_mut().expect("a stack that is open").insert(0, f);
    }
    fn remove(&self, stack: Stack, f: Func) {
        let mut world = self.m();
        world.stacks[stack.0].as_mut().expect("a stack that is open").retain(|&other| other != f);
        assert_ne!(world.stacks[stack.0], Some(vec![]), "an empty stack is left open");
        world.hazard.push(f);
    }
    fn set_settled(&self, stack: Stack, func: Option<Func>) {
        self.m().settled[stack.0] = func;
    }
    fn new_nop(&self, o: Object, like: Func) -> Result<(), Errno> {
        let name = self.w().func(like).name;
        self.m().add_func(o, name, true);
        Ok(())
    }
    fn drop_func(&self, f: Func) {
        let mut world = self.m();
        let object = world.func(f).object;
        world.object_mut(object).funcs.retain(|&other| other != f);
        if world.func(f).nop {
            world.free_func(f);
        }
    }

    fn states(&self, p: Patch) -> Items<State> {
        (0..self.w().patches[p.0].states.len()).map(|i| State(p.0, i)).collect::<Vec<_>>().into_iter()
    }
    fn state_id(&self, s: State) -> u64 {
        self.w().patches[s.0].states[s.1].0
    }
    fn state_version(&self, s: State) -> u32 {
        self.w().patches[s.0].states[s.1].1
    }
    fn can_go(&self, _: State) -> bool {
        true
    }
    fn owned(&self, s: State) -> bool {
        self.w().patches[s.0].states[s.1].2
    }
    fn set_owned(&self, s: State, on: bool) {
        self.m().patches[s.0].states[s.1].2 = on;
    }
    fn call_state(&self, _: Patch, s: State, hook: Hook) -> Result<(), Errno> {
        let id = self.state_id(s);
        match hook {
            Hook::PrePatch => self.m().count_state(id, 1),
            Hook::PostUnpatch => self.m().count_state(id, -1),
            _ => assert!(self.w().lives.contains(&(id, 1)), "{hook:?} of a state that is not there"),
        }
        Ok(())
    }
    fn drop_shadows(&self, _: State) {}

    fn each_task(&self, f: &mut dyn FnMut(Task)) {
        self.0.no_forks.set(true);
        let (mut from, mut restarts) = (0, 0);
        loop {
            let next = self.0.list.borrow().range(from..).next().map(|(&born, &place)| (born, place));
            let Some((born, place)) = next else { break };
            f(Task(place));
            from = born + 1;
            if self.0.pause() && restarts < 3 {
                (from, restarts) = (0, restarts + 1);
            }
        }
        self.0.no_forks.set(false);
    }
    fn visit_tasks(&self, f: &mut dyn FnMut(Task)) {
        let mut i = 0;
        while i < self.w().tasks.len() {
            let visit = self.0.w().tasks[i].alive && !self.0.w().tasks[i].idle;
            if visit {
                f(Task(i));
            }
            i += 1;
        }
    }
    fn each_idle(&self, f: &mut dyn FnMut(Idle<Task>)) {
        let tasks = self.w().tasks.len();
        for i in 0..tasks {
            let (idle, online) = (self.w().tasks[i].idle, self.0.w().tasks[i].online);
            if idle {
                f(Idle { task: Task(i), cpu: i as u32, online });
            }
        }
    }
    fn inspect(&self, task: Task, f: &mut dyn FnMut(&[usize]) -> Result<(), Stuck<Func>>) -> Result<(), Stuck<Func>> {
        if self.0.no_forks.get() {
            self.0.looks_under_lock.set(self.0.looks_under_lock.get() + 1);
        }
        let before = self.0.frozen.replace(Some(task));
        let mut frames = self.0.w().tasks[task.0].frames.clone();
        frames.extend(self.0.w().tasks[task.0].entering.map(|(place, _)| entry(place)));
        let result = f(&frames);
        self.0.frozen.set(before);
        result
    }
    fn reliable_stacks(&self) -> bool {
        true
    }
    fn nudge(&self, _: Task) {}
    fn nudge_idle(&self, _: u32) {}
    fn set_sched_hook(&self, on: bool) {
        self.m().hook = on;
    }
    fn set_moving(&self, patch: Option<Patch>) {
        self.m().shown = patch;
    }
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn sync(&self) {
        self.m().hazard.clear();
    }
    fn retry_later(&self) {
        self.m().retry = true;
    }
    fn reserve_ranges(&self, n: usize) -> Result<(), Errno> {
        let room = self.w().room.max(n);
        self.m().room = room;
        Ok(())
    }
    fn publish_ranges(&self, fill: &mut dyn FnMut(&mut [Unsafe<Func>]) -> RangeTable) {
        let nobody = Unsafe { span: Span { start: 0, end: 0 }, reach: 0, func: Func(usize::MAX) };
        let mut room = vec![nobody; self.w().room];
        match fill(&mut room) {
            RangeTable::Entries(n) => {
                self.m().table = room[..n].iter().map(|e| (e.span.start, e.span.end, e.func)).collect();
            }
            RangeTable::Unknown => panic!("no room for the ranges"),
        }
    }
    fn read_ranges<R>(&self, f: impl FnOnce(Option<&[Unsafe<Func>]>) -> R) -> R {
        let mut reach = 0;
        let table: Vec<_> = self
            .0
            .w()
            .table
            .iter()
            .map(|&(start, end, func)| {
                reach = reach.max(end);
                Unsafe { span: Span { start, end }, reach, func }
            })
            .collect();
        f(Some(&table))
    }
    fn log(&self, _: Event<Self>) {
        self.0.events.set(self.0.events.get() + 1);
    }
}
