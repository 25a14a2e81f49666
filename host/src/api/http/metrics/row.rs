//! What the table of metrics is made of: a row, where its value comes from, and the numbers of one
//! scrape. It has no row of its own.

use prometheus_client::metrics::MetricType;

use crate::api::node_status::NodeStatus;
use crate::calls::WatchFigures;
use crate::calls::budget::BudgetFigures;
use crate::limit::Limit;
use crate::raft::IntakeStatus;
use crate::trust::TrustFigures;

/// One metric.
pub(super) struct Row {
    /// Its name, without the prefix `lockstep_` and without the `_total` that counters get.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Its labels, for the page. Empty if it has none.
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// Where the value of a metric comes from.
pub(super) enum Read {
    /// Calls count it as they end.
    Counted,
    /// It is read at each scrape.
    Now(fn(&Scrape) -> Value),
}

/// The numbers of one scrape.
pub(super) struct Scrape {
    pub(super) status: NodeStatus,
    pub(super) watches: WatchFigures,
    pub(super) memory: BudgetFigures,
    pub(super) replies_dropped: u64,
    /// Commands that were left over and offered again.
    pub(super) commands_offered_again: u64,
    pub(super) copies_refused: u64,
    pub(super) trust: TrustFigures,
    pub(super) peer_certificates_refused: u64,
    pub(super) intake: IntakeStatus,
    pub(super) limits: Vec<Limit>,
}

/// The value of a metric at one scrape.
pub(super) enum Value {
    /// The node does not know it now.
    Unknown,
    One(u64),
    Seconds(f64),
    /// One value for each value of the label.
    By(&'static str, Vec<(&'static str, u64)>),
}

pub(super) const fn row(
    name: &'static str,
    kind: MetricType,
    labels: &'static str,
    help: &'static str,
    read: Read,
) -> Row {
    Row { name, kind, labels, help, read }
}

pub(super) const fn gauge(name: &'static str, help: &'static str, read: fn(&Scrape) -> Value) -> Row {
    row(name, MetricType::Gauge, "", help, Read::Now(read))
}

pub(super) const fn counter(name: &'static str, help: &'static str, read: fn(&Scrape) -> Value) -> Row {
    row(name, MetricType::Counter, "", help, Read::Now(read))
}

pub(super) const fn by(label: &'static str, mut row: Row) -> Row {
    row.labels = label;
    row
}
