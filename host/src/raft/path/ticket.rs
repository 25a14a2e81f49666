//! The two ends of one attempt to have a command proposed: the [`Ticket`] of the waiting caller and
//! the [`Claim`] of the proposer. Owns the answer to "was it still queued?", which decides between
//! "not applied" and "unknown". Never proposes itself.

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::Command;
use crate::machine::{Admitted, Outcome, not_run};
use crate::source::Party;

/// Why a command, or an entry, was certainly not proposed. It may be sent again. The texts are
/// those that a client gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// The node asked does not lead in that term.
    #[error("the node asked does not lead in that term; the command was not proposed")]
    NotLeader,
    /// A limit of the proposing node is reached; the text names it.
    #[error("{0}; the command was not proposed")]
    Overloaded(String),
    /// Its deadline passed before it was proposed.
    #[error("the deadline passed before the command was proposed; it was not applied")]
    Expired,
    /// No entry takes a command of this size.
    #[error("the request has {bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Size of the request.
        bytes: usize,
        /// The largest permitted size.
        limit_bytes: usize,
    },
    /// The node asked is stopping.
    #[error("this node is stopping; the command was not proposed")]
    Stopping,
    /// The node that took the command was removed from the cluster.
    #[error("this node was removed from the cluster: it is not in the configuration of entry {index}")]
    Removed {
        /// The index of the leader's committed configuration.
        index: u64,
    },
    /// The command has a caller, and the node that forwarded it has shown no certificate.
    #[error(
        "the node that forwarded this command has shown no certificate, so the name of the client cannot be believed: give the nodes \
         --peer_tls_cert, --peer_tls_key and --peer_tls_ca, or send commands to the leader; the command was not proposed"
    )]
    CallerUnproven,
}

/// What the proposing side knows about a command: its outcome, or why it was not proposed. An
/// outcome comes over a hop only; a local one comes through the waiters.
type Answer = Result<Outcome, NotProposed>;

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// The end of the waiting caller. Dropping it withdraws a command that is still queued.
#[derive(Debug)]
pub struct Ticket {
    state: Arc<AtomicU8>,
    answer: Option<oneshot::Receiver<Answer>>,
}

/// The end of the proposer. Dropping it unanswered means: not proposed if the command was never
/// taken, else fate unknown.
#[derive(Debug)]
pub struct Claim {
    state: Arc<AtomicU8>,
    answer: Option<oneshot::Sender<Answer>>,
}

/// Creates both ends of one attempt.
pub fn ticket() -> (Ticket, Claim) {
    let state = Arc::new(AtomicU8::new(QUEUED));
    let (sender, receiver) = oneshot::channel();
    (Ticket { state: state.clone(), answer: Some(receiver) }, Claim { state, answer: Some(sender) })
}

impl Ticket {
    /// Returns the proposing side's answer. Never completes when that side has nothing more to say:
    /// the fate then comes through the waiters. Cancel safe.
    pub async fn answer(&mut self) -> Result<Outcome, NotProposed> {
        if let Some(receiver) = &mut self.answer {
            let answer = receiver.await;
            self.answer = None;
            if let Ok(answer) = answer {
                return answer;
            }
        }
        future::pending().await
    }

    /// Takes the command back. True: it was still queued and is certainly not proposed.
    pub fn withdraw(&self) -> bool {
        match self.state.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == WITHDRAWN,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Claim {
    /// Takes the command out of the queue, right before it is passed on. False: it was withdrawn
    /// and must not be proposed.
    pub fn take(&self) -> bool {
        self.state.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Answers that the command was not proposed.
    pub fn refuse(mut self, reason: NotProposed) {
        self.send(Err(reason));
    }

    /// Answers that the command was applied on another node.
    pub fn complete(mut self, outcome: Outcome) {
        self.send(Ok(outcome));
    }

    /// Answers that the command was not run, and may be offered again as a new one. It is in no
    /// log, so the outcome has no index.
    pub fn leave_over(mut self, term: u64) {
        self.send(Ok(Outcome { index: 0, position: 0, term, time_ms: 0, verdict: not_run() }));
    }

    fn send(&mut self, answer: Answer) {
        if let Some(sender) = self.answer.take() {
            // The receiver is gone when its client is: there is no one to tell.
            let _ = sender.send(answer);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.answer.is_some() && self.take() {
            self.send(Err(NotProposed::NotLeader));
        }
    }
}

/// Number of counters for the bytes of single clients. Two clients with one counter share its
/// limit.
const PARTY_COUNTERS: usize = 4096;
/// Least bytes that a command counts among those of its client: what it takes beside its request.
/// So a client with small commands has a limited number of them.
pub const CLIENT_COMMAND_BYTES_MIN: usize = 4 << 10;

/// Bytes that wait in a queue or are in flight. Shared by the queue and the commands that have left
/// it.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit_bytes: usize,
    /// Decides which clients share a counter. It is random, so that nobody can choose a name or an
    /// address to share the counter of another client.
    seed: u64,
    /// Those of `used` by client, each command with at least [`CLIENT_COMMAND_BYTES_MIN`].
    of_parties: Box<[AtomicUsize]>,
    party_limit_bytes: usize,
}

/// Which limit of a [`Budget`] is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// Nothing is left for anybody.
    None,
    /// Nothing is left for this client.
    ForOthers,
}

/// A share of a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    counter: usize,
    bytes: usize,
    party_bytes: usize,
}

impl Budget {
    /// Creates a budget of `limit_bytes`, of which one client may have all.
    #[cfg(test)]
    pub fn new(limit_bytes: usize) -> Arc<Budget> {
        Budget::by_party(limit_bytes, usize::MAX)
    }

    /// Creates a budget of `limit_bytes`, of which one client may have `party_limit_bytes`.
    pub fn by_party(limit_bytes: usize, party_limit_bytes: usize) -> Arc<Budget> {
        let of_parties = (0..PARTY_COUNTERS).map(|_| AtomicUsize::new(0)).collect();
        let seed = getrandom::u64().expect("the system has randomness");
        Arc::new(Budget { used: AtomicUsize::new(0), limit_bytes, seed, of_parties, party_limit_bytes })
    }

    /// Takes `bytes` for nobody in particular; `None` when they do not fit.
    #[cfg(test)]
    pub fn share(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        self.share_of(Party::default(), bytes).ok()
    }

    /// Takes `bytes` of one command for a client. An error says what is left when they do not fit.
    pub fn share_of(self: &Arc<Self>, party: Party, bytes: usize) -> Result<Share, Spare> {
        let counter = counter_of(party, self.seed);
        let party_bytes = bytes.max(CLIENT_COMMAND_BYTES_MIN);
        let of_party = self.of_parties[counter].fetch_add(party_bytes, Ordering::Relaxed);
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        // It is given back when it is more than there is.
        let share = Share { budget: self.clone(), counter, bytes, party_bytes };
        if used + bytes > self.limit_bytes {
            return Err(Spare::None);
        }
        if of_party + party_bytes > self.party_limit_bytes {
            return Err(Spare::ForOthers);
        }
        Ok(share)
    }

    /// Returns the bytes taken now.
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the client that has most. Clients that share a counter are one.
    pub fn used_bytes_of_one(&self) -> usize {
        self.of_parties.iter().map(|used| used.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.of_parties[self.counter].fetch_sub(self.party_bytes, Ordering::Relaxed);
    }
}

fn counter_of(party: Party, seed: u64) -> usize {
    (xxh3_64_with_seed(&party.number().to_le_bytes(), seed) % PARTY_COUNTERS as u64) as usize
}

/// How long a client waits for its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When the command was offered first. `None` if it is now: then it is in its place by when it
    /// comes.
    pub since: Option<Instant>,
    /// When it stops waiting.
    pub deadline: Instant,
}

impl Wait {
    /// Returns the wait for a command that is offered for the first time.
    pub fn until(deadline: Instant) -> Wait {
        Wait { since: None, deadline }
    }
}

/// A command in a queue.
#[derive(Debug)]
pub struct Queued {
    /// The term whose leader it is meant for.
    pub term: u64,
    /// Whose turn it takes.
    pub party: Party,
    /// The command to propose.
    pub command: Command,
    /// How long its client waits.
    pub wait: Wait,
    /// The other end of its ticket.
    pub claim: Claim,
    /// Its share of the queue's budget.
    pub share: Share,
    /// What it took of the quotas, which it gives back if it goes into no entry.
    pub admitted: Admitted,
}

/// Returns the bytes that a command takes in an entry or a queue, with the framing of its fields.
pub fn weight_bytes(command: &Command) -> usize {
    /// Bytes of the origin, field tags and lengths.
    const FRAMING_BYTES: usize = 64;
    command.method.len() + command.request.len() + command.caller.len() + FRAMING_BYTES
}

/// The largest request that is accepted into the log.
pub const REQUEST_BYTES_MAX: usize = 2 << 20;

/// Refuses a command that no entry takes.
pub fn check_size(command: &Command) -> Result<(), NotProposed> {
    let bytes = command.request.len();
    if bytes > REQUEST_BYTES_MAX {
        return Err(NotProposed::TooLarge { bytes, limit_bytes: REQUEST_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_withdrawn_command_cannot_be_taken() {
        let (ticket, claim) = ticket();
        assert!(ticket.withdraw());
        assert!(!claim.take());
        assert!(ticket.withdraw(), "withdrawing twice says the same");
    }

    #[test]
    fn a_taken_command_cannot_be_withdrawn() {
        let (ticket, claim) = ticket();
        assert!(claim.take());
        assert!(!ticket.withdraw());
    }

    #[tokio::test]
    async fn a_claim_dropped_in_the_queue_says_not_proposed() {
        let (mut ticket, claim) = ticket();
        drop(claim);
        assert_eq!(ticket.answer().await, Err(NotProposed::NotLeader));
        assert!(ticket.answer().now_or_never().is_none(), "nothing more to be heard");
    }

    #[test]
    fn a_claim_dropped_after_being_taken_says_nothing() {
        let (mut ticket, claim) = ticket();
        assert!(claim.take());
        drop(claim);
        assert!(ticket.answer().now_or_never().is_none());
    }

    #[test]
    fn a_client_that_leaves_withdraws() {
        let (ticket, claim) = ticket();
        drop(ticket);
        assert!(!claim.take());
    }

    #[test]
    fn one_client_leaves_a_part_of_a_budget_to_others() {
        const MIB: usize = 1 << 20;
        let (budget, greedy) = (Budget::by_party(10 * MIB, 6 * MIB), Party::told_by(1, 7));
        let other = of_another_counter(&budget, greedy);
        let first = budget.share_of(greedy, 5 * MIB).unwrap();
        assert_eq!(budget.share_of(greedy, 2 * MIB).unwrap_err(), Spare::ForOthers);
        let _others = budget.share_of(other, 5 * MIB).unwrap();
        assert_eq!(budget.share_of(other, 1).unwrap_err(), Spare::None);
        drop(first);
        assert!(budget.share_of(greedy, 5 * MIB).is_ok());
    }

    #[test]
    fn one_client_leaves_a_part_of_the_commands_to_others() {
        let most = 10;
        let (budget, greedy) = (Budget::by_party(1 << 20, most * CLIENT_COMMAND_BYTES_MIN), Party::told_by(1, 7));
        let held: Vec<Share> = (0..most).map(|_| budget.share_of(greedy, 1).unwrap()).collect();
        assert_eq!(budget.share_of(greedy, 1).unwrap_err(), Spare::ForOthers);
        assert_eq!(budget.used_bytes(), most, "the budget of all counts what they have");
        let _other = budget.share_of(of_another_counter(&budget, greedy), 1).unwrap();
        drop(held);
        assert!(budget.share_of(greedy, 1).is_ok());
    }

    #[test]
    fn nobody_can_choose_whose_counter_it_shares() {
        let alike = |number: u64| Party::told_by(1, 1 + number * PARTY_COUNTERS as u64);
        let counters = |seed| (0..100).map(|number| counter_of(alike(number), seed)).collect::<Vec<_>>();
        let distinct: std::collections::BTreeSet<usize> = counters(1).into_iter().collect();
        assert!(distinct.len() > 50, "{}", distinct.len());
        assert_ne!(counters(1), counters(2), "another process has other counters");
    }

    fn of_another_counter(budget: &Budget, than: Party) -> Party {
        let own = counter_of(than, budget.seed);
        (1..).map(|number| Party::told_by(1, number)).find(|party| counter_of(*party, budget.seed) != own).unwrap()
    }

    #[test]
    fn a_budget_is_given_back() {
        let budget = Budget::new(10);
        let first = budget.share(6).unwrap();
        assert!(budget.share(6).is_none());
        assert_eq!(budget.used_bytes(), 6);
        drop(first);
        assert!(budget.share(10).is_some());
        assert_eq!(budget.used_bytes(), 0);
    }
}
