//! The leader's disk hangs at one write of its log, without an error. Another node becomes leader
//! after a few heartbeat timeouts, and clients continue there. The node with the hung disk says why
//! it accepts nothing, and catches up when its disk works again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::{Cluster, Options, eventually, formed_of};
use tonic::{Code, Request, Status};

/// Time for which the disk hangs. It is far longer than a change of leader takes.
const HUNG: Duration = Duration::from_secs(12);

/// Writes at node `n` with a deadline of one second.
async fn write(cluster: &Cluster, n: usize, key: &str) -> Result<Result<(), Status>> {
    let mut request = Request::new(AddRequest { key: key.into(), val: "v".into() });
    request.set_timeout(Duration::from_secs(1));
    Ok(cluster.nodes[n].client().await?.add(request).await.map(drop))
}

#[tokio::test]
async fn a_leader_whose_disk_hangs_lets_go_of_its_leadership() -> Result<()> {
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let hung = cluster.leader().await?;
    let term = cluster.nodes[hung].stat().await?["raft"]["term"].clone();
    let others: Vec<usize> = (0..3).filter(|n| *n != hung).collect();
    cluster.add(hung, "before", "v").await?;
    cluster.nodes[hung].fail_now(&[&format!("log-before-sync=1*sleep({})", HUNG.as_millis())]).await?;
    let hung_at = Instant::now();
    // The write that hangs. Its outcome is unknown here; the followers have the entry.
    let first = write(&cluster, hung, "hung").await?;
    ensure!(first.is_err(), "acknowledged although it is on no disk of the leader's");
    let next = eventually("another one leads", || async {
        let stat = cluster.nodes[others[0]].stat().await?;
        let leader = stat["leader"]["node_id"].as_str().context("no leader")?.to_owned();
        ensure!(leader != cluster.nodes[hung].name && stat["raft"]["term"] != term, "still {leader}");
        Ok(leader)
    })
    .await?;
    println!("{next} leads {:?} after the disk hung", hung_at.elapsed());
    for n in &others {
        write(&cluster, *n, &format!("during{n}")).await?.with_context(|| format!("at {n}"))?;
    }
    let refused = write(&cluster, hung, "refused").await?.err().context("a node whose disk hangs took a write")?;
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message().contains("writing one batch of its log"), "{refused}");
    ensure!(hung_at.elapsed() < HUNG, "the disk is back already, after {:?}", hung_at.elapsed());

    eventually("the node whose disk is back takes writes", || async { Ok(write(&cluster, hung, "after").await??) })
        .await?;
    ensure!(cluster.leader().await? != hung, "leadership went back");
    for key in ["before", "hung", "after"] {
        cluster.everyone_reads(key, "v").await?;
    }
    for n in others {
        cluster.everyone_reads(&format!("during{n}"), "v").await?;
    }
    cluster.everyone_has_one_hash().await
}
