//! Prints why a command failed: `error:`, the causes, and what to do. It also gives the exit code.
//! It never prints a debug form.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use prost_reflect::DescriptorPool;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Status};

use super::called::as_called;
use super::{details, environment, logging};
use crate::config::ConfigError;
use crate::logs::stderr;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// Nobody knows whether the command took effect.
const NOT_KNOWN: u8 = 3;
/// Time between two checks whether stdout still has a reader.
const READER_LOOK: Duration = Duration::from_millis(200);

/// A failure of a command, in the words of the person who typed it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    /// Printed indented, one line each.
    notes: Vec<String>,
    code: u8,
}

impl Failure {
    /// Creates a failure of a command that went wrong while it ran.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), notes: Vec::new(), code: FAILED }
    }

    /// Creates a failure of a command that cannot work as it was typed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { code: USAGE, ..Failure::new(message) }
    }

    /// Marks a failure after which nobody knows whether the command took effect. `whether` is that
    /// effect, such as `the change was made`.
    pub(crate) fn not_known(self, whether: &str) -> Self {
        let message = format!("not known whether {whether}: {}", self.message);
        Failure { message, code: NOT_KNOWN, ..self }
    }

    /// Adds a hint that says what to do.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.notes.push(format!("hint: {hint}"));
        self
    }

    /// Adds a line of evidence.
    pub(crate) fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// Converts a gRPC error: code, message, details, and the metadata that is not gRPC's own.
    pub(crate) fn from_status(status: &Status) -> Self {
        Failure::from_described(status, None)
    }

    /// Converts like [`from_status`](Self::from_status). It also shows messages that the server
    /// describes.
    pub(crate) fn from_described(status: &Status, pool: Option<&DescriptorPool>) -> Self {
        let code = code_name(status.code());
        let mut failure = Failure::new(match status.message() {
            "" => code,
            message => format!("{code}: {message}"),
        });
        failure.notes.extend(metadata_lines(status.metadata()));
        failure.notes.extend(details::lines(status.details(), pool));
        failure
    }
}

/// Prints the error to stderr and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    // In `lockstep call ... | head`, the reader has closed the pipe because it has seen enough.
    if error.chain().any(is_broken_pipe) {
        return 0;
    }
    let described = Described::new(error);
    let called = |texts: &[String]| -> Vec<String> { texts.iter().map(|text| as_called(text)).collect() };
    let (causes, notes) = (called(&described.causes), called(&described.notes));
    let text = as_called(&described.to_string());
    if !logging::say_error(&text, &as_called(&described.message), &causes, &notes) {
        // What was logged before comes first.
        logging::flush();
        print_notice(text);
    }
    described.code
}

/// The parts of an error, as people and collectors see them.
struct Described {
    message: String,
    causes: Vec<String>,
    /// Evidence and hints.
    notes: Vec<String>,
    code: u8,
}

impl Described {
    fn new(error: &anyhow::Error) -> Described {
        let mut described =
            Described { message: error.to_string(), causes: Vec::new(), notes: Vec::new(), code: FAILED };
        let mut last = error.to_string();
        for cause in error.chain().skip(1) {
            let text = cause.to_string();
            // Many libraries repeat their cause in their own text.
            if !last.contains(&text) {
                described.causes.push(text.clone());
            }
            last = text;
        }
        for cause in error.chain() {
            if let Some(refused) = cause.downcast_ref::<ConfigError>() {
                described.code = USAGE;
                described.notes.extend(environment::note(refused.flag));
                described.notes.push(format!("hint: {}", refused.hint));
            }
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                described.code = described.code.max(failure.code);
                described.notes.extend(failure.notes.iter().cloned());
            }
        }
        described
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, "\n  cause: {cause}"))?;
        self.notes.iter().try_for_each(|note| write!(f, "\n  {note}"))
    }
}

/// Prints one line to stderr. An error is ignored, because it only means that stderr has no reader
/// any more.
pub(crate) fn print_notice(line: impl fmt::Display) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<PipeClosed>()
}

/// This process's stdout was closed by its reader.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
struct PipeClosed;

/// Prints one line to stdout. If the reader has left, the error ends the command quietly.
pub(crate) fn print_line(line: impl fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(PipeClosed.into()),
        result => result.context("cannot write to stdout"),
    }
}

/// Waits until the reader of stdout has left. Returns an error that ends the command quietly. For
/// commands that wait a long time before they print.
pub(crate) async fn stdout_is_closed() -> anyhow::Error {
    while !stderr::reader_left(std::io::stdout().as_fd()) {
        tokio::time::sleep(READER_LOOK).await;
    }
    PipeClosed.into()
}

/// Returns the name of a code as the gRPC documents write it, such as `DEADLINE_EXCEEDED`.
pub(crate) fn code_name(code: Code) -> String {
    super::text::snake_case(&format!("{code:?}")).to_uppercase()
}

/// Returns the metadata that is not gRPC's own, one line each.
pub(crate) fn metadata_lines(metadata: &MetadataMap) -> Vec<String> {
    let of_transport =
        |key: &str| key.starts_with("grpc-") || ["content-type", "date", "content-length"].contains(&key);
    metadata
        .iter()
        .filter_map(|pair| match pair {
            KeyAndValueRef::Ascii(key, value) if !of_transport(key.as_str()) => {
                Some(format!("{key}: {}", value.as_bytes().escape_ascii()))
            }
            KeyAndValueRef::Binary(key, value) if !of_transport(key.as_str()) => {
                let bytes = value.to_bytes().unwrap_or_default();
                Some(format!("{key}: {}", bytes.escape_ascii()))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn configuration_error_names_flag_and_hint_and_exits_2() {
        let error = anyhow::Error::from(ConfigError::new("--fsm", "there is no file x", "check the path"));
        let described = Described::new(&error);
        assert_eq!(described.to_string(), "error: --fsm: there is no file x\n  hint: check the path");
        assert_eq!(described.code, USAGE);
    }

    #[test]
    fn what_is_not_known_is_said_and_exits_3() {
        let failure = Failure::new("the connection broke").not_known("the change was made").hint("look");
        let described = Described::new(&failure.into());
        let text = "error: not known whether the change was made: the connection broke\n  hint: look";
        assert_eq!((described.to_string().as_str(), described.code), (text, NOT_KNOWN));
        assert_eq!(Described::new(&Failure::usage("no").into()).code, USAGE);
    }

    #[test]
    fn causes_are_listed_once() {
        let io = std::io::Error::new(ErrorKind::NotFound, "no such thing");
        let error = Err::<(), _>(io).context("cannot read a").context("cannot start").unwrap_err();
        let described = Described::new(&error);
        assert_eq!(described.to_string(), "error: cannot start\n  cause: cannot read a\n  cause: no such thing");
        assert_eq!(described.code, FAILED);
    }

    #[test]
    fn grpc_error_shows_code_message_and_metadata() {
        let mut status = Status::deadline_exceeded("no leader");
        status.metadata_mut().insert("lockstep-outcome", "unknown".parse().unwrap());
        let described = Described::new(&Failure::from_status(&status).into());
        assert_eq!(described.to_string(), "error: DEADLINE_EXCEEDED: no leader\n  lockstep-outcome: unknown");
        assert_eq!(described.code, FAILED);
    }
}
