//! The outcome of a call. An error that every replica gets alike is an outcome (`Verdict`) and is
//! recorded like any other. Only the causes that `classify` lists are this host's own faults
//! (`HostFault`); they stop the node and never become an outcome.

use std::fmt::Display;
use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmtime::{OutOfMemory, PoolConcurrencyLimitError, Trap, WasmBacktrace};

use super::depth;
use super::failure::{Ended, Failure, HostFault, Reason};
use super::frames;
use super::limits::Limits;
use crate::logs::Sparse;

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

/// What an epoch interrupt means for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// The call's deadline passed.
    Deadline,
    /// A fault of the host: calls without a deadline are never interrupted.
    Fault,
}

/// What decides the meaning of an error beside the error itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub(super) interrupts: Interrupts,
    /// Whether the call was refused memory or table growth.
    pub(super) growth_denied: bool,
    /// Whether the guest's own code meters how deep it recurses.
    pub(super) meters_depth: bool,
}

/// Classifies the error of a call that did not return.
pub(super) fn classify(error: &wasmtime::Error, circumstances: Circumstances) -> Result<Failure, HostFault> {
    let Circumstances { interrupts, growth_denied, meters_depth } = circumstances;
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
        Some(Trap::UnreachableCodeReached) if meters_depth && is_stack_used_up(error) => {
            return Ok(Failure { reason: Reason::Stack, detail: detail_of(error, &Trap::StackOverflow, 1) });
        }
        Some(Trap::StackOverflow) => {
            if meters_depth {
                tell_of_native_overflow();
            }
            Reason::Stack
        }
        Some(_) if growth_denied => Reason::Memory,
        Some(_) => Reason::Trap,
        // Errors of lifting and lowering are plain errors in wasmtime, not traps.
        None => Reason::MalformedReply,
    };
    Ok(Failure { reason, detail: detail(error) })
}

fn is_stack_used_up(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<WasmBacktrace>().is_some_and(depth::is_used_up)
}

fn is_in_a_price(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<WasmBacktrace>().is_some_and(depth::is_in_a_price)
}

/// Tells that a guest filled the native stack before the metered one. The outcome is the same, but
/// another build or architecture may have ended the recursion elsewhere.
fn tell_of_native_overflow() {
    static TOLD: LazyLock<Sparse> = LazyLock::new(Sparse::default);
    if let Some(left_out) = TOLD.due() {
        tracing::error!(
            left_out,
            "a guest filled the native stack before the metered one: its functions need far more room than they declare, and \
             nodes of another build or architecture may answer otherwise; please report this guest"
        );
    }
}

/// Describes the error first, then the place: if the text is cut, the outermost frames are lost.
fn detail(error: &wasmtime::Error) -> String {
    detail_of(error, &error.root_cause(), usize::from(is_in_a_price(error)))
}

/// Describes the error in these words. The innermost `hidden` functions are no functions of the
/// guest's author.
fn detail_of(error: &wasmtime::Error, words: &dyn Display, hidden: usize) -> String {
    let mut text = match error.downcast_ref::<WasmBacktrace>() {
        Some(trace) if !trace.frames().is_empty() => {
            format!("{words}\nin the guest:\n{}", frames::of(trace, hidden))
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
