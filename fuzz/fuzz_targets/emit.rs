//! Two objects -> verdicts -> closure -> references -> patch object -> bytes -> the same patch object.
//!
//! The input is the length of the original in four bytes, the original, and the patched object.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use klp_build::diff::{self, closure};
use klp_build::elf;
use klp_build::emit::patch_object;
use klp_build::kernel::symvers::Symvers;
use klp_build::reloc::{self, World, indirect};
use klp_build_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return };
    let Some((original, patched)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else { return };
    let (Ok(original), Ok(patched)) = (elf::read(original), elf::read(patched)) else { return };
    // An object may say that a byte is to stand alone on some megabytes.
    let padding: u64 = patched.sections.iter().map(|s| s.sh_addralign).sum();
    bounded(bytes.len() + padding as usize, || {
        let Ok(diff) = diff::diff(&original, &patched, diff::Options::default()) else { return };
        let symvers = Symvers::default();
        let world = World {
            object: "vmlinux",
            symvers: &symvers,
            vmlinux: None,
            own: None,
            depends: &BTreeSet::new(),
            theirs: &BTreeMap::new(),
            new_globals: &diff.new_global_names(),
            ibt: indirect::has_endbr(&original),
        };
        let closure = closure::closure(&diff);
        let resolved = reloc::resolve(&diff, &closure, &world);
        let patch = patch_object::build(&diff, &closure, &resolved);
        let refused = [&diff.refusals, &closure.refusals, &resolved.refusals, &patch.refusals];
        if refused.iter().any(|r| !r.is_empty()) {
            return;
        }
        assert!(resolved.account.adds_up(), "{:?}", resolved.account);
        // A name with a NUL, say, cannot be written; whatever can must be read as what it was.
        let Ok(written) = elf::write(&patch.object) else { return };
        let again = elf::read(&written).expect("what was written can be read");
        assert_eq!(again.sections.len(), patch.object.sections.len());
        assert_eq!(again.symbols.len(), patch.object.symbols.len());
    });
});
