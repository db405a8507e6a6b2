//! The heap: in a process that has called [`wipe_freed`], and in those forked from it, memory is overwritten before it
//! is freed.
//!
//! A supervisor is given the environment of every container of its pod, and what it forks into one container is a copy
//! of its memory, which that container may get hold of (docs/decisions/0006-confined-before-the-fork.md).

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, Ordering},
};

#[global_allocator]
static HEAP: Heap = Heap;

static WIPES: AtomicBool = AtomicBool::new(false);

/// From now on this process, and each that is forked from it, overwrites memory before it frees it. It does not
/// overwrite the stack.
pub fn wipe_freed() {
    WIPES.store(true, Ordering::Relaxed);
}

/// The system's heap, with that one addition.
struct Heap;

// SAFETY: all is done by `System`, whose contract is this one; memory that is given back is nobody's, so it may be
// written to.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if WIPES.load(Ordering::Relaxed) {
            // SAFETY: the caller gives back `layout.size()` bytes at `start`. Unlike memset(3) this is never left out.
            unsafe { libc::explicit_bzero(start.cast(), layout.size()) };
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !WIPES.load(Ordering::Relaxed) {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(start, layout, size) };
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller promises that `size` is not zero.
        let new = unsafe { System.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are that long at least, and a new one overlaps nothing.
            unsafe { std::ptr::copy_nonoverlapping(start, new, layout.size().min(size)) };
            // SAFETY: the caller gives it up, since the new one is not null.
            unsafe { self.dealloc(start, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the process that wipes: what it does is its own for all threads.
    const WIPE_HERE: &str = "PINTLE_TEST_WIPE_FREED";
    const SIZES: [usize; 4] = [64, 1000, 20_000, 100_000];

    /// What is at `start` once it was freed, past the words that the system's heap keeps there.
    fn after_free(start: *const u8, size: usize) -> Vec<u8> {
        // SAFETY: below 128 KiB the heap keeps what is freed mapped; only bytes are read.
        (32..size).map(|at| unsafe { start.wrapping_add(at).read_volatile() }).collect()
    }

    #[test]
    fn what_is_freed_or_grows_leaves_nothing_behind() {
        if std::env::var_os(WIPE_HERE).is_none() {
            let this = "sys::heap::tests::what_is_freed_or_grows_leaves_nothing_behind";
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "--test-threads=1", this]).env(WIPE_HERE, "1");
            assert!(child.status().unwrap().success());
            return;
        }
        wipe_freed();
        for size in SIZES {
            // Keeps the freed memory from going back to the system.
            let secret = vec![0x5a_u8; size];
            let _above = vec![0_u8; size];
            let start = secret.as_ptr();
            drop(std::hint::black_box(secret));
            assert!(!after_free(start, size).contains(&0x5a), "{size} bytes freed");

            let mut grown = vec![0x5a_u8; size];
            let _above = vec![0_u8; size];
            let start = grown.as_ptr();
            grown.reserve_exact(4 * size);
            assert_eq!(grown, vec![0x5a; size]);
            if grown.as_ptr() != start {
                assert!(!after_free(start, size).contains(&0x5a), "{size} bytes that grew");
            }
            grown.truncate(size / 2);
            grown.shrink_to_fit();
            assert_eq!(grown, vec![0x5a; size / 2]);
        }
    }
}
