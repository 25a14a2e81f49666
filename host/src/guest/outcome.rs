//! The outcome of a call. An error that every replica gets alike is an outcome (`Verdict`) and is
//! recorded like any other. Only the causes that `classify` lists are this host's own faults
//! (`HostFault`); they stop the node and never become an outcome.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmtime::{OutOfMemory, PoolConcurrencyLimitError, Trap, WasmBacktrace};

use super::Context;
use super::frames;
use super::limits::Limits;

/// Most bytes of a failure's detail that are kept.
const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// gRPC's code INTERNAL. It replaces a refusal code that gRPC does not have.
const CODE_INTERNAL: u32 = 13;

/// The guest's own refusal, sent to the client unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The gRPC code, 1 to 16.
    pub code: u32,
    /// A message for people, within the profile's limit.
    pub message: String,
    /// An encoded `google.rpc.Status`; empty if there is none.
    pub details: Vec<u8>,
}

/// The verdict on a call. Anything but a reply undoes the call's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest answered. Empty for `snapshot` and `restore`.
    Reply(Bytes),
    /// The guest refused.
    Refused(Status),
    /// The guest failed before it had an answer.
    Failed(Failure),
}

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
    /// A value that crossed the boundary was not valid for its type.
    MalformedReply = 7,
    /// A reply, memo or status details exceeded the profile's limit.
    OversizedReply = 8,
    /// The guest used an import that this kind of call may not use.
    Forbidden = 9,
    /// The guest called `log.abort`.
    Aborted = 10,
    /// The deadline passed; never in a command.
    Deadline = 11,
    /// The other side of a snapshot or restore stream failed; never in a command.
    Stream = 12,
    /// The host did not call the guest: the entry had no fuel left for the command, or the cluster
    /// had no genesis yet. The command may be sent again.
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

/// What an epoch interrupt means for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// The call's deadline passed.
    Deadline,
    /// A fault of the host: calls without a deadline are never interrupted.
    Fault,
}

/// Classifies the error of a call that did not return. `growth_denied` tells whether the call was
/// refused memory or table growth.
pub(super) fn classify(
    error: &wasmtime::Error,
    interrupts: Interrupts,
    growth_denied: bool,
) -> Result<Failure, HostFault> {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return match ended {
            Ended::Guest(failure) => Ok(Failure { reason: failure.reason, detail: detail(error) }),
            Ended::Host(fault) => Err(HostFault(fault.clone())),
        };
    }
    if error.is::<PoolConcurrencyLimitError>() || error.is::<OutOfMemory>() {
        return Err(HostFault(format!("{error:#}")));
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) if interrupts == Interrupts::Fault => {
            return Err(HostFault("a call without a deadline was interrupted".to_owned()));
        }
        Some(Trap::Interrupt) => Reason::Deadline,
        Some(Trap::OutOfFuel) => Reason::Fuel,
        Some(Trap::StackOverflow) => Reason::Stack,
        Some(_) if growth_denied => Reason::Memory,
        Some(_) => Reason::Trap,
        // Errors of lifting and lowering are plain errors in wasmtime, not traps.
        None => Reason::MalformedReply,
    };
    Ok(Failure { reason, detail: detail(error) })
}

/// Describes the error first, then the place: if the text is cut, the outermost frames are lost.
fn detail(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<WasmBacktrace>() {
        Some(trace) if !trace.frames().is_empty() => {
            format!("{}\nin the guest:\n{}", error.root_cause(), frames::of(trace))
        }
        _ => format!("{error:#}"),
    };
    cut(&mut text, DETAIL_BYTES_MAX);
    text
}

/// Checks a guest's refusal and brings it into the form that the contract promises to clients.
pub(super) fn refusal(mut status: Status, limits: &Limits) -> Verdict {
    if status.details.len() > limits.status_details_bytes_max as usize {
        return oversized("status details", status.details.len(), limits.status_details_bytes_max);
    }
    if !(1..=16).contains(&status.code) {
        status.code = CODE_INTERNAL;
    }
    cut(&mut status.message, limits.status_message_bytes_max as usize);
    Verdict::Refused(status)
}

/// Makes a verdict of a reply; it is a failure if the reply exceeds the profile's limit.
pub(super) fn reply(reply: Vec<u8>, limits: &Limits) -> Verdict {
    if reply.len() > limits.reply_bytes_max as usize {
        return oversized("reply", reply.len(), limits.reply_bytes_max);
    }
    Verdict::Reply(reply.into())
}

pub(super) fn oversized(what: &str, bytes: usize, bytes_max: u32) -> Verdict {
    let detail = format!("the {what} has {bytes} bytes, the limit is {bytes_max}");
    Verdict::Failed(Failure { reason: Reason::OversizedReply, detail })
}

/// Cuts at a character boundary, so that the text stays valid UTF-8.
pub(super) fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}
