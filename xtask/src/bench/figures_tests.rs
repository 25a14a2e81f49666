//! Tests of medians, spreads and ratios, and the results that tests of the pages are given.

use super::*;
use crate::bench::applied::Point;
use crate::bench::calibrate::Quantiles;

/// What `lockstep bench --json` prints, as it is agreed on.
pub(in crate::bench) const PRINTED: &str = r#"{"system":"lockstep","operation":"put","clients":64,"connections":4,
    "value_bytes":256,"seconds":5,"rate":null,"calls":1000,"errors":{},"calls_per_second":200.5,
    "latency_us":{"mean":900.5,"p50":800,"p90":1500,"p99":2000,"p999":4000,"max":5000},
    "histogram":[[800,500],[2000,490],[5000,10]],"client_cpu_us_per_call":31.5}"#;

pub(in crate::bench) fn load(operation: &str, clients: u64) -> Load {
    Load { operation: operation.into(), clients }
}

/// Returns what the client printed.
pub(in crate::bench) fn report() -> Report {
    serde_json::from_str(PRINTED).unwrap()
}

fn block(round: u64, system: System, calls_per_second: f64, cpu_us_per_call: f64) -> Block {
    let report = Report { calls_per_second, ..report() };
    let quantiles = Quantiles { p50: 200.0, p99: 300.0 };
    Block {
        round,
        system,
        load: load("put", 64),
        calibration: Calibration { fdatasync_us: quantiles, echo_us: quantiles },
        report,
        servers: Servers {
            window_seconds: 4.5,
            cpu_us_per_call,
            bytes_written_per_call: 1000.0,
            resident_bytes: vec![50_000_000, 70_000_000, 60_000_000],
            resident_anonymous_bytes: vec![30_000_000; 3],
        },
    }
}

/// Returns two rounds of one load. With etcd, Lockstep makes twice and three times the calls of it,
/// at a quarter and at half of its processor time.
pub(in crate::bench) fn results(has_etcd: bool) -> Results {
    let mut blocks = vec![block(0, System::Lockstep, 200.0, 50.0), block(1, System::Lockstep, 300.0, 100.0)];
    let counted = |a, b, c| Syncs::Counted { calls: 100, syncs: vec![a, b, c] };
    let mut syncs = vec![(System::Lockstep, counted(101, 100, 103))];
    if has_etcd {
        blocks.extend([block(1, System::Etcd, 100.0, 200.0), block(0, System::Etcd, 100.0, 200.0)]);
        syncs.push((System::Etcd, counted(120, 119, 118)));
    }
    let points = (0..6).map(|n| Point { seconds: f64::from(n) * 0.02, entries: 10, flushes: u64::from(n == 3) });
    let applied = Applied { load: load("put", 64), points: points.collect() };
    Results {
        conditions: Conditions::example(has_etcd),
        loads: vec![load("put", 64)],
        blocks,
        syncs,
        applied: Some(applied),
    }
}

#[test]
fn a_median_lies_in_the_middle() {
    assert_eq!(Spread::of([3.0, 1.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    assert_eq!(Spread::of([f64::INFINITY, 1.0, f64::NAN]), Some(Spread { median: 1.0, min: 1.0, max: 1.0 }));
    assert_eq!(Spread::of([]), None);
}

#[test]
fn a_ratio_is_that_of_neighbours() {
    let (results, load) = (results(true), load("put", 64));
    let calls = results.ratio(&load, Quantity::CallsPerSecond).unwrap();
    assert_eq!(calls, Spread { median: 2.5, min: 2.0, max: 3.0 });
    let cpu = results.ratio(&load, Quantity::Cpu).unwrap();
    assert_eq!(cpu, Spread { median: 0.375, min: 0.25, max: 0.5 });
    assert_eq!(results.spread(System::Etcd, &load, Quantity::Resident).unwrap().median, 60.0);
    assert_eq!(results.spread(System::Lockstep, &load, Quantity::P50).unwrap().median, 0.8);
}

#[test]
fn without_etcd_there_is_no_ratio() {
    let (results, load) = (results(false), load("put", 64));
    assert_eq!(results.ratio(&load, Quantity::Cpu), None);
    assert_eq!(results.spread(System::Etcd, &load, Quantity::Cpu), None);
    assert!(results.spread(System::Lockstep, &load, Quantity::Cpu).is_some());
}

#[test]
fn histograms_of_rounds_are_added() {
    let added = results(true).histogram(System::Lockstep, &load("put", 64));
    assert_eq!(added, [(800.0, 1000), (2000.0, 980), (5000.0, 20)]);
}

#[test]
fn failed_calls_are_counted_by_system() {
    let mut results = results(true);
    results.blocks[0].report.errors = [("UNAVAILABLE: gone".to_owned(), 3), ("ABORTED: no".to_owned(), 4)].into();
    assert_eq!((results.errors(System::Lockstep), results.errors(System::Etcd)), (7, 0));
}
