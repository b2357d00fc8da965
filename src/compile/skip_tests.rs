//! A reader of a header that uses nothing of what changed is settled without a compiler, once its original was seen.

use std::sync::Mutex;

use super::*;
use crate::compile::tests::{Kernel, STYLES, Style, write};
use crate::compile::{Compiled, Options, Outcome, compile_units};

/// What a run came to, and which programs ran for it.
fn run(kernel: &Kernel, edit: (&str, &str, &str)) -> (Vec<Compiled>, Vec<String>) {
    let units: Vec<Unit> = ["fs/one.c", "fs/reader.c"]
        .map(|source| {
            let mut unit = kernel.unit(source);
            unit.deps = vec![source.into(), "include/lib.h".into()];
            if source == "fs/one.c" {
                unit.deps.push("fs/local.h".into());
            }
            unit
        })
        .into();
    let cache = ObjectCache::new(&kernel.work.join("cache"), 1 << 20);
    let log = Mutex::new(Vec::new());
    let progress = |what: &str| log.lock().unwrap().push(what.to_owned());
    let options = Options {
        jobs: 2,
        launcher: Vec::new(),
        cache: Some(&cache),
        debug: false,
        work: &kernel.work,
        progress: &progress,
    };
    let compiled = compile_units(&units, &kernel.tree, &kernel.edited(&[edit]), &options).unwrap();
    (compiled, log.into_inner().unwrap())
}

fn kernel(style: Style) -> Kernel {
    let kernel = Kernel::new(style);
    write(&kernel.tree.objdir.join("include/generated/autoconf.h"), "#define CONFIG_X 1\n");
    write(
        &kernel.tree.source.join("fs/reader.c"),
        "#include <generated/autoconf.h>\n#include <lib.h>\nint reader(void)\n{\n#ifdef USE\n\treturn lib();\n#endif\n\treturn CONFIG_X;\n}\n",
    );
    kernel
}

const EDIT: (&str, &str, &str) = ("include/lib.h", "\treturn LIB;", "\tint more = 3;\n\treturn LIB + more;");

fn looked_at(log: &[String]) -> bool {
    log.iter().any(|step| step.contains("fs/reader.c"))
}

/// The second run does not look at the reader; the user is compiled in both.
#[test]
fn second_run() {
    for style in STYLES {
        let kernel = kernel(style);
        let (compiled, log) = run(&kernel, EDIT);
        assert!(looked_at(&log) && compiled[1].outcome == Outcome::Same, "{style:?}");
        let (compiled, log) = run(&kernel, EDIT);
        assert!(!looked_at(&log) && compiled[1].outcome == Outcome::Same, "{style:?}: {log:?}");
        assert!(matches!(compiled[0].outcome, Outcome::Pair { .. }), "{style:?}");
        // Any other body, too.
        assert!(!looked_at(&run(&kernel, (EDIT.0, EDIT.1, "\treturn 12;")).1), "{style:?}");
    }
}

/// Nothing that was kept is used once anything that decides has changed: a source, a header, the configuration, a
/// directory's files; and none when the patch changes more than a body, or has a macro that could end it.
#[test]
fn anything_else_is_looked_at() {
    let looks = |change: &dyn Fn(&Kernel), edit| {
        let kernel = kernel(Style::Absolute);
        run(&kernel, EDIT);
        assert!(!looked_at(&run(&kernel, EDIT).1));
        change(&kernel);
        looked_at(&run(&kernel, edit).1)
    };
    let append = |path: PathBuf, text: &str| {
        let old = fs::read_to_string(&path).unwrap();
        write(&path, &(old + text));
    };
    assert!(!looks(&|_| (), EDIT));
    assert!(looks(&|k| append(k.tree.source.join("fs/reader.c"), "int z;\n"), EDIT));
    assert!(looks(&|k| append(k.tree.source.join("include/lib.h"), "extern int z;\n"), EDIT));
    assert!(looks(&|k| append(k.tree.objdir.join("include/generated/autoconf.h"), "#define USE 1\n"), EDIT));
    assert!(looks(&|k| write(&k.tree.source.join("include/new.h"), ""), EDIT));
    assert!(looks(&|_| (), (EDIT.0, "#define LIB 1", "#define LIB 2")));
    assert!(looks(&|_| (), (EDIT.0, EDIT.1, "\treturn LIB; } int more; static int no(void) {")));
    let half = |k: &Kernel| {
        append(k.tree.source.join("fs/reader.c"), "#define HALF } int more; static inline int no(void) {\n")
    };
    let kernel = kernel(Style::Absolute);
    half(&kernel);
    let edit = (EDIT.0, EDIT.1, "#line 4\n\treturn LIB;");
    run(&kernel, EDIT);
    assert!(looked_at(&run(&kernel, edit).1), "a directive in the body");
    assert!(
        looked_at(&run(&kernel, (EDIT.0, EDIT.1, "\tif (0)\n\t\tHALF(1);\n\treturn LIB;")).1),
        "a macro that ends it"
    );
}

/// A reader that uses the function is compiled, however often.
#[test]
fn users_are_compiled() {
    let kernel = kernel(Style::Absolute);
    write(&kernel.tree.objdir.join("include/generated/autoconf.h"), "#define USE 1\n#define CONFIG_X 1\n");
    for _ in 0..2 {
        let (compiled, log) = run(&kernel, EDIT);
        assert!(looked_at(&log) && matches!(compiled[1].outcome, Outcome::Pair { .. }));
    }
}
