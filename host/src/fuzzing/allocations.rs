//! Counts the memory that a thread holds, so that a fuzz target notices a parser that allocates out
//! of proportion to its input. Frees and allocates nothing itself: the system's allocator does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated, less those that it has freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most that `LIVE` was since it was last set.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub(super) struct Counting;

fn count(bytes: isize) {
    // Both cells need no destructor, so that they are there for as long as their thread.
    let live = LIVE.get().wrapping_add(bytes);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

#[allow(unsafe_code, reason = "an allocator is unsafe to write; this one hands on what it is given")]
// SAFETY: each function passes its arguments to the system's allocator and returns its answer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// Runs a parser of `input`, and panics if it held more than `fixed` bytes and `per_byte` bytes for
/// each byte of its input at a time.
pub(super) fn assert_within(fixed: usize, per_byte: usize, input: &[u8], run: impl FnOnce()) {
    let before = LIVE.get();
    PEAK.set(before);
    run();
    let most = fixed + per_byte * input.len();
    let held = usize::try_from(PEAK.get().wrapping_sub(before)).unwrap_or(0);
    assert!(
        held <= most,
        "{held} bytes were held at a time for an input of {} bytes; {most} are expected",
        input.len()
    );
}

#[cfg(test)]
mod tests {
    use super::assert_within;

    #[test]
    fn what_is_held_at_a_time_counts() {
        assert_within(1_000, 10, &[0; 10], || (0..100).for_each(|_| drop(vec![0_u8; 1_000])));
    }

    #[test]
    #[should_panic(expected = "for an input of 10 bytes; 1100 are expected")]
    fn a_parser_that_holds_too_much_is_caught() {
        assert_within(1_000, 10, &[0; 10], || drop(vec![0_u8; 2_000]));
    }
}
