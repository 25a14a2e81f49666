//! What the readers of a client's connection promise, for the fuzz targets: what they pass on does
//! not depend on how the bytes arrive, and what they have corrected they leave alone. Opens no
//! socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, HeaderValue, Method, Version, header};
use tokio::io::{AsyncRead, ReadBuf};

use super::authority::AnyAuthority;
use super::frames::Frames;
use super::media;
use super::preface::{Preface, Spoken};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first SETTINGS of a client, without a setting.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const END_HEADERS: u8 = 4;

/// Reads a connection. The first byte says how much of it is made to be HTTP/2, and the second one
/// in which pieces it arrives.
pub fn connection(bytes: &[u8]) {
    let Some((&[kind, pieces], rest)) = bytes.split_first_chunk::<2>() else { return };
    let sent = match kind {
        0 => rest.to_vec(),
        1 => [PREFACE, rest].concat(),
        2 => [PREFACE, SETTINGS, &blocks(rest)].concat(),
        3 => {
            content_type(rest);
            return;
        }
        _ => return,
    };
    let size = 1 + usize::from(pieces) * 3;
    let passed = filtered(&sent, usize::MAX);
    assert!(passed == filtered(&sent, size), "in pieces of {size} other bytes are passed on");
    assert!(passed == filtered(&passed, usize::MAX), "what was corrected is corrected again");
    assert!(passed.len() <= 8 * sent.len() + 64, "{} bytes of {}", passed.len(), sent.len());
    assert_eq!(spoken(&sent, size), spoken(&sent, usize::MAX), "in pieces of {size}");
    assert_eq!(frames(rest, size), frames(rest, usize::MAX), "in pieces of {size}");
}

/// Makes a frame of each block of header fields: two bytes of length, the block.
fn blocks(mut rest: &[u8]) -> Vec<u8> {
    let (mut frames, mut stream) = (Vec::new(), 1_u32);
    while let Some((&[high, low], behind)) = rest.split_first_chunk::<2>() {
        let length = behind.len().min(usize::from(u16::from_be_bytes([high, low])));
        let (block, behind) = behind.split_at(length);
        frames.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
        frames.extend_from_slice(&[1, END_HEADERS]);
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(block);
        (rest, stream) = (behind, stream + 2);
    }
    frames
}

fn content_type(bytes: &[u8]) -> Option<()> {
    let mut headers = HeaderMap::new();
    for value in bytes.split(|byte| *byte == b'\n') {
        headers.append(header::CONTENT_TYPE, HeaderValue::from_bytes(value).ok()?);
    }
    let (_, words) = media::refusal(&Method::POST, Version::HTTP_2, &headers)?;
    assert!(words.len() < 2048 && words.is_ascii(), "{words}");
    Some(())
}

/// Returns what the server reads when the bytes arrive in pieces of a size.
fn filtered(sent: &[u8], size: usize) -> Vec<u8> {
    let mut connection = AnyAuthority::new(Pieces { rest: sent, size });
    let mut context = Context::from_waker(Waker::noop());
    let (mut passed, mut room) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let mut buffer = ReadBuf::new(&mut room);
        let read = Pin::new(&mut connection).poll_read(&mut context, &mut buffer);
        assert!(matches!(read, Poll::Ready(Ok(()))), "bytes in memory can be read");
        if buffer.filled().is_empty() {
            return passed;
        }
        passed.extend_from_slice(buffer.filled());
    }
}

/// Bytes that arrive in pieces of a size.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.rest.len().min(self.size).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(length);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// Returns which HTTP the preface shows, and whether it looked like HTTP/2 while it was open.
fn spoken(sent: &[u8], size: usize) -> (Option<u8>, bool) {
    let mut preface = Preface::default();
    for piece in sent.chunks(size.min(sent.len().max(1))) {
        match preface.pass(piece, |_| {}) {
            None => {}
            Some(Spoken::Http1) => return (Some(1), false),
            Some(Spoken::Http2(_)) => return (Some(2), true),
        }
    }
    (None, preface.is_http2())
}

fn frames(sent: &[u8], size: usize) -> Vec<(u8, u8)> {
    let (mut frames, mut seen) = (Frames::default(), Vec::new());
    for piece in sent.chunks(size.min(sent.len().max(1))) {
        frames.pass(piece, |head| seen.push((head.kind, head.flags)));
    }
    seen
}
