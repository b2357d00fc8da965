// SPDX-License-Identifier: GPL-2.0-only
//! Symbols and relocations.
//!
//! In: names and positions from a patch's tables and ELF sections. Out: addresses, written where they belong. Hard because
//! a livepatch module may refer to what is not exported and not even loaded yet; its sections are kept for that
//! (`klp_info`), and each object's relocations are written when the object is there.

use super::engine::{parse_section, parse_symbol, Errno, Missing, Search};
use super::handles::{text, Func, Object, Patch};
use super::platform::{check, to_c};
use core::cell::UnsafeCell;
use kernel::bindings;
use kernel::prelude::*;

/// Room for a module's name, including the terminating zero.
pub(crate) const MODULE_NAME_LEN: usize = bindings::KLP_GLUE_MODULE_NAME_LEN as usize;
/// Room for a symbol's name, including the terminating zero.
pub(crate) const KSYM_NAME_LEN: usize = bindings::KSYM_NAME_LEN as usize;

struct Head(UnsafeCell<bindings::list_head>);

// SAFETY: lock.
unsafe impl Sync for Head {}

static PATCHES: Head =
    Head(UnsafeCell::new(bindings::list_head { next: PATCHES.0.get(), prev: PATCHES.0.get() }));

/// The list of patches.
pub(crate) fn patches() -> *mut bindings::list_head {
    PATCHES.0.get()
}

struct ByName {
    search: Search,
    name: *const c_char,
}

unsafe extern "C" fn see(data: *mut c_void, address: usize) -> c_int {
    // SAFETY: `data` is what `find` passed; it waits for the walk.
    let by_name = unsafe { &mut *data.cast::<ByName>() };
    c_int::from(by_name.search.see(address))
}

unsafe extern "C" fn see_named(data: *mut c_void, name: *const c_char, address: usize) -> c_int {
    // SAFETY: `data` is what `find` passed; the names are zero-terminated.
    if unsafe { bindings::strcmp((*data.cast::<ByName>()).name, name) } != 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { see(data, address) }
}

/// The address of the symbol in a loaded module, or in the kernel.
fn find(module: Option<&CStr>, name: &CStr, position: usize) -> Result<usize, Errno> {
    let mut by_name = ByName { search: Search::new(position), name: name.as_char_ptr() };
    let data: *mut c_void = (&raw mut by_name).cast();
    // SAFETY: the callbacks get what they expect, during this call only.
    unsafe {
        match module {
            Some(module) => bindings::module_kallsyms_on_each_symbol(module.as_char_ptr(), Some(see_named), data),
            None => bindings::kallsyms_on_each_match_symbol(Some(see), name.as_char_ptr(), data),
        };
    }
    by_name.search.found().map_err(|missing| {
        match missing {
            Missing::Name => pr_err!("symbol '{}' not found in symbol table\n", name),
            Missing::Ambiguous => pr_err!(
                "unresolvable ambiguity for symbol '{}' in object '{}'\n",
                name,
                module.unwrap_or(c"(null)")
            ),
            Missing::Position => pr_err!(
                "symbol position {} for symbol '{}' in object '{}' not found\n",
                position,
                name,
                module.unwrap_or(c"vmlinux")
            ),
        }
        Errno::INVAL
    })
}

fn size_of_symbol(address: usize) -> Option<c_ulong> {
    let mut size = 0;
    // SAFETY: any address may be asked for.
    (unsafe { bindings::kallsyms_lookup_size_offset(address, &mut size, core::ptr::null_mut()) } != 0).then_some(size)
}

/// Finds a function in its loaded object, and how long it and its replacement are.
pub(crate) fn resolve(object: Object, func: Func) -> Result<(), Errno> {
    const NOENT: Errno = Errno(2);
    let ptr = func.ptr();
    // SAFETY: handles; lock.
    unsafe {
        (*ptr).old_func = core::ptr::null_mut();
        let address = find(object.module_name(), func.name(), (*ptr).old_sympos as usize)?;
        (*ptr).old_func = address as *mut c_void;
        (*ptr).old_size = size_of_symbol(address).ok_or_else(|| {
            pr_err!("kallsyms size lookup failed for '{}'\n", func.name());
            NOENT
        })?;
        if (*ptr).nop {
            (*ptr).new_func = (*ptr).old_func;
        }
        (*ptr).new_size = size_of_symbol((*ptr).new_func as usize).ok_or_else(|| {
            pr_err!("kallsyms size lookup failed for '{}' replacement\n", func.name());
            NOENT
        })?;
    }
    Ok(())
}

/// A zero-terminated copy of a part of a name.
struct Copied<const N: usize>([u8; N]);

impl<const N: usize> Copied<N> {
    fn new(part: &[u8]) -> Option<Self> {
        let mut copy = [0; N];
        copy.get_mut(..part.len())?.copy_from_slice(part);
        (part.len() < N).then_some(Copied(copy))
    }

    fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// The sections of a module, where they are in memory.
struct Sections {
    headers: *mut bindings::Elf64_Shdr,
    names: *const c_char,
    strings: *const c_char,
    symbols: c_uint,
}

impl Sections {
    fn section(&self, index: c_uint) -> *mut bindings::Elf64_Shdr {
        self.headers.wrapping_add(index as usize)
    }

    fn name(&self, index: c_uint) -> &'static CStr {
        // SAFETY: callers pass indexes of existing sections; their names are in the string section.
        text(unsafe { self.names.add((*self.section(index)).sh_name as usize) })
    }
}

/// Gives the symbols that a relocation section names their addresses.
fn resolve_symbols(sections: &Sections, index: c_uint, target: &[u8]) -> Result<(), Errno> {
    // SAFETY: the section is one of relocations; the loader has checked that and put it at sh_addr.
    let (relas, count, symbols) = unsafe {
        let section = sections.section(index);
        (
            (*section).sh_addr as *const bindings::Elf64_Rela,
            (*section).sh_size as usize / size_of::<bindings::Elf64_Rela>(),
            (*sections.section(sections.symbols)).sh_addr as *mut bindings::Elf64_Sym,
        )
    };
    for i in 0..count {
        // SAFETY: within the section; r_info's upper half is an index into the symbol table.
        let (symbol, name) = unsafe {
            let symbol = symbols.add(((*relas.add(i)).r_info >> 32) as usize);
            (symbol, text(sections.strings.add((*symbol).st_name as usize)))
        };
        // SAFETY: as above.
        if u32::from(unsafe { (*symbol).st_shndx }) != bindings::KLP_GLUE_SHN_LIVEPATCH {
            pr_err!(
                "symbol {} at rela sec {} idx {} is not marked as a livepatch symbol\n",
                name,
                sections.symbols,
                i
            );
            return Err(Errno::INVAL);
        }
        let parts = parse_symbol(name.to_bytes());
        let parts = parts.and_then(|parts| {
            Some((Copied::<56>::new(parts.object)?, parts.name, parts.position, parts.object == b"vmlinux"))
        });
        let Some((object, wanted, position, in_kernel)) = parts else {
            pr_err!("symbol {} has an incorrectly formatted name\n", name);
            return Err(Errno::INVAL);
        };
        // The module's special sections have been processed by now; such symbols are exported or not needed.
        if in_kernel && target != b"vmlinux" {
            pr_err!(
                "invalid access to vmlinux symbol '{}' from module-specific livepatch relocation section\n",
                kernel::str::BStr::from_bytes(wanted)
            );
            return Err(Errno::INVAL);
        }
        // Half a kilobyte: not on the stack.
        let mut copy = KVec::new();
        let copied = copy.extend_from_slice(wanted, GFP_KERNEL).and_then(|()| copy.extend_from_slice(&[0], GFP_KERNEL));
        let (Ok(()), Ok(wanted)) = (copied, CStr::from_bytes_with_nul(&copy)) else {
            return Err(Errno::NOMEM);
        };
        let address = find((!in_kernel).then(|| object.as_cstr()), wanted, position)?;
        // SAFETY: as above; nobody else uses the table now.
        unsafe { (*symbol).st_value = address as u64 };
    }
    Ok(())
}

/// Whether the section's relocations are against the object; an error if its name does not say.
fn is_against(sections: &Sections, index: c_uint, object: Option<&CStr>) -> Result<bool, Errno> {
    let name = sections.name(index);
    let Some(target) = parse_section(name.to_bytes()) else {
        pr_err!("section {} has an incorrectly formatted name\n", name);
        return Err(Errno::INVAL);
    };
    Ok(target == object.unwrap_or(c"vmlinux").to_bytes())
}

/// Writes one section's relocations. After an error those ahead of the one that does not fit are written.
fn write_section(module: *mut bindings::module, sections: &Sections, index: c_uint) -> Result<(), Errno> {
    let Sections { headers, strings, symbols, .. } = *sections;
    // SAFETY: the sections of `module`, as the loader laid them out, and its symbols resolved.
    check(unsafe { bindings::apply_relocate_add(headers, strings, symbols, index, module) })
}

/// Clears one section's relocations. The first that was not written ends it, with an error in the log.
fn clear_section(module: *mut bindings::module, sections: &Sections, index: c_uint) {
    let Sections { headers, strings, symbols, .. } = *sections;
    // SAFETY: the sections of `module`, as the loader laid them out, and its symbols as when they were written.
    unsafe { bindings::klp_glue_clear_relocate_add(headers, strings, symbols, index, module) };
}

/// Calls `f` for each section of relocations against the object, up to the first error.
fn each_relocation_section(
    patch: Patch,
    object: Object,
    mut f: impl FnMut(*mut bindings::module, &Sections, c_uint) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let module = patch.module();
    // SAFETY: a livepatch module keeps its sections as long as it is loaded.
    let (sections, count) = unsafe {
        let info = (*module).klp_info;
        let sections = Sections {
            headers: (*info).sechdrs,
            names: (*info).secstrings,
            strings: (*module).core_kallsyms.strtab,
            symbols: (*info).symndx,
        };
        (sections, c_uint::from((*info).hdr.e_shnum))
    };
    for index in 1..count {
        // SAFETY: an existing section.
        let flags = unsafe { (*sections.section(index)).sh_flags };
        if flags & u64::from(bindings::KLP_GLUE_SHF_RELA_LIVEPATCH) != 0
            && is_against(&sections, index, object.module_name())?
        {
            f(module, &sections, index)?;
        }
    }
    Ok(())
}

/// Writes all relocations against the object, or none.
pub(crate) fn write_relocs(patch: Patch, object: Object) -> Result<(), Errno> {
    let mut written = 0;
    let result = each_relocation_section(patch, object, |module, sections, index| {
        resolve_symbols(sections, index, object.name().to_bytes())?;
        // Half a section is cleared, too; the log has an error already, and gets another here.
        write_section(module, sections, index).inspect_err(|_| clear_section(module, sections, index))?;
        written = index;
        Ok(())
    });
    if result.is_err() {
        clear_upto(patch, object, written);
    }
    result
}

/// Clears the relocations of the sections up to `last`, which have been written.
fn clear_upto(patch: Patch, object: Object, last: c_uint) {
    // Their names were checked then; that of a later one may be what is wrong.
    let _ = each_relocation_section(patch, object, |module, sections, index| {
        if index > last {
            return Err(Errno::INVAL);
        }
        clear_section(module, sections, index);
        Ok(())
    });
}

/// Clears all relocations against the object, which have been written.
pub(crate) fn clear_relocs(patch: Patch, object: Object) {
    clear_upto(patch, object, c_uint::MAX);
}

/// Called by the module loader for each livepatch relocation section of a module; `objname` null is the kernel.
#[export]
unsafe extern "C" fn klp_apply_section_relocs(
    module: *mut bindings::module,
    headers: *mut bindings::Elf64_Shdr,
    names: *const c_char,
    strings: *const c_char,
    symbols: c_uint,
    index: c_uint,
    objname: *const c_char,
) -> c_int {
    let sections = Sections { headers, names, strings, symbols };
    let object = (!objname.is_null()).then(|| text(objname));
    let write = || {
        if is_against(&sections, index, object)? {
            resolve_symbols(&sections, index, object.unwrap_or(c"vmlinux").to_bytes())?;
            write_section(module, &sections, index)?;
        }
        Ok(())
    };
    to_c(write())
}

/// Where a section of a livepatch module is.
#[export]
unsafe extern "C" fn klp_find_section_by_name(
    module: *const bindings::module,
    name: *const c_char,
    size: *mut usize,
) -> *mut c_void {
    // SAFETY: a livepatch module keeps its sections as long as it is loaded; the caller's pointers are valid.
    unsafe {
        let info = (*module).klp_info;
        for i in 1..usize::from((*info).hdr.e_shnum) {
            let section = (*info).sechdrs.add(i);
            if bindings::strcmp((*info).secstrings.add((*section).sh_name as usize), name) == 0 {
                *size = (*section).sh_size as usize;
                return (*section).sh_addr as *mut c_void;
            }
        }
        *size = 0;
    }
    core::ptr::null_mut()
}
