//! A bootstrap where a cluster exists already: a member that lost its directory and is started with
//! the same command line, and a second node name in the same `--raft_data_dir`.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, AddVoterRequest, GetRequest, RemoveServerRequest};
use lockstep_tests::{Cluster, NodeProcess, Options, Signal, eventually, formed};

/// Forms a cluster of three nodes and wipes the directory of the one that bootstrapped it. Then the
/// others have a leader, and that leader has noticed that the first node is gone.
async fn wiped_founder() -> Result<(Cluster, tempfile::TempDir)> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    eventually("everybody has it", || cluster.everyone_reads("key", "value")).await?;
    cluster.nodes[0].kill()?;
    // A founder listens for a moment only. A leader that dials anew speaks to it in time.
    eventually("the others miss it", || async {
        let leader = cluster.leader_without(0).await?;
        let (log, name) = (cluster.nodes[leader].log(), &cluster.nodes[0].name);
        let misses_it = |line: &str| line.contains("a peer is unreachable") && line.contains(name.as_str());
        ensure!(log.lines().any(misses_it), "not yet");
        Ok(())
    })
    .await?;
    let empty = tempfile::tempdir()?;
    cluster.nodes[0].data_dir = empty.path().to_path_buf();
    ensure!(cluster.nodes[0].options.bootstrap, "its command line is the same");
    Ok((cluster, empty))
}

async fn says(node: &NodeProcess, words: &[&str]) -> Result<()> {
    eventually("readyz says whose place this is", || async {
        let (code, body) = node.http("/readyz").await?;
        ensure!(code == 503 && body.contains("mode is disputed"), "{code} {body}");
        for word in words {
            ensure!(body.contains(word), "{word:?} is not in: {body}");
        }
        Ok(())
    })
    .await
    .with_context(|| node.log())
}

async fn serves_nothing(node: &NodeProcess) -> Result<()> {
    let mut client = node.client().await?;
    let add = client.add(AddRequest { key: "lost".into(), val: "write".into() }).await.unwrap_err();
    ensure!(add.message().contains("cluster"), "{add:?}");
    for linearizable in [false, true] {
        client.get(GetRequest { key: "key".into(), linearizable }).await.unwrap_err();
    }
    Ok(())
}

#[tokio::test]
async fn a_wiped_founder_forms_no_second_cluster_and_comes_home_while_it_runs() -> Result<()> {
    let (mut cluster, _empty) = wiped_founder().await?;
    cluster.nodes[0].start().await?;
    says(&cluster.nodes[0], &["no new cluster was formed", "remove_server nodeA", "--raft_bootstrap=force"]).await?;
    serves_nothing(&cluster.nodes[0]).await?;
    eventually("the others write", || cluster.add(1, "key", "newer")).await?;

    let name = cluster.nodes[0].name.clone();
    eventually("it is removed", || async {
        let leader = cluster.leader_without(0).await?;
        let request = RemoveServerRequest { id: name.clone(), previous_index: 0 };
        let operation = cluster.nodes[leader].manager().await?.remove_server(request).await?.into_inner();
        cluster.finish(leader, operation).await
    })
    .await?;
    eventually("it is added", || async {
        let leader = cluster.leader_without(0).await?;
        let address = cluster.nodes[0].raft_addr();
        let request = AddVoterRequest { id: name.clone(), address, previous_index: 0 };
        let operation = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
        cluster.finish(leader, operation).await
    })
    .await?;
    eventually("it serves what the cluster has", || cluster.everyone_reads("key", "newer")).await
}

/// The new cluster is founded while the other nodes are paused. When it hears them, it yields, and
/// stays so until an operator decides.
#[tokio::test]
async fn a_second_cluster_yields_to_the_first_one_when_that_is_heard() -> Result<()> {
    let (mut cluster, _empty) = wiped_founder().await?;
    cluster.nodes[1].signal(Signal::SIGSTOP)?;
    cluster.nodes[2].signal(Signal::SIGSTOP)?;
    cluster.nodes[0].start().await?;
    eventually("it founds another one", || async { cluster.add(0, "key", "of the second").await }).await?;
    cluster.nodes[1].signal(Signal::SIGCONT)?;
    cluster.nodes[2].signal(Signal::SIGCONT)?;
    says(&cluster.nodes[0], &["is alone in cluster", "takes it for a member of its own", "--raft_bootstrap=force"])
        .await?;
    serves_nothing(&cluster.nodes[0]).await?;
    // Who was paused elects first.
    let value = eventually("the first cluster answers", || cluster.get(1, "key", true)).await?;
    ensure!(value == "value", "the first cluster is as it was");

    cluster.nodes[1].kill()?;
    cluster.nodes[2].kill()?;
    cluster.nodes[0].stop().await?;
    cluster.nodes[0].start().await?;
    says(&cluster.nodes[0], &["is alone in cluster"]).await?;
    cluster.nodes[0].stop().await?;
    cluster.nodes[0].options = cluster.nodes[0].options.clone().with(&["--raft_bootstrap=force"]);
    cluster.nodes[0].options.bootstrap = false;
    cluster.nodes[1].start().await?;
    cluster.nodes[2].start().await?;
    let before = cluster.nodes[0].log().len();
    cluster.nodes[0].start().await?;
    eventually("it is meant", || cluster.add(0, "key", "newer")).await?;
    eventually("the others speak to it", || async {
        ensure!(cluster.nodes[0].log()[before..].contains("refused a peer message"), "not yet");
        Ok(())
    })
    .await?;
    let value = eventually("it serves on", || cluster.get(0, "key", true)).await?;
    ensure!(value == "newer", "it reads {value:?}");
    let (_, body) = cluster.nodes[0].http("/readyz").await?;
    ensure!(!body.contains("disputed"), "it stays so, though the others speak to it: {body}");
    Ok(())
}

#[tokio::test]
async fn no_cluster_is_formed_beside_the_data_of_other_nodes_unless_it_is_meant() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let place = cluster.directory().to_path_buf();
    let mut second = NodeProcess::new("other", &place, Options::bootstrap())?;
    second.spawn()?;
    ensure!(!second.wait_exit().await?.success(), "it runs");
    let log = second.log();
    for words in ["--raft_bootstrap", "nodeA", "--raft_id=nodeA", "--raft_bootstrap=force"] {
        ensure!(log.contains(words), "{words:?} is not in: {log}");
    }
    ensure!(!place.join("other").exists(), "it left a directory");
    // A node that waits to be added disturbs nobody, and a member may keep its bootstrap flag.
    second.options.bootstrap = false;
    second.start().await?;
    cluster.nodes[0].stop().await?;
    cluster.nodes[0].start().await?;
    second.stop().await?;
    second.options = second.options.clone().with(&["--raft_bootstrap=force"]);
    second.start().await?;
    eventually("two clusters", || async {
        let mut client = second.client().await?;
        Ok(client.add(AddRequest { key: "key".into(), val: "of the second".into() }).await?)
    })
    .await?;
    eventually("the first one goes on", || cluster.add(0, "key", "of the first")).await?;
    Ok(())
}
