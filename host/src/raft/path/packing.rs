//! Chooses which of the queued commands go into one entry. Owns no task and never talks to Raft.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ticket::{Claim, NotProposed, Queued, Share, weight_bytes};
use crate::codec::Command;

/// Most commands in one entry.
pub const ENTRY_COMMANDS_MAX: usize = 1024;
/// Most bytes of commands in one entry. A single larger command goes alone.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Commands for one entry, all meant for the same term. Their clients can no longer withdraw them.
#[derive(Debug)]
pub struct Packed {
    /// The term that they are meant for.
    pub term: u64,
    /// The commands, in the order in which they were queued.
    pub commands: Vec<Command>,
    /// One claim for each command.
    pub claims: Vec<Claim>,
    /// The shares of the budget that the commands hold until the entry is applied.
    pub shares: Vec<Share>,
}

/// The queue of the proposer. It can put back a command that did not fit.
pub struct Queue {
    receiver: mpsc::Receiver<Queued>,
    held: VecDeque<Queued>,
}

impl Queue {
    /// Creates a queue over the receiving end of a bounded channel.
    pub fn new(receiver: mpsc::Receiver<Queued>) -> Queue {
        Queue { receiver, held: VecDeque::new() }
    }

    /// Completes when a command waits. Returns false when none will ever come. Cancel safe.
    pub async fn ready(&mut self) -> bool {
        if self.held.is_empty() {
            let Some(first) = self.receiver.recv().await else { return false };
            self.held.push_back(first);
        }
        true
    }

    /// Drops the commands whose term `leads` does not accept. Dropping a command answers "not
    /// leader".
    pub fn retain(&mut self, leads: impl Fn(u64) -> bool) {
        while let Ok(queued) = self.receiver.try_recv() {
            self.held.push_back(queued);
        }
        self.held.retain(|queued| leads(queued.term));
    }

    /// Returns the commands for the next entry. `None` when all waiting commands were withdrawn or
    /// expired.
    pub fn pack(&mut self, now: Instant) -> Option<Packed> {
        let mut batch = Packed { term: 0, commands: Vec::new(), claims: Vec::new(), shares: Vec::new() };
        let mut bytes = 0;
        while batch.commands.len() < ENTRY_COMMANDS_MAX {
            let Some(queued) = self.next() else { break };
            let weight = weight_bytes(&queued.command);
            let fits = batch.commands.is_empty() || (queued.term == batch.term && bytes + weight <= ENTRY_BYTES_MAX);
            if !fits {
                self.held.push_front(queued);
                break;
            }
            if queued.deadline <= now {
                queued.claim.refuse(NotProposed::Expired);
            } else if queued.claim.take() {
                bytes += weight;
                batch.term = queued.term;
                batch.commands.push(queued.command);
                batch.claims.push(queued.claim);
                batch.shares.push(queued.share);
            }
        }
        (!batch.commands.is_empty()).then_some(batch)
    }

    fn next(&mut self) -> Option<Queued> {
        self.held.pop_front().or_else(|| self.receiver.try_recv().ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::path::ticket::{Budget, Ticket, ticket};

    fn queued(term: u64, bytes: usize, deadline: Instant) -> (Ticket, Queued) {
        let (ticket, claim) = ticket();
        let command = Command { request: vec![0; bytes].into(), ..Command::default() };
        let share = Budget::new(usize::MAX).share(bytes).unwrap();
        (ticket, Queued { term, command, deadline, claim, share })
    }

    fn filled(commands: impl IntoIterator<Item = Queued>) -> Queue {
        let (sender, receiver) = mpsc::channel(10_000);
        for command in commands {
            sender.try_send(command).unwrap();
        }
        Queue::new(receiver)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn an_entry_takes_what_waits_up_to_its_count() {
        let (tickets, commands): (Vec<_>, Vec<_>) = (0..1500).map(|_| queued(1, 10, later())).unzip();
        let mut queue = filled(commands);
        assert_eq!(queue.pack(Instant::now()).unwrap().commands.len(), ENTRY_COMMANDS_MAX);
        assert_eq!(queue.pack(Instant::now()).unwrap().commands.len(), 1500 - ENTRY_COMMANDS_MAX);
        assert!(queue.pack(Instant::now()).is_none());
        drop(tickets);
    }

    #[test]
    fn an_entry_takes_what_waits_up_to_its_bytes_and_keeps_order() {
        let sizes = [600 << 10, 300 << 10, 300 << 10, 2 << 20, 1];
        let (tickets, commands): (Vec<_>, Vec<_>) = sizes.iter().map(|&size| queued(1, size, later())).unzip();
        let mut queue = filled(commands);
        let mut packed = Vec::new();
        while let Some(batch) = queue.pack(Instant::now()) {
            packed.push(batch.commands.iter().map(|command| command.request.len()).collect::<Vec<_>>());
        }
        assert_eq!(packed, [vec![600 << 10, 300 << 10], vec![300 << 10], vec![2 << 20], vec![1]]);
        drop(tickets);
    }

    #[test]
    fn terms_never_share_an_entry() {
        let (tickets, commands): (Vec<_>, Vec<_>) = [1, 1, 2].iter().map(|&term| queued(term, 1, later())).unzip();
        let mut queue = filled(commands);
        let first = queue.pack(Instant::now()).unwrap();
        assert_eq!((first.term, first.commands.len()), (1, 2));
        assert_eq!(queue.pack(Instant::now()).unwrap().term, 2);
        drop(tickets);
    }

    #[tokio::test]
    async fn withdrawn_and_expired_commands_stay_out() {
        let (withdrawn, first) = queued(1, 1, later());
        let (mut expired, second) = queued(1, 1, Instant::now());
        let (_kept, third) = queued(1, 1, later());
        assert!(withdrawn.withdraw());
        let mut queue = filled([first, second, third]);
        assert_eq!(queue.pack(Instant::now()).unwrap().commands.len(), 1);
        assert_eq!(expired.answer().await, Err(NotProposed::Expired));
    }

    #[tokio::test]
    async fn a_lost_term_is_answered_from_the_queue() {
        let (mut old, first) = queued(1, 1, later());
        let (_kept, second) = queued(2, 1, later());
        let mut queue = filled([first, second]);
        queue.retain(|term| term == 2);
        assert_eq!(old.answer().await, Err(NotProposed::NotLeader));
        assert_eq!(queue.pack(Instant::now()).unwrap().term, 2);
    }
}
