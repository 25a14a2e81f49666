//! The details of a refusal: `google.rpc.Status` as `grpc-status-details-bin` carries it, for
//! people and for comparison. This file only decodes.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::Any;
use serde_json::{Value, json};

use super::json::show_bytes;

const ERROR_INFO: &str = "google.rpc.ErrorInfo";

/// `google.rpc.Status`. Its code and message are left out, because the gRPC status has them anyway.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.ErrorInfo`: the reason of a refusal as a constant that programs compare.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// Returns the reason that the details give, if they give one.
pub(super) fn reason(details: &[u8]) -> Option<String> {
    let status = RpcStatus::decode(details).ok()?;
    status.details.iter().find_map(error_info).map(|info| info.reason)
}

/// Returns one line for each message in the details. A message that neither this file nor `pool`
/// knows is shown as bytes, so that nothing is hidden.
pub(super) fn lines(details: &[u8], pool: Option<&DescriptorPool>) -> Vec<String> {
    if details.is_empty() {
        return Vec::new();
    }
    match RpcStatus::decode(details) {
        Ok(status) if !status.details.is_empty() => status.details.iter().map(|any| line(any, pool)).collect(),
        _ => vec![format!("details: {}", details.escape_ascii())],
    }
}

fn line(any: &Any, pool: Option<&DescriptorPool>) -> String {
    let name = type_name(any);
    let known = || Some(show_bytes(&pool?.get_message_by_name(name)?, &any.value).json.to_string());
    match error_info(any).map(|info| as_json(&info).to_string()).or_else(known) {
        Some(json) => format!("details: {name} {json}"),
        None => format!("details: {name} (not described by the server) {}", any.value.escape_ascii()),
    }
}

fn as_json(info: &ErrorInfo) -> Value {
    json!({ "reason": info.reason, "domain": info.domain, "metadata": info.metadata })
}

fn error_info(any: &Any) -> Option<ErrorInfo> {
    if type_name(any) == ERROR_INFO { ErrorInfo::decode(any.value.as_slice()).ok() } else { None }
}

fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Returns details with a reason, as a guest of the SDK writes them.
#[cfg(test)]
pub(super) fn with_reason(reason: &str) -> Vec<u8> {
    let metadata = [("owner".to_owned(), "ann".to_owned())].into();
    let info = ErrorInfo { reason: reason.into(), domain: "locks".into(), metadata };
    let any = Any { type_url: format!("type.googleapis.com/{ERROR_INFO}"), value: info.encode_to_vec() };
    RpcStatus { details: vec![any] }.encode_to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_shown_with_what_goes_with_it() {
        let shown = lines(&with_reason("HELD"), None);
        let expected = r#"details: google.rpc.ErrorInfo {"domain":"locks","metadata":{"owner":"ann"},"reason":"HELD"}"#;
        assert_eq!(shown, [expected]);
        assert_eq!(reason(&with_reason("HELD")).as_deref(), Some("HELD"));
        assert_eq!((reason(b""), reason(b"\xff")), (None, None));
    }

    #[test]
    fn messages_of_the_server_are_shown_by_their_fields_and_others_as_bytes() {
        let pool = crate::cli::manager::descriptors();
        let of = |name: &str, value: &[u8]| {
            let any = Any { type_url: format!("x/{name}"), value: value.to_vec() };
            RpcStatus { details: vec![any] }.encode_to_vec()
        };
        let known = of("AddVoterRequest", b"\x0a\x05nodeB");
        let shown = lines(&known, Some(pool)).concat();
        assert!(shown.starts_with("details: AddVoterRequest {") && shown.contains(r#""id":"nodeB""#), "{shown}");
        assert!(lines(&known, None)[0].contains("not described by the server) \\n\\x05nodeB"));
        assert_eq!(lines(b"\xff\x01", Some(pool)), ["details: \\xff\\x01"]);
        assert!(lines(b"", None).is_empty());
    }
}
