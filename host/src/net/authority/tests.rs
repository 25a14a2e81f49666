//! A client that chooses its forms of HPACK and of frames at random. h2's server judges what
//! arrives.

mod client;

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::frames::{BLOCK_BYTES_MAX, Filter};
use super::*;
use client::{Call, Client, Dice, calls};

/// Returns the call that should arrive: the one sent, with another authority if that was bad.
fn as_expected(call: &Call) -> Call {
    let is_good = http::uri::Authority::try_from(&call.authority[..]).is_ok();
    let authority = if is_good { call.authority.clone() } else { vec![b'0'; call.authority.len().max(1)] };
    Call { authority, ..call.clone() }
}

/// Writes in pieces, until all is written and the other side closes.
///
/// Stops earlier if the other side has read enough.
async fn write(connection: DuplexStream, bytes: Vec<u8>, mut dice: Dice) {
    let (mut reading, mut writing) = tokio::io::split(connection);
    let writing = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(1 + dice.roll(200)));
            if writing.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
            rest = behind;
        }
    };
    let mut answers = Vec::new();
    let (read, ()) = tokio::join!(reading.read_to_end(&mut answers), writing);
    read.unwrap();
}

async fn received(
    mut request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
) -> Call {
    let mut body = Vec::new();
    while let Some(data) = request.body_mut().data().await {
        let data = data.unwrap();
        request.body_mut().flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let pairs = |headers: &http::HeaderMap| {
        let pair =
            |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
        headers.iter().map(pair).collect::<Vec<_>>()
    };
    let trailers = request.body_mut().trailers().await.unwrap().map(|trailers| pairs(&trailers));
    respond.send_response(http::Response::new(()), true).unwrap();
    let authority = request.uri().authority().map_or(Vec::new(), |authority| authority.as_str().as_bytes().to_vec());
    Call { path: request.uri().path().into(), authority, fields: pairs(request.headers()), body, trailers }
}

/// Returns the calls that h2's server reads from these bytes after the filter.
async fn served(bytes: Vec<u8>, calls: usize, dice: Dice) -> Vec<Call> {
    let (ours, theirs) = duplex(500);
    let writing = tokio::spawn(write(theirs, bytes, dice));
    let mut connection =
        h2::server::Builder::new().max_header_list_size(64 << 10).handshake(AnyAuthority::new(ours)).await.unwrap();
    let mut receiving = tokio::task::JoinSet::new();
    let mut arrived: Vec<Call> = Vec::new();
    while arrived.len() < calls {
        tokio::select! {
            Some(accepted) = connection.accept() => {
                let (request, respond) = accepted.unwrap();
                receiving.spawn(received(request, respond));
            }
            Some(call) = receiving.join_next(), if !receiving.is_empty() => arrived.push(call.unwrap()),
        }
    }
    drop(connection);
    writing.await.unwrap();
    arrived.sort_by(|a, b| a.path.cmp(&b.path));
    arrived
}

/// Returns all that comes out of the filter, for bytes that arrive in pieces.
async fn filtered(bytes: Vec<u8>, dice: Dice) -> Vec<u8> {
    let (ours, theirs) = duplex(500);
    let writing = tokio::spawn(write(theirs, bytes.clone(), dice));
    // Without a bad authority, no bytes are added or lost.
    let mut filter = AnyAuthority::new(ours);
    let mut out = Vec::new();
    while out.len() < bytes.len() {
        let mut piece = [0; 97];
        match filter.read(&mut piece).await.unwrap() {
            0 => break,
            read => out.extend_from_slice(&piece[..read]),
        }
    }
    drop(filter);
    writing.await.unwrap();
    out
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Far more than the test takes. A call that never arrives must not hang it.
    let patient = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(patient).expect("all calls arrive")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_call_arrives_by_whatever_name(calls in calls(0..client::AUTHORITIES.len()), seed in any::<u64>()) {
        let bytes = Client::new(seed).connection(&calls);
        let arrived = run(served(bytes, calls.len(), Dice::new(seed ^ 1)));
        let expected: Vec<Call> = calls.iter().map(as_expected).collect();
        prop_assert_eq!(arrived, expected);
    }

    #[test]
    fn a_good_client_is_not_touched(calls in calls(0..client::GOOD_AUTHORITIES), seed in any::<u64>()) {
        let bytes = Client::new(seed).connection(&calls);
        prop_assert_eq!(run(filtered(bytes.clone(), Dice::new(seed ^ 1))), bytes);
    }

    /// Bytes damaged at some places, or cut: no panic, no more kept than is allowed, and nothing
    /// held back at the end.
    #[test]
    fn damage_is_passed_on(calls in calls(0..client::AUTHORITIES.len()), seed in any::<u64>(), damages in 1..20_usize) {
        let mut bytes = Client::new(seed).connection(&calls);
        let mut dice = Dice::new(seed ^ 2);
        for _ in 0..damages {
            let at = client::PREFACE_BYTES + dice.roll(bytes.len() - client::PREFACE_BYTES);
            bytes[at] = dice.roll(256) as u8;
        }
        bytes.truncate(bytes.len() - dice.roll(bytes.len() / 2));
        let kept = feed(&mut Filter::new(), &bytes, &mut dice);
        prop_assert!(kept <= KEPT_BYTES_MAX, "{} bytes are kept", kept);
    }

    #[test]
    fn noise_is_passed_on(noise in prop::collection::vec(any::<u8>(), 0..2_000), seed in any::<u64>()) {
        prop_assert_eq!(run(filtered(noise.clone(), Dice::new(seed))), noise.clone());
        let bytes = [client::PREFACE, &noise].concat();
        feed(&mut Filter::new(), &bytes, &mut Dice::new(seed));
    }
}

/// A block held back and as much that is ready, each with the spare capacity of a growing vector.
const KEPT_BYTES_MAX: usize = 2 * 2 * (BLOCK_BYTES_MAX + PIECE_BYTES_MAX);

const PIECE_BYTES_MAX: usize = 20_000;

/// Feeds bytes in pieces. Returns the most bytes that were kept.
fn feed(filter: &mut Filter, bytes: &[u8], dice: &mut Dice) -> usize {
    let (mut kept, mut rest) = (0, bytes);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(1 + dice.roll(PIECE_BYTES_MAX)));
        filter.look(piece);
        kept = kept.max(filter.kept_bytes());
        while filter.take(&mut ReadBuf::new(&mut [0; 1_000])) {}
        rest = behind;
    }
    filter.end();
    while filter.take(&mut ReadBuf::new(&mut [0; 1_000])) {}
    assert_eq!(filter.kept_bytes(), 0);
    kept
}

#[test]
fn no_block_is_held_back_without_a_bound() {
    let headers = |payload: u32| [&payload.to_be_bytes()[1..], &[1, 0, 0, 0, 0, 1]].concat();
    let continuation = |payload: usize| {
        let head = [&(payload as u32).to_be_bytes()[1..], &[9, 0, 0, 0, 0, 1]].concat();
        [head, vec![0x82; payload]].concat()
    };
    let floods = [
        [headers(0), continuation(16_384).repeat(200)].concat(),
        [headers(0), continuation(0).repeat(100_000)].concat(),
        [headers(16 << 20 | 1), vec![0x82; 3 << 20]].concat(),
        // A block of the largest size that does not end.
        [headers(0), continuation(16_384).repeat(8)].concat(),
    ];
    for flood in floods {
        let bytes = [client::PREFACE, &flood].concat();
        let kept = feed(&mut Filter::new(), &bytes, &mut Dice::new(7));
        assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes are kept");
    }
}

/// An empty authority that is indexed grows: by one byte of its own and two before it.
#[test]
fn a_block_of_nothing_but_bad_authorities_has_a_bound() {
    let head = [0, 0x40, 0, 1, 0x5, 0, 0, 0, 1];
    let bytes = [client::PREFACE, &head, &[0x81; 0x4000]].concat();
    let mut filter = Filter::new();
    let passed = filter.look(&bytes);
    assert_eq!(passed, client::PREFACE.len());
    let mut out = vec![0; 1 << 20];
    let mut buffer = ReadBuf::new(&mut out);
    assert!(filter.take(&mut buffer));
    assert_eq!(buffer.filled().len(), 3 * 0x4000 + 4 * 9, "in four frames, none of them too large");
}
