//! An HTTP/2 client that writes its frames by hand, for requests that no library sends. It
//! interprets only as much of the responses as the tests need.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Frame type: the content of a request or a response.
pub const DATA: u8 = 0;
/// Frame type: the headers of a request or a response, or its trailers.
pub const HEADERS: u8 = 1;
/// Frame type: one side ends a stream.
pub const RST_STREAM: u8 = 3;
/// Frame type: settings that a side expects of the other.
pub const SETTINGS: u8 = 4;
/// Frame type: asks for a sign of life, or is one.
pub const PING: u8 = 6;
/// Frame type: the end of a connection, with its reason.
pub const GOAWAY: u8 = 7;

/// Flag: the last frame of its stream. In SETTINGS and PING: an acknowledgement.
pub const END_STREAM: u8 = 1;
/// Flag: this frame contains all headers.
pub const END_HEADERS: u8 = 4;

/// Returns the bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the frames of a unary gRPC call: its headers and its message.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    // POST and http are in the static table. The other fields are written out.
    fields.extend([0x83, 0x86]);
    for (name, value) in
        [(":path", path), (":authority", "node"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        fields.push(0);
        for text in [name, value] {
            fields.push(u8::try_from(text.len()).expect("a short text"));
            fields.extend(text.as_bytes());
        }
    }
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    [frame(HEADERS, END_HEADERS, stream, &fields), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// A frame that was received.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Type of the frame.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream of the frame; 0 for the connection.
    pub stream: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

/// One connection.
pub struct Frames {
    /// The connection, for bytes of any kind.
    pub io: TcpStream,
}

impl Frames {
    /// Connects, and sends the preface and SETTINGS.
    pub async fn connect(address: &str) -> Result<Frames> {
        Frames::over(TcpStream::connect(address).await?).await
    }

    /// Sends the preface and SETTINGS over a connection.
    pub async fn over(mut io: TcpStream) -> Result<Frames> {
        io.set_nodelay(true)?;
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        Ok(Frames { io })
    }

    /// Reads the next frame.
    pub async fn next(&mut self) -> Result<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.io.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads until a stream ends and returns whether it had a message.
    /// Fails if the connection ends.
    pub async fn answer(&mut self, stream: u32) -> Result<bool> {
        let mut has_message = false;
        let answer = async {
            loop {
                let frame = self.next().await.context("the connection ended")?;
                match frame.kind {
                    GOAWAY => bail!("GOAWAY: {}", String::from_utf8_lossy(&frame.payload[8..])),
                    DATA if frame.stream == stream => has_message |= !frame.payload.is_empty(),
                    HEADERS if frame.stream == stream && frame.flags & END_STREAM != 0 => return Ok(has_message),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.context("no answer")?
    }
}
