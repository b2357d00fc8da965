// SPDX-License-Identifier: GPL-2.0-only
//! All the engine knows of a kernel.
//!
//! In: opaque `Copy` handles to memory that others own (a livepatch module's tables, tasks). Out: nothing; this file is
//! the contract. Hard because the handles' targets outlive no promise the compiler could check: an implementation keeps a
//! patch's memory until [`Platform::finish_later`] (or the caller's own end after a failed enable) has run, and the engine
//! never uses a handle after it dropped it.

use super::handler::Redirect;
use super::ranges::{RangeTable, Span, Unsafe};
use super::scope::Scope;
use super::task::Tasks;

/// Which version of the moving patch's functions a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Without the patch.
    Old,
    /// With it.
    New,
}

impl Side {
    /// The opposite.
    pub fn other(self) -> Side {
        match self {
            Side::Old => Side::New,
            Side::New => Side::Old,
        }
    }
}

/// An error number as C has it, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// No memory.
    pub const NOMEM: Errno = Errno(12);
    /// A transition is under way.
    pub const BUSY: Errno = Errno(16);
    /// The module goes away, or there is no livepatching.
    pub const NODEV: Errno = Errno(19);
    /// The request makes no sense now, or ever.
    pub const INVAL: Errno = Errno(22);

    /// As C returns it. A patch may have returned the one number that has no opposite.
    pub fn to_c(self) -> i32 {
        self.0.wrapping_neg()
    }
}

/// The four moments a patch can hook, per object or per state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before anything is redirected; may fail.
    PrePatch,
    /// All tasks are on the new side.
    PostPatch,
    /// Before tasks are asked to leave.
    PreUnpatch,
    /// No task is left on the new side.
    PostUnpatch,
}

/// Why a task could not be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stuck<F> {
    /// It runs on a processor.
    Running,
    /// Its stack cannot be read reliably.
    Unreliable,
    /// A function that changes is on its stack.
    On(F),
    /// The platform could not say.
    Unknown(Errno),
}

/// The idle task of a processor.
#[derive(Clone, Copy, Debug)]
pub struct Idle<T> {
    /// The task.
    pub task: T,
    /// Its processor.
    pub cpu: u32,
    /// Whether that processor runs.
    pub online: bool,
}

/// Looks at the return addresses on a stack.
pub type Look<'a, F> = &'a mut dyn FnMut(&[usize]) -> Result<(), Stuck<F>>;

/// Fills a range table.
pub type Fill<'a, F> = &'a mut dyn FnMut(&mut [Unsafe<F>]) -> RangeTable;

/// What cannot happen. Implementations warn; the engine goes on the safe way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anomaly {
    /// A handler was entered with no replacement there.
    EmptyStack,
    /// A task in transition has no side.
    SideUnknown,
    /// A transition begins while another is on.
    NotQuiet,
    /// A task entered a transition with a side, or left it still pending.
    TaskNotIdle,
    /// The request needs a transition and there is none.
    NoTransition,
    /// A function to take off its stack is not on it.
    NotApplied,
    /// A function or object to apply is applied.
    AlreadyApplied,
    /// A patch to disable is not enabled, or the other way round.
    WrongState,
    /// The range table could not hold the functions.
    RangesFull,
}

/// What the log says. The platform words it.
pub enum Event<P: Platform + ?Sized> {
    /// The new patch does not go with those that are enabled.
    Incompatible(P::Patch),
    /// Two patches of different sets modify one function.
    FunctionConflict {
        /// The refused patch.
        new: P::Patch,
        /// The enabled one.
        old: P::Patch,
        /// The object in question.
        object: P::Object,
        /// The function in question.
        func: P::Func,
        /// The same of the enabled patch; the name may be another.
        theirs: P::Func,
    },
    /// A patch modifies one function twice, by two names.
    FunctionTwice {
        /// The refused patch.
        patch: P::Patch,
        /// The object in question.
        object: P::Object,
        /// The function by its first name.
        first: P::Func,
        /// And by its second.
        second: P::Func,
    },
    /// Two patches of different sets modify one system state.
    StateConflict {
        /// The refused patch.
        new: P::Patch,
        /// The enabled one.
        old: P::Patch,
        /// The state in question.
        state: P::State,
    },
    /// A replacing patch does not know, or knows less of, a state of the replaced one.
    StateTooOld {
        /// The refused patch.
        new: P::Patch,
        /// The enabled one.
        old: P::Patch,
        /// The state in question.
        state: P::State,
    },
    /// A patch is being enabled.
    Enabling(P::Patch),
    /// A transition takes shape.
    Preparing(P::Patch, Side),
    /// Tasks are asked to switch.
    Starting(P::Patch, Side),
    /// All tasks have.
    Completing(P::Patch, Side),
    /// And all is cleaned up.
    Complete(P::Patch, Side),
    /// The transition ends before it started.
    Canceling(P::Patch),
    /// It turns round; the side is the one it no longer goes to.
    Reversing(P::Patch, Side),
    /// Tasks that hold up the transition get a signal.
    Signaling,
    /// They are switched without asking.
    Forcing,
    /// A task could not be switched.
    Stuck(P::Task, Stuck<P::Func>),
    /// A pre-patch callback said no.
    PrePatchFailed(P::Object),
    /// A state's pre-patch callback said no.
    StatePrePatchFailed(P::Patch, P::State, Errno),
    /// An object could not be patched.
    ApplyFailed(P::Object),
    /// So the patch was not enabled.
    EnableFailed(P::Patch),
    /// A patch could not be fitted to a loading module.
    ModuleInitFailed(P::Patch, P::Module, Errno),
    /// A patch is applied to a loading module.
    ModuleApplying(P::Patch, P::Module),
    /// It could not be.
    ModuleApplyFailed(P::Patch, P::Module, Errno),
    /// So the module is not loaded.
    ModuleRefused(P::Patch, P::Module),
    /// A patch is taken off a module that goes.
    ModuleReverting(P::Patch, P::Module),
}

/// A kernel, as far as live patching needs one.
///
/// Methods that iterate return an iterator that has already stepped past what it yields, so the engine may drop the
/// yielded item. All but the super-traits is called by the holder of the livepatch lock only.
pub trait Platform: Tasks + Redirect {
    /// A livepatch.
    type Patch: Copy + Eq;
    /// One object (the kernel, or a module) that a patch changes.
    type Object: Copy + Eq;
    /// A loaded module.
    type Module: Copy + Eq;
    /// A system state that a patch changes.
    type State: Copy;
    /// The enabled patches and those in transition, oldest first.
    type Patches: Iterator<Item = Self::Patch>;
    /// The objects of a patch.
    type Objects: Iterator<Item = Self::Object>;
    /// The functions of an object.
    type Funcs: Iterator<Item = Self::Func>;
    /// The states of a patch.
    type States: Iterator<Item = Self::State>;

    /// Whether states have callbacks and an owner here; constant per kernel configuration.
    const LIVE_STATES: bool;

    // Patches.

    /// What the patch replaces.
    fn scope(&self, patch: Self::Patch) -> Scope;
    /// Whether it is enabled or on its way there.
    fn enabled(&self, patch: Self::Patch) -> bool;
    /// Says so.
    fn set_enabled(&self, patch: Self::Patch, on: bool);
    /// Its code may still be running for all we know; keep it for ever.
    fn set_forced(&self, patch: Self::Patch);
    /// The list.
    fn patches(&self) -> Self::Patches;
    /// Appends to the list.
    fn link(&self, patch: Self::Patch);
    /// Takes off the list if there.
    fn unlink(&self, patch: Self::Patch);
    /// Keeps the patch's memory; false when it is going away.
    fn hold(&self, patch: Self::Patch) -> bool;
    /// Makes the patch's static tables walkable.
    fn adopt(&self, patch: Self::Patch);
    /// Shows the patch to user space.
    fn show_patch(&self, patch: Self::Patch) -> Result<(), Errno>;
    /// Its objects.
    fn objects(&self, patch: Self::Patch) -> Self::Objects;
    /// Later, without the lock: wait until user space lets go of it, then release its memory unless forced.
    fn finish_later(&self, patch: Self::Patch);

    // Objects.

    /// Its functions.
    fn funcs(&self, object: Self::Object) -> Self::Funcs;
    /// Shows the object to user space.
    fn show_object(&self, patch: Self::Patch, object: Self::Object) -> Result<(), Errno>;
    /// Whether the object is a module, loaded or not.
    fn is_module(&self, object: Self::Object) -> bool;
    /// Whether both are the same module, or both the kernel.
    fn same_object(&self, a: Self::Object, b: Self::Object) -> bool;
    /// Whether the object is about this module.
    fn is_about(&self, object: Self::Object, module: Self::Module) -> bool;
    /// The module that stands for the object, as set.
    fn module(&self, object: Self::Object) -> Option<Self::Module>;
    /// Ties object and module together.
    fn set_module(&self, object: Self::Object, module: Option<Self::Module>);
    /// The loaded and alive module of the object's name.
    fn find_module(&self, object: Self::Object) -> Option<Self::Module>;
    /// From now on (or no longer) patches may find the module.
    fn set_alive(&self, module: Self::Module, alive: bool);
    /// Whether the object's functions are on their stacks.
    fn patched(&self, object: Self::Object) -> bool;
    /// Says so.
    fn set_patched(&self, object: Self::Object, on: bool);
    /// Whether the engine made the object, for no-ops.
    fn is_dynamic(&self, object: Self::Object) -> bool;
    /// Calls one of the object's callbacks, if there. Only pre-patch can fail.
    fn call(&self, object: Self::Object, hook: Hook) -> Result<(), Errno>;
    /// Whether the object's pre-patch callback has run and nothing has undone it.
    fn is_set_up(&self, object: Self::Object) -> bool;
    /// Says so.
    fn set_set_up(&self, object: Self::Object, on: bool);
    /// Writes the patch's relocations against the object; all of them or none.
    fn write_relocs(&self, patch: Self::Patch, object: Self::Object) -> Result<(), Errno>;
    /// Takes them back.
    fn clear_relocs(&self, patch: Self::Patch, object: Self::Object);
    /// A new object of the patch like `like`, without functions.
    fn new_object(&self, patch: Self::Patch, like: Self::Object) -> Result<Self::Object, Errno>;
    /// Forgets an object of the patch; one that the engine made is freed.
    fn drop_object(&self, object: Self::Object);

    // Functions.

    /// Shows the function to user space.
    fn show_func(&self, object: Self::Object, func: Self::Func) -> Result<(), Errno>;
    /// Whether both have one name.
    fn same_name(&self, a: Self::Func, b: Self::Func) -> bool;
    /// The position among equal names, 0 when it must be the only one.
    fn position(&self, func: Self::Func) -> usize;
    /// Finds the function in the loaded object, and both sizes.
    fn resolve(&self, object: Self::Object, func: Self::Func) -> Result<(), Errno>;
    /// Forgets what [`resolve`](Self::resolve) found.
    fn forget(&self, func: Self::Func);
    /// Where the original is.
    fn old_span(&self, func: Self::Func) -> Span;
    /// Where the replacement is.
    fn new_span(&self, func: Self::Func) -> Span;
    /// The first bytes of the original, up to the return address of its handler.
    fn entry_span(&self, func: Self::Func) -> Span;
    /// Whether it is on its stack.
    fn applied(&self, func: Self::Func) -> bool;
    /// Says so.
    fn set_applied(&self, func: Self::Func, on: bool);
    /// Makes handlers ask for the task's side.
    fn set_transition(&self, func: Self::Func, on: bool);
    /// The stack of the function that `func` replaces.
    fn find_stack(&self, func: Self::Func) -> Option<Self::Stack>;
    /// Makes a stack holding `func`, not settled, and starts redirecting to it.
    fn open_stack(&self, func: Self::Func) -> Result<Self::Stack, Errno>;
    /// Stops redirecting, waits for all handlers, and frees the stack, `func` being the last on it.
    fn close_stack(&self, stack: Self::Stack, func: Self::Func);
    /// Puts `func` on top.
    fn push(&self, stack: Self::Stack, func: Self::Func);
    /// Takes `func` off; handlers may still hold it.
    fn remove(&self, stack: Self::Stack, func: Self::Func);
    /// Writes what [`settled`](Redirect::settled) reads. What the function refers to is seen by who sees it there.
    fn set_settled(&self, stack: Self::Stack, func: Option<Self::Func>);
    /// A no-op of `object` for the function that `like` replaces.
    fn new_nop(&self, object: Self::Object, like: Self::Func) -> Result<(), Errno>;
    /// Forgets a function of the patch; a no-op is freed.
    fn drop_func(&self, func: Self::Func);

    // States.

    /// The states of a patch.
    fn states(&self, patch: Self::Patch) -> Self::States;
    /// The number of the state.
    fn state_id(&self, state: Self::State) -> u64;
    /// Its version.
    fn state_version(&self, state: Self::State) -> u32;
    /// Whether the state can be undone: it has callbacks, or owns a shadow variable.
    fn can_go(&self, state: Self::State) -> bool;
    /// Whether removing this entry ends the state.
    fn owned(&self, state: Self::State) -> bool;
    /// Says so.
    fn set_owned(&self, state: Self::State, on: bool);
    /// Calls one of the state's callbacks, if there. Only pre-patch can fail.
    fn call_state(&self, patch: Self::Patch, state: Self::State, hook: Hook) -> Result<(), Errno>;
    /// Frees the shadow variables that the state owns, if any.
    fn drop_shadows(&self, state: Self::State);

    // Tasks.

    /// Calls `f` for each task but the idle ones, none of which forks while `f` is called with it. `f` is quick.
    ///
    /// Tasks come and go between two calls, and `f` may see one twice. What holds in the end: every task was seen, or came from one
    /// that had been seen.
    fn each_task(&self, f: &mut dyn FnMut(Self::Task));
    /// Calls `f` for each task but the idle ones, in bounded steps; may miss tasks that come or move meanwhile.
    fn visit_tasks(&self, f: &mut dyn FnMut(Self::Task));
    /// Calls `f` for the idle task of each possible processor, none of which comes or goes meanwhile.
    fn each_idle(&self, f: &mut dyn FnMut(Idle<Self::Task>));
    /// Calls `look` with the return addresses on the task's stack while the task cannot run; the current task is always fine.
    fn inspect(&self, task: Self::Task, look: Look<'_, Self::Func>) -> Result<(), Stuck<Self::Func>>;
    /// Whether stacks can be read at all.
    fn reliable_stacks(&self) -> bool;
    /// Makes a task that sleeps leave the kernel, or go round its loop.
    fn nudge(&self, task: Self::Task);
    /// Makes an idle processor go round its loop.
    fn nudge_idle(&self, cpu: u32);
    /// Lets tasks that sleep often try by themselves, or no longer.
    fn set_sched_hook(&self, on: bool);

    /// Says which patch is in transition, to who asks without the lock.
    fn set_moving(&self, patch: Option<Self::Patch>);

    // Time and order.

    /// Orders the writes before it ahead of those after it.
    fn write_barrier(&self);
    /// The same for reads.
    fn read_barrier(&self);
    /// Waits until every processor has left whatever ran with preemption off, handlers and self-switching included.
    fn sync(&self);
    /// Calls [`Engine::retry`](super::Engine::retry) in about a second.
    fn retry_later(&self);

    // Ranges.

    /// Makes room for tables of `n` entries; keeps what is there if it is enough.
    fn reserve_ranges(&self, n: usize) -> Result<(), Errno>;
    /// Lets `fill` write the spare table, publishes it, and waits until nobody reads the other.
    fn publish_ranges(&self, fill: Fill<'_, Self::Func>);
    /// Calls `f` with the published table; `None` when it could not be filled. Takes no lock.
    fn read_ranges<R>(&self, f: impl FnOnce(Option<&[Unsafe<Self::Func>]>) -> R) -> R;

    /// Writes to the log.
    fn log(&self, event: Event<Self>);
}
