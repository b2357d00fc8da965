//! The one table of kernel special sections: what their entries look like and how they are treated.
//!
//! In: a section's name. Out: its [`Rule`]. Entry sizes are not in the table: they come from
//! `sh_entsize` where the kernel's macros set it (arch/x86/include/asm/alternative.h and its like in
//! trees that have CONFIG_KLP_BUILD), else from how many relocations an entry has, which the table says.

/// How a special section is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Entries that speak about code: each travels with the function its first relocation points to.
    /// The number is how many relocations an entry has; 0 means that exactly the first one of each
    /// entry points to code, and the others do not.
    CodeTable(u32),
    /// Travels only when something carried refers to it.
    ByReference,
    /// A boot-time constant patched into code (x86 `asm/runtime-const.h`); the rest of the name says which.
    RuntimeConst,
    /// Things registered with the kernel at boot or load: an addition would never take effect.
    Registration,
    /// Pointers that declare livepatch callbacks (include/linux/livepatch_helpers.h).
    Callbacks,
    /// System states that the patch declares (templates/klp_build.h).
    States,
    /// Left out, for this reason.
    Dropped(&'static str),
}

/// The treatment of a section with this name, if it is special.
pub fn rule(name: &str) -> Option<Rule> {
    use Rule::*;
    Some(match name {
        ".altinstructions" => CodeTable(2),
        "__ex_table" => CodeTable(2),
        "__jump_table" => CodeTable(3),
        "__bug_table" => CodeTable(0),
        ".static_call_sites" => CodeTable(2),
        ".smp_locks" | ".kcfi_traps" | "__mcount_loc" => CodeTable(1),
        ".parainstructions" => CodeTable(1),
        ".altinstr_replacement" | ".altinstr_aux" => ByReference,
        // Each allocation has its own, and dead code leaves some behind: see alloc_tags.rs.
        "alloc_tags" | ".codetag.alloc_tags" => ByReference,
        ".discard.klp_callback_ptrs" => Callbacks,
        ".discard.klp_states" => States,
        ".discard.addressable" => Dropped("keeps a symbol alive for the compiler"),
        ".discard.annotate_data" => Dropped("marks entries for object-diffing tools"),
        ".discard.sym_checksum" => Dropped("checksums of another tool"),
        // tools/objtool/check.c writes these after the compile, for a module once it is linked; they follow the code.
        ".return_sites" | ".call_sites" | ".retpoline_sites" | ".ibt_endbr_seal" | ".cfi_sites" | ".orc_unwind"
        | ".orc_unwind_ip" | ".orc_header" => Dropped("made anew by objtool for the module"),
        "__patchable_function_entries" => Dropped("made anew by the module build"),
        ".printk_index" => Dropped("index of message texts, not used by code"),
        ".export_symbol" | "__kcrctab" | "__kcrctab_gpl" | "__ksymtab_strings" => Registration,
        "__param"
        | "_ftrace_events"
        | "__syscalls_metadata"
        | "__tracepoints_ptrs"
        | "__bpf_raw_tp_map"
        | "_error_injection_whitelist"
        | "_kprobe_blacklist"
        | "_ftrace_eval_map"
        | "__event_filters" => Registration,
        ".comment"
        | ".note.GNU-stack"
        | ".note.gnu.property"
        | ".gnu.build.attributes"
        | ".llvm_addrsig"
        | ".llvm.call-graph-profile"
        | ".GCC.command.line"
        | ".BTF"
        | ".BTF_ids"
        | ".BTF.ext" => Dropped("not part of the running kernel"),
        _ if name.starts_with(".discard.") => CodeTable(1),
        _ if name.starts_with("runtime_ptr_")
            || name.starts_with("runtime_shift_")
            || name.starts_with("runtime_mask_") =>
        {
            RuntimeConst
        }
        _ if name.starts_with(".debug_") || name.starts_with(".stab") || name.starts_with(".eh_frame") => {
            Dropped("debug information")
        }
        _ if name.starts_with(".initcall") || name.starts_with(".exitcall") || name == ".con_initcall.init" => {
            Registration
        }
        _ if name.starts_with("___ksymtab") || name.starts_with("___kcrctab") || name.starts_with("__ksymtab") => {
            Registration
        }
        ".modinfo" | ".setup.init" | ".init.setup" => Registration,
        _ => return None,
    })
}
