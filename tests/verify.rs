//! What the proof against an image must notice, each with the real compiler: flags, options, sources, builds, symbols,
//! and in a kernel that runs every place that it may have rewritten, rightly and wrongly.

#[path = "support/image.rs"]
mod image;

use std::collections::HashMap;
use std::sync::Arc;

use image::{Built, Small, check, wrong};
use klp_build::elf;
use klp_build::error::Refused;
use klp_build::kernel::kcore::Kcore;
use klp_build::kernel::text_table;
use klp_build::verify::{Finding, Livepatches, Loaded, Outcome};

/// A unit with state, texts, a table, an option, and a bound that a later release added.
const UNIT: &str = r#"
extern int printed(const char *format, ...);
static int count;
static const int sizes[] = { 16, 32, 64, 4096 };
int table_size(unsigned int i)
{
#ifndef OLDER
    if (i >= sizeof(sizes) / sizeof(sizes[0]))
        return -22;
#endif
    return sizes[i];
}
int show(int value)
{
    count++;
    printed("value %d\n", value);
#ifdef CONFIG_WIDE
    printed("wide %d\n", value * 2);
#endif
    return count;
}
int sum(const int *values, int n)
{
    int total = 0;
    for (int i = 0; i < n; i++)
        total += values[i] * 3;
    return total;
}
"#;

const REST: &str = r#"
const char linux_banner[] = "Linux version 7.3.4 (a@b) (gcc 12) #1";
void __fentry__(void) {}
#ifdef ANOTHER_BUILD
long more(long x) { return x * 7 + 3; }
#endif
__attribute__((noinline)) int printed(const char *format, ...) { return format[0]; }
__attribute__((noinline)) void klp_ftrace_handler(void) { asm volatile("ud2"); }
__attribute__((noinline)) void function_trace_call(void) { asm volatile("ud2; ud2"); }
asm(".pushsection .apart,\"ax\"\n.globl livepatch_trampoline, tracer_trampoline\n"
    "livepatch_trampoline: push %rax\ncall klp_ftrace_handler\nret\n.balign 2048\n"
    "tracer_trampoline: push %rax\ncall function_trace_call\nret\n.balign 2048\n.popsection");
"#;

fn small() -> Small {
    let small = Small::new();
    small.write("unit.c", UNIT);
    small.write("rest.c", REST);
    small
}

/// The same source, compiled alike, is equal; or every other answer here would mean nothing.
#[test]
fn the_same_is_equal() {
    let small = small();
    let built = small.image(&["unit.c", "rest.c"], &[], "vmlinux");
    assert_eq!(wrong(&small.unit("unit.c", &[]), &built.loaded().unwrap()), [""; 0]);
}

/// Another flag of the compiler is seen in the functions that it changes.
#[test]
fn another_flag() {
    let small = small();
    let loaded = small.image(&["unit.c", "rest.c"], &[], "vmlinux").loaded().unwrap();
    assert!(wrong(&small.unit("unit.c", &["-O1"]), &loaded).contains(&"sum".to_owned()));
    assert_eq!(wrong(&small.unit("unit.c", &["-fno-omit-frame-pointer"]), &loaded).len(), 3);
}

/// Another option that changes one function, and a source one release older: that function and no other.
#[test]
fn another_option_and_an_older_source() {
    let small = small();
    let loaded = small.image(&["unit.c", "rest.c"], &[], "vmlinux").loaded().unwrap();
    assert_eq!(wrong(&small.unit("unit.c", &["-DCONFIG_WIDE"]), &loaded), ["show"]);
    assert_eq!(wrong(&small.unit("unit.c", &["-DOLDER"]), &loaded), ["table_size"]);
}

/// An image of another build: its own code does not fit, and the right build's symbols do not fit it.
#[test]
fn another_build() {
    let small = small();
    let built = small.image(&["rest.c", "unit.c"], &[], "vmlinux");
    let flags = ["-DCONFIG_WIDE", "-DANOTHER_BUILD"];
    let other = small.image(&["rest.c", "unit.c"], &flags, "vmlinux.other");
    assert_eq!(wrong(&small.unit("unit.c", &[]), &other.loaded().unwrap()), ["show"]);
    let mixed = Built { table: built.table.clone(), ..other };
    assert_is_about_symbols(mixed.loaded().map(drop));
}

/// A kallsyms of another build is refused, whether of a file or of a kernel that runs.
#[test]
fn wrong_kallsyms() {
    let small = small();
    let built = small.image(&["rest.c", "unit.c"], &[], "vmlinux");
    let other = small.image(&["rest.c", "unit.c"], &["-DANOTHER_BUILD", "-O1"], "vmlinux.other");
    let line = |s: &klp_build::kernel::symtab::KernelSymbol| format!("{:016x} T {}\n", s.address, s.name);
    let text: String = other.table.symbols.iter().map(line).collect();
    let table = Arc::new(text_table::parse(&text).unwrap().vmlinux);
    let mixed = Built { table: table.clone(), ..built.clone() };
    assert_is_about_symbols(mixed.loaded().map(drop));
    let path = small.path("kcore");
    built.core(&path);
    let core = Kcore::open(&path).unwrap().unwrap();
    assert_is_about_symbols(Loaded::running(core, table, Livepatches::default()).map(drop));
}

fn assert_is_about_symbols(result: anyhow::Result<()>) {
    let error = result.unwrap_err();
    let refused = error.downcast_ref::<Refused>().unwrap_or_else(|| panic!("{error:#}"));
    assert!(refused.0[0].message.contains("symbol table does not belong"), "{:?}", refused.0);
}

/// The image as a kernel that runs: every call of ftrace is a NOP.
fn running(small: &Small, built: &Built, livepatches: Livepatches) -> Loaded {
    let path = small.path("kcore");
    built.core(&path);
    Loaded::running(Kcore::open(&path).unwrap().unwrap(), built.table.clone(), livepatches).unwrap()
}

const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];

fn booted(mut built: Built) -> Built {
    let fentry = built.address("__fentry__");
    for symbol in built.table.clone().symbols.iter().filter(|s| s.size.is_some_and(|size| size > 5)) {
        if (built.address("_text")..built.address("linux_banner")).contains(&symbol.address)
            && built.get(symbol.address, 5) == Built::branch(0xe8, symbol.address, fentry)
        {
            built.put(symbol.address, &NOP5);
        }
    }
    built
}

/// A kernel that runs is equal, also while it is traced; a livepatch on a function is seen and named, and only there.
#[test]
fn replaced_already() {
    let small = small();
    let built = booted(small.image(&["unit.c", "rest.c"], &[], "vmlinux"));
    let unit = small.unit("unit.c", &[]);
    let nothing = Livepatches::default;
    assert_eq!(wrong(&unit, &running(&small, &built, nothing())), [""; 0]);
    let show = built.address("show");
    let mut traced = built.clone();
    traced.put(show, &Built::branch(0xe8, show, built.address("tracer_trampoline")));
    assert_eq!(wrong(&unit, &running(&small, &traced, nothing())), [""; 0]);
    let mut patched = built.clone();
    patched.put(show, &Built::branch(0xe8, show, built.address("livepatch_trampoline")));
    let dump = "ffffffff81000000 T _text\nffffffffa0010000 t show\t[livepatch_fix]\n";
    let modules = || Livepatches::from_modules(text_table::parse(dump).unwrap().modules);
    let found = check(&unit, &running(&small, &patched, modules()));
    assert_eq!(replaced(&found), [("show", "is live-patched already by `livepatch_fix`")]);
    let refusal = found.iter().find_map(|f| f.refusal("vmlinux", &Default::default())).unwrap();
    assert!(refusal.message.contains("`show` is live-patched already by `livepatch_fix`"), "{}", refusal.message);
    // Several users of ftrace share the kernel's own trampoline: what it leads to is not to be seen.
    let mut shared = built.clone();
    shared.put(show, &Built::branch(0xe8, show, built.address("function_trace_call")));
    let found = check(&unit, &running(&small, &shared, nothing()));
    assert!(replaced(&found)[0].1.starts_with("is hooked by `function_trace_call`"), "{found:?}");
    let sysfs = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(sysfs.path().join("other/vmlinux/sum,1")).unwrap();
    let complete = || Livepatches::of_this_machine(sysfs.path());
    assert_eq!(wrong(&unit, &running(&small, &shared, complete())), [""; 0]);
    std::fs::create_dir_all(sysfs.path().join("fix/vmlinux/show,1")).unwrap();
    let found = check(&unit, &running(&small, &shared, complete()));
    assert_eq!(replaced(&found), [("show", "is live-patched already by `fix`")]);
}

fn replaced(found: &[Finding]) -> Vec<(&str, &str)> {
    let by = found.iter().filter_map(|f| match &f.outcome {
        Outcome::Replaced { by, .. } => Some((f.function.as_str(), by.as_str())),
        Outcome::Equal { .. } => None,
        other => panic!("{}: {other:?}", f.function),
    });
    by.collect()
}

/// What the rewritten places lead to, in another unit.
const LED_TO: &str = r#"
asm(".globl __x86_return_thunk, __x86_indirect_thunk_rax, other_thunk, f1, f2, nop_func, BUG_func, __SCT__call\n"
    ".pushsection .text\n.balign 16\n"
    "__x86_return_thunk: ret\nother_thunk: ret; nop\n__x86_indirect_thunk_rax: jmp *%rax\n"
    "f1: nop; nop; ud2\nf2: nop; ud2\nnop_func: nop; nop; nop; ud2\nBUG_func: ud2\n__SCT__call: jmp f1\n.popsection");
extern void f1(void), f2(void), other_thunk(void);
void *x86_return_thunk = other_thunk;
struct { void *func; long type; } __SCK__call = { f1 };
struct { void *ops[4]; } pv_ops = { { f2, f1 } };
unsigned long constant = 0xffff888012345678ul;
"#;

/// One function for each place that a kernel rewrites; labels say where.
const REWRITTEN: &str = r#"
#define LABEL(name) ".globl " #name "\n" #name ": "
#define ALTERNATIVE(label, old, new) \
    LABEL(label) old "\n662:\n.pushsection .altinstructions,\"a\"\n" \
    ".long " #label " - .\n.long 663f - .\n.4byte 0x134\n.byte 662b - " #label "\n.byte 664f - 663f\n.popsection\n" \
    ".pushsection .altinstr_replacement,\"ax\"\n663: " new "\n664:\n.popsection"
void alternative(void) { asm volatile(ALTERNATIVE(alternative_site, ".byte 0x90,0x90,0x90", "stac")); }
void jumping(void) { asm volatile(ALTERNATIVE(jumping_site, ".byte 0x90,0x90,0x90,0x90,0x90", "jmp f1")); }
void direct(void) { asm volatile(ALTERNATIVE(direct_site, "call *pv_ops+8(%%rip)", "call BUG_func") ::: "memory"); }
void returning(void) { asm volatile(LABEL(returning_site) "jmp __x86_return_thunk"); }
void indirect(void) { asm volatile(LABEL(indirect_site) "call __x86_indirect_thunk_rax"); }
void calling(void) { asm volatile(LABEL(calling_site) "call __SCT__call"); }
void locked(int *p) { asm volatile(LABEL(locked_site) "lock incl %0\n"
    ".pushsection .smp_locks,\"a\"\n.long locked_site - .\n.popsection" : "+m"(*p)); }
unsigned long boot_time(void) { unsigned long v; asm(LABEL(boot_time_site) "movabs $0x0123456789abcdef,%0\n1:\n"
    ".pushsection runtime_ptr_constant,\"a\"\n.long 1b - 8 - .\n.popsection" : "=r"(v)); return v; }
void plain(int *p) { asm volatile(LABEL(plain_site) "incl %0" : "+m"(*p)); }
void sealed(void) { asm volatile(LABEL(sealed_site) "endbr64"); }
"#;

/// What a kernel puts over code is accepted where the unit's tables and the kernel's variables say so, and only that.
#[test]
fn rewritten_places() {
    let small = Small::new();
    small.write("unit.c", REWRITTEN);
    small.write("rest.c", &format!("{REST}{LED_TO}"));
    let built = booted(small.image(&["unit.c", "rest.c"], &[], "vmlinux"));
    let unit = small.unit("unit.c", &[]);
    let at = |name: &str| built.address(name);
    let to = |opcode: u8, site: &str, target: &str| Built::branch(opcode, at(site), at(target)).to_vec();
    let with = |mut bytes: Vec<u8>, rest: &[u8]| {
        bytes.extend(rest);
        bytes
    };
    let constant = |value: u64| value.to_le_bytes().to_vec();
    // Where, what is put there, how much further, whether it is right.
    let rows: Vec<(&str, Vec<u8>, u64, bool)> = vec![
        ("alternative_site", vec![0x0f, 0x1f, 0x00], 0, true),
        ("alternative_site", vec![0x0f, 0x01, 0xcb], 0, true),
        ("alternative_site", vec![0x0f, 0x01, 0xca], 0, false),
        ("alternative_site", vec![0xeb, 0x01, 0xcc], 0, true),
        ("jumping_site", to(0xe9, "jumping_site", "f1"), 0, true),
        ("jumping_site", to(0xe9, "jumping_site", "f2"), 0, false),
        ("jumping_site", vec![0xeb, 0x03, 0xcc, 0xcc, 0xcc], 0, true),
        ("jumping_site", vec![0xeb, 0x03, 0xcc, 0x90, 0xcc], 0, false),
        ("direct_site", with(to(0xe8, "direct_site", "f1"), &[0x90]), 0, true),
        ("direct_site", with(to(0xe8, "direct_site", "f2"), &[0x90]), 0, false),
        ("direct_site", with(to(0xe8, "direct_site", "BUG_func"), &[0x90]), 0, false),
        ("returning_site", vec![0xc3, 0xcc, 0xcc, 0xcc, 0xcc], 0, true),
        ("returning_site", vec![0xc3, 0xcc, 0xcc, 0xcc, 0x90], 0, false),
        ("returning_site", to(0xe9, "returning_site", "other_thunk"), 0, true),
        ("returning_site", to(0xe9, "returning_site", "f1"), 0, false),
        ("indirect_site", vec![0xff, 0xd0, 0x0f, 0x1f, 0x00], 0, true),
        ("indirect_site", vec![0xff, 0xd1, 0x0f, 0x1f, 0x00], 0, false),
        ("indirect_site", vec![0xff, 0xe0, 0x0f, 0x1f, 0x00], 0, false),
        ("indirect_site", vec![0x0f, 0xae, 0xe8, 0xff, 0xd0], 0, true),
        ("calling_site", to(0xe8, "calling_site", "f1"), 0, true),
        ("calling_site", to(0xe8, "calling_site", "f2"), 0, false),
        ("calling_site", NOP5.to_vec(), 0, false),
        ("locked_site", vec![0x3e], 0, true),
        ("locked_site", vec![0x2e], 0, false),
        ("boot_time_site", constant(0xffff_8880_1234_5678), 2, true),
        ("boot_time_site", constant(0xffff_8880_1234_5679), 2, false),
        ("plain_site", vec![0xcc], 0, false),
        ("sealed_site", vec![0x66, 0x0f, 0x1f, 0x00], 0, true),
        ("sealed_site", vec![0x0f, 0x1f, 0x40, 0x00], 0, false),
    ];
    // As linked, a boot-time constant is what no kernel that runs has.
    let mut fresh = built.clone();
    fresh.put(at("boot_time_site") + 2, &constant(0xffff_8880_1234_5678));
    let judged = |built: &Built| -> Vec<Finding> {
        let loaded = running(&small, built, Livepatches::default());
        check(&unit, &loaded).into_iter().filter(|f| !f.is_equal()).collect()
    };
    let none = judged(&fresh);
    assert!(none.is_empty(), "{none:?}");
    let mut problems = Vec::new();
    for (site, bytes, further, right) in &rows {
        let mut changed = fresh.clone();
        changed.put(at(site) + further, bytes);
        let found = judged(&changed);
        let function = site.trim_end_matches("_site");
        let names: Vec<&str> = found.iter().map(|f| f.function.as_str()).collect();
        let expected = if *right { vec![] } else { vec![function] };
        if names != expected {
            problems.push(format!("{site} {bytes:02x?}: {found:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A kernel that counts calls does so in the padding before functions, and calls lead there: to the right function only.
#[test]
fn counted_calls() {
    let small = small();
    let built = booted(small.image(&["unit.c", "rest.c"], &[], "vmlinux"));
    let unit = small.unit("unit.c", &[]);
    let count = |shift: u8| [0x65, 0x48, 0xc1, 0x3d, 0x10, 0x20, 0x30, 0x40, shift];
    let (show, printed, sum) = (built.address("show"), built.address("printed"), built.address("sum"));
    let call = (show..show + 64)
        .find(|at| built.get(*at, 5) == Built::branch(0xe8, *at, printed))
        .expect("`show` calls `printed`");
    let with = |shift: u8, callee: u64| {
        let mut counted = built.clone();
        for function in [show, printed, sum] {
            counted.put(function - 9, &count(shift));
        }
        counted.put(call, &Built::branch(0xe8, call, callee - 9));
        wrong(&unit, &running(&small, &counted, Livepatches::default()))
    };
    assert_eq!(with(5, printed), [""; 0]);
    assert_eq!(with(5, sum), ["show"]);
    assert_eq!(with(4, printed), ["show", "sum"]);
}

/// A probe is told from a wrong kernel: the message is what people act on.
#[test]
fn probes_are_named() {
    let small = Small::new();
    small.write("unit.c", REWRITTEN);
    small.write("rest.c", &format!("{REST}{LED_TO}"));
    let mut built = booted(small.image(&["unit.c", "rest.c"], &[], "vmlinux"));
    let site = built.address("plain_site");
    built.put(site, &[0xcc]);
    let unit: elf::Object = small.unit("unit.c", &[]);
    let found = check(&unit, &running(&small, &built, Livepatches::from_modules(HashMap::new())));
    let plain = found.iter().find(|f| f.function == "plain").unwrap();
    assert!(matches!(&plain.outcome, Outcome::Differs(d) if d.what.contains("kprobe")), "{plain:?}");
}
