//! A leader whose disk is behind those of its followers is killed and restarted at once: no log id
//! is used twice, and no acknowledged write is lost.

use anyhow::{Result, ensure};
use lockstep_tests::{Options, eventually, formed_of};

/// Writes that are acknowledged before the leader's disk has any of them.
const HELD: usize = 3;

#[tokio::test]
async fn a_leader_that_lost_what_its_followers_committed_uses_no_log_id_twice() -> Result<()> {
    let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    cluster.add(leader, "before", "held").await?;
    cluster.nodes[leader].fail_now(&["log-before-sync=sleep(600000)"]).await?;
    // The followers are a quorum without the leader's disk, and the follower that received the
    // command answers it. There are only few writes, because the leader proposes a limited number
    // of entries beyond its applied index, and it applies only what its disk has.
    let mut last = 0;
    for n in 0..HELD {
        last = cluster.add(follower, &format!("k{n}"), &format!("v{n}")).await?;
    }
    let applied = cluster.nodes[leader].stat().await?["last_applied_index"].as_u64();
    ensure!(applied < Some(last), "the leader applied entry {last}, which its disk did not hold");
    cluster.nodes[leader].kill()?;
    cluster.nodes[leader].fail_at(&[])?;
    cluster.nodes[leader].start().await?;
    // A leader that continued its old term would give the lost ids to these entries.
    for n in 0..20 {
        cluster.add(n % 3, &format!("after{n}"), &format!("w{n}")).await?;
    }
    for n in 0..HELD {
        cluster.everyone_reads(&format!("k{n}"), &format!("v{n}")).await?;
    }
    for n in 0..20 {
        cluster.everyone_reads(&format!("after{n}"), &format!("w{n}")).await?;
    }
    eventually("the restarted leader has it all", || async {
        ensure!(cluster.get(leader, "after19", false).await? == "w19");
        Ok(())
    })
    .await?;
    cluster.everyone_has_one_hash().await
}
