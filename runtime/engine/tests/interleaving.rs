// SPDX-License-Identifier: GPL-2.0-only
//! The engine against one task, every interleaving of their loads and stores, in every order that memory may show them.
//!
//! In: one patch of one function, one task that calls it and leaves the kernel, the real engine in a second thread. Out:
//! between two points where the task may switch it sees one version only, and no handler meets a task without a side.
//! The grace period is a lock that handlers hold for reading.
//!
//! Not covered: smp_wmb() is a C11 release fence and the handler's loads are acquires, which is what the binding does but
//! a little stronger than the kernel's model; dependency ordering is not modelled; more than one task is left to `random.rs`.

use std::sync::atomic::{AtomicBool as Plain, Ordering as Std};

use klp_engine::*;
use loom::sync::atomic::{fence, AtomicBool, AtomicI32, Ordering};
use loom::sync::{Arc, RwLock};

/// One patch of one function in the kernel, and one task.
struct Tiny {
    side: AtomicI32,
    pending: AtomicBool,
    goal: AtomicI32,
    transition: AtomicBool,
    /// The function is on its stack and calls are redirected.
    open: AtomicBool,
    grace: RwLock<()>,
    // Only the engine's thread looks at these.
    enabled: Plain,
    patched: Plain,
    applied: Plain,
    set_up: Plain,
    listed: Plain,
    gone: Plain,
    /// What the test leaves out, to see that it can fail.
    barriers: bool,
}

impl Tiny {
    fn new(barriers: bool) -> Self {
        let plain = || Plain::new(false);
        Tiny {
            side: AtomicI32::new(-1),
            pending: AtomicBool::new(false),
            goal: AtomicI32::new(-1),
            transition: AtomicBool::new(false),
            open: AtomicBool::new(false),
            grace: RwLock::new(()),
            enabled: plain(),
            patched: plain(),
            applied: plain(),
            set_up: plain(),
            listed: plain(),
            gone: plain(),
            barriers,
        }
    }

    /// The task calls the function: `true` is the new version.
    fn call(&self) -> bool {
        let _section = self.grace.read().unwrap();
        self.open.load(Ordering::Acquire) && redirect(&self, ()).is_some()
    }

    /// The task leaves the kernel.
    fn leave_kernel(&self) {
        let _section = self.grace.read().unwrap();
        switch_self(&self, ());
    }
}

fn decode(word: i32) -> Option<Side> {
    match word {
        0 => Some(Side::Old),
        1 => Some(Side::New),
        _ => None,
    }
}

fn encode(side: Option<Side>) -> i32 {
    side.map_or(-1, |side| i32::from(side == Side::New))
}

impl Redirect for &Tiny {
    type Stack = ();
    type Func = ();
    fn top(&self, _: ()) -> Option<()> {
        // Empty when it was closed after the handler began; the real one waits for it.
        Some(())
    }
    fn below(&self, _: (), _: ()) -> Option<()> {
        None
    }
    fn in_transition(&self, _: ()) -> bool {
        let order = if self.barriers { Ordering::Acquire } else { Ordering::Relaxed };
        self.transition.load(order)
    }
    fn current_side(&self) -> Option<Side> {
        decode(self.side.load(Ordering::Relaxed))
    }
    fn is_nop(&self, _: ()) -> bool {
        false
    }
    fn anomaly(&self, what: Anomaly) {
        panic!("{what:?}");
    }
}

impl Tasks for &Tiny {
    type Task = ();
    fn side(&self, _: ()) -> Option<Side> {
        decode(self.side.load(Ordering::Relaxed))
    }
    fn set_side(&self, _: (), side: Option<Side>) {
        self.side.store(encode(side), Ordering::Relaxed);
    }
    fn pending(&self, _: ()) -> bool {
        self.pending.load(Ordering::Relaxed)
    }
    fn set_pending(&self, _: ()) {
        // Bit operations are read-modify-writes, and have to be here: loom lets a plain store be overtaken.
        self.pending.swap(true, Ordering::Relaxed);
    }
    fn clear_pending(&self, _: ()) {
        self.pending.swap(false, Ordering::Relaxed);
    }
    fn take_pending(&self, _: ()) -> bool {
        let taken = self.pending.swap(false, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        taken
    }
    fn goal(&self) -> Option<Side> {
        decode(self.goal.load(Ordering::Relaxed))
    }
    fn set_goal(&self, goal: Option<Side>) {
        self.goal.store(encode(goal), Ordering::Relaxed);
    }
}

type Once = std::option::IntoIter<()>;

#[rustfmt::skip]
impl Platform for &Tiny {
    type Patch = ();
    type Object = ();
    type Module = ();
    type State = ();
    type Patches = Once;
    type Objects = Once;
    type Funcs = Once;
    type States = Once;
    const LIVE_STATES: bool = false;

    fn scope(&self, _: ()) -> Scope { Scope::Nothing }
    fn enabled(&self, _: ()) -> bool { self.enabled.load(Std::Relaxed) }
    fn set_enabled(&self, _: (), on: bool) { self.enabled.store(on, Std::Relaxed) }
    fn set_forced(&self, _: ()) {}
    fn patches(&self) -> Once { self.listed.load(Std::Relaxed).then_some(()).into_iter() }
    fn link(&self, _: ()) { self.listed.store(true, Std::Relaxed) }
    fn unlink(&self, _: ()) { self.listed.store(false, Std::Relaxed) }
    fn hold(&self, _: ()) -> bool { true }
    fn adopt(&self, _: ()) {}
    fn show_patch(&self, _: ()) -> Result<(), Errno> { Ok(()) }
    fn objects(&self, _: ()) -> Once { (!self.gone.load(Std::Relaxed)).then_some(()).into_iter() }
    fn finish_later(&self, _: ()) {}
    fn funcs(&self, _: ()) -> Once { Some(()).into_iter() }
    fn show_object(&self, _: (), _: ()) -> Result<(), Errno> { Ok(()) }
    fn is_module(&self, _: ()) -> bool { false }
    fn same_object(&self, _: (), _: ()) -> bool { true }
    fn is_about(&self, _: (), _: ()) -> bool { false }
    fn module(&self, _: ()) -> Option<()> { None }
    fn set_module(&self, _: (), _: Option<()>) {}
    fn find_module(&self, _: ()) -> Option<()> { None }
    fn set_alive(&self, _: (), _: bool) {}
    fn patched(&self, _: ()) -> bool { self.patched.load(Std::Relaxed) }
    fn set_patched(&self, _: (), on: bool) { self.patched.store(on, Std::Relaxed) }
    fn is_dynamic(&self, _: ()) -> bool { false }
    fn call(&self, _: (), _: Hook) -> Result<(), Errno> { Ok(()) }
    fn is_set_up(&self, _: ()) -> bool { self.set_up.load(Std::Relaxed) }
    fn set_set_up(&self, _: (), on: bool) { self.set_up.store(on, Std::Relaxed) }
    fn write_relocs(&self, _: (), _: ()) -> Result<(), Errno> { Ok(()) }
    fn clear_relocs(&self, _: (), _: ()) {}
    fn new_object(&self, _: (), _: ()) -> Result<(), Errno> { Ok(()) }
    fn drop_object(&self, _: ()) { self.gone.store(true, Std::Relaxed) }
    fn show_func(&self, _: (), _: ()) -> Result<(), Errno> { Ok(()) }
    fn same_name(&self, _: (), _: ()) -> bool { true }
    fn position(&self, _: ()) -> usize { 0 }
    fn resolve(&self, _: (), _: ()) -> Result<(), Errno> { Ok(()) }
    fn forget(&self, _: ()) {}
    fn old_span(&self, _: ()) -> Span { Span { start: 0, end: 1 } }
    fn new_span(&self, _: ()) -> Span { Span { start: 1, end: 2 } }
    fn applied(&self, _: ()) -> bool { self.applied.load(Std::Relaxed) }
    fn set_applied(&self, _: (), on: bool) { self.applied.store(on, Std::Relaxed) }
    fn set_transition(&self, _: (), on: bool) { self.transition.store(on, Ordering::Relaxed) }
    fn find_stack(&self, _: ()) -> Option<()> { self.applied.load(Std::Relaxed).then_some(()) }
    // Relaxed: the order comes from the engine's write barrier, as list_add_rcu()'s own is not counted on.
    fn open_stack(&self, _: ()) -> Result<(), Errno> { self.open.store(true, Ordering::Relaxed); Ok(()) }
    fn close_stack(&self, _: (), _: ()) { self.open.store(false, Ordering::Relaxed); self.sync() }
    fn push(&self, _: (), _: ()) { unreachable!() }
    fn remove(&self, _: (), _: ()) { unreachable!() }
    fn new_nop(&self, _: (), _: ()) -> Result<(), Errno> { unreachable!() }
    fn drop_func(&self, _: ()) {}
    fn states(&self, _: ()) -> Once { None.into_iter() }
    fn state_id(&self, _: ()) -> u64 { 0 }
    fn state_version(&self, _: ()) -> u32 { 0 }
    fn can_go(&self, _: ()) -> bool { false }
    fn owned(&self, _: ()) -> bool { false }
    fn set_owned(&self, _: (), _: bool) {}
    fn call_state(&self, _: (), _: (), _: Hook) -> Result<(), Errno> { Ok(()) }
    fn drop_shadows(&self, _: ()) {}
    fn each_task(&self, f: &mut dyn FnMut(())) { f(()) }
    fn visit_tasks(&self, f: &mut dyn FnMut(())) { f(()) }
    fn each_idle(&self, _: &mut dyn FnMut(Idle<()>)) {}
    // The task is always running: it has to switch by itself.
    fn inspect(&self, _: (), _: &mut dyn FnMut(&[usize]) -> Result<(), Stuck<()>>) -> Result<(), Stuck<()>> { Err(Stuck::Running) }
    fn reliable_stacks(&self) -> bool { true }
    fn nudge(&self, _: ()) {}
    fn nudge_idle(&self, _: u32) {}
    fn set_sched_hook(&self, _: bool) {}
    fn write_barrier(&self) { if self.barriers { fence(Ordering::Release) } }
    fn read_barrier(&self) { if self.barriers { fence(Ordering::Acquire) } }
    fn sync(&self) { drop(self.grace.write().unwrap()) }
    fn retry_later(&self) {}
    fn reserve_ranges(&self, _: usize) -> Result<(), Errno> { Ok(()) }
    fn publish_ranges(&self, fill: &mut dyn FnMut(&mut [Unsafe<()>]) -> RangeTable) {
        let nobody = Unsafe { span: Span { start: 0, end: 0 }, reach: 0, func: () };
        assert_eq!(fill(&mut [nobody]), RangeTable::Entries(1));
    }
    fn read_ranges<R>(&self, f: impl FnOnce(Option<&[Unsafe<()>]>) -> R) -> R { f(None) }
    fn log(&self, _: Event<Self>) {}
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// The task calls twice, leaves the kernel, calls twice: both of each pair must be one version unless the transition began
/// or ended between them, and having seen the new one it does not see the old one again.
fn patching(barriers: bool) {
    explore(move || {
        let tiny = Arc::new(Tiny::new(barriers));
        let task = {
            let tiny = tiny.clone();
            loom::thread::spawn(move || {
                let first = tiny.call();
                tiny.leave_kernel();
                let second = tiny.call();
                assert!(!first, "new before the first switch");
                second
            })
        };
        let engine = Engine::new(&*tiny);
        engine.enable(()).unwrap();
        let switched = task.join().unwrap();
        if engine.moving().is_some() {
            assert!(!switched || tiny.side.load(Ordering::Relaxed) == 1, "new on the old side");
            tiny.leave_kernel();
            engine.retry();
        }
        assert!(
            engine.moving().is_none(),
            "the transition does not end: {:?} {} {} {}",
            engine.moving(),
            tiny.side.load(Ordering::Relaxed),
            tiny.pending.load(Ordering::Relaxed),
            tiny.goal.load(Ordering::Relaxed)
        );
        assert!(tiny.call(), "old after the transition");
    });
}

/// No interleaving shows the new version to a task that has not switched, or a task without a side to a handler.
#[test]
fn enabling() {
    patching(true);
}

/// The same without the barriers: the test sees the difference.
#[test]
#[should_panic]
fn enabling_needs_its_barriers() {
    patching(false);
}

/// Disabling: the new version until the task leaves the kernel, the old one after, and never a closed stack's function.
#[test]
fn disabling() {
    explore(|| {
        let tiny = Arc::new(Tiny::new(true));
        let engine = Engine::new(&*tiny);
        engine.enable(()).unwrap();
        tiny.leave_kernel();
        engine.retry();
        assert!(engine.moving().is_none());
        let task = {
            let tiny = tiny.clone();
            loom::thread::spawn(move || {
                assert!(tiny.call(), "old before the switch");
                tiny.leave_kernel();
                let (first, second) = (tiny.call(), tiny.call());
                assert!(first || !second, "new after old");
            })
        };
        engine.request((), false).unwrap();
        task.join().unwrap();
        if engine.moving().is_some() {
            tiny.leave_kernel();
            engine.retry();
        }
        assert!(engine.moving().is_none(), "the transition does not end");
        assert!(!tiny.call(), "new after the transition");
    });
}
