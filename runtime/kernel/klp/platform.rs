// SPDX-License-Identifier: GPL-2.0-only
//! This kernel, method by method.
//!
//! In: what the engine asks for. Out: the kernel's primitives. No decision is made here. Hard because each method has its
//! own context; `klp.rs` has the rules the SAFETY lines name.

use super::engine::{Errno, Event, Hook, Idle, Look, Platform, RangeTable, Scope, Span, Stuck, Unsafe};
use super::handles::{Func, Funcs, Module, Object, Objects, Patch, Patches, Stack, State, States, Task};
use super::{hot, messages, ranges, stacks, states, symbols, sysfs, tables, tasks, Kernel};
use kernel::bindings;
use kernel::prelude::*;

/// An error number of C, 0 or negative, as a result.
pub(crate) fn check(ret: c_int) -> Result<(), Errno> {
    match ret {
        0 => Ok(()),
        error => Err(Errno(error.wrapping_neg())),
    }
}

/// The same the other way round. A callback of a patch may have returned any number.
pub(crate) fn to_c(result: Result<(), Errno>) -> c_int {
    result.map_or_else(Errno::to_c, |()| 0)
}

/// The set of a patch, for the log.
pub(crate) fn set(patch: Patch) -> u32 {
    match Kernel.scope(patch) {
        Scope::Set(set) => set,
        _ => 0,
    }
}

impl Platform for Kernel {
    type Patch = Patch;
    type Object = Object;
    type Module = Module;
    type State = State;
    type Patches = Patches;
    type Objects = Objects;
    type Funcs = Funcs;
    type States = States;

    const LIVE_STATES: bool = cfg!(CONFIG_LIVEPATCH_REPLACE_SET);

    fn scope(&self, patch: Patch) -> Scope {
        #[cfg(CONFIG_LIVEPATCH_REPLACE_SET)]
        // SAFETY: handles.
        return Scope::Set(unsafe { (*patch.ptr()).replace_set });
        #[cfg(not(CONFIG_LIVEPATCH_REPLACE_SET))]
        // SAFETY: handles.
        match unsafe { (*patch.ptr()).replace } {
            true => Scope::Everything,
            false => Scope::Nothing,
        }
    }

    fn enabled(&self, patch: Patch) -> bool {
        // SAFETY: handles; lock.
        unsafe { (*patch.ptr()).enabled }
    }

    fn set_enabled(&self, patch: Patch, on: bool) {
        // SAFETY: handles; lock. sysfs reads it any time, one byte.
        unsafe { (&raw mut (*patch.ptr()).enabled).write_volatile(on) }
    }

    fn set_forced(&self, patch: Patch) {
        // SAFETY: handles; lock.
        unsafe { (*patch.ptr()).forced = true }
    }

    fn patches(&self) -> Patches {
        Patches::new(symbols::patches())
    }

    fn link(&self, patch: Patch) {
        // SAFETY: handles; lock.
        unsafe { bindings::list_add_tail(&raw mut (*patch.ptr()).list, symbols::patches()) }
    }

    fn unlink(&self, patch: Patch) {
        // SAFETY: handles; lock. An entry that is on no list is a list of its own.
        unsafe { bindings::klp_glue_list_del(&raw mut (*patch.ptr()).list) }
    }

    fn hold(&self, patch: Patch) -> bool {
        // SAFETY: the module is running its init function.
        unsafe { bindings::try_module_get(patch.module()) }
    }

    fn adopt(&self, patch: Patch) {
        tables::adopt(patch);
    }

    fn show_patch(&self, patch: Patch) -> Result<(), Errno> {
        tables::show_patch(patch)
    }

    fn objects(&self, patch: Patch) -> Objects {
        // SAFETY: handles.
        Objects::new(unsafe { &raw const (*patch.ptr()).obj_list })
    }

    fn finish_later(&self, patch: Patch) {
        // SAFETY: handles; the work was initialised by `adopt`.
        unsafe { bindings::klp_glue_finish_later(patch.ptr()) }
    }

    fn funcs(&self, object: Object) -> Funcs {
        // SAFETY: handles.
        Funcs::new(unsafe { &raw const (*object.ptr()).func_list })
    }

    fn show_object(&self, patch: Patch, object: Object) -> Result<(), Errno> {
        tables::show_object(patch, object)
    }

    fn is_module(&self, object: Object) -> bool {
        object.module_name().is_some()
    }

    fn same_object(&self, a: Object, b: Object) -> bool {
        a.module_name() == b.module_name()
    }

    fn is_about(&self, object: Object, module: Module) -> bool {
        object.module_name() == Some(module.name())
    }

    fn module(&self, object: Object) -> Option<Module> {
        // SAFETY: handles; lock.
        Module::new(unsafe { (*object.ptr()).mod_ })
    }

    fn set_module(&self, object: Object, module: Option<Module>) {
        // SAFETY: handles; lock.
        unsafe { (*object.ptr()).mod_ = module.map_or(core::ptr::null_mut(), Module::ptr) }
    }

    fn find_module(&self, object: Object) -> Option<Module> {
        let name = object.module_name()?;
        let _guard = kernel::sync::rcu::read_lock();
        // SAFETY: RCU keeps the module while it is looked at. After that it is kept by module_going(), which takes the
        // lock and comes before the module is freed; `klp_alive` says that it has not come yet.
        let module = Module::new(unsafe { bindings::find_module(name.as_char_ptr()) })?;
        // SAFETY: as above.
        unsafe { (*module.ptr()).klp_alive }.then_some(module)
    }

    fn set_alive(&self, module: Module, alive: bool) {
        // SAFETY: handles; lock.
        unsafe { (*module.ptr()).klp_alive = alive }
    }

    fn patched(&self, object: Object) -> bool {
        // SAFETY: handles; lock.
        unsafe { (*object.ptr()).patched }
    }

    fn set_patched(&self, object: Object, on: bool) {
        // SAFETY: handles; lock. sysfs reads it any time, one byte.
        unsafe { (&raw mut (*object.ptr()).patched).write_volatile(on) }
    }

    fn is_dynamic(&self, object: Object) -> bool {
        // SAFETY: handles.
        unsafe { (*object.ptr()).dynamic }
    }

    fn call(&self, object: Object, hook: Hook) -> Result<(), Errno> {
        let ptr = object.ptr();
        // SAFETY: handles; the callbacks are functions of the patch's module, or null.
        unsafe {
            let callbacks = &raw const (*ptr).callbacks;
            let void = match hook {
                Hook::PrePatch => return (*callbacks).pre_patch.map_or(Ok(()), |f| check(f(ptr))),
                Hook::PostPatch => (*callbacks).post_patch,
                Hook::PreUnpatch => (*callbacks).pre_unpatch,
                Hook::PostUnpatch => (*callbacks).post_unpatch,
            };
            if let Some(f) = void {
                f(ptr);
            }
        }
        Ok(())
    }

    fn is_set_up(&self, object: Object) -> bool {
        // SAFETY: handles; lock.
        unsafe { (*object.ptr()).callbacks.post_unpatch_enabled }
    }

    fn set_set_up(&self, object: Object, on: bool) {
        // SAFETY: handles; lock.
        unsafe { (*object.ptr()).callbacks.post_unpatch_enabled = on }
    }

    fn write_relocs(&self, patch: Patch, object: Object) -> Result<(), Errno> {
        symbols::write_relocs(patch, object)
    }

    fn clear_relocs(&self, patch: Patch, object: Object) {
        symbols::clear_relocs(patch, object);
    }

    fn new_object(&self, patch: Patch, like: Object) -> Result<Object, Errno> {
        tables::new_object(patch, like)
    }

    fn drop_object(&self, object: Object) {
        tables::drop_object(object);
    }

    fn show_func(&self, object: Object, func: Func) -> Result<(), Errno> {
        tables::show_func(object, func)
    }

    fn same_name(&self, a: Func, b: Func) -> bool {
        a.name() == b.name()
    }

    fn position(&self, func: Func) -> usize {
        // SAFETY: handles.
        unsafe { (*func.ptr()).old_sympos as usize }
    }

    fn resolve(&self, object: Object, func: Func) -> Result<(), Errno> {
        symbols::resolve(object, func)
    }

    fn forget(&self, func: Func) {
        // SAFETY: handles; lock; the function is on no stack.
        unsafe {
            (*func.ptr()).old_func = core::ptr::null_mut();
            if (*func.ptr()).nop {
                (*func.ptr()).new_func = core::ptr::null_mut();
            }
        }
    }

    fn old_span(&self, func: Func) -> Span {
        // SAFETY: handles; lock.
        let (start, size) = unsafe { ((*func.ptr()).old_func as usize, (*func.ptr()).old_size as usize) };
        Span { start, end: start.wrapping_add(size) }
    }

    fn new_span(&self, func: Func) -> Span {
        // SAFETY: handles; lock.
        let (start, size) = unsafe { ((*func.ptr()).new_func as usize, (*func.ptr()).new_size as usize) };
        Span { start, end: start.wrapping_add(size) }
    }

    fn entry_span(&self, func: Func) -> Span {
        stacks::entry_span(func)
    }

    fn applied(&self, func: Func) -> bool {
        // SAFETY: handles; lock.
        unsafe { (*func.ptr()).patched }
    }

    fn set_applied(&self, func: Func, on: bool) {
        // SAFETY: handles; lock.
        unsafe { (*func.ptr()).patched = on }
    }

    fn set_transition(&self, func: Func, on: bool) {
        hot::set_transition(func, on);
    }

    fn find_stack(&self, func: Func) -> Option<Stack> {
        stacks::find(func)
    }

    fn open_stack(&self, func: Func) -> Result<Stack, Errno> {
        stacks::open(func)
    }

    fn close_stack(&self, stack: Stack, func: Func) {
        stacks::close(stack, func);
    }

    fn push(&self, stack: Stack, func: Func) {
        stacks::push(stack, func);
    }

    fn remove(&self, _stack: Stack, func: Func) {
        stacks::remove(func);
    }

    fn set_settled(&self, stack: Stack, func: Option<Func>) {
        hot::set_settled(stack, func);
    }

    fn new_nop(&self, object: Object, like: Func) -> Result<(), Errno> {
        tables::new_nop(object, like)
    }

    fn drop_func(&self, func: Func) {
        tables::drop_func(func);
    }

    fn states(&self, patch: Patch) -> States {
        States::new(patch)
    }

    fn state_id(&self, state: State) -> u64 {
        // SAFETY: handles.
        unsafe { (*state.ptr()).id as u64 }
    }

    fn state_version(&self, state: State) -> u32 {
        // SAFETY: handles.
        unsafe { (*state.ptr()).version }
    }

    fn can_go(&self, state: State) -> bool {
        states::can_go(state)
    }

    fn owned(&self, state: State) -> bool {
        states::owned(state)
    }

    fn set_owned(&self, state: State, on: bool) {
        states::set_owned(state, on);
    }

    fn call_state(&self, patch: Patch, state: State, hook: Hook) -> Result<(), Errno> {
        states::call_state(patch, state, hook)
    }

    fn drop_shadows(&self, state: State) {
        states::drop_shadows(state);
    }

    fn each_task(&self, f: &mut dyn FnMut(Task)) {
        tasks::each(f);
    }

    fn visit_tasks(&self, f: &mut dyn FnMut(Task)) {
        tasks::visit(f);
    }

    fn each_idle(&self, f: &mut dyn FnMut(Idle<Task>)) {
        tasks::each_idle(f);
    }

    fn inspect(&self, task: Task, look: Look<'_, Func>) -> Result<(), Stuck<Func>> {
        tasks::inspect(task, look)
    }

    fn reliable_stacks(&self) -> bool {
        // SAFETY: reads a constant.
        unsafe { bindings::klp_glue_have_reliable_stack() }
    }

    fn nudge(&self, task: Task) {
        tasks::nudge(task);
    }

    fn nudge_idle(&self, cpu: u32) {
        // SAFETY: a possible processor.
        unsafe { bindings::wake_up_if_idle(cpu as c_int) };
    }

    fn set_sched_hook(&self, on: bool) {
        // SAFETY: may sleep here.
        unsafe { bindings::klp_glue_sched_hook(on) }
    }

    fn set_moving(&self, patch: Option<Patch>) {
        sysfs::set_moving(patch);
    }

    fn write_barrier(&self) {
        kernel::sync::barrier::smp_mb(kernel::sync::barrier::Write);
    }

    fn read_barrier(&self) {
        kernel::sync::barrier::smp_mb(kernel::sync::barrier::Read);
    }

    fn sync(&self) {
        // SAFETY: may sleep here.
        unsafe { bindings::klp_glue_sync() };
        ranges::synced();
    }

    fn retry_later(&self) {
        // SAFETY: the work is a static.
        unsafe { bindings::klp_glue_retry_later() }
    }

    fn reserve_ranges(&self, n: usize) -> Result<(), Errno> {
        ranges::reserve(n)
    }

    fn publish_ranges(&self, fill: &mut dyn FnMut(&mut [Unsafe<Func>]) -> RangeTable) {
        ranges::publish(fill, || self.sync());
    }

    fn read_ranges<R>(&self, f: impl FnOnce(Option<&[Unsafe<Func>]>) -> R) -> R {
        ranges::read(f)
    }

    fn log(&self, event: Event<Self>) {
        messages::log(event);
    }
}
