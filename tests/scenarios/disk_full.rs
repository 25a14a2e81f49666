//! A full disk: commands are refused with the reason, reads and purges continue, commands resume
//! when there is space again, and a node can start on a full disk. Each node has a small disk of
//! its own in memory. That needs root; without it the tests print a notice and are skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, noise};

const DISK: &str = "size=160m";
const FLAGS: [&str; 5] = [
    "--min_free_bytes=33554432",
    "--snapshot_threshold=20",
    "--snapshot_interval=1s",
    "--trailing_logs=5",
    "--trailing_entries_min=5",
];

/// A file system in memory that is unmounted when the value is dropped. Declare it after the
/// cluster, or the nodes would still use it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Option<Disk>> {
        fs::create_dir_all(at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "lockstep-test"]).arg(at).output()?;
        if mounted.status.success() {
            return Ok(Some(Disk(at.to_owned())));
        }
        eprintln!("SKIPPED: a small disk cannot be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim());
        Ok(None)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Fills all free space.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.filler())?;
        let block = vec![1; 1 << 16];
        loop {
            match file.write(&block) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount, because a node that the test gave up on may still have files open.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Forms a cluster of three voters, each on a disk of its own.
/// Returns `None` where no disk can be mounted.
async fn formed() -> Result<Option<(Cluster, Vec<Disk>)>> {
    formed_with(&[]).await
}

async fn formed_with(more: &[&str]) -> Result<Option<(Cluster, Vec<Disk>)>> {
    let mut cluster = Cluster::new()?;
    let mut disks = Vec::new();
    for n in 0..3 {
        let options = if n == 0 { Options::bootstrap() } else { Options::member() };
        let n = cluster.push(options.with(&FLAGS).with(more))?;
        let place = cluster.directory().join(&cluster.nodes[n].name);
        let Some(disk) = Disk::mount(&place)? else { return Ok(None) };
        disks.push(disk);
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    for n in 0..40 {
        cluster.add(n % 3, &format!("k{n}"), "before").await?;
    }
    Ok(Some((cluster, disks)))
}

/// Waits until node `n` refuses commands because of the disk of `who`. Checks the refusal.
async fn refused(cluster: &Cluster, n: usize, who: &str) -> Result<()> {
    // The node accepts commands until it has checked its disk.
    eventually("commands are refused", || refuses(cluster, n, "probe", who)).await?;
    refuses(cluster, n, "never", who).await
}

async fn refuses(cluster: &Cluster, n: usize, key: &str, who: &str) -> Result<()> {
    let request = AddRequest { key: key.into(), val: "x".into() };
    let status = match cluster.nodes[n].client().await?.add(request).await {
        Ok(_) => anyhow::bail!("the command was taken"),
        Err(status) => status,
    };
    let outcome = status.metadata().get("lockstep-outcome").and_then(|outcome| outcome.to_str().ok());
    ensure!(status.code() == tonic::Code::ResourceExhausted, "{status:?}");
    ensure!(outcome == Some("not-applied"), "{status:?}");
    ensure!(status.message().contains(&format!("the disk of node {who} is nearly full")), "{status:?}");
    Ok(())
}

async fn taken_again(cluster: &Cluster, value: &str) -> Result<()> {
    for n in 0..3 {
        eventually("commands are taken again", || cluster.add(n, "again", value)).await?;
    }
    cluster.everyone_reads("again", value).await
}

async fn level(cluster: &Cluster, n: usize, level: &str) -> Result<()> {
    eventually("the level of the disk", || async {
        let stat = cluster.nodes[n].stat().await?;
        ensure!(stat["disk"]["state"] == level, "{}", stat["disk"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_leader_whose_disk_is_full_refuses_commands_and_resumes() -> Result<()> {
    let Some((cluster, disks)) = formed().await? else { return Ok(()) };
    let leader = cluster.leader().await?;
    let name = cluster.nodes[leader].name.clone();
    disks[leader].fill()?;
    for n in 0..3 {
        refused(&cluster, n, &name).await?;
    }
    cluster.everyone_reads("k39", "before").await?;
    let (code, body) = cluster.nodes[leader].http("/readyz").await?;
    assert!(code == 200 && body.contains("is nearly full"), "{code} {body}");
    assert!(cluster.nodes[leader].http("/metrics").await?.1.contains("lockstep_disk_level "));
    assert_eq!(cluster.leader().await?, leader, "a full disk deposes nobody");
    disks[leader].empty()?;
    level(&cluster, leader, "ample").await?;
    taken_again(&cluster, "leader").await?;
    assert_eq!(cluster.get(leader, "never", true).await?, "", "a refused command never ran");
    Ok(())
}

#[tokio::test]
async fn a_follower_whose_disk_is_full_costs_nobody_anything_and_catches_up() -> Result<()> {
    let Some((mut cluster, disks)) = formed().await? else { return Ok(()) };
    let follower = cluster.follower().await?;
    let leader = cluster.leader().await?;
    disks[follower].fill()?;
    level(&cluster, follower, "full").await?;
    // Twice the amount that a full disk still accepts.
    let value = "while full ".repeat(1000);
    for n in 0..200 {
        cluster.add(n % 3, &format!("f{n}"), &value).await?;
    }
    assert_eq!(cluster.leader().await?, leader);
    // The follower can also start on the full disk.
    cluster.nodes[follower].kill()?;
    disks[follower].fill()?;
    cluster.nodes[follower].start().await?;
    cluster.add(leader, "g", "started").await?;
    disks[follower].empty()?;
    eventually("the follower has caught up", || async {
        ensure!(cluster.get(follower, "g", false).await? == "started");
        Ok(())
    })
    .await?;
    taken_again(&cluster, "follower").await
}

#[tokio::test]
async fn all_disks_full_refuse_read_purge_restart_and_resume() -> Result<()> {
    let Some((mut cluster, disks)) = formed().await? else { return Ok(()) };
    let leader = cluster.leader().await?;
    for disk in &disks {
        disk.fill()?;
    }
    let name = cluster.nodes[leader].name.clone();
    refused(&cluster, leader, &name).await?;
    cluster.everyone_reads("k39", "before").await?;
    // All nodes are killed at once, with no free space on any disk: they start, elect a leader, and
    // serve reads.
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks) {
        disk.fill()?;
        node.spawn()?;
    }
    eventually("everyone reads again", || cluster.everyone_reads("k39", "before")).await?;
    let leader = cluster.leader().await?;
    let name = cluster.nodes[leader].name.clone();
    refused(&cluster, leader, &name).await?;
    for disk in &disks {
        disk.empty()?;
    }
    taken_again(&cluster, "all").await?;
    for n in 0..40 {
        assert_eq!(cluster.get(n % 3, &format!("k{n}"), true).await?, "before");
    }
    Ok(())
}

/// Waits until `node` has the state of a snapshot. A transfer takes half a minute, and one that is
/// under way may still fail.
async fn is_installed(node: &NodeProcess) -> Result<()> {
    let mut installed = Ok(());
    for _ in 0..3 {
        let looked = eventually("it is installed", || async {
            let status = node.status().await?;
            ensure!(status["fsm"]["restore_count"].as_u64() >= Some(1) && status["mode"] == "serving", "{status}");
            Ok(())
        });
        installed = looked.await;
        if installed.is_ok() {
            break;
        }
    }
    installed
}

#[tokio::test]
async fn a_snapshot_that_finds_no_room_costs_nothing_and_is_installed_when_there_is_some() -> Result<()> {
    let Some((mut cluster, disks)) = formed_with(&["--snapshot_rate_limit=384KiB"]).await? else { return Ok(()) };
    let follower = cluster.follower().await?;
    let leader = cluster.leader().await?;
    let has = cluster.nodes[follower].status().await?["raft"]["last_log_index"].as_u64();
    cluster.nodes[follower].kill()?;
    for n in 0..24 {
        cluster.add(leader, &format!("large{n}"), &noise(n, 512 << 10)).await?;
    }
    // A snapshot may be taken between the writes above. Then more writes are needed before the next
    // one.
    eventually("the log that the follower misses is purged", || async {
        cluster.add(leader, "more", "and more").await?;
        let purged = cluster.nodes[leader].status().await?["raft"]["purged_index"].as_u64();
        ensure!(purged > has.map(|index| index + 1), "purged up to {purged:?}");
        Ok(())
    })
    .await?;
    disks[follower].fill()?;
    cluster.nodes[follower].start().await?;
    // Also fills the space that the ballast file had, before the snapshot arrives, which takes half
    // a minute.
    disks[follower].fill()?;
    eventually("a snapshot is on its way", || async {
        let transfers = cluster.nodes[leader].status().await?["transfers"].take();
        ensure!(transfers.as_array().is_some_and(|transfers| !transfers.is_empty()), "{transfers}");
        Ok(())
    })
    .await?;
    eventually("a snapshot found no room", || async {
        let log = cluster.nodes[leader].log();
        ensure!(log.contains("cannot restore the snapshot") && log.contains("No space left"), "not refused");
        Ok(())
    })
    .await?;
    let status = cluster.nodes[follower].status().await?;
    ensure!(status["fsm"]["restore_count"] == 0 && status["disk"]["state"] == "full", "{status}");
    disks[follower].empty()?;
    is_installed(&cluster.nodes[follower]).await?;
    cluster.everyone_reads("large23", &noise(23, 512 << 10)).await?;
    taken_again(&cluster, "installed").await?;
    cluster.everyone_has_one_hash().await
}
