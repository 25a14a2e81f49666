//! The figures of a run as a row of a table and as JSON. It measures nothing.

use serde_json::{Value, json};

use super::load::{Measured, Shape};

/// The quantiles that are shown, and their names in JSON.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// The columns of latencies.
const LATENCIES: [&str; 6] = ["mean", "p50", "p90", "p99", "p99.9", "max"];

/// Returns the row above the figures.
pub(super) fn heading() -> String {
    let latencies: String = LATENCIES.iter().map(|name| format!(" {name:>10}")).collect();
    format!(
        "{:>7} {:>5} {:>10} {:>10}{latencies} {:>8} {:>10}",
        "clients", "conns", "calls", "calls/s", "errors", "cpu/call"
    )
}

/// A run, and what it was told to do.
pub(super) struct Shown<'a> {
    pub(super) system: &'a str,
    pub(super) operation: &'a str,
    pub(super) shape: Shape,
    pub(super) connections: usize,
    pub(super) value_bytes: usize,
    pub(super) measured: &'a Measured,
}

impl Shown<'_> {
    fn calls(&self) -> u64 {
        self.measured.latencies.len()
    }

    fn calls_per_second(&self) -> f64 {
        self.calls() as f64 / self.measured.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Returns what this process took of the processors for one answered call.
    fn cpu_us_per_call(&self) -> Option<f64> {
        (self.calls() > 0).then(|| self.measured.cpu.as_secs_f64() * 1e6 / self.calls() as f64)
    }

    /// Returns a latency by its quantile, in microseconds. `None` when no call was answered.
    fn latency_us(&self, quantile: f64) -> Option<f64> {
        (self.calls() > 0).then(|| micros(self.measured.latencies.value_at_quantile(quantile)))
    }

    fn mean_us(&self) -> Option<f64> {
        (self.calls() > 0).then(|| self.measured.latencies.mean() / 1e3)
    }

    fn max_us(&self) -> Option<f64> {
        (self.calls() > 0).then(|| micros(self.measured.latencies.max()))
    }

    /// Returns the row of a table with [`heading`].
    pub(super) fn row(&self) -> String {
        let mut latencies = vec![self.mean_us()];
        latencies.extend(QUANTILES.iter().map(|(_, quantile)| self.latency_us(*quantile)));
        latencies.push(self.max_us());
        let latencies: String =
            latencies.into_iter().map(|latency| format!(" {:>10}", milliseconds(latency))).collect();
        let errors: u64 = self.measured.errors.values().sum();
        let cpu = self.cpu_us_per_call().map_or_else(|| "-".to_owned(), |micros| format!("{micros:.1}us"));
        format!(
            "{:>7} {:>5} {:>10} {:>10.0}{latencies} {errors:>8} {cpu:>10}",
            self.shape.clients,
            self.connections,
            self.calls(),
            self.calls_per_second(),
        )
    }

    /// Returns the object of a run.
    pub(super) fn json(&self) -> Value {
        let mut latency = json!({ "mean": rounded(self.mean_us()), "max": rounded(self.max_us()) });
        for (name, quantile) in QUANTILES {
            latency[name] = rounded(self.latency_us(quantile));
        }
        json!({
            "system": self.system,
            "operation": self.operation,
            "clients": self.shape.clients,
            "connections": self.connections,
            "in_flight": self.shape.in_flight,
            "value_bytes": self.value_bytes,
            "seconds": self.shape.length.as_secs(),
            "rate": self.shape.rate,
            "calls": self.calls(),
            "errors": self.measured.errors,
            "calls_per_second": rounded(Some(self.calls_per_second())),
            "latency_us": latency,
            "histogram": self.histogram(),
            "client_cpu_us_per_call": rounded(self.cpu_us_per_call()),
        })
    }

    /// Returns pairs of a latency in whole microseconds and how many calls took that long at most,
    /// and longer than the pair before says.
    fn histogram(&self) -> Vec<(u64, u64)> {
        let mut pairs: Vec<(u64, u64)> = Vec::new();
        for bucket in self.measured.latencies.iter_recorded() {
            let upper_us = bucket.value_iterated_to().div_ceil(1000);
            match pairs.last_mut() {
                Some((last, count)) if *last == upper_us => *count += bucket.count_at_value(),
                _ => pairs.push((upper_us, bucket.count_at_value())),
            }
        }
        pairs
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Returns a figure with one digit behind the point, or null.
fn rounded(figure: Option<f64>) -> Value {
    figure.map_or(Value::Null, |figure| json!((figure * 10.0).round() / 10.0))
}

fn milliseconds(micros: Option<f64>) -> String {
    micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.2}ms", micros / 1e3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;

    fn shown(measured: &Measured, rate: Option<f64>) -> Shown<'_> {
        let (warmup, length) = (Duration::from_secs(1), Duration::from_secs(2));
        let shape = Shape { clients: 64, in_flight: 2, rate, warmup, length };
        Shown { system: "lockstep", operation: "put", shape, connections: 8, value_bytes: 256, measured }
    }

    fn measured(micros: impl Iterator<Item = u64>) -> Measured {
        let mut latencies = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        micros.for_each(|micros| latencies.record(micros * 1000).unwrap());
        let errors = BTreeMap::from([("UNAVAILABLE: no leader".to_owned(), 3)]);
        Measured { latencies, errors, elapsed: Duration::from_secs(2), cpu: Duration::from_millis(50) }
    }

    #[test]
    fn json_has_the_figures_of_a_run() {
        let measured = measured(1..=1000);
        let run = shown(&measured, Some(500.0)).json();
        assert_eq!(run["system"], "lockstep");
        assert_eq!(run["operation"], "put");
        for (field, expected) in [
            ("clients", 64),
            ("connections", 8),
            ("in_flight", 2),
            ("value_bytes", 256),
            ("seconds", 2),
            ("calls", 1000),
        ] {
            assert_eq!(run[field], expected, "{field}");
        }
        assert_eq!((&run["rate"], &run["calls_per_second"]), (&json!(500.0), &json!(500.0)));
        assert_eq!(run["client_cpu_us_per_call"], 50.0);
        assert_eq!(run["errors"], json!({ "UNAVAILABLE: no leader": 3 }));
        for (name, expected) in
            [("mean", 500.5), ("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)]
        {
            let figure = run["latency_us"][name].as_f64().unwrap();
            assert!((figure - expected).abs() <= expected / 500.0, "{name}: {figure}");
        }
    }

    #[test]
    fn the_histogram_has_every_call_once_in_ascending_order() {
        let measured = measured((1..=1000).chain([5_000_000]));
        let run = shown(&measured, None).json();
        assert_eq!(run["rate"], Value::Null);
        let pairs: Vec<(u64, u64)> = serde_json::from_value(run["histogram"].clone()).unwrap();
        assert_eq!(pairs.iter().map(|(_, count)| count).sum::<u64>(), 1001);
        assert!(pairs.windows(2).all(|two| two[0].0 < two[1].0), "{pairs:?}");
        let (last, count) = *pairs.last().unwrap();
        assert!(count == 1 && (5_000_000..=5_010_000).contains(&last), "{last}");
    }

    #[test]
    fn a_run_without_an_answer_has_no_latencies() {
        let measured = measured(std::iter::empty());
        let run = shown(&measured, None).json();
        assert_eq!((&run["calls"], &run["latency_us"]["p99"]), (&json!(0), &Value::Null));
        assert_eq!((&run["client_cpu_us_per_call"], &run["histogram"]), (&Value::Null, &json!([])));
        assert!(shown(&measured, None).row().contains(" - "));
    }

    #[test]
    fn a_row_stands_below_its_heading() {
        let measured = measured(1..=1000);
        let row = shown(&measured, None).row();
        let heading = heading();
        assert_eq!(row.chars().count(), heading.chars().count(), "{row}");
        for (column, expected) in [("clients", "64"), ("calls/s", "500"), ("p99.9", "1.00ms"), ("cpu/call", "50.0us")] {
            let end = heading.find(column).unwrap() + column.len();
            assert!(row[..end].ends_with(&format!(" {expected}")), "{column}:\n{heading}\n{row}");
        }
    }
}
