//! Counts what is allocated, so that a target can say how much its input may cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What any input may cost besides its share.
const BASE: usize = 64 << 10;
/// Bytes that a byte of input may cost.
const SHARE: usize = 16;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn grown(by: usize) {
    let live = LIVE.get().wrapping_add(by);
    LIVE.set(live);
    // Memory of other threads may be given back here: less than nothing is a very large number.
    if live < usize::MAX / 2 {
        PEAK.set(PEAK.get().max(live));
    }
}

fn shrunk(by: usize) {
    LIVE.set(LIVE.get().wrapping_sub(by));
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; counting touches nothing but two
// numbers of the thread that are initialized without an allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks grow where they are, or by moving pages: both sizes are never there at once.
        shrunk(layout.size());
        grown(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs something that reads `len` bytes of input.
///
/// # Panics
/// It held more memory at once than 64 KiB, `buffers`, and 16 bytes for each byte of input. `buffers` are those whose
/// size the input has no say in.
pub fn within<T>(len: usize, buffers: usize, run: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let out = run();
    let peak = PEAK.get().wrapping_sub(before);
    let most = BASE + buffers + SHARE * len;
    assert!(peak <= most, "{peak} bytes were allocated for {len} bytes of input, {most} are allowed");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_noticed_and_enough_is_not() {
        assert_eq!(within(0, 0, || vec![1u8; BASE]).len(), BASE);
        assert_eq!(within(1000, 50, || vec![1u8; BASE + 50 + 16_000]).len(), BASE + 16_050);
        let held = vec![0u8; 1 << 20];
        within(0, 0, || drop(held));
        let much = || within(10, 0, || drop(vec![1u8; BASE + 161]));
        assert!(std::panic::catch_unwind(much).is_err(), "also if it is gone in the end");
    }
}
