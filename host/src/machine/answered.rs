//! What two machines answered to the same calls: how many answers differ, and the first that do,
//! within bounds on their number and their bytes. It runs nothing, and decides nothing about a
//! difference.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::outcome::is_same;
use super::rehearsal::report::{AnswerDifference, AnswerReport, Body, DIFFERENCES_MAX};
use crate::codec::Command;
use crate::guest::Verdict;

/// Most bytes of one request or reply in a report. A larger one is left out.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Most bytes of all requests and replies in a report.
const BODIES_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a failure's text in a report.
const DETAIL_BYTES_MAX: usize = 1 << 10;

/// The commands of a log, as two machines answered them.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnsweredCommands {
    /// Commands that both answered.
    pub(crate) commands: u64,
    /// How many of them they answered differently.
    pub(crate) different: u64,
    /// The first of those.
    pub(crate) differences: Differences,
}

impl AnsweredCommands {
    /// Compares the answers to the commands of entry `index`, which stand in the order of the
    /// commands. Returns the place of the first command that was answered differently.
    pub(crate) fn compare(
        &mut self,
        index: u64,
        commands: &[Command],
        old: &[Verdict],
        new: &[Verdict],
    ) -> Option<u32> {
        let mut first = None;
        for (position, ((command, old), new)) in (0u32..).zip(commands.iter().zip(old).zip(new)) {
            self.commands += 1;
            if self.differences.compare(&AnsweredTwice::command(index, position, command, old, new)) {
                self.different += 1;
                first = first.or(Some(position));
            }
        }
        first
    }
}

/// A call that was answered twice.
pub(crate) struct AnsweredTwice<'a> {
    pub(crate) index: Option<u64>,
    pub(crate) position: u32,
    pub(crate) method: &'a str,
    pub(crate) caller: &'a str,
    pub(crate) request: &'a [u8],
    pub(crate) old: &'a Verdict,
    pub(crate) new: &'a Verdict,
}

impl<'a> AnsweredTwice<'a> {
    /// Describes a command of entry `index`.
    pub(crate) fn command(
        index: u64,
        position: u32,
        command: &'a Command,
        old: &'a Verdict,
        new: &'a Verdict,
    ) -> AnsweredTwice<'a> {
        AnsweredTwice {
            index: Some(index),
            position,
            method: &command.method,
            caller: &command.caller,
            request: &command.request,
            old,
            new,
        }
    }
}

/// The first answers that differ, within bounds on their number and their bytes.
#[derive(Clone, Debug)]
pub(crate) struct Differences {
    list: Vec<AnswerDifference>,
    bytes_left: usize,
}

impl Default for Differences {
    fn default() -> Self {
        Differences { list: Vec::new(), bytes_left: BODIES_BYTES_MAX }
    }
}

impl Differences {
    /// Returns whether a client could tell one answer from the other. Then both are kept, if there
    /// is room for them.
    pub(crate) fn compare(&mut self, call: &AnsweredTwice<'_>) -> bool {
        let is_different = !is_same(call.old, call.new);
        if is_different {
            self.keep(call);
        }
        is_different
    }

    /// Returns what was kept so far.
    pub(crate) fn list(&self) -> &[AnswerDifference] {
        &self.list
    }

    /// Returns what was kept.
    pub(crate) fn into_list(self) -> Vec<AnswerDifference> {
        self.list
    }

    fn keep(&mut self, call: &AnsweredTwice<'_>) {
        if self.list.len() == DIFFERENCES_MAX {
            return;
        }
        let request = self.body(call.request);
        let (old, new) = (self.answer(call.old), self.answer(call.new));
        self.list.push(AnswerDifference {
            index: call.index,
            position: call.position,
            method: call.method.to_owned(),
            caller: call.caller.to_owned(),
            request,
            old,
            new,
        });
    }

    fn answer(&mut self, verdict: &Verdict) -> AnswerReport {
        match verdict {
            Verdict::Reply(reply) => AnswerReport::Reply(self.body(reply)),
            Verdict::Refused(status) => AnswerReport::Refused {
                code: status.code,
                message: status.message.clone(),
                details: self.body(&status.details),
            },
            Verdict::Failed(failure) => {
                let end = failure.detail.floor_char_boundary(DETAIL_BYTES_MAX);
                AnswerReport::Failed { reason: failure.reason, detail: failure.detail[..end].to_owned() }
            }
        }
    }

    fn body(&mut self, bytes: &[u8]) -> Body {
        let has_room = bytes.len() <= BODY_BYTES_MAX.min(self.bytes_left);
        if has_room {
            self.bytes_left -= bytes.len();
        }
        Body { bytes: bytes.len() as u64, base64: has_room.then(|| STANDARD.encode(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twice<'a>(request: &'a [u8], old: &'a Verdict, new: &'a Verdict) -> AnsweredTwice<'a> {
        AnsweredTwice { index: Some(7), position: 1, method: "S/M", caller: "alice", request, old, new }
    }

    fn reply(bytes: usize, byte: u8) -> Verdict {
        Verdict::Reply(vec![byte; bytes].into())
    }

    #[test]
    fn the_answers_of_an_entry_are_counted_and_the_first_difference_is_named() {
        let mut answered = AnsweredCommands::default();
        let command = |method: &str| Command { method: method.to_owned(), ..Command::default() };
        let commands = [command("S/A"), command("S/B"), command("S/C")];
        let old = [reply(1, 0), reply(1, 0), reply(1, 0)];
        let new = [reply(1, 0), reply(1, 1), reply(2, 0)];
        assert_eq!(answered.compare(4, &commands, &old, &old), None);
        assert_eq!(answered.compare(5, &commands, &old, &new), Some(1));
        assert_eq!((answered.commands, answered.different), (6, 2));
        let kept: Vec<_> = answered.differences.list().iter().map(|kept| (kept.index, &*kept.method)).collect();
        assert_eq!(kept, [(Some(5), "S/B"), (Some(5), "S/C")]);
    }

    #[test]
    fn differences_are_bounded_in_number_and_bytes() {
        let (small, other, large) = (reply(100, 7), reply(100, 8), reply(BODY_BYTES_MAX + 1, 7));
        let mut differences = Differences::default();
        assert!(differences.compare(&twice(b"x", &large, &small)));
        for _ in 0..2 * DIFFERENCES_MAX {
            assert!(differences.compare(&twice(&[1; BODY_BYTES_MAX], &small, &other)));
        }
        let list = differences.into_list();
        assert_eq!(list.len(), DIFFERENCES_MAX);
        let left_out = Body { bytes: BODY_BYTES_MAX as u64 + 1, base64: None };
        assert_eq!(list[0].old, AnswerReport::Reply(left_out));
        let kept: usize = list.iter().filter_map(|difference| difference.request.decode()).map(|body| body.len()).sum();
        assert!(kept <= BODIES_BYTES_MAX && kept > BODIES_BYTES_MAX / 2, "{kept}");
    }
}
