//! A script: calls as JSON lines, with what the author expects of the answers. It is read against
//! the guest's own descriptor. This file runs nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde::Deserialize;
use tonic::Status;

use super::blanks::{self, FIRST_PASS, Place};
use super::expect::{Expected, as_json};
use crate::api::status;
use crate::cli::call::signature;
use crate::cli::details;
use crate::cli::json::{Tree, read_message, show_bytes};
use crate::cli::report::{Failure, code_name};
use crate::cli::similar::{similar, suggestion};
use crate::codec::Command;
use crate::guest::{Stepped, Verdict};
use crate::machine::encode_verdict;
use lockstep_contract::{Contract, Kind};

/// The help text about scripts, for all tools that read one.
pub(super) const FORMAT: &str = "\
A script has one call a line:
  {\"method\": \"Example/Add\", \"request\": {\"key\": \"a\", \"val\": \"1\"}}
  {\"method\": \"Example/Get\", \"request\": {\"key\": \"a\"}, \"reply\": {\"value\": \"1\"}}
  {\"method\": \"Example/Buy\", \"request\": {\"amount\": -1}, \"error\": \"INVALID_ARGUMENT\"}
\"reply\" names the fields that must be as given, in messages within it and in maps, too; others
are not looked at. Lists must be as long as given. null is for a field that must be missing.
\"error\" is the code that a client must get, \"reason\" beside it the reason that the guest
gives in the details. \"caller\" sets who calls. Each command comes a second after the one before;
with \"after\": \"10s\" that much log time passes before the call instead. Of a watch what it sends at
once is looked at, the first step and those that run again without waiting, at most 1000: its
\"reply\" is a list. Empty lines and lines that begin with # are left out.\n\
In the texts of requests and replies, and in \"caller\", {{ n }} is the number of the pass through
the script: 1 in a test, and growing in a benchmark, which takes the script over and over. Numbers
may be written so, too: \"amount\": \"{{ n }}\". {{uuid}} is another id wherever it stands, and
{{uuid:order}} the same one throughout a pass.\n\
A call that nothing is expected of may reply or be refused; when the guest panics in it, traps or
goes beyond a limit, the test fails.";

/// The line in the text of a failure after which the guest's stack frames follow.
const FRAMES: &str = "in the guest:";

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    method: String,
    #[serde(default)]
    request: Option<Tree>,
    #[serde(default)]
    caller: String,
    reply: Option<Tree>,
    error: Option<String>,
    reason: Option<String>,
    after: Option<String>,
}

/// What is wrong with a line, and in which column of it, if that is known.
struct Problem {
    column: Option<usize>,
    text: String,
}

/// One call.
#[derive(Clone)]
pub(super) struct ScriptCall {
    /// Number of its line in the file, from 1.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) method: String,
    /// The encoded request of the first pass through the script. `caller` is that of the first
    /// pass, too.
    pub(super) request: Bytes,
    pub(super) caller: String,
    /// How request and caller are written, if other passes have other ones.
    varying: Option<Varying>,
    /// Log time that passes before the call, in place of the usual time.
    pub(super) after: Option<Duration>,
    descriptor: MethodDescriptor,
    expected: Option<Expected>,
}

/// The parts of a call that are filled in anew for each pass.
#[derive(Clone)]
struct Varying {
    request: Tree,
    caller: String,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Verdict(Verdict),
    Stepped(Stepped),
}

/// Reads a script for a guest with these services.
pub(super) fn read(path: &Path, routes: &Contract) -> anyhow::Result<Vec<ScriptCall>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let pool = DescriptorPool::decode(routes.encoded())?;
    let mut calls = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
            let call =
                parse(line, number, routes, &pool).map_err(|problem| Failure::usage(problem.at(path, number)))?;
            calls.push(call);
        }
    }
    if calls.is_empty() {
        return Err(Failure::usage(format!("{} has no calls", path.display())).into());
    }
    Ok(calls)
}

/// Reads one line that is a call. An error says what is wrong with it.
pub(super) fn call(text: &str, line: usize, routes: &Contract, pool: &DescriptorPool) -> Result<ScriptCall, String> {
    parse(text, line, routes, pool).map_err(|problem| problem.text)
}

fn parse(text: &str, line: usize, routes: &Contract, pool: &DescriptorPool) -> Result<ScriptCall, Problem> {
    let written: Line = serde_json::from_str(text).map_err(|error| Problem::of_json(text, &error))?;
    let of = |field: &'static str| move |problem: String| Problem::of_field(text, field, problem);
    let name = written.method.strip_prefix('/').unwrap_or(&written.method);
    let method = routes.method(name).ok_or_else(|| unknown(name, routes)).map_err(of("method"))?;
    let descriptor = name
        .split_once('/')
        .and_then(|(service, method)| pool.get_service_by_name(service)?.methods().find(|found| found.name() == method))
        .ok_or_else(|| unknown(name, routes))
        .map_err(of("method"))?;
    let template = written.request.unwrap_or_else(|| Tree::Object(Vec::new()));
    let first = Place { pass: FIRST_PASS, line };
    let request = encode_request(&descriptor, &blanks::fill(&template, first)).map_err(of("request"))?;
    let reply = written.reply.map(|reply| blanks::fill(&reply, first));
    let expected = match (reply, written.error, written.reason) {
        (Some(_), Some(_), _) => return Err(of("error")("give \"reply\" or \"error\", not both".into())),
        (_, None, Some(_)) => return Err(of("reason")("a \"reason\" stands beside an \"error\"".into())),
        (Some(reply), None, None) => Some(Expected::replies(reply, method.kind, &descriptor).map_err(of("reply"))?),
        (None, Some(code), reason) => Some(Expected::error(code, reason).map_err(of("error"))?),
        (None, None, None) => None,
    };
    Ok(ScriptCall {
        line,
        text: text.trim().to_owned(),
        kind: method.kind,
        method: name.to_owned(),
        request,
        caller: blanks::fill_text(&written.caller, first),
        varying: (blanks::has_blanks(&template) || blanks::text_has_blanks(&written.caller))
            .then_some(Varying { request: template, caller: written.caller }),
        after: written.after.as_deref().map(duration).transpose().map_err(of("after"))?,
        descriptor,
        expected,
    })
}

fn encode_request(method: &MethodDescriptor, request: &Tree) -> Result<Bytes, String> {
    let message = read_message(&method.input(), request)
        .map_err(|error| format!("the request is no {}: {error}; {}", method.input().name(), signature(method)))?;
    Ok(message.encode_to_vec().into())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no length of time such as 500ms, 10s or 2m: {error}"))
}

impl Problem {
    /// Creates a problem from an error of serde_json, whose text ends with the position.
    fn of_json(text: &str, error: &serde_json::Error) -> Problem {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let message = message.strip_suffix(&place).unwrap_or(&message);
        let is_data = error.classify() == serde_json::error::Category::Data;
        let blank = text.len() - text.trim_start().len();
        let (column, message) = match text[blank..].starts_with('{') {
            true if is_data => (error.column(), message.to_owned()),
            true => (error.column(), format!("not JSON: {message}")),
            false => {
                let expected = "a line is a call, {\"method\": …} as JSON, or a comment that begins with #";
                (blank + 1, expected.to_owned())
            }
        };
        Problem { column: Some(column.max(1)), text: message }
    }

    /// Creates a problem at the first place in the line where the field's name stands.
    fn of_field(line: &str, field: &str, text: String) -> Problem {
        Problem { column: line.find(&format!("\"{field}\"")).map(|at| at + 1), text }
    }

    /// Returns, for example, `calls.jsonl:10:138: ...`, as compilers write it.
    fn at(self, path: &Path, line: usize) -> String {
        let Problem { column, text } = self;
        format!("{}:{line}:{}: {text}", path.display(), column.unwrap_or(1))
    }
}

fn unknown(name: &str, routes: &Contract) -> String {
    let names: Vec<String> = routes.methods().iter().map(|method| method.name.to_string()).collect();
    let close: Vec<String> = similar(name, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
    format!("the guest has no method {name:?}; {}", suggestion(&close, &names))
}

impl ScriptCall {
    /// Returns the command as a log entry carries it.
    pub(super) fn command(&self) -> Command {
        Command {
            origin: None,
            method: self.method.clone(),
            request: self.request.clone(),
            caller: self.caller.clone(),
        }
    }

    /// Returns the command as a log entry carries it in this pass through the script. Fails if the
    /// request cannot be encoded, for example because a number is too large in this pass.
    pub(super) fn command_in(&self, pass: u64) -> Result<Command, String> {
        let Some(varying) = &self.varying else { return Ok(self.command()) };
        let place = Place { pass, line: self.line };
        let request = encode_request(&self.descriptor, &blanks::fill(&varying.request, place))
            .map_err(|problem| format!("line {}, in pass {pass}: {problem}", self.line))?;
        Ok(Command { request, caller: blanks::fill_text(&varying.caller, place), ..self.command() })
    }

    /// Tells whether the call differs from pass to pass.
    pub(super) fn varies(&self) -> bool {
        self.varying.is_some()
    }

    /// Returns the answer as text for people, as a client would see it.
    pub(super) fn show(&self, answer: &Answer) -> String {
        match self.outcome(answer) {
            Ok(replies) => {
                let texts: Vec<String> =
                    replies.iter().map(|reply| as_json(&self.descriptor.output(), reply)).collect();
                if self.kind == Kind::Watch { format!("[{}]", texts.join(", ")) } else { texts.concat() }
            }
            Err(status) => {
                // The text of a panic stands below its source position. The stack frames after it
                // differ from build to build.
                let lines = status.message().lines().map(str::trim).take_while(|line| *line != FRAMES);
                let reason = details::reason(status.details()).map(|reason| format!(" (reason {reason})"));
                let message = lines.collect::<Vec<_>>().join(" ");
                format!("{}: {message}{}", code_name(status.code()), reason.unwrap_or_default())
            }
        }
    }

    /// Returns what the author expected, if the answer does not meet it.
    pub(super) fn disappointed(&self, answer: &Answer) -> Option<String> {
        let expected = self.expected.as_ref()?;
        (!expected.is_met_by(&self.outcome(answer))).then(|| expected.show())
    }

    pub(super) fn has_expectation(&self) -> bool {
        self.expected.is_some()
    }

    /// Returns what a line has beside its call to expect this answer of a command. An error says
    /// why no line can.
    pub(super) fn expectation(&self, answer: &Answer) -> Result<Vec<(String, Tree)>, String> {
        match self.outcome(answer) {
            Ok(replies) => {
                let shown = show_bytes(&self.descriptor.output(), &replies.concat());
                match shown.problems.first() {
                    None => Ok(vec![("reply".to_owned(), shown.json)]),
                    Some(problem) => Err(format!("the reply has no JSON form: {problem}")),
                }
            }
            Err(status) => {
                let reason = details::reason(status.details()).map(|reason| ("reason".to_owned(), Tree::text(reason)));
                Ok([("error".to_owned(), Tree::text(code_name(status.code())))].into_iter().chain(reason).collect())
            }
        }
    }

    fn outcome(&self, answer: &Answer) -> Result<Vec<Bytes>, Status> {
        match answer {
            Answer::Verdict(verdict) => {
                status::verdict(verdict.clone(), 0, None).map(|response| vec![response.into_inner()])
            }
            Answer::Stepped(Stepped::Step(step)) => Ok(step.replies.clone()),
            Answer::Stepped(Stepped::Refused(refusal)) => Err(status::watch_refused(refusal.clone(), 0)),
            Answer::Stepped(Stepped::Failed(failure)) => Err(status::watch_failed(failure, 0)),
        }
    }
}

impl Answer {
    /// Tells whether two replicas may have given these two answers. It does not compare what is
    /// local to one replica, such as the text of a trap.
    pub(super) fn agrees(&self, other: &Answer) -> bool {
        match (self, other) {
            (Answer::Verdict(one), Answer::Verdict(other)) => encode_verdict(one) == encode_verdict(other),
            (Answer::Stepped(Stepped::Failed(one)), Answer::Stepped(Stepped::Failed(other))) => {
                one.reason == other.reason
            }
            (one, other) => one == other,
        }
    }

    /// Tells whether the guest failed to answer: it panicked, trapped, or went beyond a limit.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Answer::Verdict(Verdict::Failed(_)) | Answer::Stepped(Stepped::Failed(_)))
    }

    pub(super) fn is_reply(&self) -> bool {
        matches!(self, Answer::Verdict(Verdict::Reply(_)) | Answer::Stepped(Stepped::Step(_)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::guest;

    fn routes() -> Contract {
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
        let proto = format!("{protos}/example.proto");
        let descriptor = lockstep_guest_build::descriptor(&[proto], &[protos]).unwrap();
        Contract::new(Some(&descriptor), true).unwrap()
    }

    fn script(text: &str) -> anyhow::Result<Vec<ScriptCall>> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("calls.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path, &routes())
    }

    fn one(line: &str) -> ScriptCall {
        script(line).unwrap().remove(0)
    }

    fn replied(bytes: &[u8]) -> Answer {
        Answer::Verdict(Verdict::Reply(Bytes::copy_from_slice(bytes)))
    }

    fn refused(code: u32) -> Answer {
        Answer::Verdict(Verdict::Refused(guest::Status { code, message: "no".into(), details: Vec::new() }))
    }

    #[test]
    fn calls_are_read_with_their_lines() {
        let calls = script(
            "# first\n\n{\"method\": \"Example/Add\", \"request\": {\"key\": \"a\", \"val\": \"1\"}}\n{\"method\": \"/Example/Get\"}\n",
        )
        .unwrap();
        assert_eq!(calls.iter().map(|call| call.line).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(calls[0].request, &b"\x0a\x01a\x12\x011"[..]);
        assert_eq!((calls[0].kind, calls[1].kind), (Kind::Command, Kind::Query));
        assert_eq!(calls[1].method, "Example/Get");
    }

    #[test]
    fn a_wrong_line_is_named_with_what_is_right() {
        let cases = [
            ("{\"method\": \"Example/Ad\"}", "did you mean Example/Add?"),
            ("{\"method\": \"Example/Add\", \"request\": {\"kei\": \"a\"}}", "\"key\": string"),
            ("{\"method\": \"Example/Add\", \"reply\": {\"x\": 1}}", "\"commitIndex\": uint64"),
            ("{\"method\": \"Example/Add\", \"request\": {\"key\": \"a\", \"key\": \"b\"}}", "\"key\" is there twice"),
            ("{\"method\": \"Example/Add\", \"reply\": {\"commitIndex\": 1, \"commit_index\": 1}}", "are one field"),
            ("{\"method\": \"Example/Add\", \"error\": \"NOPE\"}", "NOT_FOUND"),
            ("{\"method\": \"Example/Add\", \"reply\": {}, \"error\": \"ABORTED\"}", "not both"),
            ("{\"method\": \"Example/Watch\", \"reply\": {}}", "is a list"),
            ("{\"method\": \"Example/Add\", \"requests\": {}}", "requests"),
            ("Example/Add", "calls.jsonl:1:1: a line is a call"),
            ("  not json", "calls.jsonl:1:3: a line is a call"),
            ("  {\"method\": x}", "calls.jsonl:1:14: not JSON: expected value"),
            ("# one\n {\"requests\": {}, \"method\": \"\"}", "calls.jsonl:2:12: unknown field `requests`"),
            ("{\"method\": \"Example/Add\", \"request\": {\"key\": 1}}", "calls.jsonl:1:27: the request is no"),
            ("{\"method\": \"Example/Add\", \"reason\": \"HELD\"}", "calls.jsonl:1:27: a \"reason\" stands"),
            ("{\"method\": \"Example/Add\", \"after\": \"soon\"}", "10s"),
            ("# nothing", "has no calls"),
        ];
        for (line, expected) in cases {
            let error = script(line).err().unwrap().to_string();
            assert!(error.contains(expected), "{line}: {error}");
            assert!(!error.contains(" at line"), "one place is enough: {error}");
        }
    }

    #[test]
    fn only_the_fields_that_are_named_must_be_as_expected() {
        let get = one("{\"method\": \"Example/Get\", \"reply\": {\"value\": \"1\"}}");
        assert_eq!(get.disappointed(&replied(b"\x08\x07\x12\x011")), None);
        let told = get.disappointed(&replied(b"\x08\x07\x12\x012")).unwrap();
        assert_eq!(told, "{\"value\":\"1\"}");
        assert!(get.disappointed(&refused(5)).is_some());
        let empty = one("{\"method\": \"Example/Get\", \"reply\": {\"value\": \"\"}}");
        assert_eq!(empty.disappointed(&replied(b"")), None);
        assert!(empty.disappointed(&replied(b"\x12\x01x")).is_some());
    }

    #[test]
    fn an_error_is_expected_by_its_code() {
        let add = one("{\"method\": \"Example/Add\", \"error\": \"NOT_FOUND\"}");
        assert_eq!(add.disappointed(&refused(5)), None);
        assert_eq!(add.disappointed(&refused(6)), Some("error NOT_FOUND".into()));
        assert!(add.disappointed(&replied(b"")).is_some());
        assert_eq!(add.show(&refused(5)), "NOT_FOUND: no");
        assert_eq!(add.show(&replied(b"\x08\x07")), "{\"commitIndex\":\"7\"}");
        assert!(add.show(&replied(b"\xff")).contains("no AddResponse"));
    }

    #[test]
    fn a_panic_is_shown_with_its_text_and_without_frames() {
        let detail = "Example/Add at index 2, position 0: panicked at src/lib.rs:7:9:\nthe roof is on fire\nin the guest:\n  0: rust_panic";
        let failure = guest::Failure { reason: guest::Reason::Aborted, detail: detail.into() };
        let (failed, add) = (Answer::Verdict(Verdict::Failed(failure)), one("{\"method\": \"Example/Add\"}"));
        assert!(failed.is_failure() && !failed.is_reply() && !refused(5).is_failure());
        let shown = add.show(&failed);
        assert!(shown.starts_with("INTERNAL: ") && shown.ends_with("src/lib.rs:7:9: the roof is on fire"), "{shown}");
    }

    #[test]
    fn time_may_pass_before_a_call() {
        let calls =
            script("{\"method\": \"Example/Add\", \"after\": \"1m 5s\"}\n{\"method\": \"Example/Add\"}").unwrap();
        assert_eq!((calls[0].after, calls[1].after), (Some(Duration::from_secs(65)), None));
    }

    #[test]
    fn each_pass_has_a_request_of_its_own_where_the_line_says_so() {
        let line = r#"{"method": "Example/Add", "request": {"key": "a{{n}}"}, "caller": "c{{n}}", "reply": {"commitIndex": "{{n}}"}}"#;
        let add = one(line);
        assert_eq!((&add.request[..], add.caller.as_str(), add.varies()), (&b"\x0a\x02a1"[..], "c1", true));
        assert_eq!(add.disappointed(&replied(b"\x08\x01")), None);
        let later = add.command_in(12).unwrap();
        assert_eq!((&later.request[..], later.caller.as_str()), (&b"\x0a\x03a12"[..], "c12"));
        let same = one(r#"{"method": "Example/Add", "request": {"key": "{{name}}"}}"#);
        assert!(!same.varies() && same.command_in(2).unwrap() == same.command_in(1).unwrap());
        // A request that fits in the first pass may not fit in a later one.
        let get = one(r#"{"method": "Example/Watch", "request": {"minIndex": "1{{n}}"}}"#);
        let error = get.command_in(u64::MAX).unwrap_err();
        assert!(error.contains("line 1, in pass 1844") && error.contains("WatchRequest"), "{error}");
    }

    #[test]
    fn what_is_local_to_a_node_is_not_compared() {
        let failed = |detail: &str| {
            Answer::Verdict(Verdict::Failed(guest::Failure { reason: guest::Reason::Trap, detail: detail.into() }))
        };
        assert!(failed("here").agrees(&failed("there")));
        assert!(!failed("here").agrees(&refused(5)));
        assert!(!replied(b"a").agrees(&replied(b"b")));
    }
}
