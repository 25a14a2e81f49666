//! Tests of the figures, and the results that tests of the page are given.

use super::*;
use crate::bench::calibrate::Quantiles;
use crate::bench::figures::tests::{load, report};
use crate::bench::large::stops::{Stop, Stops};

fn block(round: u64, size: Size, cpu_us_per_call: f64) -> Block {
    let quantiles = Quantiles { p50: 200.0, p99: 300.0 };
    Block {
        round,
        size,
        calibration: Calibration { fdatasync_us: quantiles, echo_us: quantiles },
        report: report(),
        servers: Servers {
            window_seconds: 9.0,
            cpu_us_per_call,
            bytes_written_per_call: 1000.0,
            resident_bytes: vec![50_000_000; 3],
            resident_anonymous_bytes: vec![30_000_000; 3],
        },
        cpu_us_until_quiet: if size == Size::Many { 2.0 * cpu_us_per_call } else { cpu_us_per_call },
    }
}

fn filled(rows: u64) -> Filled {
    Filled { rows, seconds: 2.0, state_bytes: rows * 300 }
}

fn watched(rate: Option<u64>, near_flushes: Stop) -> Watched {
    let in_snapshots = Stop { at_least_ms: 0.5, at_most_ms: 2.5 };
    Watched {
        load: load("put", 64),
        rate,
        report: report(),
        looks: 9000,
        look_ms: Spread::of([1.0, 1.1, 4.0]),
        flushes: 12,
        snapshots: 3,
        stops: Stops { near_flushes, in_snapshots, otherwise: Stop { at_least_ms: 0.0, at_most_ms: 2.0 } },
    }
}

/// Returns two rounds. A put costs 1.25 and 1.5 times as much among many keys, and twice that until
/// the nodes are quiet. A paced run has a stop of 2 to 4 ms, and the other one a stop of 4 to 9 ms.
pub(in crate::bench::large) fn results() -> Results {
    let restart = |end, seconds| Restart { end, seconds, log_entries: 100_123, applied_again: 900 };
    let join = |copy_seconds, ready_seconds, transfer_seconds| Join {
        copy_seconds,
        newcomer: Newcomer { ready_seconds, transfer_seconds, bytes_seen: 1_100_000_000 },
    };
    Results {
        conditions: Conditions::example(false),
        state_bytes: 1 << 30,
        few: filled(10_000),
        many: filled(10_000_000),
        state: filled(3_991_606),
        blocks: vec![
            block(0, Size::Few, 100.0),
            block(0, Size::Many, 150.0),
            block(1, Size::Many, 100.0),
            block(1, Size::Few, 80.0),
        ],
        watched: vec![
            watched(Some(2000), Stop { at_least_ms: 2.0, at_most_ms: 4.0 }),
            watched(None, Stop { at_least_ms: 4.0, at_most_ms: 9.0 }),
        ],
        restarts: vec![restart(End::Killed, 4.0), restart(End::Stopped, 0.9), restart(End::Killed, 5.0)],
        joins: vec![join(2.0, 5.0, 2.0), join(2.0, 6.0, 2.4)],
    }
}

#[test]
fn a_ratio_is_that_of_one_round() {
    let results = results();
    let ratio = results.ratio(|block| block.servers.cpu_us_per_call).map(|ratio| (ratio.min, ratio.max));
    assert_eq!(ratio, Some((1.25, 1.5)));
    let few = results.spread(Size::Few, |block| block.cpu_us_until_quiet);
    assert_eq!(few.map(|spread| spread.median), Some(90.0));
    let (seconds, ratio) = results.joined(|newcomer| newcomer.ready_seconds);
    assert_eq!((seconds.map(|spread| spread.median), ratio.map(|spread| spread.max)), (Some(5.5), Some(3.0)));
}

#[test]
fn restarts_are_told_apart_by_the_end_before() {
    let results = results();
    assert_eq!(results.restart_seconds(End::Killed).map(|spread| spread.median), Some(4.5));
    assert_eq!(results.restart_seconds(End::Stopped).map(|spread| spread.max), Some(0.9));
}

#[test]
fn failed_calls_of_all_runs_are_counted() {
    let mut results = results();
    assert_eq!(results.errors(), 0);
    results.blocks[0].report.errors = [("UNAVAILABLE: gone".to_owned(), 3)].into();
    results.watched[1].report.errors = [("ABORTED: no".to_owned(), 4)].into();
    assert_eq!(results.errors(), 7);
}
