//! How the allocator treats large buffers. Knows nothing of what they hold.
//!
//! glibc raises the size from which a buffer has memory of its own with every such buffer that is
//! freed. Replies and requests of megabytes then lie between small ones, and what they leave stays
//! with the process. With a fixed size, large buffers go back to the system when they are freed.

/// Size from which a buffer has memory of its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 1 << 20;

/// Has large buffers go back to the system when they are freed. To be called once, early.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn give_large_buffers_back() {
    // SAFETY: mallopt takes two numbers, and no other thread runs yet that could change them.
    let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
    debug_assert_eq!(done, 1, "glibc knows the parameter");
}

/// Does nothing: this system's allocator needs nothing of the kind.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_large_buffers_back() {}
