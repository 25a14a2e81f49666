//! A client of HTTP/2 that writes its frames by hand, for what no library sends. Understands only as much of the answers as a test asks for.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Kinds of frames.
pub const DATA: u8 = 0;
/// The head of a request, a reply, or its trailers.
pub const HEADERS: u8 = 1;
/// The end of a stream by one side alone.
pub const RST_STREAM: u8 = 3;
/// What a side expects of the other.
pub const SETTINGS: u8 = 4;
/// Asks for, or is, a sign of life.
pub const PING: u8 = 6;
/// The end of a connection, with its reason.
pub const GOAWAY: u8 = 7;

/// The last frame of its stream, or an answer to SETTINGS or PING.
pub const END_STREAM: u8 = 1;
/// All headers are in this frame.
pub const END_HEADERS: u8 = 4;

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A unary call of gRPC: its headers and its message.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    // POST and http are in the static table; the rest is written out.
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

/// A frame that arrived.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// Bits about it.
    pub flags: u8,
    /// Whose it is; 0: the connection's.
    pub stream: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// One connection.
pub struct Frames {
    /// For bytes of any kind.
    pub io: TcpStream,
}

impl Frames {
    /// Connects, and sends the preface and SETTINGS.
    pub async fn connect(address: &str) -> Result<Frames> {
        let mut io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        Ok(Frames { io })
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.io.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads on until a stream ends, and says whether with a message. The end of the connection is an error.
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
