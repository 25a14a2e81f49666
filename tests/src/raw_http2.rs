//! HTTP/2 by hand, for calls that no client library of Rust sends. It writes the frames that it is
//! given and reads messages. It ignores the headers of a response.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// A connection on which a test opens calls with its own frames.
pub struct RawHttp2 {
    connection: TcpStream,
    /// Bytes that were received for each stream and not yet read.
    arrived: HashMap<u32, Vec<u8>>,
}

/// Encodes a header field in HPACK without index and Huffman code. The receiver adds it to its
/// table.
pub fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127, "lengths of one byte");
    [&[0x40, name.len() as u8], name.as_bytes(), &[value.len() as u8], value].concat()
}

impl RawHttp2 {
    /// Connects and sends empty SETTINGS.
    pub async fn connect(address: &str) -> Result<RawHttp2> {
        let connection = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        let mut raw = RawHttp2 { connection, arrived: HashMap::new() };
        raw.connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        raw.frame(SETTINGS, 0, 0, &[]).await?;
        Ok(raw)
    }

    /// Sends one frame.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let head = [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        Ok(self.connection.write_all(&[&head, payload].concat()).await?)
    }

    /// Sends the only message of a call whose headers were sent.
    pub async fn send(&mut self, stream: u32, message: &impl prost::Message) -> Result<()> {
        let message = message.encode_to_vec();
        let framed = [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat();
        self.frame(DATA, END_STREAM, stream, &framed).await
    }

    /// Reads the next message of a response.
    pub async fn message<M: prost::Message + Default>(&mut self, stream: u32) -> Result<M> {
        loop {
            let arrived = self.arrived.entry(stream).or_default();
            if let Some(head) = arrived.first_chunk::<5>() {
                let length = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if arrived.len() >= length {
                    let message: Vec<u8> = arrived.drain(..length).collect();
                    return Ok(M::decode(&message[5..])?);
                }
            }
            timeout(PATIENCE, self.read(stream)).await.with_context(|| format!("no answer on stream {stream}"))??;
        }
    }

    /// Reads one frame while the response on stream `waiting` is expected.
    async fn read(&mut self, waiting: u32) -> Result<()> {
        let mut head = [0; 9];
        self.connection.read_exact(&mut head).await.context("the connection ended")?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let (length, stream) = (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes(stream));
        let mut payload = vec![0; length as usize];
        self.connection.read_exact(&mut payload).await?;
        match kind {
            DATA => self.arrived.entry(stream).or_default().extend(payload),
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { &payload[..] } else { &[] };
                self.frame(kind, ACK, 0, echo).await?;
            }
            RST_STREAM | GOAWAY => bail!("frame {kind} on stream {stream}: {}", payload.escape_ascii()),
            _ => ensure!(stream != waiting || flags & END_STREAM == 0, "the answer ended without a message"),
        }
        Ok(())
    }
}
