//! The sandbox: loads a component, runs its exports. Knows no Raft, no gRPC, no RocksDB; what a guest stores goes through [`Store`].

use std::any::Any;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a guest call reads and writes. Implemented by transactions and views in `machine/`.
pub trait Store: Send + 'static {
    /// The value of `key`, own writes included.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault>;
    /// Rows in order, up to `limit` (0: what fits a page).
    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault>;
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault>;
    /// Removes `key`, present or not.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault>;
    /// Removes up to `limit` keys (0: all) and says how many.
    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault>;
    /// Gives the concrete transaction or view back to its maker.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// `start <= key < end`; no end means to the last key.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// First key.
    pub start: &'a [u8],
    /// First key past the range.
    pub end: Option<&'a [u8]>,
}

/// Bytes of rows in one page of a scan, at most (a single larger row still comes, alone).
pub const PAGE_BYTES_MAX: usize = 256 << 10;

/// Rows of a scan, framed as the contract says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// For each row: key length, value length (u32 LE), key, value.
    pub rows: Vec<u8>,
    /// Whether rows of the range were left out.
    pub more: bool,
}

impl Page {
    /// Appends a row; false when the page is full and the row was left out (`more` is then set).
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let row = 8 + key.len() + value.len();
        if !self.rows.is_empty() && self.rows.len() + row > PAGE_BYTES_MAX {
            self.more = true;
            return false;
        }
        self.rows
            .extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.rows
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(value);
        true
    }
}

/// The disk failed under a store call: a host fault, never an outcome.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub String);

/// Something that only this node suffers. The caller stops the node; nothing is recorded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("host fault: {0}")]
pub struct HostFault(pub String);

/// Where a call stands in history (`context` of the contract).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Raft log index.
    pub index: u64,
    /// Place of the command in its entry.
    pub position: u32,
    /// Log time, milliseconds since 1970.
    pub time_ms: u64,
}

/// A refusal by the guest, already cut to the contract's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// gRPC code 1 to 16 (anything else was made 13).
    pub code: u32,
    /// At most 1 KiB.
    pub message: String,
    /// At most 4 KiB.
    pub details: Vec<u8>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest's reply, an encoded message.
    Reply(Bytes),
    /// The guest said no.
    Refused(Status),
    /// The call did not end well; equal on every replica for `apply`.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is replicated and hashed.
    pub reason: Reason,
    /// For the log and the client, on this node only: message, wasm backtrace.
    pub detail: String,
}

/// The enumerated reasons of a failed call. Numbers are frozen: they stand in outcomes and hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reason {
    Trap = 1,
    Fuel = 2,
    Memory = 3,
    Stack = 4,
    StoreBudget = 5,
    /// A key, value or the writes of the command were too large.
    LimitExceeded = 6,
    MalformedReply = 7,
    OversizedReply = 8,
    /// A write in a query, `node.status` in a command.
    Forbidden = 9,
    /// The guest called `log.abort` (a panic).
    Aborted = 10,
    /// Queries only: past its wall-clock deadline.
    Deadline = 11,
    /// Snapshot or restore: the stream ended or its other side failed.
    Stream = 12,
}
