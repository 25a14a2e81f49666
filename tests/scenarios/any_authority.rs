//! A client may use any name for the cluster as the authority of a call: all addresses in one, the
//! path of a socket, or nothing. The HTTP/2 library of the node accepts URI authorities only and
//! would reset every other call.

use anyhow::Result;
use lockstep_tests::pb::{AddRequest, AddResponse, GetRequest, GetResponse, WatchRequest, WatchResponse};
use lockstep_tests::{RawHttp2, formed, literal};

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Encodes `:method: POST`, `:scheme: http` and the path of a call. The authority and the other
/// fields follow.
fn block(path: &str) -> Vec<u8> {
    [b"\x83\x86".to_vec(), literal(":path", path.as_bytes())].concat()
}

fn rest() -> Vec<u8> {
    [literal("content-type", b"application/grpc"), literal("te", b"trailers")].concat()
}

/// The messages of grpc.health.v1.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Serving {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[tokio::test]
async fn a_call_arrives_by_whatever_name() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let names: [&[u8]; 8] = [
        b"localhost:40051",
        b"127.0.0.1:40051,127.0.0.1:40052,127.0.0.1:40053",
        b"localhost:40051,localhost:40052",
        b"[::1]:40051,[::1]:40052",
        b"/var/run/lockstep.sock",
        b"127.0.0.1%3A40051%2C127.0.0.1%3A40052",
        b"\xc3\xbc \xff",
        b"",
    ];
    // All names on one connection, as behind a proxy, and each name on a connection of its own.
    let mut shared = RawHttp2::connect(&cluster.nodes[0].grpc_addr()).await?;
    for (nth, name) in (0..).zip(names) {
        let mut own = RawHttp2::connect(&cluster.nodes[0].grpc_addr()).await?;
        for (raw, stream) in [(&mut own, 1), (&mut shared, 2 * nth + 1)] {
            let fields = [block("/Example/Add"), literal(":authority", name), rest()].concat();
            raw.frame(HEADERS, END_HEADERS, stream, &fields).await?;
            raw.send(stream, &AddRequest { key: "name".into(), val: format!("{nth} {stream}") }).await?;
            assert!(raw.message::<AddResponse>(stream).await?.commit_index > 0, "{}", name.escape_ascii());
            assert_eq!(cluster.get(0, "name", true).await?, format!("{nth} {stream}"));
        }
    }
    Ok(())
}

/// After the first call the authority of a channel is in the table of its connection. Later calls
/// refer to it by index.
#[tokio::test]
async fn streams_share_a_table_and_frames_come_in_any_shape() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "a", "1").await?;
    let mut raw = RawHttp2::connect(&cluster.nodes[0].grpc_addr()).await?;
    // The table, newest entry first: te 62, content-type 63, authority 64, path 65.
    let name = b"127.0.0.1:40051,127.0.0.1:40052,127.0.0.1:40053";
    let fields = [block("/Example/Watch"), literal(":authority", name), rest()].concat();
    let (first, behind) = fields.split_at(40);
    raw.frame(HEADERS, PADDED, 1, &[&[7], first, &[0; 7]].concat()).await?;
    raw.frame(CONTINUATION, 0, 1, &behind[..9]).await?;
    raw.frame(CONTINUATION, END_HEADERS, 1, &behind[9..]).await?;
    raw.send(1, &WatchRequest { key: "a".into(), ..WatchRequest::default() }).await?;
    assert_eq!(raw.message::<WatchResponse>(1).await?.value, "1");

    // With a path that is not added to the table, and all other fields by index.
    let by_index = |path: &str| [&b"\x83\x86\x04"[..], &[path.len() as u8], path.as_bytes(), b"\xc0\xbf\xbe"].concat();
    raw.frame(HEADERS, END_HEADERS, 3, &by_index("/grpc.health.v1.Health/Watch")).await?;
    raw.send(3, &Health { service: "Example".into() }).await?;
    assert_eq!(raw.message::<Serving>(3).await?.status, 1);
    raw.frame(HEADERS, END_HEADERS, 5, &by_index("/Example/Get")).await?;
    raw.send(5, &GetRequest { key: "a".into(), linearizable: true }).await?;
    assert_eq!(raw.message::<GetResponse>(5).await?.value, "1");
    cluster.add(0, "a", "2").await?;
    assert_eq!(raw.message::<WatchResponse>(1).await?.value, "2", "the watch goes on");
    Ok(())
}
