//! What compilers and macros do to names, and which data has no identity of its own.
//!
//! In: symbol and section names. Out: the stem that survives a recompilation, and whether two things
//! of one stem are the same *thing* (identity) or merely have the same *content*.

use std::borrow::Cow;

/// The part of a symbol's name that a recompilation keeps: `count.5` -> `count`,
/// `fill.isra.0` -> `fill.isra`, `x.llvm.123` -> `x`, `__UNIQUE_ID_ddebug_694.695` -> `__UNIQUE_ID_ddebug`.
pub fn stem(name: &str) -> Cow<'_, str> {
    // Most names are as in the source.
    if memchr::memchr(b'.', name.as_bytes()).is_none() && !name.starts_with("__") {
        return name.into();
    }
    let name = name.split_once(".llvm.").map_or(name, |(stem, _)| stem);
    if name.starts_with("__UNIQUE_ID_") {
        return name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_' || c == '.').into();
    }
    if let Some(rest) = name.strip_prefix("__initcall__") {
        // __initcall__kmod_proc__493_188_proc_meminfo_init5: a counter and a line number in the middle.
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = rest.split('_').filter(|part| !digits(part)).collect();
        return format!("__initcall__{}", parts.join("_")).into();
    }
    if !name.contains('.') {
        return name.into();
    }
    let mut parts = name.split('.');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            out.push('.');
            out.push_str(part);
        }
    }
    out.into()
}

/// Whether a recompilation may renumber this name.
pub fn is_numbered(name: &str) -> bool {
    stem(name) != name
}

/// Whether this name of a constant is the source's, and not made by the compiler or for a text.
pub fn has_own_stem(name: &str) -> bool {
    let base = stem(name);
    !matches!(base.as_ref(), "CSWTCH" | "C" | "__func__" | "__FUNCTION__" | "__PRETTY_FUNCTION__")
        && !base.starts_with("__compound_literal")
        && !base.starts_with("__UNIQUE_ID_")
        && !base.starts_with('.')
}

/// Whether a local datum is private to the code that uses it: compared by content, carried as a copy.
///
/// These are per-use constants and caches that macros and the compiler make: lock classes, rate
/// limits, "already warned" flags, texts of messages, switch tables. The same list, for the same
/// reason, stands in every object-diffing tool; what is added here is that *content* still counts.
pub fn is_private(name: &str, section: &str, writable: bool) -> bool {
    if section.starts_with(".data..once") || section.starts_with(".data.once") {
        return true;
    }
    // Names of compiler-made tables and constant pools.
    let base = stem(name);
    if !writable
        && (base.starts_with(".L") || base == "CSWTCH" || base == "C" || base.starts_with("__compound_literal"))
    {
        return true;
    }
    // Who allocated how much: nothing but the accounting depends on which is which (`super::alloc_tags`).
    if is_alloc_tag_section(section) || is_alloc_tag_counters(name, section) {
        return true;
    }
    // Of the compiler's own making: sanitizer descriptions and the like (include/asm-generic/vmlinux.lds.h).
    if section.starts_with(".data..L") {
        return true;
    }
    let last = base.rsplit('.').next().unwrap_or(&base);
    if matches!(
        last,
        "__already_done"
            | "__func__"
            | "__FUNCTION__"
            | "__PRETTY_FUNCTION__"
            | "__key"
            | "__warned"
            | "_entry"
            | "_entry_ptr"
            | "_rs"
            | "__print_once"
            | "CSWTCH"
    ) && is_numbered(name)
    {
        return true;
    }
    // A pr_debug call's description; a variable that is merely called so has state.
    if last == "descriptor" && (section == "__dyndbg" || section == "__verbose") {
        return true;
    }
    if base == "__UNIQUE_ID_ddebug" || base == "__UNIQUE_ID_addressable" {
        return true;
    }
    // A constant static local: `static const char __msg[]` of NL_SET_ERR_MSG and its like.
    !writable && is_numbered(name)
}

/// Whether a section holds allocation tags: as compiled, or as a module's link calls it (include/asm-generic/codetag.lds.h).
pub fn is_alloc_tag_section(section: &str) -> bool {
    matches!(section, "alloc_tags" | ".codetag.alloc_tags")
}

/// Whether a static local holds the counters of an allocation tag.
pub fn is_alloc_tag_counters(name: &str, section: &str) -> bool {
    section.starts_with(".data..percpu") && stem(name).rsplit('.').next() == Some("_alloc_tag_cntr")
}

/// Whether writable data of a name that [`is_private`] lists is something else that is merely called so. `touched`: an
/// instruction reads or writes it itself, which none does to a lock class or a rate limit.
pub fn has_state(name: &str, section: &str, size: u64, touched: bool) -> bool {
    let made_for_it = [".data..once", ".data.once", ".data..L", ".printk_index"];
    if made_for_it.iter().any(|prefix| section.starts_with(prefix)) {
        return false;
    }
    match stem(name).rsplit('.').next().unwrap_or_default() {
        "__key" | "_rs" => touched,
        "__already_done" | "__warned" | "__print_once" => size > 1,
        "__func__" | "__FUNCTION__" | "__PRETTY_FUNCTION__" | "_entry" | "_entry_ptr" | "CSWTCH" => true,
        _ => false,
    }
}

/// Whether code or data in this section is gone once boot (or the module's load) is over.
pub fn is_init_section(name: &str) -> bool {
    name.starts_with(".init.")
        || name == ".init"
        || name.starts_with(".initcall")
        || name.starts_with(".meminit.")
        || name.starts_with(".head.text")
        || name.starts_with(".con_initcall")
}

/// Whether code or data in this section exists only for unloading, and not at all in vmlinux.
pub fn is_exit_section(name: &str) -> bool {
    name.starts_with(".exit.") || name == ".exitcall.exit" || name.starts_with(".exitcall")
}

/// The kind of memory that a section's name asks for, beyond what is written and read alike: `decrypted` of
/// `.bss..decrypted`, a table's own section. Names that only say how often something is used ask for nothing.
pub fn special_memory(section: &str) -> Option<&str> {
    const HINTS: [&str; 12] = [
        "percpu",
        "read_mostly",
        "ro_after_init",
        "once",
        "cacheline_aligned",
        "shared_aligned",
        "shared_unaligned",
        "cacheline_hot",
        "hot",
        "cold",
        "likely",
        "unlikely",
    ];
    if is_init_section(section) || is_exit_section(section) || section.starts_with(".ref.") {
        return None;
    }
    if ![".data", ".bss", ".rodata", ".sdata", ".sbss"].iter().any(|plain| section.starts_with(plain)) {
        return Some(section);
    }
    let parts = section.split("..").skip(1).map(|part| part.split('.').next().unwrap_or_default());
    // The compiler's own begin with a capital: `.data..Lubsan_data1`.
    let mut asked = parts.filter(|part| part.starts_with(|c: char| c.is_ascii_lowercase()) && !HINTS.contains(part));
    asked.next()
}

/// The section that code was put into by its name, where the kernel tells functions by it: `.sched.text`.
pub fn special_text(section: &str) -> Option<&str> {
    let plain = section.starts_with(".text") || section.starts_with(".ref.");
    (!plain && !is_init_section(section) && !is_exit_section(section)).then_some(section)
}

/// Whether code in this section must not be redirected: entry code, tracing-free and debugging-free text.
pub fn is_untouchable_text(name: &str) -> bool {
    name.starts_with(".noinstr.text")
        || name.starts_with(".entry.text")
        || name.starts_with(".kprobes.text")
        || name.starts_with(".cpuidle.text")
        || name.starts_with(".irqentry.text")
        || name.starts_with(".softirqentry.text")
        || name.starts_with(".static_call.text")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the mapping of renumbered names onto one stem, one row per kind of suffix.
    #[test]
    fn stems() {
        for (name, want) in [
            ("count.5", "count"),
            ("proc_sys_fill_cache.isra.0", "proc_sys_fill_cache.isra"),
            ("f.constprop.0.isra.1", "f.constprop.isra"),
            ("f.cold", "f.cold"),
            ("f.part.0.cold", "f.part.cold"),
            ("x.llvm.8273645", "x"),
            ("__UNIQUE_ID_ddebug_694.695", "__UNIQUE_ID_ddebug"),
            ("__initcall__kmod_proc__493_188_proc_meminfo_init5", "__initcall__kmod_proc__proc_meminfo_init5"),
            ("plain", "plain"),
        ] {
            assert_eq!(stem(name), want, "{name}");
        }
    }

    /// Protects state from being copied because of its name alone.
    #[test]
    fn names_of_macros() {
        for (name, section, size, touched, want) in [
            ("__key.7", ".bss.__key.7", 8, false, false),
            ("__key.7", ".bss.__key.7", 4, true, true),
            ("_rs.1", ".data._rs.1", 40, false, false),
            ("__warned.0", ".bss.__warned.0", 1, true, false),
            ("__warned.0", ".bss.__warned.0", 8, true, true),
            ("_entry.0", ".bss._entry.0", 4, true, true),
            ("_entry.0", ".data..read_mostly", 4, true, true),
            ("_entry_ptr.0", ".printk_index", 8, false, false),
            ("__already_done.2", ".data..once", 1, true, false),
        ] {
            assert_eq!(has_state(name, section, size, touched), want, "{name} in {section}");
        }
    }

    /// Protects what a section means from what only hints at its use.
    #[test]
    fn kinds_of_memory() {
        for (section, want) in [
            (".bss.shared", None),
            (".data.x", None),
            (".rodata", None),
            (".data.rel.ro.local.ops", None),
            (".data..read_mostly", None),
            (".data..percpu..read_mostly", None),
            (".data..Lubsan_data1", None),
            (".ref.data", None),
            (".init.data", None),
            (".bss..decrypted", Some("decrypted")),
            (".data..percpu..decrypted", Some("decrypted")),
            (".data..page_aligned", Some("page_aligned")),
            ("__governor_table", Some("__governor_table")),
        ] {
            assert_eq!(special_memory(section), want, "{section}");
        }
    }

    /// Protects state: a writable static local is never private, a constant one is.
    #[test]
    fn privacy() {
        assert!(!is_private("cad_work.4", ".data.cad_work.4", true));
        assert!(is_private("__msg.12", ".rodata.__msg.12", false));
        assert!(is_private("CSWTCH.3", ".rodata.CSWTCH.3", false));
        assert!(is_private("__key.7", ".bss.__key.7", true));
        assert!(!is_private("task_state_array", ".rodata.task_state_array", false));
        assert!(!is_private("descriptor", ".data.descriptor", true));
    }
}
