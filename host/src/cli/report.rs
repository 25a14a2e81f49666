//! How a command says that it failed: `error:`, the causes, what to do; and the exit code. Never prints a debug form.

use std::io::ErrorKind;
use std::io::Write;

use prost_reflect::DescriptorPool;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Status};

use super::details;
use crate::config::ConfigError;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// A failure of a command, in the words of the person who typed it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    /// Printed indented, one line each.
    notes: Vec<String>,
    usage: bool,
}

impl Failure {
    /// Something went wrong while running.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), notes: Vec::new(), usage: false }
    }

    /// What was typed cannot work.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { usage: true, ..Failure::new(message) }
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.notes.push(format!("hint: {hint}"));
        self
    }

    /// With a line of evidence.
    pub(crate) fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// A gRPC error: code, message, the details, and the metadata that is not gRPC's own.
    pub(crate) fn from_status(status: &Status) -> Self {
        Failure::from_described(status, None)
    }

    /// As [`from_status`](Self::from_status), with the messages that the server describes.
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

/// Prints the error to stderr and says with which code to exit.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    // `lockstep call … | head`: whoever read us has seen enough.
    if error.chain().any(is_broken_pipe) {
        return 0;
    }
    let (text, code) = describe(error);
    // Nobody may be listening any more; the code still tells.
    drop(writeln!(std::io::stderr(), "{}", super::called::as_called(&text)));
    code
}

fn describe(error: &anyhow::Error) -> (String, u8) {
    let mut lines = vec![format!("error: {error}")];
    let mut code = FAILED;
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Many libraries repeat their cause in their own text.
        if !last.contains(&text) {
            lines.push(format!("  cause: {text}"));
        }
        last = text;
    }
    for cause in error.chain() {
        if let Some(refused) = cause.downcast_ref::<ConfigError>() {
            code = USAGE;
            lines.push(format!("  hint: {}", refused.hint));
        }
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            code = if failure.usage { USAGE } else { code };
            lines.extend(failure.notes.iter().map(|note| format!("  {note}")));
        }
    }
    (lines.join("\n"), code)
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<PipeClosed>()
}

/// Our own stdout was closed by its reader.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
struct PipeClosed;

/// Prints one line to stdout; a reader that went away ends the command quietly.
pub(crate) fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(PipeClosed.into()),
        result => Ok(result?),
    }
}

/// `DEADLINE_EXCEEDED`, as the gRPC documents write it.
pub(crate) fn code_name(code: Code) -> String {
    super::text::snake_case(&format!("{code:?}")).to_uppercase()
}

fn metadata_lines(metadata: &MetadataMap) -> Vec<String> {
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
    use anyhow::Context;

    #[test]
    fn configuration_error_names_flag_and_hint_and_exits_2() {
        let error = anyhow::Error::from(ConfigError::new("--fsm", "there is no file x", "check the path"));
        let (text, code) = describe(&error);
        assert_eq!((text.as_str(), code), ("error: --fsm: there is no file x\n  hint: check the path", USAGE));
    }

    #[test]
    fn causes_are_listed_once() {
        let io = std::io::Error::new(ErrorKind::NotFound, "no such thing");
        let error = Err::<(), _>(io).context("cannot read a").context("cannot start").unwrap_err();
        let (text, code) = describe(&error);
        assert_eq!(text, "error: cannot start\n  cause: cannot read a\n  cause: no such thing");
        assert_eq!(code, FAILED);
    }

    #[test]
    fn grpc_error_shows_code_message_and_metadata() {
        let mut status = Status::deadline_exceeded("no leader");
        status.metadata_mut().insert("lockstep-outcome", "unknown".parse().unwrap());
        let (text, code) = describe(&Failure::from_status(&status).into());
        assert_eq!(text, "error: DEADLINE_EXCEEDED: no leader\n  lockstep-outcome: unknown");
        assert_eq!(code, FAILED);
    }
}
