//! Bytes -> object -> bytes -> object: no input crashes the reader, and what it accepts survives being written.
#![no_main]

use klp_build::elf;
use klp_build_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes.len(), || {
        let Ok(object) = elf::read(bytes) else { return };
        // What the writer refuses is no loss: it says so. What it writes must be the same.
        let Ok(written) = elf::write(&object) else { return };
        let again = elf::read(&written).expect("what was written can be read");
        if !object.has_groups {
            assert_eq!(format!("{again:?}"), format!("{object:?}"));
        }
    });
});
