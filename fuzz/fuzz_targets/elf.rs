//! Bytes -> object -> bytes -> object: no input crashes the reader, and what it accepts survives being written.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bounded(bytes.len(), || targets::elf(bytes)));
