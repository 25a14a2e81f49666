//! Lockstep: a WebAssembly state machine on every node of a Raft cluster.
//!
//! The path of one command, and with it the order in which to read the rooms:
//!
//! ```text
//! client ── gRPC ──► api/dynamic ──► api/commands ─┬─ leader here ──► raft/proposer ──► openraft ──► store/log (fsync)
//!                                                  └─ elsewhere ──► raft/forward ──► the leader's raft/service ──► raft/forwarded ──► its proposer
//!                             committed ──► machine/apply ──► guest/instance ──► store/state ──► machine/waiters ──► client
//! ```
//!
//! Nothing points up: `api → raft → machine → {guest, store}`; `net` accepts the connections of `api` and `raft`; `types`, `codec`, `faults` and `logs` may be used by all, and only `node` sees everything.

pub mod api;
pub mod cli;
pub mod config;
pub mod node;

pub mod raft;

pub mod machine;

pub mod guest;
pub mod store;

pub mod net;

pub mod codec;
pub mod faults;
pub mod logs;
pub mod types;

#[cfg(test)]
mod reserved;
