//! A script: calls as JSON lines, read against the guest's own descriptor, with what the author expects of the answers. Runs nothing.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::{Code, Status};

use crate::api::routes::{Kind, Routes};
use crate::api::status;
use crate::cli::call::signature;
use crate::cli::report::{Failure, code_name};
use crate::cli::similar::similar;
use crate::codec::Command;
use crate::guest::{Stepped, Verdict};
use crate::machine::encode_verdict;

/// What `--help` says of scripts, for all tools that read one.
pub(super) const FORMAT: &str = "\
A script has one call a line:
  {\"method\": \"Example/Add\", \"request\": {\"key\": \"a\", \"val\": \"1\"}}
  {\"method\": \"Example/Get\", \"request\": {\"key\": \"a\"}, \"reply\": {\"value\": \"1\"}}
  {\"method\": \"Example/Buy\", \"request\": {\"amount\": -1}, \"error\": \"INVALID_ARGUMENT\"}
\"reply\" names the fields that must be as given, others are not looked at; \"error\" is the code that
a client must get. \"caller\" sets who calls. Of a watch the first step is run: its \"reply\" is a
list. Empty lines and lines that begin with # are left out.";

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    method: String,
    #[serde(default)]
    request: Option<Value>,
    #[serde(default)]
    caller: String,
    reply: Option<Value>,
    error: Option<String>,
}

/// One call.
pub(super) struct ScriptCall {
    /// Its line in the file, from 1.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) method: String,
    pub(super) request: Bytes,
    pub(super) caller: String,
    descriptor: MethodDescriptor,
    expected: Option<Expected>,
}

enum Expected {
    /// Fields of each reply; one for anything but a watch.
    Replies(Vec<DynamicMessage>, Vec<Vec<String>>),
    Error(String),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Verdict(Verdict),
    Stepped(Stepped),
}

/// Reads a script for a guest with these services.
pub(super) fn read(path: &Path, routes: &Routes) -> anyhow::Result<Vec<ScriptCall>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let pool = DescriptorPool::decode(routes.encoded())?;
    let mut calls = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let call = parse(line, number, routes, &pool)
                .map_err(|problem| Failure::usage(format!("{} line {number}: {problem}", path.display())))?;
            calls.push(call);
        }
    }
    if calls.is_empty() {
        return Err(Failure::usage(format!("{} has no calls", path.display())).into());
    }
    Ok(calls)
}

fn parse(text: &str, line: usize, routes: &Routes, pool: &DescriptorPool) -> Result<ScriptCall, String> {
    let written: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = written.method.strip_prefix('/').unwrap_or(&written.method);
    let method = routes.method(name).ok_or_else(|| unknown(name, routes))?;
    let descriptor = name
        .split_once('/')
        .and_then(|(service, method)| pool.get_service_by_name(service)?.methods().find(|found| found.name() == method))
        .ok_or_else(|| unknown(name, routes))?;
    let request = written.request.unwrap_or_else(|| Value::Object(Map::new()));
    let request = DynamicMessage::deserialize(descriptor.input(), request).map_err(|error| {
        format!("the request is no {}: {error}; {}", descriptor.input().name(), signature(&descriptor))
    })?;
    let expected = match (written.reply, written.error) {
        (Some(_), Some(_)) => return Err("give \"reply\" or \"error\", not both".into()),
        (Some(reply), None) => Some(replies(reply, method.kind, &descriptor)?),
        (None, Some(code)) => Some(Expected::Error(known_code(code)?)),
        (None, None) => None,
    };
    Ok(ScriptCall {
        line,
        text: text.to_owned(),
        kind: method.kind,
        method: name.to_owned(),
        request: request.encode_to_vec().into(),
        caller: written.caller,
        descriptor,
        expected,
    })
}

fn unknown(name: &str, routes: &Routes) -> String {
    let names: Vec<&str> = routes.methods().iter().map(|method| &*method.name).collect();
    let close = similar(name, names.iter().copied());
    let shown = if close.is_empty() { names } else { close };
    format!("the guest has no method {name:?}; it has {}", shown.join(", "))
}

fn known_code(code: String) -> Result<String, String> {
    let known: Vec<String> = (1..=16).map(|number| code_name(Code::from_i32(number))).collect();
    if known.contains(&code) {
        Ok(code)
    } else {
        Err(format!("{code:?} is no error code; there are {}", known.join(", ")))
    }
}

fn replies(given: Value, kind: Kind, descriptor: &MethodDescriptor) -> Result<Expected, String> {
    let list = match (kind, given) {
        (Kind::Watch, Value::Array(list)) => list,
        (Kind::Watch, _) => return Err("the \"reply\" of a watch is a list, of what its first step sends".into()),
        (Kind::Command | Kind::Query, one) => vec![one],
    };
    let names = |reply: &Value| reply.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    let fields = list.iter().map(names).collect();
    let message = |reply| {
        DynamicMessage::deserialize(descriptor.output(), reply).map_err(|error| {
            format!("\"reply\" is no {}: {error}; {}", descriptor.output().name(), signature(descriptor))
        })
    };
    Ok(Expected::Replies(list.into_iter().map(message).collect::<Result<_, _>>()?, fields))
}

impl ScriptCall {
    /// As a log entry carries it.
    pub(super) fn command(&self) -> Command {
        Command {
            origin: None,
            method: self.method.clone(),
            request: self.request.clone(),
            caller: self.caller.clone(),
        }
    }

    /// The answer for people, as a client would see it.
    pub(super) fn show(&self, answer: &Answer) -> String {
        match self.outcome(answer) {
            Ok(replies) => {
                let texts: Vec<String> = replies.iter().map(|reply| self.as_json(reply)).collect();
                if self.kind == Kind::Watch { format!("[{}]", texts.join(", ")) } else { texts.concat() }
            }
            Err(status) => format!("{}: {}", code_name(status.code()), status.message().lines().next().unwrap_or("")),
        }
    }

    /// What the author expected and did not get.
    pub(super) fn disappointed(&self, answer: &Answer) -> Option<String> {
        let expected = self.expected.as_ref()?;
        let met = match (expected, self.outcome(answer)) {
            (Expected::Error(code), Err(status)) => code_name(status.code()) == *code,
            (Expected::Replies(wanted, fields), Ok(replies)) => {
                wanted.len() == replies.len()
                    && wanted.iter().zip(fields).zip(&replies).all(|((wanted, fields), reply)| {
                        DynamicMessage::decode(self.descriptor.output(), reply.clone())
                            .is_ok_and(|reply| fields.iter().all(|field| field_is(&reply, wanted, field)))
                    })
            }
            (Expected::Error(_), Ok(_)) | (Expected::Replies(..), Err(_)) => false,
        };
        (!met).then(|| match expected {
            Expected::Error(code) => format!("error {code}"),
            Expected::Replies(wanted, _) => {
                let texts: Vec<String> =
                    wanted.iter().map(|wanted| self.as_json(&wanted.encode_to_vec().into())).collect();
                texts.join(", ")
            }
        })
    }

    pub(super) fn has_expectation(&self) -> bool {
        self.expected.is_some()
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

    fn as_json(&self, reply: &Bytes) -> String {
        let options = SerializeOptions::new().skip_default_fields(false);
        let json = DynamicMessage::decode(self.descriptor.output(), reply.clone())
            .map_err(|error| error.to_string())
            .and_then(|reply| {
                reply.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())
            });
        match json {
            Ok(json) => json.to_string(),
            Err(error) => {
                format!("bytes that are no {} ({error}): {}", self.descriptor.output().name(), reply.escape_ascii())
            }
        }
    }
}

fn field_is(reply: &DynamicMessage, wanted: &DynamicMessage, name: &str) -> bool {
    use prost_reflect::ReflectMessage;
    let descriptor = reply.descriptor();
    let field = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
    field.is_some_and(|field| reply.get_field(&field) == wanted.get_field(&field))
}

impl Answer {
    /// Whether two replicas may both have given it: what is local to one, such as the text of a trap, is not compared.
    pub(super) fn agrees(&self, other: &Answer) -> bool {
        match (self, other) {
            (Answer::Verdict(one), Answer::Verdict(other)) => encode_verdict(one) == encode_verdict(other),
            (Answer::Stepped(Stepped::Failed(one)), Answer::Stepped(Stepped::Failed(other))) => {
                one.reason == other.reason
            }
            (one, other) => one == other,
        }
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

    fn routes() -> Routes {
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
        let proto = format!("{protos}/example.proto");
        let descriptor = lockstep_guest_build::descriptor(&[proto], &[protos]).unwrap();
        Routes::new(Some(&descriptor), true).unwrap()
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
            ("{\"method\": \"Example/Ad\"}", "it has Example/Add"),
            ("{\"method\": \"Example/Add\", \"request\": {\"kei\": \"a\"}}", "\"key\": string"),
            ("{\"method\": \"Example/Add\", \"reply\": {\"x\": 1}}", "\"commitIndex\": uint64"),
            ("{\"method\": \"Example/Add\", \"error\": \"NOPE\"}", "NOT_FOUND"),
            ("{\"method\": \"Example/Add\", \"reply\": {}, \"error\": \"ABORTED\"}", "not both"),
            ("{\"method\": \"Example/Watch\", \"reply\": {}}", "is a list"),
            ("{\"method\": \"Example/Add\", \"requests\": {}}", "requests"),
            ("Example/Add", "expected value"),
            ("# nothing", "has no calls"),
        ];
        for (line, expected) in cases {
            let error = script(line).err().unwrap().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn only_the_fields_that_are_named_must_be_as_expected() {
        let get = one("{\"method\": \"Example/Get\", \"reply\": {\"value\": \"1\"}}");
        assert_eq!(get.disappointed(&replied(b"\x08\x07\x12\x011")), None);
        let told = get.disappointed(&replied(b"\x08\x07\x12\x012")).unwrap();
        assert!(told.contains("\"value\":\"1\""), "{told}");
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
    fn what_is_local_to_a_node_is_not_compared() {
        let failed = |detail: &str| {
            Answer::Verdict(Verdict::Failed(guest::Failure { reason: guest::Reason::Trap, detail: detail.into() }))
        };
        assert!(failed("here").agrees(&failed("there")));
        assert!(!failed("here").agrees(&refused(5)));
        assert!(!replied(b"a").agrees(&replied(b"b")));
    }
}
