//! Why a call into a guest fails: the guest's own failure, which every replica gets alike and
//! records, or a fault of this host. `outcome` tells which one an error is.

use serde::{Deserialize, Serialize};

use super::Context;

/// Why a guest failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason. It is equal on every replica, so it is recorded and hashed.
    pub reason: Reason,
    /// A message or the guest's backtrace, for the local log and the client only, because it may
    /// differ between nodes.
    pub detail: String,
}

impl Failure {
    /// Puts the method and its position in the log in front of the detail.
    pub(super) fn at(mut self, method: &str, context: Context) -> Self {
        let Context { index, position, .. } = context;
        self.detail = format!("{method} at index {index}, position {position}: {}", self.detail);
        self
    }
}

/// The enumerated part of a failure. The values are stored and hashed, so they are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Reason {
    /// A WebAssembly trap, such as `unreachable` or an access out of bounds.
    Trap = 1,
    /// The fuel of the call was used up.
    Fuel = 2,
    /// A trap after the guest was denied memory or table growth past the profile's limit.
    Memory = 3,
    /// The stack was used up.
    Stack = 4,
    /// Too many store calls, bytes or removed keys in one call.
    StoreBudget = 5,
    /// A key, a value, a chunk, or the writes of one command are too big.
    LimitExceeded = 6,
    /// A value that crossed the boundary was not valid for its type, or `migrate` returned the
    /// cursor that it was given.
    MalformedReply = 7,
    /// A reply, memo, cursor or status details exceeded its limit.
    OversizedReply = 8,
    /// The guest used an import that this kind of call may not use.
    Forbidden = 9,
    /// The guest called `log.abort`.
    Aborted = 10,
    /// The deadline passed; never in a command.
    Deadline = 11,
    /// The other side of a snapshot or restore stream failed; never in a command.
    Stream = 12,
    /// The host did not call the guest: the entry had no fuel left for the command or no room for
    /// its reply, or the cluster had no genesis yet. The command may be sent again.
    NotRun = 13,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 13] = [
        Reason::Trap,
        Reason::Fuel,
        Reason::Memory,
        Reason::Stack,
        Reason::StoreBudget,
        Reason::LimitExceeded,
        Reason::MalformedReply,
        Reason::OversizedReply,
        Reason::Forbidden,
        Reason::Aborted,
        Reason::Deadline,
        Reason::Stream,
        Reason::NotRun,
    ];

    /// Returns the reason that is stored as this byte, if there is one.
    pub fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }
}

/// This host could not do its part. The node must not go on as if the guest had failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host fault: {0}")]
pub struct HostFault(pub String);

/// How an import or the limiter ends the call that it serves.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{}", .0.detail)]
    Guest(Failure),
    #[error("{0}")]
    Host(String),
}

impl Ended {
    pub(super) fn guest(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Guest(Failure { reason, detail: detail.into() })
    }
}
