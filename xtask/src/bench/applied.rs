//! When a node applied how much: its metrics page, read again and again while clients put. It shows
//! where apply stood still, for a flush of the state or for anything else. It reads pages alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::figures::Load;
use super::metrics::Metrics;

/// Time between two looks. A shorter pause of apply is not seen.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
const ENTRIES: &str = "lockstep_entries_applied_total";
pub(super) const FLUSHES: &str = "lockstep_state_flushes_total";

/// What one node applied under a load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Applied {
    pub(super) load: Load,
    pub(super) points: Vec<Point>,
}

/// What came since the point before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    /// Time since the first entry of the load.
    pub(super) seconds: f64,
    pub(super) entries: u64,
    pub(super) flushes: u64,
}

/// What the page said at one time.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Duration,
    entries: u64,
    flushes: u64,
}

impl Applied {
    /// Puts, and looks meanwhile at the page of a node.
    pub(super) fn watch(page: &str, load: Load, put: impl FnOnce() -> Result<()>) -> Result<Applied> {
        let is_over = AtomicBool::new(false);
        let looks = std::thread::scope(|scope| {
            let looking = scope.spawn(|| looks_until(&is_over, page));
            let done = put();
            is_over.store(true, Ordering::Relaxed);
            let looks = looking.join().map_err(|_| anyhow!("the thread that reads the page panicked"))?;
            done.and(looks)
        })?;
        Ok(Applied { load, points: points(&looks) })
    }

    /// Returns the longest time in seconds in which nothing was applied. It is 0 when apply never
    /// stood still from one look to the next.
    pub(super) fn longest_pause(&self) -> f64 {
        let (mut longest, mut last_progress) = (0.0_f64, 0.0);
        let mut stood_still = false;
        for point in &self.points {
            if point.entries > 0 {
                if stood_still {
                    longest = longest.max(point.seconds - last_progress);
                }
                last_progress = point.seconds;
            }
            stood_still = point.entries == 0;
        }
        longest
    }
}

fn looks_until(is_over: &AtomicBool, page: &str) -> Result<Vec<Look>> {
    let began = Instant::now();
    let mut looks = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let metrics = Metrics::read(page)?;
        let (entries, flushes) = (metrics.number(ENTRIES)?, metrics.number(FLUSHES)?);
        looks.push(Look { at: began.elapsed(), entries, flushes });
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(looks)
}

/// Returns what came between the looks, from the first entry to the last.
fn points(looks: &[Look]) -> Vec<Point> {
    let grew = |pair: &[Look]| pair[1].entries > pair[0].entries;
    let Some(first) = looks.windows(2).position(grew) else { return Vec::new() };
    let last = looks.windows(2).rposition(grew).unwrap_or(first);
    let began = looks[first].at;
    let point = |pair: &[Look]| Point {
        seconds: (pair[1].at - began).as_secs_f64(),
        entries: pair[1].entries.saturating_sub(pair[0].entries),
        flushes: pair[1].flushes.saturating_sub(pair[0].flushes),
    };
    looks[first..=last + 1].windows(2).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client connects before, and the last look comes behind its end.
    #[test]
    fn only_the_time_of_the_load_has_points() {
        let entries = [5, 5, 9, 9, 9, 12, 12];
        let look = |(n, entries): (u64, &u64)| Look { at: Duration::from_secs(n), entries: *entries, flushes: n / 4 };
        let looks: Vec<Look> = (0..).zip(&entries).map(look).collect();
        let applied = Applied { load: Load { operation: "put".into(), clients: 1 }, points: points(&looks) };
        let seen: Vec<(f64, u64, u64)> =
            applied.points.iter().map(|point| (point.seconds, point.entries, point.flushes)).collect();
        assert_eq!(seen, [(1.0, 4, 0), (2.0, 0, 0), (3.0, 0, 1), (4.0, 3, 0)]);
        assert_eq!(applied.longest_pause(), 3.0);
        assert!(points(&looks[..2]).is_empty() && points(&[]).is_empty());
    }

    #[test]
    fn apply_that_never_stands_still_has_no_pause() {
        let point = |n: u32| Point { seconds: f64::from(n), entries: 1, flushes: 0 };
        let applied =
            Applied { load: Load { operation: "put".into(), clients: 1 }, points: (1..9).map(point).collect() };
        assert_eq!(applied.longest_pause(), 0.0);
    }
}
