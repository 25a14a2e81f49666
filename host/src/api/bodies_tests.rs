//! Tests of bodies: what is counted, when it is given back, and what is refused.

use std::io::Write;
use std::net::IpAddr;

use axum::body::HttpBody;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;
use tonic::Code;

use super::*;
use crate::calls::MESSAGE_BYTES_MAX;

const MIB: usize = 1 << 20;

fn budget() -> Budget {
    Budget::new(64 * MIB as u64)
}

fn connection(budget: &Budget) -> Connection {
    Connection::new(budget.share(), IpAddr::from([127, 0, 0, 1]))
}

fn message(flag: u8, bytes: &[u8]) -> Bytes {
    [&[flag][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat().into()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn request(connection: &Connection, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.extension(connection.clone()).body(body).unwrap()
}

fn pieces(bytes: &[Bytes]) -> Body {
    Body::from_stream(stream::iter(bytes.to_vec()).map(Ok::<_, std::convert::Infallible>))
}

fn status(error: axum::Error) -> Status {
    Status::from_error(error.into())
}

async fn read(body: Body) -> Result<Bytes, Status> {
    body.collect().await.map(|collected| collected.to_bytes()).map_err(status)
}

const SHORT: Duration = Duration::from_millis(50);
const UNARY: &str = "/Example/Add";
const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];

#[tokio::test]
async fn a_request_is_held_until_its_call_ends() {
    let (budget, bodies) = (budget(), Bodies::new());
    let sent = message(0, &[7; 1_000]);
    let request = request(&connection(&budget), UNARY, &[("a", "bc")], pieces(&[sent.slice(..500), sent.slice(500..)]));
    let (request, held) = bodies.received(request).map_err(|(_, status)| status).unwrap();
    let base = CALL_BYTES + 3 + HEADER_OVERHEAD_BYTES as u64;
    assert_eq!(budget.figures().by_calls, base);
    assert_eq!(read(request.into_body()).await.unwrap(), sent);
    assert_eq!(budget.figures().by_calls, base + 1_005);
    drop(held);
    assert_eq!(budget.figures().by_calls, 0);
}

#[tokio::test]
async fn a_stream_holds_its_newest_message() {
    let (budget, bodies) = (budget(), Bodies::new());
    let sent = message(0, &[7; 1_000]);
    let body = pieces(&[sent.clone(), sent.clone(), sent]);
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let (request, _held) = bodies.received(request(&connection(&budget), path, &[], body)).map_err(|_| ()).unwrap();
    assert_eq!(read(request.into_body()).await.unwrap().len(), 3_015);
    assert_eq!(budget.figures().by_watches, CALL_BYTES + 1_005, "it may stay open for ever");
}

#[tokio::test]
async fn a_call_beyond_the_share_is_refused_in_words_and_a_body_too() {
    let (budget, bodies) = (budget(), Bodies::new());
    let connection = connection(&budget);
    let full = connection.share().lease(Use::Call, 16 * MIB as u64 - CALL_BYTES - 100).unwrap();
    let sent = message(0, &[7; 1_000]);
    let begun = bodies.received(request(&connection, UNARY, &[], pieces(std::slice::from_ref(&sent))));
    let (begun, _held) = begun.map_err(|_| ()).unwrap();
    let refused = read(begun.into_body()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("16 MiB") && refused.message().contains("--client_memory"), "{refused}");
    assert_eq!(refused.metadata().get(status::OUTCOME).unwrap(), "not-applied");
    let Err((_, refused)) = bodies.received(request(&connection, UNARY, &[], pieces(&[sent]))) else {
        panic!("there is no room for a call")
    };
    assert!(refused.message().contains("nothing was applied"), "{refused}");
    drop(full);
}

#[tokio::test]
async fn compressed_messages_arrive_plain_and_are_counted_as_they_are() {
    let (budget, bodies) = (budget(), Bodies::new());
    let large = vec![7; 3 * MIB];
    let compressed = message(1, &gzip(&large));
    let wire = compressed.len() as u64;
    let cut = compressed.len() / 2;
    let body =
        pieces(&[compressed.slice(..3), compressed.slice(3..cut), compressed.slice(cut..), message(0, b"plain")]);
    let headers = bytes_of(&HeaderMap::from_iter([("grpc-encoding".parse().unwrap(), "gzip".parse().unwrap())]));
    let (request, _held) = bodies.received(request(&connection(&budget), UNARY, GZIP, body)).map_err(|_| ()).unwrap();
    let expected = [message(0, &large), message(0, b"plain")].concat();
    assert!(read(request.into_body()).await.unwrap() == expected);
    assert_eq!(budget.figures().by_calls, CALL_BYTES + headers + wire + 10 + large.len() as u64);
}

#[tokio::test]
async fn a_message_that_inflates_to_too_much_is_refused_before_it_has() {
    let (budget, bodies) = (budget(), Bodies::new());
    let bomb = message(1, &gzip(&vec![0; 64 * MIB]));
    let (request, held) =
        bodies.received(request(&connection(&budget), UNARY, GZIP, pieces(&[bomb]))).map_err(|_| ()).unwrap();
    let refused = read(request.into_body()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains(&MESSAGE_BYTES_MAX.to_string()), "{refused}");
    assert!(budget.figures().by_calls < 5 * MIB as u64, "{:?}", budget.figures());
    drop(held);
}

#[tokio::test]
async fn what_no_service_takes_is_left_to_it() {
    let (budget, bodies) = (budget(), Bodies::new());
    let foreign = [
        [&[1][..], &(MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes(), b"large"].concat(),
        [&[9][..], &[0, 0, 0, 1], b"flag"].concat(),
        vec![1, 0, 0],
        [&[1][..], &[0, 0, 0, 9], b"cut"].concat(),
        Vec::new(),
    ];
    for bytes in foreign {
        let body = pieces(&[bytes.clone().into()]);
        let (request, _held) =
            bodies.received(request(&connection(&budget), UNARY, GZIP, body)).map_err(|_| ()).unwrap();
        assert_eq!(read(request.into_body()).await.unwrap(), bytes);
    }
    let broken = pieces(&[message(1, b"no gzip")]);
    let (request, _held) = bodies.received(request(&connection(&budget), UNARY, GZIP, broken)).map_err(|_| ()).unwrap();
    assert_eq!(read(request.into_body()).await.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn a_request_that_stops_on_its_way_is_refused_in_time() {
    let (budget, bodies) = (budget(), Bodies::new());
    let begun = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(&[0, 0]))]);
    let body = Body::from_stream(begun.chain(stream::pending()));
    let headers = [("grpc-timeout", "100m")];
    let (request, _held) =
        bodies.received(request(&connection(&budget), UNARY, &headers, body)).map_err(|_| ()).unwrap();
    let refused = read(request.into_body()).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(refused.message().contains("1.1s"), "{refused}");
    assert_eq!(limit_of(&HeaderMap::new()), DEADLINE_DEFAULT);
}

#[tokio::test]
async fn a_stream_may_be_silent_between_messages_and_not_within_one() {
    let (budget, bodies) = (budget(), Bodies::new());
    let (sender, received) = tokio::sync::mpsc::channel::<Result<Bytes, std::convert::Infallible>>(4);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(received));
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let headers = [("grpc-timeout", "100m")];
    let (request, _held) =
        bodies.received(request(&connection(&budget), path, &headers, body)).map_err(|_| ()).unwrap();
    let mut body = request.into_body();
    let silence = Duration::from_millis(1_500);
    sender.send(Ok(message(0, b"one"))).await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(tokio::time::timeout(silence, body.frame()).await.is_err(), "no message has begun");
    sender.send(Ok(Bytes::from_static(&[0, 0]))).await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    let refused = body.frame().await.unwrap().unwrap_err();
    assert_eq!(status(refused).code(), Code::DeadlineExceeded);
}

fn nothing(connection: &Connection) -> Held {
    Arc::new(Mutex::new(connection.share().force(Use::Call, 0)))
}

fn response(bodies: &Bodies, connection: &Connection, bytes: usize) -> Body {
    let body = pieces(&[vec![7; bytes].into()]).map_err(status);
    let trailers = async { Some(Ok(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))) };
    let mut response = Response::new(Body::new(body.with_trailers(trailers)));
    response.extensions_mut().insert(Use::Watch);
    bodies.sent(response, connection, nothing(connection)).into_body()
}

#[tokio::test]
async fn a_response_is_held_until_it_is_written() {
    let (budget, bodies) = (budget(), Bodies::new());
    let mut body = response(&bodies, &connection(&budget), 20_000);
    assert_eq!(budget.figures().by_watches, 0);
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first.len(), budget.figures().by_watches), (16 << 10, 20_000 + (16 << 10)), "it is a copy");
    drop(first);
    assert_eq!(budget.figures().by_watches, 20_000, "the whole is in memory until its last piece is taken");
    let rest = body.collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(rest.to_bytes().len(), 20_000 - (16 << 10));
    assert_eq!(budget.figures().by_watches, 0);
}

#[tokio::test]
async fn responses_that_nobody_takes_end_while_memory_is_short_and_only_then() {
    let (budget, bodies) = (budget(), Bodies::new());
    let (sleeping, other) = (connection(&budget), connection(&budget));
    let mut bodies_of: Vec<Body> = (0..3).map(|_| response(&bodies, &sleeping, 5 * MIB)).collect();
    for body in &mut bodies_of {
        drop(body.frame().await.unwrap().unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut awaited = bodies
        .sent(Response::new(Body::from_stream(stream::pending::<Result<Bytes, Status>>())), &other, nothing(&other))
        .into_body();
    assert!(awaited.frame().now_or_never().is_none(), "its client waits for more");
    assert_eq!(bodies.unread.end_the_longest_unread(Duration::from_secs(600)), 0, "they may wake yet");
    tokio::time::sleep(SHORT).await;
    let held = budget.figures().by_watches;
    assert_eq!(bodies.unread.end_the_longest_unread(SHORT), 1, "the oldest, and then there is room");
    assert!(budget.figures().by_watches <= held - 4 * MIB as u64);
    assert_eq!(bodies.unread.end_the_longest_unread(SHORT), 0);
    let end = bodies_of.remove(0).collect().await.unwrap();
    let end = Status::from_header_map(end.trailers().unwrap()).unwrap();
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(end.message().contains("less than 64 KiB of the reply was taken in 50ms"), "{end}");
    assert_eq!(bodies.ended(), 1);
    assert_eq!(bodies_of.remove(0).collect().await.unwrap().to_bytes().len(), 5 * MIB - (16 << 10), "this one woke");
}

#[tokio::test]
async fn a_stream_of_the_host_that_nobody_takes_ends_also_while_there_is_room() {
    let (budget, bodies) = (budget(), Bodies::new());
    let connection = connection(&budget);
    let open = |patience| {
        let held: Held = Arc::new(Mutex::new(connection.share().force(Use::Watch, 100)));
        let keeps = Keeps { held: Some(held), patience };
        let endless = stream::repeat(Ok::<_, Status>(Bytes::from_static(&[7; 1_000])));
        bodies.unread.add(Body::from_stream(endless), connection.share().clone(), Use::Call, keeps)
    };
    let (unread, other) = (open(Some(SHORT)), open(None));
    tokio::time::sleep(SHORT).await;
    assert_eq!((bodies.unread.end_the_impatient(), bodies.unread.end_the_impatient()), (1, 0));
    assert_eq!(budget.figures().by_watches, 100, "the other may wait");
    let end = unread.collect().await.unwrap();
    let end = Status::from_header_map(end.trailers().unwrap()).unwrap();
    assert!(end.code() == Code::ResourceExhausted && end.message().contains("50ms"), "{end}");
    drop(other);
}

#[tokio::test]
async fn a_client_that_takes_a_little_now_and_then_counts_as_one_that_takes_nothing() {
    let (budget, bodies) = (budget(), Bodies::new());
    let mut slow = response(&bodies, &connection(&budget), 15 * MIB);
    for _ in 0..2 {
        drop(slow.frame().await.unwrap().unwrap());
        tokio::time::sleep(SHORT).await;
    }
    drop(slow.frame().await.unwrap().unwrap());
    assert_eq!(bodies.unread.end_the_longest_unread(SHORT), 1, "48 KiB in more than its time");
    assert!(slow.collect().await.unwrap().trailers().is_some());
}

#[tokio::test]
async fn a_whole_reply_counts_and_ends_like_any_other() {
    let (budget, bodies) = (budget(), Bodies::new());
    let connection = connection(&budget);
    let trailers = || -> HeaderMap { HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]) };
    let lease = connection.share().lease(Use::Call, 20_100).unwrap();
    let mut reply = bodies.whole(vec![7; 20_000].into(), trailers(), lease);
    assert!(!reply.is_end_stream());
    drop(reply.frame().await.unwrap().unwrap());
    assert_eq!(budget.figures().by_calls, 20_100, "the whole is in memory until its last piece is taken");
    let rest = reply.collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(rest.to_bytes().len(), 20_000 - (16 << 10));
    assert_eq!(budget.figures().by_calls, 0);

    let lease = connection.share().lease(Use::Call, 15 * MIB as u64).unwrap();
    let unread = bodies.whole(vec![7; 15 * MIB].into(), trailers(), lease);
    tokio::time::sleep(SHORT).await;
    assert_eq!(bodies.unread.end_the_longest_unread(SHORT), 1);
    assert_eq!(budget.figures().by_calls, 0);
    let end = unread.collect().await.unwrap();
    let end = Status::from_header_map(end.trailers().unwrap()).unwrap();
    assert_eq!(end.code(), Code::ResourceExhausted);
}
