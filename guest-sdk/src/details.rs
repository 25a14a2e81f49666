//! Details of a refusal that programs read: a `google.rpc.Status` with messages inside, sent as
//! `grpc-status-details-bin`. This file declares the two messages of google.rpc that this needs, so
//! the SDK needs no further crate.

use std::collections::BTreeMap;

use prost::{Message, Name};
use prost_types::Any;

/// Prefix of the type URL of packed messages, of google.rpc and of all others.
const TYPE_URL: &str = "type.googleapis.com/";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `google.rpc.ErrorInfo`: the reason of a refusal as a constant that programs can compare.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorInfo {
    /// The reason, in UPPER_SNAKE_CASE and unique within the domain.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// The origin of the reason, such as the name of the service.
    #[prost(string, tag = "2")]
    pub domain: String,
    /// Additional facts about this case.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

impl Name for ErrorInfo {
    const PACKAGE: &'static str = "google.rpc";
    const NAME: &'static str = "ErrorInfo";
}

/// Packs a message with its name.
pub(crate) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{TYPE_URL}{}", M::full_name()), value: message.encode_to_vec() }
}

/// Returns the message if it is of this type.
pub(crate) fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    let name = any.type_url.rsplit('/').next()?;
    if name == M::full_name() { M::decode(any.value.as_slice()).ok() } else { None }
}
