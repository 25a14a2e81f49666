//! What every module uses and what needs no other crate: the largest component, and bytes as text.
//! Has no foreign type and never does IO, so that the sandbox can be built without Raft
//! (`corpus/`).

/// Most bytes of an encoded component that a node accepts, from a leader or a backup.
pub const COMPONENT_BYTES_MAX: usize = 256 << 20;

/// Formats bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}
