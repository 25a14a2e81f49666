//! The queue of the proposer: a bounded channel, and behind it the commands whose clients take
//! turns. Owns no task and never talks to Raft.

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::packing::Packed;
use super::ticket::Queued;
use super::turns::Turns;
use crate::machine::EntrySpent;

/// Commands that wait for an entry.
pub struct Queue {
    receiver: mpsc::Receiver<Queued>,
    turns: Turns,
    /// The commands in `turns`, for whoever shows them.
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    /// Creates a queue over the receiving end of a bounded channel.
    pub fn new(receiver: mpsc::Receiver<Queued>) -> Queue {
        Queue { receiver, turns: Turns::default(), waiting: Arc::default() }
    }

    /// Returns the count of the commands that have left the channel and wait for their turns.
    pub fn waiting(&self) -> Arc<AtomicUsize> {
        self.waiting.clone()
    }

    fn count(&self) {
        self.waiting.store(self.turns.waiting(), Relaxed);
    }

    /// Completes when a command may go. Returns false when none will ever come. Cancel safe.
    ///
    /// It does not complete while all commands are of clients that have their share under way: then
    /// [`Queue::settled`] is what changes that.
    pub async fn ready(&mut self) -> bool {
        while !self.turns.has_next(Instant::now()) {
            let (is_full, rest) = (self.turns.is_full(), self.turns.rest_until());
            tokio::select! {
                biased;
                () = until(rest) => {}
                more = self.receiver.recv(), if !is_full => match more {
                    Some(queued) => {
                        self.turns.push(queued, Instant::now());
                        self.count();
                    }
                    None if self.turns.is_empty() => return false,
                    None => until(rest).await,
                },
            }
        }
        true
    }

    /// Drops the commands whose term `leads` does not accept. Dropping a command answers "not
    /// leader".
    pub fn retain(&mut self, leads: impl Fn(u64) -> bool) {
        let now = Instant::now();
        while let Ok(queued) = self.receiver.try_recv() {
            self.turns.push(queued, now);
        }
        self.turns.retain(leads);
        self.count();
    }

    /// Returns the commands for the next entry. `None` when all waiting commands were withdrawn or
    /// expired, or may not go yet.
    pub fn pack(&mut self, now: Instant) -> Option<Packed> {
        while !self.turns.is_full()
            && let Ok(queued) = self.receiver.try_recv()
        {
            self.turns.push(queued, now);
        }
        let packed = self.turns.pack(now);
        self.count();
        packed
    }

    /// Notes that an entry is over, and what its commands took, in order. Nothing of what they took
    /// when that is not known.
    pub fn settled(&mut self, packed: &Packed, spent: &EntrySpent, now: Instant) {
        self.turns.settled(packed, spent, now);
        self.count();
    }
}

/// Completes at this time; never if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, LazyLock};
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::codec::Command;
    use crate::machine::{Admitted, Spent};
    use crate::raft::path::costs;
    use crate::raft::path::packing::ENTRY_COMMANDS_MAX;
    use crate::raft::path::ticket::{Budget, NotProposed, Ticket, Wait, ticket};
    use crate::source::Party;

    fn queued(term: u64, bytes: usize, deadline: Instant) -> (Ticket, Queued) {
        let (ticket, claim) = ticket();
        let command = Command { request: vec![0; bytes].into(), ..Command::default() };
        static BUDGET: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(usize::MAX));
        let share = BUDGET.share(bytes).unwrap();
        let (party, wait, admitted) = (Party::default(), Wait::until(deadline), Admitted::default());
        (ticket, Queued { term, party, command, wait, claim, share, admitted })
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
    async fn a_client_that_has_its_share_under_way_is_waited_for_without_a_busy_loop() {
        let (tickets, mut commands): (Vec<_>, Vec<_>) = (0..9).map(|_| queued(1, 1, later())).unzip();
        commands[0].party = Party::told_by(1, 0);
        for command in &mut commands[1..] {
            command.party = Party::named("new");
        }
        let mut queue = filled(commands);
        assert!(queue.ready().await);
        let packed = queue.pack(Instant::now()).unwrap();
        assert_eq!(packed.commands.len(), 1 + costs::UNTRIED_COMMANDS_MAX);
        assert!(queue.ready().now_or_never().is_none(), "nothing may go now");
        queue.settled(&packed, &EntrySpent::default(), Instant::now());
        assert!(queue.ready().await);
        assert_eq!(queue.pack(Instant::now()).unwrap().commands.len(), 8 - costs::UNTRIED_COMMANDS_MAX);
        assert!(!queue.ready().await, "no sender is left");
        drop(tickets);
    }

    #[tokio::test]
    async fn heavy_commands_are_waited_for_while_they_rest() {
        let (sender, receiver) = mpsc::channel(10);
        let mut queue = Queue::new(receiver);
        let mut tickets = Vec::new();
        let mut send = |name| {
            let (ticket, mut queued) = queued(1, 1, later());
            queued.party = Party::named(name);
            sender.try_send(queued).unwrap();
            tickets.push(ticket);
        };
        let spent = |fuel, took| EntrySpent { commands: vec![Some(Spent { fuel, ..Spent::default() })], took };
        for (name, fuel) in [("heavy", 50_000_000), ("light", 1)] {
            send(name);
            let packed = queue.pack(Instant::now()).unwrap();
            queue.settled(&packed, &spent(fuel, Duration::ZERO), Instant::now());
        }
        send("heavy");
        send("heavy");
        let packed = queue.pack(Instant::now()).unwrap();
        queue.settled(&packed, &spent(50_000_000, Duration::from_millis(100)), Instant::now());
        let until = queue.turns.rest_until().unwrap();
        drop(sender);
        assert!(queue.ready().await && Instant::now() >= until);
        assert!(queue.pack(Instant::now()).unwrap().is_heavy);
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
