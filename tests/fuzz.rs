//! The fuzz targets without their engine: they build, and what the engine starts from gets to the end of them.
//!
//! Protects the long runs of `cargo xtask fuzz`: a target that no longer builds, or that gives up on all of its seeds, finds nothing.

#[path = "support/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "support/objects.rs"]
#[allow(dead_code)]
mod objects;
#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

use fixture::Fixture;

/// The files of a folder.
fn files(dir: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).expect("the folder is there");
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).expect("it can be read"))).collect()
}

/// Every seed of a parser is read as what it is.
#[test]
fn seeds_of_parsers() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("seeds are text");
    for (name, bytes) in files("fuzz/seeds/cmd") {
        assert!(targets::cmd(&text(&bytes)), "{name}");
    }
    for (name, bytes) in files("fuzz/seeds/symvers") {
        assert!(targets::symvers(&text(&bytes)), "{name}");
    }
    for (name, bytes) in files("fuzz/seeds/kallsyms") {
        assert!(targets::kallsyms(&bytes), "{name}");
    }
    for (name, bytes) in files("tests/patches").into_iter().filter(|(name, _)| name.ends_with(".patch")) {
        assert!(targets::patch(&bytes), "{name}");
    }
}

/// A fixture's objects survive being written, and their difference becomes a patch object that does.
#[test]
fn seeds_of_objects() {
    let fixture = Fixture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/static-call"));
    let work = tempfile::tempdir().expect("a temporary folder");
    let (before, after) = fixture.compile(work.path(), &[]).expect("it compiles").expect("gcc is installed");
    let [before, after] = [before, after].map(|path| std::fs::read(path).expect("it was compiled"));
    assert!(targets::elf(&before) && targets::elf(&after));
    let input = [&(before.len() as u32).to_le_bytes()[..], &before, &after].concat();
    let (original, patched) = targets::pair(&input).expect("both can be read");
    assert!(targets::emit(&original, &patched));
    assert!(targets::pair(&input[..input.len() / 2]).is_none());
}
