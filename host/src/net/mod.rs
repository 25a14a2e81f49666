//! Sockets: who may be connected to which port of this node, and what they may do before and beside their calls.
//! Knows HTTP by its first bytes and its frames; knows no service, no Raft and no room above, and dials nobody.
//!
//! ```text
//! port (a listener accepts) ──► slots (is there room?) ─┬─ yes ──► connection (preface, in time; resets, in measure) ──► server
//!                                                       └─ no ───► refusal (in words)
//! descriptors (how many are there) ──► the places of each port
//! ```

mod authority;
mod connection;
mod descriptors;
mod frames;
pub mod media;
mod port;
mod preface;
mod rate;
mod refusal;
mod server;
mod slots;

use port::Listener;

pub use connection::{Connection, PENDING_RESETS_MAX, PREFACE_TIMEOUT, RESETS_A_SECOND_MAX, RESETS_AT_ONCE_MAX};
pub use descriptors::{Descriptors, Wish, share};
pub use port::{Port, PortStatus, REFUSED_IN_WORDS_MAX};
pub use server::{Http2Limits, serve};

/// The ports of a node, and what its process may have open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sockets {
    /// Clients and operators, `--grpc_addr`.
    pub clients: Port,
    /// Peers, `--raft_addr`.
    pub peers: Port,
    /// Whoever runs the process, `--http_addr`.
    pub http: Port,
    /// All of the process.
    pub descriptors: Descriptors,
}

/// Numbers for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketsStatus {
    /// What this process may have open at a time.
    pub descriptors_max: u64,
    /// What it has open.
    pub descriptors_open: u64,
    /// Each port.
    pub ports: [PortStatus; 3],
}

impl Sockets {
    /// Numbers for operators.
    pub fn status(&self) -> SocketsStatus {
        SocketsStatus {
            descriptors_max: self.descriptors.max(),
            descriptors_open: self.descriptors.open(),
            ports: [&self.clients, &self.peers, &self.http].map(Port::status),
        }
    }
}
