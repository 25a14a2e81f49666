//! The limits of the host's default profile, as far as the SDK keeps them itself: in the harness, and where a status is cut. A test
//! of the host compares them with the profile. Never the place where a limit is decided.

/// Length of a key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Length of a value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Keys and values written by one command, in bytes.
pub const COMMAND_WRITE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Calls of `store` by one call of the guest.
pub const STORE_CALLS_MAX: usize = 100_000;
/// Keys and values read and written by one call of the guest, in bytes.
pub const STORE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys that one command removes by range.
pub const KEYS_REMOVED_MAX: usize = 100_000;
/// One chunk of a snapshot, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Largest reply that clients of any make accept: 4 MiB less 64 KiB.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// All replies of one step of a watch, in bytes.
pub const STEP_REPLIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a step hands to the next, in bytes.
pub const MEMO_BYTES_MAX: usize = 4 * 1024;
/// Where the message of a status is cut.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Details of a refusal, in bytes.
pub const DETAILS_BYTES_MAX: usize = 4 * 1024;
/// Log lines of one call, in bytes; the rest is dropped.
pub const LOG_BYTES_MAX: usize = 64 * 1024;
