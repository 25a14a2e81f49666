//! The profile of a running cluster. Limits: shown with units, changed under load without an error,
//! refused out of their range, and rehearsed where they get tighter. Retention and quotas: in force
//! on every node without a restart, and an operator always gets out of a quota.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use lockstep_client::Client;
use lockstep_tests::pb::example_client::ExampleClient;
use lockstep_tests::pb::{WatchRequest, WatchResponse};
use lockstep_tests::{Cluster, Options, eventually, formed as formed_with_kv, lockstep, lockstep_beside, noise};
use tonic::{Code, Status, Streaming};

use crate::locks::{Takers, agreed, formed};
use crate::printed;

/// A write of so many bytes needs more fuel than [`LEAST_FUEL`].
const LARGE_BYTES: usize = 1_000_000;

/// The least quota on the size of the state.
const LEAST_QUOTA_BYTES: u64 = 32 << 20;

/// Most rows of [`LARGE_BYTES`] that are written to get above it. RocksDB's estimate may be low.
const ROWS_MAX: u64 = 200;

/// The least fuel that a command may have.
const LEAST_FUEL: &str = "fuel_per_command=1000000";

/// Runs `lockstep admin profile` against node `n`.
async fn profile(cluster: &Cluster, n: usize, words: &[&str]) -> Result<Output> {
    let addr = cluster.nodes[n].grpc_addr();
    lockstep_beside(&[&["admin", &addr, "profile"][..], words].concat()).await
}

/// Waits until every node shows this line of the table.
async fn everyone_shows(cluster: &Cluster, limit: &str, value: &str) -> Result<()> {
    eventually("every node has the limit", || async {
        for n in 0..cluster.nodes.len() {
            let shown = profile(cluster, n, &[]).await?;
            let said = printed::all(&shown);
            let line = said.lines().find(|line| line.starts_with(&format!("{limit} "))).context("no such line")?;
            let found = line.split_whitespace().nth(1);
            ensure!(shown.status.success() && found == Some(value), "node {n}: {line}");
        }
        Ok(())
    })
    .await
}

/// The second version of the lock service has a migrator, which a change of limits leaves alone.
#[tokio::test]
async fn limits_change_under_load_without_an_error() -> Result<()> {
    let mut cluster = formed(3, 2, Options::member()).await?;
    let takers = Takers::start(&cluster).await?;
    takers.go_on().await?;
    let follower = cluster.follower().await?;
    let set = ["set", "memory_bytes_max=96MiB", "fuel_per_query=500000000"];
    let changed = profile(&cluster, follower, &set).await?;
    let said = printed::all(&changed);
    ensure!(changed.status.success(), "{said}");
    for part in [
        "memory_bytes_max: 67108864 -> 100663296 bytes, wider",
        "fuel_per_query: 1000000000 -> 500000000 fuel, tighter",
    ] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    for step in ["prepared: nodeA, nodeB, nodeC", "rehearsed: ", "changed at entry "] {
        ensure!(said.contains(step), "{step:?} is not in:\n{said}");
    }
    takers.go_on().await?;
    everyone_shows(&cluster, "memory_bytes_max", "96MiB").await?;
    let again = profile(&cluster, follower, &set).await?;
    ensure!(again.status.success() && printed::all(&again).contains("in force already"), "{}", printed::all(&again));
    takers.end().await?;
    ensure!(agreed(&cluster).await?);
    // A node that comes later, and one that starts again, run under the new limits.
    let leader = cluster.leader().await?;
    cluster.nodes[leader].kill()?;
    cluster.nodes[leader].start().await?;
    let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    everyone_shows(&cluster, "memory_bytes_max", "96MiB").await?;
    ensure!(agreed(&cluster).await?);
    Ok(())
}

#[tokio::test]
async fn a_tighter_limit_that_commands_would_notice_stops_without_a_word() -> Result<()> {
    let cluster = formed_with_kv(3, &[]).await?;
    let large = "x".repeat(LARGE_BYTES);
    cluster.add(0, "large", &large).await?;
    let leader = cluster.leader().await?;
    let stopped = profile(&cluster, leader, &["set", LEAST_FUEL]).await?;
    let said = printed::all(&stopped);
    ensure!(stopped.status.code() == Some(1) && said.contains("clients would notice the change"), "{said}");
    ensure!(said.contains("Example/Add") && said.contains("allow_failing"), "{said}");
    cluster.add(1, "large", &large).await?;
    let tried = profile(&cluster, leader, &["set", LEAST_FUEL, "allow_failing", "dry_run"]).await?;
    ensure!(tried.status.success() && printed::all(&tried).contains("nothing was changed"), "{}", printed::all(&tried));
    cluster.add(2, "large", &large).await?;
    let changed = profile(&cluster, leader, &["set", LEAST_FUEL, "allow_failing"]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    everyone_shows(&cluster, "fuel_per_command", "1000000").await?;
    for n in 0..3 {
        let refused = cluster.add(n, "large", &large).await.err().context("it had the fuel")?;
        let status = refused.downcast_ref::<Status>().context("a status")?;
        ensure!(status.code() == Code::ResourceExhausted && status.message().contains("fuel"), "{status}");
        cluster.add(n, "small", "value").await?;
    }
    cluster.everyone_has_one_hash().await
}

#[tokio::test]
async fn what_is_no_limit_or_out_of_range_is_refused_with_the_range() -> Result<()> {
    let cluster = formed_with_kv(1, &[]).await?;
    for (word, words) in [
        ("fuel_per_command=200000000", "fuel_per_command is 1000000 to 125000000 fuel"),
        ("memory_bytes_max=1GiB", "memory_bytes_max is 65536 to 268435456 bytes"),
        ("wasm_stack_bytes=1MiB", "cannot be changed while a cluster runs"),
        ("stars_max=1", "there is no limit"),
    ] {
        let refused = profile(&cluster, 0, &["set", word]).await?;
        let said = printed::all(&refused);
        ensure!(refused.status.code() == Some(1) && said.contains(words), "{word}: {said}");
    }
    let typed = profile(&cluster, 0, &["set", "fuel"]).await?;
    ensure!(typed.status.code() == Some(2), "{}", printed::all(&typed));
    cluster.add(0, "key", "value").await?;
    Ok(())
}

/// Waits until every running node shows this value, and where it comes from.
async fn everyone_keeps(cluster: &Cluster, key: &str, wanted: &[&str]) -> Result<()> {
    eventually("every node has the value", || async {
        for n in (0..cluster.nodes.len()).filter(|n| cluster.nodes[*n].running()) {
            let said = printed::all(&profile(cluster, n, &[]).await?);
            let line = said.lines().find(|line| line.starts_with(&format!("{key} "))).context("no such line")?;
            let found: Vec<&str> = line.split_whitespace().skip(1).take(wanted.len()).collect();
            ensure!(found == wanted, "node {n}: {line}");
        }
        Ok(())
    })
    .await
}

/// Sets values through whoever leads, until a leader takes them.
async fn set(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let words = [&["set"][..], words].concat();
    eventually("the leader sets the values", || async {
        let set = profile(cluster, cluster.leader().await?, &words).await?;
        ensure!(set.status.success(), "{}", printed::all(&set));
        Ok(printed::all(&set))
    })
    .await
}

fn refusal(refused: Result<u64>) -> Result<Status> {
    let error = refused.err().context("it was taken")?;
    let status = error.downcast_ref::<Status>().context("a status")?;
    let outcome = status.metadata().get("lockstep-outcome").and_then(|value| value.to_str().ok());
    ensure!(status.code() == Code::ResourceExhausted && outcome == Some("not-applied"), "{status:?}");
    Ok(status.clone())
}

#[tokio::test]
async fn retention_of_the_profile_holds_on_every_node_without_a_restart() -> Result<()> {
    let mut cluster = formed_with_kv(3, &[]).await?;
    everyone_keeps(&cluster, "snapshot_interval_ms", &["120000", "ms", "--snapshot_interval"]).await?;
    let values = ["snapshot_interval_ms=100", "snapshot_threshold_commands=1", "trailing_commands=7"];
    let said = set(&cluster, &values).await?;
    ensure!(said.contains("every member knows") && said.contains("changed at entry "), "{said}");
    everyone_keeps(&cluster, "trailing_commands", &["7", "commands", "profile"]).await?;
    // The nodes were in a wait of two minutes, which ends at once.
    cluster.add(0, "key", "value").await?;
    eventually("every node makes a snapshot", || async {
        for node in &cluster.nodes {
            let status = node.status().await?;
            ensure!(status["fsm"]["snapshot_count"].as_u64() > Some(0), "{}", status["fsm"]);
        }
        Ok(())
    })
    .await?;
    let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    cluster.nodes[0].kill()?;
    cluster.nodes[0].start().await?;
    everyone_keeps(&cluster, "trailing_commands", &["7", "commands", "profile"]).await?;
    let again = set(&cluster, &values).await?;
    ensure!(again.contains("in force already"), "{again}");
    set(&cluster, &["snapshot_interval_ms=none", "trailing_commands=none"]).await?;
    everyone_keeps(&cluster, "trailing_commands", &["10240", "commands", "--trailing_logs"]).await?;
    cluster.everyone_has_one_hash().await
}

/// Writes rows until the leader's state is well above the least quota. Returns how many there are.
async fn fill(cluster: &Cluster, leader: usize) -> Result<u64> {
    for row in 0..ROWS_MAX {
        cluster.add(leader, &format!("row{row}"), &noise(row, LARGE_BYTES)).await?;
        let bytes = cluster.nodes[leader].status().await?["fsm"]["state_bytes"].as_u64().context("no size")?;
        if bytes > LEAST_QUOTA_BYTES + (8 << 20) {
            return Ok(row + 1);
        }
    }
    anyhow::bail!("{ROWS_MAX} rows are not enough")
}

#[tokio::test]
async fn a_state_above_its_quota_takes_reads_and_what_frees_room() -> Result<()> {
    let cluster = formed_with_kv(3, &[]).await?;
    let leader = cluster.leader().await?;
    let rows = fill(&cluster, leader).await?;
    let below = profile(&cluster, leader, &["set", "state_bytes_max=32MiB"]).await?;
    let said = printed::all(&below);
    ensure!(below.status.code() == Some(1) && said.contains("commands are refused from the entry on"), "{said}");
    ensure!(said.contains("allow_failing"), "{said}");
    cluster.add(0, "still", "taken").await?;
    set(&cluster, &["state_bytes_max=32MiB", "allow_failing"]).await?;
    everyone_keeps(&cluster, "state_bytes_max", &["32MiB", "profile"]).await?;
    for n in 0..3 {
        let status = refusal(cluster.add(n, "key", "refused").await)?;
        for part in ["its quota is 33554432", "profile set state_bytes_max=", "methods_over_quota"] {
            ensure!(status.message().contains(part), "{part:?} is not in {}", status.message());
        }
    }
    cluster.everyone_reads("still", "taken").await?;
    // Small values take the place of the large ones. RocksDB counts these until it rewrites its
    // files, and while commands are refused nothing else makes it do so.
    set(&cluster, &["methods_over_quota=Example/Add"]).await?;
    for row in 0..rows {
        cluster.add(leader, &format!("row{row}"), "small").await?;
    }
    set(&cluster, &["methods_over_quota=none"]).await?;
    eventually("commands are taken again", || async { cluster.add(2, "key", "taken").await }).await?;
    cluster.everyone_reads("key", "taken").await?;
    cluster.everyone_has_one_hash().await
}

#[tokio::test]
async fn commands_above_the_rate_are_refused_and_may_be_sent_again() -> Result<()> {
    let cluster = formed_with_kv(3, &[]).await?;
    set(&cluster, &["commands_per_second_max=1"]).await?;
    let leader = cluster.leader().await?;
    // Two commands of one second: the second one is over the quota, unless the first took a second.
    let refused = eventually("one is refused", || async {
        drop(cluster.add(leader, "key", "one").await);
        refusal(cluster.add(leader, "key", "two").await)
    })
    .await?;
    ensure!(refused.message().contains("the leader takes 1 commands a second"), "{refused:?}");
    let metrics = cluster.nodes[leader].http("/metrics").await?.1;
    ensure!(metrics.contains("lockstep_quota{quota=\"commands_per_second_max\"} 1"), "{metrics}");
    ensure!(metrics.contains("lockstep_quota_refused_total{quota=\"commands_per_second_max\"}"), "{metrics}");
    set(&cluster, &["commands_per_second_max=none"]).await?;
    for n in 0..20 {
        cluster.add(leader, "key", &n.to_string()).await?;
    }
    cluster.everyone_has_one_hash().await
}

/// Opens a watch of `key`, and reads what it begins with.
async fn watch(client: &mut ExampleClient<Client>) -> Result<Streaming<WatchResponse>, Status> {
    let mut stream = client.watch(WatchRequest { key: "key".into(), ..WatchRequest::default() }).await?.into_inner();
    stream.message().await?.ok_or_else(|| Status::unknown("the stream ended"))?;
    Ok(stream)
}

#[tokio::test]
async fn watches_above_the_quota_of_a_node_are_refused_and_open_ones_stay() -> Result<()> {
    let cluster = formed_with_kv(3, &[]).await?;
    set(&cluster, &["watches_per_node_max=2"]).await?;
    everyone_keeps(&cluster, "watches_per_node_max", &["2", "watches", "profile"]).await?;
    let mut clients = [cluster.nodes[1].client().await?, cluster.nodes[2].client().await?];
    let mut open = [watch(&mut clients[0]).await?, watch(&mut clients[0]).await?];
    let refused = watch(&mut clients[0]).await.err().context("a third watch was taken")?;
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message().contains("2 watches are open on this node"), "{refused:?}");
    let elsewhere = watch(&mut clients[1]).await.context("each node has its own")?;
    set(&cluster, &["watches_per_node_max=1", "allow_failing"]).await?;
    everyone_keeps(&cluster, "watches_per_node_max", &["1", "watches", "profile"]).await?;
    cluster.add(0, "key", "value").await?;
    for stream in &mut open {
        let changed = stream.message().await?.context("an open watch stays")?;
        ensure!(changed.value == "value", "{changed:?}");
    }
    let metrics = cluster.nodes[1].http("/metrics").await?.1;
    for line in
        ["lockstep_watches_open 2", "lockstep_watches_max 1", "lockstep_quota{quota=\"watches_per_node_max\"} 1"]
    {
        ensure!(metrics.contains(line), "no {line}:\n{metrics}");
    }
    set(&cluster, &["watches_per_node_max=none"]).await?;
    everyone_keeps(&cluster, "watches_per_node_max", &["none"]).await?;
    open[0] = watch(&mut clients[0]).await.context("there is no quota any more")?;
    drop((open, elsewhere));
    Ok(())
}

#[tokio::test]
async fn a_restore_names_the_quotas_that_the_new_cluster_keeps() -> Result<()> {
    let old = formed_with_kv(1, &[]).await?;
    old.add(0, "key", "value").await?;
    set(&old, &["state_bytes_max=1GiB", "watches_per_node_max=7"]).await?;
    let (file, addr) = (old.directory().join("today.backup"), old.nodes[0].grpc_addr());
    let backup = lockstep(&["backup", &addr])?;
    ensure!(backup.status.success(), "{}", printed::stderr(&backup));
    std::fs::write(&file, &backup.stdout)?;
    let mut new = Cluster::new()?;
    let (from, place) = (file.display().to_string(), new.directory().display().to_string());
    let restored = lockstep(&["restore", "--from", &from, "--raft_id=nodeA", "--raft_data_dir", &place])?;
    let said = printed::all(&restored);
    ensure!(
        restored.status.success() && said.contains("state_bytes_max=") && said.contains("watches_per_node_max=7"),
        "{said}"
    );
    let first = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[first].start().await?;
    everyone_keeps(&new, "watches_per_node_max", &["7", "watches", "profile"]).await
}

#[tokio::test]
async fn values_that_cannot_be_are_refused_in_words() -> Result<()> {
    let cluster = formed_with_kv(1, &[]).await?;
    for (words, said) in [
        (&["state_bytes_max=1"][..], "state_bytes_max is 33554432 to"),
        (&["watches_per_node_max=5000"], "1 to 4096 watches"),
        (&["methods_over_quota=Example/Add"], "says nothing without state_bytes_max"),
        (&["log_quota_bytes=1MiB", "snapshot_threshold_bytes=2MiB"], "must not be above log_quota_bytes"),
        (&["trailing_commands=5", "fuel_per_command=5000000"], "by another"),
        (&["state_bytes_max=1GiB", "methods_over_quota=Example/Ad"], "no command matches"),
    ] {
        let refused = profile(&cluster, 0, &[&["set"][..], words].concat()).await?;
        let printed = printed::all(&refused);
        ensure!(refused.status.code() == Some(1) && printed.contains(said), "{words:?}: {printed}");
    }
    everyone_keeps(&cluster, "trailing_commands", &["10240", "commands", "--trailing_logs"]).await
}

/// A value that contradicted the flag of another member was set without a word, and a member that
/// was down was not named.
#[tokio::test]
async fn members_say_what_contradicts_their_flags_and_those_that_are_down_are_named() -> Result<()> {
    let mut cluster = formed_with_kv(3, &["--snapshot_threshold_bytes=0"]).await?;
    let more = vec!["--snapshot_threshold_bytes=64MiB".to_owned()];
    let joiner = cluster.push(Options { fsm: None, more, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    let name = cluster.nodes[joiner].name.clone();
    let leader = cluster.leader().await?;
    let objected = profile(&cluster, leader, &["set", "log_quota_bytes=1MiB"]).await?;
    let said = printed::all(&objected);
    ensure!(objected.status.code() == Some(1) && said.contains("allow_failing"), "{said}");
    ensure!(said.contains(&format!("{name} objects: snapshot_threshold_bytes is 67108864 there")), "{said}");
    ensure!(said.matches("objects: ").count() == 1, "{said}");
    let said = set(&cluster, &["log_quota_bytes=1MiB", "snapshot_threshold_bytes=512KiB"]).await?;
    ensure!(said.contains("every member knows") && !said.contains("not reached"), "{said}");
    cluster.nodes[joiner].kill()?;
    let said = set(&cluster, &["trailing_commands=7"]).await?;
    ensure!(said.contains(&format!("not asked whether they can: {name}")), "{said}");
    cluster.nodes[joiner].start().await?;
    everyone_keeps(&cluster, "trailing_commands", &["7", "commands", "profile"]).await
}
