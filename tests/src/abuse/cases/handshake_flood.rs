//! A flood of TLS handshakes. The attacker sends the first message of a handshake at the peer port,
//! for which the node has to compute a key and a signature, and resets as soon as the answer comes.
//! A quarter of the attackers stop there and keep the connection. The nodes require TLS of their
//! peers, whose connections must stay and come back meanwhile.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::case::{Case, Role, Target};
use super::super::wire;

/// Attackers at the same time.
const ATTACKERS: usize = 32;
/// One of so many stops within the handshake.
const STOPPING: usize = 4;
/// Bytes of the head of a record: the node's answer.
const HEAD_BYTES: usize = 5;
/// First byte of a record of the handshake.
const HANDSHAKE: u8 = 0x16;

pub(crate) const CASE: Case = Case {
    name: "handshake-flood",
    does: "begins TLS handshakes at the peer port as fast as it can, and finishes none",
    role: Role::Leader,
    encrypts_peers: true,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(ATTACKERS, begin_a_handshake).await
}

async fn begin_a_handshake(target: Target, n: usize) -> Result<()> {
    let mut stream = wire::connect(&target.peers).await?;
    wire::end_with_reset(&stream)?;
    stream.write_all(&client_hello()).await?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let is_answer = head[0] == HANDSHAKE;
    target.count(if is_answer { "handshakes begun" } else { "refusals" }, 1);
    match n.is_multiple_of(STOPPING) {
        true => wire::keep(stream).await,
        false => Ok(()),
    }
}

/// Returns the first message of a client of TLS 1.3: a record with a ClientHello.
fn client_hello() -> Vec<u8> {
    // Groups: x25519. Signatures: ECDSA, RSA-PSS and Ed25519. Versions: 1.3. Protocols: h2.
    let groups = extension(0x0a, &[0, 2, 0, 0x1d]);
    let signatures = extension(0x0d, &[0, 8, 4, 3, 5, 3, 8, 4, 8, 7]);
    let versions = extension(0x2b, &[2, 3, 4]);
    let protocols = extension(0x10, &[0, 3, 2, b'h', b'2']);
    // The base point of the curve is a valid key.
    let mut key = [0u8; 32];
    key[0] = 9;
    let key = extension(0x33, &[&[0u8, 36, 0, 0x1d, 0, 32][..], &key].concat());
    let extensions = [groups, signatures, versions, protocols, key].concat();
    // Version 1.2, as all clients say here; 32 random bytes; no session; AES-128-GCM; no
    // compression.
    let body = [&[3u8, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &with_length(&extensions)].concat();
    let message = [&[1u8, 0][..], &with_length(&body)].concat();
    [&[HANDSHAKE, 3, 1][..], &with_length(&message)].concat()
}

fn extension(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[0, kind][..], &with_length(content)].concat()
}

/// Returns the bytes behind their number, of two bytes.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a ClientHello is short").to_be_bytes();
    [&length[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_within_a_hello_fit_each_other() {
        let hello = client_hello();
        let length = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        assert_eq!((length(3), length(7)), (hello.len() - 5, hello.len() - 9));
        // Behind the version, the random bytes, the session, the suites and the compression.
        let extensions = 9 + 2 + 32 + 1 + 4 + 2;
        assert_eq!(length(extensions), hello.len() - extensions - 2);
    }
}
