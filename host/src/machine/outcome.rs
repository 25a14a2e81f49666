//! The outcome of a command, and those of its bytes that are equal on every replica: a reply, a
//! refusal or an enumerated reason. The state hash covers these bytes. Local details (messages of
//! traps, backtraces) are therefore kept beside them and never in them.

use bytes::Bytes;

use crate::codec::CodecError;
use crate::guest::{Failure, Reason, Status, Verdict};

/// The outcome of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Log index of the entry that held the command.
    pub index: u64,
    /// The command's place in that entry.
    pub position: u32,
    /// Term of that entry.
    pub term: u64,
    /// Log time of that entry, in milliseconds since 1970; 0 when the outcome came from another
    /// node.
    pub time_ms: u64,
    /// How the guest's call ended.
    pub verdict: Verdict,
}

/// Makes the verdict on a command that the host did not run: its entry had no fuel left for it, or
/// no room for more replies, or it stands in the log before the cluster's genesis entry. The
/// command changed nothing and may be sent again as it is.
pub fn not_run() -> Verdict {
    Verdict::Failed(Failure { reason: Reason::NotRun, detail: String::new() })
}

/// Returns whether a verdict is [`not_run`].
pub fn is_not_run(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failed(failure) if failure.reason == Reason::NotRun)
}

/// Returns whether a client could not tell one from the other. Texts of failures are local.
pub(crate) fn is_same(old: &Verdict, new: &Verdict) -> bool {
    match (old, new) {
        (Verdict::Failed(old), Verdict::Failed(new)) => old.reason == new.reason,
        (old, new) => old == new,
    }
}

// First byte of an encoded verdict. Frozen.
const REPLY: u8 = 1;
const REFUSED: u8 = 2;
const FAILED: u8 = 3;

/// Longest head of an encoded verdict: that of a refusal.
const HEAD_BYTES_MAX: usize = 9;

/// The replicated bytes of a verdict: a tag, then the reply; or code (u32 LE), message length (u32
/// LE), message, details; or the reason. They are parts of the verdict itself, so that a reply of
/// some megabytes is hashed without a copy.
pub(crate) struct Parts<'a> {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    rest: [&'a [u8]; 2],
}

impl<'a> Parts<'a> {
    /// Returns the parts of a verdict.
    pub(crate) fn of(verdict: &'a Verdict) -> Parts<'a> {
        match verdict {
            Verdict::Reply(reply) => Parts::new(&[REPLY], [reply.as_ref(), &[]]),
            Verdict::Refused(status) => Parts::refused(status),
            Verdict::Failed(failure) => Parts::new(&[FAILED, failure.reason as u8], [&[], &[]]),
        }
    }

    /// Returns bytes that are no verdict.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Parts<'a> {
        Parts::new(&[], [bytes, &[]])
    }

    fn refused(status: &'a Status) -> Parts<'a> {
        let mut head = [REFUSED; HEAD_BYTES_MAX];
        head[1..5].copy_from_slice(&status.code.to_le_bytes());
        head[5..].copy_from_slice(&(status.message.len() as u32).to_le_bytes());
        Parts::new(&head, [status.message.as_bytes(), &status.details])
    }

    fn new(given: &[u8], rest: [&'a [u8]; 2]) -> Parts<'a> {
        let mut head = [0; HEAD_BYTES_MAX];
        head[..given.len()].copy_from_slice(given);
        Parts { head, head_bytes: given.len(), rest }
    }

    /// Returns the number of bytes of all parts.
    pub(crate) fn len(&self) -> usize {
        self.head_bytes + self.rest.iter().map(|part| part.len()).sum::<usize>()
    }

    /// Returns the parts in order.
    pub(crate) fn each(&self) -> [&[u8]; 3] {
        [&self.head[..self.head_bytes], self.rest[0], self.rest[1]]
    }
}

/// Encodes the replicated bytes of a verdict, see [`Parts`].
pub fn encode_verdict(verdict: &Verdict) -> Vec<u8> {
    Parts::of(verdict).each().concat()
}

/// Returns the bytes of what the guest answered. A replica holds them until the entry is committed.
pub(crate) fn bytes_held(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Reply(reply) => reply.len() as u64,
        Verdict::Refused(status) => (status.message.len() + status.details.len()) as u64,
        // Its text is no part of the outcome, and its reason has one byte.
        Verdict::Failed(_) => 0,
    }
}

/// Decodes the bytes of [`encode_verdict`]. `detail` is the text that travelled beside them.
pub fn decode_verdict(bytes: &Bytes, detail: &str) -> Result<Verdict, CodecError> {
    let damaged = |what: &str| CodecError::Damaged(format!("verdict: {what}"));
    match bytes.first() {
        Some(&REPLY) => Ok(Verdict::Reply(bytes.slice(1..))),
        Some(&REFUSED) => decode_status(&bytes[1..]).map(Verdict::Refused).ok_or_else(|| damaged("refusal")),
        Some(&FAILED) => {
            let reason = bytes.get(1).copied().and_then(Reason::from_u8).ok_or_else(|| damaged("unknown reason"))?;
            Ok(Verdict::Failed(Failure { reason, detail: detail.into() }))
        }
        _ => Err(damaged("unknown tag")),
    }
}

fn decode_status(body: &[u8]) -> Option<Status> {
    let (code, rest) = body.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (message, details) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(Status {
        code: u32::from_le_bytes(*code),
        message: String::from_utf8(message.to_vec()).ok()?,
        details: details.to_vec(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    #[test]
    fn verdict_bytes_are_frozen() {
        let refused = Verdict::Refused(Status { code: 5, message: "no".into(), details: vec![7] });
        let failed = Verdict::Failed(Failure { reason: Reason::Fuel, detail: "only here".into() });
        assert_eq!(hex(&encode_verdict(&Verdict::Reply(Bytes::from_static(b"ab")))), "016162");
        assert_eq!(hex(&encode_verdict(&refused)), "0205000000020000006e6f07");
        assert_eq!(hex(&encode_verdict(&failed)), "0302");
    }

    #[test]
    fn texts_of_failures_are_not_compared() {
        let failed = |reason, detail: &str| Verdict::Failed(Failure { reason, detail: detail.into() });
        assert!(is_same(&failed(Reason::Trap, "at a"), &failed(Reason::Trap, "at b")));
        assert!(!is_same(&failed(Reason::Trap, ""), &failed(Reason::Fuel, "")));
        assert!(!is_same(&failed(Reason::Trap, ""), &Verdict::Reply(Bytes::new())));
    }

    #[test]
    fn verdicts_survive_the_hop_with_their_detail() {
        for verdict in [
            Verdict::Reply(Bytes::new()),
            Verdict::Failed(Failure { reason: Reason::NotRun, detail: "here".into() }),
            Verdict::Failed(Failure { reason: Reason::Stream, detail: "here".into() }),
        ] {
            let bytes = Bytes::from(encode_verdict(&verdict));
            assert_eq!(decode_verdict(&bytes, "here").unwrap(), verdict);
        }
        for foreign in [&b""[..], b"\x09", b"\x03\xff", b"\x02\0\0"] {
            assert!(decode_verdict(&Bytes::from_static(foreign), "").is_err());
        }
    }
}
