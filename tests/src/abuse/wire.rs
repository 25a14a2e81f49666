//! What attackers write to sockets: plain bytes, HTTP/2 frames by hand, and gRPC calls whose bodies
//! and windows are the attacker's own business. It attacks nobody by itself.
//!
//! [`Frames`] is for frames that no library sends and for clients that read nothing. [`Caller`] is
//! for calls that follow the rules of HTTP/2, so that only their content or their number hurts.

use std::future::Future;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tonic::codegen::{Bytes, http};

use super::case::Target;
pub(crate) use crate::frames::{END_HEADERS, END_STREAM, Frames, HEADERS, PING, RST_STREAM, SETTINGS, call, frame};

/// Bytes before each message in gRPC: a flag, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;
/// First byte of a compressed message in gRPC.
const COMPRESSED: u8 = 1;
/// What an HTTP/2 client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame type: more of the headers of the frame before.
pub(crate) const CONTINUATION: u8 = 9;
/// Largest payload of a frame that every peer must take.
pub(crate) const PAYLOAD_BYTES: usize = 16 << 10;

/// Where the attacker comes from: not from the address of the honest clients and of the peers,
/// because nodes limit what one address may have.
const SOURCE: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 2), 0);
/// Pause of a silent client before it comes again.
const MOMENT: Duration = Duration::from_secs(1);
/// Size of the receive buffer of a client that does not read.
const RECEIVE_BYTES: u32 = 4 << 10;

/// Connects to a port, from the attacker's own address.
pub(crate) async fn connect(address: &str) -> Result<TcpStream> {
    let stream = socket()?.connect(address.parse()?).await.context("connecting")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn socket() -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // A port whose last connection has only just ended is as good as any.
    socket.set_reuseaddr(true)?;
    socket.bind(SOURCE.into()).context("the attacker's own address")?;
    Ok(socket)
}

/// Connects and speaks HTTP/2.
pub(crate) async fn connect_http2(address: &str) -> Result<Frames> {
    speak_http2(connect(address).await?, &[]).await
}

/// Makes the end of a connection a reset. The system then keeps nothing of it, and an attacker that
/// connects all the time does not run out of ports.
pub(crate) fn end_with_reset(stream: &TcpStream) -> Result<()> {
    Ok(SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

/// Keeps a connection that has nothing more to say until the node closes it.
/// Then it waits a moment, because a silent client is in no hurry.
pub(crate) async fn keep(mut stream: TcpStream) -> Result<()> {
    end_with_reset(&stream)?;
    // A reset ends it as well.
    drop(read_all(&mut stream).await);
    sleep(MOMENT).await;
    Ok(())
}

/// Connects with a small receive buffer, so that what the node sends soon waits in the node.
pub(crate) async fn connect_with_small_buffer(address: &str) -> Result<TcpStream> {
    let socket = socket()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.connect(address.parse()?).await.context("connecting")
}

/// Speaks HTTP/2 on a connection: the preface, and SETTINGS with these values.
pub(crate) async fn speak_http2(mut io: TcpStream, settings: &[(u16, u32)]) -> Result<Frames> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    io.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await?;
    Ok(Frames { io })
}

/// Setting: how much of each response the other side may send at once.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Writes the same bytes until the attack is over, and counts `each` deeds for each time.
///
/// It waits while the node does not read.
pub(crate) async fn write_again_and_again(
    target: &Target,
    io: &mut (impl AsyncWriteExt + Unpin),
    bytes: &[u8],
    what: &'static str,
    each: usize,
) -> Result<()> {
    while target.goes_on() {
        io.write_all(bytes).await?;
        target.count(what, each);
    }
    Ok(())
}

/// Reads and forgets everything, until the other side closes.
pub(crate) async fn read_all(io: &mut (impl AsyncReadExt + Unpin)) -> Result<()> {
    tokio::io::copy(io, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Encodes a text of HPACK: its length, then the text without Huffman code.
fn hpack_text(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut rest = text.len();
    if rest < 127 {
        encoded.push(rest as u8);
    } else {
        encoded.push(127);
        rest -= 127;
        while rest >= 128 {
            encoded.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        encoded.push(rest as u8);
    }
    encoded.extend(text);
    encoded
}

/// Encodes a header that the receiver adds to its table.
pub(crate) fn indexed_header(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0x40], hpack_text(name.as_bytes()), hpack_text(value)].concat()
}

/// Encodes the headers that every gRPC call has.
pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    let plain = |name: &str, value: &str| [vec![0], hpack_text(name.as_bytes()), hpack_text(value.as_bytes())].concat();
    // POST and http are in the static table.
    [
        vec![0x83, 0x86],
        plain(":path", path),
        plain(":authority", "node"),
        plain("content-type", "application/grpc"),
        plain("te", "trailers"),
    ]
    .concat()
}

/// Splits a block of headers into a HEADERS frame and its CONTINUATION frames.
pub(crate) fn header_frames(stream: u32, block: &[u8], flags: u8) -> Vec<u8> {
    let pieces: Vec<&[u8]> = block.chunks(PAYLOAD_BYTES).collect();
    let last = pieces.len() - 1;
    let end = |n: usize| if n == last { END_HEADERS } else { 0 };
    let encode = |(n, piece): (usize, &&[u8])| match n {
        0 => frame(HEADERS, flags | end(0), stream, piece),
        _ => frame(CONTINUATION, end(n), stream, piece),
    };
    pieces.iter().enumerate().flat_map(encode).collect()
}

/// Frames a message as gRPC does, with the length that it has.
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    announced(bytes.len(), bytes)
}

/// Frames the beginning of a message whose length is announced as `length`.
pub(crate) fn announced(length: usize, bytes: &[u8]) -> Bytes {
    let length = u32::try_from(length).expect("gRPC has lengths of four bytes").to_be_bytes();
    [&[0], &length[..], bytes].concat().into()
}

/// Frames a message that is compressed with gzip.
pub(crate) fn gzipped(bytes: &[u8]) -> Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    let compressed = encoder.finish()?;
    let length = u32::try_from(compressed.len())?.to_be_bytes();
    Ok([&[COMPRESSED], &length[..], &compressed].concat().into())
}

/// Appends an unknown field with `bytes` zeros to an encoded message.
pub(crate) fn padded(mut encoded: Vec<u8>, bytes: usize) -> Vec<u8> {
    // Its number, with wire type 2: bytes.
    const TAG: usize = 1000 << 3 | 2;
    for mut rest in [TAG, bytes] {
        while rest >= 128 {
            encoded.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        encoded.push(rest as u8);
    }
    encoded.resize(encoded.len() + bytes, 0);
    encoded
}

/// A call of which the node waits for more: its answer, and where its body goes.
pub(crate) type Open = (ResponseFuture, SendStream<Bytes>);

/// One connection that follows the rules of HTTP/2.
#[derive(Clone)]
pub(crate) struct Caller {
    target: Target,
    send: SendRequest<Bytes>,
    /// Ends with the last clone.
    _connection: Arc<Connection>,
}

struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Caller {
    /// Connects to a port, with windows so large that a node never waits for the attacker.
    pub(crate) async fn connect(target: &Target, port: &str) -> Result<Caller> {
        Caller::connect_with_window(target, port, 16 << 20).await
    }

    /// Connects to a port that may send so many bytes of each answer before the attacker reads.
    pub(crate) async fn connect_with_window(target: &Target, port: &str, bytes: u32) -> Result<Caller> {
        let mut builder = Builder::new();
        builder.initial_window_size(bytes).initial_connection_window_size(256 << 20);
        let (send, connection) = builder.handshake(connect(port).await?).await.context("the handshake")?;
        // Its error is that of the calls.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Caller { target: target.clone(), send, _connection: Arc::new(Connection(connection)) })
    }

    /// Opens a call. The caller sends the body, or never does.
    pub(crate) async fn open(&self, path: &str) -> Result<Open> {
        self.send(request(path).body(())?).await
    }

    /// Opens a call that may take so long, in the words of `grpc-timeout`.
    pub(crate) async fn open_for(&self, path: &str, timeout: &str) -> Result<Open> {
        self.send(request(path).header("grpc-timeout", timeout).body(())?).await
    }

    /// Opens a call to a peer with this encoded route in its metadata.
    pub(crate) async fn open_routed(&self, path: &str, route: &[u8]) -> Result<Open> {
        self.send(request(path).header("lockstep-route-bin", STANDARD_NO_PAD.encode(route)).body(())?).await
    }

    /// Opens a call and sends its whole body.
    pub(crate) async fn begin(&self, path: &str, body: Bytes) -> Result<ResponseFuture> {
        let mut request = request(path);
        if body.first() == Some(&COMPRESSED) {
            request = request.header("grpc-encoding", "gzip");
        }
        let (response, mut sending) = self.send(request.body(())?).await?;
        sending.send_data(body, true)?;
        Ok(response)
    }

    /// Makes a call with this body, and reads and forgets all that comes.
    pub(crate) async fn call(&self, path: &str, body: Bytes) -> Result<()> {
        self.end(self.begin(path, body).await?).await
    }

    /// Makes a call, and returns the message that answers it.
    pub(crate) async fn ask(&self, path: &str, body: Bytes) -> Result<Bytes> {
        let mut answer = Vec::new();
        self.read(self.begin(path, body).await?, |_, piece| answer.extend_from_slice(piece)).await?;
        ensure!(answer.len() >= MESSAGE_HEAD_BYTES, "no answer from {path}");
        Ok(answer.split_off(MESSAGE_HEAD_BYTES).into())
    }

    /// Makes a call with a bearer token.
    pub(crate) async fn call_as(&self, token: &str, path: &str, body: Bytes) -> Result<()> {
        let request = request(path).header("authorization", format!("Bearer {token}")).body(())?;
        let (response, mut sending) = self.send(request).await?;
        sending.send_data(body, true)?;
        self.end(response).await
    }

    /// Waits for the end of a call, and counts whether it was an answer or a refusal.
    pub(crate) async fn end(&self, response: ResponseFuture) -> Result<()> {
        self.read(response, |_, _| ()).await
    }

    /// Does the same, and hands each piece of the answer to `take`.
    pub(crate) async fn read(
        &self,
        response: ResponseFuture,
        mut take: impl FnMut(&Target, &[u8]) + Send,
    ) -> Result<()> {
        let (head, mut body) = response.await?.into_parts();
        while let Some(data) = body.data().await {
            let data = data?;
            take(&self.target, &data);
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        self.count(is_refusal(&head.headers) || is_refusal(&trailers));
        Ok(())
    }

    /// Keeps calls open until the node has ended them, and fails with the first that fails.
    pub(crate) async fn keep_open(&self, calls: Vec<Open>) -> Result<()> {
        let keep = |(response, sending): Open| {
            let caller = self.clone();
            async move {
                let ended = caller.end(response).await;
                drop(sending);
                ended
            }
        };
        all(calls.into_iter().map(keep)).await
    }

    /// Waits for the beginning of a stream of answers, and counts whether it is a refusal.
    pub(crate) async fn beginning(&self, response: ResponseFuture) -> Result<RecvStream> {
        let (head, body) = response.await?.into_parts();
        self.count(is_refusal(&head.headers));
        Ok(body)
    }

    fn count(&self, is_refusal: bool) {
        self.target.count(if is_refusal { "refusals" } else { "answers" }, 1);
    }

    async fn send(&self, request: http::Request<()>) -> Result<Open> {
        let mut send = self.send.clone().ready().await.context("a place for a call")?;
        Ok(send.send_request(request, false)?)
    }
}

/// Returns the head of a gRPC call.
fn request(path: &str) -> http::request::Builder {
    http::Request::post(format!("http://node{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Does several things at the same time. The first failure ends all of them.
pub(crate) async fn all<W>(works: impl Iterator<Item = W>) -> Result<()>
where
    W: Future<Output = Result<()>> + Send + 'static,
{
    let mut open: JoinSet<Result<()>> = works.collect();
    while let Some(ended) = open.join_next().await {
        ended??;
    }
    Ok(())
}

fn is_refusal(headers: &http::HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status != "0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use prost::Message;

    use super::*;
    use crate::pb::WatchRequest;

    #[test]
    fn a_padded_message_is_still_that_message() {
        let watch = WatchRequest { key: "k".into(), ..WatchRequest::default() };
        let encoded = padded(watch.encode_to_vec(), 100_000);
        assert!(encoded.len() > 100_000);
        assert_eq!(WatchRequest::decode(&encoded[..]).unwrap(), watch);
    }

    #[test]
    fn a_megabyte_of_zeros_is_little_on_the_wire() {
        let framed = gzipped(&[0; 1 << 20]).unwrap();
        assert!(framed[0] == 1 && framed.len() < 4096, "{}", framed.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&framed[5..]).read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 1 << 20);
    }

    #[test]
    fn long_texts_have_long_lengths() {
        assert_eq!(hpack_text(b"ab"), b"\x02ab");
        // RFC 7541, C.1.2: 1337 with a prefix of five bits is 31, 154, 10. With seven it is
        // 127, then 1210.
        assert_eq!(hpack_text(&[b'a'; 1337])[..3], [127, 186, 9]);
    }

    #[test]
    fn long_headers_are_split() {
        let frames = header_frames(1, &[7; PAYLOAD_BYTES + 1], END_STREAM);
        assert_eq!(frames.len(), PAYLOAD_BYTES + 1 + 18);
        assert_eq!((frames[3], frames[4]), (HEADERS, END_STREAM));
        let second = &frames[9 + PAYLOAD_BYTES..];
        assert_eq!((second[3], second[4], second[9]), (CONTINUATION, END_HEADERS, 7));
    }
}
