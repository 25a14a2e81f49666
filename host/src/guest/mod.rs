//! The sandbox: loads a component and runs its exports. It knows no Raft, no gRPC and no RocksDB; a
//! guest's data goes through [`Rows`].
//!
//! - [`Engine`]: wasmtime under one set of [`Limits`], with the reason for every setting (`engine`,
//!   `limits`).
//! - [`Component`]: a guest that was checked, compiled and successfully instantiated (`load`); a
//!   refused guest gets advice on what to write instead (`advice`). Compiled code may be kept on a
//!   [`Shelf`] (`code`). Encoding and compiling run in a separate process ([`apart`]).
//! - How deep a guest may recurse, and what operators cost by their size, metered by its own code
//!   (`depth`). Properties of this build that could change an outcome, for nodes to compare
//!   (`build`).
//! - [`Anatomy`], [`described_state`], [`with_descriptor`], [`with_version`]: tools use them to
//!   inspect a guest and to complete one (`anatomy`, `pack`); `layout` finds where its stack lies.
//! - [`ApplyInstance`], [`QueryInstance`], [`snapshot`], [`restore`], [`migrate`]: calls into a
//!   guest (`instance`, `streams`, `migrate`).
//! - The functions that a guest may call (`imports`), the outcome of a call (`outcome`), and the
//!   guest's functions in which it ended (`frames`).
//!
//! Rules: an instance serves one call at a time. After anything but a reply it is spent. Outcomes
//! are equal on every replica; an error that is not is a [`HostFault`]. A thread that calls guests
//! has a stack of [`CALLER_STACK_BYTES`].

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

mod advice;
mod anatomy;
pub mod apart;
mod build;
mod code;
mod component;
mod depth;
mod engine;
mod epochs;
mod failure;
mod features;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod imports;
mod instance;
mod layout;
mod limit_keys;
mod limits;
mod load;
mod load_error;
mod migrate;
mod outcome;
mod pack;
mod sizes_first;
mod stack;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

pub use anatomy::{Anatomy, described_state};
pub use code::Shelf;
pub use component::Component;
pub use engine::{Engine, QUERY_INSTANCES_MAX, RESTORE_INSTANCES_MAX, SNAPSHOT_INSTANCES_MAX, Slot};
pub use failure::{Failure, HostFault, Reason};
pub use imports::write_every_line;
pub use instance::{ApplyInstance, QueryInstance};
pub use layout::{HiddenStack, hidden_stack};
pub use limit_keys::{LimitChange, LimitKey, LimitRange};
pub use limits::{CALLER_STACK_BYTES, Limits, SEMANTICS, SIZES_METERED_SINCE};
pub use load::Checked;
pub use load_error::LoadError;
pub use migrate::{Migrated, migrate};
pub use outcome::{Status, Verdict};
pub use pack::{PackError, with_descriptor, with_version};
pub use sizes_first::charges_sizes_first;
pub use stack::on_guest_stack;
pub use streams::{restore, restore_slot, snapshot, snapshot_slot};

/// The work that [`apart`] does in a process of its own.
pub const WORKERS: apart::Workers = apart::Workers { encode: load::component_of, compile: engine::code_of };

/// The store that a guest call reads and writes. Transactions and views in `machine/` implement it.
///
/// The caller has checked lengths, budget and rights, and never passes a range whose end is not
/// after its start. The implementation gives the same answer on every replica, or returns a fault.
pub trait Rows: Send + 'static {
    /// Returns the value of `key`, including the call's own writes.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault>;
    /// Returns up to `limit` rows in order (0: as many as fit in a page).
    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault>;
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault>;
    /// Removes `key`, whether it exists or not.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault>;
    /// Removes up to `limit` keys (0: all), and returns how many.
    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault>;
    /// Returns how many removed keys the last `scan` or `remove_range` passed over. Commands of
    /// this entry removed them. The next call returns 0. These keys cost fuel: otherwise a command
    /// could remove many rows and then scan them again and again.
    fn passed_over(&mut self) -> u64 {
        0
    }
    /// Returns the concrete transaction or view to the code that created it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// The keys with `start <= key < end`. Without an end, the range reaches to the last key.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// First key.
    pub start: &'a [u8],
    /// First key after the range.
    pub end: Option<&'a [u8]>,
}

impl Range<'_> {
    /// Returns whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}

/// Most bytes of rows in one page of a scan. A single larger row is returned in a page of its own.
pub const PAGE_BYTES_MAX: usize = 256 << 10;

/// Rows of a scan, in the framing of the contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// For each row: key length, value length (u32 LE), key, value.
    pub rows: Vec<u8>,
    /// Whether rows of the range were left out.
    pub more: bool,
}

impl Page {
    /// Appends a row. Returns false, and sets `more`, when the page is full and the row was left
    /// out.
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

/// The disk failed during a store call. This is a host fault, never an outcome.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub String);

/// The position of a call in the log (`context` of the contract).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Raft log index.
    pub index: u64,
    /// Place of the command in its entry.
    pub position: u32,
    /// Log time, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What ran before (`migrator.predecessor` of the contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor<'a> {
    /// BLAKE3 hash of its component.
    pub hash: &'a [u8; 32],
    /// The version that it declares; empty if it declares none.
    pub version: &'a str,
}

/// One call of `apply`, `query` or `watch`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The call's position in the log.
    pub context: Context,
    /// The full gRPC name, without a leading slash.
    pub method: &'a str,
    /// The encoded request message.
    pub request: &'a [u8],
    /// The authenticated client; empty if there is none.
    pub caller: &'a str,
    /// The fuel that the call may use.
    pub fuel: u64,
}

/// Why a step of a watch runs (`watcher.cause` of the contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client has just opened the stream.
    Start,
    /// A commit touched what the last step read.
    Change,
    /// A time or an index that the last step asked for was reached, and none of its reads has
    /// changed.
    Wake,
    /// A snapshot replaced the state since the last step.
    Reset,
}

/// The result of one step of a watch (`watcher.step` of the contract), within the profile's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Messages to send now, in order.
    pub replies: Vec<Bytes>,
    /// Passed to the next step.
    pub memo: Bytes,
    /// Also run when this index has been applied, or at once if it is applied already; 0 for never.
    pub wake_at_index: u64,
    /// Also run after this many milliseconds without a step; 0 for never.
    pub wake_after_ms: u32,
    /// End the stream with OK after the replies.
    pub done: bool,
}

/// How a step of a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The guest returned what to send.
    Step(Step),
    /// The guest refused: the stream ends with this status.
    Refused(Status),
    /// The step failed: the stream ends.
    Failed(Failure),
}

/// A line that a guest logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The text, as the guest wrote it.
    pub text: String,
}

/// Answers `node.status` with a JSON object.
pub type StatusSource = Arc<dyn Fn() -> String + Send + Sync>;

/// Receives a guest's snapshot.
pub trait SnapshotSink: Send + 'static {
    /// Takes a chunk. Blocks while the receiver is slow. An error ends the call with
    /// [`Reason::Stream`].
    fn write(&mut self, chunk: &[u8]) -> Result<(), String>;
}

/// Supplies the bytes that a guest's restore reads.
pub trait SnapshotSource: Send + 'static {
    /// Returns at least 1 and at most `bytes_max` bytes; at the end, and ever after, no bytes. An
    /// error ends the call with [`Reason::Stream`].
    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String>;
}
