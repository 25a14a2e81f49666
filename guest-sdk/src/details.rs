//! The details of a refusal, for programs: `google.rpc.Status` with messages inside, as
//! `grpc-status-details-bin` carries it. The two messages of google.rpc that this needs are written here,
//! so that no further crate is needed.

use std::collections::BTreeMap;

use prost::{Message, Name};
use prost_types::Any;

/// Where the types of google.rpc and of everybody else are said to live.
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

/// `google.rpc.ErrorInfo`: the reason of a refusal as a constant that programs compare.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorInfo {
    /// What went wrong: UPPER_SNAKE_CASE, unique within the domain.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Who gives the reason, such as the name of the service.
    #[prost(string, tag = "2")]
    pub domain: String,
    /// More about this case.
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

impl Name for ErrorInfo {
    const PACKAGE: &'static str = "google.rpc";
    const NAME: &'static str = "ErrorInfo";
}

/// Wraps a message with its name.
pub(crate) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{TYPE_URL}{}", M::full_name()), value: message.encode_to_vec() }
}

/// The message, if it is one of this type.
pub(crate) fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    let name = any.type_url.rsplit('/').next()?;
    if name == M::full_name() { M::decode(any.value.as_slice()).ok() } else { None }
}
