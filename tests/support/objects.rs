//! Properties of single objects: compared with themselves, shuffled, written and read again.

use std::path::{Path, PathBuf};

use klp_build::diff::{self, Options, Verdict};
use klp_build::elf::object::stb;
use klp_build::elf::{self, Object, Place, SectionId, SymbolId};

/// Why two equal objects are not found equal, if so.
pub fn differs(old: &Object, new: &Object) -> Option<String> {
    let diff = match diff::diff(old, new, Options::default()) {
        Ok(diff) => diff,
        Err(error) => return Some(format!("{error:#}")),
    };
    let mut what: Vec<String> = diff
        .functions
        .iter()
        .filter(|f| f.verdict != Verdict::Same)
        .map(|f| format!("{:?} {} ({})", f.verdict, f.name, f.why.as_ref().map_or("", |w| w.what.as_str())))
        .collect();
    what.extend(diff.refusals.iter().map(ToString::to_string));
    what.extend(diff.data.new_globals.iter().map(|id| format!("new data {}", diff.patched.name(*id))));
    what.truncate(10);
    (!what.is_empty()).then(|| what.join("; "))
}

/// The same object with its sections and its local symbols in reverse order.
pub fn reversed(object: &Object) -> Object {
    let sections = object.sections.len() as u32;
    let section = |id: SectionId| SectionId(sections - 1 - id.0);
    // File symbols stay where they are: the locals after one belong to it.
    let file = elf::object::stt::FILE;
    let mut order: Vec<SymbolId> = Vec::new();
    let mut group: Vec<SymbolId> = Vec::new();
    for id in object.symbol_ids() {
        let symbol = object.symbol(id);
        if symbol.st_type == file || symbol.st_bind != stb::LOCAL {
            order.extend(group.drain(..).rev());
            order.push(id);
        } else {
            group.push(id);
        }
    }
    order.extend(group.drain(..).rev());
    let mut moved = vec![SymbolId(0); order.len()];
    for (new, old) in order.iter().enumerate() {
        moved[old.index()] = SymbolId(new as u32);
    }
    let mut out = object.clone();
    out.symbols = order.iter().map(|id| object.symbol(*id).clone()).collect();
    for symbol in &mut out.symbols {
        symbol.file = symbol.file.map(|f| moved[f.index()]);
        if let Place::Section(id) = symbol.place {
            symbol.place = Place::Section(section(id));
        }
    }
    out.sections.reverse();
    for s in &mut out.sections {
        s.link = s.link.map(section);
        for reloc in &mut s.relocs {
            reloc.symbol = reloc.symbol.map(|id| moved[id.index()]);
        }
    }
    out
}

/// Why an object is not the same after being written and read, if so.
pub fn lost_in_writing(object: &Object) -> Option<String> {
    let written = match elf::write(object) {
        Ok(bytes) => bytes,
        Err(error) => return Some(format!("cannot be written: {error:#}")),
    };
    match elf::read(&written) {
        // The model has no equality of its own; its debug text holds every field.
        Ok(again) if format!("{again:?}") == format!("{object:?}") => None,
        Ok(_) => Some("is not the same after being written and read".to_owned()),
        Err(error) => Some(format!("cannot be read again: {error:#}")),
    }
}

/// All properties over every `.o` of a directory.
pub fn check_directory(dir: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|e| e == "o"))
        .collect();
    files.sort();
    let mut failures = Vec::new();
    let mut seen = 0;
    for path in files {
        let bytes = match std::fs::read(&path) {
            // Other kinds of files with this suffix: boot code of 16 and 32 bits, linked programs.
            Ok(bytes) if bytes.starts_with(b"\x7fELF\x02") && bytes.get(16) == Some(&1) => bytes,
            _ => continue,
        };
        seen += 1;
        match elf::read(&bytes) {
            Ok(object) => {
                if let Some(what) = differs(&object, &object) {
                    failures.push(format!("{}: differs from itself: {what}", path.display()));
                }
                // Large ones are linked from the small ones, which have been looked at.
                if bytes.len() < 4 << 20
                    && let Some(what) = lost_in_writing(&object)
                {
                    failures.push(format!("{}: {what}", path.display()));
                }
            }
            Err(error) => failures.push(format!("{}: {error:#}", path.display())),
        }
    }
    println!("{seen} objects");
    if seen == 0 {
        failures.push(format!("{} holds no objects", dir.display()));
    }
    failures
}
