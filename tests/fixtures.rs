//! Fixtures: pairs of C files -> the real compiler -> `klp-build diff` -> what the directives in them say.
//!
//! Every folder of `tests/fixtures/` with a `before.c` is one; `tests/fixtures/README/` documents the directives
//! and passes itself. `KLP_FIXTURE=NAME` runs those whose name contains NAME. All failures are shown together.

#[path = "support/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "support/objects.rs"]
mod objects;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixture::{Fixture, Outcome};

fn all() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let wanted = std::env::var("KLP_FIXTURE").unwrap_or_default();
    let mut found: Vec<Fixture> = std::fs::read_dir(root)
        .expect("tests/fixtures is there")
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.join("before.c").is_file())
        .map(|path| Fixture::read(&path))
        .filter(|fixture| fixture.name.contains(&wanted))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Runs a check over all fixtures with a few threads, and fails with every failure.
fn each(check: impl Fn(&Fixture) -> Outcome + Sync) {
    let fixtures = all();
    assert!(!fixtures.is_empty(), "no fixture matches KLP_FIXTURE");
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(fixture) = fixtures.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match check(fixture) {
                        Outcome::Passed => {}
                        Outcome::Skipped(why) => println!("skipped {}: {why}", fixture.name),
                        Outcome::Failed(what) => {
                            failures.lock().expect("no panic while held").push(format!("{}: {what}", fixture.name));
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic while held");
    failures.sort();
    assert!(failures.is_empty(), "{} of {} fixtures failed:\n{}", failures.len(), fixtures.len(), failures.join("\n"));
}

/// The verdict, the refusals and the patch object of every pair are what the pair says they must be.
#[test]
fn fixtures() {
    each(Fixture::check);
}

/// An object compared with itself has not changed, whatever is in it.
#[test]
fn nothing_changes_against_itself() {
    each(Fixture::check_self);
}

/// The order of sections and local symbols, and of what shares a section, says nothing about code.
#[test]
fn order_does_not_matter() {
    each(Fixture::check_order);
}

/// What is read, written and read again is the same: nothing is lost between bytes and model.
#[test]
fn objects_survive_a_round_trip() {
    each(Fixture::check_round_trip);
}

/// No changed byte and no changed reference of a fixture goes unseen.
#[test]
fn mutations_are_seen() {
    each(Fixture::check_mutations);
}

/// The same over a directory of real objects, for `cargo xtask test --long`: KLP_OBJECTS names the directory.
#[test]
fn real_objects() {
    let Some(dir) = std::env::var_os("KLP_OBJECTS") else {
        println!("skipped: KLP_OBJECTS names no directory of objects");
        return;
    };
    let failures = objects::check_directory(Path::new(&dir));
    assert!(failures.is_empty(), "{} objects failed:\n{}", failures.len(), failures.join("\n"));
}
