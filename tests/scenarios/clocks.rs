//! The source of log time: the clocks of most voters, at once, however far they have advanced. A
//! clock that cannot be right founds no cluster. An operator can move log time ahead, and never
//! back.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed, formed_of, lockstep};

const YEAR_MS: u64 = 31_536_000_000;
const MINUTE_MS: u64 = 60_000;

/// Returns the log time of a node, after a command through that node.
async fn log_time(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.add(n, "key", "value").await?;
    cluster.nodes[n].status().await?["fsm"]["log_time_ms"].as_u64().context("no log time")
}

/// The case of a cluster that was down for a year: log time stood still, and all clocks have
/// advanced.
#[tokio::test]
async fn a_cluster_that_was_down_is_right_again_at_once() -> Result<()> {
    for size in [1, 3] {
        let cluster = formed_of(size, Options::member().with_failpoints()).await?;
        let leader = cluster.leader().await?;
        let before = eventually("a command", || log_time(&cluster, leader)).await?;
        for node in &cluster.nodes {
            node.fail_now(&[&format!("clock-shift=return({YEAR_MS})")]).await?;
        }
        eventually("log time is right", || async {
            let now = log_time(&cluster, leader).await?;
            ensure!(now >= before + YEAR_MS, "of {size}: {} ms are missing", before + YEAR_MS - now);
            Ok(())
        })
        .await?;
        let line = "log time moves ahead";
        eventually("somebody says so", || async {
            ensure!(cluster.nodes.iter().any(|node| node.log().contains(line)), "nobody says so");
            Ok(())
        })
        .await?;
        eventually("no clock is off", || async {
            for node in &cluster.nodes {
                let clock = node.status().await?["clock"].take();
                ensure!(clock["problem"] == "" && clock["ahead_ms"].is_i64(), "{}: {clock}", node.name);
            }
            Ok(())
        })
        .await?;
        cluster.everyone_has_one_hash().await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_cluster_is_founded_by_a_clock_that_cannot_be_right() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = Options::bootstrap().with_failpoints();
    let mut node = NodeProcess::new("nodeA", directory.path(), options)?;
    for (years, words) in [(-100, "says 1970-01-01T00:00:00Z, which is before 2026"), (100, "which is after 2036")] {
        node.fail_at(&[&format!("clock-shift=return({})", years * YEAR_MS as i64)])?;
        node.spawn()?;
        ensure!(!node.wait_exit().await?.success());
        let said = node.last_words();
        ensure!(said.contains(words) && said.contains("Set the clock"), "{said}");
    }
    // The failed starts leave nothing behind.
    node.fail_at(&[])?;
    node.start().await?;
    eventually("it serves", || async {
        ensure!(node.status().await?["mode"] == "serving");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_operator_moves_log_time_ahead_and_never_back() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let set = |n: usize, to_ms: u64, more: &[&str]| -> Result<(bool, String)> {
        let (addr, time) = (cluster.nodes[n].grpc_addr(), to_ms.to_string());
        let done = lockstep(&[&["admin", &addr, "set_log_time", &time], more].concat())?;
        Ok((done.status.success(), String::from_utf8([done.stdout, done.stderr].concat())?))
    };
    // Each step asks anew who leads: an election may come between any two.
    let to_ms = eventually("nobody moves it who is not sure or does not lead", || async {
        let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
        let to_ms = log_time(&cluster, leader).await? + 60 * MINUTE_MS;
        let (done, said) = set(leader, to_ms, &[])?;
        ensure!(!done && said.contains("every lease and timer") && said.contains("hint: set_log_time 20"), "{said}");
        let (done, said) = set(follower, to_ms, &["sure"])?;
        ensure!(!done && said.contains(&format!("the leader is {}", cluster.nodes[leader].name)), "{said}");
        ensure!(log_time(&cluster, leader).await? < to_ms, "it was moved already");
        Ok(to_ms)
    })
    .await?;
    eventually("the leader moves it", || async {
        let (done, said) = set(cluster.leader().await?, to_ms, &["sure"])?;
        // An attempt whose end nobody learned may have moved it.
        ensure!((done && said.contains("log time was")) || said.contains("never goes back"), "{said}");
        Ok(())
    })
    .await?;
    eventually("log time is there", || async {
        let now = log_time(&cluster, cluster.leader().await?).await?;
        ensure!(now == to_ms, "it is {now}, and not {to_ms}");
        Ok(())
    })
    .await?;
    eventually("the leader does not move it back", || async {
        let (done, said) = set(cluster.leader().await?, to_ms - 1, &["sure"])?;
        ensure!(!done && said.contains("never goes back"), "{said}");
        Ok(())
    })
    .await?;
    // Every node says what is the matter, and until when.
    eventually("log time is told to stand still", || async {
        for node in &cluster.nodes {
            let status = node.status().await?;
            let problem = status["clock"]["problem"].as_str().context("no problem")?;
            ensure!(
                problem.contains("behind log time") && problem.contains("stands still"),
                "{}: {problem}",
                node.name
            );
            ensure!(status["fsm"]["log_time_ms"] == to_ms, "{status}");
            ensure!(node.log().contains("stands still"), "{} has no line in its log", node.name);
        }
        Ok(())
    })
    .await?;
    cluster.everyone_has_one_hash().await
}
