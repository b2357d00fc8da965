//! What all fuzz targets share: the bound on memory. What each does is in [`targets`].
//!
//! In: an input and what is to be done with it. Out: nothing, or a panic where it took more than twenty times the
//! input's size. Crashes and hangs are libFuzzer's to notice.

pub mod targets;

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What any input may take, however small: tables that do not depend on it, as the disassembler's.
const ANYWAY: usize = 2 << 20;

/// Runs `work` on an input of `len` bytes, and panics when it takes too much memory at once.
pub fn bounded<T>(len: usize, work: impl FnOnce() -> T) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    drop(work());
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= 20 * len + ANYWAY, "{taken} bytes for an input of {len}");
}
