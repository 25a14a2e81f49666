//! Owns everything on disk: RocksDB, files and fsync. Knows nothing of wasm and the network.
//!
//! ```text
//! <data dir>/FORMAT  LOCK                      directory: format number, lock
//!            components/                       directory: components by BLAKE3, compiled code
//!            raft/  SYNCED  SERVED             log: votes and entries of all groups, identity;
//!                                              fsynced before any acknowledgement
//!            state/<group>/<generation>/       state: rows of the guest and the host; no WAL,
//!                                              the Raft log is its WAL
//!            state/<group>/<n>.scratch/        state: copies to try something out on
//!            snapshots/<group>/<index>-<term>/ snapshot: checkpoints, each at one log position
//!            groups/<group>/                   group_dir: small files of groups other than 0
//!            BALLAST  BALLAST.running          space: room to give up when the disk is full
//! <log archive>/<first>-<last>.segment         segments: committed entries, outside of the data
//!                                              directory; written before they are purged
//! ```
//!
//! [`columns`] describes every column family, key and value. A process has one `raft/`, which its
//! groups share, and one `state/` for each group. The two databases promise different things. Data
//! in `raft/` is durable when the call completes. Data in `state/` is durable after a flush; its
//! writer writes a row only once the log entry that the row comes from is durable.

mod checkpoint;
pub mod columns;
mod compaction;
mod directory;
mod error;
mod file_limit;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod generation;
mod group_dir;
mod log;
mod open_files;
mod options;
mod pinned;
mod record_files;
mod rows;
mod segments;
mod snapshot;
mod space;
mod state;

pub use checkpoint::Checkpoint;
pub use directory::DataDir;
pub use error::StoreError;
pub use files::Lock;
pub use generation::{Generation, View};
pub use group_dir::GroupDir;
pub use log::{Durable, Log, LogDisk, LogDiskStats, LogReader, LogStats, Seen, StoppedLog, holds_log};
pub use open_files::OpenFiles;
pub(crate) use options::STATE_MEMTABLE_BYTES;
pub use rows::{Batch, Column, Read, Row};
pub(crate) use segments::{
    Archived, Header as SegmentHeader, MAGIC as SEGMENT_MAGIC, Newest as SegmentNewest, SegmentOut, SegmentReader,
    SegmentWriter, Segments, Written as SegmentWritten, create_archive, decode_value, encode_value, joined_runs,
    open_archive, remove_segment,
};
pub use snapshot::Checkpoints;
pub use space::{Level, Space, SpaceStatus};
pub use state::State;
