//! A kernel's symbols: the text of System.map or /proc/kallsyms, or the tables inside an image.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bounded(bytes.len(), || targets::kallsyms(bytes)));
