//! Properties of single objects: compared with themselves, shuffled, written and read again.

use std::path::{Path, PathBuf};

use klp_build::diff::{self, Options, Verdict, special};
use klp_build::elf::object::{shf, sht, stb, stt};
use klp_build::elf::{self, Object, Place, Reloc, SectionId, SymbolId};

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
    let mut order: Vec<SymbolId> = Vec::new();
    let mut group: Vec<SymbolId> = Vec::new();
    for id in object.symbol_ids() {
        let symbol = object.symbol(id);
        if symbol.st_type == stt::FILE || symbol.st_bind != stb::LOCAL {
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
    // Groups are known of and not kept: `diff` refuses where it matters.
    if object.has_groups {
        return None;
    }
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

/// A small generator of numbers (xorshift64), so that a failure can be had again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Changes one byte or one reference after the other, wherever the kernel would see it, and collects what the
/// comparison did not see: a silent miss each.
pub fn unseen_mutations(object: &Object, tries: usize, seed: u64) -> Vec<String> {
    let kept = |id: &SectionId| {
        let section = object.section(*id);
        // Sections whose contents are names, notes, or made anew by the module build.
        let ignored = matches!(
            special::rule(&section.name),
            Some(special::Rule::Dropped(_) | special::Rule::Callbacks | special::Rule::States)
        );
        section.sh_flags & shf::ALLOC != 0 && !ignored && section.name != ".modinfo" && section.sh_type != sht::NOTE
    };
    let sections: Vec<SectionId> = object.section_ids().filter(kept).collect();
    let total: u64 = sections.iter().map(|id| object.section(*id).data.len() as u64).sum();
    let mut numbers = Numbers(seed | 1);
    let mut unseen = Vec::new();
    for _ in 0..tries {
        let mut at = numbers.below(total);
        let Some(id) = sections.iter().find(|id| {
            let len = object.section(**id).data.len() as u64;
            let found = at < len;
            if !found {
                at -= len;
            }
            found
        }) else {
            continue;
        };
        let mut mutant = object.clone();
        let section = &mut mutant.sections[id.index()];
        let field = |r: &Reloc| u64::from(diff::arch::of(object).and_then(|a| a.field_size(r.r_type)).unwrap_or(0));
        let fields = section.relocs.iter().position(|r| (r.r_offset..r.r_offset + field(r)).contains(&at));
        // The line of an allocation: no code depends on it.
        if section.name == "alloc_tags" && fields.is_none() {
            continue;
        }
        // The address of a replacement without bytes means nothing.
        if section.name == ".altinstructions" && at % 14 >= 4 && at % 14 < 8 {
            continue;
        }
        let what = match fields {
            Some(i) => {
                section.relocs[i].r_addend ^= 8;
                format!("addend of the reference at {:#x}", section.relocs[i].r_offset)
            }
            None => {
                section.data[at as usize] ^= 1 << numbers.below(8);
                format!("byte at {at:#x}")
            }
        };
        if differs(object, &mutant).is_none() && !is_padding(object, *id, at) {
            unseen.push(format!("{what} of `{}`", object.section(*id).name));
        }
    }
    unseen
}

/// Whether a byte is in no symbol's range, or in a text that nothing refers to: nobody reads it.
fn is_padding(object: &Object, id: SectionId, at: u64) -> bool {
    let section = object.section(id);
    if section.sh_flags & shf::STRINGS != 0 {
        // A NUL after a NUL fills up to the next text.
        return section.data[at as usize] == 0 && (at == 0 || section.data[at as usize - 1] == 0);
    }
    let in_section = object.symbols.iter().filter(|s| s.place == Place::Section(id) && s.st_type != stt::SECTION);
    let covered = in_section.clone().any(|s| (s.st_value..s.st_value + s.st_size.max(1)).contains(&at));
    if covered {
        return false;
    }
    let named = in_section.clone().any(|s| s.st_size > 0);
    let zeros = section.data[at as usize] == 0 || matches!(section.data[at as usize], 0x90 | 0xcc);
    named && (zeros || section.sh_flags & shf::EXECINSTR != 0)
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
                if bytes.len() < 4 << 20 {
                    let unseen = unseen_mutations(&object, 8, bytes.len() as u64);
                    failures.extend(unseen.iter().map(|what| format!("{}: unseen: {what}", path.display())));
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
