//! Metrics for `/metrics`. This file counts calls of the guest's methods as they end;
//! `metrics/table.rs` has all metrics with their help, and reads the others at each scrape. Method
//! names come from routes, never from clients, so the label set is bounded.

mod row;
mod scrape;
mod table;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockstep_contract::{Kind, Method};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use tonic::Code;

use crate::api::Shared;
use crate::calls::Full;
use row::Row;

/// Upper bounds of the histogram in seconds. They range from a local query to the default deadline.
const SECONDS_BOUNDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The registry, and the counters that calls increment.
pub(in crate::api) struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    seconds: Family<KindLabels, Histogram>,
    watches_refused: Family<LimitLabels, Counter>,
}

/// The counters of one unary method. A method that was never called has none, so it is not shown.
#[derive(Debug, Default)]
pub(in crate::api) struct Found {
    calls: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Arc<str>,
    kind: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

impl Metrics {
    pub(in crate::api) fn new() -> Metrics {
        let calls = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS_BOUNDS)) as fn() -> Histogram);
        let watches_refused = Family::default();
        let mut registry = Registry::with_prefix("lockstep");
        register(&mut registry, table::CALLS, calls.clone());
        register(&mut registry, table::CALL_SECONDS, seconds.clone());
        register(&mut registry, table::WATCHES_REFUSED, watches_refused.clone());
        Metrics { registry: Mutex::new(registry), calls, seconds, watches_refused }
    }

    /// Registers the numbers that are read at each scrape.
    pub(in crate::api) fn watch(&self, shared: &Arc<Shared>) {
        self.registry.lock().register_collector(Box::new(scrape::AtScrape(Arc::downgrade(shared))));
    }

    pub(in crate::api) fn call_ended(&self, method: &Arc<str>, kind: Kind, code: Code, took: Duration) {
        let kind = kind.name();
        self.calls.get_or_create(&CallLabels { method: method.clone(), kind, code: code_name(code) }).inc();
        self.seconds.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// Counts a call like [`Metrics::call_ended`]. The counters of a call that went well are found
    /// once, and kept in `found`.
    pub(in crate::api) fn unary_ended(&self, method: &Method, found: &Found, code: Code, took: Duration) {
        if code != Code::Ok {
            return self.call_ended(&method.name, method.kind, code, took);
        }
        let kind = method.kind.name();
        let labels = || CallLabels { method: method.name.clone(), kind, code: code_name(code) };
        found.calls.get_or_init(|| self.calls.get_or_create_owned(&labels())).inc();
        let seconds = found.seconds.get_or_init(|| self.seconds.get_or_create_owned(&KindLabels { kind }));
        seconds.observe(took.as_secs_f64());
    }

    pub(in crate::api) fn watch_refused(&self, full: Full) {
        self.watches_refused.get_or_create(&LimitLabels { limit: full.name() }).inc();
    }

    /// Returns the metrics as OpenMetrics text.
    pub(in crate::api) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

fn register(registry: &mut Registry, row: Row, metric: impl Metric) {
    registry.register(row.name, row.help, metric);
}

/// Returns the name of a code as the gRPC specification writes it.
pub(in crate::api) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
