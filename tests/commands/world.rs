//! Units of a small made-up kernel against what its tables say of the rest of it: whole runs, without an image.

use std::fs;
use std::process::Command;

use crate::klp_build;
use crate::small_kernel::{Has, SmallKernel};

/// A kernel with these units and symbols, a patch that edits some of them, and what the run is to say. `drv/m.c` is a module.
struct Run<'a> {
    units: &'a [(&'a str, &'a str)],
    /// Letter and name, as in System.map, in the order of their addresses.
    symbols: &'a [&'a str],
    /// File, old text, new text.
    edits: &'a [(&'a str, &'a str, &'a str)],
    /// The kernel tracks indirect branches.
    ibt: bool,
    /// Exit status, functions that are said to change, texts of standard error.
    status: i32,
    changed: &'a [&'a str],
    says: &'a [&'a str],
}

const KERNEL: Run<'static> =
    Run { units: &[], symbols: &[], edits: &[], ibt: false, status: 1, changed: &[], says: &[] };

/// Another file of the module.
const OF_MODULE: &str =
    "int m_helper(int a) { return a; }\n__attribute__((section(\".init.text\"))) int m_setup(int a) { return a; }\n";

impl Run<'_> {
    /// What kbuild leaves of a module with this unit.
    fn make_module(&self, kernel: &SmallKernel, text: &str) {
        kernel.write("modules.order", "drv/m.o\n");
        let command = fs::read_to_string(kernel.path().join("drv/.m.o.cmd")).expect("readable");
        kernel.write("drv/.m.o.cmd", &command.replace("-DKBUILD_MODNAME='\"x\"'", "-DMODULE -DKBUILD_MODNAME='\"m\"'"));
        kernel.write("whole.c", &(text.to_owned() + OF_MODULE));
        let mut gcc = Command::new("gcc");
        gcc.current_dir(kernel.path()).args(["-O2", "-fno-pie", "-mcmodel=kernel", "-c", "-o", "drv/m.ko", "whole.c"]);
        assert!(gcc.status().expect("gcc runs").success());
    }

    /// Runs it; what it wrote to standard error.
    fn check(&self) -> String {
        let kernel = SmallKernel::new(Has::Boolean);
        let mut patch = String::new();
        for (file, text) in self.units {
            kernel.unit(file, text, "gcc");
            if *file == "drv/m.c" {
                self.make_module(&kernel, text);
            }
            let edits: Vec<_> = self.edits.iter().filter(|(of, ..)| of == file).collect();
            if edits.is_empty() {
                continue;
            }
            let mut new = (*text).to_owned();
            for (_, old, by) in edits {
                assert!(new.contains(old), "{file} has no `{old}`");
                new = new.replace(old, by);
            }
            let lines = |sign: &str, text: &str| text.lines().map(|line| format!("{sign}{line}\n")).collect::<String>();
            let (from, to) = (text.lines().count(), new.lines().count());
            patch += &format!("--- a/{file}\n+++ b/{file}\n@@ -1,{from} +1,{to} @@\n");
            patch += &(lines("-", text) + &lines("+", &new));
        }
        if self.ibt {
            for file in [".config", "include/config/auto.conf"] {
                let text = fs::read_to_string(kernel.path().join(file)).expect("readable");
                kernel.write(file, &(text + "CONFIG_X86_KERNEL_IBT=y\n"));
            }
            for (file, _) in self.units {
                let (dir, name) = file.rsplit_once('/').expect("in a folder");
                let command = format!("{dir}/.{}.cmd", name.replace(".c", ".o"));
                let text = fs::read_to_string(kernel.path().join(&command)).expect("readable");
                kernel
                    .write(&command, &text.replace("-fcf-protection=none", "-fcf-protection=branch -fno-jump-tables"));
            }
        }
        let all = self.symbols.iter().chain(&["T klp_enable_patch", "T __fentry__"]);
        let map =
            all.enumerate().map(|(i, symbol)| format!("{:x} {symbol}\n", 0xffff_ffff_8100_0000_u64 + 0x100 * i as u64));
        kernel.write("System.map", &map.collect::<String>());
        let work = tempfile::tempdir().expect("a temporary folder");
        fs::write(work.path().join("fix.patch"), patch).expect("writable");
        let command =
            klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
        let command = command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "--verbose", "fix.patch"]);
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(self.status), "{said}");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut changed: Vec<&str> =
            stdout.lines().filter_map(|l| l.split_once("changed function: ")).map(|(_, f)| f).collect();
        changed.sort_unstable();
        assert_eq!(changed, self.changed, "{stdout}");
        for text in self.says {
            assert!(said.contains(text), "`{text}` is not in: {said}");
        }
        said
    }
}

const GIVES_AWAY: &str = "extern int ext(int); extern void later(void *, void (*)(void *)); extern void other(void *);\n\
                          static __attribute__((noinline)) void release(void *p) { ext((int)(long)p); ext(2); }\n\
                          void drop(void *p) { ext(1); release(p); other(p); ext(3); }\n";
const FUNCTIONS: [&str; 5] = ["T drop", "t release", "T ext", "T later", "T other"];

/// On a kernel that tracks indirect branches the address of a function that has no ENDBR is not given away; of another file's
/// only the image tells, and without it the run says so; an export's address anyone may take.
#[test]
fn addresses_on_a_kernel_that_tracks_branches() {
    let kernel = Run { units: &[("fs/a.c", GIVES_AWAY)], symbols: &FUNCTIONS, ibt: true, ..KERNEL };
    let says =
        "`drop` gives away the address of `release`, which the kernel only calls directly: its code has no ENDBR";
    let own = [("fs/a.c", "ext(1); release(p)", "ext(1); later(p, release)")];
    Run { edits: &own, changed: &["drop", "release"], says: &[says, "[no-endbr]"], ..kernel }.check();
    Run { edits: &own, changed: &["drop"], ibt: false, status: 0, ..kernel }.check();
    let others = [("fs/a.c", "release(p); other(p)", "release(p); later(p, other)")];
    let says = "whether this kernel (CONFIG_X86_KERNEL_IBT) lets it be called by that is not known";
    Run { edits: &others, changed: &["drop"], status: 0, says: &["`other`", says], ..kernel }.check();
    // A function of another unit of the run, whose address was taken there.
    let two = [
        ("fs/a.c", GIVES_AWAY),
        ("fs/b.c", "extern void other(void *);\nvoid *user(void) { return other; }\nint b(void) { return 1; }\n"),
    ];
    let edits = [others[0], ("fs/b.c", "return 1", "return 2")];
    let symbols = ["T drop", "t release", "T ext", "T later", "T other", "T user", "T b"];
    let said =
        Run { units: &two, symbols: &symbols, edits: &edits, changed: &["b", "drop"], status: 0, ..kernel }.check();
    assert!(!said.contains("gives away"), "{said}");
}

/// What another file of the kernel had for boot only is gone; what the code referred to before (`__ref`) it may refer to still.
#[test]
fn memory_that_was_freed() {
    let text = "extern int ext(long); extern char boot_command_line[];\nint show(int a) { return ext(a) + 1; }\n\
                int early(int a) { return a ? ext((long)boot_command_line) : 1; }\n";
    let symbols = ["T show", "T early", "T ext", "T __init_begin", "D boot_command_line", "T __init_end"];
    let kernel = Run { units: &[("fs/a.c", text)], symbols: &symbols, ..KERNEL };
    let new = [("fs/a.c", "ext(a) + 1", "ext((long)boot_command_line) + 1")];
    let says = ["`show` refers to `boot_command_line`, which is freed after boot [init-section]"];
    Run { edits: &new, changed: &["show"], says: &says, ..kernel }.check();
    let before = [("fs/a.c", "line) : 1", "line) : 2")];
    let says =
        ["warning: vmlinux: `early` refers to `boot_command_line`, which the kernel has freed, as it did before"];
    Run { edits: &before, changed: &["early"], status: 0, says: &says, ..kernel }.check();
}

/// A global function that boot freed, and that is to stay from now on, is a new one: the kernel's table still has the name of what
/// is gone, and that is no second definition.
#[test]
fn what_boot_freed_comes_anew() {
    let init = "__attribute__((section(\".init.text\"))) ";
    let text = format!(
        "extern int ext(int);\n{init}int setup(int a) {{ return ext(a) + 3; }}\nint resume(int a) {{ return ext(a) + 1; }}\n"
    );
    let symbols = ["T resume", "T ext", "T __init_begin", "T setup", "T __init_end"];
    let edits = [("fs/a.c", init, ""), ("fs/a.c", "ext(a) + 1", "ext(setup(a)) + 1")];
    Run { units: &[("fs/a.c", &text)], symbols: &symbols, edits: &edits, changed: &["resume"], status: 0, ..KERNEL }
        .check();
}

/// A weak function that another file's took the place of is not patched in that one's stead; who calls it calls the one that is.
#[test]
fn weak_and_overridden() {
    let text = "extern int ext(int);\nint __attribute__((weak)) arch_hook(int a) { return ext(a) + 1; }\n\
                int user(int a) { return ext(arch_hook(a)) + 2; }\n";
    let overridden = Run { units: &[("fs/a.c", text)], symbols: &["T user", "T arch_hook", "T ext"], ..KERNEL };
    let edits = [("fs/a.c", "ext(a) + 1", "ext(a) + 7")];
    let says = [
        "this file's weak `arch_hook` is not in the kernel: another file's definition took its place [unresolved-symbol]",
    ];
    Run { edits: &edits, changed: &["arch_hook"], says: &says, ..overridden }.check();
    let own = Run { symbols: &["T user", "W arch_hook", "T ext"], status: 0, ..overridden };
    Run { edits: &edits, changed: &["arch_hook"], ..own }.check();
    Run { edits: &[("fs/a.c", "+ 2;", "+ 3;")], changed: &["user"], status: 0, ..overridden }.check();
}

const HERE: &str = "extern int ext(int);\nint shared = 3;\nint foo(int a) { shared += a; return ext(a) + 1; }\n\
                    int user(int a) { return ext(foo(a)) + 2; }\nstatic int own;\nint count(void) { return ++own; }\n";
const THERE: &str =
    "extern int ext(int); extern int foo(int); extern int shared;\nint other(int a) { return ext(foo(a)) + shared; }\n";
const FOO: &str = "int foo(int a) { shared += a; return ext(a) + 1; }\n";

/// What moves to another file of the kernel is not new: a function replaces the one that the kernel has, a variable is the
/// kernel's, with the value that it has, and one whose value would be another, or lost, is refused.
#[test]
fn moved_to_another_file() {
    let symbols = ["T user", "T foo", "T count", "D shared", "d own", "T other", "T ext"];
    let kernel = Run { units: &[("fs/a.c", HERE), ("fs/b.c", THERE)], symbols: &symbols, ..KERNEL };
    let function = format!("{}int other", FOO.replace("+ 1", "+ 9"));
    let edits = [("fs/a.c", FOO, "extern int foo(int);\n"), ("fs/b.c", "int other", &function)];
    Run { edits: &edits, changed: &["foo", "other", "user"], status: 0, ..kernel }.check();
    let gone = ("fs/a.c", "int shared = 3;", "extern int shared;");
    let data = [gone, ("fs/b.c", "int other(int a) { return ", "int shared = 3;\nint other(int a) { return 1 + ")];
    Run { edits: &data, changed: &["other"], status: 0, ..kernel }.check();
    let data = [gone, ("fs/b.c", "int other", "int shared = 4;\nint other")];
    let says = ["`shared` moves from `fs/a.c` to `fs/b.c`, and the running kernel keeps it as it is", "[data-changed]"];
    Run { edits: &data, says: &says, ..kernel }.check();
    let counter = "static int own;\nint count(void) { return ++own; }\n";
    let new = format!("{counter}int other");
    let edits = [("fs/a.c", counter, ""), ("fs/b.c", "int other", &new)];
    let says =
        ["`own` moves from `fs/a.c` to `fs/b.c`, and what it holds in the running kernel would be lost [data-changed]"];
    Run { edits: &edits, changed: &["count"], says: &says, ..kernel }.check();
}

/// A new function whose name the kernel has already would be a second one; a weak one of its own it would go on to use.
#[test]
fn names_that_are_taken() {
    let symbols = ["T other", "T foo", "D shared", "T ext", "W arch_hook", "T dump", "t quiet"];
    let kernel = Run { units: &[("fs/b.c", THERE)], symbols: &symbols, ..KERNEL };
    let edit = |name: &str, how: &str| {
        format!("{how} int {name}(int a) {{ return ext(a) - 1; }}\nint other(int a) {{ return {name}(3) + ")
    };
    let check = |name: &str, how: &str, run: Run<'_>| {
        let new = edit(name, how);
        Run { edits: &[("fs/b.c", "int other(int a) { return ", &new)], changed: &["other"], ..run }.check()
    };
    let weak = [
        "`arch_hook` is new, and the kernel has a weak `arch_hook`",
        "change the weak definition itself",
        "[already-defined]",
    ];
    check("arch_hook", "__attribute__((noinline))", Run { says: &weak, ..kernel });
    let says = ["`dump` is new, and the kernel has a `dump` already: there would be two of them [already-defined]"];
    check("dump", "__attribute__((noinline))", Run { says: &says, ..kernel });
    // A fallback for kernels that have none; a name that only a static function has; a new one.
    for (name, how) in [("dump", "__attribute__((weak))"), ("quiet", ""), ("fresh", "")] {
        check(name, how, Run { status: 0, ..kernel });
    }
}

/// New globals are known by the object that has them: vmlinux does not mean a module's by the name, a module may mean vmlinux's. What
/// the module has freed after its load is gone, whatever referred to it before.
#[test]
fn objects_have_their_own_names() {
    let vmlinux = "extern int ext(int); extern int dump(int);\nint show(int a) { return ext(dump(a)) + 1; }\n";
    let module = "extern int ext(int); extern int m_helper(int); extern int m_setup(int);\n\
                  int other(int a) { return ext(m_helper(a)) + 1; }\nint early(int a) { return a ? m_setup(a) : 1; }\n";
    let kernel = Run { units: &[("fs/a.c", vmlinux), ("drv/m.c", module)], symbols: &["T show", "T ext"], ..KERNEL };
    let with = Run { symbols: &["T show", "T ext", "T dump"], status: 0, ..kernel };
    let new = "__attribute__((noinline)) int dump(int a) { return ext(a) - 9; }\nint other(int a) { return dump(3) + ";
    let of_module = [("fs/a.c", "+ 1;", "+ 2;"), ("drv/m.c", "int other(int a) { return ", new)];
    Run { edits: &of_module, changed: &["other", "show"], ..with }.check();
    let says = ["`dump` is in no object of the kernel [unresolved-symbol]"];
    Run { edits: &of_module, changed: &["other", "show"], says: &says, ..kernel }.check();
    let fresh = [
        ("fs/a.c", "int show", "int fresh(int a) { return ext(a) - 7; }\nint show"),
        ("drv/m.c", "int other(int a) { return ", "extern int fresh(int);\nint other(int a) { return fresh(a) + "),
    ];
    Run { edits: &fresh, changed: &["other"], ..with }.check();
    let taken = new.replace("dump", "m_helper");
    let taken =
        [("drv/m.c", "extern int m_helper(int);", ""), ("drv/m.c", "int other(int a) { return ", taken.as_str())];
    let says = ["m: `m_helper` is new, and the kernel has a `m_helper` already"];
    Run { edits: &taken, changed: &["other"], says: &says, ..kernel }.check();
    let says = ["m: `early` refers to `m_setup`, which is freed after the module's load [init-section]"];
    Run { edits: &[("drv/m.c", ": 1;", ": 2;")], changed: &["early"], says: &says, ..kernel }.check();
}
