//! Which units are looked at for another layout: only a whole build decides that.

use std::fs;

use snapbox::cmd::OutputAssert;

use crate::klp_build;
use crate::small_kernel::{Has, SmallKernel};

const HEADER: &str = "include/drv.h";

/// Builds a patch of the first line of a file; all files read the header.
fn build(sources: &[(&str, &str)], file: &str, before: &str, after: &str) -> OutputAssert {
    let kernel = SmallKernel::new(Has::Boolean);
    kernel.write(HEADER, &format!("{before}\n"));
    let mut symbols = fs::read_to_string(kernel.path().join("System.map")).expect("readable");
    for (source, text) in sources {
        kernel.unit(source, &text.replace("@", before), "gcc");
        let commands = format!("fs/.{}.o.cmd", &source[3..source.len() - 2]);
        let text = fs::read_to_string(kernel.path().join(&commands)).expect("readable");
        kernel.write(&commands, &text.replace(":= \\\n", ":= \\\n  include/drv.h \\\n"));
    }
    for (at, name) in ["count", "users", "ext", "get"].iter().enumerate() {
        symbols += &format!("ffffffff810010{at}0 T {name}\n");
    }
    kernel.write("System.map", &symbols);
    let work = tempfile::tempdir().expect("a temporary folder");
    let patch = format!("--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-{before}\n+{after}\n");
    fs::write(work.path().join("fix.patch"), patch).expect("writable");
    let command = klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
    command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "fix.patch"]).assert()
}

fn said(run: &OutputAssert) -> String {
    String::from_utf8_lossy(&run.get_output().stderr).into_owned()
}

/// Two files see the same change of a header, and only one has a type that depends on it: that one must be asked.
#[test]
fn who_depends_on_a_header_is_asked() {
    const START: &str = "#include \"../include/drv.h\"\nextern int ext(long); extern void *get(void);\n";
    for (before, after, depends, value) in [
        ("enum drv { DRV_A, DRV_NUM };", "enum drv { DRV_A, DRV_B, DRV_NUM };", "int regs[DRV_NUM]", "DRV_NUM"),
        ("typedef int word;", "typedef long word;", "word reg", "sizeof(word)"),
    ] {
        let only_uses = format!("{START}int count(void) {{ ext(1); return {value}; }}\n");
        let has_type = format!(
            "{START}struct priv {{ {depends}; int users; }};\n\
             int users(void) {{ struct priv *v = get(); return ext(v->users); }}\n"
        );
        for [one, other] in [[&only_uses, &has_type], [&has_type, &only_uses]] {
            let run = build(&[("fs/a.c", one), ("fs/b.c", other)], HEADER, before, after).code(1);
            assert!(said(&run).contains("the layout of `struct priv` changes"), "{}", said(&run));
        }
    }
}

/// A variable of another type leads to a look at types, even where no word says that it has one.
#[test]
fn a_variable_is_asked_about() {
    let source = "@\nextern int ext(long);\nint count(void) { return ext(v[1][1]); }\nvoid users(int i) { v[i][i] = i; ext(i); }\n";
    let run = build(&[("fs/a.c", source)], "fs/a.c", "static int v[8][4];", "static int v[4][8];").code(1);
    assert!(said(&run).contains("the type of variable `v` changes"), "{}", said(&run));
    let inside = "@\nextern int ext(long);\nint users(void) { return ext(2); }\n";
    let (before, after) = (
        "extern int ext(long); int count(int i) { static int v[8][4]; v[i][i]++; return ext(v[1][1]); }",
        "extern int ext(long); int count(int i) { static int v[4][8]; v[i][i]++; return ext(v[1][1]); }",
    );
    let run = build(&[("fs/a.c", inside)], "fs/a.c", before, after).code(1);
    assert!(said(&run).contains("the type of variable `v` of `count` changes"), "{}", said(&run));
}
