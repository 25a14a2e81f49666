//! The numbers of `net` for `/metrics`: the open files and sockets of the process, and the
//! connections of each port. This file counts nothing itself.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::net::{PortStatus, Sockets, SocketsStatus};

/// Reads the numbers at each scrape.
#[derive(Debug)]
pub(super) struct OfSockets(pub(super) Sockets);

/// One number that each port has: its name, its help, and how to read it.
type OfPort = (&'static str, &'static str, fn(&PortStatus) -> u64);

const GAUGES: [OfPort; 3] = [
    ("connections_max", "Connections that a port may have open at a time", |port| port.max as u64),
    ("connections_open", "Those that it has open", |port| port.open as u64),
    ("connections_silent", "Of these, those that have not said what a client says first", |port| port.silent as u64),
];

const COUNTERS: [OfPort; 6] = [
    ("connections_accepted", "Connections that got a place", |port| port.accepted),
    ("connections_refused", "Connections closed at once, because all that the port may have were in use", |port| {
        port.refused
    }),
    ("connections_silent_closed", "Silent connections that were closed in time, or made room for new ones", |port| {
        port.silent_closed
    }),
    ("accept_failures", "Connections that the system could not hand over", |port| port.accept_failures),
    ("connections_resets", "Calls that were reset, by the other side or because of what it sent", |port| port.resets),
    ("connections_slowed", "How often a connection was slowed down for resetting calls too fast", |port| port.slowed),
];

impl Collector for OfSockets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let SocketsStatus { descriptors_max, descriptors_open, ports } = self.0.status();
        let unused = descriptors_max.saturating_sub(descriptors_open);
        let descriptors = [
            ("descriptors_max", "Files and sockets that this process may have open at a time", descriptors_max),
            ("descriptors_open", "Those that it has open", descriptors_open),
            ("descriptors_unused", "Those that it may still open", unused),
        ];
        for (name, help, value) in descriptors {
            gauge(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for port in &ports {
                gauge(value(port)).encode(family.encode_family(&[("port", port.name)])?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for port in &ports {
                ConstCounter::new(value(port)).encode(family.encode_family(&[("port", port.name)])?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
