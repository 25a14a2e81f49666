//! The guest of a running cluster is replaced: under load without an error, rehearsed before, and
//! not at all when its migration fails, when clients would break, or when a member cannot run it.
//! Watches, reflection, joiners and restarted nodes follow.

use anyhow::{Context, Result, ensure};
use lockstep_tests::locks_pb::WatchRequest;
use lockstep_tests::{
    NodeProcess, Options, PATIENCE, eventually, formed as formed_with_kv, formed_of, kv_wasm, locks_wasm, lockstep,
};
use serde_json::Value;

use crate::locks::{Takers, acquire, agreed, client, counted, formed, release, upgrade, upgrade_to};
use crate::printed;

/// More than one call of the migration moves.
const LOCKS: u64 = 150;

#[tokio::test]
async fn a_new_version_takes_over_under_load_without_an_error() -> Result<()> {
    let cluster = formed(3, 1, Options::member()).await?;
    for n in 0..LOCKS {
        acquire(&cluster, n as usize % 3, &format!("lock{n}")).await?;
    }
    let follower = cluster.follower().await?;
    let request = WatchRequest { name: "lock0".into() };
    let mut watch = client(&cluster, follower).await?.watch(request).await?.into_inner();
    let first = watch.message().await?.context("it sends who holds it")?;
    ensure!(first.owner == "ann" && !first.reset, "{first:?}");
    let takers = Takers::start(&cluster).await?;
    takers.go_on().await?;
    // Through a follower: the leader is found.
    let changed = upgrade(&cluster, follower, 2, &[]).await?;
    let said = printed::all(&changed);
    ensure!(changed.status.success(), "{said}");
    for step in
        ["checked: component ", "prepared: nodeA, nodeB, nodeC", "rehearsed: from version 1", "changed at entry "]
    {
        ensure!(said.contains(step), "{step:?} is not in:\n{said}");
    }
    takers.go_on().await?;
    let again = tokio::time::timeout(PATIENCE, watch.message()).await.context("the watch is silent")??;
    ensure!(again.as_ref().is_some_and(|again| again.owner == "ann" && again.reset), "{again:?}");
    let taken = takers.end().await?;
    ensure!(agreed(&cluster).await?);
    for n in 0..3 {
        ensure!(counted(&cluster, n).await? == Some((LOCKS + taken, 0)), "node {n} has lost locks");
        let fsm = cluster.nodes[n].status().await?["fsm"].take();
        ensure!(fsm["version"] == "2" && fsm["last_change"]["verdict"] == "changed", "{fsm}");
    }
    // Reflection knows the new method.
    let call =
        lockstep(&["call", &cluster.nodes[follower].grpc_addr(), "locks.Locks/Count", r#"{"linearizable":true}"#])?;
    ensure!(call.status.success() && printed::all(&call).contains(r#""texts":"0""#), "{}", printed::all(&call));
    // Again it is no change.
    let again = upgrade(&cluster, follower, 2, &[]).await?;
    ensure!(
        again.status.success() && printed::all(&again).contains("already, since entry"),
        "{}",
        printed::all(&again)
    );
    Ok(())
}

#[tokio::test]
async fn a_dry_run_changes_nothing() -> Result<()> {
    let cluster = formed(3, 1, Options::member()).await?;
    acquire(&cluster, 0, "lock").await?;
    let tried = upgrade(&cluster, 0, 2, &["--dry_run", "--json"]).await?;
    ensure!(tried.status.success(), "{}", printed::all(&tried));
    let steps: Vec<Value> = printed::all(&tried)
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("one object a line")?;
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    ensure!(names == ["checked", "prepared", "rehearsed"], "{names:?}");
    let reports = steps[2]["reports"].as_array().context("reports")?;
    ensure!(reports.len() == 3 && reports.iter().all(|found| found["report"]["migration"]["rows_written"] != 0));
    ensure!(!agreed(&cluster).await?, "it runs the new version");
    let fsm = cluster.nodes[0].status().await?["fsm"].take();
    ensure!(fsm["last_change"].is_null(), "{fsm}");
    Ok(())
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_old_version() -> Result<()> {
    let cluster = formed(3, 1, Options::member()).await?;
    acquire(&cluster, 0, "lock").await?;
    for (name, words) in [("refuse", "refused with FAILED_PRECONDITION"), ("trap", "(trap)"), ("burn", "(fuel)")] {
        acquire(&cluster, 1, name).await?;
        // The rehearsal finds it.
        let rehearsed = upgrade(&cluster, 0, 2, &[]).await?;
        let said = printed::all(&rehearsed);
        ensure!(rehearsed.status.code() == Some(1) && said.contains("the rehearsal speaks against"), "{name}: {said}");
        // So does the entry of the change, without one.
        let tried = upgrade(&cluster, 0, 2, &["--no_rehearsal"]).await?;
        let said = printed::all(&tried);
        ensure!(tried.status.code() == Some(1) && said.contains("not changed at entry"), "{name}: {said}");
        ensure!(said.contains(words) && said.contains("The old component goes on"), "{name}: {said}");
        ensure!(!agreed(&cluster).await?, "{name}: it runs the new version");
        release(&cluster, 2, name).await?;
    }
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    ensure!(agreed(&cluster).await?);
    Ok(())
}

#[tokio::test]
async fn what_breaks_clients_is_not_changed_without_a_word() -> Result<()> {
    let cluster = formed(1, 2, Options::member()).await?;
    let refused = upgrade(&cluster, 0, 1, &[]).await?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("locks.Locks/Count: the method is gone"), "{said}");
    ensure!(said.contains("--allow_breaking"), "{said}");
    ensure!(counted(&cluster, 0).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_method_that_is_gone_names_the_component_and_a_rehearsal_shows_what_differs() -> Result<()> {
    let cluster = formed_with_kv(1, &[]).await?;
    cluster.add(0, "a key", "a secret").await?;
    let tried = upgrade_to(&cluster, 0, &locks_wasm(1), &["--allow_breaking", "--dry_run"]).await?;
    let said = printed::all(&tried);
    ensure!(tried.status.success() && said.contains("Example/Add") && said.contains("a secret"), "{said}");
    let quiet = upgrade_to(&cluster, 0, &locks_wasm(1), &["--allow_breaking", "--quiet"]).await?;
    let said = printed::all(&quiet);
    ensure!(quiet.status.success() && said.contains("Example/Add") && !said.contains("a secret"), "{said}");
    let component = cluster.nodes[0].status().await?["fsm"]["component"].as_str().context("a component")?.to_owned();
    let refused = cluster.add(0, "a key", "another").await.unwrap_err();
    let status = refused.downcast_ref::<tonic::Status>().context("a status")?;
    ensure!(status.code() == tonic::Code::Unimplemented, "{status}");
    ensure!(status.message().contains(&component) && status.message().contains("since index"), "{status}");
    let audit = cluster.nodes[0].log();
    ensure!(audit.contains("lockstep.v1.Admin/Upgrade") && audit.contains(&component), "{audit}");
    Ok(())
}

/// Returns how many commands a node has taken as the leader.
async fn admitted(node: &NodeProcess) -> Result<u64> {
    let (_, text) = node.http("/metrics").await?;
    let count = text.lines().find_map(|line| line.strip_prefix("lockstep_commands_admitted_total "));
    Ok(count.context("no count of commands")?.parse()?)
}

/// Returns how many checkpoints a node has made.
async fn checkpoints(node: &NodeProcess) -> Result<Option<u64>> {
    Ok(node.status().await?["fsm"]["snapshot_count"].as_u64())
}

/// The command is taken while apply stands at the change, so the log has it behind the change.
#[tokio::test]
async fn a_command_behind_the_change_whose_method_is_gone_names_its_index() -> Result<()> {
    let cluster = formed_of(1, Options::member().with_failpoints()).await?;
    let node = &cluster.nodes[0];
    cluster.add(0, "a key", "a value").await?;
    let (made, taken) = (checkpoints(node).await?, admitted(node).await?);
    node.fail_now(&["change-before-migrate=pause"]).await?;
    let release_when_taken = async {
        let is_taken = eventually("the command is taken", || async {
            ensure!(admitted(node).await? > taken, "no command was taken");
            Ok(())
        })
        .await;
        node.fail_at(&[])?;
        is_taken
    };
    let command = async {
        // It makes a checkpoint before it migrates.
        let is_held = eventually("apply stands at the change", || async {
            ensure!(checkpoints(node).await? > made, "no checkpoint was made");
            Ok(())
        })
        .await;
        if is_held.is_err() {
            node.fail_at(&[])?;
        }
        is_held?;
        let (answer, released) = tokio::join!(cluster.add(0, "a key", "another"), release_when_taken);
        released?;
        answer.err().context("the new version answers")
    };
    let locks = locks_wasm(1);
    let (changed, refused) =
        tokio::join!(upgrade_to(&cluster, 0, &locks, &["--allow_breaking", "--no_rehearsal"]), command);
    let (changed, refused) = (changed?, refused?);
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    let status = refused.downcast_ref::<tonic::Status>().context("a status")?;
    let fsm = node.status().await?["fsm"].take();
    let component = fsm["component"].as_str().context("a component")?;
    let now = format!("the cluster runs component {component} now, which has no command Example/Add");
    ensure!(status.code() == tonic::Code::Unimplemented && status.message().contains(&now), "{status}");
    let index = status.message().rsplit(' ').next().and_then(|index| index.parse::<u64>().ok());
    ensure!(index > fsm["last_change"]["index"].as_u64(), "{status}, {fsm}");
    Ok(())
}

#[tokio::test]
async fn a_joiner_and_a_restarted_node_run_the_new_version() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member()).await?;
    acquire(&cluster, 0, "lock").await?;
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    // It is started with the version that the cluster was founded with.
    let restarted = cluster.follower().await?;
    cluster.nodes[restarted].kill()?;
    acquire(&cluster, cluster.leader().await?, "meanwhile").await?;
    cluster.nodes[restarted].start().await?;
    for fsm in [None, Some(locks_wasm(2))] {
        let joiner = cluster.push(Options { fsm, ..Options::member() })?;
        cluster.nodes[joiner].start().await?;
        cluster.add_voter(joiner).await?;
    }
    ensure!(agreed(&cluster).await?);
    for n in 0..cluster.nodes.len() {
        ensure!(counted(&cluster, n).await? == Some((2, 0)), "node {n}");
    }
    Ok(())
}

#[tokio::test]
async fn a_member_that_is_not_reached_stops_the_upgrade() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member()).await?;
    let follower = cluster.follower().await?;
    cluster.nodes[follower].kill()?;
    let leader = cluster.leader().await?;
    let stopped = upgrade(&cluster, leader, 2, &[]).await?;
    let (said, name) = (printed::all(&stopped), cluster.nodes[follower].name.clone());
    ensure!(stopped.status.code() == Some(1) && said.contains(&format!("{name}: it is not reached")), "{said}");
    ensure!(said.contains(&format!("remove_server {name}")), "{said}");
    cluster.nodes[follower].start().await?;
    ensure!(!agreed(&cluster).await?);
    let changed = eventually("every member is ready", || async {
        let changed = upgrade(&cluster, leader, 2, &[]).await?;
        ensure!(changed.status.success(), "{}", printed::all(&changed));
        Ok(())
    });
    changed.await?;
    ensure!(agreed(&cluster).await?);
    Ok(())
}

#[tokio::test]
async fn a_member_without_room_stops_the_upgrade_with_its_words() -> Result<()> {
    let cluster = formed(3, 1, Options::member().with_failpoints()).await?;
    let (follower, leader) = (cluster.follower().await?, cluster.leader().await?);
    let name = cluster.nodes[follower].name.clone();
    cluster.nodes[follower].fail_now(&["component-before-write=return(full)"]).await?;
    let stopped = upgrade(&cluster, leader, 2, &[]).await?;
    let said = printed::all(&stopped);
    ensure!(stopped.status.code() == Some(1), "{said}");
    ensure!(said.contains("not every member can run the new component"), "{said}");
    ensure!(said.contains(&format!("{name}: component ")) && said.contains("No space left on device"), "{said}");
    ensure!(!agreed(&cluster).await?, "it runs the new version");
    // With room again, the same command makes the change.
    cluster.nodes[follower].fail_now(&["component-before-write=off"]).await?;
    let changed = upgrade(&cluster, leader, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    ensure!(agreed(&cluster).await?);
    Ok(())
}

#[tokio::test]
async fn what_is_no_guest_is_refused_before_it_is_sent() -> Result<()> {
    let cluster = formed(1, 1, Options::member()).await?;
    let text = cluster.directory().join("text.wasm");
    std::fs::write(&text, "no wasm")?;
    let refused = upgrade_to(&cluster, 0, &text, &[]).await?;
    ensure!(refused.status.code() == Some(1) && printed::all(&refused).contains("nodes would refuse"));
    let missing = upgrade_to(&cluster, 0, &cluster.directory().join("missing.wasm"), &[]).await?;
    ensure!(missing.status.code() == Some(2), "{}", printed::all(&missing));
    let flags = upgrade_to(&cluster, 0, &kv_wasm(), &["--rehearse", "0"]).await?;
    ensure!(flags.status.code() == Some(2), "{}", printed::all(&flags));
    Ok(())
}
