//! Foreign protocols on every port: HTTP/1, a TLS hello, the banner of SSH, noise, and gRPC of a
//! service that the node does not have. A port scanner sends such things, and so does a client with
//! the wrong address. None may end a node, fill its log, or keep a place.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};
use crate::noise;

/// Attackers at the same time.
const ATTACKERS: usize = 24;
/// The beginning of a TLS 1.2 record with a ClientHello that announces 508 bytes.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03lockstep lockstep lockstep 32 B";

pub(crate) const CASE: Case = Case {
    name: "foreign",
    does: "speaks HTTP/1, TLS, SSH, noise and unknown services at all ports",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(ATTACKERS, speak_in_tongues).await
}

async fn speak_in_tongues(target: Target, n: usize) -> Result<()> {
    let port = [&target.clients, &target.peers, &target.http][n % 3];
    let language = n / 3 % 6;
    if language == 5 {
        let caller = Caller::connect(&target, port).await?;
        target.count("unknown services", 1);
        return caller.call("/foreign.Service/Do", wire::message(b"hello")).await;
    }
    let mut stream = wire::connect(port).await?;
    wire::end_with_reset(&stream)?;
    match language {
        0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").await?,
        1 => stream.write_all(b"POST /Example/Add HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\nxxxx").await?,
        2 => stream.write_all(TLS_HELLO).await?,
        3 => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?,
        _ => stream.write_all(noise(n as u64, 4 << 10).as_bytes()).await?,
    }
    target.count("foreign greetings", 1);
    // What the node answers, if it does. It may also wait for more, which ends with the attack.
    let answered = tokio::time::timeout(std::time::Duration::from_millis(500), wire::read_all(&mut stream)).await;
    answered.unwrap_or(Ok(()))
}
