//! The read-only mode: a record of the state that says which commands the cluster refuses. An entry
//! sets it, and apply obeys it. This module owns its bytes on disk and its words. It proposes
//! nothing and runs no guest.
//!
//! - The record decides at apply. So no command slips in over a change of leader, and every node
//!   refuses the same ones.
//! - A node also refuses by its own copy before it proposes. That spares the log, and decides
//!   nothing.

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::codec::{self, CodecError, decode_record, encode_record};
use crate::guest::{Status, Verdict};
use crate::pattern::Pattern;

/// gRPC's code FAILED_PRECONDITION.
const CODE: u32 = 9;

/// What the client of a command reads that apply refused. It is part of the outcome, and frozen.
const REFUSAL: &str = "the cluster is in read-only mode; the command was not applied";

/// The mode that the last entry about it has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// Index of that entry.
    pub index: u64,
    /// Log time of that entry, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether commands are refused.
    pub on: bool,
    /// The methods whose commands are refused. Empty for all.
    pub methods: Vec<Pattern>,
    /// Who set it; empty if nobody has shown a name.
    pub by: String,
}

impl ReadOnly {
    /// Returns the mode that an entry sets.
    pub(crate) fn set_by(index: u64, time_ms: u64, entry: &codec::entry::ReadOnly) -> ReadOnly {
        let methods = entry.methods.iter().map(Pattern::new).collect();
        ReadOnly { index, time_ms, on: entry.on, methods, by: entry.by.clone() }
    }

    /// Returns whether commands of all methods are refused.
    pub fn covers_all(&self) -> bool {
        self.on && self.methods.is_empty()
    }

    /// Returns whether commands of this method are refused.
    pub fn covers(&self, method: &str) -> bool {
        self.on && (self.methods.is_empty() || self.pattern_of(method).is_some())
    }

    /// Says to a client why a command of this method was not proposed.
    pub fn words(&self, method: &str) -> String {
        let covered = match self.pattern_of(method) {
            Some(pattern) => format!("for methods that match {}", pattern.as_str()),
            None => "for all methods".to_owned(),
        };
        format!(
            "the cluster is in read-only mode {covered}, since entry {}; the command was not applied. Queries and watches go on; \
             `lockstep admin <leader's addr> read_only off` ends the mode",
            self.index
        )
    }

    fn pattern_of(&self, method: &str) -> Option<&Pattern> {
        self.methods.iter().find(|pattern| pattern.matches(method))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let ReadOnly { index, time_ms, on, by, .. } = self;
        let methods = self.methods.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        encode_record(&ReadOnlyRecord { index: *index, time_ms: *time_ms, on: *on, methods, by: by.clone() })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<ReadOnly, CodecError> {
        let ReadOnlyRecord { index, time_ms, on, methods, by } = decode_record(bytes)?;
        Ok(ReadOnly { index, time_ms, on, methods: methods.into_iter().map(Pattern::new).collect(), by })
    }
}

#[derive(Serialize, Deserialize)]
struct ReadOnlyRecord {
    index: u64,
    time_ms: u64,
    on: bool,
    methods: Vec<String>,
    by: String,
}

/// Makes the verdict on a command that the mode refuses at its place in the log.
pub(crate) fn refusal() -> Verdict {
    Verdict::Refused(Status { code: CODE, message: REFUSAL.to_owned(), details: Vec::new() })
}

/// Returns the words of a verdict that is a [`refusal`] by the mode: its command was not run. A
/// guest that refuses in the same words has undone its writes, so that is as true of it.
pub fn read_only_refusal(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Refused(Status { code: CODE, message, details }) if message == REFUSAL && details.is_empty() => {
            Some(message)
        }
        _ => None,
    }
}

impl Machine {
    /// Returns the mode that the last entry about it has set, as this node has applied it. `None`
    /// if there was none.
    pub fn read_only(&self) -> Option<ReadOnly> {
        self.shared.read_only().map(|mode| (*mode).clone())
    }

    /// Says why commands of this method are refused, if they are.
    pub fn refuses_method(&self, method: &str) -> Option<String> {
        let mode = self.shared.read_only()?;
        mode.covers(method).then(|| mode.words(method))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn mode(on: bool, methods: &[&str]) -> ReadOnly {
        let methods = methods.iter().map(|method| Pattern::new(*method)).collect();
        ReadOnly { index: 9, time_ms: 7, on, methods, by: "ann".into() }
    }

    #[test]
    fn a_mode_covers_all_methods_or_those_that_match() {
        let rows = [
            (mode(true, &[]), "a.B/C", true),
            (mode(false, &[]), "a.B/C", false),
            (mode(true, &["a.*/C", "x.Y/*"]), "a.B/C", true),
            (mode(true, &["a.*/C", "x.Y/*"]), "a.B/D", false),
            (mode(false, &["a.*/C"]), "a.B/C", false),
        ];
        for (mode, method, covers) in rows {
            assert_eq!(mode.covers(method), covers, "{mode:?} {method}");
        }
        assert!(mode(true, &["a.*/C"]).words("a.B/C").contains("for methods that match a.*/C, since entry 9"));
        assert!(mode(true, &[]).words("a.B/C").contains("for all methods"));
    }

    #[test]
    fn record_bytes_are_frozen() {
        let word = |value: u8| format!("{value:02x}00000000000000");
        let text = |text: &str| word(text.len() as u8) + &hex(text.as_bytes());
        let wanted = ["01".to_owned() + &word(9), word(7), "01".into(), word(1) + &text("a.*/C"), text("ann")];
        let mode = mode(true, &["a.*/C"]);
        assert_eq!(hex(&mode.encode()), wanted.concat());
        assert_eq!(ReadOnly::decode(&mode.encode()).unwrap(), mode);
    }

    #[test]
    fn a_refusal_of_the_guest_is_another_one() {
        assert_eq!(read_only_refusal(&refusal()), Some(REFUSAL));
        let guests = Status { code: CODE, message: "closed".into(), details: Vec::new() };
        assert_eq!(read_only_refusal(&Verdict::Refused(guests)), None);
    }
}
