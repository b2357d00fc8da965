//! Tags of allocations: which line allocated how much (CONFIG_MEM_ALLOC_PROFILING, include/linux/alloc_tag.h).
//!
//! In: a side, or what travels. Out: what is a tag, and what becomes of its counters. Every call of `kmalloc()` and its like
//! makes a writable static of its own, in a section that the kernel reads as an array; so there are several of one name in most
//! functions, and the numbers that tell them apart change with every edit. Nothing but the accounting depends on which is
//! which: the livepatch brings its own, as any module does, and `/proc/allocinfo` shows them beside the kernel's. Tags of
//! modules outlive them while something is allocated (mm/alloc_tag.c, `release_module_tags`). The line in a tag is no
//! change of the code: what shifted keeps the tag that it has.
//!
//! The counters are per-CPU data. Newer kernels make those of modules at load, warn of a tag that has some already, and
//! declare no counters where `MODULE` is defined; code of the kernel's image is compiled without. Older ones take them from the
//! module's own per-CPU data, which goes with the module, whoever still counts in it.

use std::collections::BTreeSet;

use super::atoms::{AtomId, Kind, Side};
use super::closure::Closure;
use super::names;
use super::verdict::Diff;

/// Whether this is a tag.
pub fn is_tag(side: &Side<'_>, id: AtomId) -> bool {
    side.atom(id).kind == Kind::Data && names::is_alloc_tag_section(side.section_name(id))
}

/// Whether these are the counters of a tag.
pub fn is_counters(side: &Side<'_>, id: AtomId) -> bool {
    side.atom(id).kind == Kind::Data && names::is_alloc_tag_counters(side.name(id), side.section_name(id))
}

/// Counters that travel with their tags, by name: the module must not go before what it allocated.
pub fn carried_counters(diff: &Diff<'_>, closure: &Closure) -> Vec<String> {
    let side = &diff.patched;
    let counters = closure.atoms.iter().filter(|id| is_counters(side, **id));
    counters.map(|id| side.name(*id).to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a kernel with this `include/linux/alloc_tag.h` makes the counters of a module's tags itself.
pub fn are_counters_made_at_load(header: &str) -> bool {
    let words: Vec<&str> = header.split_whitespace().collect();
    words.windows(3).any(|w| matches!(w, [".counters", "=", value] if value.starts_with("NULL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two forms of the header, each as its kernels have it.
    #[test]
    fn counters_of_modules() {
        let of_kernel = "\t.ct = CODE_TAG_INIT,\t\t\\\n\t.counters = &_alloc_tag_cntr };\n";
        let of_module = "#ifdef MODULE\n\t.ct = CODE_TAG_INIT,\t\t\\\n\t.counters = NULL };\n#else\n";
        assert!(!are_counters_made_at_load(of_kernel));
        assert!(are_counters_made_at_load(&format!("{of_module}{of_kernel}")));
    }
}
