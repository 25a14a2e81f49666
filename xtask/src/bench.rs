//! `cargo xtask bench`: Lockstep beside etcd on this machine. Three processes of each run on one
//! disk, and one client program drives them in turn.
//!
//! ```text
//! run ──► nodes, etcd                   the processes
//!   ├──► block (measure), calibrate     what a block is measured with
//!   ├──► syncs, applied (metrics, http) the blocks apart from the comparison
//!   └──► figures ──► table, plot, pages what was seen, and the files of it
//! ```
//!
//! `docs/benchmarks/README.md` says what the figures mean. Nothing here changes a node. `large` is
//! `cargo xtask bench-large`, which measures Lockstep alone.

mod applied;
mod block;
mod calibrate;
mod conditions;
mod etcd;
mod figures;
mod http;
mod large;
mod measure;
mod metrics;
mod nodes;
mod pages;
mod plot;
mod run;
mod syncs;
mod table;

pub(crate) use large::{Large, bench_large};
pub(crate) use run::bench;

/// What may be measured, by the names of `lockstep bench --operation`.
pub(crate) const OPERATIONS: [&str; 4] = ["put", "get", "local_get", "mixed"];

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bench<'a> {
    /// Seconds of each block.
    pub(crate) seconds: u64,
    /// Blocks of each system for each load.
    pub(crate) rounds: u64,
    /// Clients of each load.
    pub(crate) clients: Vec<u64>,
    /// The program of etcd; the one in PATH if there is none.
    pub(crate) etcd: Option<&'a str>,
    /// Where the pages go; `docs/benchmarks/` if it is nowhere.
    pub(crate) out: Option<&'a str>,
    /// Names of `OPERATIONS`.
    pub(crate) operations: Vec<&'a str>,
}

impl Default for Bench<'_> {
    fn default() -> Self {
        let operations = vec!["put", "get", "local_get"];
        Bench { seconds: 5, rounds: 3, clients: vec![1, 64, 256], etcd: None, out: None, operations }
    }
}
