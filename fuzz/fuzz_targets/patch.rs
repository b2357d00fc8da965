//! A patch -> hunks -> applied to the text it expects -> that text with its line numbers kept.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bounded(bytes.len(), || targets::patch(bytes)));
