// SPDX-License-Identifier: GPL-2.0-only
//! The two range tables.
//!
//! In: entries from the engine, under the lock. Out: one of two tables published to tasks that check their own stacks
//! without it. Hard because a reader may still use the table that was published before: it is written again only after a
//! grace period.

use super::engine::{Errno, RangeTable, Span, Unsafe};
use super::handles::Func;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use kernel::bindings;

type Entry = Unsafe<Func>;

struct Table {
    entries: *mut Entry,
    /// `None`: the table could not be filled.
    used: Option<usize>,
}

struct Tables {
    tables: [UnsafeCell<Table>; 2],
    room: UnsafeCell<usize>,
    published: AtomicUsize,
    /// Nobody reads the table that is not published.
    spare_is_quiet: AtomicBool,
}

// SAFETY: `room` and the unpublished table belong to the lock holder; the published one is only read.
unsafe impl Sync for Tables {}

const EMPTY: UnsafeCell<Table> = UnsafeCell::new(Table { entries: core::ptr::null_mut(), used: Some(0) });

static TABLES: Tables = Tables {
    tables: [EMPTY, EMPTY],
    room: UnsafeCell::new(0),
    published: AtomicUsize::new(0),
    spare_is_quiet: AtomicBool::new(true),
};

fn table(index: usize) -> &'static UnsafeCell<Table> {
    let [first, second] = &TABLES.tables;
    if index == 0 {
        first
    } else {
        second
    }
}

/// A grace period has passed.
pub(crate) fn synced() {
    TABLES.spare_is_quiet.store(true, Ordering::Relaxed);
}

/// Makes room. There is no transition, so nobody reads either table.
pub(crate) fn reserve(n: usize) -> Result<(), Errno> {
    // SAFETY: lock.
    let room = unsafe { &mut *TABLES.room.get() };
    if n <= *room {
        return Ok(());
    }
    let bytes = n.checked_mul(size_of::<Entry>()).ok_or(Errno::NOMEM)?;
    // SAFETY: plain allocations.
    let fresh = unsafe { [bindings::klp_glue_zalloc(bytes), bindings::klp_glue_zalloc(bytes)] };
    if fresh.iter().any(|p| p.is_null()) {
        // SAFETY: allocated above, or null.
        fresh.iter().for_each(|&p| unsafe { bindings::kvfree(p) });
        return Err(Errno::NOMEM);
    }
    for (index, fresh) in fresh.into_iter().enumerate() {
        // SAFETY: lock, and no readers.
        let table = unsafe { &mut *table(index).get() };
        // SAFETY: ours, or null.
        unsafe { bindings::kvfree(table.entries.cast()) };
        *table = Table { entries: fresh.cast(), used: Some(0) };
    }
    *room = n;
    Ok(())
}

/// Fills the spare table and publishes it.
pub(crate) fn publish(fill: &mut dyn FnMut(&mut [Entry]) -> RangeTable, sync: impl FnOnce()) {
    if !TABLES.spare_is_quiet.load(Ordering::Relaxed) {
        sync();
    }
    let spare = usize::from(TABLES.published.load(Ordering::Relaxed) == 0);
    // SAFETY: lock, and nobody reads the spare table.
    let (table, room) = unsafe { (&mut *table(spare).get(), *TABLES.room.get()) };
    let filled = if table.entries.is_null() {
        fill(&mut [])
    } else {
        // The memory came zeroed and a zero function is no handle: give each slot a value before it is a slice.
        let nobody = Unsafe { span: Span { start: 0, end: 0 }, reach: 0, func: Func::dangling() };
        for i in 0..room {
            // SAFETY: within the allocation.
            unsafe { table.entries.add(i).write(nobody) };
        }
        // SAFETY: `room` entries, all written; nobody else uses them.
        fill(unsafe { core::slice::from_raw_parts_mut(table.entries, room) })
    };
    table.used = match filled {
        RangeTable::Entries(used) => Some(used.min(room)),
        RangeTable::Unknown => None,
    };
    TABLES.published.store(spare, Ordering::Release);
    TABLES.spare_is_quiet.store(false, Ordering::Relaxed);
}

/// Calls `f` with the published table.
pub(crate) fn read<R>(f: impl FnOnce(Option<&[Entry]>) -> R) -> R {
    // SAFETY: published, so it does not change until a grace period after another is; the caller is not preempted.
    let table = unsafe { &*table(TABLES.published.load(Ordering::Acquire)).get() };
    f(match table.used {
        None => None,
        Some(0) => Some(&[]),
        // SAFETY: so many entries were written before it was published.
        Some(used) => Some(unsafe { core::slice::from_raw_parts(table.entries, used) }),
    })
}
