//! A source patch: parse, check, apply in memory; keep `__LINE__` of untouched code.
//!
//! In: patch texts and a way to read a file of the kernel tree. Out: for each touched file what it was
//! and what it becomes, with notes and warnings for people. Nothing here writes to disk. The steps are
//! [`parse`] (text to hunks), [`screen`] (which files can be livepatched at all), [`apply`] (hunks to
//! contents) and [`keep_line_numbers`] (contents as the compiler is to see them).

mod apply;
mod header;
mod lexer;
mod lines;
mod locate;
mod parse;
mod screen;

pub use apply::{Applied, FileChange, Span, apply};
pub use lines::keep_line_numbers;
pub use parse::{FilePatch, Hunk, Kind, Line, Op, parse};
pub use screen::{Screened, Verdict, classify, screen};

use std::fmt;

/// All that is wrong with the patches of a run: broken input, exit status 2.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Problems as a result: an error when there are any.
fn check(problems: Vec<String>) -> anyhow::Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems).into()) }
}
