//! Defines where log lines go and how they look: stderr, text or JSON, with the node's name on
//! every line. The last lines of a process, its error or a panic, look like the lines before them.

mod json;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::json::Tree;
use crate::config::ConfigError;
use crate::faults;
use crate::logs::stderr;

/// Target of the lines that do not come from an event.
const TARGET: &str = "lockstep";
/// Longest wait of a process that ends for whoever reads its log.
const END_WAIT: Duration = Duration::from_secs(1);
/// Longest wait of a thread that has panicked. The process may end right after it.
const PANIC_WAIT: Duration = Duration::from_millis(100);

/// Format of one log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// How the last words of this process look, once that is known. Until then they are text for
/// people, beside the log.
static LINES: OnceLock<Lines> = OnceLock::new();
/// How a line about lost lines looks: like the lines of the log.
static NOTICES: OnceLock<Lines> = OnceLock::new();

/// One way to write lines.
#[derive(Clone, Debug)]
struct Lines {
    format: LogFormat,
    node: String,
}

/// Sets the format of everything that this process logs from now on. That includes its errors and
/// panics.
pub(crate) fn speak(format: LogFormat, node: &str) {
    let lines = Lines { format, node: node.to_owned() };
    NOTICES.get_or_init(|| lines.clone());
    if LINES.set(lines).is_ok() {
        // The standard library's own hook waits for whoever reads stderr.
        std::panic::set_hook(Box::new(say_panic));
    }
}

/// Waits until the log is written, for a second at most unless a test says otherwise. For a process
/// that is about to end.
pub(crate) fn flush() {
    stderr::flush(faults::end_wait().unwrap_or(END_WAIT));
}

/// Starts logging for this process. `level` is a level or a filter such as
/// `info,lockstep::raft=debug`.
pub(crate) fn init(level: &str, format: LogFormat, node: &str) -> Result<(), ConfigError> {
    let filter = filter(level)?;
    let lines = Lines { format, node: node.to_owned() };
    let out = NOTICES.get_or_init(|| lines.clone()).clone();
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
    write_last(&line);
    true
}

fn say_panic(panic: &PanicHookInfo<'_>) {
    let Some(lines) = LINES.get() else { return };
    let thread = std::thread::current();
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let said = panic.payload_as_str().unwrap_or("(no text)");
    let message = format!("thread '{}' panicked at {place}: {said}", thread.name().unwrap_or("<unnamed>"));
    // Captured only if RUST_BACKTRACE asks for it.
    let frames = Backtrace::capture();
    let frames = (frames.status() == BacktraceStatus::Captured).then(|| frames.to_string());
    write_last(&lines.panic(&message, frames));
    stderr::flush(PANIC_WAIT);
}

fn write_last(line: &str) {
    stderr::write_last(format!("{line}\n").as_bytes(), lost);
}

/// Returns the line that says that lines before it are missing.
fn lost(count: u64) -> String {
    // Whoever writes lines has set it.
    NOTICES.get().map_or_else(String::new, |lines| lines.missing(count))
}

impl Lines {
    /// Returns the line about a panic, with the frames of its backtrace.
    fn panic(&self, message: &str, frames: Option<String>) -> String {
        let Lines { format, node } = self;
        match format {
            LogFormat::Text => {
                let frames = frames.map(|frames| format!("\n{}", frames.trim_end())).unwrap_or_default();
                format!("{} ERROR panic: {message} node={node}{frames}", json::now())
            }
            LogFormat::Json => {
                let more = frames.map(|frames| ("backtrace", Tree::text(frames))).into_iter().collect();
                json::line("ERROR", node, "panic", message, more)
            }
        }
    }

    /// Returns the line that says that `count` lines before it are missing.
    fn missing(&self, count: u64) -> String {
        let Lines { format, node } = self;
        let message = format!("{count} lines of this log before this one could not be written");
        match format {
            LogFormat::Text => format!("{}  WARN {TARGET}: {message} node={node}", json::now()),
            LogFormat::Json => json::line("WARN", node, TARGET, &message, Vec::new()),
        }
    }
}

impl Write for Lines {
    /// Takes all bytes that it is given: tracing passes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        stderr::write(lines, lost);
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
        let lines = |format| Lines { format, node: "nodeA".into() };
        let text = lines(LogFormat::Text).missing(3);
        assert!(
            text.ends_with("Z  WARN lockstep: 3 lines of this log before this one could not be written node=nodeA"),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&lines(LogFormat::Json).missing(3)).unwrap();
        assert_eq!((&value["level"], &value["node"]), (&"WARN".into(), &"nodeA".into()));
    }

    #[test]
    fn a_panic_is_told_in_the_format_of_the_others() {
        let lines = |format| Lines { format, node: "nodeA".into() };
        let text = lines(LogFormat::Text).panic("it broke", Some("0: here\n".into()));
        assert!(text.ends_with("Z ERROR panic: it broke node=nodeA\n0: here"), "{text}");
        let json = lines(LogFormat::Json).panic("it broke", Some("0: here\n".into()));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["message"], &value["backtrace"]), (&"it broke".into(), &"0: here\n".into()));
        assert!(!lines(LogFormat::Json).panic("it broke", None).contains("backtrace"));
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
