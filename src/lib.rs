//! klp-build: a source patch goes in, a livepatch module for the kernel that runs comes out.
//!
//! The modules stand in the order the data flows; DESIGN.md has the same list with the reasons.

#![forbid(unsafe_code)]
// They panic when the stream takes nothing: `report::say` and `cli::put` do not.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod build;
pub mod check;
pub mod cli;
pub mod compile;
pub mod diff;
pub mod dwarf;
pub mod elf;
pub mod emit;
pub mod error;
pub mod inspect;
pub mod kernel;
pub mod output;
pub mod patch;
pub mod reloc;
pub mod report;
pub mod request;
pub mod verify;
pub mod workdir;
