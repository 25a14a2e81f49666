//! The sandbox: loads a component, runs its exports. Knows no Raft, no gRPC, no RocksDB; what a guest stores goes through [`Store`].
//!
//! - [`Engine`]: wasmtime under one set of [`Limits`], every setting with its reason (`engine`, `limits`).
//! - [`Component`]: a guest that was checked, compiled and seen to instantiate (`load`), or told what to write instead (`advice`); its code may be kept on a [`Shelf`] (`code`). Encoding
//!   and compiling are done in a process of its own ([`apart`]).
//! - What of this build may move where a recursion ends, for nodes to compare (`build`).
//! - [`Anatomy`], [`with_descriptor`]: the tools' ways to look at one and to complete one (`anatomy`, `pack`), and
//!   where its stack lies (`layout`).
//! - [`ApplyInstance`], [`QueryInstance`], [`snapshot`], [`restore`]: calls into it (`instance`, `streams`).
//! - The functions it may call back (`imports`), and what became of a call (`outcome`), in whose
//!   functions it ended (`frames`).
//!
//! Rules: an instance serves one call at a time; after anything but a reply it is spent; outcomes are
//! equal on every replica, and what is not is a [`HostFault`]. Calls use up to [`Limits::wasm_stack_bytes`]
//! of the calling thread's stack, which must be at least four times as large.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

mod advice;
mod anatomy;
pub mod apart;
mod build;
mod code;
mod engine;
mod frames;
mod imports;
mod instance;
mod layout;
mod limits;
mod load;
mod outcome;
mod pack;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

pub use anatomy::Anatomy;
pub use code::Shelf;
pub use engine::{Engine, QUERY_INSTANCES_MAX, RESTORE_INSTANCES_MAX, SNAPSHOT_INSTANCES_MAX, Slot};
pub use imports::write_every_line;
pub use instance::{ApplyInstance, QueryInstance};
pub use layout::{HiddenStack, hidden_stack};
pub use limits::{CALLER_STACK_BYTES, Limits};
pub use load::{Checked, Component, LoadError};
pub use outcome::{Failure, HostFault, Reason, Status, Verdict};
pub use pack::{PackError, with_descriptor};
pub use streams::{restore, restore_slot, snapshot, snapshot_slot};

/// What a guest call reads and writes. Implemented by transactions and views in `machine/`.
///
/// The caller has checked lengths, budget and rights, and never passes a range whose end is not past
/// its start. The implementer answers alike on every replica, or with a fault.
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
    /// How many keys the last `scan` or `remove_range` passed over because commands of this entry removed them; 0 after being asked.
    /// They have a price: else a command could remove many rows, and then look for them again and again.
    fn passed_over(&mut self) -> u64 {
        0
    }
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

impl Range<'_> {
    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
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
        self.rows.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.rows.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(value);
        true
    }
}

/// The disk failed under a store call: a host fault, never an outcome.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub String);

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

/// One call of `apply`, `query` or `watch`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Where it stands in history.
    pub context: Context,
    /// The full gRPC name without a leading slash.
    pub method: &'a str,
    /// The encoded request message.
    pub request: &'a [u8],
    /// The authenticated client; empty for none.
    pub caller: &'a str,
    /// What the call may burn.
    pub fuel: u64,
}

/// Why a step of a watch runs (`watcher.cause` of the contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client has just asked.
    Start,
    /// A commit touched what the last step read.
    Change,
    /// A time or an index that the last step asked for was reached, and nothing that it read has changed.
    Wake,
    /// A snapshot replaced the state since the last step.
    Reset,
}

/// What one step of a watch says (`watcher.step` of the contract), within the profile's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Messages to send now, in order.
    pub replies: Vec<Bytes>,
    /// Handed to the next step.
    pub memo: Bytes,
    /// Also run when this index has been applied, at once when it is already; 0 for never.
    pub wake_at_index: u64,
    /// Also run after this many milliseconds without a step; 0 for never.
    pub wake_after_ms: u32,
    /// End the stream with OK after the replies.
    pub done: bool,
}

/// How a step of a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The guest said what to send.
    Step(Step),
    /// The guest said no: the stream ends with this.
    Refused(Status),
    /// The step did not end well: the stream ends.
    Failed(Failure),
}

/// Answers `node.status` with a JSON object.
pub type NodeStatus = Arc<dyn Fn() -> String + Send + Sync>;

/// Where a guest's snapshot goes.
pub trait SnapshotSink: Send + 'static {
    /// Takes a chunk, blocking while the receiver is slow. An error ends the call with [`Reason::Stream`].
    fn write(&mut self, chunk: &[u8]) -> Result<(), String>;
}

/// Where a guest's restore reads.
pub trait SnapshotSource: Send + 'static {
    /// At least 1 and at most `bytes_max` bytes; none at the end and ever after. An error ends the call
    /// with [`Reason::Stream`].
    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String>;
}
