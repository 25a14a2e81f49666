//! The last commands of a replay, for the script that shows a difference. It bounds their number
//! and their bytes, and runs nothing.

use std::collections::VecDeque;

use bytes::Bytes;

use super::history::Content;

/// Most commands that are kept.
const COMMANDS_MAX: usize = 4096;
/// Most bytes of their requests, methods and callers.
const BYTES_MAX: usize = 64 << 20;

/// A command of the log that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RanCommand {
    /// Its entry.
    pub index: u64,
    /// Its place in the entry.
    pub position: u32,
    /// Log time of the entry.
    pub time_ms: u64,
    /// The method, as `package.Service/Method`.
    pub method: String,
    /// The authenticated client; empty if there is none.
    pub caller: String,
    /// The encoded request.
    pub request: Bytes,
}

impl RanCommand {
    fn bytes(&self) -> usize {
        self.method.len() + self.caller.len() + self.request.len()
    }
}

/// The last commands, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    list: VecDeque<RanCommand>,
    bytes: usize,
    left_out: u64,
}

impl Kept {
    /// Returns the commands, oldest first.
    pub fn commands(&self) -> impl Iterator<Item = &RanCommand> {
        self.list.iter()
    }

    /// Returns how many older ones were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Adds the commands of an entry of which the first `run` were run.
    pub(super) fn add(&mut self, index: u64, time_ms: u64, content: &Content, run: usize) {
        let commands = content.entry().map(|entry| entry.commands.as_slice()).unwrap_or_default();
        for (position, command) in (0u32..).zip(commands.iter().take(run)) {
            let command = RanCommand {
                index,
                position,
                time_ms,
                method: command.method.clone(),
                caller: command.caller.clone(),
                request: command.request.clone(),
            };
            self.bytes += command.bytes();
            self.list.push_back(command);
        }
        while self.list.len() > COMMANDS_MAX || self.bytes > BYTES_MAX && self.list.len() > 1 {
            let Some(oldest) = self.list.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.left_out += 1;
        }
    }

    /// Forgets the commands behind this one.
    pub(super) fn end_at(&mut self, index: u64, position: u32) {
        while let Some(last) = self.list.back().filter(|last| (last.index, last.position) > (index, position)) {
            self.bytes -= last.bytes();
            self.list.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Command;
    use crate::codec::entry::Entry;

    #[test]
    fn the_newest_commands_that_were_run_are_kept() {
        let mut kept = Kept::default();
        let command = Command { method: "S/M".into(), ..Command::default() };
        let content = Content::Commands(Box::new(Entry { commands: vec![command; 3], ..Entry::default() }));
        for index in 0..COMMANDS_MAX as u64 {
            kept.add(index, 7, &content, 2);
        }
        let first = kept.commands().next().map(|command| (command.index, command.position));
        let numbers = (kept.commands().count(), kept.left_out(), first);
        assert_eq!(numbers, (COMMANDS_MAX, COMMANDS_MAX as u64, Some((COMMANDS_MAX as u64 / 2, 0))));
        kept.end_at(COMMANDS_MAX as u64 - 1, 0);
        let last = kept.commands().last().map(|command| (command.index, command.position));
        assert_eq!(last, Some((COMMANDS_MAX as u64 - 1, 0)));
    }
}
