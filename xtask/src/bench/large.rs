//! `cargo xtask bench-large`: Lockstep with a large state. It measures how long apply stops, how
//! long a restart takes, what a put costs among many keys, and how long a new node takes to get the
//! state.
//!
//! ```text
//! run ──► disk                              is there room
//!   ├──► group (rows)                       three nodes, and a state for them
//!   ├──► stops, restart, newcomer, copied   what is measured
//!   └──► results ──► page                   what was seen, and the files of it
//! ```
//!
//! Processes, blocks and conditions are those of `cargo xtask bench`. Nothing here changes a node.

mod copied;
mod disk;
mod group;
mod newcomer;
mod page;
mod restart;
mod results;
mod rows;
mod run;
mod stops;

pub(crate) use run::bench_large;

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Large<'a> {
    /// Bytes of keys and values in the state that is watched, restarted and sent.
    pub(crate) state_bytes: u64,
    /// Keys among which a put is compared with one among few keys.
    pub(crate) keys: u64,
    /// Entries in the log of the node that is restarted.
    pub(crate) entries: u64,
    /// Seconds of each block.
    pub(crate) seconds: u64,
    /// How often each figure is measured.
    pub(crate) rounds: u64,
    /// Where the page goes; `docs/benchmarks/` if it is nowhere.
    pub(crate) out: Option<&'a str>,
}

impl Default for Large<'_> {
    fn default() -> Self {
        Large { state_bytes: 1 << 30, keys: 10_000_000, entries: 100_000, seconds: 10, rounds: 3, out: None }
    }
}
