//! `lockstep call` with unusual requests and replies. A wrong request is refused with the name of
//! its field, and nothing is sent. A reply that cannot be shown does not make a successful call
//! fail. A command ends quietly when its output is no longer read.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{PATIENCE, formed, lockstep, lockstep_binary, nobody};
use serde_json::Value;

use crate::misbehaving::misbehaving;
use crate::printed::stderr;

#[tokio::test]
async fn a_request_is_refused_by_its_field_and_not_sent() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let table = [
        (r#"{"key": "a", "val": "1", "val": "2"}"#, r#""val" is there twice"#),
        (r#"{"key": "a", "val": 1}"#, r#""val", of type string: "#),
        (r#"{"key": "a", "vall": "1"}"#, "did you mean val?"),
        (r#"{"key": "a", "val": "1"} x"#, "not JSON: trailing characters"),
    ];
    for (request, says) in table {
        let told = lockstep(&["call", &addr, "Example/Add", request])?;
        ensure!(told.status.code() == Some(2) && stderr(&told).contains(says), "{request}: {}", stderr(&told));
    }
    assert_eq!(cluster.get(0, "a", true).await?, "", "none of them was sent");
    Ok(())
}

#[tokio::test]
async fn a_reply_that_cannot_be_shown_is_a_call_that_succeeded() -> Result<()> {
    let cluster = misbehaving(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let done = lockstep(&["call", &addr, "misbehaving.Misbehaving/Do", r#"{"what": "REPLY_NO_MESSAGE"}"#])?;
    ensure!(done.status.success(), "{}", stderr(&done));
    let shown: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(
        shown["@type"] == "misbehaving.Done" && shown["@value"].is_string() && shown["@error"].is_string(),
        "{shown}"
    );
    let said = stderr(&done);
    ensure!(said.contains("the call succeeded (") && said.contains("lockstep-index: "), "{said}");
    Ok(())
}

/// With one address the node answers for itself. With several, a command goes on when the leader
/// dies.
#[tokio::test]
async fn several_addresses_are_those_of_one_cluster() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let all = cluster.nodes.iter().map(|node| node.grpc_addr()).collect::<Vec<_>>().join(",");
    cluster.nodes[leader].kill()?;
    let request = r#"{"key": "a", "val": "1"}"#;
    let told = lockstep(&["call", &all, "Example/Add", request, "--timeout", "60s"])?;
    ensure!(told.status.success(), "{}", stderr(&told));
    let follower = cluster.follower().await?;
    let read = r#"{"key": "a", "linearizable": true}"#;
    let told = lockstep(&["call", &cluster.nodes[follower].grpc_addr(), "Example/Get", read])?;
    let reply: Value = serde_json::from_slice(&told.stdout)?;
    ensure!(told.status.success() && reply["value"] == "1", "{told:?}");
    // A list of methods needs one node of them, too.
    let told = lockstep(&["call", &all, "Example"])?;
    let listed = String::from_utf8(told.stdout)?;
    ensure!(told.status.success() && listed.lines().any(|line| line.starts_with("Example/Add ")), "{listed}");
    let (_kept, closed) = nobody()?;
    let told = lockstep(&["call", &format!("{closed},nowhere"), "Example"])?;
    ensure!(told.status.code() == Some(2) && stderr(&told).contains("give host:port"), "{}", stderr(&told));
    Ok(())
}

#[tokio::test]
async fn who_stops_reading_ends_a_command_quietly() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let table = [
        &["call", &addr][..],
        &["call", &addr, "Example/Watch", r#"{"key": "a"}"#],
        &["admin", &addr, "get_configuration"],
        &["admin", "--help"],
    ];
    for arguments in table {
        let mut command = Command::new(lockstep_binary());
        let mut child =
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut first = String::new();
        // Reads one line and closes the pipe, as `head -1` does. The watch then has nothing more to
        // print.
        BufReader::new(child.stdout.take().context("it is piped")?).read_line(&mut first)?;
        ensure!(!first.is_empty(), "{arguments:?} prints nothing");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let ended = child.wait_with_output()?;
        ensure!(ended.status.success() && ended.stderr.is_empty(), "{arguments:?}: {ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_at_stderr_changes_nothing() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    for (arguments, code) in
        [(vec!["backup", &addr], 0), (vec!["call", &addr, "Example/Ad", "{}"], 1), (vec!["call", "--nothing"], 2)]
    {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = Command::new(lockstep_binary());
        let ended = command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer).output()?;
        ensure!(ended.status.code() == Some(code), "{arguments:?}: {}", ended.status);
    }
    Ok(())
}
