//! `klp-build check` and `inspect`: every finding as people see it, with its exit status.

use std::fs;
use std::path::Path;

use snapbox::{Data, str};
use tempfile::TempDir;

use crate::klp_build;
use crate::small_kernel::{Has, Module, SmallKernel};

struct Bench {
    kernel: SmallKernel,
    work: TempDir,
}

impl Bench {
    fn new(has: Has) -> Bench {
        Bench { kernel: SmallKernel::new(has), work: tempfile::tempdir().expect("a temporary folder") }
    }

    fn module(&self, module: &Module<'_>) {
        self.kernel.module(self.work.path(), module);
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.work.path().join(file);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    /// A livepatch in a copy of /sys/kernel/livepatch.
    fn loaded(&self, name: &str, files: &[(&str, &str)], functions: &[&str]) {
        for (file, text) in files {
            self.write(&format!("sys/{name}/{file}"), text);
        }
        for function in functions {
            fs::create_dir_all(self.work.path().join("sys").join(name).join("vmlinux").join(function))
                .expect("writable");
        }
    }

    fn check(&self, args: &[&str], status: i32, stdout: Data, stderr: Data) {
        let command = klp_build().current_dir(self.work.path()).arg("check").arg("-k").arg(self.kernel.path());
        command.args(args).assert().code(status).stdout_eq(stdout).stderr_eq(stderr);
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let command = klp_build().current_dir(self.work.path()).args(["check", "--json", "-k"]).arg(self.kernel.path());
        let output = command.args(args).output().expect("it runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// A module that fits has nothing said about it.
#[test]
fn fits() {
    let bench = Bench::new(Has::Boolean);
    bench.module(&Module { functions: &[("meminfo_proc_show", 0), ("type_show", 2)], ..Module::default() });
    bench.check(
        &["fix.ko"],
        0,
        str![[r#"
fix.ko: would load on 7.3.4

"#]]
        .into(),
        str![""].into(),
    );
}

/// Everything that the loader and the livepatch core would refuse is said at once, each with its code; exit status 1.
#[test]
fn everything_wrong_with_a_module() {
    let bench = Bench::new(Has::Boolean);
    bench.kernel.write(
        "Module.symvers",
        "0x12345678\tklp_enable_patch\tvmlinux\tEXPORT_SYMBOL_GPL\tLIVE\n0x1\tother\tvmlinux\tEXPORT_SYMBOL\t\n",
    );
    bench.module(&Module {
        release: "7.3.5",
        functions: &[("meminfo_proc_show", 2), ("type_show", 0), ("gone", 0)],
        code: "extern int nowhere(void); int use(void) { return nowhere(); }\n",
        ..Module::default()
    });
    bench.check(
        &["fix.ko"],
        1,
        str![[r#"
fix.ko: would be refused by 7.3.4

"#]]
        .into(),
        str![[r#"
refused: the module is for kernel `7.3.5`, and this one is `7.3.4` [other-kernel]
  advice: build the livepatch for this kernel
refused: `nowhere` is exported by nothing in this kernel [unresolved-symbol]
  advice: build the livepatch for this kernel
refused: `klp_enable_patch` is exported in `LIVE`, and the module does not import that [missing-namespace]
  advice: make it a livepatch symbol (klp-build does), or add MODULE_IMPORT_NS
refused: vmlinux: `gone,0` is not in the object [unresolved-symbol]
  advice: build the livepatch for this kernel
refused: vmlinux: `meminfo_proc_show,2` is not there: there is 1 [unresolved-symbol]
  advice: build the livepatch for this kernel
refused: vmlinux: `type_show,0` is one of 2, and the module says that there is one [ambiguous-symbol]
  advice: build the livepatch for this kernel

"#]]
        .into(),
    );
}

/// A module with sets on a kernel without them, and an unsigned one where all must be signed.
#[test]
fn what_the_kernel_lacks() {
    let sets = Bench::new(Has::Sets);
    sets.module(&Module { states: "{ .id = 7, .version = 1, .is_shadow = 1 },", ..Module::default() });
    let bench = Bench::new(Has::Boolean);
    let config =
        fs::read_to_string(bench.kernel.path().join(".config")).expect("readable") + "CONFIG_MODULE_SIG_FORCE=y\n";
    bench.kernel.write(".config", &config);
    bench.kernel.write("include/config/auto.conf", &config);
    let module = sets.work.path().join("fix.ko").display().to_string();
    bench.check(
        &[&module],
        1,
        str![[r#"
[..]/fix.ko: would be refused by 7.3.4

"#]]
        .into(),
        str![[r#"
refused: the kernel loads signed modules only, and the module carries no signature [unsigned]
  advice: sign it with a key that the kernel trusts (--sign-key, --sign-cert)
refused: the module has a replace set, and this kernel's `struct klp_patch` has none [kernel-lacks]
  advice: build the livepatch for this kernel
refused: state 7 owns a shadow variable, which this kernel's `struct klp_state` cannot [kernel-lacks]
  advice: build the livepatch for this kernel

"#]]
        .into(),
    );
}

/// A hash that a kernel with kCFI would not exchange at load: a call of that function by its address would stop the kernel.
#[test]
fn a_hash_that_load_leaves_as_it_is() {
    let bench = Bench::new(Has::Boolean);
    let hashed = "asm(\".byte 0x90,0x90,0x90,0xb8,1,2,3,4\\n.type hashed,@function\\nhashed: ret\\n\"\n\
                  \".pushsection .cfi_sites,\\\"a\\\"\\n.long LISTED - .\\n.popsection\");\n";
    let module = |listed: &str| {
        let code = hashed.replace("LISTED", listed);
        bench.module(&Module { functions: &[("meminfo_proc_show", 0)], code: &code, ..Module::default() });
    };
    module("hashed");
    bench.check(&["fix.ko"], 0, "fix.ko: would load on 7.3.4\n".into(), str![""].into());
    let config = fs::read_to_string(bench.kernel.path().join(".config")).expect("readable") + "CONFIG_CFI=y\n";
    bench.kernel.write(".config", &config);
    bench.kernel.write("include/config/auto.conf", &config);
    let says = "refused: the hash of `hashed` is not in `.cfi_sites` [format-rule]\n  advice: build the livepatch for this kernel\n";
    bench.check(&["fix.ko"], 1, "fix.ko: would be refused by 7.3.4\n".into(), says.into());
    module("hashed - 5");
    bench.check(&["fix.ko"], 0, "fix.ko: would load on 7.3.4\n".into(), str![""].into());
}

/// A cumulative livepatch that drops a fix would load: a warning, and exit status 0.
#[test]
fn a_dropped_fix_is_a_warning() {
    let bench = Bench::new(Has::Boolean);
    bench.module(&Module {
        name: "one",
        functions: &[("meminfo_proc_show", 0), ("type_show", 2)],
        ..Module::default()
    });
    bench.module(&Module { name: "two", functions: &[("meminfo_proc_show", 0), ("vfs_read", 0)], ..Module::default() });
    bench.check(
        &["one.ko", "two.ko"],
        0,
        str![[r#"
one.ko: would load on 7.3.4
two.ko: would load on 7.3.4
  replaces `one`

"#]]
        .into(),
        str![[r#"
warning: vmlinux: `two` replaces `one` and does not patch `type_show,2`: the kernel's own comes back [fix-dropped]
  advice: add the other patch to this livepatch, unless its fix is to go

"#]]
        .into(),
    );
    bench.module(&Module { name: "three", set: 0, ..Module::default() });
    bench.check(
        &["one.ko", "three.ko"],
        0,
        str![[r#"
one.ko: would load on 7.3.4
three.ko: would load on 7.3.4

"#]]
        .into(),
        str![[r#"
warning: vmlinux: `three` lies above `one`, whose `meminfo_proc_show,0` does not run while it is enabled [fix-hidden]
  advice: build it with the other patch applied, or let it replace the other livepatch

"#]]
        .into(),
    );
}

/// Sets that meet in a function or in a state, a state that goes back in time, one that nobody would undo: exit status 1.
#[test]
fn conflicts_between_sets() {
    let bench = Bench::new(Has::Sets);
    bench.module(&Module {
        name: "base",
        states: "{ .id = 7, .version = 3 }, { .id = 9, .version = 1, .is_shadow = 1 },",
        ..Module::default()
    });
    bench.module(&Module { name: "other", set: 2, states: "{ .id = 9, .version = 1 },", ..Module::default() });
    bench.module(&Module { name: "older", states: "{ .id = 7, .version = 2 },", ..Module::default() });
    bench.module(&Module { name: "less", ..Module::default() });
    let refused =
        |name: &str| -> Data { format!("base.ko: would load on 7.3.4\n{name}.ko: would be refused by 7.3.4\n").into() };
    bench.check(
        &["base.ko", "other.ko"],
        1,
        refused("other"),
        str![[r#"
refused: vmlinux: `other` of set 2 and `base` of set 1 both replace `meminfo_proc_show,0` [function-conflict]
  advice: put both changes into one livepatch, or both livepatches into one set
refused: `other` and `base` are of different sets and both have state 9 [state-conflict]
  advice: give the states different ids, or put both livepatches into one set

"#]]
        .into(),
    );
    bench.check(
        &["base.ko", "older.ko"],
        1,
        refused("older"),
        str![[r#"
refused: `older` has version 2 of state 7, and `base` has version 3 [state-too-old]
  advice: declare the state with the newer version, and handle what that one changed

"#]]
        .into(),
    );
    bench.check(
        &["base.ko", "less.ko"],
        1,
        refused("less"),
        str![[r#"
refused: `less` replaces `base` and does not have its state 7, which nothing would undo [state-dropped]
  advice: declare the state in the new livepatch, too

"#]]
        .into(),
    );
}

/// One function with two names, which the symbol table tells: two sets may not share it, to replace it by the other name drops
/// nothing and is not a second redirection, and one module that has both replaces it once.
#[test]
fn two_names_of_one_function() {
    let map = |bench: &Bench| {
        let map = fs::read_to_string(bench.kernel.path().join("System.map")).expect("readable");
        let vfs_read = "ffffffff81000300 T vfs_read\n";
        let both = "ffffffff81000300 T vfs_read\nffffffff81000300 T also_vfs_read\n";
        assert!(map.contains(vfs_read));
        bench.kernel.write("System.map", &map.replace(vfs_read, both));
    };
    let bench = Bench::new(Has::Sets);
    map(&bench);
    let (first, second): (&[_], &[_]) = (&[("vfs_read", 0)], &[("also_vfs_read", 1)]);
    bench.module(&Module { name: "base", functions: first, ..Module::default() });
    bench.module(&Module { name: "other", set: 2, functions: second, ..Module::default() });
    bench.module(&Module { name: "next", functions: second, ..Module::default() });
    bench.module(&Module { name: "both", functions: &[first, second].concat(), ..Module::default() });
    let conflict: Data = str![[r#"
refused: vmlinux: `other` of set 2 and `base` of set 1 both replace one function, which is `also_vfs_read,1` and `vfs_read,0` [function-conflict]
  advice: put both changes into one livepatch, or both livepatches into one set
...
"#]]
    .into();
    let refused = |head: &str| -> Data { format!("{head}other.ko: would be refused by 7.3.4\n").into() };
    bench.check(&["base.ko", "other.ko"], 1, refused("base.ko: would load on 7.3.4\n"), conflict.clone());
    let files = [("enabled", "1\n"), ("replace_set", "1\n"), ("transition", "0\n"), ("stack_order", "1\n")];
    bench.loaded("base", &files, &["vfs_read,1"]);
    let conflict_in_sysfs = str![[r#"
refused: vmlinux: `other` of set 2 and `base` of set 1 both replace one function, which is `also_vfs_read,1` and `vfs_read,1` [function-conflict]
...
"#]];
    bench.check(&["--loaded", "sys", "other.ko"], 1, refused(""), conflict_in_sysfs.into());
    bench.write("traced", "also_vfs_read (1) R I     \ttramp: 0xffffffffa0000000\n");
    bench.check(
        &["--loaded", "sys", "--loaded", "base.ko", "--traced", "traced", "next.ko", "both.ko"],
        0,
        str![[r#"
next.ko: would load on 7.3.4
  replaces `base`
both.ko: would load on 7.3.4
  replaces `next`

"#]]
        .into(),
        str![[r#""#]].into(),
    );

    // A core without sets takes both names, and has two replacements of the function in one livepatch.
    let bench = Bench::new(Has::Boolean);
    map(&bench);
    bench.module(&Module { name: "both", functions: &[first, second].concat(), ..Module::default() });
    let twice = str![[r#"
warning: vmlinux: `vfs_read,0` and `also_vfs_read,1` are one function, which `both` replaces twice [format-rule]
  advice: replace it by one name

"#]];
    bench.check(&["both.ko"], 0, "both.ko: would load on 7.3.4\n".into(), twice.into());
}

/// What is loaded, from a copy of sysfs: sets, transitions, names; its states from the file, where that is given as well.
#[test]
fn beside_what_is_loaded() {
    let bench = Bench::new(Has::Sets);
    let files =
        [("enabled", "1\n"), ("replace", "1\n"), ("replace_set", "1\n"), ("transition", "0\n"), ("stack_order", "1\n")];
    bench.loaded("old", &files, &["type_show,1", "meminfo_proc_show,0"]);
    let moving = [("enabled", "1\n"), ("replace_set", "5\n"), ("transition", "1\n"), ("stack_order", "2\n")];
    bench.loaded("apart", &moving, &["vfs_read,0"]);
    bench.module(&Module::default());
    bench.check(
        &["--loaded", "sys", "fix.ko"],
        1,
        str![[r#"
fix.ko: would be refused by 7.3.4

"#]]
        .into(),
        str![[r#"
warning: vmlinux: `fix` replaces `old` and does not patch `type_show,1`: the kernel's own comes back [fix-dropped]
  advice: add the other patch to this livepatch, unless its fix is to go
refused: `apart` is in transition, and the kernel enables one livepatch at a time [in-transition]
  advice: wait until its `transition` is 0
note: sysfs does not tell the states of `old`, `apart`: name their files with --loaded to have them checked

"#]]
        .into(),
    );
    bench.module(&Module { name: "old", states: "{ .id = 4, .version = 1 },", ..Module::default() });
    fs::remove_dir_all(bench.work.path().join("sys/apart")).expect("removed");
    let report = bench.json(&["--loaded", "sys", "--loaded", "old.ko", "fix.ko"]);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["outcome"], "refused");
    assert_eq!(report["modules"][0]["replaces"], serde_json::json!([]));
    assert_eq!(report["modules"][0]["loads"], false);
    let refusal = &report["refusals"][0];
    assert_eq!((refusal["reason"].as_str(), refusal["module"].as_str()), (Some("state-dropped"), Some("fix")));
    assert_eq!(refusal["other"], "old");
    bench.check(
        &["--loaded", "sys", "old.ko"],
        1,
        str![[r#"
old.ko: would be refused by 7.3.4

"#]]
        .into(),
        str![[r#"
refused: a livepatch `old` is loaded already [already-loaded]
  advice: give each livepatch a name of its own (-o), or take the other one out first
...
"#]]
        .into(),
    );
}

/// Probes, redirections, and functions that some task is always in (N15).
#[test]
fn what_watches_a_function() {
    let bench = Bench::new(Has::Boolean);
    bench.write("kprobes", "ffffffff81000310  k  vfs_read+0x10    [OPTIMIZED]\n");
    bench.write("traced", "meminfo_proc_show (1) R I     \ttramp: 0xffffffffa0000000\nvfs_read (1)             \n");
    bench.module(&Module {
        functions: &[("meminfo_proc_show", 0), ("vfs_read", 0), ("schedule", 0)],
        ..Module::default()
    });
    bench.check(
        &["--kprobes", "kprobes", "--traced", "traced", "fix.ko"],
        1,
        str![[r#"
fix.ko: would be refused by 7.3.4

"#]]
        .into(),
        str![[r#"
refused: vmlinux: `meminfo_proc_show` is redirected already, and not by a livepatch [function-busy]
  advice: take out what redirects it (a kprobe with a post handler, fault injection, a BPF program)
warning: vmlinux: a kprobe is at `vfs_read+0x10`: the livepatch's code runs instead, and it is not hit [probed]
  advice: take the probe out, and set it again in the livepatch's function
warning: vmlinux: every sleeping task is in `schedule`: kernel threads never leave it, so the transition may not end [always-running]
  advice: patch what it calls instead, or plan for a forced transition

"#]]
        .into(),
    );
}

/// The document of `inspect` says which version of its form it has.
#[test]
fn inspect_as_json() {
    let bench = Bench::new(Has::Sets);
    bench.module(&Module::default());
    let command = klp_build().current_dir(bench.work.path()).args(["inspect", "--json", "fix.ko"]);
    let output = command.output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["schema"], &report["name"], &report["replace_set"]), (&1.into(), &"fix".into(), &1.into()));
}

/// `inspect` shows states with their callbacks and shadow variables, of both forms of the table.
#[test]
fn inspect_shows_states() {
    let inspect = |bench: &Bench, args: &[&str]| {
        klp_build().current_dir(bench.work.path()).arg("inspect").args(args).arg(Path::new("fix.ko"))
    };
    let bench = Bench::new(Has::Sets);
    bench.module(&Module {
        states: "{ .id = 7, .version = 2, .callbacks.pre_patch = code, .callbacks.post_unpatch = code }, \
                 { .id = 8, .version = 1, .is_shadow = 1, .callbacks.shadow_dtor = code },",
        ..Module::default()
    });
    inspect(&bench, &[]).assert().code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
module: fix
built for: 7.3.4 SMP mod_unload modversions 
replaces: set 1
state: 7, version 2
  callback: pre_patch
  callback: post_unpatch
state: 8, version 1
  owns the shadow variable 8
  callback: shadow_dtor
object: vmlinux
  function: meminfo_proc_show,0

"#]]);
    let output = inspect(&bench, &["--json"]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = serde_json::json!([
        {"id": 7, "version": 2, "shadow": false, "callbacks": ["pre_patch", "post_unpatch"]},
        {"id": 8, "version": 1, "shadow": true, "callbacks": ["shadow_dtor"]},
    ]);
    assert_eq!(report["states"], expected);

    let plain = Bench::new(Has::Boolean);
    plain.module(&Module { states: "{ .id = 1, .version = 1 }, { .id = 2 },", ..Module::default() });
    let output = inspect(&plain, &["--json"]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["states"][0]["id"], 1);
    assert_eq!(report["states"][1], serde_json::json!({"id": 2, "version": 0, "shadow": false, "callbacks": []}));
    assert_eq!((&report["replace_member"], &report["replace"]), (&1.into(), &serde_json::Value::Null));
}

/// What is refused is not there for the next one: that meets what was loaded before.
#[test]
fn a_refused_one_replaces_nothing() {
    let bench = Bench::new(Has::Sets);
    bench.module(&Module { name: "base", states: "{ .id = 7, .version = 3 },", ..Module::default() });
    bench.module(&Module { name: "older", states: "{ .id = 7, .version = 2 },", ..Module::default() });
    bench.module(&Module { name: "next", states: "{ .id = 7, .version = 3 },", ..Module::default() });
    let stdout = "base.ko: would load on 7.3.4\nolder.ko: would be refused by 7.3.4\n\
                  next.ko: would load on 7.3.4\n  replaces `base`\n";
    bench.check(
        &["base.ko", "older.ko", "next.ko"],
        1,
        stdout.into(),
        str![[r#"
refused: `older` has version 2 of state 7, and `base` has version 3 [state-too-old]
  advice: declare the state with the newer version, and handle what that one changed

"#]]
        .into(),
    );
}

/// Compiles a module of another tool's form.
fn foreign(bench: &Bench, name: &str, tables: &str) {
    let text = format!(
        "char __this_module[64] __attribute__((section(\".gnu.linkonce.this_module\")));\n\
         int klp_enable_patch(void *);\nstatic void *patch;\nstatic int code(void) {{ return 1; }}\n{tables}\n\
         int init_module(void) {{ return klp_enable_patch(patch); }}\nvoid *keep = code;\n\
         static const struct {{ unsigned long crc; char name[56]; }} versions[] __attribute__((section(\"__versions\"), used)) =\n\
         {{ {{ 0x12345678, \"klp_enable_patch\" }} }};\n\
         static const char info[] __attribute__((section(\".modinfo\"), used)) =\n\
         \"livepatch=Y\\0license=GPL\\0name={name}\\0vermagic=7.3.4 SMP mod_unload modversions \";\n"
    );
    bench.write("foreign.c", &text);
    let mut gcc = std::process::Command::new("gcc");
    gcc.current_dir(bench.work.path()).args(["-c", "-O1", "-fno-pie", "-mcmodel=kernel", "-ffreestanding", "-o"]);
    assert!(gcc.args([&format!("{name}.ko"), "foreign.c"]).status().expect("gcc runs").success());
}

/// The tables of kpatch-build's modules, which allocate the livepatch core's own when they are loaded.
const KPATCH: &str = "\
struct func { unsigned long new_addr, new_size, old_addr, old_size, sympos; const char *name, *objname; };
struct callback { void *function; const char *objname; };
struct func funcs[] __attribute__((section(\".kpatch.funcs\"))) = {
    { (unsigned long)code, 6, 0, 6, 0, \"meminfo_proc_show\", \"vmlinux\" },
    { (unsigned long)code, 6, 0, 6, 2, \"type_show\", \"vmlinux\" } };
struct callback callbacks[] __attribute__((section(\".kpatch.callbacks.pre_patch\"))) = { { code, \"vmlinux\" } };
";

/// Modules of kpatch-build say what they replace; of a form that is not known, nothing is claimed.
#[test]
fn tables_that_are_made_at_load() {
    let bench = Bench::new(Has::Sets);
    foreign(&bench, "kpatch_fix", KPATCH);
    let inspect = |file: &str| klp_build().current_dir(bench.work.path()).arg("inspect").arg(file);
    inspect("kpatch_fix.ko").assert().code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
module: kpatch_fix
built for: 7.3.4 SMP mod_unload modversions 
replaces: not known, its tables do not say
object: vmlinux
  function: meminfo_proc_show,0
  function: type_show,2
  callback: pre_patch

"#]]);
    // Pointers at other places are another structure.
    foreign(&bench, "unread", &KPATCH.replace("old_size, sympos;", "old_size;").replace(" 6, 0, 6, ", " 6, 0, "));
    inspect("unread.ko").assert().code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
module: unread
built for: 7.3.4 SMP mod_unload modversions 
replaces: not known, its tables do not say
objects: not known, its tables are of no form that is understood

"#]]);
    let output = inspect("unread.ko").arg("--json").output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["objects_unknown"], &report["states_unknown"]), (&true.into(), &true.into()));
    bench.check(
        &["unread.ko"],
        1,
        str![[r#"
unread.ko: cannot be judged for 7.3.4

"#]]
        .into(),
        str![[r#"
refused: what `unread` replaces cannot be read: its tables are of no form that is understood [objects-unknown]
  advice: ask the tool that built it which functions it replaces: neither they nor what else has them were checked

"#]]
        .into(),
    );
    // What sysfs shows of a loaded one stays, whatever its file says.
    let files = [("enabled", "1\n"), ("replace_set", "1\n"), ("transition", "0\n"), ("stack_order", "1\n")];
    bench.loaded("unread", &files, &["meminfo_proc_show,1"]);
    bench.module(&Module { set: 2, ..Module::default() });
    let conflict = "refused: vmlinux: `fix` of set 2 and `unread` of set 1 both replace `meminfo_proc_show,1` [function-conflict]\n...\n";
    let refused = || Data::from("fix.ko: would be refused by 7.3.4\n");
    bench.check(&["--loaded", "sys", "--loaded", "unread.ko", "fix.ko"], 1, refused(), conflict.into());
    bench.check(
        &["--loaded", "unread.ko", "fix.ko"],
        0,
        str![[r#"
fix.ko: would load on 7.3.4

"#]]
        .into(),
        str![[r#"
warning: what `unread` replaces cannot be read, so `fix` was not held against it [objects-unknown]
  advice: name a copy of /sys/kernel/livepatch with --loaded: the kernel knows what it replaces
warning: which of the other livepatches `fix` replaces cannot be told [replace-unknown]
  advice: [..]

"#]]
        .into(),
    );
}

/// A module that does not say what the member of its structure is may mean either; one that was compressed is read as well.
#[test]
fn inspect_claims_no_more_than_it_knows() {
    use std::io::Write;
    let plain = Bench::new(Has::Boolean);
    plain.module(&Module::default());
    let bytes = fs::read(plain.work.path().join("fix.ko")).expect("readable");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&bytes).expect("packed");
    fs::write(plain.work.path().join("fix.ko.gz"), packer.finish().expect("packed")).expect("writable");
    for file in ["fix.ko", "fix.ko.gz"] {
        klp_build().current_dir(plain.work.path()).args(["inspect", file]).assert().code(0).stdout_eq(str![[r#"
module: fix
built for: 7.3.4 SMP mod_unload modversions 
replaces: all livepatches, or set 1 on a kernel with sets
object: vmlinux
  function: meminfo_proc_show,0

"#]]);
    }
    plain.check(&["fix.ko.gz"], 0, "fix.ko.gz: would load on 7.3.4\n".into(), str![""].into());
}
