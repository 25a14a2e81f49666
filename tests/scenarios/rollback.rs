//! A change of the guest is taken back: under load without an error and without a lost lock, after
//! a list of what the old guest answers differently, and only while it is on probation. Past that,
//! the old guest migrates the state back.

use anyhow::{Context, Result, ensure};
use lockstep_tests::locks_pb::{CountRequest, GetRequest, WatchRequest};
use lockstep_tests::{Cluster, Options, PATIENCE, eventually};
use serde_json::Value;

use crate::locks::{Takers, acquire, agreed, client, counted, formed, holds, rollback, upgrade};
use crate::printed;

/// More than one call of the migration back rewrites.
const LOCKS: u64 = 150;

#[tokio::test]
async fn the_old_version_takes_over_under_load_and_no_lock_is_lost() -> Result<()> {
    let cluster = formed(3, 1, Options::member()).await?;
    acquire(&cluster, 0, "before").await?;
    let takers = Takers::start(&cluster).await?;
    takers.go_on().await?;
    let follower = cluster.follower().await?;
    let changed = upgrade(&cluster, follower, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    takers.go_on().await?;
    acquire(&cluster, 1, "between").await?;
    let mut watch =
        client(&cluster, follower).await?.watch(WatchRequest { name: "between".into() }).await?.into_inner();
    watch.message().await?.context("it sends who holds it")?;
    let probation = cluster.nodes[follower].status().await?["fsm"]["probation"].take();
    ensure!(probation["has_checkpoint"] == true, "{probation}");
    let back = rollback(&cluster, follower, &[]).await?;
    let said = printed::all(&back);
    ensure!(back.status.success(), "{said}");
    ensure!(said.contains("prepared: the old component has run") && said.contains("rolled back at entry"), "{said}");
    takers.go_on().await?;
    let again = tokio::time::timeout(PATIENCE, watch.message()).await.context("the watch is silent")??;
    ensure!(again.as_ref().is_some_and(|again| again.owner == "ann" && again.reset), "{again:?}");
    let taken = takers.end_each().await?;
    ensure!(!agreed(&cluster).await?, "the old version runs");
    for n in 0..3 {
        for name in ["before", "between"] {
            holds(&cluster, n, name).await?;
        }
        let fsm = cluster.nodes[n].status().await?["fsm"].take();
        ensure!(fsm["version"] == "1" && fsm["last_change"]["verdict"] == "rolled-back", "{fsm}");
        ensure!(fsm["probation"].is_null(), "{fsm}");
        // Only the second version has the method. A client learns what has taken its place.
        let gone = client(&cluster, n).await?.count(CountRequest { linearizable: true }).await;
        let gone = gone.err().context("the first version counts nothing")?;
        let component = fsm["component"].as_str().context("a component")?;
        let index = &fsm["last_change"]["index"];
        let now = format!("the cluster runs component {component} since index {index}");
        ensure!(gone.code() == tonic::Code::Unimplemented && gone.message().contains(&now), "{gone}");
    }
    for (client, taken) in taken.iter().enumerate() {
        for number in 0..*taken {
            holds(&cluster, follower, &format!("taker{client}-{number}")).await?;
        }
    }
    cluster.everyone_has_one_hash().await?;
    // The same version can be tried again.
    let changed = upgrade(&cluster, follower, 2, &[]).await?;
    ensure!(changed.status.success() && agreed(&cluster).await?, "{}", printed::all(&changed));
    Ok(())
}

#[tokio::test]
async fn a_dry_run_lists_what_is_answered_differently_and_changes_nothing() -> Result<()> {
    let cluster = formed(3, 1, Options::member()).await?;
    ensure!(upgrade(&cluster, 0, 2, &[]).await?.status.success());
    acquire(&cluster, 0, "lock").await?;
    let tried = rollback(&cluster, 0, &["--dry_run", "--json"]).await?;
    let said = printed::all(&tried);
    ensure!(tried.status.success(), "{said}");
    let step: Value = serde_json::from_str(said.lines().next().context("a line")?)?;
    ensure!(step["step"] == "prepared" && step["commands"] == 1 && step["different"] == 1, "{step}");
    let reports = step["reports"].as_array().context("reports")?;
    ensure!(reports.len() == 3, "{step}");
    // The first version knows no fences.
    let found = &reports[0]["report"]["differences"][0];
    ensure!(found["request"]["name"] == "lock" && found["old"]["reply"]["fence"] == "1", "{found}");
    ensure!(found["new"]["reply"]["fence"].is_null(), "{found}");
    let quiet = printed::all(&rollback(&cluster, 0, &["--dry_run", "--quiet"]).await?);
    ensure!(quiet.contains("answers 1 of them differently") && !quiet.contains("ann"), "{quiet}");
    ensure!(agreed(&cluster).await?, "the new version runs");
    Ok(())
}

#[tokio::test]
async fn what_is_not_on_probation_is_not_taken_back() -> Result<()> {
    let cluster = formed(1, 1, Options::member()).await?;
    let refused = rollback(&cluster, 0, &[]).await?;
    ensure!(refused.status.code() == Some(1) && printed::all(&refused).contains("no change is on probation"));
    ensure!(upgrade(&cluster, 0, 2, &["--probation", "0s"]).await?.status.success());
    let refused = rollback(&cluster, 0, &[]).await?;
    ensure!(refused.status.code() == Some(1) && printed::all(&refused).contains("no change is on probation"));
    ensure!(agreed(&cluster).await?);
    Ok(())
}

#[tokio::test]
async fn past_its_probation_a_change_is_undone_by_the_migration_of_the_old_version() -> Result<()> {
    let cluster = formed(3, 2, Options::member()).await?;
    for n in 0..LOCKS {
        acquire(&cluster, n as usize % 3, &format!("lock{n}")).await?;
    }
    let fence_before = fence(&cluster, "lock7").await?;
    let changed = upgrade(&cluster, 0, 3, &["--probation", "1s"]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    // Log time moves with the commands.
    eventually("the probation has ended", || async {
        acquire(&cluster, 0, "since").await?;
        let probation = cluster.nodes[0].status().await?["fsm"]["probation"].take();
        ensure!(probation.is_null(), "{probation}");
        Ok(())
    })
    .await?;
    let late = rollback(&cluster, 0, &[]).await?;
    ensure!(late.status.code() == Some(1) && printed::all(&late).contains("a rule for the newer one"));
    // The older version tells of no renewals, so clients may notice.
    let refused = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(refused.status.code() == Some(1) && printed::all(&refused).contains("--allow_breaking"));
    let back = upgrade(&cluster, 0, 2, &["--allow_breaking"]).await?;
    let said = printed::all(&back);
    ensure!(back.status.success() && said.contains("which migrates the state"), "{said}");
    cluster.everyone_has_one_hash().await?;
    for n in 0..3 {
        let fsm = cluster.nodes[n].status().await?["fsm"].take();
        ensure!(fsm["version"] == "2" && fsm["last_change"]["verdict"] == "changed", "{fsm}");
        ensure!(counted(&cluster, n).await? == Some((LOCKS + 1, 0)), "node {n} has lost locks");
        for name in ["lock0", "lock7", "since"] {
            holds(&cluster, n, name).await?;
        }
    }
    ensure!(fence(&cluster, "lock7").await? == fence_before, "a row is another one");
    // The cluster goes on.
    acquire(&cluster, 1, "behind").await?;
    Ok(())
}

/// Returns the fence of a lock.
async fn fence(cluster: &Cluster, name: &str) -> Result<u64> {
    let request = GetRequest { name: name.into(), linearizable: true };
    Ok(client(cluster, 0).await?.get(request).await?.into_inner().fence)
}

#[tokio::test]
async fn a_member_that_is_down_stops_the_rollback_unless_it_is_left_out() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member()).await?;
    ensure!(upgrade(&cluster, 0, 2, &[]).await?.status.success());
    acquire(&cluster, 0, "lock").await?;
    cluster.everyone_has_one_hash().await?;
    let follower = cluster.follower().await?;
    cluster.nodes[follower].kill()?;
    let (leader, name) = (cluster.leader().await?, cluster.nodes[follower].name.clone());
    let stopped = rollback(&cluster, leader, &[]).await?;
    ensure!(printed::all(&stopped).contains(&format!("{name}: it is not reached")), "{}", printed::all(&stopped));
    let back = rollback(&cluster, leader, &["--without", &name]).await?;
    ensure!(back.status.success(), "{}", printed::all(&back));
    // It has the state from before the change, so it follows when it comes.
    cluster.nodes[follower].start().await?;
    eventually("it follows", || async { holds(&cluster, follower, "lock").await }).await?;
    ensure!(!agreed(&cluster).await?);
    cluster.everyone_has_one_hash().await
}

#[tokio::test]
async fn a_joiner_follows_a_rollback_and_one_behind_it_starts_with_the_old_version() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member()).await?;
    ensure!(upgrade(&cluster, 0, 2, &[]).await?.status.success());
    acquire(&cluster, 0, "lock").await?;
    for is_rolled_back in [false, true] {
        let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
        cluster.nodes[joiner].start().await?;
        cluster.add_voter(joiner).await?;
        // It fetches the component of each part of the log that it applies.
        eventually("it follows", || async { holds(&cluster, joiner, "lock").await }).await?;
        if !is_rolled_back {
            let back = rollback(&cluster, 0, &[]).await?;
            ensure!(back.status.success(), "{}", printed::all(&back));
            holds(&cluster, joiner, "lock").await?;
        }
    }
    ensure!(!agreed(&cluster).await?);
    cluster.everyone_has_one_hash().await
}
