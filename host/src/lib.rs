//! Lockstep: a WebAssembly state machine on every node of a Raft cluster.
//!
//! The path of one command, which is also the order in which to read the modules:
//!
//! ```text
//! client ── gRPC ──► api/face ──► calls/command
//!   ├─ leader here ──► raft/path/proposer
//!   └─ elsewhere ──► raft/path/forward ──► the leader's raft/peers/service
//!                                          ──► raft/path/forwarded ──► proposer
//! proposer ──► openraft ──► store/log (fsync) ──► committed
//! committed ──► machine/apply ──► guest/instance ──► store/state ──► machine/waiters ──► client
//! ```
//!
//! No module uses one above it: `api → calls → raft → machine → {guest, store}`. `calls` knows no
//! transport. `net` accepts the connections of `api` and `raft`, encrypted by `tls`. `trust`
//! decides who may do what. `group` joins `calls`, `raft`, `machine` and `store` to one replicated
//! machine; `node` is the process, which holds groups and serves them. All may use `types`,
//! `codec`, `faults`, `limit`, `logs`, `pattern`, `source` and `threads`. `memory` is for `main`
//! alone. Only `node` sees everything.

pub mod api;
pub mod cli;
pub mod config;
pub mod group;
pub mod node;

pub mod calls;

pub mod raft;

pub mod machine;

pub mod guest;
pub mod store;

pub mod net;
pub mod tls;
pub mod trust;

pub mod codec;
pub mod faults;
pub mod limit;
pub mod logs;
pub mod memory;
pub mod pattern;
pub mod source;
pub mod threads;
pub mod types;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod reserved;
