//! Functions of the kernel whose addresses the livepatch is the first to give away.
//!
//! In: a closure and how its references are resolved. Out: each such function with who refers to it, and a refusal where the
//! original's own code says that it cannot be called by its address. On a kernel with indirect branch tracking
//! (CONFIG_X86_KERNEL_IBT) such a call has to land on an ENDBR. The compiler leaves it out of static functions that are only
//! called directly, and objtool has it overwritten at boot where nothing in the whole object refers to the function in
//! another way than by a branch (tools/objtool/check.c, `validate_ibt`): that only the image tells. With control flow integrity
//! (CONFIG_CFI) the caller compares a hash before the function, which clang leaves out of the same functions, and assembly has
//! where it is written so (`SYM_TYPED_FUNC_START`).

use std::collections::HashSet as Names;

use super::{Resolution, Resolved, World};
use crate::diff::arch::Use;
use crate::diff::atoms::{AtomId, Kind, Side, Target};
use crate::diff::closure::{Closure, Dest, naming_offset};
use crate::diff::verdict::Diff;
use crate::elf::id::HashSet;
use crate::elf::object::{shf, stb, stt};
use crate::elf::{Object, Place, SymbolId};
use crate::error::{Reason, Refusal};
use crate::kernel::config::Config;

/// `endbr64` (Intel's manual, volume 2).
pub const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// First bytes of `mov imm32, %reg` (Intel's manual, volume 2): clang's form of a hash before a function. The register says how many arguments
/// it takes where `-fsanitize-kcfi-arity` is given (arch/x86/kernel/alternative.c, `decode_preamble_hash`).
pub const MOV_HASH: std::ops::RangeInclusive<u8> = 0xb8..=0xbf;

/// Bytes of that instruction.
const HASH: u64 = 5;

/// Whether a hash begins so many bytes before a function, given what precedes that: a function that has none has another's code there,
/// in which such a byte may be anything. All between a hash and its function is NOPs; without such padding NOPs align the hash, three
/// of them at least (arch/x86/include/asm/cfi.h, linkage.h).
pub fn has_hash(preceding: &[u8], before: u64) -> bool {
    let nops = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0x90);
    let Some((start, hash)) = preceding.len().checked_sub(before as usize).map(|at| preceding.split_at(at)) else {
        return false;
    };
    let aligned = before > HASH || start.last_chunk::<3>().is_some_and(|bytes| nops(bytes));
    hash.first().is_some_and(|byte| MOV_HASH.contains(byte)) && hash.get(HASH as usize..).is_some_and(nops) && aligned
}

const IBT: &str = "CONFIG_X86_KERNEL_IBT";

/// Sections that speak about code without the intent to branch to it: objtool does not count what refers to a function there
/// (and knows no `.eh_frame`, which the kernel's link drops).
const NOT_COUNTED: [&str; 16] = [
    ".altinstructions",
    ".call_sites",
    ".eh_frame",
    ".ibt_endbr_seal",
    ".init.klp_funcs",
    ".kcfi_traps",
    ".orc_unwind_ip",
    ".retpoline_sites",
    ".return_sites",
    ".static_call_sites",
    "__bug_table",
    "__ex_table",
    "__jump_table",
    "__mcount_loc",
    "_error_injection_whitelist",
    "_kprobe_blacklist",
];

/// What a kernel asks of a function that is called by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gate {
    /// An ENDBR at its beginning (CONFIG_X86_KERNEL_IBT).
    pub endbr: bool,
    /// A hash of its type, so many bytes before it (CONFIG_CFI).
    pub hash: Option<u64>,
}

/// Why a function cannot be called by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It was compiled without an ENDBR.
    NoEndbr,
    /// This overwrites its ENDBR.
    Overwritten(&'static str),
    /// No hash stands before it.
    NoHash,
}

/// A function whose address the livepatch gives away, and nothing in its unit did before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indirect {
    /// The object that has it.
    pub object: String,
    /// Its name there.
    pub name: String,
    /// Its position among its namesakes.
    pub sympos: u32,
    /// Any module may take the address of an export, so that it is not sealed.
    pub exported: bool,
    /// Its symbol, where the unit defines it: then nothing in the object is against it.
    pub original: Option<SymbolId>,
    /// The function or datum that refers to it, and where.
    pub user: String,
    section: String,
    offset: u64,
}

impl Indirect {
    /// The refusal; `closed` is about the kernel's own function.
    pub fn refusal(&self, closed: Closed) -> Refusal {
        let (user, name) = (&self.user, &self.name);
        let (reason, why, option) = match closed {
            Closed::NoEndbr => (Reason::NoEndbr, "its code has no ENDBR instruction".to_owned(), IBT),
            Closed::Overwritten(by) => (Reason::NoEndbr, format!("{by} overwrites its ENDBR instruction"), IBT),
            Closed::NoHash => (Reason::NoHash, "no hash of its type stands before it".to_owned(), "CONFIG_CFI"),
        };
        Refusal::new(
            reason,
            format!(
                "`{user}` gives away the address of `{name}`, which the kernel only calls directly: {why}, and a call by its \
                 address would be stopped as an attack ({option})"
            ),
            format!(
                "give away the address of a new static function that calls `{name}`; what keeps that has to be done with it \
                 before the module is removed"
            ),
        )
        .symbol(user)
        .at(&self.section, self.offset)
    }

    /// What to say where it cannot be told.
    pub fn warning(&self, gate: Gate, why: &str) -> String {
        let option = if gate.endbr { IBT } else { "CONFIG_CFI" };
        format!(
            "`{}` gives away the address of `{}`, and whether this kernel ({option}) lets it be called by that is \
             not known: {why}",
            self.user, self.name
        )
    }
}

impl Gate {
    /// What a kernel of this configuration asks.
    pub fn of_kernel(config: &Config) -> Gate {
        // arch/x86/include/asm/cfi.h, CFI_OFFSET. Older kernels have CFI_CLANG.
        let padding =
            || config.get("FUNCTION_PADDING_CFI").filter(|_| config.is_y("CALL_PADDING"))?.parse::<u64>().ok();
        let has_hash = config.is_y("CFI") || config.is_y("CFI_CLANG");
        Gate { endbr: config.is_y("X86_KERNEL_IBT"), hash: has_hash.then(|| HASH + padding().unwrap_or(0)) }
    }

    /// What the kernel asks for which an object was compiled.
    pub fn of_object(object: &Object) -> Gate {
        let functions = || object.symbols.iter().filter(|s| s.st_type == stt::FUNC);
        let hash = functions().find_map(|hash| {
            let function = hash.name.strip_prefix("__cfi_")?;
            let function = functions().find(|s| s.name == function && s.place == hash.place)?;
            function.st_value.checked_sub(hash.st_value)
        });
        Gate { endbr: object.symbol_ids().any(|id| begins_with_endbr(object, id)), hash }
    }

    /// Why this function of a unit cannot be called by its address, as far as the object tells.
    pub fn closes(self, side: &Side<'_>, id: SymbolId) -> Option<Closed> {
        if self.hash.is_some() && side.of_symbol(id).is_none_or(|atom| side.hash_symbol(atom).is_none()) {
            return Some(Closed::NoHash);
        }
        (self.endbr && !begins_with_endbr(side.object, id)).then_some(Closed::NoEndbr)
    }
}

/// Notes what is given away, or refuses it.
pub(super) fn find(diff: &Diff<'_>, closure: &Closure, world: &World<'_>, out: &mut Resolved) {
    if world.gate == Gate::default() {
        return;
    }
    let (side, original) = (&diff.patched, diff.original.object);
    let mut before: Option<(HashSet<AtomId>, Names<&str>)> = None;
    let mut found: Vec<Indirect> = Vec::new();
    for r in &closure.refs {
        let Dest::Outside(outside, addend) = &r.dest else { continue };
        let to_entry = addend + r.reference.adjust == 0;
        if r.reference.usage != Use::Address || !to_entry || !is_counted(side, r.atom) {
            continue;
        }
        // What the unit does not define may be a variable: the kernel's table knows.
        if outside.original.is_some_and(|id| original.symbol(id).st_type != stt::FUNC) {
            continue;
        }
        let (taken, names) = before.get_or_insert_with(|| taken(&diff.original));
        let known = match outside.original {
            Some(id) => diff.original.of_symbol(id).is_some_and(|atom| taken.contains(&atom)),
            None => names.contains(outside.name.as_str()),
        };
        if known || out.dropped_entries.contains_key(&r.atom) {
            continue;
        }
        let (object, sympos, exported) = match out.symbols.get(outside) {
            Some(Resolution::Exported) => ("vmlinux", 0, true),
            Some(Resolution::Livepatch(klp)) => (klp.object.as_str(), klp.sympos, false),
            _ => continue,
        };
        let indirect = Indirect {
            object: object.to_owned(),
            name: outside.name.clone(),
            sympos,
            exported: exported || world.symvers.get(&outside.name).is_some_and(|e| e.object == object),
            original: outside.original,
            user: side.name(diff.new_tables.whole(r.atom)).to_owned(),
            section: side.section_name(r.atom).to_owned(),
            offset: r.reference.reloc.r_offset,
        };
        if found.iter().any(|f| (&f.user, &f.name, &f.object) == (&indirect.user, &indirect.name, &indirect.object)) {
            continue;
        }
        found.push(indirect);
    }
    for indirect in found {
        match indirect.original.and_then(|id| world.gate.closes(&diff.original, id)) {
            Some(closed) => out.refusals.push(indirect.refusal(closed)),
            None => out.indirect.push(indirect),
        }
    }
}

/// Whether a function's code begins with an ENDBR. The symbol stands behind padding and prefix.
fn begins_with_endbr(object: &Object, id: SymbolId) -> bool {
    let symbol = object.symbol(id);
    let Place::Section(section) = symbol.place else { return false };
    let data = &object.section(section).data;
    symbol.st_type == stt::FUNC
        && usize::try_from(symbol.st_value)
            .ok()
            .and_then(|at| data.get(at..))
            .is_some_and(|code| code.starts_with(&ENDBR))
}

/// The global functions that a unit refers to in another way than by a branch: what they are is an ENDBR that stays.
pub fn taken_globals<'s>(side: &Side<'s>) -> Names<&'s str> {
    let (atoms, mut names) = taken(side);
    let symbols = atoms.iter().flat_map(|atom| &side.atom(*atom).symbols).map(|s| side.object.symbol(*s));
    names.extend(symbols.filter(|s| s.st_bind != stb::LOCAL).map(|s| s.name.as_str()));
    names
}

/// What a unit refers to in another way than by a branch, at its very beginning: of its own, and of others.
fn taken<'s>(side: &Side<'s>) -> (HashSet<AtomId>, Names<&'s str>) {
    let (mut atoms, mut names) = (HashSet::default(), Names::new());
    for id in side.ids().filter(|id| is_counted(side, *id)) {
        for r in side.refs_of(id).iter().filter(|r| r.usage != Use::Branch) {
            match r.target {
                Target::Atom(atom, offset)
                    if side.atom(atom).kind == Kind::Function && offset == naming_offset(side, atom) =>
                {
                    atoms.insert(atom);
                }
                Target::Symbol(symbol, addend) if addend + r.adjust == 0 => {
                    names.insert(side.object.symbol(symbol).name.as_str());
                }
                _ => {}
            }
        }
    }
    (atoms, names)
}

/// Whether objtool counts what an atom refers to as something that may be branched to.
fn is_counted(side: &Side<'_>, id: AtomId) -> bool {
    let section = side.object.section(side.atom(id).section);
    let name = section.name.as_str();
    if name == ".discard.ibt_endbr_noseal" {
        return true;
    }
    section.sh_flags & shf::ALLOC != 0
        && !name.starts_with(".discard")
        && !name.starts_with("__tracepoints")
        && !name.starts_with("__patchable_function_entries")
        && !NOT_COUNTED.contains(&name)
}
