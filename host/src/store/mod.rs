//! The disk. Knows RocksDB, files and fsync; knows no wasm and no network.
//!
//! ```text
//! <data dir>/FORMAT  LOCK                    directory  what this directory is, and who has it open
//!            components/                     directory  encoded components by BLAKE3, and their compiled code
//!            raft/  SYNCED  SERVED           log        vote, entries, identity: fsynced before anything is acknowledged
//!            state/<group>/<generation>/     state      the guest's and the host's rows: no WAL, the Raft log is its WAL
//!            snapshots/<group>/<index>-<term>/ snapshot checkpoints of the state at one log position
//!            BALLAST  BALLAST.running        space      room to give up when the disk is full
//! ```
//!
//! The page about every column family, key and value is [`columns`]. Two promises are kept apart: `raft/` is durable when a call
//! completes; `state/` is durable after a flush, and whoever writes it does so only once the log entry it came from is durable.

pub mod columns;
mod directory;
mod error;
mod files;
mod generation;
mod log;
mod options;
mod pinned;
mod record_files;
mod rows;
mod snapshot;
mod space;
mod state;

pub use directory::DataDir;
pub use error::StoreError;
pub use files::Lock;
pub use generation::{Generation, View};
pub use log::{Durable, Log, LogReader, LogStats, Seen, holds_log};
pub use rows::{Batch, Column, Read, Row};
pub use snapshot::{Checkpoint, Checkpoints};
pub use space::{Level, Space, SpaceStatus};
pub use state::State;
