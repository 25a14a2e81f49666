//! What goes into one entry: which queued commands, and which time. Owns no task and never talks to Raft.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ticket::{Claim, NotProposed, Queued, Share, weight_bytes};
use crate::codec::Command;
use crate::faults;

/// Commands in one entry, at most.
pub const ENTRY_COMMANDS_MAX: usize = 1024;
/// Bytes in one entry, at most; a single larger command still goes, alone.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// How much further than the time that passed a leader may move log time.
pub const TIME_JUMP_MAX: Duration = Duration::from_secs(60);
const JUMP_MAX_MS: u64 = TIME_JUMP_MAX.as_millis() as u64;

/// Commands for one entry, all meant for the same term, all taken from their clients' hands.
#[derive(Debug)]
pub struct Batch {
    /// The term they are for.
    pub term: u64,
    /// In the order they were queued.
    pub commands: Vec<Command>,
    /// One for each command.
    pub claims: Vec<Claim>,
    /// What they hold of the budget until the entry is applied.
    pub shares: Vec<Share>,
}

/// The queue of the proposer, with room to put back what did not fit.
pub struct Queue {
    receiver: mpsc::Receiver<Queued>,
    held: VecDeque<Queued>,
}

impl Queue {
    /// Over the receiving end of a bounded channel.
    pub fn new(receiver: mpsc::Receiver<Queued>) -> Queue {
        Queue { receiver, held: VecDeque::new() }
    }

    /// Completes when a command waits; false when none ever will. Cancel safe.
    pub async fn ready(&mut self) -> bool {
        if self.held.is_empty() {
            let Some(first) = self.receiver.recv().await else { return false };
            self.held.push_back(first);
        }
        true
    }

    /// Drops, and with that answers "not leader", what is meant for another term than the one `leads` accepts.
    pub fn retain(&mut self, leads: impl Fn(u64) -> bool) {
        while let Ok(queued) = self.receiver.try_recv() {
            self.held.push_back(queued);
        }
        self.held.retain(|queued| leads(queued.term));
    }

    /// The next entry's commands; `None` when all that waited was withdrawn or expired.
    pub fn pack(&mut self, now: Instant) -> Option<Batch> {
        let mut batch = Batch { term: 0, commands: Vec::new(), claims: Vec::new(), shares: Vec::new() };
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

/// The clock that stamps entries. It follows the wall clock, but never moves log time more than [`TIME_JUMP_MAX`] further than the
/// time that passed, however many entries it stamps. What it used of that minute comes back at the pace of time itself. So log time runs
/// at twice its pace at most: a clock that is years ahead shows in the log of this node long before it has expired anything, and
/// after a stop of the whole cluster time still catches up.
#[derive(Debug)]
pub struct LogClock {
    time_ms: u64,
    /// When log time came to `time_ms`.
    seen: Instant,
    /// How far log time might have moved then without any time passing.
    jump_ms: u64,
    capped: bool,
}

impl LogClock {
    /// A clock that has seen nothing; the first entry of a cluster takes the wall clock as it is.
    pub fn new(now: Instant) -> LogClock {
        LogClock { time_ms: 0, seen: now, jump_ms: JUMP_MAX_MS, capped: false }
    }

    /// Notes that log time stands at `log_ms`.
    pub fn observe(&mut self, log_ms: u64, now: Instant) {
        if log_ms > self.time_ms {
            // Another node moved it.
            *self = LogClock { time_ms: log_ms, seen: now, jump_ms: JUMP_MAX_MS, capped: self.capped };
        }
    }

    /// The time for the next entry, milliseconds since 1970.
    pub fn stamp(&mut self, wall_ms: u64, log_ms: u64, now: Instant) -> u64 {
        self.observe(log_ms, now);
        let passed_ms = now.saturating_duration_since(self.seen).as_millis() as u64;
        let jump_ms = self.jump_ms.saturating_add(passed_ms).min(JUMP_MAX_MS);
        let limit_ms = self.time_ms.saturating_add(passed_ms).saturating_add(jump_ms);
        let capped = self.time_ms != 0 && wall_ms > limit_ms;
        if capped && !self.capped {
            let ahead_ms = wall_ms - self.time_ms;
            tracing::warn!(
                ahead_ms,
                "this node's clock is far ahead of log time; log time follows at twice its pace at most"
            );
        }
        self.capped = capped;
        let stamp = if capped { limit_ms } else { wall_ms };
        if self.time_ms == 0 {
            self.observe(stamp, now);
        } else if stamp > self.time_ms {
            let jumped_ms = (stamp - self.time_ms).saturating_sub(passed_ms);
            *self = LogClock { time_ms: stamp, seen: now, jump_ms: jump_ms - jumped_ms, capped };
        }
        stamp
    }
}

/// Milliseconds since 1970 on this node's wall clock.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall_ms = since.map_or(0, |elapsed| elapsed.as_millis() as u64);
    wall_ms.saturating_add_signed(faults::shift_ms("clock-shift"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::ticket::{Answer, Budget, Ticket, ticket};

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
        assert!(matches!(expired.answer().await, Answer::NotProposed(NotProposed::Expired)));
    }

    #[tokio::test]
    async fn a_lost_term_is_answered_from_the_queue() {
        let (mut old, first) = queued(1, 1, later());
        let (_kept, second) = queued(2, 1, later());
        let mut queue = filled([first, second]);
        queue.retain(|term| term == 2);
        assert!(matches!(old.answer().await, Answer::NotProposed(NotProposed::NotLeader)));
        assert_eq!(queue.pack(Instant::now()).unwrap().term, 2);
    }

    #[test]
    fn the_clock_starts_at_the_wall_and_refuses_to_jump() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        assert_eq!(clock.stamp(1_000_000, 0, start), 1_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(clock.stamp(1_002_000, 1_000_000, start + second), 1_002_000, "a second or two is no jump");
        let year_ms = 31_536_000_000;
        assert_eq!(clock.stamp(year_ms, 1_002_000, start + 2 * second), 1_002_000 + 1_000 + 60_000);
    }

    #[test]
    fn a_clock_years_ahead_moves_log_time_by_a_minute_however_many_entries_it_stamps() {
        let start = Instant::now();
        let (base_ms, decade_ms) = (1_000_000, 315_360_000_000);
        let mut clock = LogClock::new(start);
        clock.observe(base_ms, start);
        let mut log_ms = base_ms;
        for _ in 0..10_000 {
            log_ms = clock.stamp(decade_ms, log_ms, start);
        }
        assert_eq!(log_ms, base_ms + 60_000);
        for second in 1..=100 {
            for _ in 0..100 {
                let stamp = clock.stamp(decade_ms, log_ms, start + Duration::from_secs(second));
                assert!(stamp >= log_ms, "never back");
                log_ms = stamp;
            }
            assert_eq!(log_ms, base_ms + 60_000 + 2_000 * second, "then at twice the pace of time");
        }
    }

    #[test]
    fn log_time_catches_up_after_a_stop_of_all() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        let (mut log_ms, wall_ms) = (1_000_000, 1_000_000 + 3_600_000);
        let mut second = 0;
        while log_ms < wall_ms + 1_000 * second {
            second += 1;
            log_ms = clock.stamp(wall_ms + 1_000 * second, log_ms, start + Duration::from_secs(second));
            assert!(second < 10_000, "log time does not catch up");
        }
        assert!((3_500..3_600).contains(&second), "an hour behind is made up within an hour: {second} s");
    }

    #[test]
    fn an_idle_hour_is_no_jump() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        clock.observe(1_000_000, start);
        let hour = Duration::from_secs(3600);
        assert_eq!(clock.stamp(4_600_000, 1_000_000, start + hour), 4_600_000);
    }

    #[test]
    fn a_clock_behind_log_time_is_left_to_apply() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        assert_eq!(clock.stamp(500, 1_000_000, start), 500);
        assert_eq!(clock.stamp(1_030_000, 1_000_000, start), 1_030_000);
    }
}
