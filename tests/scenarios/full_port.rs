//! A client port that is full of connections in use: the node stays alive for its probes, its peers
//! and the clients that it has, an operator on its machine gets in, one address takes no more than
//! its part, and there is room again when the others have gone.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lockstep_tests::frames::{END_STREAM, Frames, GOAWAY, PING, SETTINGS, frame};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{NodeProcess, Options, eventually, formed_of, lockstep_beside};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// Files and sockets that a node may have open, so that its port has hundreds of places and not
/// thousands. The test holds the other ends.
const DESCRIPTORS: u64 = 2_000;
/// One address may have this part of the places.
const OF_ONE_ADDRESS: u64 = 8;
/// Addresses from which the port is filled. One is enough beyond those whose parts are all of it.
const ADDRESSES: u8 = OF_ONE_ADDRESS as u8 + 1;
/// Places that only programs on the node's machine get. They come from 127.0.0.1. Other addresses
/// of loopback stand for other machines.
const RESERVED: u64 = 16;

/// Opens connections from one address that are in use, as many as it gets, and answers their PINGs.
async fn occupy(held: &mut JoinSet<()>, from: u8, to: SocketAddr, count: u64) -> Result<()> {
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0)))?;
        let mut io = socket.connect(to).await?;
        let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
        if io.write_all(&greeting).await.is_err() {
            // It was refused, and closed before it had spoken.
            continue;
        }
        let mut connection = Frames { io };
        held.spawn(async move {
            // One that was refused ends here.
            while let Ok(heard) = connection.next().await {
                if heard.kind == PING && heard.flags & END_STREAM == 0 {
                    let answer = frame(PING, END_STREAM, 0, &heard.payload);
                    if connection.io.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    Ok(())
}

/// Connects once more from another machine, and returns what the node says about it.
async fn refusal(node: &NodeProcess) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2 + ADDRESSES], 0)))?;
    let mut connection = Frames::over(socket.connect(node.grpc_addr().parse()?).await?).await?;
    loop {
        let heard = connection.next().await.context("it was closed without a word")?;
        if heard.kind == GOAWAY {
            return Ok(String::from_utf8_lossy(&heard.payload[8..]).into_owned());
        }
    }
}

/// Returns the sample `name{port="grpc"}` of the metrics.
async fn of_clients(node: &NodeProcess, name: &str) -> Result<u64> {
    let (_, text) = node.http("/metrics").await?;
    let begin = format!("lockstep_connections_{name}{{port=\"grpc\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin)).with_context(|| format!("no {begin}"))?;
    Ok(line.parse()?)
}

#[tokio::test]
async fn a_full_client_port_costs_nobody_else_a_place() -> Result<()> {
    let limited = Options { descriptors: Some((DESCRIPTORS, DESCRIPTORS)), ..Options::member() };
    let mut cluster = formed_of(3, limited).await?;
    let leader = cluster.leader().await?;
    let mut before = cluster.nodes[leader].client().await?;
    before.add(AddRequest { key: "k".into(), val: "before".into() }).await?;
    let places = of_clients(&cluster.nodes[leader], "max").await?;
    let of_one = of_clients(&cluster.nodes[leader], "per_address_max").await?;
    ensure!(places >= 100 && of_one == places / OF_ONE_ADDRESS, "{of_one} of {places}");
    let before_open = of_clients(&cluster.nodes[leader], "open").await?;
    let mut held = JoinSet::new();
    let port = cluster.nodes[leader].grpc_addr().parse()?;
    for address in 0..ADDRESSES {
        occupy(&mut held, 2 + address, port, of_one).await?;
        // One that is silent would make room for the next of its address.
        let expected = (before_open + u64::from(address + 1) * of_one).min(places - RESERVED);
        eventually("all have spoken", || async {
            let node = &cluster.nodes[leader];
            let (open, silent) = (of_clients(node, "open").await?, of_clients(node, "silent").await?);
            ensure!(open >= expected && silent == 0, "{open} of {expected}, {silent} of them silent");
            Ok(())
        })
        .await?;
        occupy(&mut held, 2 + address, port, 4).await?;
    }
    eventually("the port is full", || async {
        let node = &cluster.nodes[leader];
        let (open, silent) = (of_clients(node, "open").await?, of_clients(node, "silent").await?);
        ensure!(open >= places - RESERVED && silent == 0, "{open} of {places}, {silent} of them silent");
        ensure!(of_clients(node, "of_one_address").await? == of_one, "one has more than its part");
        let of_address = of_clients(node, "refused_address_total").await?;
        let refused = of_clients(node, "refused_total").await?;
        ensure!(
            of_address > 0 && refused > of_address,
            "{refused} were refused, {of_address} of them for their address"
        );
        Ok(())
    })
    .await?;
    let node = &cluster.nodes[leader];
    let told = eventually("one more is told why it is refused", || refusal(node)).await?;
    ensure!(told.contains("connections that this port may have are in use"), "{told}");
    // An operator on the machine, probes, a client that was there, and a peer that comes again.
    let status = lockstep_beside(&["admin", &node.grpc_addr(), "status"]).await?;
    ensure!(status.status.success(), "the operator does not get in: {status:?}");
    ensure!(node.http("/livez").await?.0 == 200 && node.http("/readyz").await?.0 == 200, "{}", node.last_words());
    before.add(AddRequest { key: "k".into(), val: "meanwhile".into() }).await?;
    let other = (0..3).find(|n| *n != leader).context("three nodes")?;
    cluster.nodes[other].kill()?;
    cluster.nodes[other].start().await?;
    eventually("the peer is back", || async {
        let (code, reasons) = cluster.nodes[other].http("/readyz").await?;
        ensure!(code == 200, "{reasons}");
        Ok(())
    })
    .await?;
    let read = before.get(GetRequest { key: "k".into(), ..GetRequest::default() }).await?.into_inner();
    ensure!(read.value == "meanwhile", "{read:?}");
    let open = of_clients(&cluster.nodes[leader], "open").await?;
    ensure!(open >= places - RESERVED, "the port is not full any more");
    held.shutdown().await;
    eventually("there is room again", || cluster.everyone_reads("k", "meanwhile")).await
}
