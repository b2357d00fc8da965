//! What is in memory when nothing has been patched yet: bytes by address, symbols, and the tables of rewritten places.
//!
//! In: the kernel's image with its symbol table, or a module's file. Out: a [`Loaded`], the same for both.
//! The symbol table may come from a kernel that was moved at boot (KASLR): it is moved back to where the image is linked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::calls::Hook;
use super::evidence::{banner, comment};
use super::module;
use crate::elf::Object;
use crate::error::{Reason, Refusal, Refused};
use crate::kernel::image::Image;
use crate::kernel::kcore::Kcore;
use crate::kernel::symtab::{KernelSymbol, SymbolTable};

/// No kernel has this many bytes in one piece; a header of the direct map has.
const MOST_IMAGE: u64 = 1 << 30;

/// Bytes by address.
pub trait Memory: Send + Sync {
    /// Everything from an address to the end of what is loaded there in one piece; `None` where nothing is.
    fn from(&self, address: u64) -> Option<&[u8]>;

    /// Some bytes of anywhere, also of what is no part of the kernel proper.
    fn peek(&self, address: u64, size: usize) -> Option<Vec<u8>> {
        self.from(address)?.get(..size).map(<[u8]>::to_vec)
    }
}

impl Memory for Image {
    fn from(&self, address: u64) -> Option<&[u8]> {
        self.segments().find_map(|(start, bytes)| {
            let skip = usize::try_from(address.checked_sub(start)?).ok()?;
            bytes.get(skip..).filter(|rest| !rest.is_empty())
        })
    }
}

/// The kernel that runs: its own part at hand, the rest (trampolines, modules) when asked for.
struct Live {
    start: u64,
    bytes: Vec<u8>,
    core: Kcore,
}

impl Memory for Live {
    fn from(&self, address: u64) -> Option<&[u8]> {
        let skip = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.bytes.get(skip..).filter(|rest| !rest.is_empty())
    }

    fn peek(&self, address: u64, size: usize) -> Option<Vec<u8>> {
        self.core.read(address, size)
    }
}

/// What is known of a kernel that runs, besides its memory.
pub(super) struct Running {
    /// Where returns go.
    pub(super) return_thunk: Option<u64>,
    /// Memory that was freed after boot, but for the per-cpu template in it.
    freed: [Range<u64>; 2],
    livepatches: Livepatches,
}

/// Which functions are live-patched, and by what.
#[derive(Debug, Default)]
pub struct Livepatches {
    /// Function -> livepatches.
    by: HashMap<String, BTreeSet<String>>,
    /// This is all there is; else it is what may be.
    complete: bool,
}

impl Livepatches {
    /// From /sys/kernel/livepatch: `PATCH/OBJECT/FUNCTION,POSITION/` (Documentation/ABI/testing/sysfs-kernel-livepatch).
    pub fn of_this_machine(dir: &Path) -> Livepatches {
        let mut by: HashMap<String, BTreeSet<String>> = HashMap::new();
        for entry in walkdir::WalkDir::new(dir).min_depth(3).max_depth(3).into_iter().flatten() {
            let function = entry.file_name().to_string_lossy().into_owned();
            let patch = entry.path().ancestors().nth(2).and_then(|p| p.file_name());
            if let (Some((function, _)), Some(patch)) = (function.rsplit_once(','), patch) {
                by.entry(function.to_owned()).or_default().insert(patch.to_string_lossy().into_owned());
            }
        }
        Livepatches { by, complete: dir.is_dir() }
    }

    /// From a dump of /proc/kallsyms: modules that have a function of the name. It may be chance.
    pub fn from_modules(modules: HashMap<String, SymbolTable>) -> Livepatches {
        let mut by: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (module, table) in modules {
            for symbol in table.symbols {
                by.entry(symbol.name).or_default().insert(module.clone());
            }
        }
        Livepatches { by, complete: false }
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
    /// ENDBRs that are overwritten at boot or load (`.ibt_endbr_seal`).
    pub(super) sealed: Option<HashSet<u64>>,
    /// It is a module's file.
    pub(super) is_module: bool,
    /// The kernel's banner, or a module's version magic.
    pub(super) banner: Option<String>,
    /// Compilers that a module names.
    pub(super) comment: Option<String>,
    /// It runs, so that its code is not what its file has.
    pub(super) running: Option<Running>,
}

impl Loaded {
    /// The kernel itself.
    ///
    /// # Errors
    ///
    /// When the table cannot belong to the image.
    pub fn kernel(image: Image, table: Arc<SymbolTable>) -> Result<Loaded> {
        let table = at_link_addresses(&image, table)?;
        let banner = banner(image.segments().map(|(_, bytes)| bytes));
        let loaded = Loaded { banner, ..Loaded::new(Box::new(image), table) };
        loaded.check_table()?;
        Ok(loaded)
    }

    /// A kernel that runs.
    ///
    /// # Errors
    ///
    /// When its memory cannot be read, or the table cannot belong to it.
    pub fn running(core: Kcore, table: Arc<SymbolTable>, livepatches: Livepatches) -> Result<Loaded> {
        let stext = table.unique("_stext").map(|s| s.address);
        let text = table.unique("_text").map(|s| s.address).context("the symbol table has no `_text`")?;
        if text == 0 {
            bail!("the symbol table has no addresses (kernel.kptr_restrict hides them: copy /proc/kallsyms as root)");
        }
        let moved = core.stext().zip(stext).map_or(0, |(there, linked)| there.wrapping_sub(linked));
        let table = moved_by(&table, text, moved);
        let start = text.wrapping_add(moved);
        let size = core.size_from(start).filter(|size| *size < MOST_IMAGE);
        let bytes = size.and_then(|size| core.read(start, size as usize));
        let Some(bytes) = bytes else {
            return Err(mismatch(format!(
                "the kernel that runs has no code at {start:#x}, where the symbol table says"
            )));
        };
        let banner = banner(std::iter::once(bytes.as_slice()));
        let mut loaded = Loaded::new(Box::new(Live { start, bytes, core }), table).as_running(livepatches);
        loaded.banner = banner;
        loaded.check_table()?;
        Ok(loaded)
    }

    /// Its symbols, at the addresses of its bytes.
    pub fn table(&self) -> &SymbolTable {
        &self.table
    }

    /// Whether ftrace knows a call in this range; `None` when its table was not found.
    pub fn has_call_site(&self, mut range: Range<u64>) -> Option<bool> {
        let sites = self.call_sites.as_ref()?;
        Some(range.any(|address| sites.contains(&address)))
    }

    /// The same, when it is memory of a kernel that runs.
    pub fn as_running(mut self, livepatches: Livepatches) -> Loaded {
        // The table of ftrace's call sites is freed after boot; the unit's own relocations say which they are.
        self.call_sites = None;
        self.sealed = None;
        let address = |name: &str| self.address_of(name).unwrap_or(0);
        let (begin, end) = (address("__init_begin"), address("__init_end"));
        let (first, last) = (address("__per_cpu_start"), address("__per_cpu_end"));
        let freed = if (begin..end).contains(&first) { [begin..first, last..end] } else { [begin..end, 0..0] };
        let return_thunk = self.address_of("x86_return_thunk").and_then(|at| self.long(at));
        self.running = Some(Running { return_thunk, freed, livepatches });
        self
    }

    /// A table of another build puts the banner elsewhere, where a text of exactly this kind is unlikely.
    fn check_table(&self) -> Result<()> {
        let Some(banner) = self.address_of("linux_banner") else { return Ok(()) };
        if self.from(banner).starts_with(b"Linux version ") {
            return Ok(());
        }
        let said = self.banner.as_deref().unwrap_or("no banner");
        Err(mismatch(format!(
            "the symbol table does not belong to the image: `linux_banner` is not at {banner:#x} (the image says `{said}`)"
        )))
    }

    /// Who replaced a function, for people; `None` when nobody did.
    pub(super) fn replaced_by(&self, function: &str, hook: &Hook) -> Option<String> {
        let livepatches = &self.running.as_ref()?.livepatches;
        let names = livepatches.by.get(function).into_iter().flatten();
        let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        match hook {
            Hook::Livepatch if names.is_empty() => {
                Some("is live-patched already (see /sys/kernel/livepatch)".to_owned())
            }
            Hook::Livepatch => Some(format!("is live-patched already by {}", names.join(" and "))),
            Hook::Unknown(_) if livepatches.complete && names.is_empty() => None,
            Hook::Unknown(_) if livepatches.complete => {
                Some(format!("is live-patched already by {}", names.join(" and ")))
            }
            Hook::Unknown(what) => {
                Some(format!("is hooked by `{what}`, and whether by a livepatch cannot be told from its memory alone"))
            }
        }
    }

    /// A module's file.
    ///
    /// # Errors
    ///
    /// When it holds relocations that are not understood.
    pub fn module(file: &Object) -> Result<Loaded> {
        let (memory, table) = module::load(file)?;
        let mut loaded = Loaded::new(Box::new(memory), Arc::new(table));
        loaded.is_module = true;
        loaded.banner = crate::emit::readback::modinfo(file, "vermagic").next();
        loaded.comment = comment(file);
        Ok(loaded)
    }

    /// Anything with symbols.
    pub fn new(memory: Box<dyn Memory>, table: Arc<SymbolTable>) -> Loaded {
        let mut loaded = Loaded {
            memory,
            table,
            call_sites: None,
            jump_labels: None,
            sealed: None,
            is_module: false,
            banner: None,
            comment: None,
            running: None,
        };
        // include/asm-generic/vmlinux.lds.h: MCOUNT_REC() and JUMP_TABLE_DATA.
        loaded.call_sites = loaded.table_of("__start_mcount_loc", "__stop_mcount_loc").map(|(_, bytes)| {
            bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
        });
        // include/linux/jump_label.h, CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE: s32 code, s32 target, long key.
        loaded.jump_labels = loaded.table_of("__start___jump_table", "__stop___jump_table").map(|(start, bytes)| {
            let entries = bytes.chunks_exact(16).zip((start..).step_by(16));
            entries.map(|(b, at)| at.wrapping_add_signed(i64::from(word(b).unwrap_or(0)))).collect()
        });
        // arch/x86/kernel/vmlinux.lds.S: each is the distance from itself.
        loaded.sealed = loaded.table_of("__ibt_endbr_seal", "__ibt_endbr_seal_end").map(|(start, bytes)| {
            let entries = bytes.chunks_exact(4).zip((start..).step_by(4));
            entries.map(|(b, at)| at.wrapping_add_signed(i64::from(word(b).unwrap_or(0)))).collect()
        });
        loaded
    }

    /// A table between two symbols.
    pub(super) fn table_of(&self, first: &str, last: &str) -> Option<(u64, &[u8])> {
        let (start, end) = (self.table.unique(first)?.address, self.table.unique(last)?.address);
        let size = usize::try_from(end.checked_sub(start)?).ok()?;
        Some((start, self.memory.from(start)?.get(..size)?))
    }

    pub(super) fn from(&self, address: u64) -> &[u8] {
        self.memory.from(address).unwrap_or(&[])
    }

    /// Where the only symbol of a name is.
    pub(super) fn address_of(&self, name: &str) -> Option<u64> {
        self.table.unique(name).map(|s| s.address)
    }

    /// The 64-bit number at an address.
    pub(super) fn long(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.from(address).get(..8)?.try_into().ok()?))
    }

    /// Whether a kernel that runs has given this memory to others.
    pub(super) fn is_freed(&self, address: u64) -> bool {
        self.running.as_ref().is_some_and(|r| r.freed.iter().any(|range| range.contains(&address)))
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
    Ok(moved_by(&table, text, linked.wrapping_sub(text)))
}

/// The table with everything from `text` on at other addresses; per-cpu symbols below it are offsets.
fn moved_by(table: &Arc<SymbolTable>, text: u64, moved: u64) -> Arc<SymbolTable> {
    if moved == 0 {
        return table.clone();
    }
    let symbols = table.symbols.iter().cloned().map(|mut symbol| {
        if symbol.address >= text {
            symbol.address = symbol.address.wrapping_add(moved);
        }
        symbol
    });
    Arc::new(SymbolTable::new(symbols.collect(), table.files.clone()))
}

fn mismatch(message: String) -> anyhow::Error {
    let advice = "name the symbols of the very kernel that the image is of: its vmlinux, its System.map, or /proc/kallsyms \
                  copied as root while it ran";
    Refused(vec![Refusal::new(Reason::ImageMismatch, message, advice)]).into()
}
