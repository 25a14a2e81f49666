//! How long a node of a cluster takes from the start of its process until `/readyz` says that it is
//! ready. One clean stop and one SIGKILL are told apart: after a kill, the state lacks entries, and
//! the node applies them again.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::group::{Group, LAST, PURGED};
use crate::bench::figures::Load;
use crate::bench::http;

/// Seconds of load before the end of the process. A node flushes its state every two seconds, so
/// that a kill behind this load finds some of it unflushed.
const LOAD_SECONDS: u64 = 1;
/// Time between two looks whether the node is ready.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Longest wait for that.
const READY_TIME_MAX: Duration = Duration::from_secs(300);
/// Entries that the process has applied since its start.
const APPLIED_AGAIN: &str = "lockstep_entries_applied_total";

/// How the process ended before it was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    Killed,
    Stopped,
}

impl End {
    pub(super) const ALL: [End; 2] = [End::Killed, End::Stopped];
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Killed => "SIGKILL",
            End::Stopped => "SIGTERM",
        })
    }
}

/// One restart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Restart {
    pub(super) end: End,
    pub(super) seconds: f64,
    /// Entries in the node's log, once it was ready.
    pub(super) log_entries: u64,
    /// Entries that it had applied since its start by then.
    pub(super) applied_again: u64,
}

/// Ends a follower behind a short load, starts it again, and waits until all nodes are even.
pub(super) fn restart(group: &Group<'_>, end: End, load: &Load) -> Result<Restart> {
    let leader = group.leader()?;
    let follower = group.names.iter().find(|name| **name != leader).context("a cluster of three has a follower")?;
    group.drive(load, None, LOAD_SECONDS, 0)?.run(group.cluster)?;
    match end {
        End::Killed => group.cluster.kill(follower)?,
        End::Stopped => group.cluster.stop_one(follower)?,
    }
    let began = Instant::now();
    group.start(follower)?;
    let seconds = until_ready(group.page_addr(follower)?, began)?.as_secs_f64();
    let metrics = group.metrics(follower)?;
    let log_entries = metrics.number(LAST)?.saturating_sub(metrics.number(PURGED)?);
    let applied_again = metrics.number(APPLIED_AGAIN)?;
    group.catch_up()?;
    Ok(Restart { end, seconds, log_entries, applied_again })
}

/// Waits until a node is ready, and returns how long that took.
fn until_ready(page: &str, began: Instant) -> Result<Duration> {
    loop {
        match http::get(page, "/readyz") {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > READY_TIME_MAX => {
                bail!("a node was not ready {READY_TIME_MAX:?} after its start: {error:#}")
            }
            Err(_) => std::thread::sleep(LOOK_PAUSE),
        }
    }
}
