//! Reads the rows of [`super::table`] at each scrape, and writes them in Prometheus' words. Knows
//! no metric by its name, and counts nothing.

use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::row::{Read, Row, Scrape, Value};
use super::table::ROWS;
use crate::api::Shared;
use crate::limit::Limit;

/// Reads the rows at each scrape.
pub(super) struct AtScrape(pub(super) Weak<Shared>);

impl std::fmt::Debug for AtScrape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtScrape")
    }
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let now = Scrape {
            status: shared.status_now(),
            watches: shared.parts.calls.watch_figures(),
            memory: shared.parts.calls.budget().figures(),
            replies_dropped: shared.bodies.ended(),
            commands_offered_again: shared.parts.calls.offered_again(),
            copies_refused: shared.parts.members.copies_refused(),
            trust: shared.parts.trust.figures(),
            peer_certificates_refused: shared.parts.members.certificates_refused(),
            intake: shared.parts.intake.status(),
            limits: limits(&shared),
        };
        for row in ROWS {
            if let Read::Now(read) = row.read {
                encode(&mut encoder, row, read(&now))?;
            }
        }
        Ok(())
    }
}

/// Returns how near the limits are that have no metric of their own.
fn limits(shared: &Shared) -> Vec<Limit> {
    let parts = &shared.parts;
    let mut limits = parts.calls.limits();
    limits.extend(shared.operators.limits());
    limits.push(shared.bodies.limit());
    limits.extend(parts.intake.limits());
    limits.push(parts.members.heartbeat_limit());
    limits.extend(parts.trust.limits());
    limits
}

fn encode(encoder: &mut DescriptorEncoder<'_>, row: &Row, value: Value) -> Result<(), std::fmt::Error> {
    match value {
        Value::Unknown => Ok(()),
        Value::One(value) => number(encoder.encode_descriptor(row.name, row.help, None, row.kind)?, row, value),
        Value::Seconds(seconds) => {
            ConstGauge::new(seconds).encode(encoder.encode_descriptor(row.name, row.help, None, row.kind)?)
        }
        // The help of a metric without a value says nothing.
        Value::By(_, values) if values.is_empty() => Ok(()),
        Value::By(label, values) => {
            let mut family = encoder.encode_descriptor(row.name, row.help, None, row.kind)?;
            for (label_value, value) in values {
                number(family.encode_family(&[(label, label_value)])?, row, value)?;
            }
            Ok(())
        }
    }
}

fn number(encoder: MetricEncoder<'_>, row: &Row, value: u64) -> Result<(), std::fmt::Error> {
    match row.kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}
