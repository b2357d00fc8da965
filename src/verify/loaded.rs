//! What is in memory when nothing has been patched yet: bytes by address, symbols, and the tables of rewritten places.
//!
//! In: the kernel's image with its symbol table, or a module's file. Out: a [`Loaded`], the same for both.
//! The symbol table may come from a kernel that was moved at boot (KASLR): it is moved back to where the image is linked.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::evidence::{banner, comment};
use super::module;
use crate::elf::Object;
use crate::kernel::image::Image;
use crate::kernel::symtab::{KernelSymbol, SymbolTable};

/// Bytes by address.
pub trait Memory: Send + Sync {
    /// Everything from an address to the end of what is loaded there in one piece; `None` where nothing is.
    fn from(&self, address: u64) -> Option<&[u8]>;
}

impl Memory for Image {
    fn from(&self, address: u64) -> Option<&[u8]> {
        self.segments().find_map(|(start, bytes)| {
            let skip = usize::try_from(address.checked_sub(start)?).ok()?;
            bytes.get(skip..).filter(|rest| !rest.is_empty())
        })
    }
}

/// A kernel or a module as it lies in memory before anything is patched at run time.
pub struct Loaded {
    pub(super) memory: Box<dyn Memory>,
    pub(super) table: Arc<SymbolTable>,
    /// Places of calls that ftrace knows of (`__mcount_loc`); `None` when the table was not found.
    pub(super) call_sites: Option<HashSet<u64>>,
    /// Places of jump labels (`__jump_table`).
    pub(super) jump_labels: Option<HashSet<u64>>,
    /// The kernel's banner, or a module's version magic.
    pub(super) banner: Option<String>,
    /// Compilers that a module names.
    pub(super) comment: Option<String>,
}

impl Loaded {
    /// The kernel itself.
    ///
    /// # Errors
    ///
    /// When the table cannot belong to the image.
    pub fn kernel(image: Image, table: Arc<SymbolTable>) -> Result<Loaded> {
        let table = at_link_addresses(&image, table)?;
        let banner = banner(&image);
        Ok(Loaded { banner, ..Loaded::new(Box::new(image), table) })
    }

    /// A module's file.
    ///
    /// # Errors
    ///
    /// When it holds relocations that are not understood.
    pub fn module(file: &Object) -> Result<Loaded> {
        let (memory, table) = module::load(file)?;
        let mut loaded = Loaded::new(Box::new(memory), Arc::new(table));
        loaded.banner = crate::emit::readback::modinfo(file, "vermagic").next();
        loaded.comment = comment(file);
        Ok(loaded)
    }

    /// Anything with symbols.
    pub fn new(memory: Box<dyn Memory>, table: Arc<SymbolTable>) -> Loaded {
        let mut loaded = Loaded { memory, table, call_sites: None, jump_labels: None, banner: None, comment: None };
        // include/asm-generic/vmlinux.lds.h: MCOUNT_REC() and JUMP_TABLE_DATA.
        loaded.call_sites = loaded.table_of("__start_mcount_loc", "__stop_mcount_loc").map(|(_, bytes)| {
            bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
        });
        // include/linux/jump_label.h, CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE: s32 code, s32 target, long key.
        loaded.jump_labels = loaded.table_of("__start___jump_table", "__stop___jump_table").map(|(start, bytes)| {
            let entries = bytes.chunks_exact(16).zip((start..).step_by(16));
            entries.map(|(b, at)| at.wrapping_add_signed(i64::from(word(b).unwrap_or(0)))).collect()
        });
        loaded
    }

    fn table_of(&self, first: &str, last: &str) -> Option<(u64, &[u8])> {
        let (start, end) = (self.table.unique(first)?.address, self.table.unique(last)?.address);
        let size = usize::try_from(end.checked_sub(start)?).ok()?;
        Some((start, self.memory.from(start)?.get(..size)?))
    }

    pub(super) fn from(&self, address: u64) -> &[u8] {
        self.memory.from(address).unwrap_or(&[])
    }

    /// `symbol+offset` for an address.
    pub(super) fn describe(&self, address: u64) -> String {
        let before = |s: &&KernelSymbol| s.address <= address && !s.name.starts_with("__pfx_");
        match self.table.symbols.iter().filter(before).max_by_key(|s| s.address) {
            Some(symbol) if symbol.address == address => symbol.name.clone(),
            Some(symbol) if address - symbol.address < 1 << 20 => {
                format!("{}+{:#x}", symbol.name, address - symbol.address)
            }
            _ => format!("{address:#x}"),
        }
    }
}

/// A little-endian 32-bit number at the start of some bytes.
pub(super) fn word(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The table as if the kernel ran where it is linked. `_text` is the image's lowest code address
/// (arch/x86/kernel/vmlinux.lds.S); per-cpu symbols below it are offsets and do not move.
fn at_link_addresses(image: &Image, table: Arc<SymbolTable>) -> Result<Arc<SymbolTable>> {
    let Some(text) = table.unique("_text").map(|s| s.address) else { return Ok(table) };
    if text == 0 {
        bail!("the symbol table has no addresses (kernel.kptr_restrict hides them: copy /proc/kallsyms as root)");
    }
    let linked = image.segments().map(|(start, _)| start).filter(|start| *start > u64::MAX / 2).min().unwrap_or(text);
    if linked == text {
        return Ok(table);
    }
    let moved = text.wrapping_sub(linked);
    let symbols = table.symbols.iter().cloned().map(|mut symbol| {
        if symbol.address >= text {
            symbol.address = symbol.address.wrapping_sub(moved);
        }
        symbol
    });
    Ok(Arc::new(SymbolTable::new(symbols.collect(), table.files.clone())))
}
