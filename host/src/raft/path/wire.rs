//! How a forwarded command ended, as the leader tells it to the node that forwarded it: both
//! directions of the conversion. It decides nothing and sends nothing.

use lockstep_proto::peer;
use lockstep_proto::peer::forward_response::Result as End;
use lockstep_proto::peer::not_proposed::Reason;

use super::ticket::NotProposed;
use crate::codec::CodecError;
use crate::guest::Verdict;
use crate::machine::{Fate, Outcome, decode_verdict, encode_verdict};

/// Encodes how a command ended. An end that says nothing leaves the decision to the other node's
/// waiters.
pub fn encode_end(ended: Result<Fate, NotProposed>) -> Option<End> {
    match ended {
        Ok(Fate::Outcome(outcome)) => Some(End::Outcome(encode_outcome(&outcome))),
        Ok(Fate::NotRun) => Some(End::NotProposed(encode_not_proposed(&NotProposed::NotLeader))),
        Ok(Fate::Unknown) => None,
        Err(reason) => Some(End::NotProposed(encode_not_proposed(&reason))),
    }
}

/// Decodes what [`encode_end`] encoded.
pub fn decode_end(end: Option<End>) -> Result<Fate, NotProposed> {
    match end {
        Some(End::NotProposed(refusal)) => Err(decode_not_proposed(refusal)),
        Some(End::Outcome(outcome)) => Ok(decode_outcome(&outcome).map_or_else(
            |error| {
                // This node's own apply will give the outcome.
                tracing::error!(%error, "the leader sent an outcome that this node cannot read");
                Fate::Unknown
            },
            Fate::Outcome,
        )),
        None => Ok(Fate::Unknown),
    }
}

fn encode_not_proposed(reason: &NotProposed) -> peer::NotProposed {
    let (code, detail, index) = match reason {
        NotProposed::NotLeader => (Reason::NotLeader, reason.to_string(), 0),
        NotProposed::Overloaded(limit) => (Reason::Overloaded, limit.clone(), 0),
        NotProposed::Expired => (Reason::Expired, reason.to_string(), 0),
        NotProposed::TooLarge { .. } => (Reason::TooLarge, reason.to_string(), 0),
        NotProposed::Stopping => (Reason::Stopping, reason.to_string(), 0),
        NotProposed::Removed { index } => (Reason::Removed, reason.to_string(), *index),
        NotProposed::CallerUnproven => (Reason::CallerUnproven, reason.to_string(), 0),
    };
    peer::NotProposed { reason: code.into(), detail, index }
}

fn decode_not_proposed(refusal: peer::NotProposed) -> NotProposed {
    match refusal.reason() {
        Reason::Overloaded => NotProposed::Overloaded(refusal.detail),
        Reason::Expired => NotProposed::Expired,
        // Both nodes check the same limit before anything is sent, so this is a leader of another
        // version.
        Reason::TooLarge => NotProposed::Overloaded(refusal.detail),
        Reason::Removed => NotProposed::Removed { index: refusal.index },
        Reason::CallerUnproven => NotProposed::CallerUnproven,
        // A leader that stops leaves the lead to another node.
        Reason::NotLeader | Reason::Stopping => NotProposed::NotLeader,
    }
}

fn encode_outcome(outcome: &Outcome) -> peer::Outcome {
    let detail = match &outcome.verdict {
        Verdict::Failed(failure) => failure.detail.clone(),
        _ => String::new(),
    };
    peer::Outcome {
        index: outcome.index,
        position: outcome.position,
        term: outcome.term,
        verdict: encode_verdict(&outcome.verdict).into(),
        detail,
    }
}

/// Decodes what [`encode_outcome`] encoded. Log time is not transmitted.
fn decode_outcome(outcome: &peer::Outcome) -> Result<Outcome, CodecError> {
    Ok(Outcome {
        index: outcome.index,
        position: outcome.position,
        term: outcome.term,
        time_ms: 0,
        verdict: decode_verdict(&outcome.verdict, &outcome.detail)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn hop(ended: Result<Fate, NotProposed>) -> Result<Fate, NotProposed> {
        decode_end(encode_end(ended))
    }

    #[test]
    fn ends_keep_their_meaning_over_the_hop() {
        let full = NotProposed::Overloaded("full".into());
        let removed = NotProposed::Removed { index: 9 };
        for reason in [NotProposed::NotLeader, full, NotProposed::Expired, removed, NotProposed::CallerUnproven] {
            assert_eq!(hop(Err(reason.clone())), Err(reason));
        }
        let verdict = Verdict::Reply(Bytes::from_static(b"done"));
        let outcome = Outcome { index: 7, position: 1, term: 2, time_ms: 0, verdict };
        assert_eq!(hop(Ok(Fate::Outcome(outcome.clone()))), Ok(Fate::Outcome(outcome)));
        assert_eq!(hop(Ok(Fate::Unknown)), Ok(Fate::Unknown));
        assert_eq!(hop(Ok(Fate::NotRun)), Err(NotProposed::NotLeader), "it may be sent again");
        assert_eq!(hop(Err(NotProposed::Stopping)), Err(NotProposed::NotLeader), "another node will lead");
    }

    #[test]
    fn an_outcome_that_cannot_be_read_is_left_to_the_waiters() {
        let damaged = peer::Outcome { verdict: Bytes::from_static(b"\x09"), ..peer::Outcome::default() };
        assert_eq!(decode_end(Some(End::Outcome(damaged))), Ok(Fate::Unknown));
    }
}
