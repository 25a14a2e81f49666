//! What the nodes tell each other of their clocks, so that the entries of whoever leads are stamped with the right time. With each
//! heartbeat the leader says where log time stands and hears the receiver's clock. Stamps what the proposer proposes; how far one stamp may
//! go is `log_clock`'s.
//!
//! - A clock that cannot be right (before [`CLOCK_MIN_MS`] or after [`CLOCK_MAX_MS`]) says nothing about what the time is.
//! - What was heard grows with the time that passed since, and counts for seconds only.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::RaftCell;
use super::log_clock::{Clocks, LogClock, median};
use super::own_clock::OwnClock;
use crate::faults;
use crate::types::{CLOCK_MAX_MS, CLOCK_MIN_MS, NodeId};

/// A clock that was heard longer ago than this does not count, nor does where a leader said that log time stands. At least as long as a
/// leader may be silent.
const HEARD_MAX: Duration = Duration::from_secs(5);

/// Where the rest of a node says what it knows.
pub struct LogTimeParts {
    /// This node.
    pub me: NodeId,
    /// Log time as it is applied here, milliseconds since 1970; 0 before any.
    pub applied_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The voters of the configuration in force.
    pub voters: Box<dyn Fn() -> BTreeSet<NodeId> + Send + Sync>,
    /// `--heartbeat_timeout`.
    pub heartbeat: Duration,
}

/// Of one node. Cheap to clone.
#[derive(Clone)]
pub struct LogTime(Arc<Inner>);

struct Inner {
    parts: LogTimeParts,
    clock: Mutex<LogClock>,
    /// By the node whose clock it is.
    heard: Mutex<HashMap<NodeId, Heard>>,
    /// By the leader.
    told: Mutex<Option<Told>>,
    /// While this node leads and has heard no majority.
    awaited: Mutex<Option<Awaited>>,
}

/// A median that is missing.
#[derive(Clone, Copy)]
struct Awaited {
    since: Instant,
    /// A leader looks at each heartbeat; one that has not looked for long did not lead meanwhile.
    looked: Instant,
}

#[derive(Clone, Copy)]
struct Heard {
    clock_ms: u64,
    at: Instant,
}

/// What a leader says of log time with its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// Where log time stands, entry or no entry; 0: unknown, for whoever says it is of an older version.
    pub log_ms: u64,
    /// The median of the voters' clocks, when there is one.
    pub median_ms: Option<u64>,
}

struct Told {
    telling: Telling,
    at: Instant,
}

/// The voters of the configuration that is in force for `raft`; nobody while it does not run.
pub fn voters_of(raft: RaftCell) -> Box<dyn Fn() -> BTreeSet<NodeId> + Send + Sync> {
    Box::new(move || {
        let metrics = raft.get().map(|raft| raft.metrics());
        metrics.map_or_else(BTreeSet::new, |metrics| metrics.borrow_watched().membership_config.voter_ids().collect())
    })
}

impl LogTime {
    /// Nothing is heard yet.
    pub fn new(parts: LogTimeParts) -> LogTime {
        let (heard, told, awaited) = Default::default();
        LogTime(Arc::new(Inner { parts, clock: Mutex::new(LogClock::new(Instant::now())), heard, told, awaited }))
    }

    /// The time for an entry that is proposed now.
    pub fn stamp(&self) -> u64 {
        let now = Instant::now();
        let (clocks, applied_ms) = (self.clocks(now), (self.0.parts.applied_ms)());
        self.0.clock.lock().stamp(clocks, applied_ms, now)
    }

    /// Notes where log time stands, so that the time until the next entry is known to have passed.
    pub fn observe(&self) {
        self.0.clock.lock().observe((self.0.parts.applied_ms)(), Instant::now());
    }

    /// What this node says of log time while it leads.
    pub fn telling(&self) -> Telling {
        let now = Instant::now();
        let (clocks, applied_ms) = (self.clocks(now), (self.0.parts.applied_ms)());
        let mut clock = self.0.clock.lock();
        clock.observe(applied_ms, now);
        Telling { log_ms: clock.at(clocks, now).max(applied_ms), median_ms: clocks.median_ms }
    }

    /// A leader said this.
    pub fn told(&self, telling: Telling) {
        if telling.log_ms != 0 {
            *self.0.told.lock() = Some(Told { telling, at: Instant::now() });
        }
    }

    /// The clock of `node` stands there; 0 says nothing.
    pub fn heard(&self, node: NodeId, clock_ms: u64) {
        let mut heard = self.0.heard.lock();
        match is_plausible(clock_ms) {
            true => drop(heard.insert(node, Heard { clock_ms, at: Instant::now() })),
            false => drop(heard.remove(&node)),
        }
    }

    /// How this node's clock compares with log time; none while nobody who leads says where that stands.
    pub fn own_clock(&self, leads: bool) -> Option<OwnClock> {
        let Telling { log_ms, median_ms } = match leads {
            true => self.telling(),
            false => self.told_lately()?,
        };
        Some(OwnClock { own_ms: wall_ms(), log_ms, median_ms })
    }

    /// What the leader said, as it would say it now: between two of its heartbeats time passes, where it does not stand still.
    fn told_lately(&self) -> Option<Telling> {
        let told = self.0.told.lock();
        let Told { telling, at } = told.as_ref().filter(|told| told.at.elapsed() < self.heard_max())?;
        let passed_ms = at.elapsed().as_millis() as u64;
        let median_ms = telling.median_ms.map(|median_ms| median_ms.saturating_add(passed_ms));
        let stands = telling.median_ms.is_some_and(|median_ms| median_ms < telling.log_ms);
        Some(Telling { log_ms: telling.log_ms.saturating_add(if stands { 0 } else { passed_ms }), median_ms })
    }

    /// What the clocks say to this node, which leads.
    fn clocks(&self, now: Instant) -> Clocks {
        let own_ms = wall_ms();
        let voters = (self.0.parts.voters)();
        let heard_max = self.heard_max();
        let mut heard_ms: Vec<u64> = self
            .0
            .heard
            .lock()
            .iter()
            .filter(|(node, _)| voters.contains(node))
            .map(|(_, heard)| (heard, now.saturating_duration_since(heard.at)))
            .filter(|(_, ago)| *ago < heard_max)
            .map(|(heard, ago)| heard.clock_ms + ago.as_millis() as u64)
            .collect();
        if voters.contains(&self.0.parts.me) && is_plausible(own_ms) {
            heard_ms.push(own_ms);
        }
        let median_ms = median(heard_ms, voters.len());
        Clocks { own_ms, median_ms, is_awaited: median_ms.is_none() && self.is_awaited(now) }
    }

    /// Whether the median is missing for so short a time that it may still come. Of a leader that has none.
    fn is_awaited(&self, now: Instant) -> bool {
        let mut awaited = self.0.awaited.lock();
        let before = awaited.filter(|awaited| now.saturating_duration_since(awaited.looked) < self.heard_max());
        let since = before.map_or(now, |awaited| awaited.since);
        *awaited = Some(Awaited { since, looked: now });
        now.saturating_duration_since(since) < self.heard_max()
    }

    fn heard_max(&self) -> Duration {
        HEARD_MAX.max(self.0.parts.heartbeat)
    }
}

/// For a test of something else: nobody votes, and nothing is applied.
#[cfg(test)]
impl Default for LogTime {
    fn default() -> LogTime {
        let (applied_ms, voters) = (Box::new(|| 0), Box::new(BTreeSet::new));
        LogTime::new(LogTimeParts { me: 0, applied_ms, voters, heartbeat: Duration::from_secs(1) })
    }
}

/// Whether a right clock may stand there.
fn is_plausible(clock_ms: u64) -> bool {
    (CLOCK_MIN_MS..=CLOCK_MAX_MS).contains(&clock_ms)
}

/// Milliseconds since 1970 on this node's wall clock; 0 on one that stands before that.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall_ms = since.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    wall_ms.saturating_add_signed(faults::shift_ms("clock-shift"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::log_clock::JUMP_MAX_MS;

    const YEAR_MS: u64 = 31_536_000_000;

    /// Node 1 of voters 1 to 3, where log time stands at `applied_ms`.
    fn log_time(applied_ms: u64) -> LogTime {
        let voters = Box::new(|| BTreeSet::from([1, 2, 3]));
        let applied_ms = Box::new(move || applied_ms);
        LogTime::new(LogTimeParts { me: 1, applied_ms, voters, heartbeat: Duration::from_secs(1) })
    }

    #[test]
    fn a_majority_of_clocks_brings_log_time_where_it_belongs_at_once() {
        let now_ms = wall_ms();
        let behind = log_time(now_ms - YEAR_MS);
        assert_eq!(behind.telling().median_ms, None);
        assert!(behind.stamp() <= now_ms - YEAR_MS + JUMP_MAX_MS, "one clock of three says nothing yet");
        behind.heard(2, now_ms);
        let stamp = behind.stamp();
        assert!((now_ms - 1_000..now_ms + 60_000).contains(&stamp), "{stamp} is not about {now_ms}");
    }

    #[test]
    fn who_is_no_voter_and_who_cannot_be_right_is_not_heard() {
        let now_ms = wall_ms();
        let behind = log_time(now_ms - YEAR_MS);
        behind.heard(4, now_ms);
        behind.heard(2, 0);
        behind.heard(3, CLOCK_MAX_MS + 1);
        assert_eq!(behind.telling().median_ms, None);
        behind.heard(3, now_ms);
        assert!(behind.telling().median_ms.is_some());
        behind.heard(3, CLOCK_MIN_MS - 1);
        assert_eq!(behind.telling().median_ms, None, "it is known to be wrong now");
    }

    #[test]
    fn followers_know_log_time_from_their_leader() {
        let follower = log_time(0);
        assert_eq!(follower.own_clock(false), None);
        follower.told(Telling { log_ms: 0, median_ms: None });
        assert_eq!(follower.own_clock(false), None, "an older leader says nothing");
        let ahead_ms = wall_ms() + YEAR_MS;
        follower.told(Telling { log_ms: ahead_ms, median_ms: Some(ahead_ms - YEAR_MS) });
        let compared = follower.own_clock(false).unwrap();
        assert_eq!(compared.log_ms, ahead_ms, "it stands still until the clocks are there");
        assert!(compared.ahead_ms() <= 0);
    }
}
