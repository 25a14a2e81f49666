//! A data directory that an earlier build wrote opens and serves. The file is never made anew: it
//! stands for the disks of clusters that exist.

use std::process::Command;

use anyhow::{Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{NodeProcess, Options, eventually, lockstep};

use crate::printed;

/// The directory `golden` in a compressed archive.
pub const ARCHIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/data-directory-0.1.0.tar.gz");

/// A node of 0.1.0 was killed after 50 commands, a snapshot, and 20 commands more. Its ballast and
/// its compiled code are left out; a node makes them again.
#[tokio::test]
async fn a_data_directory_of_an_earlier_build_opens_and_serves() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unpacked = Command::new("tar").arg("-xzf").arg(ARCHIVE).arg("-C").arg(directory.path()).output()?;
    ensure!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let options = Options { fsm: None, ..Options::member() };
    let mut node = NodeProcess::new("golden", directory.path(), options)?;
    for round in 0..2 {
        node.start().await?;
        let mut client = node.client().await?;
        for n in 0..50 {
            let get = GetRequest { key: format!("k{n}"), linearizable: true };
            let value = client.get(get).await?.into_inner().value;
            let expected = if n < 20 { format!("after {n}") } else { format!("before {n}") };
            ensure!(value == expected, "k{n} is {value:?}");
        }
        let status = node.status().await?;
        let found = (&status["fsm"]["commands_applied"], &status["raft"]["last_snapshot_index"]);
        ensure!(found == (&(70 + round).into(), &52.into()), "{status}");
        ensure!(status["fsm"]["state_hash_mismatches"] == 0 && status["fsm"]["restore_count"] == 0, "{status}");
        eventually("it takes a command", || async {
            let add = AddRequest { key: "new".into(), val: round.to_string() };
            Ok(node.client().await?.add(add).await?)
        })
        .await?;
        ensure!(node.stop().await?.success());
    }
    raised(&mut node).await
}

/// Raises the semantics of that old cluster to the newest, and starts the node once more.
async fn raised(node: &mut NodeProcess) -> Result<()> {
    node.start().await?;
    let before = node.status().await?["fsm"].take();
    ensure!(before["semantics"] == 3 && before["semantics_oldest"] == 3, "{before}");
    eventually("it leads, and the semantics are raised", || async {
        let output = lockstep(&["admin", &node.grpc_addr(), "raise"])?;
        ensure!(output.status.success(), "{}", printed::all(&output));
        Ok(())
    })
    .await?;
    for _ in 0..2 {
        let get = GetRequest { key: "k30".into(), linearizable: true };
        let value = node.client().await?.get(get).await?.into_inner().value;
        ensure!(value == "before 30", "k30 is {value:?}");
        let fsm = node.status().await?["fsm"].take();
        ensure!(fsm["semantics"] == fsm["semantics_newest"] && fsm["state_hash_mismatches"] == 0, "{fsm}");
        ensure!(node.stop().await?.success());
        node.start().await?;
    }
    Ok(())
}
