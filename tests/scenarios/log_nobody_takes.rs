//! A log that cannot be written: stderr is a full disk, a pipe whose reader has closed it, or a
//! pipe whose reader does not read. Lines are lost and counted, and nothing else happens. (A panic
//! of tracing in the task that logged next once ended nodes, and blocked changes.)
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{
    Cluster, NodeProcess, Options, PATIENCE, eventually, failpoints_binary, lockstep, lockstep_binary,
};

/// Makes a named pipe with a reader that reads nothing, as long as the file is open.
fn pipe(place: &Path, name: &str) -> Result<(String, File)> {
    let path = place.join(name);
    ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "no pipe can be made");
    let reader = File::options().read(true).write(true).open(&path)?;
    Ok((format!("exec 2>{}", path.display()), reader))
}

/// Fills a named pipe from a process of its own, so that not one byte more fits.
fn fill(place: &Path, name: &str) -> Result<()> {
    let into = format!("of={}", place.join(name).display());
    let filled = Command::new("dd").args(["if=/dev/zero", &into, "oflag=nonblock", "bs=4096"]).output()?;
    // It ends because it would have to wait.
    ensure!(!filled.status.success(), "the pipe takes everything: {filled:?}");
    Ok(())
}

async fn lines_lost(node: &NodeProcess) -> Result<u64> {
    let (_, metrics) = node.http("/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with("lockstep_log_lines_lost_total "));
    Ok(line.and_then(|line| line.split(' ').nth(1)).context("no such metric")?.parse()?)
}

/// Lines are lost once what waits for a reader has no room. So something goes on.
async fn loses_lines(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("lines are lost and counted", || async {
        cluster.add(n, "more", "lines").await?;
        ensure!(lines_lost(&cluster.nodes[n]).await? > 0, "none is lost");
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
    // The log soon exceeds what a pipe and the node can hold.
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
        loses_lines(&cluster, n).await?;
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

#[tokio::test]
async fn a_pipe_that_another_process_has_filled_holds_no_node_up_and_no_panic() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let place = tempfile::tempdir()?;
    let (into_full, _reader) = pipe(place.path(), "full")?;
    fill(place.path(), "full")?;
    for options in [
        Options::bootstrap().with_failpoints(),
        Options::member().with_failpoints(),
        Options::member().with_failpoints().through(&into_full),
    ] {
        let n = cluster.push(options)?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    eventually("a write", || cluster.add(2, "key", "value")).await?;
    eventually("everybody has it", || cluster.everyone_reads("key", "value")).await?;
    // A panic of Raft's core is reported by the thread that panics, and then the node ends.
    cluster.nodes[2].fail_at(&["raft-core=panic"])?;
    eventually("the node ends", || async {
        cluster.add(0, "more", "entries").await?;
        ensure!(cluster.nodes[2].http("/livez").await.is_err(), "it goes on");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.nodes[2].wait_exit().await?.code(), Some(1));
    // Everything that it said went into the pipe.
    assert_eq!(cluster.nodes[2].log(), "");
    Ok(())
}

/// Whether a process has something to log, which a thread of its own writes.
fn writes_its_log(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads
        .flatten()
        .any(|thread| std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "log\n"))
}

#[test]
fn last_words_wait_for_a_reader_that_comes_late() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (into_full, mut reader) = pipe(place.path(), "full")?;
    fill(place.path(), "full")?;
    let script = format!("{into_full}; exec \"$0\" node --raft_id=nodeA --grpc_addr=localhost:0 --raft_addr=nowhere");
    // The node waits as long as this test is patient: a busy machine may run the reader late.
    let mut refused = Command::new("sh")
        .args(["-c", &script])
        .arg(failpoints_binary())
        .env("LOCKSTEP_END_WAIT_MS", PATIENCE.as_millis().to_string())
        .stdin(Stdio::null())
        .spawn()?;
    while refused.try_wait()?.is_none() && !writes_its_log(refused.id()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut end = reader.try_clone()?;
    let reading = std::thread::spawn(move || -> Result<String> {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        while !heard.ends_with(b"END") {
            let count = reader.read(&mut piece)?;
            heard.extend(piece[..count].iter().filter(|byte| **byte != 0));
        }
        Ok(String::from_utf8_lossy(&heard).into_owned())
    });
    assert_eq!(refused.wait()?.code(), Some(2));
    end.write_all(b"END")?;
    let heard = reading.join().expect("the reader does not panic")?;
    ensure!(heard.contains("error: --raft_addr") && heard.contains("hint:"), "{heard}");
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
