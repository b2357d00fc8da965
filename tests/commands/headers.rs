//! Which units a patch of headers and other files reaches, and what they are compiled with: whole runs over a small kernel whose units
//! read headers as a kernel's do.

use std::fs;
use std::os::unix::fs::symlink;

use crate::klp_build;
use crate::small_kernel::{Has, SmallKernel};

const INCLUDE: &str = "-I./arch/x86/include -I./arch/x86/include/generated -I./include -I./include/uapi";

/// A kernel whose units are the `.c` files, each with what it reads.
fn kernel(files: &[(&str, &str, &[&str])]) -> SmallKernel {
    let kernel = SmallKernel::new(Has::Boolean);
    let mut symbols = fs::read_to_string(kernel.path().join("System.map")).expect("readable");
    for (at, (file, text, reads)) in files.iter().enumerate() {
        if !file.ends_with(".c") {
            kernel.write(file, text);
            continue;
        }
        kernel.unit(file, text, &format!("gcc {INCLUDE}"));
        let (dir, name) = file.rsplit_once('/').expect("in a folder");
        let command = format!("{dir}/.{}.cmd", name.replace(".c", ".o"));
        let saved = fs::read_to_string(kernel.path().join(&command)).expect("readable");
        let reads: String = reads.iter().map(|dep| format!("  {dep} \\\n")).collect();
        kernel.write(&command, &saved.replace(":= \\\n", &format!(":= \\\n{reads}")));
        kernel.write(&file.replace(".c", ".o"), "");
        symbols += &format!("ffffffff81{at:02x}8000 T {}\n", name.replace(".c", ""));
    }
    kernel.write("System.map", &(symbols + "ffffffff81fff000 T ext\n"));
    kernel
}

/// A source whose only function has the file's name.
fn source(name: &str, include: &str, value: &str) -> String {
    format!("{include}\nextern int ext(int);\nint {name}(int x) {{ return ext(x + {value}); }}\n")
}

/// A diff of whole files; one without an old text is new.
fn diff(file: &str, old: &str, new: &str) -> String {
    let lines = |sign: &str, text: &str| text.lines().map(|line| format!("{sign}{line}\n")).collect::<String>();
    let (from, to) = (old.lines().count(), new.lines().count());
    let (name, start) = if old.is_empty() { ("/dev/null".to_owned(), 0) } else { (format!("a/{file}"), 1) };
    format!("--- {name}\n+++ b/{file}\n@@ -{start},{from} +1,{to} @@\n{}{}", lines("-", old), lines("+", new))
}

/// Runs a patch: exit status, changed functions, standard error.
fn run(kernel: &SmallKernel, patch: &str) -> (i32, Vec<String>, String) {
    let work = tempfile::tempdir().expect("a temporary folder");
    fs::write(work.path().join("fix.patch"), patch).expect("writable");
    let command = klp_build().current_dir(work.path()).env("XDG_CACHE_HOME", work.path()).env("TMPDIR", work.path());
    let command = command.arg("-k").arg(kernel.path()).args(["--no-link", "--no-verify", "--verbose", "fix.patch"]);
    let output = command.output().expect("it runs");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let changed = stdout.lines().filter_map(|l| l.split_once("changed function: ")).map(|(_, f)| f.to_owned());
    let mut changed: Vec<String> = changed.collect();
    changed.sort_unstable();
    (output.status.code().unwrap_or(-1), changed, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs a patch that is to change exactly these functions.
fn changes(kernel: &SmallKernel, patch: &str, functions: &[&str]) -> String {
    let (status, changed, said) = run(kernel, patch);
    assert_eq!(changed, functions, "{patch}{said}");
    assert_eq!(status, if functions.is_empty() { 4 } else { 0 }, "{patch}{said}");
    said
}

/// A new header that is found before one that units read reaches them, though no list of the build has it; one of the same name that
/// they do not find reaches nobody.
#[test]
fn a_new_header_takes_the_place_of_another() {
    const LIMIT: &str = "#define LIMIT 10\n";
    let foo = |name| source(name, "#include <linux/foo.h>", "LIMIT");
    let texts = ["a", "b"].map(foo);
    let own = source("c", "#include \"foo.h\"", "LIMIT");
    let wrapped = source("d", "#include <asm/wrap.h>", "LIMIT");
    let read: &[&str] = &["include/uapi/linux/foo.h"];
    let kernel = kernel(&[
        ("include/uapi/linux/foo.h", LIMIT, &[]),
        ("include/foo.h", LIMIT, &[]),
        ("include/asm-generic/wrap.h", LIMIT, &[]),
        ("arch/x86/include/generated/asm/wrap.h", "#include <asm-generic/wrap.h>\n", &[]),
        ("fs/a.c", &texts[0], read),
        ("fs/b.c", &texts[1], read),
        ("fs/c.c", &own, &["include/foo.h"]),
        ("fs/d.c", &wrapped, &["./arch/x86/include/generated/asm/wrap.h", "./include/asm-generic/wrap.h"]),
    ]);
    let new = "#include <uapi/linux/foo.h>\n#undef LIMIT\n#define LIMIT 5\n";
    let edit = diff("fs/b.c", &texts[1], &texts[1].replace("x +", "x + 1 +"));
    let before = diff("include/linux/foo.h", "", new);
    changes(&kernel, &before, &["a", "b"]);
    changes(&kernel, &(edit.clone() + &before), &["a", "b"]);
    changes(&kernel, &diff("fs/foo.h", "", "#define LIMIT 5\n"), &["c"]);
    changes(&kernel, &diff("arch/x86/include/asm/wrap.h", "", "#define LIMIT 5\n"), &["d"]);
    changes(&kernel, &(edit.clone() + &diff("include/linux/foo.h", "", LIMIT)), &["b"]);
    for elsewhere in ["include/net/foo.h", "mm/foo.h", "include/linux/wrap.h", "include/linux/other.h"] {
        let said = changes(&kernel, &(edit.clone() + &diff(elsewhere, "", "#define LIMIT 5\n")), &["b"]);
        assert!(!said.contains("fs/a.c"), "{said}");
    }
}

/// The same where all that is known of the other changes says that the unit cannot see them.
#[test]
fn a_new_header_beside_a_change_of_names() {
    let texts: Vec<String> =
        ["a", "b", "c", "d", "e"].map(|name| source(name, "#include <big.h>\n#include <linux/foo.h>", "LIMIT")).into();
    let read: &[&str] = &["include/big.h", "include/uapi/linux/foo.h"];
    let names: Vec<String> = ["a", "b", "c", "d", "e"].map(|name| format!("fs/{name}.c")).into();
    let mut files: Vec<(&str, &str, &[&str])> = vec![
        ("include/generated/autoconf.h", "#define CONFIG_X 1\n", &[]),
        ("include/uapi/linux/foo.h", "#define LIMIT 10\n", &[]),
        ("include/big.h", "#define BIG 1\n", &[]),
    ];
    files.extend(names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str(), read)));
    let kernel = kernel(&files);
    let big = diff("include/big.h", "#define BIG 1\n", "#define BIG 1\n#define BIGGER 2\n");
    changes(&kernel, &big, &[]);
    let new = diff("include/linux/foo.h", "", "#define LIMIT 5\n");
    changes(&kernel, &(big + &new), &["a", "b", "c", "d", "e"]);
}

/// A name that comes or goes, and that its readers never write but paste together, changes those who do.
#[test]
fn names_that_are_pasted_together() {
    let pasted = |name| {
        format!(
            "#include <big.h>\n#define OP(n) op_##n\nextern int OP(user)(int);\nint {name}(int x) {{ return OP(user)(x); }}\n"
        )
    };
    let names = ["a", "b", "c", "d", "e", "f"];
    let plain = |name| source(name, "#include <big.h>", "1");
    let texts: Vec<String> = names.map(|name| if name < "c" { pasted(name) } else { plain(name) }).into();
    let paths = names.map(|name| format!("fs/{name}.c"));
    let with = "#define BIG 1\n#define op_user ext\n";
    for (old, new) in [("#define BIG 1\n", with), (with, "#define BIG 1\n")] {
        let mut files: Vec<(&str, &str, &[&str])> =
            vec![("include/generated/autoconf.h", "#define CONFIG_X 1\n", &[]), ("include/big.h", old, &[])];
        files.extend(
            paths.iter().zip(&texts).map(|(path, text)| (path.as_str(), text.as_str(), &["include/big.h"][..])),
        );
        let kernel = kernel(&files);
        let symbols = fs::read_to_string(kernel.path().join("System.map")).expect("readable");
        kernel.write("System.map", &(symbols + "ffffffff81fff100 T op_user\n"));
        changes(&kernel, &diff("include/big.h", old, new), &["a", "b"]);
    }
}

/// What a compile finds by a way through another directory is in the patched tree as well.
#[test]
fn a_new_header_behind_another_directory() {
    let text = source("a", "#include \"sub/one.h\"", "LIMIT");
    let kernel = kernel(&[
        ("fs/sub/one.h", "#include \"../x/two.h\"\n", &[]),
        ("include/uapi/x/two.h", "#define LIMIT 10\n", &[]),
        ("fs/a.c", &text, &["fs/sub/one.h", "include/uapi/asm/../x/two.h"]),
    ]);
    kernel.write("include/uapi/asm/one.h", "");
    let command = fs::read_to_string(kernel.path().join("fs/.a.o.cmd")).expect("readable");
    kernel.write("fs/.a.o.cmd", &command.replace("-I./include/uapi", "-I./include/uapi/asm"));
    changes(&kernel, &diff("fs/x/two.h", "", "#define LIMIT 5\n"), &["a"]);
}

/// A header that is read through a link is the header.
#[test]
fn a_header_behind_a_link() {
    let a = source("a", "#include <dt/alias.h>", "LIMIT");
    let b = source("b", "#include <linux/codes.h>", "LIMIT");
    let kernel = kernel(&[
        ("include/uapi/linux/codes.h", "#define LIMIT 10\n", &[]),
        ("fs/a.c", &a, &["include/dt/alias.h"]),
        ("fs/b.c", &b, &["include/uapi/linux/codes.h"]),
    ]);
    kernel.write("include/dt/other.h", "");
    symlink("../uapi/linux/codes.h", kernel.path().join("include/dt/alias.h")).expect("writable");
    changes(&kernel, &diff("include/uapi/linux/codes.h", "#define LIMIT 10\n", "#define LIMIT 5\n"), &["a", "b"]);
}

/// A header that a program made, which was compiled from the touched one, is pointed at.
#[test]
fn a_header_made_by_a_program() {
    let text = source("a", "#include \"poly.h\"", "POLY");
    let kernel = kernel(&[
        ("include/poly.h", "#define POLY 17\n", &[]),
        ("lib/a.c", &text, &["include/poly.h", "lib/tab.h"]),
        ("lib/tab.h", "#define TABLE 17\n", &[]),
        ("lib/.tab.h.cmd", "savedcmd_lib/tab.h := lib/gen_tab > lib/tab.h\n", &[]),
        (
            "lib/.gen_tab.cmd",
            "savedcmd_lib/gen_tab := gcc -o lib/gen_tab lib/gen_tab.c\n\nsource_lib/gen_tab := lib/gen_tab.c\n\n\
             deps_lib/gen_tab := \\\n  include/poly.h \\\n\n",
            &[],
        ),
    ]);
    let said = changes(&kernel, &diff("include/poly.h", "#define POLY 17\n", "#define POLY 18\n"), &["a"]);
    assert!(said.contains("`lib/tab.h` is generated from `include/poly.h`, which the patch changes"), "{said}");
}

/// A header may be renamed beside real changes; alone that is nothing to patch. The header for declarations may be the patch's own.
#[test]
fn headers_of_the_patch() {
    let text = source("a", "#include <old.h>", "LIMIT");
    let kernel = kernel(&[("include/old.h", "#define LIMIT 10\n", &[]), ("fs/a.c", &text, &["include/old.h"])]);
    let rename = "diff --git a/include/old.h b/include/new.h\nsimilarity index 100%\nrename from include/old.h\n\
                  rename to include/new.h\n";
    let user = diff("fs/a.c", &text, &text.replace("old.h", "new.h").replace("x +", "x + 1 +"));
    changes(&kernel, &format!("{user}{rename}"), &["a"]);
    let only = diff("fs/a.c", &text, &text.replace("old.h", "new.h"));
    changes(&kernel, &format!("{rename}diff --git a/fs/a.c b/fs/a.c\n{only}"), &[]);
    let (status, _, said) = run(&kernel, rename);
    assert!(status == 2 && said.contains("renames `include/old.h` without changing it"), "{said}");
    let user = diff("fs/a.c", &text, &format!("#include <linux/klp_build.h>\n{}", text.replace("LIMIT", "MINE")));
    changes(&kernel, &(user + &diff("include/linux/klp_build.h", "", "#define MINE 5\n")), &["a"]);
}

/// A text that code may be generated from is no documentation.
#[test]
fn texts() {
    let text = source("a", "", "1");
    let kernel = kernel(&[("fs/a.c", &text, &[]), ("arch/x86/lib/map.txt", "one\n", &[])]);
    let edit = diff("fs/a.c", &text, &text.replace("x + 1", "x + 2"));
    let (status, _, said) = run(&kernel, &(edit.clone() + &diff("arch/x86/lib/map.txt", "one\n", "two\n")));
    assert!(status == 1 && said.contains("`arch/x86/lib/map.txt` is not C code"), "{said}");
    let said = changes(&kernel, &(edit + &diff("Documentation/x.txt", "", "two\n")), &["a"]);
    assert!(said.contains("`Documentation/x.txt` is left out"), "{said}");
}
