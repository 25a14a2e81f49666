//! How long apply stands still although committed entries wait for it. The leader's page `/metrics`
//! is read again and again, while clients put and snapshots are made. It reads pages alone, so what
//! it knows of a stop lies between two bounds.
//!
//! - A stop is at least the time from the first look that found entries waiting to the last look
//!   that found nothing applied since.
//! - It is at most the time from the look before these to the look behind them.
//! - A wait between two looks is not seen. It is at most the time between them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::group::{APPLIED, Group};
use crate::bench::applied::FLUSHES;
use crate::bench::figures::{Load, Report, Spread};
use crate::bench::http::Kept;
use crate::bench::metrics::Metrics;

/// Time between two looks, beside what a look takes.
const LOOK_PAUSE: Duration = Duration::from_micros(500);
/// Snapshots that are made in one run.
const SNAPSHOTS: u32 = 3;
/// Time around the look that finds a flush ended, in which a stop counts as one near that flush.
const NEAR_FLUSH: Duration = Duration::from_millis(250);
const COMMITTED: &str = "lockstep_raft_commit_index";

/// How long apply stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Stop {
    /// Some stop was that long.
    pub(super) at_least_ms: f64,
    /// No stop was longer.
    pub(super) at_most_ms: f64,
}

/// The longest stops of a run, by what went on then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Stops {
    pub(super) near_flushes: Stop,
    pub(super) in_snapshots: Stop,
    /// With neither: what the log, the scheduler and the looks themselves do to the figures.
    pub(super) otherwise: Stop,
}

/// One run under a load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Watched {
    pub(super) load: Load,
    /// Calls a second of all clients; none in a closed loop.
    pub(super) rate: Option<u64>,
    /// What the client saw.
    pub(super) report: Report,
    pub(super) looks: usize,
    /// Time from one look to the next.
    pub(super) look_ms: Option<Spread>,
    pub(super) flushes: u64,
    pub(super) snapshots: usize,
    pub(super) stops: Stops,
}

/// What the page said. Times count from the begin of the run.
#[derive(Clone, Copy, Debug)]
struct Look {
    asked: Duration,
    answered: Duration,
    committed: u64,
    applied: u64,
    flushes: u64,
}

/// A time from the begin of the run, and a later one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    from: Duration,
    to: Duration,
}

impl Span {
    fn overlaps(self, other: Span) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

impl Stop {
    /// Returns the bounds of the longest of two.
    pub(super) fn or_longer(self, other: Stop) -> Stop {
        Stop { at_least_ms: self.at_least_ms.max(other.at_least_ms), at_most_ms: self.at_most_ms.max(other.at_most_ms) }
    }
}

impl Stops {
    /// Returns the longest stop by a flush or a snapshot.
    pub(super) fn of_either(&self) -> Stop {
        self.near_flushes.or_longer(self.in_snapshots)
    }
}

/// Puts for some seconds, and looks meanwhile at the page of the leader, which makes snapshots.
pub(super) fn watch(group: &Group<'_>, load: Load, rate: Option<u64>, seconds: u64) -> Result<Watched> {
    let leader = group.leader()?;
    let page = group.page_addr(&leader)?;
    let drive = group.drive(&load, rate, seconds, 0)?;
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    let panicked = |_| anyhow!("a thread of the benchmark panicked");
    let (report, snapshots, looks) = std::thread::scope(|scope| -> Result<_> {
        let looking = scope.spawn(|| looks_until(&is_over, began, page));
        let making = scope.spawn(|| make_snapshots(group, &leader, began, Duration::from_secs(seconds)));
        let report = drive.run(group.cluster);
        let snapshots = making.join().map_err(panicked);
        is_over.store(true, Ordering::Relaxed);
        let looks = looking.join().map_err(panicked);
        Ok((report?, snapshots??, looks??))
    })?;
    let between = looks.windows(2).map(|pair| milliseconds(pair[1].asked - pair[0].asked));
    let flushed = |look: Option<&Look>| look.map_or(0, |look| look.flushes);
    Ok(Watched {
        rate,
        report,
        looks: looks.len(),
        look_ms: Spread::of(between),
        flushes: flushed(looks.last()) - flushed(looks.first()),
        snapshots: snapshots.len(),
        stops: stops(&looks, &snapshots),
        load,
    })
}

fn looks_until(is_over: &AtomicBool, began: Instant, page: &str) -> Result<Vec<Look>> {
    let mut connection = Kept::open(page)?;
    let mut looks = Vec::new();
    loop {
        let is_last = is_over.load(Ordering::Relaxed);
        let asked = began.elapsed();
        let metrics = Metrics::read_over(&mut connection)?;
        looks.push(Look {
            asked,
            answered: began.elapsed(),
            committed: metrics.number(COMMITTED)?,
            applied: metrics.number(APPLIED)?,
            flushes: metrics.number(FLUSHES)?,
        });
        if is_last {
            return Ok(looks);
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Has the leader make snapshots at even times of the run. Returns when each was made.
fn make_snapshots(group: &Group<'_>, leader: &str, began: Instant, length: Duration) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for number in 1..=SNAPSHOTS {
        let due = began + length * number / (SNAPSHOTS + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let from = began.elapsed();
        group.admin(leader, &["snapshot"])?;
        spans.push(Span { from, to: began.elapsed() });
    }
    Ok(spans)
}

/// Returns the longest stops that the looks know of.
fn stops(looks: &[Look], snapshots: &[Span]) -> Stops {
    let flushes = flushes(looks);
    let mut stops = Stops::default();
    for (span, stop) in waits(looks) {
        let is_in = |spans: &[Span]| spans.iter().any(|other| other.overlaps(span));
        let kind = match (is_in(snapshots), is_in(&flushes)) {
            (true, _) => &mut stops.in_snapshots,
            (false, true) => &mut stops.near_flushes,
            (false, false) => &mut stops.otherwise,
        };
        *kind = kind.or_longer(stop);
    }
    stops
}

/// Returns the times around the flushes. The node counts a flush when it has ended.
fn flushes(looks: &[Look]) -> Vec<Span> {
    let ended = looks.windows(2).filter(|pair| pair[1].flushes > pair[0].flushes);
    ended
        .map(|pair| Span { from: pair[0].asked.saturating_sub(NEAR_FLUSH), to: pair[1].answered + NEAR_FLUSH })
        .collect()
}

/// Returns what is known of the wait before each progress of apply: between which looks it was, and
/// how long.
fn waits(looks: &[Look]) -> Vec<(Span, Stop)> {
    let mut waits = Vec::new();
    let mut first = 0;
    let progress = |first: usize| (first..looks.len()).find(|n| looks[*n].applied > looks[first].applied);
    while let Some(next) = progress(first) {
        // Without a look before it, nobody knows since when.
        if first > 0 {
            waits.push(wait(looks, first, next));
        }
        first = next;
    }
    waits
}

/// Returns what is known of the wait that ended between the looks `next - 1` and `next`. The looks
/// from `first` to `next - 1` found the same entry applied.
fn wait(looks: &[Look], first: usize, next: usize) -> (Span, Stop) {
    let last = next - 1;
    let found = (first..next).find(|n| looks[*n].committed > looks[*n].applied);
    // When no look found anything waiting, entries came behind the last one at the earliest.
    let before = found.map_or(last, |found| found - 1);
    let seen = found.map(|found| looks[last].asked.saturating_sub(looks[found].answered));
    let span = Span { from: looks[before].asked, to: looks[next].answered };
    let stop = Stop {
        at_least_ms: milliseconds(seen.unwrap_or_default()),
        at_most_ms: milliseconds(span.to.saturating_sub(span.from)),
    };
    (span, stop)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a look at each millisecond, which takes half of one: what is committed, what is
    /// applied, and the flushes.
    fn looks(seen: &[(u64, u64, u64)]) -> Vec<Look> {
        let look = |(n, (committed, applied, flushes)): (u64, &(u64, u64, u64))| Look {
            asked: Duration::from_millis(1000 + n),
            answered: Duration::from_micros(1_000_500 + 1000 * n),
            committed: *committed,
            applied: *applied,
            flushes: *flushes,
        };
        (0..).zip(seen).map(look).collect()
    }

    fn stop(at_least_ms: f64, at_most_ms: f64) -> Stop {
        Stop { at_least_ms, at_most_ms }
    }

    fn round(stop: Stop) -> Stop {
        let round = |figure: f64| (figure * 1000.0).round() / 1000.0;
        Stop { at_least_ms: round(stop.at_least_ms), at_most_ms: round(stop.at_most_ms) }
    }

    /// Entries wait at the looks 3 to 6, and look 7 finds them applied.
    #[test]
    fn a_stop_lies_between_the_looks_that_see_it() {
        let seen = [(1, 1, 0), (2, 2, 0), (2, 2, 0), (3, 2, 0), (4, 2, 0), (5, 2, 0), (5, 2, 0), (5, 5, 1), (5, 5, 1)];
        let waits = waits(&looks(&seen));
        let [(span, seen)] = waits[..] else { panic!("{waits:?}") };
        assert_eq!(round(seen), stop(2.5, 5.5));
        assert_eq!(span, Span { from: Duration::from_millis(1002), to: Duration::from_micros(1_007_500) });
    }

    /// Apply takes each entry at once, and once a look finds one on its way.
    #[test]
    fn what_no_two_looks_see_is_no_certain_stop() {
        let seen = [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 3, 0), (4, 4, 0)];
        let stops = stops(&looks(&seen), &[]);
        assert_eq!(round(stops.otherwise), stop(0.0, 2.5));
        assert_eq!(stops.of_either(), Stop::default());
    }

    #[test]
    fn an_idle_cluster_does_not_stop() {
        let seen = [(1, 1, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0), (3, 3, 0)];
        assert_eq!(round(stops(&looks(&seen), &[]).otherwise), stop(0.0, 1.5));
        assert!(waits(&looks(&seen[1..5])).is_empty() && waits(&[]).is_empty());
    }

    #[test]
    fn a_stop_belongs_to_what_went_on_then() {
        let mut seen: Vec<(u64, u64, u64)> = (1..2000).map(|n| (n, n, 0)).collect();
        // Two stops, of about 3 ms and 2 ms. A flush ends 100 ms behind the first one.
        for (from, count) in [(500, 4), (1500, 3)] {
            let applied = seen[from].1;
            seen[from..from + count].iter_mut().for_each(|look| look.1 = applied);
            seen[from].0 += 1;
        }
        seen[604..].iter_mut().for_each(|look| look.2 = 1);
        let looks = looks(&seen);
        let found = stops(&looks, &[]);
        assert_eq!((round(found.near_flushes), round(found.otherwise)), (stop(2.5, 5.5), stop(1.5, 4.5)));
        let snapshot = Span { from: Duration::from_millis(2450), to: Duration::from_millis(2600) };
        let found = stops(&looks, &[snapshot]);
        assert_eq!(round(found.in_snapshots), stop(1.5, 4.5));
        assert_eq!(round(found.of_either()), stop(2.5, 5.5));
        assert_eq!(round(found.otherwise), stop(0.0, 1.5));
    }
}
