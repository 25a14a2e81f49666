//! A node whose disk came back with less than it had acknowledged, or with what is another's: it does not start, says why, and the way
//! back that it names works. The cluster goes on without it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lockstep_tests::pb::RemoveServerRequest;
use lockstep_tests::{Cluster, eventually, formed};

fn place(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.directory().join(&cluster.nodes[n].name)
}

fn wal(place: &Path) -> PathBuf {
    let files = fs::read_dir(place.join("raft")).unwrap().map(|entry| entry.unwrap().path());
    let wals = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    wals.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Starts node `n`, which must refuse; what it says.
async fn refusal(cluster: &mut Cluster, n: usize) -> Result<String> {
    let before = cluster.nodes[n].log().len();
    cluster.nodes[n].spawn()?;
    assert!(!cluster.nodes[n].wait_exit().await?.success());
    Ok(cluster.nodes[n].log()[before..].to_owned())
}

#[tokio::test]
async fn a_log_that_lost_what_was_synced_is_refused_and_the_way_back_works() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    for count in 0..20 {
        cluster.add(n, &format!("k{count}"), "v").await?;
    }
    cluster.nodes[n].kill()?;
    let wal = wal(&place(&cluster, n));
    let bytes = fs::read(&wal)?;
    fs::write(&wal, &bytes[..bytes.len() / 2])?;
    let said = refusal(&mut cluster, n).await?;
    let name = cluster.nodes[n].name.clone();
    let directory = place(&cluster, n).display().to_string();
    for words in ["had been synced", &format!("remove_server {name}"), &format!("delete {directory}")] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    // The way that it says.
    let leader = cluster.leader().await?;
    let request = RemoveServerRequest { id: name, previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.remove_server(request).await?.into_inner();
    cluster.finish(leader, operation).await?;
    fs::remove_dir_all(place(&cluster, n))?;
    cluster.nodes[n].options.bootstrap = false;
    cluster.nodes[n].start().await?;
    cluster.add_voter(n).await?;
    eventually("the new node has everything", || cluster.everyone_reads("k19", "v")).await
}

#[tokio::test]
async fn a_torn_tail_that_was_never_acknowledged_is_cut_with_a_notice() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    for count in 0..20 {
        cluster.add(n, &format!("k{count}"), "v").await?;
    }
    cluster.nodes[n].kill()?;
    let wal = wal(&place(&cluster, n));
    // The record that was being written when the power went: complete in length, wrong in content.
    let mut bytes = fs::read(&wal)?;
    bytes.extend([1, 2, 3, 4, 8, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]);
    fs::write(&wal, &bytes)?;
    cluster.nodes[n].start().await?;
    let log = cluster.nodes[n].log();
    assert!(log.contains("CUT a torn tail off the log"), "{log}");
    assert!(place(&cluster, n).join("raft.damaged").exists());
    eventually("the node has everything", || cluster.everyone_reads("k19", "v")).await?;
    assert!(cluster.nodes[n].stop().await?.success());
    cluster.nodes[n].start().await?;
    assert!(!place(&cluster, n).join("raft.damaged").exists());
    Ok(())
}

#[tokio::test]
async fn directories_of_two_nodes_are_told_apart() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    let other = (0..3).find(|other| *other != n).expect("there are three");
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    let (ours, theirs, aside) = (place(&cluster, n), place(&cluster, other), cluster.directory().join("aside"));
    fs::rename(&ours, &aside)?;
    fs::rename(&theirs, &ours)?;
    let said = refusal(&mut cluster, n).await?;
    assert!(said.contains("holds the data of node"), "{said}");
    fs::rename(&ours, &theirs)?;
    fs::rename(&aside, &ours)?;
    // Only the log is another's.
    fs::rename(ours.join("raft"), &aside)?;
    fs::rename(theirs.join("raft"), ours.join("raft"))?;
    let said = refusal(&mut cluster, n).await?;
    assert!(said.contains("directories of two nodes were mixed"), "{said}");
    fs::rename(ours.join("raft"), theirs.join("raft"))?;
    fs::rename(&aside, ours.join("raft"))?;
    for node in &mut cluster.nodes {
        node.spawn()?;
    }
    eventually("put back, they serve", || async { cluster.add(n, "k", "v").await }).await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.nodes[0].kill()?;
    let format = place(&cluster, 0).join("FORMAT");
    fs::write(&format, "9\n")?;
    let said = refusal(&mut cluster, 0).await?;
    assert!(said.contains("FORMAT has data format 9, this version reads up to 1"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_state_is_refused_and_made_again_from_snapshot_and_log() -> Result<()> {
    let flags = ["--snapshot_threshold=20", "--snapshot_interval=1s", "--trailing_logs=5", "--trailing_entries_min=5"];
    let mut cluster = formed(1, &flags).await?;
    eventually("the log is purged, so that the log alone cannot make the state again", || async {
        cluster.add(0, "key", "value").await?;
        let stat = cluster.nodes[0].stat().await?;
        anyhow::ensure!(stat["raft"]["purged_index"].as_u64() > Some(0), "{}", stat["raft"]);
        Ok(())
    })
    .await?;
    assert!(cluster.nodes[0].stop().await?.success());
    let state = place(&cluster, 0).join("state/0");
    fs::write(state.join("1/CURRENT"), "soup\n")?;
    let said = refusal(&mut cluster, 0).await?;
    assert!(said.contains("the state of this node is damaged"), "{said}");
    assert!(said.contains(&format!("Delete {}", state.display())), "{said}");
    fs::remove_dir_all(&state)?;
    cluster.nodes[0].start().await?;
    eventually("the state is there again", || async {
        anyhow::ensure!(cluster.get(0, "key", true).await? == "value");
        Ok(())
    })
    .await
}
