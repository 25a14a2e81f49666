//! A log that cannot be written: stderr is a full disk, a pipe whose reader has closed it, or a
//! pipe whose reader does not read. Lines are lost and counted, and nothing else happens. (A panic
//! of tracing in the task that logged next once ended nodes, and blocked changes.)
#![cfg(target_os = "linux")]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, lockstep, lockstep_binary};

/// Makes a named pipe with a reader that reads nothing, as long as the file is open.
fn pipe(place: &Path, name: &str) -> Result<(String, File)> {
    let path = place.join(name);
    ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "no pipe can be made");
    let reader = File::options().read(true).write(true).open(&path)?;
    Ok((format!("exec 2>{}", path.display()), reader))
}

async fn lines_lost(node: &NodeProcess) -> Result<u64> {
    let (_, metrics) = node.http("/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with("lockstep_log_lines_lost_total "));
    Ok(line.and_then(|line| line.split(' ').nth(1)).context("no such metric")?.parse()?)
}

async fn loses_lines(node: &NodeProcess) -> Result<()> {
    eventually("lines are lost and counted", || async {
        ensure!(lines_lost(node).await? > 0, "none is lost");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nodes_live_on_without_their_log() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let place = tempfile::tempdir()?;
    let (into_left, reader) = pipe(place.path(), "left")?;
    let (into_stuck, stuck) = pipe(place.path(), "stuck")?;
    cluster.push(Options::bootstrap().through("exec 2>/dev/full"))?;
    cluster.push(Options::member().through(&into_left))?;
    // The log soon exceeds what a pipe can hold.
    cluster.push(Options::member().with(&["--log_level=trace"]).through(&into_stuck))?;
    for node in &mut cluster.nodes {
        node.start().await?;
    }
    drop(reader);
    cluster.add_voter(1).await?;
    cluster.add_voter(2).await?;
    for n in 0..3 {
        let key = format!("k{n}");
        eventually("a write", || cluster.add(n, &key, "v")).await?;
        loses_lines(&cluster.nodes[n]).await?;
    }
    for n in [1, 2, 0] {
        let (name, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
        // Another node may be elected between any two of these steps: one node is slow on purpose.
        eventually("leadership moves", || async {
            let leader = cluster.leader().await?;
            if leader != n {
                let leader = cluster.nodes[leader].grpc_addr();
                let moved = lockstep(&["admin", &leader, "leadership_transfer_to_server", &name, &address])?;
                ensure!(moved.status.success(), "{moved:?}");
            }
            ensure!(cluster.leader().await? == n, "another node leads");
            Ok(())
        })
        .await?;
    }
    eventually("everybody has it", || cluster.everyone_reads("k2", "v")).await?;
    for node in &mut cluster.nodes {
        assert_eq!(node.stop().await?.code(), Some(0), "{} stops cleanly", node.name);
    }
    drop(stuck);
    Ok(())
}

#[test]
fn a_refusal_that_nobody_reads_has_its_exit_code() -> Result<()> {
    for (flags, code) in [("--raft_addr=nowhere", 2), ("--raft_addr=localhost:0 --raft_data_dir=/proc/nothing", 1)] {
        let script = format!("exec 2>/dev/full; exec \"$0\" node --raft_id=nodeA --grpc_addr=localhost:0 {flags}");
        let ended = Command::new("sh").args(["-c", &script]).arg(lockstep_binary()).stdin(Stdio::null()).status()?;
        assert_eq!(ended.code(), Some(code), "{flags}");
    }
    Ok(())
}
