//! Tells a connection in its own protocol why it is closed before it was served: with GOAWAY in
//! HTTP/2, with a status in HTTP/1. Reads only enough to know which of the two it is. Serves
//! nothing.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest time that a connection may take to show its protocol, to receive the reason, and to
/// close.
const PATIENCE: Duration = Duration::from_millis(500);

/// An empty SETTINGS frame, which a server sends first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// First byte of a connection that speaks TLS.
const HANDSHAKE: u8 = 0x16;
/// An alert of TLS that ends a connection: internal_error.
const INTERNAL_ERROR: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 80];

/// Kind of a GOAWAY frame.
const GOAWAY: u8 = 7;
/// Error code of that frame: the other side asks for more than it can get.
const ENHANCE_YOUR_CALM: u8 = 11;

/// Sends `text` and closes the connection.
pub(super) async fn tell(mut io: impl AsyncRead + AsyncWrite + Unpin, text: &str) {
    // A client that does not wait for the reason does not need it.
    let _out_of_time = tokio::time::timeout(PATIENCE, answer(&mut io, text)).await;
}

async fn answer(io: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    let mut first = [0; 4];
    io.read_exact(&mut first).await?;
    let words = match &first {
        // There is no room for words before a handshake.
        [HANDSHAKE, ..] => INTERNAL_ERROR.to_vec(),
        b"PRI " => [&SETTINGS[..], &goaway(0, text)].concat(),
        _ => unavailable(text),
    };
    io.write_all(&words).await?;
    io.shutdown().await?;
    // Unread bytes would reset the connection, and the reason would be lost.
    tokio::io::copy(io, &mut tokio::io::sink()).await.map(drop)
}

/// Encodes the end of a connection of HTTP/2. A client may try each call elsewhere whose stream is
/// beyond `last_stream`, because it was not processed.
pub(super) fn goaway(last_stream: u32, text: &str) -> Vec<u8> {
    let length = u8::try_from(8 + text.len()).expect("a reason is a short sentence");
    let head = [0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
    [&head, &last_stream.to_be_bytes()[..], &[0, 0, 0, ENHANCE_YOUR_CALM], text.as_bytes()].concat()
}

fn unavailable(text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn told(first: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1024);
        let telling = tokio::spawn(async move { tell(server, "all are in use").await });
        client.write_all(first).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        drop(client);
        telling.await.unwrap();
        heard
    }

    #[tokio::test]
    async fn each_protocol_has_its_words() {
        let heard = told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert!(heard.starts_with(&SETTINGS) && heard[9 + 3] == GOAWAY && heard.ends_with(b"all are in use"));
        assert_eq!(told(&[HANDSHAKE, 3, 1, 0, 0]).await, INTERNAL_ERROR);
        let heard = String::from_utf8(told(b"GET / HTTP/1.1\r\n\r\n").await).unwrap();
        assert!(heard.starts_with("HTTP/1.1 503 ") && heard.ends_with("all are in use\n"), "{heard}");
    }
}
