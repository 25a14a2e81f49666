//! Defines where log lines go and how they look: stderr, text or JSON, with the node's name on
//! every line. The last lines of a process, its error or a panic, look like the lines before them.

mod json;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::json::Tree;
use crate::config::ConfigError;
use crate::logs::stderr;

/// Target of the lines that do not come from an event.
const TARGET: &str = "lockstep";

/// Format of one log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// How the lines of this process look, once that is known. Until then they are text for people.
static LINES: OnceLock<Lines> = OnceLock::new();

/// One way to write lines.
#[derive(Clone, Debug)]
struct Lines {
    format: LogFormat,
    node: String,
}

/// Sets the format of everything that this process logs from now on. That includes its errors and
/// panics.
pub(crate) fn speak(format: LogFormat, node: &str) {
    let is_first = LINES.set(Lines { format, node: node.to_owned() }).is_ok();
    if is_first && format == LogFormat::Json {
        std::panic::set_hook(Box::new(|panic| say_panic(panic, node_of_lines())));
    }
}

/// Starts logging for this process. `level` is a level or a filter such as
/// `info,lockstep::raft=debug`.
pub(crate) fn init(level: &str, format: LogFormat, node: &str) -> Result<(), ConfigError> {
    let filter = filter(level)?;
    let lines = Lines { format, node: node.to_owned() };
    let out = lines.clone();
    // Lines that cannot be written are dropped and counted. tracing's own report of that would be a
    // panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || out.clone())
        .log_internal_errors(false)
        .with_ansi(false);
    match format {
        LogFormat::Text => builder.map_event_format(|inner| Named { inner, lines }).init(),
        LogFormat::Json => builder.json().map_event_format(|inner| Named { inner, lines }).init(),
    }
    Ok(())
}

/// Writes an error of this process to its log, in the log's format. `false` when the process has no
/// log. A text log gets `text`; a JSON log gets the other arguments.
pub(crate) fn say_error(text: &str, message: &str, causes: &[String], hints: &[String]) -> bool {
    let Some(Lines { format, node }) = LINES.get() else { return false };
    let list = |texts: &[String]| Tree::List(texts.iter().map(Tree::text).collect());
    let more = [("causes", causes), ("hints", hints)].into_iter().filter(|(_, texts)| !texts.is_empty());
    let line = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => {
            let more = more.map(|(name, texts)| (name, list(texts))).collect();
            json::line("ERROR", node, TARGET, message, more)
        }
    };
    write_line(&line, *format, node);
    true
}

fn node_of_lines() -> &'static str {
    LINES.get().map_or("", |lines| lines.node.as_str())
}

fn say_panic(panic: &PanicHookInfo<'_>, node: &str) {
    let thread = std::thread::current();
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let said = panic.payload_as_str().unwrap_or("(no text)");
    let message = format!("thread '{}' panicked at {place}: {said}", thread.name().unwrap_or("<unnamed>"));
    // Captured only if RUST_BACKTRACE asks for it.
    let frames = Backtrace::capture();
    let more = match frames.status() {
        BacktraceStatus::Captured => vec![("backtrace", Tree::text(frames.to_string()))],
        _ => Vec::new(),
    };
    write_line(&json::line("ERROR", node, "panic", &message, more), LogFormat::Json, node);
}

fn write_line(line: &str, format: LogFormat, node: &str) {
    stderr::write(format!("{line}\n").as_bytes(), |count| lost(count, format, node));
}

/// Returns the line that says that lines before it are missing.
fn lost(count: u64, format: LogFormat, node: &str) -> String {
    let message = format!("{count} lines of this log before this one could not be written");
    match format {
        LogFormat::Text => format!("{}  WARN {TARGET}: {message} node={node}", json::now()),
        LogFormat::Json => json::line("WARN", node, TARGET, &message, Vec::new()),
    }
}

impl Write for Lines {
    /// Takes all bytes that it is given: tracing passes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        stderr::write(lines, |count| lost(count, self.format, &self.node));
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a level that no node would take.
pub(crate) fn check(level: &str) -> Result<(), ConfigError> {
    filter(level).map(drop)
}

/// Parses the log level. A plain `info` or `warn` leaves out lines that are not about this node.
/// openraft warns at every attempt to reach a dead peer, some hundred times a second. It logs an
/// error when a peer's stream ends because this node stops. (When Raft's core stops by itself, the
/// node reports that and ends.) h2 warns of things that any client can send as often as it likes,
/// such as resets; `net` reports those, once a second. A filter that names these libraries gets
/// what it asks for.
fn filter(level: &str) -> Result<EnvFilter, ConfigError> {
    if level.trim().is_empty() {
        let hint = "leave it out for info; off switches the log off";
        return Err(ConfigError::new("--log_level", "an empty text is no level", hint));
    }
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

/// Adds the node's name to each line, even to lines of tasks outside of this program's spans.
struct Named<F> {
    inner: F,
    lines: Lines,
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
        let node = &self.lines.node;
        match self.lines.format {
            LogFormat::Text => writeln!(writer, "{} node={node}", line.trim_end()),
            LogFormat::Json => writeln!(writer, "{}", json::of_event(&line, node)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn missing_lines_are_told_in_the_format_of_the_others() {
        let text = lost(3, LogFormat::Text, "nodeA");
        assert!(
            text.ends_with("Z  WARN lockstep: 3 lines of this log before this one could not be written node=nodeA"),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&lost(3, LogFormat::Json, "nodeA")).unwrap();
        assert_eq!((&value["level"], &value["node"]), (&"WARN".into(), &"nodeA".into()));
    }

    #[test]
    fn filters_are_checked() {
        for good in ["info", "WARN", "off", "info,openraft=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "info,lockstep=loud", "", " "] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
