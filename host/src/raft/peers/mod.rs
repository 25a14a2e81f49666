//! The other nodes: connections to them, messages, and who may speak as whom. It carries votes and
//! entries and decides nothing about them.
//!
//! - Out: `network` (openraft's view of a peer; `stream` pipelines its appends, `network/beats`
//!   sends its heartbeats) → `link` (one pooled channel per peer and lane) → `dial` → the peer port
//!   of another node. `acks` notes when each peer accepted this node as leader. `fetch` asks a
//!   member for its state.
//! - In: `only_grpc` (`bounded` limits what comes before it is decoded) → `service` (`incoming`
//!   reads its streams) → `groups` (which group is meant) → `gate` (`cluster`: is this for this
//!   node, from its cluster?) → `wire` → openraft, or one of the `handlers`. A snapshot goes
//!   through `install`.
//! - Checks: `names` knows which node a certificate may speak for. `processes` knows which
//!   `process` of each node takes part, and refuses a second one. `bounds` limits how far ahead a
//!   peer's numbers may be. `probe` asks who is at an address.

pub mod acks;
pub mod attended;
pub mod bounded;
pub mod bounds;
pub mod cluster;
pub mod dial;
pub mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
pub mod groups;
pub mod handlers;
mod incoming;
pub mod install;
pub mod link;
pub mod names;
pub mod network;
mod only_grpc;
pub mod probe;
pub mod process;
pub mod processes;
pub mod service;
mod stream;
pub mod wire;
pub mod wire_error;
