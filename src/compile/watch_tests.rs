//! A tree that somebody edits while it is read: the run is an error, and nothing of it is kept.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::compile::tests::{Kernel, STYLES, Style, write};
use crate::compile::{Compiled, ObjectCache, Options, Outcome, compile_units};

const EDIT: (&str, &str, &str) = ("fs/one.c", "\treturn lib() + LOCAL;", "\treturn lib() + LOCAL + 1;");

/// Compiles `fs/one.c`, with something done once when a step of this name begins; and how much is in the cache then.
fn run(
    kernel: &Kernel,
    deps: &[&str],
    edit: (&str, &str, &str),
    step: &str,
    done: &(dyn Fn() + Sync),
) -> (anyhow::Result<Vec<Compiled>>, usize) {
    let mut unit = kernel.unit("fs/one.c");
    unit.deps = deps.iter().map(|dep| (*dep).into()).collect();
    let cache = ObjectCache::new(&kernel.work.join("cache"), 1 << 20);
    let open = Mutex::new(true);
    let progress = |what: &str| {
        let mut open = open.lock().unwrap();
        if what.starts_with(step) && std::mem::take(&mut *open) {
            done();
        }
    };
    let options = Options {
        jobs: 2,
        launcher: Vec::new(),
        cache: Some(&cache),
        debug: false,
        work: &kernel.work,
        progress: &progress,
    };
    let compiled = compile_units(&[unit], &kernel.tree, &kernel.edited(&[edit]), &options);
    (compiled, cache.usage().entries)
}

fn append(path: &Path, text: &str) {
    write(path, &(fs::read_to_string(path).unwrap() + text));
}

/// Between the preprocessor and the compiler: the source, a header that the records have, one that they do not have; in place, or by
/// another file of its name.
#[test]
fn edited_before_the_compile() {
    let recorded = ["fs/one.c", "include/lib.h", "fs/local.h"];
    for style in STYLES {
        for (path, deps) in
            [("fs/one.c", &recorded[..]), ("include/lib.h", &recorded), ("include/lib.h", &recorded[..1])]
        {
            for in_place in [true, false] {
                let kernel = Kernel::new(style);
                let file = kernel.tree.source.join(path);
                let edit = || {
                    let other = kernel.work.join("other");
                    fs::copy(&file, &other).unwrap();
                    append(&other, "int other;\n");
                    match in_place {
                        true => fs::copy(&other, &file).map(drop).unwrap(),
                        false => fs::rename(&other, &file).unwrap(),
                    }
                };
                let (compiled, kept) = run(&kernel, deps, EDIT, "compile", &edit);
                let error = format!("{:#}", compiled.expect_err(path));
                assert!(error.contains(path) && error.contains("run again"), "{style:?}: {error}");
                assert_eq!(kept, 0, "{style:?}: {path}");
                let (compiled, kept) = run(&kernel, deps, EDIT, "compile", &|| ());
                assert!(!compiled.unwrap()[0].cached && kept == 1, "{style:?}: {path}");
            }
        }
    }
}

/// Before the unit is preprocessed: what was learned would be kept for what a header held before; and with the very change of the patch,
/// when both sides are the same.
#[test]
fn edited_before_that() {
    let kernel = Kernel::new(Style::Absolute);
    let deps = ["fs/one.c", "include/lib.h", "fs/local.h"];
    write(&kernel.tree.objdir.join("include/generated/autoconf.h"), "");
    let body = ("include/lib.h", "\treturn LIB;", "\treturn LIB + 1;");
    let edit =
        || append(&kernel.tree.source.join("include/lib.h"), "static inline int more(void)\n{\n\treturn 1;\n}\n");
    let (compiled, kept) = run(&kernel, &deps, body, "preprocess", &edit);
    assert!(format!("{:#}", compiled.unwrap_err()).contains("run again") && kept == 0);

    let kernel = Kernel::new(Style::Absolute);
    let source = kernel.tree.source.join("fs/one.c");
    let edit = || write(&source, &fs::read_to_string(&source).unwrap().replace(EDIT.1, EDIT.2));
    let (compiled, kept) = run(&kernel, &deps, EDIT, "preprocess", &edit);
    assert!(format!("{:#}", compiled.unwrap_err()).contains("run again") && kept == 0);
}

/// A file that is dated in the future, and one that nobody reads, change nothing.
#[test]
fn no_change() {
    let kernel = Kernel::new(Style::InTree);
    let deps = ["fs/one.c", "include/lib.h", "include/gone.h"];
    for path in ["fs/one.c", "include/lib.h", "fs/local.h"] {
        let file = fs::File::options().append(true).open(kernel.tree.source.join(path)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    }
    let other = kernel.tree.source.join("fs/sub/two.c");
    let (compiled, kept) = run(&kernel, &deps, EDIT, "compile", &|| append(&other, "int other;\n"));
    assert!(matches!(compiled.unwrap()[0].outcome, Outcome::Pair { .. }) && kept == 1);
}
