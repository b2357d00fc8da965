// SPDX-License-Identifier: GPL-2.0-only
//! Handles to what others own.
//!
//! In: pointers from C. Out: `Copy` values the engine can hold, and iterators over C lists and tables. Hard because the
//! engine drops what an iterator has just yielded: each has stepped on before it yields.

use kernel::bindings;
use kernel::prelude::*;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $target:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(core::ptr::NonNull<$target>);

        impl $name {
            pub(crate) fn new(ptr: *mut $target) -> Option<Self> {
                core::ptr::NonNull::new(ptr).map($name)
            }

            /// # Safety
            ///
            /// The pointer is not null.
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) unsafe fn new_unchecked(ptr: *mut $target) -> Self {
                // SAFETY: as the caller promises.
                $name(unsafe { core::ptr::NonNull::new_unchecked(ptr) })
            }

            #[inline(always)]
            pub(crate) fn ptr(self) -> *mut $target {
                self.0.as_ptr()
            }
        }
    };
}

handle!(
    /// A livepatch.
    Patch,
    bindings::klp_patch
);
handle!(
    /// What a patch changes of one module, or of the kernel.
    Object,
    bindings::klp_object
);
handle!(
    /// A replacement.
    Func,
    bindings::klp_func
);
handle!(
    /// A loaded module.
    Module,
    bindings::module
);
handle!(
    /// A system state of a patch.
    State,
    bindings::klp_state
);
handle!(
    /// The replacements of one function.
    Stack,
    bindings::klp_stack
);
handle!(
    /// A task.
    Task,
    bindings::task_struct
);

/// A C string that outlives its user: names in a patch's tables, in modules, in sections.
pub(crate) fn text(ptr: *const c_char) -> &'static CStr {
    if ptr.is_null() {
        return c"(null)";
    }
    // SAFETY: callers pass zero-terminated strings of live patches and modules, and use the result at once.
    unsafe { CStr::from_char_ptr(ptr) }
}

impl Module {
    pub(crate) fn name(self) -> &'static CStr {
        // SAFETY: handles.
        text(unsafe { (&raw const (*self.ptr()).name).cast() })
    }
}

impl Patch {
    pub(crate) fn module(self) -> *mut bindings::module {
        // SAFETY: handles.
        unsafe { (*self.ptr()).mod_ }
    }

    pub(crate) fn name(self) -> &'static CStr {
        Module::new(self.module()).map_or(c"(null)", Module::name)
    }
}

impl Object {
    /// The name of the module; `None` is the kernel.
    pub(crate) fn module_name(self) -> Option<&'static CStr> {
        // SAFETY: handles.
        let name = unsafe { (*self.ptr()).name };
        (!name.is_null()).then(|| text(name))
    }

    pub(crate) fn name(self) -> &'static CStr {
        self.module_name().unwrap_or(c"vmlinux")
    }
}

impl Func {
    pub(crate) fn name(self) -> &'static CStr {
        text(self.raw_name())
    }

    pub(crate) fn raw_name(self) -> *const c_char {
        // SAFETY: handles.
        unsafe { (*self.ptr()).old_name }
    }
}

/// The entries of a C list, the next one read before each is yielded.
struct Entries {
    head: *const bindings::list_head,
    next: *mut bindings::list_head,
}

impl Entries {
    fn new(head: *const bindings::list_head) -> Self {
        // SAFETY: the head is in a live patch or is a static; lock.
        Entries { head, next: unsafe { (*head).next } }
    }
}

impl Iterator for Entries {
    type Item = *mut bindings::list_head;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.next;
        if core::ptr::eq(entry, self.head) {
            return None;
        }
        // SAFETY: an entry of the list that has not been yielded yet, so nobody dropped it; lock.
        self.next = unsafe { (*entry).next };
        Some(entry)
    }
}

macro_rules! list {
    ($name:ident, $handle:ident, $target:ty, $field:ident) => {
        pub(crate) struct $name(Entries);

        impl $name {
            pub(crate) fn new(head: *const bindings::list_head) -> Self {
                $name(Entries::new(head))
            }
        }

        impl Iterator for $name {
            type Item = $handle;

            fn next(&mut self) -> Option<$handle> {
                // SAFETY: the list links this type through this field.
                $handle::new(unsafe { kernel::container_of!(self.0.next()?, $target, $field) })
            }
        }
    };
}

list!(Patches, Patch, bindings::klp_patch, list);
list!(Objects, Object, bindings::klp_object, node);
list!(Funcs, Func, bindings::klp_func, node);

/// The states of a patch: a table that ends with id 0.
pub(crate) struct States(*mut bindings::klp_state);

impl States {
    pub(crate) fn new(patch: Patch) -> Self {
        // SAFETY: handles.
        States(unsafe { (*patch.ptr()).states })
    }
}

impl Iterator for States {
    type Item = State;

    fn next(&mut self) -> Option<State> {
        let state = State::new(self.0)?;
        // SAFETY: within the table, whose end has not been reached.
        if unsafe { (*state.ptr()).id } == 0 {
            return None;
        }
        // SAFETY: not the end, so another entry follows.
        self.0 = unsafe { self.0.add(1) };
        Some(state)
    }
}

/// Calls `f` for each entry of the patch's static table of objects.
pub(crate) fn each_static_object(patch: Patch, mut f: impl FnMut(Object)) {
    // SAFETY: handles; a well-formed table ends with an entry that has neither name nor functions.
    unsafe {
        let mut object = (*patch.ptr()).objs;
        while !(*object).funcs.is_null() || !(*object).name.is_null() {
            if let Some(object) = Object::new(object) {
                f(object);
            }
            object = object.add(1);
        }
    }
}

/// Calls `f` for each entry of the object's static table of functions, if it has one.
pub(crate) fn each_static_func(object: Object, mut f: impl FnMut(Func)) {
    // SAFETY: handles; a well-formed table ends with an entry that is all zero.
    unsafe {
        let mut func = (*object.ptr()).funcs;
        while !func.is_null()
            && (!(*func).old_name.is_null() || !(*func).new_func.is_null() || (*func).old_sympos != 0)
        {
            if let Some(func) = Func::new(func) {
                f(func);
            }
            func = func.add(1);
        }
    }
}

impl Func {
    /// A handle to nothing, for slots that are never looked at.
    pub(crate) fn dangling() -> Self {
        Func(core::ptr::NonNull::dangling())
    }
}
