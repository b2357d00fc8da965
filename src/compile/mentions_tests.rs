//! A reader of a header that has no name of the change is settled without running anything; any doubt runs the compiler.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::compile::tests::{Kernel, STYLES, Style, write};
use crate::compile::{Options, Outcome, compile_units};

const READERS: [&str; 6] = ["fs/a.c", "fs/b.c", "fs/c.c", "fs/d.c", "fs/e.c", "fs/user.c"];
const HEADER: &str = "include/big.h";
/// Read after that one.
const AFTER: &str = "include/after.h";

fn kernel(style: Style) -> Kernel {
    let kernel = Kernel::new(style);
    write(&kernel.tree.objdir.join("include/generated/autoconf.h"), "#define CONFIG_X 1\n");
    let header =
        "#define OLD 1\nint old(int);\nstatic inline int both(void)\n{\n\treturn OLD;\n}\n#define PASTE(a, b) a##b\n";
    write(&kernel.tree.source.join(HEADER), header);
    write(&kernel.tree.source.join(AFTER), "\n");
    for source in READERS {
        let body = if source == "fs/user.c" { "both() + old(OLD)" } else { "CONFIG_X" };
        let name = &source[3..4];
        let text = format!(
            "#include <generated/autoconf.h>\n#include <big.h>\n#include <after.h>\nint reader_{name}(void)\n{{\n\treturn {body};\n}}\n"
        );
        write(&kernel.tree.source.join(source), &text);
    }
    for source in READERS {
        write(&kernel.tree.objdir.join(source.replace(".c", ".o")), "");
    }
    kernel
}

/// The files of which both sides were looked at, and those whose code differs.
fn run(kernel: &Kernel, edit: (&str, &str)) -> (BTreeSet<String>, Vec<String>) {
    run_all(kernel, &[(HEADER, edit.0, edit.1)])
}

fn run_all(kernel: &Kernel, edits: &[(&str, &str, &str)]) -> (BTreeSet<String>, Vec<String>) {
    let units: Vec<Unit> = READERS
        .map(|source| {
            let mut unit = kernel.unit(source);
            unit.deps = vec![source.into(), HEADER.into(), AFTER.into()];
            unit
        })
        .into();
    let log = Mutex::new(BTreeSet::new());
    let progress = |what: &str| {
        if what.starts_with("search ") {
            return;
        }
        log.lock().unwrap().insert(what.rsplit(' ').next().unwrap_or_default().to_owned());
    };
    let options =
        Options { jobs: 2, launcher: Vec::new(), cache: None, debug: false, work: &kernel.work, progress: &progress };
    let applied = kernel.edited(edits);
    let compiled = compile_units(&units, &kernel.tree, &applied, &options).unwrap();
    let differ = compiled.iter().filter(|unit| unit.outcome != Outcome::Same);
    let differ = differ.map(|unit| units[unit.unit].source.display().to_string()).collect();
    (log.into_inner().unwrap(), differ)
}

/// Only who has the name is looked at, and it is compiled if its code differs.
#[test]
fn only_users_are_looked_at() {
    let user = || BTreeSet::from(["fs/user.c".to_owned()]);
    for style in STYLES {
        let kernel = kernel(style);
        let (looked, differ) = run(&kernel, ("\treturn OLD;", "\treturn OLD + 1;"));
        assert_eq!((looked, differ), (user(), vec!["fs/user.c".to_owned()]), "{style:?}");
        let (looked, differ) = run(&kernel, ("int old(int);", "int old(int);\nint fresh(void);\n#define FRESH 2"));
        assert!(looked.is_empty() && differ.is_empty(), "{style:?}: {looked:?}");
    }
}

/// Whatever makes it doubtful is looked at: a change that is not about names, a name elsewhere in the header, in another file, on a
/// command line, or pasted together; and a file that is younger than the object.
#[test]
fn doubts() {
    let looks = |change: &dyn Fn(&Kernel), edit| {
        let kernel = kernel(Style::Absolute);
        change(&kernel);
        run(&kernel, edit).0.len() == READERS.len()
    };
    let rewrite = |kernel: &Kernel, path: &Path, text: &str| {
        write(path, &(fs::read_to_string(path).unwrap() + text));
        // As if all had been built since.
        for source in READERS {
            let object = fs::File::create(kernel.tree.objdir.join(source.replace(".c", ".o"))).unwrap();
            object.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        }
    };
    let add = ("int old(int);", "int old(int);\n#define FRESH 2");
    assert!(!looks(&|_| (), add));
    assert!(!looks(&|_| (), ("int old(int);", "int old(int);\nextern int fresh;")));
    assert!(looks(&|_| (), ("int old(int);", "int old(int);\nint fresh;")));
    // The macro is used by a function of the header.
    assert!(looks(&|_| (), ("#define OLD 1", "#define OLD 2")));
    let config = |kernel: &Kernel| kernel.tree.objdir.join("include/generated/autoconf.h");
    assert!(looks(&|k| rewrite(k, &config(k), "#ifdef FRESH\n#endif\n"), add));
    assert!(!looks(&|k| rewrite(k, &config(k), "/* FRESH */\n"), add));
    let after = |kernel: &Kernel| kernel.tree.source.join(AFTER);
    let change = ("int old(int);", "int old(long);");
    assert!(!looks(&|_| (), change));
    assert!(looks(&|k| rewrite(k, &after(k), "#if PASTE(ol, d)\n#endif\n"), change));
    // Nothing uses it.
    assert!(!looks(&|k| rewrite(k, &after(k), "#define USE PASTE(ol, d)\n"), change));
    let more = "#define MARK int more(void);\n";
    assert!(looks(&|k| rewrite(k, &config(k), more), ("int old(int);", "int old(int);\nMARK extern int fresh(void);")));
    // What looks like the variable's name is a macro.
    let unused = "#define UNUSED __attribute__((unused))\n";
    assert!(looks(&|k| rewrite(k, &config(k), unused), ("int old(int);", "int old(int);\nextern int fresh UNUSED;")));
    // A macro that comes with the declaration that it is in.
    let with = |macro_: &'static str, declaration: &'static str| {
        let text: &'static str = Box::leak(format!("int old(int);\n#define {macro_}\n{declaration}").into_boxed_str());
        ("int old(int);", text)
    };
    assert!(looks(&|_| (), with("FRESH __attribute__((weak))", "extern int x FRESH;")));
    assert!(looks(&|_| (), with("FRESH(n) n __attribute__((weak))", "extern int FRESH(x);")));
    assert!(looks(&|_| (), with("FRESH int a; int", "extern FRESH b;")));
    // A name that came or went, and is pasted together elsewhere: there it may be something else.
    let pasted = "#if PASTE(fre, sh)\n#endif\n#define COLD __attribute__((cold))\n";
    assert!(looks(&|k| rewrite(k, &after(k), pasted), ("int old(int);", "int old(int);\nint COLD fresh(int);")));
    assert!(looks(&|k| rewrite(k, &after(k), pasted), ("int old(int);", "int old(int);\nextern int fresh;")));
    let came = |text: &'static str| ("int old(int);", text);
    for text in ["int old(int);\nint fresh(int);", "int old(int);\n#define fresh(x) ((x) & 15)"] {
        assert!(looks(&|k| rewrite(k, &after(k), pasted), came(text)), "{text}");
        assert!(!looks(&|k| rewrite(k, &after(k), "#if PASTE(fre, lo)\n#endif\n"), came(text)), "{text}");
    }
    let went = "#if PASTE(ol, d)\n#endif\n";
    assert!(looks(&|k| rewrite(k, &after(k), went), ("int old(int);", "int another(int);")));
    // As the kernel asks for options (include/linux/kconfig.h): the name is in no output of a preprocessor, whether it is there or not.
    let asks = "#define SECOND(a, b, ...) b\n#define ASK(x) SECOND(x 1, 0)\n#define IS(x) ASK(PASTE(MARK_, x))\n";
    let asks = format!("{asks}#if IS(FRESH)\n#endif\n");
    for (mark, is_made) in [("#define MARK_FRESH 0,", true), ("#define MARK_OTHER 0,", false)] {
        let text: &'static str = Box::leak(format!("int old(int);\n{mark}").into_boxed_str());
        assert_eq!(looks(&|k| rewrite(k, &after(k), &asks), came(text)), is_made, "{mark}");
    }
    // Pasted of what the compiler defines; and a macro whose name is in two lines, or begins with a digraph.
    let add = ("int old(int);", "int old(int);\n#define op_8 1");
    for (text, is_made) in [
        ("#define USE OP(__SIZEOF_LONG__)\n", true),
        ("#define USE OP(__SIZEOF_SHORT__)\n", false),
        ("#define USE O\\\nP(8)\n", true),
        ("#define USE op\\\n_8\n", true),
        ("%:define USE op_%:%:8\n", true),
        ("#define /* of\nthem */ USE OP(8)\n", true),
        // What another macro is handed first is called by what stands behind it.
        (
            "#define DO(x) DO_##x\n#define DO_JOIN(a, b) a##b\n#define ALSO(x, y) DO(x(y, _8))\n#define USE ALSO(JOIN, op)\n",
            true,
        ),
        ("#define USE 0\n#define NOT OP(8)\n", false),
    ] {
        let text = format!("#define OP_(n) op_##n\n#define OP(n) OP_(n)\n{text}#if USE\n#endif\n");
        assert_eq!(looks(&|k| rewrite(k, &after(k), &text), add), is_made, "{text}");
    }
    assert!(looks(
        &|k| rewrite(k, &config(k), "#define extern\n"),
        ("int old(int);", "int old(int);\nextern int fresh;")
    ));
    let touch = |kernel: &Kernel| {
        let header = fs::File::options().append(true).open(kernel.tree.source.join(HEADER)).unwrap();
        header.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    };
    assert!(looks(&touch, add));
    // A configuration that was written again, and one in which an option changed.
    let configure = |options: &'static [&str]| {
        move |kernel: &Kernel| {
            let later = SystemTime::now() + Duration::from_secs(60);
            let folder = kernel.tree.objdir.join("include/config");
            write(&folder.join("X"), "");
            for path in options.iter().map(|name| folder.join(name)).chain([config(kernel)]) {
                let file = fs::File::options().append(true).create(true).open(path).unwrap();
                file.set_modified(later).unwrap();
            }
            for source in READERS {
                let object = fs::File::open(kernel.tree.objdir.join(source.replace(".c", ".o"))).unwrap();
                object.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
            }
        }
    };
    assert!(!looks(&configure(&["auto.conf", "kernel.release"]), add));
    assert!(looks(&configure(&["X"]), add));
}

/// A patch that also creates a header: who asks whether it is there is looked at, and what it makes of the answer counts.
#[test]
fn asks_for_a_header() {
    let came = ("include/came.h", "", "int came(void);");
    let change = (HEADER, "int old(int);", "int old(int);\n#define FRESH 2");
    let comment = (HEADER, "int old(int);", "int old(int); /* of yore */");
    for (style, change) in STYLES.into_iter().flat_map(|style| [(style, change), (style, comment)]) {
        for (text, expected) in [("#if __has_include(<came.h>)\nint asked;\n#endif\n", READERS.len()), ("\n", 0)] {
            let kernel = kernel(style);
            write(&kernel.tree.source.join(AFTER), text);
            for source in READERS {
                write(&kernel.tree.objdir.join(source.replace(".c", ".o")), "");
            }
            let (looked, differ) = run_all(&kernel, &[change, came]);
            assert_eq!((looked.len(), differ.len()), (expected, expected), "{style:?}: {text}");
        }
    }
}
