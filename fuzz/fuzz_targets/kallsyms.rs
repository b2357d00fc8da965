//! A kernel's symbols: the text of System.map or /proc/kallsyms, or the tables inside an image.
#![no_main]

use klp_build::kernel::image::Image;
use klp_build::kernel::{kallsyms_image, text_table};
use klp_build_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes.len(), || {
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = text_table::parse(text);
        }
        // A packed image may be as large as it says: only plain ones are bounded by their size.
        if bytes.starts_with(b"\x7fELF")
            && let Ok(image) = Image::parse(bytes.to_vec())
        {
            let _ = kallsyms_image::read_table(&image);
        }
    });
});
