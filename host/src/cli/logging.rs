//! Where log lines go and what they look like: stderr, text or JSON, the node's name on every line.

use std::fmt;

use clap::ValueEnum;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::ConfigError;

/// What one log line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for collectors.
    Json,
}

/// Starts logging for this process. `level` is a level or a filter such as `info,lockstep::raft=debug`.
pub(crate) fn init(level: &str, format: LogFormat, node: &str) -> Result<(), ConfigError> {
    let filter = filter(level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let node = node.to_owned();
    match format {
        LogFormat::Text => builder.map_event_format(|inner| Named { inner, node, format }).init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).map_event_format(|inner| Named { inner, node, format }).init()
        }
    }
    Ok(())
}

/// Refuses a level that no node would take.
pub(crate) fn check(level: &str) -> Result<(), ConfigError> {
    filter(level).map(drop)
}

/// A plain `info` or `warn` speaks of this node: openraft warns at every attempt to reach a dead
/// peer, some hundred times a second, and calls it an error when a peer's stream ends because this node stops. (When Raft's core
/// stops by itself, the node says so and ends.)
/// h2 warns of what any client can send as often as it likes, such as resets; `net` says that, once a second.
/// A filter that names them gets what it asks for.
fn filter(level: &str) -> Result<EnvFilter, ConfigError> {
    let is_plain_level = level.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let quiet = match level.to_ascii_lowercase().as_str() {
        plain @ ("info" | "warn") => format!("{plain},openraft=error,openraft::raft::stream_append=off,h2=error"),
        _ => level.to_owned(),
    };
    if !is_plain_level && !level.contains(['=', ',']) {
        let hint = "give off, error, warn, info, debug or trace, or a filter such as info,lockstep::raft=debug";
        return Err(ConfigError::new("--log_level", format!("{level:?} is no level"), hint));
    }
    EnvFilter::try_new(quiet).map_err(|error| {
        let hint = "a filter is a list such as info,lockstep::raft=debug";
        ConfigError::new("--log_level", format!("{level:?} is no filter: {error}"), hint)
    })
}

/// Adds the node's name to each line, also to those of tasks that no span of ours surrounds.
struct Named<F> {
    inner: F,
    node: String,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", with_name(line.trim_end(), &self.node, self.format))
    }
}

fn with_name(line: &str, node: &str, format: LogFormat) -> String {
    match (format, line.strip_prefix('{')) {
        // A node's name is checked to need no escaping.
        (LogFormat::Json, Some(rest)) => format!("{{\"node\":\"{node}\",{rest}"),
        _ => format!("{line} node={node}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_line_stays_json_and_names_the_node() {
        let line = with_name("{\"level\":\"INFO\"}", "nodeA", LogFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["node"], &value["level"]), (&"nodeA".into(), &"INFO".into()));
    }

    #[test]
    fn filters_are_checked() {
        for good in ["info", "WARN", "off", "info,openraft=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "info,lockstep=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
