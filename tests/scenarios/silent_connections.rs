//! Silent connections to each port: they block no other client, do not use up the descriptors, and
//! are closed.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{NodeProcess, Options, PATIENCE, eventually, formed_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most files and sockets that a node may have open: about the least that a node needs. The harness
/// lets the test itself have more.
const DESCRIPTORS: u64 = 965;
/// Silent connections to each port, a few more than the port accepts with that limit.
const SILENT: [(&str, usize); 3] = [("grpc", 74), ("raft", 70), ("http", 38)];

/// Opens connections to the ports of a node that become silent.
/// They send nothing, or the first bytes of a request.
async fn silent(node: &NodeProcess) -> Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for (port, count) in SILENT {
        let (address, words) = match port {
            "grpc" => (node.grpc_addr(), ""),
            "raft" => (node.raft_addr(), "PRI * HTTP/2.0\r\n"),
            _ => (node.http_addr(), "GET /livez HTTP/1.1\r\n"),
        };
        for _ in 0..count {
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(words.as_bytes()).await?;
            open.push(stream);
        }
    }
    Ok(open)
}

/// Waits until the other side has closed all of them.
async fn all_closed(open: Vec<TcpStream>) -> Result<()> {
    let closed = async {
        for mut stream in open {
            // A reset also counts as closed.
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.context("a silent connection stays")
}

/// Returns the sample `name{port="<port>"}` of the metrics.
async fn of_port(node: &NodeProcess, name: &str, port: &str) -> Result<u64> {
    let (_, text) = node.http("/metrics").await?;
    let begin = format!("lockstep_{name}{{port=\"{port}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin)).with_context(|| format!("no {begin}"))?;
    Ok(line.parse()?)
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_end() -> Result<()> {
    // All come from one address here, so that one must be allowed to fill a port.
    let limited = Options { descriptors: Some((DESCRIPTORS, DESCRIPTORS)), ..Options::member() };
    let limited = limited.with(&["--connections_per_address=0"]);
    let mut cluster = formed_of(3, limited).await?;
    let (mut open, begun) = (Vec::new(), Instant::now());
    for node in &cluster.nodes {
        open.extend(silent(node).await?);
    }
    // Ordinary clients get through on each port, and peers connect to each other again.
    let leader = cluster.leader().await?;
    cluster.nodes[leader].kill()?;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for n in &others {
        eventually("a command", || cluster.add(*n, "k", "among the silent")).await?;
        for (port, count) in SILENT {
            let node = &cluster.nodes[*n];
            // A node may not have accepted all of them yet.
            eventually("one makes room", || async {
                let closed = of_port(node, "connections_silent_closed_total", port).await?;
                ensure!(closed > 0, "nobody made room on {port}");
                Ok(())
            })
            .await?;
            let (open, max) =
                (of_port(node, "connections_open", port).await?, of_port(node, "connections_max", port).await?);
            ensure!(open <= max && max < count as u64, "{open} of {max}");
            ensure!(of_port(node, "accept_failures_total", port).await? == 0, "the system had no descriptor");
        }
    }
    all_closed(open).await?;
    cluster.nodes[leader].start().await?;
    eventually("everybody has it", || cluster.everyone_reads("k", "among the silent")).await?;
    let lines = cluster.nodes[others[0]].log().matches("makes room").count() as u64;
    // A line a second of each port.
    let lines_max = SILENT.len() as u64 * (begun.elapsed().as_secs() + 1);
    ensure!(lines <= lines_max, "{lines} lines about them");
    Ok(())
}
