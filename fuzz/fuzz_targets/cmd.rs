//! The text of a kbuild `.cmd` file -> commands and dependencies.
#![no_main]

use klp_build::kernel::cmd::CmdFile;
use klp_build_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    bounded(text.len(), || {
        let Ok(file) = CmdFile::parse(text) else { return };
        file.compile();
        file.objtool();
    });
});
