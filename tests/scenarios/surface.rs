//! The interface for clients: reflection, health, limits, unknown methods, the call command.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::{NodeProcess, formed, lockstep};
use serde_json::{Value, json};
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::printed;

#[tokio::test]
async fn an_unknown_method_is_unimplemented() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    for path in ["/Example/Remove", "/Nothing/At", "/x"] {
        let mut client = tonic::client::Grpc::new(cluster.nodes[0].connect().await?);
        client.ready().await?;
        let codec = ProstCodec::<AddRequest, AddRequest>::default();
        let status = client
            .unary(tonic::Request::new(AddRequest::default()), PathAndQuery::from_static(path), codec)
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented, "{path}: {status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_message_too_large_is_refused_and_the_node_lives() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    for size in [3 << 20, 5 << 20] {
        let request = AddRequest { key: "big".into(), val: "x".repeat(size) };
        let status = cluster.nodes[0].client().await?.add(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{size}: {status:?}");
        assert!(!status.message().is_empty());
    }
    cluster.add(0, "big", "small").await?;
    assert_eq!(cluster.get(0, "big", true).await?, "small");
    Ok(())
}

#[tokio::test]
async fn a_malformed_request_is_invalid_and_changes_nothing() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    // Field 1 of Add is a string. This request has a varint there.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Wrong {
        #[prost(uint64, tag = "1")]
        key: u64,
    }
    let mut client = tonic::client::Grpc::new(cluster.nodes[0].connect().await?);
    client.ready().await?;
    let codec = ProstCodec::<Wrong, Wrong>::default();
    let status = client
        .unary(tonic::Request::new(Wrong { key: 7 }), PathAndQuery::from_static("/Example/Add"), codec)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    Ok(())
}

fn run(arguments: &[&str]) -> Result<String> {
    let output = lockstep(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", printed::all(&output));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn call_speaks_json_through_reflection() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    let reply: Value = serde_json::from_str(&run(&["call", &address, "Example/Add", r#"{"key":"a","val":"b"}"#])?)?;
    assert!(reply["commitIndex"].as_str().is_some_and(|index| index != "0"), "{reply}");
    let reply: Value = serde_json::from_str(&run(&["call", &address, "Example/Get", r#"{"key":"a"}"#])?)?;
    assert_eq!(reply["value"], "b");
    let services = run(&["call", &address])?;
    // The guest's methods with their kinds come first. The node's own services follow, one line
    // each.
    let lines: Vec<Vec<&str>> = services.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    let first = [
        ["Example/Add", "command"],
        ["Example/Get", "query,"],
        ["Example/Stat", "query,"],
        ["Example/Watch", "watch,"],
    ];
    assert_eq!(lines[..4], first.map(Vec::from), "{services}");
    let own = ["RaftAdmin", "RaftManager", "grpc.health.v1.Health", "lockstep.v1.Admin"];
    let below: Vec<&str> = lines[4..].iter().map(|words| words[0]).filter(|name| !name.contains("eflection")).collect();
    assert_eq!(below, own, "{services}");
    assert!(run(&["call", &address, "grpc.health.v1.Health"])?.contains("grpc.health.v1.Health/Check"));
    let wrong = lockstep(&["call", &address, "Example/Ad", "{}"])?;
    assert!(!wrong.status.success());
    assert!(printed::stderr(&wrong).contains("Example/Add"), "{wrong:?}");
    let wrong = lockstep(&["call", &address, "Example/Add", r#"{"kei":"a"}"#])?;
    assert!(!wrong.status.success());
    assert!(printed::stderr(&wrong).contains("kei"), "{wrong:?}");
    Ok(())
}

/// Returns the status that the node's health service gives for this service.
pub fn health(node: &NodeProcess, service: &str) -> Result<String> {
    let request = json!({ "service": service }).to_string();
    let reply: Value =
        serde_json::from_str(&run(&["call", &node.grpc_addr(), "grpc.health.v1.Health/Check", &request])?)?;
    Ok(reply["status"].as_str().context("no status")?.to_owned())
}

#[tokio::test]
async fn health_knows_the_guest_and_the_leader() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    for (n, node) in cluster.nodes.iter().enumerate() {
        for service in ["", "Example"] {
            assert_eq!(health(node, service)?, "SERVING", "{service} on {}", node.name);
        }
        lockstep_tests::eventually("quis.RaftLeader is right", || async {
            let status = health(node, "quis.RaftLeader")?;
            ensure!(status == if n == leader { "SERVING" } else { "NOT_SERVING" }, "{}: {status}", node.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
