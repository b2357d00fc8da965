//! A patch -> hunks -> applied to the text it expects -> that text with its line numbers kept.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;

use klp_build::patch;
use klp_build_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes.len(), || {
        let Ok(files) = patch::parse(bytes, "fuzz.patch") else { return };
        patch::screen(files.iter().map(|f| f.path.as_path()));
        // The old side of all hunks of a file, one after the other, is a file that they can apply to.
        let mut texts: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for file in &files {
            let text = texts.entry(file.path.clone()).or_default();
            file.hunks.iter().flat_map(|h| h.old()).for_each(|line| text.extend_from_slice(&line.text));
        }
        let Ok(applied) = patch::apply(&files, |path| Ok(texts.get(path).cloned())) else { return };
        for file in &applied.files {
            if let (Some(original), Some(patched)) = (&file.original, &file.patched) {
                patch::keep_line_numbers(original, patched);
            }
        }
    });
});
