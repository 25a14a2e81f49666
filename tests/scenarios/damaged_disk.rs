//! A node whose disk has less than the node had acknowledged, or another node's data. The node does
//! not start and says why, and the way back that it names works. The cluster continues without it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lockstep_tests::pb::{RemoveServerRequest, SnapshotRequest};
use lockstep_tests::{Cluster, eventually, formed};

fn place(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.directory().join(&cluster.nodes[n].name)
}

fn wal(place: &Path) -> PathBuf {
    let files = fs::read_dir(place.join("raft")).unwrap().map(|entry| entry.unwrap().path());
    let wals = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    wals.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Starts node `n`, which must refuse to start, and returns what it prints.
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
    // Follows the instructions that it prints.
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
    // The record that was being written at the power failure: complete in length, wrong in content.
    let mut bytes = fs::read(&wal)?;
    bytes.extend([1, 2, 3, 4, 8, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]);
    fs::write(&wal, &bytes)?;
    cluster.nodes[n].start().await?;
    cluster.nodes[n].has_logged(&["CUT a torn tail off the log"]).await?;
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
    // Only the log belongs to the other node.
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

/// Copies a file or a directory.
fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}

fn replace(place: &Path, by: &Path) {
    if place.is_dir() {
        fs::remove_dir_all(place).unwrap();
    }
    copy(by, place);
}

#[tokio::test]
async fn a_state_whose_log_is_gone_is_not_a_new_node() -> Result<()> {
    let flags = ["--snapshot_threshold=20", "--snapshot_interval=1s"];
    let mut cluster = formed(1, &flags).await?;
    let snapshots = place(&cluster, 0).join("snapshots/0");
    eventually("there is a snapshot", || async {
        cluster.add(0, "key", "value").await?;
        anyhow::ensure!(fs::read_dir(&snapshots).is_ok_and(|mut names| names.next().is_some()));
        Ok(())
    })
    .await?;
    assert!(cluster.nodes[0].stop().await?.success());
    // The copy is in another directory. Beside the node it would be another node's data, and no
    // cluster is bootstrapped beside such data.
    let aside = tempfile::tempdir()?;
    let (place, whole) = (place(&cluster, 0), aside.path().join("whole"));
    copy(&place, &whole);
    for lost in [&["raft", "SYNCED"][..], &["raft", "SYNCED", "state"], &["raft", "SYNCED", "state", "snapshots"]] {
        for name in lost {
            let path = place.join(name);
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        for _ in 0..2 {
            let said = refusal(&mut cluster, 0).await?;
            assert!(said.contains("it holds no log") && said.contains("remove_server"), "{lost:?}: {said}");
        }
        replace(&place, &whole);
    }
    cluster.nodes[0].start().await?;
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn a_state_of_another_cluster_is_refused() -> Result<()> {
    let (mut ours, mut theirs) = (formed(1, &[]).await?, formed(1, &[]).await?);
    for count in 0..20 {
        ours.add(0, &format!("k{count}"), "v").await?;
    }
    assert!(ours.nodes[0].stop().await?.success() && theirs.nodes[0].stop().await?.success());
    let (state, aside) = (place(&ours, 0).join("state"), ours.directory().join("aside"));
    fs::rename(&state, &aside)?;
    copy(&place(&theirs, 0).join("state"), &state);
    let said = refusal(&mut ours, 0).await?;
    assert!(said.contains("state/ holds the state of cluster"), "{said}");
    fs::remove_dir_all(&state)?;
    fs::rename(&aside, &state)?;
    ours.nodes[0].start().await?;
    ours.everyone_reads("k19", "v").await
}

#[tokio::test]
async fn an_older_copy_of_the_log_is_noticed_by_what_readers_have_seen_and_by_the_state() -> Result<()> {
    let flags = ["--snapshot_threshold=20", "--snapshot_interval=1s", "--trailing_logs=5", "--trailing_entries_min=5"];
    let mut cluster = formed(1, &flags).await?;
    for count in 0..60 {
        cluster.add(0, &format!("old{count}"), "v").await?;
    }
    cluster.nodes[0].kill()?;
    let (place, old) = (place(&cluster, 0), cluster.directory().join("old"));
    copy(&place, &old);
    cluster.nodes[0].start().await?;
    for count in 0..60 {
        cluster.add(0, &format!("new{count}"), "v").await?;
    }
    // A snapshot of the present state.
    let operation = cluster.nodes[0].manager().await?.snapshot(SnapshotRequest {}).await?.into_inner();
    cluster.finish(0, operation).await?;
    cluster.nodes[0].kill()?;
    let new = cluster.directory().join("new");
    copy(&place, &new);
    // Only the log is old. The newest snapshot is as new as the state.
    for name in ["raft", "SYNCED"] {
        replace(&place.join(name), &old.join(name));
    }
    let said = refusal(&mut cluster, 0).await?;
    assert!(said.contains("Remove this node from the cluster"), "{said}");
    // Everything is old except the record of what was served.
    for name in ["state", "snapshots"] {
        replace(&place.join(name), &old.join(name));
    }
    let said = refusal(&mut cluster, 0).await?;
    assert!(said.contains("readers of this node have seen entry"), "{said}");
    replace(&place, &new);
    cluster.nodes[0].start().await?;
    cluster.everyone_reads("new59", "v").await
}

#[tokio::test]
async fn a_snapshot_with_a_rotten_block_is_left_out_and_the_one_before_it_is_used() -> Result<()> {
    let flags = ["--snapshot_threshold=20", "--snapshot_interval=1s"];
    let mut cluster = formed(1, &flags).await?;
    let (place, mut last) = (place(&cluster, 0), 0);
    let snapshots = place.join("snapshots/0");
    let names = || -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&snapshots)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((index, _)) = name.split_once('-') {
                found.push((index.parse()?, path));
            }
        }
        found.sort();
        Ok(found)
    };
    eventually("there are three snapshots", || {
        last += 1;
        let (cluster, names, last) = (&cluster, &names, last);
        async move {
            cluster.add(0, &format!("k{last}"), "v").await?;
            anyhow::ensure!(names().is_ok_and(|names| names.len() == 3));
            Ok(())
        }
    })
    .await?;
    assert!(cluster.nodes[0].stop().await?.success());
    // The newest file of the newest snapshot is in no other snapshot.
    let newest = names()?.pop().expect("there are three").1;
    let files = fs::read_dir(&newest)?.map(|entry| entry.unwrap().path());
    let table = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).max().unwrap();
    let mut bytes = fs::read(&table)?;
    bytes[10] ^= 1;
    fs::remove_dir_all(place.join("state/0"))?;
    fs::write(&table, &bytes)?;
    cluster.nodes[0].start().await?;
    cluster.nodes[0].has_logged(&["a snapshot on disk is damaged and left out"]).await?;
    for k in 1..=last {
        assert_eq!(cluster.get(0, &format!("k{k}"), true).await?, "v");
    }
    Ok(())
}
