//! Tells a connection in plain text, in its own protocol, that the port speaks TLS: with GOAWAY in
//! HTTP/2, with a status in HTTP/1. Anything else is closed without a word. Reads no request.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An empty SETTINGS frame, which a server sends first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Kind of a GOAWAY frame.
const GOAWAY: u8 = 7;
/// Error code of that frame: the connection must be encrypted.
const INADEQUATE_SECURITY: u8 = 12;

/// Sends `text` and closes the connection. The caller bounds the time.
pub(super) async fn tell(mut io: impl AsyncRead + AsyncWrite + Unpin, text: &str) {
    if let Err(error) = answer(&mut io, text).await {
        tracing::debug!(%error, "a connection did not wait for the sentence about TLS");
    }
}

async fn answer(io: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    let mut first = [0; 4];
    io.read_exact(&mut first).await?;
    match &first {
        b"PRI " => io.write_all(&goaway(text)).await?,
        other if other.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b' ' | b'/')) => {
            io.write_all(bad_request(text).as_bytes()).await?;
        }
        _ => return Ok(()),
    }
    io.shutdown().await?;
    // Unread bytes would reset the connection, and the reason would be lost.
    tokio::io::copy(io, &mut tokio::io::sink()).await.map(drop)
}

fn goaway(text: &str) -> Vec<u8> {
    let length = u8::try_from(8 + text.len()).expect("a reason is a short sentence");
    let head = [0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
    // No stream was processed.
    let payload = [0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY];
    [&SETTINGS[..], &head, &payload, text.as_bytes()].concat()
}

fn bad_request(text: &str) -> String {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}\n"
    )
}
