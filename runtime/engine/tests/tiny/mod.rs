// SPDX-License-Identifier: GPL-2.0-only
//! A kernel with one function, one task and up to two patches, whose shared words are loom's.
//!
//! In: calls of the engine in one thread, of the task in another. Out: every order in which memory may show the one's
//! writes to the other. The grace period is a lock that handlers hold for reading. Parts can be left out, to see that the
//! tests notice.

use std::sync::atomic::{AtomicBool as Plain, AtomicUsize, Ordering as Std};

use klp_engine::*;
use loom::sync::atomic::{fence, AtomicBool, AtomicI32, Ordering};
use loom::sync::RwLock;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// Nothing.
    Nothing,
    /// All barriers.
    Barriers,
    /// The write barrier of that number, from 1, since [`Tiny::count_barriers`].
    Barrier(usize),
    /// The settled word is given but never taken away.
    Withdrawal,
    /// The settled word is given as soon as a replacement is on the stack.
    Patience,
}

/// Patches, their objects and functions are one number, 0 or 1; 1 is always put on top of 0.
pub struct Tiny {
    side: AtomicI32,
    pending: AtomicBool,
    goal: AtomicI32,
    transition: [AtomicBool; 2],
    /// Calls are redirected.
    open: AtomicBool,
    /// The newest replacement.
    top: AtomicI32,
    settled: AtomicI32,
    grace: RwLock<()>,
    // Only the engine's thread looks at these.
    enabled: [Plain; 2],
    patched: [Plain; 2],
    applied: [Plain; 2],
    set_up: [Plain; 2],
    listed: [Plain; 2],
    gone: [Plain; 2],
    barriers: AtomicUsize,
    without: Without,
}

impl Tiny {
    pub fn new(without: Without) -> Self {
        let plain = || [Plain::new(false), Plain::new(false)];
        Tiny {
            side: AtomicI32::new(-1),
            pending: AtomicBool::new(false),
            goal: AtomicI32::new(-1),
            transition: [AtomicBool::new(false), AtomicBool::new(false)],
            open: AtomicBool::new(false),
            top: AtomicI32::new(-1),
            settled: AtomicI32::new(-1),
            grace: RwLock::new(()),
            enabled: plain(),
            patched: plain(),
            applied: plain(),
            set_up: plain(),
            listed: plain(),
            gone: plain(),
            barriers: AtomicUsize::new(0),
            without,
        }
    }

    /// The task calls the function: which patch's version it runs.
    pub fn call(&self) -> Option<u8> {
        let _section = self.grace.read().unwrap();
        if self.open.load(Ordering::Acquire) {
            redirect(&self, ())
        } else {
            None
        }
    }

    /// The task leaves the kernel. Returns the side it is on then.
    pub fn leave_kernel(&self) -> Option<Side> {
        let _section = self.grace.read().unwrap();
        switch_self(&self, ());
        decode(self.side.load(Ordering::Relaxed))
    }

    /// Barriers are numbered from here.
    pub fn count_barriers(&self) {
        self.barriers.store(0, Std::Relaxed);
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

fn number(word: i32) -> Option<u8> {
    u8::try_from(word).ok()
}

fn is(flags: &[Plain; 2], i: u8) -> bool {
    flags[usize::from(i)].load(Std::Relaxed)
}

fn set(flags: &[Plain; 2], i: u8, on: bool) {
    flags[usize::from(i)].store(on, Std::Relaxed);
}

impl Redirect for &Tiny {
    type Stack = ();
    type Func = u8;
    fn settled(&self, _: ()) -> Option<u8> {
        number(self.settled.load(Ordering::Acquire))
    }
    fn top(&self, _: ()) -> Option<u8> {
        // Empty when it was closed after the handler began; the real one waits for it.
        number(self.top.load(Ordering::Acquire)).or(Some(0))
    }
    fn below(&self, _: (), func: u8) -> Option<u8> {
        // 0 neither comes nor goes while 1 is there.
        (func == 1 && is(&self.applied, 0)).then_some(0)
    }
    fn in_transition(&self, func: u8) -> bool {
        let order = if self.without == Without::Barriers { Ordering::Relaxed } else { Ordering::Acquire };
        self.transition[usize::from(func)].load(order)
    }
    fn current_side(&self) -> Option<Side> {
        decode(self.side.load(Ordering::Relaxed))
    }
    fn is_nop(&self, _: u8) -> bool {
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

type Items = std::vec::IntoIter<u8>;

#[rustfmt::skip]
impl Platform for &Tiny {
    type Patch = u8;
    type Object = u8;
    type Module = ();
    type State = ();
    type Patches = Items;
    type Objects = Items;
    type Funcs = Items;
    type States = std::option::IntoIter<()>;
    const LIVE_STATES: bool = false;

    fn scope(&self, _: u8) -> Scope { Scope::Nothing }
    fn enabled(&self, p: u8) -> bool { is(&self.enabled, p) }
    fn set_enabled(&self, p: u8, on: bool) { set(&self.enabled, p, on) }
    fn set_forced(&self, _: u8) {}
    fn patches(&self) -> Items { (0..2).filter(|&p| is(&self.listed, p)).collect::<Vec<_>>().into_iter() }
    fn link(&self, p: u8) { set(&self.listed, p, true) }
    fn unlink(&self, p: u8) { set(&self.listed, p, false) }
    fn hold(&self, _: u8) -> bool { true }
    fn adopt(&self, _: u8) {}
    fn show_patch(&self, _: u8) -> Result<(), Errno> { Ok(()) }
    fn objects(&self, p: u8) -> Items { if is(&self.gone, p) { vec![] } else { vec![p] }.into_iter() }
    fn finish_later(&self, _: u8) {}
    fn funcs(&self, o: u8) -> Items { vec![o].into_iter() }
    fn show_object(&self, _: u8, _: u8) -> Result<(), Errno> { Ok(()) }
    fn is_module(&self, _: u8) -> bool { false }
    fn same_object(&self, _: u8, _: u8) -> bool { true }
    fn is_about(&self, _: u8, _: ()) -> bool { false }
    fn module(&self, _: u8) -> Option<()> { None }
    fn set_module(&self, _: u8, _: Option<()>) {}
    fn find_module(&self, _: u8) -> Option<()> { None }
    fn set_alive(&self, _: (), _: bool) {}
    fn patched(&self, o: u8) -> bool { is(&self.patched, o) }
    fn set_patched(&self, o: u8, on: bool) { set(&self.patched, o, on) }
    fn is_dynamic(&self, _: u8) -> bool { false }
    fn call(&self, _: u8, _: Hook) -> Result<(), Errno> { Ok(()) }
    fn is_set_up(&self, o: u8) -> bool { is(&self.set_up, o) }
    fn set_set_up(&self, o: u8, on: bool) { set(&self.set_up, o, on) }
    fn write_relocs(&self, _: u8, _: u8) -> Result<(), Errno> { Ok(()) }
    fn clear_relocs(&self, _: u8, _: u8) {}
    fn new_object(&self, _: u8, _: u8) -> Result<u8, Errno> { unreachable!() }
    fn drop_object(&self, o: u8) { set(&self.gone, o, true) }
    fn show_func(&self, _: u8, _: u8) -> Result<(), Errno> { Ok(()) }
    fn same_name(&self, _: u8, _: u8) -> bool { true }
    fn position(&self, _: u8) -> usize { 0 }
    fn resolve(&self, _: u8, _: u8) -> Result<(), Errno> { Ok(()) }
    fn forget(&self, _: u8) {}
    fn old_span(&self, _: u8) -> Span { Span { start: 0, end: 1 } }
    fn new_span(&self, f: u8) -> Span { Span { start: 1 + usize::from(f), end: 2 + usize::from(f) } }
    fn entry_span(&self, _: u8) -> Span { Span { start: 0, end: 1 } }
    fn applied(&self, f: u8) -> bool { is(&self.applied, f) }
    fn set_applied(&self, f: u8, on: bool) { set(&self.applied, f, on) }
    fn set_transition(&self, f: u8, on: bool) { self.transition[usize::from(f)].store(on, Ordering::Relaxed) }
    fn find_stack(&self, _: u8) -> Option<()> { (is(&self.applied, 0) || is(&self.applied, 1)).then_some(()) }
    // Relaxed: the order comes from the engine's write barrier, as list_add_rcu()'s own is not counted on.
    fn open_stack(&self, f: u8) -> Result<(), Errno> {
        self.push((), f);
        self.open.store(true, Ordering::Relaxed);
        Ok(())
    }
    fn close_stack(&self, _: (), _: u8) {
        self.open.store(false, Ordering::Relaxed);
        self.sync();
        self.top.store(-1, Ordering::Relaxed);
    }
    fn push(&self, _: (), f: u8) {
        self.top.store(i32::from(f), Ordering::Relaxed);
        if self.without == Without::Patience { self.settled.store(i32::from(f), Ordering::Release) }
    }
    fn remove(&self, _: (), f: u8) {
        assert_eq!(f, 1);
        self.top.store(0, Ordering::Relaxed);
    }
    fn set_settled(&self, _: (), f: Option<u8>) {
        match (self.without, f) {
            (Without::Withdrawal | Without::Patience, None) => {}
            (_, None) => self.settled.store(-1, Ordering::Relaxed),
            (_, Some(f)) => self.settled.store(i32::from(f), Ordering::Release),
        }
    }
    fn new_nop(&self, _: u8, _: u8) -> Result<(), Errno> { unreachable!() }
    fn drop_func(&self, _: u8) {}
    fn states(&self, _: u8) -> Self::States { None.into_iter() }
    fn state_id(&self, _: ()) -> u64 { 0 }
    fn state_version(&self, _: ()) -> u32 { 0 }
    fn can_go(&self, _: ()) -> bool { false }
    fn owned(&self, _: ()) -> bool { false }
    fn set_owned(&self, _: (), _: bool) {}
    fn call_state(&self, _: u8, _: (), _: Hook) -> Result<(), Errno> { Ok(()) }
    fn drop_shadows(&self, _: ()) {}
    // A walk that lost its place begins again.
    fn each_task(&self, f: &mut dyn FnMut(())) { f(()); f(()) }
    fn visit_tasks(&self, f: &mut dyn FnMut(())) { f(()) }
    fn each_idle(&self, _: &mut dyn FnMut(Idle<()>)) {}
    // The task is always running: it has to switch by itself.
    fn inspect(&self, _: (), _: Look<'_, u8>) -> Result<(), Stuck<u8>> { Err(Stuck::Running) }
    fn reliable_stacks(&self) -> bool { true }
    fn nudge(&self, _: ()) {}
    fn nudge_idle(&self, _: u32) {}
    fn set_sched_hook(&self, _: bool) {}
    fn set_moving(&self, _: Option<u8>) {}
    fn write_barrier(&self) {
        let number = 1 + self.barriers.fetch_add(1, Std::Relaxed);
        if self.without != Without::Barriers && self.without != Without::Barrier(number) { fence(Ordering::Release) }
    }
    fn read_barrier(&self) { if self.without != Without::Barriers { fence(Ordering::Acquire) } }
    fn sync(&self) { drop(self.grace.write().unwrap()) }
    fn retry_later(&self) {}
    fn reserve_ranges(&self, _: usize) -> Result<(), Errno> { Ok(()) }
    fn publish_ranges(&self, fill: Fill<'_, u8>) {
        let nobody = Unsafe { span: Span { start: 0, end: 0 }, reach: 0, func: 0 };
        assert_eq!(fill(&mut [nobody; 2]), RangeTable::Entries(2));
    }
    fn read_ranges<R>(&self, f: impl FnOnce(Option<&[Unsafe<u8>]>) -> R) -> R { f(None) }
    fn log(&self, _: Event<Self>) {}
}
