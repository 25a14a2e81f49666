//! A status at all its limits stays below the 8 KiB of trailers that standard clients accept. With
//! a larger one they would report another code and drop the outcome of the command.

use anyhow::{Context, Result, ensure};
use lockstep_tests::statics_pb::{Request, statics_client::StaticsClient};
use lockstep_tests::{Cluster, Options, statics_wasm};
use tonic::{Code, Status};

/// Most bytes of trailers that clients in C++, Python and Java accept.
const TRAILERS_BYTES_MAX: usize = 8 << 10;

/// Returns the size of a field as HTTP/2 counts it.
fn field_bytes(name: &str, value: usize) -> usize {
    name.len() + value + 32
}

/// Returns the bytes of trailers of a status. Its text consists of letters of two bytes, which are
/// six bytes when encoded.
fn bytes(status: &Status) -> usize {
    let metadata: usize = status
        .metadata()
        .clone()
        .into_headers()
        .iter()
        .map(|(name, value)| field_bytes(name.as_str(), value.len()))
        .sum();
    let text = field_bytes("grpc-message", status.message().len() * 3);
    let details = field_bytes("grpc-status-details-bin", status.details().len() * 4 / 3);
    metadata + text + if status.details().is_empty() { 0 } else { details } + field_bytes("grpc-status", 2)
}

fn value<'a>(status: &'a Status, key: &str) -> &'a str {
    status.metadata().get(key).map_or("", |value| value.to_str().unwrap_or("not text"))
}

#[tokio::test]
async fn a_status_fits_and_says_what_it_lost() -> Result<()> {
    // The longest possible node name and the longest message of the guest at the same time.
    let leader = format!("{}:40051", ["n".repeat(63), "n".repeat(63), "n".repeat(63), "n".repeat(61)].join("."));
    let mut cluster = Cluster::new()?;
    let options = Options::member().with(&[&format!("--grpc_advertise_addr={leader}")]);
    cluster.form(1, &Options { fsm: Some(statics_wasm()), ..options }).await?;
    let mut client = StaticsClient::new(cluster.nodes[0].connect().await?);
    let rows = [(510, 3_400, "details"), (512, 4_096, "details"), (0, 4_096, ""), (100, 2_000, ""), (512, 0, "")];
    for (letters, detail_bytes, cut) in rows {
        let request = Request { letters, detail_bytes };
        let unary = client.refuse(request).await.err().context("it is refused")?;
        let mut stream = client.refuse_later(request).await?.into_inner();
        ensure!(stream.message().await?.is_some_and(|reply| reply.count == 1));
        let streamed = stream.message().await.err().context("it is refused later")?;
        for status in [&unary, &streamed] {
            ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
            ensure!(bytes(status) <= TRAILERS_BYTES_MAX - 200, "{} bytes of {letters}, {detail_bytes}", bytes(status));
            ensure!(value(status, "lockstep-cut") == cut && value(status, "lockstep-origin") == "guest", "{status:?}");
            ensure!(status.message().chars().filter(|letter| *letter == 'ü').count() == letters as usize, "{status:?}");
        }
        ensure!(
            value(&unary, "lockstep-leader") == leader && value(&unary, "lockstep-outcome") == "applied",
            "{unary:?}"
        );
        let kept = if cut.is_empty() { detail_bytes as usize } else { 0 };
        ensure!(
            detail_bytes == 0 || unary.details().len() == kept,
            "{} of {detail_bytes} bytes",
            unary.details().len()
        );
    }
    Ok(())
}
