//! The text of a Module.symvers -> exports.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| bounded(text.len(), || targets::symvers(text)));
