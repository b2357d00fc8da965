// SPDX-License-Identifier: GPL-2.0-only
//! Kernel live patching.
//!
//! In: livepatch modules, module loader, sysfs, and the paths of every task. Out: calls on the engine (`engine/`), which
//! decides; `klp/` tells it about this kernel. Hard because nearly all memory here belongs to others: a patch's tables are
//! statics of a module, tasks are the scheduler's. The rules that make the `unsafe` blocks sound:
//!
//! * **handles**: a `Patch`, `Object`, `Func`, `Module`, `State` is valid from the call that brought it until the engine
//!   drops it; the memory behind a patch is kept by a module reference that `finish` gives back.
//! * **lock**: fields that are not atomics are touched by the holder of `klp_mutex` only ([`Lock`]).
//! * **words**: what handlers and switching tasks read is accessed through atomics, on both sides.
//!
//! Core's atomics are used where a load must be inline (the kernel crate's are calls with gcc): on x86 an acquire load is a
//! plain one, elsewhere it is the instruction that smp_load_acquire() is.

#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "engine/mod.rs"]
mod engine;

#[path = "klp/entry.rs"]
mod entry;
#[path = "klp/handles.rs"]
mod handles;
#[path = "klp/hot.rs"]
mod hot;
#[path = "klp/messages.rs"]
mod messages;
#[path = "klp/platform.rs"]
mod platform;
#[path = "klp/ranges.rs"]
mod ranges;
#[path = "klp/shadow.rs"]
mod shadow;
#[path = "klp/stacks.rs"]
mod stacks;
#[path = "klp/states.rs"]
mod states;
#[path = "klp/symbols.rs"]
mod symbols;
#[path = "klp/sysfs.rs"]
mod sysfs;
#[path = "klp/tables.rs"]
mod tables;
#[path = "klp/tasks.rs"]
mod tasks;

use engine::Engine;
use kernel::bindings;

const __LOG_PREFIX: &[u8] = b"livepatch\0";

/// This kernel, as the engine sees it.
#[derive(Clone, Copy)]
struct Kernel;

struct Shared(Engine<Kernel>);

// SAFETY: the engine's cells are touched by the holder of `klp_mutex` only; `Kernel` has no state of its own.
unsafe impl Sync for Shared {}

static ENGINE: Shared = Shared(Engine::new(Kernel));

/// The holder of the livepatch lock.
struct Lock(());

impl Lock {
    fn take() -> Self {
        // SAFETY: `klp_mutex` is statically initialised; all callers may sleep.
        unsafe { bindings::mutex_lock(&raw mut bindings::klp_mutex) };
        Lock(())
    }

    fn engine(&self) -> &'static Engine<Kernel> {
        &ENGINE.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: taken in `take`.
        unsafe { bindings::mutex_unlock(&raw mut bindings::klp_mutex) };
    }
}
