//! Two objects -> verdicts -> closure -> references -> patch object -> bytes -> the same patch object.
//!
//! The input is the length of the original in four bytes, the original, and the patched object.
#![no_main]

use klp_build_fuzz::{bounded, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((original, patched)) = targets::pair(bytes) else { return };
    // An object may say that a byte is to stand alone on some megabytes.
    let padding: u64 = patched.sections.iter().map(|s| s.sh_addralign).sum();
    bounded(bytes.len() + padding as usize, || targets::emit(&original, &patched));
});
