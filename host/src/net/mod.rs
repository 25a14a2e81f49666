//! Owns the sockets: who may be connected to which port of this node, and what a connection may do
//! before and beside its calls. Knows HTTP by its first bytes and its frames. Knows no service, no
//! Raft and none of the modules above, and connects to nobody.
//!
//! ```text
//! port (a listener accepts) ──► slots (is there room?)
//!   ├─ yes ──► arrival (TLS, in time) ──► connection (preface in time, frames below their rates)
//!   │          ──► server ──► idle (how long without a call)
//!   └─ no ───► refusal (in words)
//! windows (how much a connection may send unread) ──► each connection's server
//! handshakes (whose is next) ──► those of TLS at each port
//! descriptors (how many are there) ──► the places of each port
//! ```

mod arrival;
mod authority;
mod connection;
mod control;
mod counts;
mod descriptors;
mod farewell;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handler;
mod handshakes;
mod idle;
pub mod media;
mod port;
mod preface;
mod rate;
mod refusal;
mod remote;
mod server;
#[cfg(test)]
mod server_tests;
mod slots;
mod unencrypted;
mod windows;

use port::Listener;

pub use arrival::Arrival;
// The rooms above name no library of HTTP. They wrap a body, or dial, with these.
pub use hyper::body::{Body as HttpBody, Frame, Incoming as RequestBody, SizeHint};
pub use hyper_util::rt::TokioIo;

pub use connection::{
    Connection, PENDING_RESETS_MAX, PREFACE_TIMEOUT, RESETS_A_SECOND_MAX, RESETS_AT_ONCE_MAX, Resets,
};
pub use descriptors::{Descriptors, Wish, share};
pub use handler::{Handler, handler};
pub use port::{Port, PortLimits, PortStatus, REFUSED_IN_WORDS_MAX};
pub use remote::Remote;
pub use server::{Http2Limits, serve};
pub use windows::{WindowLimits, Windows};

/// The ports of a node, and the descriptors of its process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sockets {
    /// The port for clients and operators, `--grpc_addr`.
    pub clients: Port,
    /// The port for peers, `--raft_addr`.
    pub peers: Port,
    /// The port for whoever runs the process, `--http_addr`.
    pub http: Port,
    /// The descriptors of the whole process.
    pub descriptors: Descriptors,
}

/// Figures of the sockets for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketsStatus {
    /// Descriptors that this process may have open at a time.
    pub descriptors_max: u64,
    /// Descriptors that it has open.
    pub descriptors_open: u64,
    /// The figures of each port.
    pub ports: [PortStatus; 3],
}

impl Sockets {
    /// Returns figures for operators.
    pub fn status(&self) -> SocketsStatus {
        SocketsStatus {
            descriptors_max: self.descriptors.max(),
            descriptors_open: self.descriptors.open(),
            ports: [&self.clients, &self.peers, &self.http].map(Port::status),
        }
    }
}
