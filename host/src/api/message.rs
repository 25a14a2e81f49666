//! The one message of a plain unary call as gRPC frames it: read from the body of a request, and
//! written for a response. What is not one whole message, without compression and within the limit,
//! is odd: it is told apart here, and judged elsewhere.

use std::error::Error;

use axum::body::{Body, Bytes, HttpBody};
use bytes::{Buf, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use tonic::Status;

use super::bodies::{Incoming, PREFIX_BYTES};
use crate::calls::MESSAGE_BYTES_MAX;

/// First byte of a message that is not compressed.
const PLAIN: u8 = 0;

/// What a body is.
#[derive(Debug)]
pub(super) enum Read {
    /// One whole message.
    Whole(Bytes),
    /// Something else that begins with these bytes. The rest was not read.
    Odd(Bytes),
    /// It did not arrive.
    Failed(Status),
}

/// Reads a body as far as it takes to know what it is.
pub(super) async fn read<B>(incoming: &mut Incoming<B>) -> Read
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    let mut arrived = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let data = match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => data,
            // Trailers of a request say nothing to a guest.
            Ok(Err(_)) => continue,
            Err(status) => return Read::Failed(status),
        };
        // A copy, so that the buffer of the connection is free for what comes next.
        arrived.extend_from_slice(&data);
        if is_odd(&arrived) {
            return Read::Odd(arrived.freeze());
        }
        // Once, as tonic does: a buffer that doubles copies a large message several times.
        arrived.reserve(missing(&arrived));
        if incoming.is_end_stream() {
            break;
        }
    }
    match length(&arrived) {
        Some(bytes) if arrived.len() == PREFIX_BYTES + bytes => {
            arrived.advance(PREFIX_BYTES);
            Read::Whole(arrived.freeze())
        }
        _ => Read::Odd(arrived.freeze()),
    }
}

/// Returns whether no more bytes make one plain message of these.
fn is_odd(arrived: &[u8]) -> bool {
    let is_too_long = |bytes: usize| bytes > MESSAGE_BYTES_MAX || arrived.len() > PREFIX_BYTES + bytes;
    arrived.first().is_some_and(|flag| *flag != PLAIN) || length(arrived).is_some_and(is_too_long)
}

/// Returns how many bytes are missing of a message that is not odd; 0 before its prefix is there.
fn missing(arrived: &[u8]) -> usize {
    length(arrived).map_or(0, |bytes| (PREFIX_BYTES + bytes).saturating_sub(arrived.len()))
}

/// Returns the length that the prefix of a message states, once it is there.
fn length(arrived: &[u8]) -> Option<usize> {
    let [_, length @ ..] = arrived.first_chunk::<PREFIX_BYTES>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

/// Returns the body as it was before its first bytes were read.
pub(super) fn resumed<B>(first: Bytes, rest: Incoming<B>) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let first = stream::iter((!first.is_empty()).then_some(Ok::<_, Status>(first)));
    Body::from_stream(first.chain(rest.into_data_stream()))
}

/// Returns the bytes of a reply, and the trailers behind them. A reply above the limit is replaced
/// by the status that tonic has for it.
pub(super) fn written(reply: &[u8]) -> (Bytes, HeaderMap) {
    if reply.len() > MESSAGE_BYTES_MAX {
        return (Bytes::new(), too_large(reply.len()));
    }
    let mut framed = Vec::with_capacity(bytes_of(reply));
    framed.push(PLAIN);
    framed.extend_from_slice(&(reply.len() as u32).to_be_bytes());
    framed.extend_from_slice(reply);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    (framed.into(), trailers)
}

/// Returns the bytes of a reply as it is written.
pub(super) fn bytes_of(reply: &[u8]) -> usize {
    PREFIX_BYTES + reply.len()
}

fn too_large(bytes: usize) -> HeaderMap {
    let text = format!(
        "Error, encoded message length too large: found {bytes} bytes, the limit is: {MESSAGE_BYTES_MAX} bytes"
    );
    let mut trailers = HeaderMap::new();
    if let Err(error) = Status::out_of_range(text).add_header(&mut trailers) {
        tracing::error!(%error, "the end of a call cannot be told");
    }
    trailers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "message_tests.rs"]
mod tests;
