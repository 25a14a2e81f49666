//! A guest whose `.proto` imports a file with a service that cannot be served, and that has names
//! that are difficult in Rust. Only its own service is its API. The other service is described but
//! not served.

use anyhow::{Result, ensure};
use lockstep_tests::{Cluster, Options, formed_of, lockstep, names_wasm};
use serde_json::{Value, json};

use crate::printed;

fn guest(arguments: &[&str]) -> Result<String> {
    let component = names_wasm();
    let output = lockstep(&[&["guest"], arguments, &[&component.display().to_string()]].concat())?;
    ensure!(output.status.success(), "{arguments:?}: {}", printed::stderr(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `lockstep call` and returns whether it succeeded, and its output.
fn call(cluster: &Cluster, n: usize, words: &[&str]) -> Result<(bool, String)> {
    let output = lockstep(&[&["call", &cluster.nodes[n].grpc_addr()], words].concat())?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

#[test]
fn check_and_inspect_tell_what_is_served_from_what_is_imported() -> Result<()> {
    let checked = guest(&["check"])?;
    assert!(checked.contains("serves     lockstep_guest.Std (3 methods)"), "{checked}");
    assert!(checked.contains("imports    more.Blobs, which it does not serve"), "{checked}");
    let json: Value = serde_json::from_str(&guest(&["check", "--json"])?)?;
    assert_eq!((&json["services"], &json["imported"]), (&json!(["lockstep_guest.Std"]), &json!(["more.Blobs"])));
    let inspected = guest(&["inspect"])?;
    assert!(inspected.contains("imported   more.Blobs") && !inspected.contains("more.Blobs/"), "{inspected}");
    let json: Value = serde_json::from_str(&guest(&["inspect", "--json"])?)?;
    assert_eq!(json["imported_services"], json!(["more.Blobs"]));
    Ok(())
}

#[tokio::test]
async fn what_is_imported_is_described_and_not_served() -> Result<()> {
    let cluster = formed_of(1, Options { fsm: Some(names_wasm()), ..Options::member() }).await?;
    let request = json!({"vec": "one", "blob": {"bytes": "AAEC"}}).to_string();
    for method in ["getX", "GetX"] {
        let (done, reply) = call(&cluster, 0, &[&format!("lockstep_guest.Std/{method}"), &request])?;
        assert!(done, "{reply}");
        assert_eq!(serde_json::from_str::<Value>(&reply)?, json!({"option": ["one"]}));
    }
    let (done, listed) = call(&cluster, 0, &[])?;
    assert!(done && listed.contains("lockstep_guest.Std/getX") && !listed.contains("more.Blobs"), "{listed}");
    let (done, refused) = call(&cluster, 0, &["more.Blobs/Upload", "{}"])?;
    assert!(!done && refused.contains("the server has no service"), "{refused}");
    Ok(())
}
