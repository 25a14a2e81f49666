//! How long a new node takes to get the state of a cluster. It is started with an empty directory
//! and added as a learner. The leader's log begins behind the first entries, so the node needs a
//! snapshot. Its pages tell when it gets one, when that is installed, and when the node is ready.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;

use super::group::{APPLIED, Group, LAST, PURGED};
use crate::bench::http;
use crate::bench::metrics::Metrics;

/// Time between two looks at the new node's pages.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for a new node, beside the time for the bytes of the state.
const JOIN_TIME_MIN: Duration = Duration::from_secs(120);
/// Slowest transfer that is waited for, in bytes a second.
const TRANSFER_RATE_MIN: u64 = 4 << 20;
const TRANSFERS: &str = "lockstep_snapshot_transfers";
const TRANSFER_BYTES: &str = "lockstep_snapshot_transfer_bytes";
const INSTALLED: &str = "lockstep_restores_total";

/// One new node.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Newcomer {
    /// From the start of its process until it was ready.
    pub(super) ready_seconds: f64,
    /// From the last look that saw no transfer until a look saw the snapshot installed.
    pub(super) transfer_seconds: f64,
    /// Most bytes of the snapshot that a look saw received.
    pub(super) bytes_seen: u64,
}

/// What the pages said at one look. Times count from the start of the process.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    asked: Duration,
    answered: Duration,
    transfers: u64,
    bytes: u64,
    installed: u64,
}

/// What the looks have seen so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The last look before any transfer was seen.
    quiet_at: Duration,
    has_begun: bool,
    installed_at: Option<Duration>,
    bytes: u64,
}

impl Seen {
    fn note(&mut self, look: Look) {
        if look.installed > 0 {
            self.installed_at.get_or_insert(look.answered);
        }
        self.has_begun |= look.transfers > 0 || look.installed > 0;
        if !self.has_begun {
            self.quiet_at = look.asked;
        }
        self.bytes = self.bytes.max(look.bytes);
    }

    fn transfer(&self) -> Option<Duration> {
        self.installed_at.map(|installed| installed.saturating_sub(self.quiet_at))
    }
}

/// Has a node join the cluster, and removes it again.
pub(super) fn join(group: &Group<'_>, name: &str, state_bytes: u64) -> Result<Newcomer> {
    let leader = group.leader()?;
    // The newest snapshot is sent, and the log behind it follows. So little of the log is.
    group.admin(&leader, &["snapshot"])?;
    let metrics = group.metrics(&leader)?;
    let last = metrics.number(LAST)?;
    ensure!(metrics.number(PURGED)? > 0, "the log of {leader} has all entries, so that no node needs a snapshot");
    let limit = JOIN_TIME_MIN + Duration::from_secs(state_bytes / TRANSFER_RATE_MIN);
    let page = group.page_addr(name)?;
    let (leader_addr, raft_addr) = (group.cluster.grpc_addr(&leader), group.cluster.raft_addr(name));
    let began = Instant::now();
    group.start(name)?;
    let newcomer = std::thread::scope(|scope| {
        let adding =
            scope.spawn(|| group.cluster.within(limit, &["admin", leader_addr, "add_nonvoter", name, raft_addr]));
        let seen = watch(page, last, (began, limit));
        let added = adding.join().map_err(|_| anyhow!("the thread that adds a node panicked"))?;
        added.and(seen)
    })?;
    group.admin(&leader, &["remove_server", name])?;
    group.cluster.discard(name)?;
    Ok(newcomer)
}

/// Looks at a new node until it is ready with all entries up to `last`.
fn watch(page: &str, last: u64, (began, limit): (Instant, Duration)) -> Result<Newcomer> {
    let mut seen = Seen::default();
    loop {
        let asked = began.elapsed();
        ensure!(asked < limit, "a new node did not become ready within {limit:?}");
        // Its port is closed at first.
        match Metrics::read(page) {
            Err(_) => seen.note(Look { asked, answered: began.elapsed(), ..Look::default() }),
            Ok(metrics) => {
                seen.note(Look {
                    asked,
                    answered: began.elapsed(),
                    transfers: metrics.number(TRANSFERS)?,
                    bytes: metrics.number(TRANSFER_BYTES)?,
                    installed: metrics.number(INSTALLED)?,
                });
                let has_all = metrics.number(APPLIED)? >= last;
                let transfer = seen.transfer().filter(|_| has_all && http::get(page, "/readyz").is_ok());
                if let Some(transfer) = transfer {
                    let (ready_seconds, transfer_seconds) = (began.elapsed().as_secs_f64(), transfer.as_secs_f64());
                    return Ok(Newcomer { ready_seconds, transfer_seconds, bytes_seen: seen.bytes });
                }
            }
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(looks: &[(u64, u64, u64, u64)]) -> Seen {
        let mut seen = Seen::default();
        for &(at, transfers, bytes, installed) in looks {
            let asked = Duration::from_millis(at);
            seen.note(Look { asked, answered: asked + Duration::from_millis(1), transfers, bytes, installed });
        }
        seen
    }

    #[test]
    fn a_transfer_lasts_from_the_look_before_it_until_it_is_installed() {
        let seen =
            seen(&[(20, 0, 0, 0), (40, 0, 0, 0), (60, 1, 10, 0), (80, 1, 900, 0), (100, 0, 0, 1), (120, 0, 0, 1)]);
        assert_eq!((seen.transfer(), seen.bytes), (Some(Duration::from_millis(61)), 900));
    }

    #[test]
    fn a_short_transfer_lasts_from_one_look_to_the_next() {
        assert_eq!(seen(&[(20, 0, 0, 0), (40, 0, 0, 1)]).transfer(), Some(Duration::from_millis(21)));
        assert_eq!(seen(&[(20, 0, 0, 0), (40, 1, 5, 0)]).transfer(), None);
    }

    #[test]
    fn an_attempt_that_was_repeated_counts_from_the_first() {
        let seen = seen(&[(20, 0, 0, 0), (40, 1, 5, 0), (60, 0, 0, 0), (80, 1, 5, 0), (100, 0, 0, 1)]);
        assert_eq!(seen.transfer(), Some(Duration::from_millis(81)));
    }
}
