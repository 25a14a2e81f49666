//! Tests that a body passes on what it may, in any pieces, and waits for room without a deadlock.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::*;

type Pieces = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

const LARGE: usize = SMALL_MESSAGE_BYTES_MAX + 1;

fn bound(bytes: usize) -> Bound {
    Bound { bytes, why: "its route was refused".into(), judge: None }
}

fn message(size: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&(size as u32).to_be_bytes());
    message.resize(HEADER_BYTES + size, 7);
    message
}

/// Returns a body to which bytes can be added, and where to add them.
fn open(share: &Share, bytes: usize) -> (mpsc::UnboundedSender<Bytes>, Bounded<Pieces>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = UnboundedReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes))).boxed();
    (sender, share.bound(StreamBody::new(frames), bound(bytes)))
}

fn body_of(pieces: Vec<Bytes>, share: &Share, bytes: usize) -> Bounded<Pieces> {
    let frames = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece)))).boxed();
    share.bound(StreamBody::new(frames), bound(bytes))
}

fn pieces(bytes: &[u8], size: usize) -> Vec<Bytes> {
    bytes.chunks(size).map(Bytes::copy_from_slice).collect()
}

async fn collected(body: Bounded<Pieces>) -> Result<Bytes, Status> {
    body.collect().await.map(http_body_util::Collected::to_bytes).map_err(Status::from_error)
}

#[tokio::test]
async fn messages_pass_unchanged_in_pieces_of_any_size() {
    let sent = [message(0), message(3), message(100), message(0), message(LARGE), message(1)].concat();
    for size in [1, 2, 4, 5, 6, 7, 64, 1_000, LARGE, sent.len()] {
        let intake = Intake::default();
        let body = body_of(pieces(&sent, size), &intake.connection(), 2 * LARGE);
        assert_eq!(collected(body).await.unwrap(), sent, "in pieces of {size}");
        assert_eq!(intake.status(), IntakeStatus::default(), "all room is free again");
    }
}

#[tokio::test]
async fn a_message_above_the_bound_ends_the_call_after_those_before_it() {
    let intake = Intake::default();
    let sent = [message(9), message(11)].concat();
    for size in [1, 3, sent.len()] {
        let mut body = body_of(pieces(&sent, size), &intake.connection(), 10);
        let mut passed = 0;
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => passed += frame.into_data().unwrap().len(),
                Err(error) => break Status::from_error(error),
            }
        };
        assert!(passed >= HEADER_BYTES + 9, "{passed}");
        assert!(passed < 2 * HEADER_BYTES + 9, "no header that tonic would make room for: {passed}");
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.message().contains("11 bytes") && error.message().contains("its route was refused"), "{error}");
    }
    assert_eq!(intake.status().refused, 3);
}

#[tokio::test]
async fn half_a_message_waits_for_room_and_what_comes_whole_does_not() {
    let intake = Intake::new(OF_ONE_CONNECTION * LARGE);
    let full: Vec<_> = (1..OF_ONE_CONNECTION).map(|_| half_of_a_large_one(&intake.connection())).collect();
    let (share, other) = (intake.connection(), intake.connection());
    let (first, mut holds) = open(&share, LARGE);
    first.send(message(LARGE)[..100].to_vec().into()).unwrap();
    assert_eq!(holds.frame().await.unwrap().unwrap().into_data().unwrap().len(), 100);
    assert_eq!(intake.status().half_received_bytes, (OF_ONE_CONNECTION * LARGE) as u64);
    let (second, mut waits) = open(&other, LARGE);
    second.send([message(5), message(LARGE)[..100].to_vec()].concat().into()).unwrap();
    assert_eq!(waits.frame().await.unwrap().unwrap().into_data().unwrap().len(), HEADER_BYTES + 5);
    assert!(waits.frame().now_or_never().is_none(), "there is no room");
    // A small message has other room, also in parts.
    let (third, mut small) = open(&other, LARGE);
    third.send(message(1_000)[..100].to_vec().into()).unwrap();
    assert!(small.frame().now_or_never().is_some());
    first.send(message(LARGE)[100..].to_vec().into()).unwrap();
    assert!(holds.frame().await.is_some());
    // The first one is whole, and its handler asks for nothing more.
    assert_eq!(waits.frame().await.unwrap().unwrap().into_data().unwrap().len(), 100);
    drop((waits, full));
    assert_eq!(intake.status().half_received_bytes, 0);
}

/// Sends half of a large message, and returns the call, which now has the room for all of it.
fn half_of_a_large_one(share: &Share) -> (mpsc::UnboundedSender<Bytes>, Bounded<Pieces>) {
    let (sender, mut body) = open(share, LARGE);
    sender.send(message(LARGE)[..100].to_vec().into()).unwrap();
    assert!(body.frame().now_or_never().is_some());
    (sender, body)
}

#[tokio::test]
async fn one_connection_leaves_room_for_large_messages_of_others() {
    let intake = Intake::new(OF_ONE_CONNECTION * LARGE);
    let share = intake.connection();
    let first = half_of_a_large_one(&share);
    let (second, mut waits) = open(&share, LARGE);
    second.send(message(LARGE)[..100].to_vec().into()).unwrap();
    assert!(waits.frame().now_or_never().is_none(), "its connection has a quarter of the room");
    let others = [(); OF_ONE_CONNECTION - 1].map(|()| half_of_a_large_one(&intake.connection()));
    drop(first);
    assert!(waits.frame().now_or_never().is_some());
    drop(others);
}

#[tokio::test]
async fn small_messages_of_one_connection_take_no_room_of_another_one() {
    let intake = Intake::default();
    let (share, other) = (intake.connection(), intake.connection());
    let half = || Bytes::from(message(SMALL_MESSAGE_BYTES_MAX)[..100].to_vec());
    let mut open: Vec<_> = (0..=SMALL_HALF_RECEIVED_BYTES_MAX / SMALL_MESSAGE_BYTES_MAX)
        .map(|_| open(&share, SMALL_MESSAGE_BYTES_MAX))
        .collect();
    for (sender, _) in &open {
        sender.send(half()).unwrap();
    }
    let mut last = open.pop().unwrap();
    for (_, body) in &mut open {
        assert!(body.frame().now_or_never().is_some());
    }
    assert!(last.1.frame().now_or_never().is_none());
    let (sender, mut body) = super::tests::open(&other, SMALL_MESSAGE_BYTES_MAX);
    sender.send(half()).unwrap();
    assert!(body.frame().now_or_never().is_some());
    drop(open);
    assert!(last.1.frame().now_or_never().is_some());
}

/// Returns a call with the first frame of a small message, on a call with that bound.
fn with_one_frame(share: &Share, bound: usize) -> (mpsc::UnboundedSender<Bytes>, Bounded<Pieces>) {
    let (sender, body) = open(share, bound);
    sender.send(message(SMALL_MESSAGE_BYTES_MAX)[..16 << 10].to_vec().into()).unwrap();
    (sender, body)
}

#[tokio::test]
async fn few_calls_that_anybody_can_make_wait_with_the_frame_that_came() {
    let intake = Intake::default();
    let share = intake.connection();
    let has_begun = |body: &mut Bounded<Pieces>| body.frame().now_or_never().is_some();
    let mut holding: Vec<_> = (0..SMALL_HALF_RECEIVED_BYTES_MAX / SMALL_MESSAGE_BYTES_MAX)
        .map(|_| with_one_frame(&share, SMALL_MESSAGE_BYTES_MAX))
        .collect();
    assert!(holding.iter_mut().all(|(_, body)| has_begun(body)));
    let mut waiting: Vec<_> =
        (0..SMALL_WAITING_CALLS_MAX).map(|_| with_one_frame(&share, SMALL_MESSAGE_BYTES_MAX)).collect();
    assert!(!waiting.iter_mut().any(|(_, body)| has_begun(body)));
    let used = |name| intake.limits().into_iter().find(|limit| limit.name == name).unwrap().used;
    assert_eq!(used("peer_small_waiting_calls_of_one_connection"), SMALL_WAITING_CALLS_MAX as u64);
    let (_sender, mut refused) = with_one_frame(&share, SMALL_MESSAGE_BYTES_MAX);
    let error = Status::from_error(refused.frame().await.unwrap().unwrap_err());
    assert_eq!((error.code(), intake.status().refused), (Code::ResourceExhausted, 1));
    assert!(error.message().contains("wait for room"), "{error}");
    // A peer with many groups has many calls whose route was accepted, also with small messages.
    let mut accepted: Vec<_> = (0..2 * SMALL_WAITING_CALLS_MAX).map(|_| with_one_frame(&share, LARGE)).collect();
    assert!(!accepted.iter_mut().any(|(_, body)| has_begun(body)));
    assert_eq!(used("peer_waiting_calls"), 2 * SMALL_WAITING_CALLS_MAX as u64);
    // What comes whole never waits.
    let (sender, mut whole) = open(&share, SMALL_MESSAGE_BYTES_MAX);
    sender.send(message(1_000).into()).unwrap();
    assert!(has_begun(&mut whole));
    drop(holding);
    assert!(has_begun(&mut waiting[0].1) && has_begun(&mut waiting[1].1), "the oldest ones get the room");
    assert_eq!(used("peer_small_waiting_calls_of_one_connection"), SMALL_WAITING_CALLS_MAX as u64 - 2);
    drop((waiting, accepted));
    assert_eq!((used("peer_waiting_calls"), used("peer_small_waiting_calls_of_one_connection")), (0, 0));
}

#[tokio::test]
async fn calls_that_wait_have_a_bound_on_the_whole_port() {
    let intake = Intake::default();
    let _others = intake.0.waiting.clone().try_acquire_many_owned(WAITING_CALLS_MAX as u32).unwrap();
    let share = intake.connection();
    let mut open: Vec<_> =
        (0..=SMALL_HALF_RECEIVED_BYTES_MAX / SMALL_MESSAGE_BYTES_MAX).map(|_| with_one_frame(&share, LARGE)).collect();
    let (_sender, mut last) = open.pop().unwrap();
    assert!(open.iter_mut().all(|(_, body)| body.frame().now_or_never().is_some()), "they have room");
    let error = Status::from_error(last.frame().await.unwrap().unwrap_err());
    assert_eq!(error.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn the_first_message_may_change_the_bound() {
    let intake = Intake::default();
    for (first, passes) in [(7, true), (8, false)] {
        let judge = move |bytes: &[u8]| bound(if bytes.first() == Some(&first) { LARGE } else { 10 });
        let sent = Bytes::from([message(4), message(LARGE)].concat());
        let frames = stream::iter(vec![Ok(Frame::data(sent.clone()))]).boxed();
        let judged = Bound { judge: Some(Box::new(judge)), ..bound(10) };
        let body = intake.connection().bound(StreamBody::new(frames), judged);
        assert_eq!(collected(body).await.ok() == Some(sent), passes);
    }
}

#[tokio::test]
async fn a_call_is_judged_when_enough_of_its_first_message_is_here() {
    let judge = |bytes: &[u8]| bound(if bytes.len() >= JUDGED_BYTES { LARGE } else { 10 });
    let judged = || Bound { judge: Some(Box::new(judge)), ..bound(10) };
    let sent = [message(LARGE), message(3)].concat();
    for size in [1, 3, 5, 6, 100, JUDGED_BYTES + HEADER_BYTES, sent.len()] {
        let intake = Intake::default();
        let frames = stream::iter(pieces(&sent, size).into_iter().map(|piece| Ok(Frame::data(piece)))).boxed();
        let body = intake.connection().bound(StreamBody::new(frames), judged());
        assert_eq!(collected(body).await.unwrap(), sent, "in pieces of {size}");
    }
    let frames = stream::iter(vec![Ok(Frame::data(Bytes::from(message(100)).slice(..50)))]).boxed();
    let body = Intake::default().connection().bound(StreamBody::new(frames), judged());
    let error = collected(body).await.unwrap_err();
    assert!(error.message().contains("within its first message"), "{error}");
}
