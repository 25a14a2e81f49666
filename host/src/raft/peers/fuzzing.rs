//! What the readers of gRPC's framing on the peer port promise, for the fuzz targets: the bounds of
//! messages do not depend on how the bytes arrive. Opens no socket and serves no group.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use lockstep_proto::peer;
use prost::Message;
use tonic::{Code, Status};

use super::bounded::{Bound, Intake};
use super::cluster::ClusterCell;
use super::dial::{PEER_MESSAGE_BYTES_MAX, ROUTE};
use super::groups::{Door, Groups, first_field};
use crate::net::{Frame, Remote};
use crate::types::Cluster;

/// Bytes before each message.
const HEADER_BYTES: usize = 5;
/// Bytes of a first message by which a call is judged.
const JUDGED_BYTES: usize = 256;
/// Most bytes of a message on a call whose route was not accepted.
const BYTES_MAX: usize = 100;

/// Reads the body of a request, a first message, or the route in a header. The first byte says
/// which.
pub fn framing(bytes: &[u8]) {
    match bytes {
        [0, pieces, sent @ ..] => bounded(sent, *pieces, BYTES_MAX, None),
        [1, pieces, sent @ ..] => bounded(sent, *pieces, PEER_MESSAGE_BYTES_MAX, None),
        // How deep the route is in the first message.
        [2, pieces, sent @ ..] => bounded(sent, *pieces, BYTES_MAX, Some(1)),
        [3, pieces, sent @ ..] => bounded(sent, *pieces, BYTES_MAX, Some(2)),
        [4, message @ ..] => first(message),
        [5, value @ ..] => {
            header(value);
        }
        _ => {}
    }
}

/// However the bytes arrive, the same messages pass: all before the first one that is too large,
/// and of that one not even its whole header.
fn bounded(sent: &[u8], pieces: u8, bytes_max: usize, depth: Option<usize>) {
    let sent = Bytes::copy_from_slice(sent);
    let (whole_bytes, code) = expected(&sent, bytes_max, depth);
    for size in [usize::MAX, 1 + 3 * usize::from(pieces)] {
        let (passed, ended) = passed(&sent, size, bytes_max, depth);
        assert_eq!(ended, code, "in pieces of {size}");
        assert!(sent.starts_with(&passed), "other bytes are passed on in pieces of {size}");
        let more = passed.len().checked_sub(whole_bytes).expect("what is whole and allowed is passed on");
        assert!(more < HEADER_BYTES && (code.is_some() || more == 0), "{more} bytes more in pieces of {size}");
    }
}

/// Returns how many bytes pass, and with what the body ends.
fn expected(sent: &[u8], bytes_max: usize, depth: Option<usize>) -> (usize, Option<Code>) {
    let size_at = |at: usize| {
        let [_, size @ ..] = sent.get(at..)?.first_chunk::<HEADER_BYTES>()?;
        Some(u32::from_be_bytes(*size) as usize)
    };
    let mut bytes_max = bytes_max;
    if let Some(depth) = depth.filter(|_| !sent.is_empty()) {
        let judged = size_at(0).and_then(|size| sent[HEADER_BYTES..].get(..size.min(JUDGED_BYTES)));
        let Some(judged) = judged else { return (0, Some(Code::Internal)) };
        bytes_max = judge(judged, depth).bytes;
    }
    let mut at = 0;
    while let Some(size) = size_at(at) {
        if size > bytes_max {
            return (at, Some(Code::ResourceExhausted));
        }
        at = (at + HEADER_BYTES + size).min(sent.len());
    }
    (sent.len(), None)
}

/// Passes a body through its bound, and returns what came out.
fn passed(sent: &Bytes, size: usize, bytes_max: usize, depth: Option<usize>) -> (Vec<u8>, Option<Code>) {
    let pieces = (0..sent.len()).step_by(size).map(|at| {
        let end = sent.len().min(at.saturating_add(size));
        Ok::<_, Infallible>(Frame::data(sent.slice(at..end)))
    });
    let mut bound = Bound { bytes: bytes_max, why: "that is enough".to_owned(), judge: None };
    if let Some(depth) = depth {
        // How much of the first message is here depends on how it arrives.
        bound.judge = Some(Box::new(move |begun: &[u8]| judge(&begun[..begun.len().min(JUDGED_BYTES)], depth)));
    }
    let intake = Intake::default();
    let mut body = intake.connection().bound(StreamBody::new(stream::iter(pieces)), bound);
    // A message under way has a timer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let ended = runtime.expect("a runtime without sockets").block_on(async {
        let mut passed = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => passed.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(error) => return (passed, Some(Status::from_error(error).code())),
            }
        }
        (passed, None)
    });
    drop(body);
    let refused = u64::from(ended.1 == Some(Code::ResourceExhausted));
    let status = intake.status();
    assert_eq!((status.half_received_bytes, status.refused), (0, refused), "of the room that was taken");
    ended
}

/// Takes a call for one that may have large messages if its first one begins with a route.
fn judge(begun: &[u8], depth: usize) -> Bound {
    let field = (0..depth).try_fold(begun, |bytes, _| first_field(bytes));
    let is_route = field.is_some_and(|field| peer::Route::decode(field).is_ok());
    let bytes = if is_route { PEER_MESSAGE_BYTES_MAX } else { BYTES_MAX };
    Bound { bytes, why: "that is enough".to_owned(), judge: None }
}

/// A first field is found where an encoder puts it, and where it is found are its bytes.
fn first(message: &[u8]) {
    if let Some(field) = first_field(message) {
        let at = field.as_ptr() as usize - message.as_ptr() as usize;
        assert!(at >= 2 && message[at..].starts_with(field), "a field of other bytes");
    }
    let (door, by) = (door(), remote());
    for depth in [1, 2] {
        assert!(door.admit_first(message, depth, &by).is_err(), "no group is served");
    }
    let Ok(route) = peer::Route::decode(message) else { return };
    let encoded = route.encode_to_vec();
    let append = peer::AppendRequest { route: Some(route.clone()), boot: 1, ..peer::AppendRequest::default() };
    assert_eq!(first_field(&append.encode_to_vec()), Some(&encoded[..]));
    let header = peer::SnapshotHeader { route: Some(route), ..peer::SnapshotHeader::default() };
    let part = Some(peer::snapshot_request::Part::Header(header));
    let snapshot = peer::SnapshotRequest { part }.encode_to_vec();
    assert_eq!(first_field(&snapshot).and_then(first_field), Some(&encoded[..]));
}

fn header(value: &[u8]) -> Option<()> {
    let mut headers = HeaderMap::new();
    let (door, by) = (door(), remote());
    assert!(door.admit_metadata(&headers, &by).is_none(), "a route that nobody gave");
    headers.insert(HeaderName::from_static(ROUTE), HeaderValue::from_bytes(value).ok()?);
    assert!(door.admit_metadata(&headers, &by)?.is_err(), "no group is served");
    Some(())
}

fn door() -> Door {
    let cluster = Cluster { id: [1; 16], incarnation: 3, component_hash: [9; 32] };
    Door::new(2, ClusterCell::new(Some(cluster)), Groups::default())
}

fn remote() -> Remote {
    Remote { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), certificate: None, is_encrypted: false }
}
