//! Connections whose other end sends too much, or takes nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Port;
use crate::net::control::CONTROL_AT_ONCE_MAX;
use crate::net::slots::{Evicted, Origin, Slots};
use crate::source::Source;

/// Time beyond the rate after which a connection of these tests is closed.
const TOO_LONG: Duration = Duration::from_secs(2);
const SOURCE: Source = Source::V6([1, 0, 0, 0]);

const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
const RESET: &[u8] = &[0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 8];

/// When a preface must be finished.
fn in_time() -> Instant {
    Instant::now() + PREFACE_TIMEOUT
}

#[tokio::test]
async fn resets_beyond_a_burst_come_in_measure_from_either_side() {
    let port = Port::new("test", 1);
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (slot, _) = Slots::new(1, 1, 0).enter(SOURCE, Origin::Elsewhere).unwrap();
    let mut connection = Connection::new(server, port.counts(), slot, in_time());
    // One that gets nothing back while this runs, however long that takes.
    let hours_later = Instant::now() + Duration::from_secs(10_000);
    connection.resets = Rate::new(RESETS_AT_ONCE_MAX, RESETS_A_SECOND_MAX, hours_later);
    let burst = RESET.repeat(RESETS_AT_ONCE_MAX as usize);
    client.write_all(&[OPENING, &burst].concat()).await.unwrap();
    let mut read = vec![0; OPENING.len() + burst.len()];
    connection.read_exact(&mut read).await.unwrap();
    assert_eq!((port.status().resets, port.status().slowed), (u64::from(RESETS_AT_ONCE_MAX), 0));
    // Ours count, too.
    let begun = Instant::now();
    connection.write_all(&RESET.repeat(RESETS_A_SECOND_MAX as usize / 2)).await.unwrap();
    assert_eq!(port.status().slowed, 1);
    client.write_all(b"more").await.unwrap();
    connection.read_exact(&mut read[..4]).await.unwrap();
    assert!(begun.elapsed() >= RESETS_REST_MAX, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_that_resets_much_is_read_in_small_pieces() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (slot, _) = Slots::new(1, 1, 0).enter(SOURCE, Origin::Elsewhere).unwrap();
    let connection = Connection::new(server, Port::new("test", 1).counts(), slot, in_time());
    let mut connection = connection.with_resets(Resets { at_once: 100, a_second: 1 });
    let (mut read, some) = (vec![0; 64 << 10], RESET.repeat(40));
    client.write_all(&[OPENING, &some].concat()).await.unwrap();
    assert_eq!(connection.read(&mut read).await.unwrap(), OPENING.len() + some.len());
    client.write_all(&RESET.repeat(40)).await.unwrap();
    assert_eq!(connection.read(&mut read).await.unwrap(), 40 * RESET.len(), "half of a burst is free");
    client.write_all(&RESET.repeat(1_000)).await.unwrap();
    assert_eq!(connection.read(&mut read).await.unwrap(), RESTLESS_READ_BYTES);
}

#[tokio::test]
async fn one_that_made_room_reads_an_error() {
    let slots = Slots::new(1, 1, 0);
    let (_client, server) = tokio::io::duplex(64);
    let (slot, _) = slots.enter(SOURCE, Origin::Elsewhere).unwrap();
    let mut connection = Connection::new(server, Port::new("test", 1).counts(), slot, in_time());
    let reading = tokio::spawn(async move { connection.read_u8().await });
    tokio::task::yield_now().await;
    let (_slot, evicted) = slots.enter(SOURCE, Origin::Elsewhere).unwrap();
    assert!(
        evicted != Evicted::Nobody && reading.await.unwrap().unwrap_err().kind() == io::ErrorKind::ConnectionAborted
    );
}

fn accepted(port: &Port, io: tokio::io::DuplexStream) -> Connection<tokio::io::DuplexStream> {
    Connection::new(io, port.counts(), Slots::new(1, 1, 0).enter(SOURCE, Origin::Elsewhere).unwrap().0, in_time())
}

#[tokio::test]
async fn one_without_tls_is_told_when_half_of_the_places_have_none() {
    let (slots, port) = (Slots::new(2, 2, 0), Port::new("test", 2));
    let plain = || {
        let (mut slot, _) = slots.enter(SOURCE, Origin::Elsewhere).unwrap();
        slot.is_not_encrypted();
        slot
    };
    let first = plain();
    assert_eq!(first.has_spoken(), Ok(()));
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut second = Connection::new(server, port.counts(), plain(), in_time());
    client.write_all(OPENING).await.unwrap();
    assert!(second.read_to_end(&mut Vec::new()).await.is_err());
    drop(second);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert!(heard.ends_with(TOO_MANY_PLAIN.as_bytes()), "{heard:?}");
    assert_eq!(port.status().refused, 1);
}

#[tokio::test]
async fn a_flood_of_pings_comes_in_measure_and_is_ended_in_words() {
    let port = Port::new("test", 1);
    let (client, server) = tokio::io::duplex(4 << 10);
    let mut connection = accepted(&port, server);
    connection.control = Control::ended_after(TOO_LONG, Instant::now());
    let (mut hearing, mut speaking) = tokio::io::split(client);
    let told = port.clone();
    let flood = tokio::spawn(async move {
        speaking.write_all(OPENING).await.unwrap();
        while told.status().control_closed == 0 && speaking.write_all(PING).await.is_ok() {}
    });
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        hearing.read_to_end(&mut heard).await.unwrap();
        heard
    });
    let (begun, mut read, mut space) = (Instant::now(), 0, vec![0; 64 << 10]);
    let error = loop {
        match connection.read(&mut space).await {
            Ok(bytes) => read += bytes,
            Err(error) => break error,
        }
        let most = CONTROL_AT_ONCE_MAX as usize + (4 << 10) + begun.elapsed().as_secs() as usize * 200;
        assert!(read / PING.len() <= most, "{} after {:?}", read / PING.len(), begun.elapsed());
    };
    assert!(begun.elapsed() >= TOO_LONG, "{:?}", begun.elapsed());
    assert!(error.to_string().contains("too fast for too long"), "{error}");
    assert!(connection.write(b"an answer that nobody gets").await.is_ok(), "its server goes on undisturbed");
    drop(connection);
    flood.await.unwrap();
    let heard = heard.await.unwrap();
    assert_eq!((heard[3], heard[16]), (7, 11), "GOAWAY with ENHANCE_YOUR_CALM");
    assert!(heard.ends_with(TOO_MUCH_CONTROL.as_bytes()));
    let status = port.status();
    assert!(status.control_slowed >= 2 && status.control_closed == 1, "{status:?}");
}

#[tokio::test]
async fn one_that_takes_nothing_is_closed_and_one_that_takes_a_little_has_time_again() {
    let port = Port::new("test", 1);
    let (mut client, server) = tokio::io::duplex(16);
    let mut connection = accepted(&port, server);
    connection.unread_timeout = Duration::from_secs(1);
    let writing = tokio::spawn(async move {
        let written = connection.write_all(&[7; 40]).await;
        (written, Instant::now())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let last = Instant::now();
    client.read_exact(&mut [0; 1]).await.unwrap();
    let (written, ended) = writing.await.unwrap();
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(ended >= last + Duration::from_secs(1), "{:?}", ended - last);
    assert_eq!(port.status().unread_closed, 1);
}
