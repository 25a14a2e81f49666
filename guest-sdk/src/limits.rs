//! The limits of the host's default profile that the SDK itself applies: in the harness, and where
//! it cuts the message of a status. The host decides the limits, not this file. A test of the host
//! compares these values with the profile.

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of keys and values that one command may write.
pub const COMMAND_WRITE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most calls of `store` that one call of the guest may make.
pub const STORE_CALLS_MAX: usize = 100_000;
/// Most bytes of keys and values that one call of the guest may read and write.
pub const STORE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most keys that one command may remove by range.
pub const KEYS_REMOVED_MAX: usize = 100_000;
/// Most bytes of one chunk of a snapshot.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of a reply: 4 MiB less 64 KiB, which all client libraries accept.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Most bytes of all replies of one step of a watch.
pub const STEP_REPLIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes that a step may pass to the next one.
pub const MEMO_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of the cursor that a call of a migration passes to the next one.
pub const CURSOR_BYTES_MAX: usize = 4 * 1024;
/// Most calls of one migration.
pub const MIGRATION_CALLS_MAX: usize = 10_000;
/// Most bytes that all calls of one migration write.
pub const MIGRATION_WRITE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes after which the message of a status is cut.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Most bytes of the details of a refusal.
pub const DETAILS_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of log lines of one call. Further lines are dropped.
pub const LOG_BYTES_MAX: usize = 64 * 1024;
