//! A place in the code -> the source lines that it comes from, through all functions that were inlined there.

use anyhow::{Context, Result};

use super::info::{Debug, address};
use crate::elf::Object;

/// A line of source, and the function that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The file, as the compiler was told of it.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The function, where it is known.
    pub function: Option<String>,
}

/// The lines of the code at `offset` in the section of this name: innermost first, the function that was compiled last.
/// Nothing when the object has no debug information, or none about the place.
///
/// # Errors
///
/// When debug information is damaged or of an unknown kind.
pub fn lines(object: &Object, section: &str, offset: u64) -> Result<Vec<Line>> {
    let (Some(debug), Some(section)) = (Debug::read(object)?, object.section_named(section)) else {
        return Ok(Vec::new());
    };
    let context = addr2line::Context::from_dwarf(debug.dwarf()).context("failed to read debug information")?;
    let mut frames = context.find_frames(address(section, offset)).skip_all_loads()?;
    let mut lines = Vec::new();
    while let Some(frame) = frames.next()? {
        let function = frame.function.as_ref().and_then(|name| name.raw_name().ok()).map(|name| name.into_owned());
        if let Some(place) = frame.location
            && let (Some(file), Some(line)) = (place.file, place.line)
        {
            lines.push(Line { file: file.to_owned(), line, function });
        }
    }
    Ok(lines)
}
