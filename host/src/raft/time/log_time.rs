//! Exchanges the nodes' clocks, so that every leader stamps entries with the right time. With each
//! heartbeat the leader says where log time is and receives the follower's clock. Stamps the
//! proposer's entries; `log_clock` limits how far one stamp may go.
//!
//! - A clock that cannot be right (before [`CLOCK_MIN_MS`] or after [`CLOCK_MAX_MS`]) does not
//!   count.
//! - A clock that was heard grows with the time that has passed since, and counts for seconds only.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::log_clock::{Clocks, LogClock, median};
use super::own_clock::OwnClock;
use crate::faults;
use crate::raft::RaftCell;
use crate::types::{CLOCK_MAX_MS, CLOCK_MIN_MS, NodeId};

/// Age at which a heard clock no longer counts, nor a leader's statement of log time. At least as
/// long as a leader may be silent.
const HEARD_MAX: Duration = Duration::from_secs(5);

/// What log time needs to know from the rest of the node.
pub struct LogTimeParts {
    /// This node.
    pub me: NodeId,
    /// Log time as applied here, in milliseconds since 1970; 0 before any.
    pub applied_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The voters of the configuration in force.
    pub voters: Box<dyn Fn() -> BTreeSet<NodeId> + Send + Sync>,
    /// `--heartbeat_timeout`.
    pub heartbeat: Duration,
}

/// The log time of one node. Cheap to clone.
#[derive(Clone)]
pub struct LogTime(Arc<Inner>);

struct Inner {
    parts: LogTimeParts,
    clock: Mutex<LogClock>,
    /// Clocks by the node that owns them.
    heard: Mutex<HashMap<NodeId, Heard>>,
    /// The last statement of a leader.
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

/// A leader's statement of log time, sent with its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// Log time now, even without an entry. 0: unknown, because the sender has an older version.
    pub log_ms: u64,
    /// The median of the voters' clocks, if there is one.
    pub median_ms: Option<u64>,
}

struct Told {
    telling: Telling,
    at: Instant,
}

/// Returns the voters of the configuration in force for `raft`. Returns none while it does not run.
pub fn voters_of(raft: RaftCell) -> Box<dyn Fn() -> BTreeSet<NodeId> + Send + Sync> {
    Box::new(move || {
        // Asked for each entry and heartbeat. These metrics change seldom, so the core does not
        // write them meanwhile.
        let metrics = raft.get().map(|raft| raft.server_metrics());
        metrics.map_or_else(BTreeSet::new, |metrics| metrics.borrow_watched().membership_config.voter_ids().collect())
    })
}

impl LogTime {
    /// Creates a log time that has heard nothing yet.
    pub fn new(parts: LogTimeParts) -> LogTime {
        let (heard, told, awaited) = Default::default();
        LogTime(Arc::new(Inner { parts, clock: Mutex::new(LogClock::new(Instant::now())), heard, told, awaited }))
    }

    /// Returns the time for an entry that is proposed now.
    pub fn stamp(&self) -> u64 {
        let now = Instant::now();
        let (clocks, applied_ms) = (self.clocks(now), (self.0.parts.applied_ms)());
        self.0.clock.lock().stamp(clocks, applied_ms, now)
    }

    /// Notes where log time is, so that the time until the next entry counts as passed.
    pub fn observe(&self) {
        self.0.clock.lock().observe((self.0.parts.applied_ms)(), Instant::now());
    }

    /// Returns this node's statement of log time while it leads.
    pub fn telling(&self) -> Telling {
        let now = Instant::now();
        let (clocks, applied_ms) = (self.clocks(now), (self.0.parts.applied_ms)());
        let mut clock = self.0.clock.lock();
        clock.observe(applied_ms, now);
        Telling { log_ms: clock.at(clocks, now).max(applied_ms), median_ms: clocks.median_ms }
    }

    /// Notes a leader's statement.
    pub fn told(&self, telling: Telling) {
        if telling.log_ms != 0 {
            *self.0.told.lock() = Some(Told { telling, at: Instant::now() });
        }
    }

    /// Notes that the clock of `node` shows `clock_ms`. An implausible value, such as 0, removes
    /// the node's clock.
    pub fn heard(&self, node: NodeId, clock_ms: u64) {
        let mut heard = self.0.heard.lock();
        match is_plausible(clock_ms) {
            true => drop(heard.insert(node, Heard { clock_ms, at: Instant::now() })),
            false => drop(heard.remove(&node)),
        }
    }

    /// Compares this node's clock with log time. `None` while no leader says where log time is.
    pub fn own_clock(&self, leads: bool) -> Option<OwnClock> {
        let Telling { log_ms, median_ms } = match leads {
            true => self.telling(),
            false => self.told_lately()?,
        };
        Some(OwnClock { own_ms: wall_ms(), log_ms, median_ms })
    }

    /// Returns the leader's statement, brought up to now. Between two heartbeats log time advances
    /// with the time that passes, unless it stands still because the median is behind it.
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

    /// Returns whether the median, which this leader lacks, has been missing for so short a time
    /// that it may still come.
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

/// For tests of other code: there are no voters, and nothing is applied.
#[cfg(test)]
impl Default for LogTime {
    fn default() -> LogTime {
        let (applied_ms, voters) = (Box::new(|| 0), Box::new(BTreeSet::new));
        LogTime::new(LogTimeParts { me: 0, applied_ms, voters, heartbeat: Duration::from_secs(1) })
    }
}

/// Returns whether a right clock may show this time.
fn is_plausible(clock_ms: u64) -> bool {
    (CLOCK_MIN_MS..=CLOCK_MAX_MS).contains(&clock_ms)
}

/// Returns milliseconds since 1970 on this node's wall clock; 0 if the clock is before 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall_ms = since.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    wall_ms.saturating_add_signed(faults::shift_ms("clock-shift"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::time::log_clock::JUMP_MAX_MS;

    const YEAR_MS: u64 = 31_536_000_000;

    /// Creates node 1 of voters 1 to 3, where log time is at `applied_ms`.
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
