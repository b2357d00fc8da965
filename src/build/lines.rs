//! `-f`: which source lines, and which hunk of which patch, a function's first difference comes from. And the line of what has
//! to be written in another way.
//!
//! In: verdicts, the units compiled again with debug information, the patches. Out: [`SourcePlace`] for each changed
//! function. Debug information only speaks for code it was compiled with: a function whose bytes are not the
//! same in both compiles gets no lines. Line numbers are those of the original, which `#line` keeps for both sides.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::inputs::{self, Compiles, Workbench};
use super::read_object;
use crate::diff::atoms::{AtomId, Side};
use crate::diff::{Diff, Verdict};
use crate::dwarf::lines::{self, Line};
use crate::elf::Object;
use crate::error::{Reason, Refusal};
use crate::kernel::unit::Unit;
use crate::patch::FilePatch;
use crate::report::{Report, SourcePlace};

/// How far the compiler's line may be from the changed lines: statements span lines.
const NEAR: usize = 4;

/// Adds the source places of the changed functions to the report.
pub(super) fn explain(
    units: &[Unit],
    compiles: &Compiles,
    diffs: &[(usize, Diff<'_>)],
    patches: &[FilePatch],
    roots: &[&Path],
    report: &mut Report,
) -> Result<()> {
    for (index, diff) in diffs {
        let Some((_, original, patched)) = compiles.debug.iter().find(|(at, ..)| at == index) else { continue };
        let (original, patched) = (read_object(original)?, read_object(patched)?);
        let unit = &units[*index];
        for function in diff.functions.iter().filter(|f| f.verdict == Verdict::Changed) {
            let (Some(why), Some(old), Some(new)) = (&function.why, function.original, function.patched) else {
                continue;
            };
            let before = frames(&diff.original, old, why.original, &original, roots)?;
            let after = frames(&diff.patched, new, why.patched, &patched, roots)?;
            let place = place(&before, &after, patches);
            let source = unit.source.display().to_string();
            let object = report.object(&unit.object);
            if let Some(found) = object
                .functions
                .iter_mut()
                .find(|f| f.function == function.name && f.unit.as_deref() == Some(source.as_str()))
            {
                found.source = place;
            }
        }
    }
    Ok(())
}

/// Names the source line of each refused use of a module's static key: what to rewrite is there.
pub(super) fn locate(
    bench: Workbench<'_>,
    units: &[Unit],
    diffs: &[(usize, Diff<'_>)],
    roots: &[&Path],
    report: &mut Report,
) -> Result<()> {
    let is_use = |refusal: &&mut Refusal| refusal.reason == Reason::ModuleKey;
    let mut places: BTreeMap<usize, Object> = BTreeMap::new();
    for refusal in report.refusals.iter_mut().filter(is_use) {
        let (Some(section), Some(offset)) = (refusal.section.as_deref(), refusal.offset) else { continue };
        let holds = |(index, diff): &&(usize, Diff<'_>)| {
            refusal.object.as_deref() == Some(units[*index].object.as_str())
                && diff.functions.iter().any(|f| refusal.symbol.as_deref() == Some(f.name.as_str()))
        };
        let Some((index, diff)) = diffs.iter().find(holds) else { continue };
        let debug = match places.entry(*index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(open) => {
                let compiled = inputs::compile_with_lines(bench, &units[*index..=*index])?;
                let Some((_, _, patched)) = compiled.debug.first() else { continue };
                open.insert(read_object(patched)?)
            }
        };
        let code = diff.patched.object;
        let same = |name: &str| {
            let (one, other) = (code.section_named(name), debug.section_named(name));
            one.zip(other).is_some_and(|(one, other)| code.section(one).data == debug.section(other).data)
        };
        if !same(section) {
            continue;
        }
        // Innermost is the header that defines the macro; the first line of the unit's own file is the one to rewrite.
        let lines = lines::lines(debug, section, offset)?;
        let mut places = lines.iter().map(|line| (relative(&line.file, roots), line.line));
        let own = |(file, _): &(String, u32)| Path::new(file) == units[*index].source;
        if let Some((file, line)) = places.clone().find(own).or_else(|| places.next_back()) {
            refusal.message.push_str(&format!(", at {file}:{line}"));
        }
    }
    Ok(())
}

/// The lines of a place in a function, innermost first, files relative to the kernel tree.
fn frames(side: &Side<'_>, id: AtomId, offset: u64, debug: &Object, roots: &[&Path]) -> Result<Vec<Line>> {
    let atom = side.atom(id);
    let section = side.object.section(atom.section);
    let same = debug.section_named(&section.name).is_some_and(|twin| debug.section(twin).data == section.data);
    if !same {
        return Ok(Vec::new());
    }
    // A difference at the very end is one in length: the last instruction is the nearest there is.
    let at = (atom.start + offset).min(atom.end.saturating_sub(1));
    let mut lines = lines::lines(debug, &section.name, at)?;
    for line in &mut lines {
        line.file = relative(&line.file, roots);
    }
    Ok(lines)
}

/// The file without the tree that it is in.
fn relative(file: &str, roots: &[&Path]) -> String {
    let path: PathBuf = Path::new(file).components().collect();
    let inside = roots.iter().find_map(|root| path.strip_prefix(root).ok());
    // The mirror is `<work>/compile-*/tree`.
    let mirrored = || {
        let mut parts = inside?.components();
        let mirror = parts.next()?.as_os_str().to_str()?.starts_with("compile-");
        (mirror && parts.next()?.as_os_str() == "tree").then_some(parts.as_path())
    };
    mirrored().or(inside).unwrap_or(&path).display().to_string()
}

/// Both sides' lines, the hunk that explains them, and the inlined function that they are in.
fn place(before: &[Line], after: &[Line], patches: &[FilePatch]) -> Option<SourcePlace> {
    let text = |line: &Line| format!("{}:{}", line.file, line.line);
    let hunk = |slack: usize| after.iter().chain(before).find_map(|line| Some((line, hunk_of(line, patches, slack)?)));
    let found = hunk(0).or_else(|| hunk(NEAR));
    let (original, patched) = (before.first(), after.first());
    let inlined = |lines: &[Line]| {
        let (line, inner) = (lines.first()?, lines.len() > 1);
        line.function.clone().filter(|_| inner)
    };
    Some(SourcePlace {
        original: original.map(text),
        patched: patched.map(text),
        inlined: inlined(after).or_else(|| inlined(before)),
        hunk: found.map(|(_, hunk)| hunk),
    })
    .filter(|place| place.original.is_some() || place.patched.is_some())
}

/// `fix.patch:12: @@ -40,7 +40,8 @@`, for the hunk whose changed lines the line is one of, or near.
fn hunk_of(line: &Line, patches: &[FilePatch], slack: usize) -> Option<String> {
    let files = patches.iter().filter(|patch| Path::new(&line.file) == patch.path);
    for file in files {
        for hunk in &file.hunks {
            let (first, last) = hunk.changed_old_lines();
            let at = line.line as usize;
            if at + slack >= first && at <= last + slack {
                return Some(format!("{}:{}: {}", file.patch, hunk.line, hunk.range()));
            }
        }
    }
    None
}
