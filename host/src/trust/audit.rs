//! The audit: one line for each call of an operator, and for each refused call. It says who made
//! the call, what it was, from where it came, and how it ended. The lines go to the node's log, and
//! to a file of their own on request. No line has a token or a value of the guest.
//!
//! Anybody who can reach a port can cause lines of refused calls. So few come in a second, and the
//! next one says how many were left out.

mod file;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::bucket::Bucket;
use super::caller::Caller;
use super::refusal::Reason;
use crate::limit;
use crate::logs::Foreign;
use file::AuditFile;

/// Most lines a second of refused calls, for each reason.
const REFUSED_A_SECOND: u32 = 16;
/// Most bytes of a text in a line.
const TEXT_BYTES_MAX: usize = 512;

/// What an audit line tells of a call.
#[derive(Clone, Copy, Debug)]
pub struct AuditLine<'a> {
    /// Who made it.
    pub caller: &'a Caller,
    /// Its method.
    pub method: &'a str,
    /// What it asked for. Empty for a refused call: nobody has read its request.
    pub arguments: &'a [(&'static str, String)],
    /// From where it came.
    pub from: Option<SocketAddr>,
    /// How it ended, as a gRPC code or as an HTTP status.
    pub code: &'a str,
    /// The text of an error.
    pub text: &'a str,
}

/// Writes audit lines.
#[derive(Debug)]
pub(super) struct Audit {
    node: String,
    file: Option<AuditFile>,
    refused: [Limit; Reason::ALL.len()],
}

#[derive(Debug)]
struct Limit {
    bucket: Mutex<Bucket>,
    left_out: AtomicU64,
}

/// A line as it stands in a file.
#[derive(Serialize)]
struct Row<'a> {
    timestamp: String,
    node: &'a str,
    who: &'a str,
    proof: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven_kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven_certificate_names: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unproven_certificate: Option<&'a str>,
    method: &'a str,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    arguments: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<SocketAddr>,
    code: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Audit {
    /// Opens the audit of a node, with its file if there is to be one.
    pub(super) fn open(node: &str, path: Option<&Path>) -> std::io::Result<Audit> {
        let file = path.map(AuditFile::open).transpose()?;
        let limit = |_| Limit {
            bucket: Mutex::new(Bucket::full(REFUSED_A_SECOND, Instant::now())),
            left_out: AtomicU64::new(0),
        };
        Ok(Audit { node: node.to_owned(), file, refused: Reason::ALL.map(limit) })
    }

    /// Whether lines go to a file of their own.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns how many lines did not get into the file.
    pub(super) fn dropped(&self) -> u64 {
        self.file.as_ref().map_or(0, AuditFile::dropped)
    }

    /// Returns how near the limit of lines is that wait for the file; `None` without a file.
    pub(super) fn limit(&self) -> Option<limit::Limit> {
        self.file.as_ref().map(AuditFile::limit)
    }

    /// Waits until the lines that were written so far are in the file, but not for long.
    pub(super) fn flush(&self, at_most: Duration) {
        if let Some(file) = &self.file {
            file.flush(at_most);
        }
    }

    /// Writes the line of a call that was let in.
    pub(super) fn write(&self, line: &AuditLine<'_>) {
        self.put(line, 0);
    }

    /// Writes the line of a refused call, or counts it if there were too many in this second.
    pub(super) fn write_refused(&self, line: &AuditLine<'_>, reason: Reason, now: Instant) {
        let limit = &self.refused[reason as usize];
        if limit.bucket.lock().take(REFUSED_A_SECOND, now).is_err() {
            limit.left_out.fetch_add(1, Relaxed);
            return;
        }
        self.put(line, limit.left_out.swap(0, Relaxed));
    }

    fn put(&self, line: &AuditLine<'_>, left_out: u64) {
        let arguments = line.arguments.iter().map(|(name, value)| ((*name).to_owned(), cut(value).into()));
        let certificate = line.caller.certificate();
        let unproven = line.caller.unproven.as_deref();
        let unfit = unproven.and_then(|unproven| unproven.certificate.as_ref());
        let row = Row {
            timestamp: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            node: &self.node,
            who: line.caller.name().map_or(super::policy::ANONYMOUS, |name| name),
            proof: line.caller.proof(),
            certificate_name: certificate.map(|(name, _)| name),
            certificate: certificate.map(|(_, fingerprint)| fingerprint),
            unproven_subject: unproven.and_then(|unproven| unproven.subject.as_deref()).map(cut),
            unproven_kid: unproven.and_then(|unproven| unproven.kid.as_deref()).map(cut),
            unproven_certificate_names: unfit.map(|(names, _)| cut(names)),
            unproven_certificate: unfit.map(|(_, fingerprint)| fingerprint.as_str()),
            method: cut(line.method),
            arguments: arguments.collect(),
            from: line.from,
            code: line.code,
            text: cut(line.text),
            left_out,
        };
        row.log();
        if let Some(file) = &self.file {
            file.write(&row);
        }
    }
}

impl Row<'_> {
    /// Writes the line to the node's log, where it has the node's name and the time.
    fn log(&self) {
        let arguments = if self.arguments.is_empty() {
            String::new()
        } else {
            serde_json::Value::Object(self.arguments.clone()).to_string()
        };
        tracing::info!(
            target: "audit",
            who = %Foreign(self.who),
            proof = self.proof,
            certificate_name = foreign(self.certificate_name),
            certificate = self.certificate,
            unproven_subject = foreign(self.unproven_subject),
            unproven_kid = foreign(self.unproven_kid),
            unproven_certificate_names = foreign(self.unproven_certificate_names),
            unproven_certificate = self.unproven_certificate,
            method = %Foreign(self.method),
            arguments = (!arguments.is_empty()).then(|| tracing::field::display(Foreign(&arguments))),
            from = self.from.map(tracing::field::display),
            code = self.code,
            text = (!self.text.is_empty()).then(|| tracing::field::display(Foreign(self.text))),
            left_out = (self.left_out > 0).then_some(self.left_out),
            "call"
        );
    }
}

fn foreign(text: Option<&str>) -> Option<tracing::field::DisplayValue<Foreign<'_>>> {
    text.map(|text| tracing::field::display(Foreign(text)))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_flood_of_refused_calls_is_few_lines_and_a_number() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("audit");
        let (audit, now) = (Audit::open("nodeA", Some(&path)).unwrap(), Instant::now());
        let caller = Caller::default();
        let line = AuditLine {
            caller: &caller,
            method: "a.B/C",
            arguments: &[],
            from: None,
            code: "UNAUTHENTICATED",
            text: "who?",
        };
        for _ in 0..1_000 {
            audit.write_refused(&line, Reason::Unauthenticated, now);
        }
        audit.write_refused(&line, Reason::Denied, now);
        audit.write(&AuditLine { arguments: &[("id", "nodeB\n".into())], text: "", ..line });
        audit.write_refused(&line, Reason::Unauthenticated, now + Duration::from_secs(1));
        audit.flush(Duration::from_secs(60));
        let lines = lines(&path);
        let few = REFUSED_A_SECOND as usize;
        assert_eq!(lines.len(), few + 3);
        assert!(lines[..=few].iter().all(|line| line["who"] == "anonymous" && line.get("left_out").is_none()));
        assert_eq!(lines[few + 1]["arguments"]["id"], "nodeB\n");
        assert_eq!(lines[few + 2]["left_out"], 1_000 - few as u64);
        assert_eq!(audit.dropped(), 0);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("audit");
        let audit = Audit::open("nodeA", Some(&path)).unwrap();
        let caller = Caller::default();
        let write = |method: &str| {
            audit.write(&AuditLine { caller: &caller, method, arguments: &[], from: None, code: "OK", text: "" });
            audit.flush(Duration::from_secs(60));
        };
        write("one");
        let moved = place.path().join("audit.1");
        std::fs::rename(&path, &moved).unwrap();
        write("two");
        let methods =
            |path| lines(path).iter().map(|line| line["method"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!((methods(&moved), methods(&path)), (vec!["one".to_owned()], vec!["two".to_owned()]));
    }
}
