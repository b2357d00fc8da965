//! A directory that looks like a built kernel as far as the command line looks, and livepatch modules for it, made with gcc.
//!
//! In: what a test wants to be so. Out: paths. Nothing in it could boot; what it has is what `Kernel::open`, `check` and the stages up to the
//! compilers read: configuration, exports, symbols, the livepatch header, commands of units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The livepatch structures, as much as matters; `@` is what differs between kernels.
const HEADER: &str = "\
struct klp_func { const char *old_name; void *new_func; unsigned long old_sympos; };
struct klp_callbacks { void *pre_patch, *post_patch, *pre_unpatch, *post_unpatch; _Bool enabled; };
struct klp_object { const char *name; struct klp_func *funcs; struct klp_callbacks callbacks; };
struct klp_state_callbacks { void *pre_patch, *post_patch, *pre_unpatch, *post_unpatch, *shadow_dtor; };
struct klp_state { unsigned long id; unsigned int version; void *data; @STATE@ };
struct klp_patch { void *mod; struct klp_object *objs; struct klp_state *states; @REPLACE@; };
";

/// What gives functions a call site for ftrace.
const FENTRY: &str = "-fno-pie -mcmodel=kernel -fcf-protection=none -pg -mfentry -mrecord-mcount";

/// What a kernel's livepatches replace by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// `bool replace`, and states without callbacks.
    Boolean,
    /// `unsigned int replace_set`, and states with them.
    Sets,
}

/// A kernel in a directory of its own.
pub struct SmallKernel {
    dir: TempDir,
    has: Has,
}

impl SmallKernel {
    /// Release 7.3.4, with a few symbols.
    pub fn new(has: Has) -> SmallKernel {
        let kernel = SmallKernel { dir: tempfile::tempdir().expect("a temporary folder"), has };
        let version = Command::new("gcc").arg("--version").env("LC_ALL", "C").output().expect("gcc runs").stdout;
        let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
        let mut config = format!("CONFIG_CC_VERSION_TEXT=\"{version}\"\n");
        for option in
            ["X86_64", "MODULES", "LIVEPATCH", "KALLSYMS_ALL", "DYNAMIC_FTRACE", "SMP", "MODULE_UNLOAD", "MODVERSIONS"]
        {
            config += &format!("CONFIG_{option}=y\n");
        }
        for (file, text) in [
            ("Makefile", "\n"),
            ("Kbuild", "\n"),
            ("Kconfig", "\n"),
            ("scripts/Kbuild.include", "\n"),
            ("include/linux/kernel.h", "\n"),
            ("include/config/kernel.release", "7.3.4\n"),
            ("include/config/auto.conf", &config),
            (".config", &config),
            ("include/linux/livepatch.h", &kernel.header()),
            ("init/.main.o.cmd", "savedcmd_init/main.o := true\n"),
            ("modules.order", "\n"),
            (
                "Module.symvers",
                "0x12345678\tklp_enable_patch\tvmlinux\tEXPORT_SYMBOL_GPL\t\n0x1\t__fentry__\tvmlinux\tEXPORT_SYMBOL\t\n",
            ),
            (
                "System.map",
                "ffffffff81000000 T meminfo_proc_show\nffffffff81000100 t type_show\nffffffff81000200 t type_show\n\
                 ffffffff81000300 T vfs_read\nffffffff81000400 T schedule\nffffffff81000500 T klp_enable_patch\nffffffff81000600 T __fentry__\n",
            ),
        ] {
            kernel.write(file, text);
        }
        kernel
    }

    fn header(&self) -> String {
        let (state, replace) = match self.has {
            Has::Boolean => ("", "_Bool replace"),
            Has::Sets => {
                ("struct klp_state_callbacks callbacks; _Bool is_shadow; _Bool owned;", "unsigned int replace_set")
            }
        };
        HEADER.replace("@STATE@", state).replace("@REPLACE@", replace)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in it.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    /// A unit as kbuild would have compiled it with `compiler`.
    pub fn unit(&self, source: &str, text: &str, compiler: &str) {
        let object = source.replace(".c", ".o");
        let (dir, name) = object.rsplit_once('/').expect("in a folder");
        self.write(source, text);
        let command =
            format!("{compiler} -D__KERNEL__ -DKBUILD_MODNAME='\"x\"' -O2 -nostdinc {FENTRY} -c -o {object} {source}");
        self.write(
            &format!("{dir}/.{name}.cmd"),
            &format!("savedcmd_{object} := {command}\n\nsource_{object} := {source}\n\ndeps_{object} := \\\n\n"),
        );
    }

    /// A livepatch module for it, in `dir`: `what` is the C of functions, states and the members of the patch.
    pub fn module(&self, dir: &Path, module: &Module<'_>) -> PathBuf {
        let mut text = self.header();
        text += "char __this_module[64] __attribute__((section(\".gnu.linkonce.this_module\")));\n\
                 int klp_enable_patch(struct klp_patch *);\nstatic int code(void) { return 1; }\n";
        text += module.code;
        text += "static struct klp_func functions[] = {\n";
        for (name, position) in module.functions {
            text += &format!("{{ .old_name = \"{name}\", .new_func = code, .old_sympos = {position} }},\n");
        }
        text += "{ } };\nstatic struct klp_object objects[] = { { .funcs = functions }, { } };\n";
        let mut members = String::new();
        if !module.states.is_empty() {
            text += &format!("static struct klp_state states[] = {{ {} {{ }} }};\n", module.states);
            members += ".states = states, ";
        }
        members += &match (self.has, module.set) {
            (Has::Sets, set) => format!(".replace_set = {set},"),
            (Has::Boolean, set) => format!(".replace = {},", u32::from(set != 0)),
        };
        text += &format!(
            "static struct klp_patch patch = {{ .mod = __this_module, .objs = objects, {members} }};\n\
             int init_module(void) {{ return klp_enable_patch(&patch); }}\n"
        );
        let mut info = vec![
            "livepatch=Y".to_owned(),
            "license=GPL".to_owned(),
            format!("name={}", module.name),
            format!("vermagic={} SMP mod_unload modversions ", module.release),
        ];
        if self.has == Has::Sets {
            info.push(format!("replace_set={}", module.set));
        }
        text += &format!(
            "static const char info[] __attribute__((section(\".modinfo\"), used)) = \"{}\";\n",
            info.join("\\0")
        );
        text += "static const struct { unsigned long crc; char name[56]; } versions[] __attribute__((section(\"__versions\"), used)) = \
                 { { 0x12345678, \"klp_enable_patch\" }, { 1, \"__fentry__\" }, { 1, \"other\" } };\n";
        let source = dir.join(format!("{}.c", module.name));
        let output = dir.join(format!("{}.ko", module.name));
        fs::write(&source, text).expect("writable");
        let gcc = Command::new("gcc")
            .args(["-c", "-O1", "-fno-pie", "-mcmodel=kernel", "-ffreestanding", "-Wall", "-Wno-unused", "-o"])
            .arg(&output)
            .arg(&source)
            .status();
        assert!(gcc.expect("gcc runs").success(), "{} does not compile", source.display());
        fs::remove_file(source).expect("it is there");
        output
    }
}

/// A livepatch module.
pub struct Module<'a> {
    /// Its name.
    pub name: &'a str,
    /// The kernel that it says it is for.
    pub release: &'a str,
    /// The set, or whether it replaces.
    pub set: u32,
    /// Functions of vmlinux that it replaces, with positions.
    pub functions: &'a [(&'a str, u64)],
    /// Entries of its table of states, in C.
    pub states: &'a str,
    /// More C.
    pub code: &'a str,
}

impl Default for Module<'_> {
    fn default() -> Self {
        Module { name: "fix", release: "7.3.4", set: 1, functions: &[("meminfo_proc_show", 0)], states: "", code: "" }
    }
}
