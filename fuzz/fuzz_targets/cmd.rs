//! The text of a kbuild `.cmd` file -> commands and dependencies.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| bounded(text.len(), || targets::cmd(text)));
