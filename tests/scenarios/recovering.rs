//! A majority is lost for good: `lockstep recover` runs on one survivor, and the cluster grows to
//! three nodes again.

use anyhow::{Result, ensure};
use lockstep_tests::pb::AddVoterRequest;
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed, lockstep};

use crate::printed;

const CONFIRM: &str = "--yes_i_lose_what_the_others_had";

/// Runs `lockstep recover` and returns the exit code and all that it printed.
fn recover(program: &std::path::Path, node: &NodeProcess, more: &[&str]) -> Result<(Option<i32>, String)> {
    let output = std::process::Command::new(program)
        .arg("recover")
        .arg(format!("--raft_id={}", node.name))
        .arg(format!("--raft_data_dir={}", node.data_dir.display()))
        .args(more)
        .env("LOCKSTEP_FAILPOINTS", node.data_dir.join(format!("{}.failpoints", node.name)))
        .output()?;
    let text = printed::all(&output);
    Ok((output.status.code(), text))
}

/// Makes a cluster with acknowledged writes, kills all nodes, and returns the survivor.
async fn bereft(options: Option<Options>) -> Result<(Cluster, usize)> {
    let mut cluster = formed(3, &[]).await?;
    for n in 0..50 {
        cluster.add(n % 3, &format!("key{n}"), &n.to_string()).await?;
    }
    let survivor = cluster.follower().await?;
    // The survivor must have all acknowledged writes, so its last write is read before the nodes
    // are killed.
    eventually("the survivor has everything", || cluster.everyone_reads("key49", "49")).await?;
    for n in 0..3 {
        cluster.nodes[n].kill()?;
    }
    if let Some(options) = options {
        cluster.nodes[survivor].options = options;
    }
    Ok((cluster, survivor))
}

#[tokio::test]
async fn one_survivor_serves_what_it_had_and_grows_to_three() -> Result<()> {
    let (mut cluster, survivor) = bereft(None).await?;
    let program = lockstep_tests::lockstep_binary();
    let node = &cluster.nodes[survivor];
    let (code, shown) = recover(&program, node, &[])?;
    assert_eq!(code, Some(1), "{shown}");
    for expected in ["nothing was changed", CONFIRM, "last log entry", "incarnation 0", "nodeA", "nodeC", "this node"] {
        assert!(shown.contains(expected), "{expected:?} is not in:\n{shown}");
    }
    let (code, done) = recover(&program, node, &[CONFIRM])?;
    assert_eq!(code, Some(0), "{done}");
    assert!(done.contains("the only member now, in incarnation 1"), "{done}");
    let (code, again) = recover(&program, node, &[CONFIRM])?;
    assert!(code == Some(1) && again.contains("is the only voter of its cluster"), "{again}");

    cluster.nodes[survivor].start().await?;
    for n in 0..50 {
        assert_eq!(cluster.get(survivor, &format!("key{n}"), true).await?, n.to_string());
    }
    cluster.add(survivor, "after", "recovery").await?;

    let others: Vec<usize> = (0..3).filter(|n| *n != survivor).collect();
    for n in &others {
        // With its old data the node is refused by name. With an empty directory it can be added.
        cluster.nodes[*n].start().await?;
        let error = add_voter(&cluster, survivor, *n).await.unwrap_err().to_string();
        assert!(error.contains("incarnation 0") && error.contains("empty data directory"), "{error}");
        cluster.nodes[*n].kill()?;
        std::fs::remove_dir_all(cluster.directory().join(&cluster.nodes[*n].name))?;
        cluster.nodes[*n].options.bootstrap = false;
        cluster.nodes[*n].start().await?;
        add_voter(&cluster, survivor, *n).await?;
    }
    eventually("all three serve", || cluster.everyone_reads("after", "recovery")).await?;
    cluster.nodes[survivor].kill()?;
    let leader = cluster.leader().await?;
    cluster.add(leader, "without", "the survivor").await?;
    cluster.everyone_reads("key7", "7").await
}

async fn add_voter(cluster: &Cluster, leader: usize, n: usize) -> Result<u64> {
    let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
    let request = AddVoterRequest { id, address, previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
    cluster.finish(leader, operation).await
}

#[tokio::test]
async fn the_old_members_on_their_old_data_do_not_disturb_it() -> Result<()> {
    let (mut cluster, survivor) = bereft(None).await?;
    let (code, text) = recover(&lockstep_tests::lockstep_binary(), &cluster.nodes[survivor], &[CONFIRM])?;
    assert_eq!(code, Some(0), "{text}");
    cluster.nodes[survivor].start().await?;
    cluster.add(survivor, "key", "new").await?;
    let other = (0..3).find(|n| *n != survivor).unwrap();
    let term = cluster.nodes[survivor].stat().await?["raft"]["term"].clone();
    cluster.nodes[other].start().await?;
    eventually("its messages are refused by name", || async {
        let log = cluster.nodes[survivor].log();
        ensure!(log.contains("left behind by a recovery"), "not yet");
        Ok(())
    })
    .await?;
    cluster.add(survivor, "key", "newer").await?;
    assert_eq!(cluster.nodes[survivor].stat().await?["raft"]["term"], term);
    assert_eq!(cluster.get(survivor, "key", true).await?, "newer");
    Ok(())
}

#[tokio::test]
async fn a_recovery_that_crashed_can_be_done_again() -> Result<()> {
    let program = lockstep_tests::failpoints_binary();
    let (mut cluster, survivor) = bereft(Some(Options::member().with_failpoints())).await?;
    for point in ["recover-after-identity", "recover-after-vote"] {
        cluster.nodes[survivor].fail_at(&[&format!("{point}=return(crash)")])?;
        let (code, text) = recover(&program, &cluster.nodes[survivor], &[CONFIRM])?;
        assert!(code.is_none() && text.contains(point), "{code:?} {text}");
    }
    cluster.nodes[survivor].fail_at(&[])?;
    let (code, text) = recover(&program, &cluster.nodes[survivor], &[CONFIRM])?;
    assert!(code == Some(0) && text.contains("in incarnation 3"), "{text}");
    cluster.nodes[survivor].start().await?;
    assert_eq!(cluster.get(survivor, "key49", true).await?, "49");
    cluster.add(survivor, "after", "recovery").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_survivor_is_refused_in_words() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let directory = cluster.directory().display().to_string();
    let refused = |id: &str, directory: &str, expected: &str| -> Result<()> {
        let output = lockstep(&["recover", &format!("--raft_id={id}"), "--raft_data_dir", directory, CONFIRM])?;
        let text = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && text.contains(expected), "{expected:?}: {text}");
        Ok(())
    };
    refused("nodeA", &directory, "in use by another process")?;
    refused("nodeX", &directory, "is no data directory of a node")?;
    assert!(!cluster.directory().join("nodeX").exists(), "it made a directory");
    let empty = tempfile::tempdir()?;
    let mut stranger = NodeProcess::new("nodeS", empty.path(), Options::member())?;
    stranger.start().await?;
    stranger.stop().await?;
    refused("nodeS", &empty.path().display().to_string(), "is in no cluster yet")
}
