//! What an author expects of an answer, and the check whether the answer meets it. It reads no
//! files and runs nothing.

use bytes::Bytes;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, ReflectMessage, Value as Held,
};
use serde_json::Value;
use tonic::{Code, Status};

use crate::cli::call::signature;
use crate::cli::details;
use crate::cli::json::{Tree, key_text, read_message, show_bytes};
use crate::cli::report::code_name;
use lockstep_contract::Kind;

/// Package of the messages whose JSON is not an object of their fields. They are compared as a
/// whole.
const WELL_KNOWN_PACKAGE: &str = "google.protobuf";

/// The answer that a line of a script expects.
#[derive(Clone)]
pub(super) enum Expected {
    /// One sample for each reply. Anything but a watch has one reply.
    Replies(Vec<Sample>),
    /// The error code, and the reason in the details if the line gives one.
    Error(String, Option<String>),
}

/// A reply, as far as the author wrote it down.
#[derive(Clone)]
pub(super) struct Sample {
    written: Value,
    message: DynamicMessage,
}

impl Expected {
    pub(super) fn replies(given: Tree, kind: Kind, descriptor: &MethodDescriptor) -> Result<Expected, String> {
        let list = match (kind, given) {
            (Kind::Watch, Tree::List(list)) => list,
            (Kind::Watch, _) => return Err("the \"reply\" of a watch is a list, of what it sends at once".into()),
            (Kind::Command | Kind::Query, one) => vec![one],
        };
        let sample = |written: Tree| {
            let message = read_message(&descriptor.output(), &written).map_err(|error| {
                format!("\"reply\" is no {}: {error}; {}", descriptor.output().name(), signature(descriptor))
            })?;
            Ok(Sample { written: written.to_value(), message })
        };
        Ok(Expected::Replies(list.into_iter().map(sample).collect::<Result<_, String>>()?))
    }

    pub(super) fn error(code: String, reason: Option<String>) -> Result<Expected, String> {
        let known: Vec<String> = (1..=16).map(|number| code_name(Code::from_i32(number))).collect();
        if known.contains(&code) {
            Ok(Expected::Error(code, reason))
        } else {
            Err(format!("{code:?} is no error code; there are {}", known.join(", ")))
        }
    }

    pub(super) fn is_met_by(&self, outcome: &Result<Vec<Bytes>, Status>) -> bool {
        match (self, outcome) {
            (Expected::Error(code, reason), Err(status)) => {
                code_name(status.code()) == *code
                    && reason.as_ref().is_none_or(|reason| details::reason(status.details()).as_ref() == Some(reason))
            }
            (Expected::Replies(samples), Ok(replies)) => {
                samples.len() == replies.len()
                    && samples.iter().zip(replies).all(|(sample, reply)| {
                        DynamicMessage::decode(sample.message.descriptor(), reply.clone())
                            .is_ok_and(|reply| message_is(&sample.written, &sample.message, &reply))
                    })
            }
            (Expected::Error(..), Ok(_)) | (Expected::Replies(_), Err(_)) => false,
        }
    }

    /// Returns the expectation as text for people, as the author wrote it.
    pub(super) fn show(&self) -> String {
        match self {
            Expected::Error(code, None) => format!("error {code}"),
            Expected::Error(code, Some(reason)) => format!("error {code} with reason {reason}"),
            Expected::Replies(samples) => {
                let texts: Vec<String> = samples.iter().map(|sample| sample.written.to_string()).collect();
                texts.join(", ")
            }
        }
    }
}

/// Returns a reply as JSON for people, including fields that hold their default.
pub(super) fn as_json(descriptor: &MessageDescriptor, reply: &Bytes) -> String {
    show_bytes(descriptor, reply).json.to_string()
}

/// Tells whether each field that was written down has the wanted value. `wanted` is `written`, read
/// as a message.
fn message_is(written: &Value, wanted: &DynamicMessage, got: &DynamicMessage) -> bool {
    match written.as_object() {
        Some(names) if wanted.descriptor().package_name() != WELL_KNOWN_PACKAGE => {
            names.iter().all(|(name, written)| field_is(name, written, wanted, got))
        }
        _ => wanted == got,
    }
}

fn field_is(name: &str, written: &Value, wanted: &DynamicMessage, got: &DynamicMessage) -> bool {
    let descriptor = wanted.descriptor();
    let field = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
    field.is_some_and(|field| {
        is_there_alike(&field, wanted, got) && value_is(written, &wanted.get_field(&field), &got.get_field(&field))
    })
}

/// Tells whether a field is present in both messages or in neither, where protobuf can tell. A line
/// uses `null` for a field that must be missing, and `{}` for one that must be present.
fn is_there_alike(field: &FieldDescriptor, wanted: &DynamicMessage, got: &DynamicMessage) -> bool {
    !field.supports_presence() || wanted.has_field(field) == got.has_field(field)
}

fn value_is(written: &Value, wanted: &Held, got: &Held) -> bool {
    match (written, wanted, got) {
        (_, Held::Message(wanted), Held::Message(got)) => message_is(written, wanted, got),
        (Value::Array(written), Held::List(wanted), Held::List(got)) => {
            wanted.len() == got.len()
                && written.iter().zip(wanted).zip(got).all(|((written, wanted), got)| value_is(written, wanted, got))
        }
        (Value::Object(written), Held::Map(wanted), Held::Map(got)) => wanted.iter().all(|(key, wanted)| {
            let written = written.get(&key_text(key)).unwrap_or(&Value::Null);
            got.get(key).is_some_and(|got| value_is(written, wanted, got))
        }),
        (_, wanted, got) => wanted == got,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_reflect::DescriptorPool;

    const PROTO: &str = r#"syntax = "proto3";
        import "google/protobuf/timestamp.proto";
        message Q {}
        message Inner { string name = 1; uint64 n = 2; Inner next = 3; }
        message R {
          Inner one = 1; repeated Inner many = 2; map<string, Inner> by_name = 3; repeated string words = 4;
          google.protobuf.Timestamp at = 5; optional uint32 maybe = 6; map<uint32, string> numbered = 7;
        }
        service S { rpc Ask(Q) returns (R); }"#;

    fn method() -> MethodDescriptor {
        let place = tempfile::tempdir().unwrap();
        let proto = place.path().join("app.proto");
        std::fs::write(&proto, PROTO).unwrap();
        let descriptor = lockstep_guest_build::descriptor(&[proto], &[place.path()]).unwrap();
        let pool = DescriptorPool::decode(descriptor.as_slice()).unwrap();
        pool.get_service_by_name("S").unwrap().methods().next().unwrap()
    }

    #[test]
    fn what_is_not_named_is_not_looked_at_at_any_depth() {
        let method = method();
        let got = r#"{"one": {"name": "a", "n": 1, "next": {"name": "b", "n": 2}},
            "many": [{"name": "x", "n": 1}, {"name": "y", "n": 2}], "byName": {"k": {"name": "v", "n": 9}, "l": {}},
            "words": ["one", "two"], "at": "2024-01-01T00:00:00Z", "numbered": {"7": "seven"}}"#;
        let got = DynamicMessage::deserialize(method.output(), &mut serde_json::Deserializer::from_str(got)).unwrap();
        let is = |written: &str| {
            let expected = Expected::replies(serde_json::from_str(written).unwrap(), Kind::Query, &method).unwrap();
            expected.is_met_by(&Ok(vec![got.encode_to_vec().into()]))
        };
        let met = [
            "{}",
            r#"{"one": {"name": "a"}}"#,
            r#"{"one": {"next": {"n": 2}}}"#,
            r#"{"one": {"next": {"next": null}}}"#,
            r#"{"many": [{"name": "x"}, {"n": 2}]}"#,
            r#"{"by_name": {"k": {"n": 9}}}"#,
            r#"{"words": ["one", "two"], "at": "2024-01-01T00:00:00Z"}"#,
            r#"{"maybe": null, "numbered": {"7": "seven"}}"#,
        ];
        for written in met {
            assert!(is(written), "{written}");
        }
        let unmet = [
            r#"{"one": {"name": "b"}}"#,
            r#"{"one": {"next": {"n": 3}}}"#,
            r#"{"one": {"next": null}}"#,
            r#"{"one": {"next": {"next": {}}}}"#,
            r#"{"many": [{"name": "x"}]}"#,
            r#"{"many": [{"n": 2}, {"name": "x"}]}"#,
            r#"{"byName": {"k": {"n": 8}}}"#,
            r#"{"byName": {"m": {}}}"#,
            r#"{"words": ["one"]}"#,
            r#"{"words": []}"#,
            r#"{"at": "2024-01-01T00:00:01Z"}"#,
            r#"{"maybe": 0}"#,
            r#"{"numbered": {"7": "eight"}}"#,
        ];
        for written in unmet {
            assert!(!is(written), "{written}");
        }
    }

    #[test]
    fn an_error_is_expected_by_code_and_reason() {
        let held = || Err(Status::with_details(Code::FailedPrecondition, "no", details::with_reason("HELD").into()));
        let bare = || Err(Status::new(Code::FailedPrecondition, "no"));
        let expected =
            |reason: Option<&str>| Expected::error("FAILED_PRECONDITION".into(), reason.map(str::to_owned)).unwrap();
        assert!(expected(None).is_met_by(&held()) && expected(None).is_met_by(&bare()));
        assert!(expected(Some("HELD")).is_met_by(&held()));
        assert!(!expected(Some("GONE")).is_met_by(&held()));
        assert!(!expected(Some("HELD")).is_met_by(&bare()));
        assert_eq!(expected(Some("HELD")).show(), "error FAILED_PRECONDITION with reason HELD");
    }
}
