// SPDX-License-Identifier: GPL-2.0-only
//! Shadow variables.
//!
//! In: an object's address and a number. Out: memory that goes with them. Hard because lookups take no lock and may run
//! wherever RCU watches: entries are published with a release store and freed after an RCU grace period.

use super::engine::{get_or_alloc, Existing, Shadows};
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::bindings;
use kernel::prelude::*;

const BITS: u32 = 12;

/// One variable; its data follows, aligned like the memory of kmalloc().
#[repr(C, align(16))]
struct Shadow {
    next: AtomicPtr<Shadow>,
    obj: *mut c_void,
    id: c_ulong,
    rcu: bindings::callback_head,
}

impl Shadow {
    fn data(shadow: *mut Shadow) -> *mut c_void {
        shadow.wrapping_add(1).cast()
    }
}

type Link = AtomicPtr<Shadow>;

static BUCKETS: [Link; 1 << BITS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 1 << BITS];

fn bucket(obj: *mut c_void) -> &'static Link {
    let hash = (obj as u64).wrapping_mul(0x61c8_8646_80b5_83eb) >> (u64::BITS - BITS);
    let first = BUCKETS.as_ptr();
    // SAFETY: so many bits are less than the length.
    unsafe { &*first.add(hash as usize) }
}

/// The holder of the table's lock.
struct TableLock(c_ulong);

impl TableLock {
    fn take() -> Self {
        // SAFETY: the lock is a static; it may be taken anywhere but in NMIs.
        TableLock(unsafe { bindings::klp_glue_shadow_lock() })
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        // SAFETY: taken in `take`.
        unsafe { bindings::klp_glue_shadow_unlock(self.0) };
    }
}

/// Unlinks the entries of one bucket that match, and frees them when nobody reads them.
fn remove(link: &Link, dtor: bindings::klp_shadow_dtor_t, matches: impl Fn(&Shadow) -> bool, _lock: &TableLock) {
    let mut link: *const Link = link;
    loop {
        // SAFETY: the bucket, or the link of an entry that stays; the lock is held.
        let shadow = unsafe { (*link).load(Ordering::Relaxed) };
        if shadow.is_null() {
            return;
        }
        // SAFETY: in the table, and the lock is held.
        unsafe {
            if !matches(&*shadow) {
                link = &raw const (*shadow).next;
                continue;
            }
            (*link).store((*shadow).next.load(Ordering::Relaxed), Ordering::Release);
            if let Some(dtor) = dtor {
                dtor((*shadow).obj, Shadow::data(shadow));
            }
            // Readers may be on it, so its own link stays.
            bindings::kvfree_call_rcu((&raw mut (*shadow).rcu).cast(), shadow.cast());
        }
    }
}

/// One call of an allocating function.
#[derive(Clone, Copy)]
struct Request {
    size: usize,
    gfp: bindings::gfp_t,
    ctor: bindings::klp_shadow_ctor_t,
    ctor_data: *mut c_void,
}

#[derive(Clone, Copy)]
struct Key {
    obj: *mut c_void,
    id: c_ulong,
}

impl Shadows for Request {
    type Key = Key;
    type Var = *mut c_void;
    type Fresh = *mut Shadow;
    type Error = c_int;

    fn find(&self, key: Key) -> Option<*mut c_void> {
        find(key)
    }

    fn allocate(&self, key: Key) -> Option<*mut Shadow> {
        let size = self.size.checked_add(size_of::<Shadow>())?;
        // SAFETY: plain allocation; all zero is a valid entry.
        unsafe {
            let shadow: *mut Shadow = bindings::klp_glue_shadow_alloc(size, self.gfp).cast();
            if shadow.is_null() {
                return None;
            }
            (*shadow).obj = key.obj;
            (*shadow).id = key.id;
            Some(shadow)
        }
    }

    fn discard(&self, fresh: *mut Shadow) {
        // SAFETY: from `allocate`, never in the table.
        unsafe { bindings::kfree(fresh.cast()) };
    }

    fn construct(&self, fresh: &mut *mut Shadow) -> Result<(), c_int> {
        let Some(ctor) = self.ctor else { return Ok(()) };
        // SAFETY: the caller's constructor, with the caller's data; the entry is ours.
        match unsafe { ctor((**fresh).obj, Shadow::data(*fresh), self.ctor_data) } {
            0 => Ok(()),
            error => Err(error),
        }
    }

    fn insert(&self, fresh: *mut Shadow) -> *mut c_void {
        // SAFETY: ours until the store below publishes it; the lock is held.
        unsafe {
            let bucket = bucket((*fresh).obj);
            (*fresh).next.store(bucket.load(Ordering::Relaxed), Ordering::Relaxed);
            bucket.store(fresh, Ordering::Release);
        }
        Shadow::data(fresh)
    }

    fn locked<R>(&self, f: impl FnOnce() -> R) -> R {
        let _lock = TableLock::take();
        f()
    }

    fn refused(&self, key: Key, error: c_int) {
        pr_err!("Failed to construct shadow variable <{:p}, {:x}> ({})\n", key.obj, key.id, error);
    }
}

/// The variable, if it is in the table. RCU keeps what the search stands on; that what it returns stays is up to the caller,
/// who knows when it is freed.
fn find(key: Key) -> Option<*mut c_void> {
    let _guard = kernel::sync::rcu::read_lock();
    let mut shadow = bucket(key.obj).load(Ordering::Acquire);
    while !shadow.is_null() {
        // SAFETY: an entry is freed a grace period after it left the table, and until then its key does not change. No
        // reference to the whole of it: `remove` hands it to RCU, which writes its own part, while readers are on it.
        let (obj, id, next) = unsafe { ((*shadow).obj, (*shadow).id, &(*shadow).next) };
        if obj == key.obj && id == key.id {
            return Some(Shadow::data(shadow));
        }
        shadow = next.load(Ordering::Acquire);
    }
    None
}

/// The variable, or null.
#[export]
unsafe extern "C" fn klp_shadow_get(obj: *mut c_void, id: c_ulong) -> *mut c_void {
    find(Key { obj, id }).unwrap_or(core::ptr::null_mut())
}

/// The two ways to ask for a new variable differ in what they make of one that is there.
macro_rules! allocator {
    ($(#[$doc:meta])* $name:ident, $obj:ident, $id:ident, $data:ident => $found:expr) => {
        $(#[$doc])*
        #[export]
        unsafe extern "C" fn $name(
            $obj: *mut c_void,
            $id: c_ulong,
            size: usize,
            gfp: bindings::gfp_t,
            ctor: bindings::klp_shadow_ctor_t,
            ctor_data: *mut c_void,
        ) -> *mut c_void {
            match get_or_alloc(&Request { size, gfp, ctor, ctor_data }, Key { obj: $obj, id: $id }) {
                Existing::Made(data) => data,
                Existing::Found($data) => $found,
                Existing::Failed => core::ptr::null_mut(),
            }
        }
    };
}

allocator!(
    /// A new variable; null and a warning if there is one.
    klp_shadow_alloc, obj, id, _data => {
        // SAFETY: prints two numbers.
        unsafe { bindings::klp_glue_shadow_duplicate(obj, id) };
        core::ptr::null_mut()
    }
);
allocator!(
    /// The variable, made if there is none.
    klp_shadow_get_or_alloc, obj, id, data => data
);

/// Frees one variable.
#[export]
unsafe extern "C" fn klp_shadow_free(obj: *mut c_void, id: c_ulong, dtor: bindings::klp_shadow_dtor_t) {
    remove(bucket(obj), dtor, |shadow| shadow.obj == obj && shadow.id == id, &TableLock::take());
}

/// Frees all variables of a number.
#[export]
pub(crate) unsafe extern "C" fn klp_shadow_free_all(id: c_ulong, dtor: bindings::klp_shadow_dtor_t) {
    let lock = TableLock::take();
    for link in &BUCKETS {
        remove(link, dtor, |shadow| shadow.id == id, &lock);
    }
}
