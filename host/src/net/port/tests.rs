//! Ports that are full, of one address or of all, and what is told then.

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Serves a port: reads from each connection and keeps it.
fn serve(port: &Port) -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = port.listen(listener).unwrap().connections();
    tokio::spawn(async move {
        while let Some(arrival) = connections.next().await {
            let (mut connection, _) = arrival.open().await.unwrap();
            tokio::spawn(async move { connection.read_to_end(&mut Vec::new()).await });
        }
    });
    address
}

#[test]
fn a_program_of_this_machine_is_known_by_its_address() {
    let rows = [
        ("127.0.0.1", "127.0.0.1", Origin::Here),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", Origin::Here),
        ("::1", "::1", Origin::Here),
        ("127.0.0.2", "127.0.0.1", Origin::Elsewhere),
        ("127.0.0.2", "127.0.0.2", Origin::Elsewhere),
        ("10.0.0.5", "10.0.0.5", Origin::Here),
        ("::ffff:10.0.0.5", "10.0.0.5", Origin::Here),
        ("10.0.0.6", "10.0.0.5", Origin::Elsewhere),
    ];
    for (peer, own, expected) in rows {
        assert_eq!(origin(peer.parse().unwrap(), || own.parse().ok()), expected, "{peer} at {own}");
    }
    assert_eq!(origin("10.0.0.5".parse().unwrap(), || None), Origin::Elsewhere);
}

async fn connect(address: SocketAddr, words: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(words.as_bytes()).await.unwrap();
    stream
}

async fn until(port: &Port, is_so: impl Fn(PortStatus) -> bool) {
    for _ in 0..6_000 {
        if is_so(port.status()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", port.status());
}

#[tokio::test]
async fn a_full_port_closes_the_oldest_silent_one_and_never_one_in_use() {
    let port = Port::new("test", 2);
    let address = serve(&port);
    let _used = connect(address, "GET / HTTP/1.1\r\n\r\n").await;
    until(&port, |status| (status.open, status.silent) == (1, 0)).await;
    let mut silent = connect(address, "GET / HTTP/1.1\r\n").await;
    until(&port, |status| (status.open, status.silent) == (2, 1)).await;
    let mut next = connect(address, "GET / HTTP/1.1\r\n").await;
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0, "it made room");
    next.write_all(b"\r\n").await.unwrap();
    until(&port, |status| (status.open, status.silent) == (2, 0)).await;
    let mut heard = String::new();
    connect(address, "GET / HTTP/1.1\r\n\r\n").await.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 ") && heard.contains("all 2 connections"), "{heard}");
    let status = port.status();
    assert_eq!((status.open, status.accepted, status.refused, status.silent_closed), (2, 3, 1, 1));
    drop(next);
    until(&port, |status| status.open == 1).await;
}

#[tokio::test]
async fn an_address_with_all_it_may_have_is_told_so_and_others_come_in() {
    let port = Port::limited("test", PortLimits { per_address_max: 1, ..PortLimits::new(9) });
    let address = serve(&port);
    let _used = connect(address, "GET / HTTP/1.1\r\n\r\n").await;
    until(&port, |status| (status.open, status.silent) == (1, 0)).await;
    let mut heard = String::new();
    connect(address, "GET / HTTP/1.1\r\n\r\n").await.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 ") && heard.contains("all 1 connections"), "{heard}");
    assert!(heard.contains("--connections_per_address"), "{heard}");
    let status = port.status();
    assert_eq!((status.refused, status.refused_address, status.of_one_address), (1, 1, 1));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Only Linux has more addresses of loopback than one.
    if socket.bind("127.0.0.2:0".parse().unwrap()).is_ok() {
        let _other = socket.connect(address).await.unwrap();
        until(&port, |status| status.open == 2).await;
    }
}
