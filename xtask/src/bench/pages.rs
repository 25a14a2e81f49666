//! The files of a benchmark: the page, the raw results, and the plots beside it. All are named
//! after the day and the commit, so a second run of a day on one commit replaces the first. It
//! computes no figure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::applied::Applied;
use super::figures::{Load, Quantity, Results, System};
use super::plot::{Axis, Chart, Line, plain};
use super::table;

/// Returns the directory for the files: the one that is named, or else `docs/benchmarks/`.
pub(super) fn directory(named: Option<&str>) -> Result<PathBuf> {
    let out = named.map_or_else(|| crate::root().join("docs/benchmarks"), PathBuf::from);
    std::fs::create_dir_all(&out).with_context(|| format!("--out: making {}", out.display()))?;
    Ok(out)
}

/// Writes all files, and returns their names.
pub(super) fn write(results: &Results, out: &Path) -> Result<Vec<String>> {
    let stem = results.conditions.stem();
    let charts: Vec<(String, Chart)> =
        charts(results).into_iter().map(|(name, chart)| (format!("{stem}-{name}.svg"), chart)).collect();
    let plots: Vec<(String, String)> = charts.iter().map(|(name, chart)| (name.clone(), chart.title.clone())).collect();
    let mut files = vec![(format!("{stem}.md"), table::page(results, &plots)), (format!("{stem}.json"), raw(results)?)];
    files.extend(charts.into_iter().map(|(name, chart)| (name, chart.svg())));
    write_all(files, out)
}

/// Writes files, each with its text, and returns their names.
pub(super) fn write_all(files: Vec<(String, String)>, out: &Path) -> Result<Vec<String>> {
    for (name, text) in &files {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// Returns everything as JSON, with a line for each block: a histogram has hundreds of numbers.
fn raw(results: &Results) -> Result<String> {
    let mut ratios = Vec::new();
    for load in &results.loads {
        for quantity in Quantity::ALL {
            if let Some(ratio) = results.ratio(load, quantity) {
                ratios.push(json!({ "load": load, "figure": quantity.words(), "ratio": ratio }));
            }
        }
    }
    let syncs: Vec<_> =
        results.syncs.iter().map(|(system, syncs)| json!({ "system": system, "syncs": syncs })).collect();
    Ok(format!(
        "{{\"conditions\":{},\n\"blocks\":{},\n\"ratios\":{},\n\"syncs\":{},\n\"applied\":{}}}\n",
        serde_json::to_string(&results.conditions)?,
        lines(&results.blocks)?,
        lines(&ratios)?,
        lines(&syncs)?,
        serde_json::to_string(&results.applied)?,
    ))
}

/// Returns a JSON array with a line for each element.
pub(super) fn lines(elements: &[impl Serialize]) -> Result<String> {
    let elements = elements.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]", elements.join(",\n")))
}

/// Returns the charts, each with its part of a file's name.
fn charts(results: &Results) -> Vec<(String, Chart)> {
    let mut charts = Vec::new();
    for load in &results.loads {
        charts.push((format!("latency-{}-{}", load.operation, load.clients), latency(results, load)));
    }
    let mut operations: Vec<&str> = results.loads.iter().map(|load| load.operation.as_str()).collect();
    operations.dedup();
    for operation in operations {
        let throughput = by_clients(results, operation, Quantity::CallsPerSecond, "Throughput");
        charts.push((format!("throughput-{operation}"), throughput));
        let cpu = by_clients(results, operation, Quantity::Cpu, "Processor time of the servers");
        charts.push((format!("cpu-{operation}"), cpu));
    }
    charts.extend(results.applied.iter().map(|applied| ("apply".to_owned(), apply(applied))));
    charts
}

/// Returns the systems that have a block, and so a line.
fn measured(results: &Results) -> Vec<System> {
    let has_block = |system: &System| results.blocks.iter().any(|block| block.system == *system);
    System::ALL.into_iter().filter(has_block).collect()
}

fn latency(results: &Results, load: &Load) -> Chart {
    let line = |system: System| {
        let histogram = results.histogram(system, load);
        Line { name: system.name().into(), points: distribution(&histogram) }
    };
    Chart {
        title: format!("Latency of {load}"),
        x: Axis { words: "share of the calls that were not slower".into(), is_log: true, tick: share },
        y: Axis { words: "ms".into(), is_log: true, tick: plain },
        lines: measured(results).into_iter().map(line).collect(),
        marks: Vec::new(),
    }
}

/// Returns a point for each bucket: one call in `x` took longer than `y` milliseconds. The last
/// point is the slowest call.
fn distribution(histogram: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let total: u64 = histogram.iter().map(|bucket| bucket.1).sum();
    let mut slower = total;
    let mut points = Vec::new();
    for (upper_us, count) in histogram {
        slower = slower.saturating_sub(*count);
        points.push((total as f64 / slower.max(1) as f64, upper_us / 1000.0));
    }
    points
}

/// Says which share is not slower when one call in `one_in` is.
fn share(one_in: f64) -> String {
    let millionths = ((100.0 - 100.0 / one_in) * 1e6).round();
    format!("{} %", millionths / 1e6)
}

fn by_clients(results: &Results, operation: &str, quantity: Quantity, title: &str) -> Chart {
    let line = |system: System| {
        let loads = results.loads.iter().filter(|load| load.operation == operation);
        let point =
            |load: &Load| Some((load.clients as f64, results.spread(system, load, quantity).map(|of| of.median)?));
        let mut points: Vec<(f64, f64)> = loads.filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line { name: system.name().into(), points }
    };
    Chart {
        title: format!("{title}: {operation}"),
        x: Axis { words: "clients".into(), is_log: true, tick: plain },
        y: Axis { words: quantity.words().into(), is_log: false, tick: plain },
        lines: measured(results).into_iter().map(line).collect(),
        marks: Vec::new(),
    }
}

fn apply(applied: &Applied) -> Chart {
    let mut last = 0.0;
    let mut points = Vec::new();
    for point in &applied.points {
        points.push((point.seconds, point.entries as f64 / (point.seconds - last)));
        last = point.seconds;
    }
    let flushes = applied.points.iter().filter(|point| point.flushes > 0).map(|point| point.seconds);
    Chart {
        title: format!("Apply on the leader: {}", applied.load),
        x: Axis { words: "s; a vertical line is a flush of the state".into(), is_log: false, tick: plain },
        y: Axis { words: "entries/s".into(), is_log: false, tick: plain },
        lines: vec![Line { name: System::Lockstep.name().into(), points }],
        marks: flushes.collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bench::figures::tests::{load, results};
    use crate::bench::plot::tests::assert_well_formed;

    #[test]
    fn every_file_is_written_and_the_page_names_the_plots() {
        for has_etcd in [true, false] {
            let out = tempfile::tempdir().unwrap();
            let names = write(&results(has_etcd), out.path()).unwrap();
            let page = std::fs::read_to_string(out.path().join("2026-01-31-0123456789ab.md")).unwrap();
            for name in &names {
                let text = std::fs::read_to_string(out.path().join(name)).unwrap();
                if name.ends_with(".svg") {
                    assert_well_formed(&text);
                    assert!(page.contains(&format!("]({name})")), "{name}");
                    assert!(name.ends_with("-apply.svg") || text.contains(">etcd<") == has_etcd, "{name}");
                }
            }
            // A latency, a throughput, a processor time, and apply.
            assert_eq!(names.len(), 2 + 4, "{names:?}");
        }
    }

    #[test]
    fn the_raw_results_are_json() {
        let raw: serde_json::Value = serde_json::from_str(&raw(&results(true)).unwrap()).unwrap();
        assert_eq!(raw["conditions"]["commit"], "0123456789ab");
        assert_eq!(raw["blocks"].as_array().unwrap().len(), 4);
        assert_eq!(raw["blocks"][0]["report"]["histogram"][1][1], 490);
        assert_eq!(raw["blocks"][0]["system"], "lockstep");
        assert_eq!(raw["ratios"][0]["ratio"]["median"], 2.5);
        assert_eq!(raw["syncs"][1]["syncs"]["counted"]["syncs"][0], 120);
        assert_eq!(raw["applied"]["points"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn a_distribution_ends_with_the_slowest_call() {
        let points = distribution(&[(800.0, 500), (2000.0, 490), (5000.0, 10)]);
        assert_eq!(points, [(2.0, 0.8), (100.0, 2.0), (1000.0, 5.0)]);
        assert!(distribution(&[]).is_empty());
    }

    #[test]
    fn shares_are_percentages() {
        let shares: Vec<String> = [1.0, 2.0, 10.0, 100.0, 1000.0, 1_000_000.0].into_iter().map(share).collect();
        assert_eq!(shares, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.9999 %"]);
    }

    #[test]
    fn an_operation_has_a_line_over_its_clients() {
        let mut results = results(true);
        results.loads.push(load("put", 256));
        let mut more = results.blocks[0].clone();
        more.load.clients = 256;
        results.blocks.push(more);
        let chart = by_clients(&results, "put", Quantity::CallsPerSecond, "Throughput");
        assert_eq!(chart.lines[0].points, [(64.0, 250.0), (256.0, 200.0)]);
        assert_eq!(chart.lines[1].points, [(64.0, 100.0)]);
    }
}
