//! Tests of messages: what is plain is read whole however it is cut, and what is odd ends on the
//! short way exactly as tonic ends it.

use std::convert::Infallible;

use proptest::prelude::*;
use tonic::Code;
use tonic::codec::{DecodeBuf, Decoder, Streaming};

use super::*;
use crate::api::bodies;
use crate::calls::budget::{Budget, Share, Use};

/// Takes a message as it is, like the decoder of `dynamic`.
struct Raw;

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn framed(flag: u8, length: usize, bytes: &[u8]) -> Vec<u8> {
    [&[flag][..], &(length as u32).to_be_bytes(), bytes].concat()
}

fn message(bytes: &[u8]) -> Vec<u8> {
    framed(0, bytes.len(), bytes)
}

fn body(sent: &[u8], piece: usize) -> Body {
    let pieces: Vec<Bytes> = sent.chunks(piece).map(Bytes::copy_from_slice).collect();
    Body::from_stream(stream::iter(pieces).map(Ok::<_, Infallible>))
}

fn incoming(sent: &[u8], piece: usize, share: &Share) -> Incoming {
    bodies::unary(body(sent, piece), &HeaderMap::new(), share).map_err(|(_, status)| status).unwrap().0
}

/// Returns the request that tonic hands to a unary service, or the status with which it ends.
async fn by_tonic(body: Body) -> Result<Bytes, (Code, String)> {
    let mut messages = Streaming::new_request(Raw, body, None, Some(MESSAGE_BYTES_MAX));
    let read = async {
        let first = messages.message().await?.ok_or_else(|| Status::internal("Missing request message."))?;
        messages.trailers().await.map(|_| first)
    };
    read.await.map_err(|status: Status| (status.code(), status.message().to_owned()))
}

/// Reads a body on the short way. Returns how it ends, and whether it was plain.
async fn by_face(sent: &[u8], piece: usize) -> (Result<Bytes, (Code, String)>, bool) {
    let share = Share::default();
    let mut incoming = incoming(sent, piece, &share);
    match read(&mut incoming).await {
        Read::Whole(request) => (Ok(request), true),
        Read::Odd(first) => (by_tonic(resumed(first, incoming)).await, false),
        Read::Failed(status) => (Err((status.code(), status.message().to_owned())), false),
    }
}

#[tokio::test]
async fn what_is_odd_ends_as_with_tonic() {
    let plain = message(b"a plain one");
    let cases: [(&str, Vec<u8>, Option<Code>); 11] = [
        ("two messages", [plain.clone(), message(b"another")].concat(), None),
        ("a message and a part of another", [plain.clone(), vec![0, 0]].concat(), Some(Code::Internal)),
        ("a message and a bad one", [plain.clone(), framed(9, 1, b"x")].concat(), Some(Code::Internal)),
        ("nothing", Vec::new(), Some(Code::Internal)),
        ("a part of a prefix", vec![0, 0, 0], Some(Code::Internal)),
        ("a prefix alone", framed(0, 7, b""), Some(Code::Internal)),
        ("a short message", framed(0, 7, b"six by"), Some(Code::Internal)),
        ("a length above the limit", framed(0, MESSAGE_BYTES_MAX + 1, b"x"), Some(Code::OutOfRange)),
        ("a message above the limit", message(&vec![7; MESSAGE_BYTES_MAX + 1]), Some(Code::OutOfRange)),
        ("compressed without an encoding", framed(1, 1, b"x"), Some(Code::Internal)),
        ("a flag that nobody knows", framed(2, 1, b"x"), Some(Code::Internal)),
    ];
    for (name, sent, code) in cases {
        for piece in [1, 4, 5, 6, 1 << 14, 1 << 23] {
            if sent.len() / piece > 1 << 10 {
                continue;
            }
            let expected = by_tonic(body(&sent, piece)).await;
            assert_eq!(expected.as_ref().err().map(|(code, _)| *code), code, "{name} in pieces of {piece}");
            assert_eq!(by_face(&sent, piece).await, (expected, false), "{name} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn the_largest_message_is_plain() {
    let bytes = vec![7; MESSAGE_BYTES_MAX];
    let (read, is_plain) = by_face(&message(&bytes), 1 << 14).await;
    assert!(is_plain && read.unwrap() == bytes);
}

#[test]
fn room_is_made_for_what_the_prefix_states_and_no_more() {
    for (arrived, expected) in [
        (vec![], 0),
        (vec![0; PREFIX_BYTES - 1], 0),
        (framed(0, 1_000, &[]), 1_000),
        (framed(0, 1_000, &[7; 10]), 990),
        (message(b"whole"), 0),
    ] {
        assert_eq!(missing(&arrived), expected, "{arrived:?}");
    }
}

#[tokio::test]
async fn a_refused_byte_ends_the_request() {
    let budget = Budget::new(64 << 20);
    let share = budget.share();
    let sent = message(&[7; 100_000]);
    let mut incoming = incoming(&sent, 1 << 14, &share);
    let _rest = share.lease(Use::Call, budget.connection_max() - budget.figures().by_calls).unwrap();
    let Read::Failed(status) = read(&mut incoming).await else { panic!("there is no room") };
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[test]
fn a_reply_has_a_prefix_and_a_good_end() {
    let (bytes, trailers) = written(b"reply");
    assert_eq!((&bytes[..], bytes.len()), (&message(b"reply")[..], bytes_of(b"reply")));
    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
    let (bytes, trailers) = written(&vec![7; MESSAGE_BYTES_MAX + 1]);
    let status = Status::from_header_map(&trailers).unwrap();
    assert_eq!((bytes.len(), status.code()), (0, Code::OutOfRange));
    assert!(status.message().contains("4194305 bytes, the limit is: 4194304 bytes"), "{status}");
}

proptest! {
    #[test]
    fn a_plain_message_is_read_whole_however_it_is_cut(bytes: Vec<u8>, piece in 1_usize..64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (read, is_plain) = runtime.block_on(by_face(&message(&bytes), piece));
        prop_assert_eq!((read.unwrap(), is_plain), (bytes.into(), true));
    }

    #[test]
    fn whatever_is_sent_ends_as_with_tonic(sent: Vec<u8>, piece in 1_usize..64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ended = runtime.block_on(async { (by_tonic(body(&sent, piece)).await, by_face(&sent, piece).await.0) });
        prop_assert_eq!(&ended.0, &ended.1);
    }
}
