//! Requests that are not gRPC over HTTP/2 are refused with a message and not run. Their client
//! could read neither the reply nor the status, and would take the code 200 of a refused command
//! for a success.

use anyhow::{Result, ensure};
use lockstep_tests::formed;
use lockstep_tests::pb::AddRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::{Bytes, http};

const CALL: &str = "/Example/Add";

/// Sends a POST over HTTP/2 and returns code and body of the response.
async fn post(address: &str, path: &str, content_type: Option<&str>, message: &[u8]) -> Result<(u16, Vec<u8>)> {
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let (response, mut body) = client.send_request(request.body(())?, false)?;
    let framed = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    body.send_data(Bytes::from(framed), true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut answer = Vec::new();
    while let Some(data) = body.data().await {
        answer.extend_from_slice(&data?);
    }
    connection.abort();
    Ok((head.status.as_u16(), answer))
}

/// Sends the same request over HTTP/1.1 and returns the response.
async fn post_http1(address: &str, content_type: &str, message: &[u8]) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let framed = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    let head = format!(
        "POST {CALL} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        framed.len()
    );
    connection.write_all(&[head.as_bytes(), &framed].concat()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

fn add(val: &str) -> Vec<u8> {
    AddRequest { key: "a".into(), val: val.into() }.encode_to_vec()
}

#[tokio::test]
async fn only_grpc_is_run() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    let served =
        ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/gRPC+Proto; a=b"];
    for content_type in served {
        ensure!(post(&address, CALL, Some(content_type), &add(content_type)).await?.0 == 200, "{content_type}");
        ensure!(cluster.get(0, "a", true).await? == content_type, "{content_type}");
    }
    let refused = [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpcX",
        "text/plain",
    ];
    for content_type in refused.map(Some).into_iter().chain([None]) {
        let (code, text) = post(&address, CALL, content_type, &add("run")).await?;
        let text = String::from_utf8(text)?;
        ensure!(code == 415 && text.contains("it was not run"), "{content_type:?}: {code} {text}");
        ensure!(text.contains(content_type.unwrap_or("none")), "{content_type:?}: {text}");
    }
    for (content_type, code) in
        [("application/grpc", " 505 "), ("application/grpc-web", " 415 "), ("text/plain", " 415 ")]
    {
        let answer = post_http1(&address, content_type, &add("run")).await?;
        ensure!(answer.contains(code) && answer.contains("it was not run"), "{content_type}: {answer}");
        ensure!(answer.to_lowercase().contains("content-length: "), "{content_type}: {answer}");
    }
    ensure!(cluster.get(0, "a", true).await? == served[3], "nothing of it was run");
    Ok(())
}

/// Tests the node's own services, on both ports.
#[tokio::test]
async fn no_service_is_an_exception() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let (clients, peers) = (cluster.nodes[0].grpc_addr(), cluster.nodes[0].raft_addr());
    let own = ["/RaftManager/State", "/RaftAdmin/State", "/grpc.health.v1.Health/Check", "/lockstep.v1.Admin/Status"];
    let reflection =
        ["v1", "v1alpha"].map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    let calls = own.map(String::from).into_iter().chain(reflection).map(|path| (&clients, path));
    for (address, path) in calls.chain([(&peers, "/lockstep.peer.v1.Peer/Identify".to_owned())]) {
        ensure!(post(address, &path, Some("application/grpc"), &[]).await?.0 == 200, "{path}");
        let (code, text) = post(address, &path, Some("application/grpc-web"), &[]).await?;
        let text = String::from_utf8(text)?;
        ensure!(code == 415 && text.contains("application/grpc-web"), "{path}: {code} {text}");
    }
    Ok(())
}
