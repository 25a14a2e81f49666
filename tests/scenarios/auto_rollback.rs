//! A change whose commands or queries fail, or take longer, is taken back by `lockstep upgrade
//! --auto_rollback`, while nobody looks on.

use anyhow::{Error, Result, ensure};
use lockstep_tests::{Cluster, Options, eventually, kv_planted_wasm, operator};
use tonic::{Code, Status};

use crate::printed;
use crate::versions::{everyone_runs, formed, get, put};

/// Most slow commands until a change is taken back. The watch over it may begin some commands late,
/// and then needs a hundred.
const SLOW_PUTS_MAX: usize = 1_000;

#[tokio::test]
async fn a_version_whose_commands_fail_is_taken_back() -> Result<()> {
    let cluster = formed(Options::member()).await?;
    for _ in 0..10 {
        put(&cluster, 0, "before").await?;
    }
    let leader = cluster.leader().await?;
    let planted = kv_planted_wasm();
    // Only failures count: the time of a command says little on a busy machine.
    let flags = ["--auto_rollback", "--max_failed", "5%", "--max_slower", "100000x"];
    let watched = operator::upgrade(&cluster, leader, &planted, &flags);
    let clients = async {
        everyone_runs(&cluster, "1-planted").await?;
        let refused = put(&cluster, 0, "refused").await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("the key begins with refuse"), "{refused}");
        eventually("the old version takes it again", || async { put(&cluster, 0, "refused").await }).await
    };
    let (watched, ()) = tokio::try_join!(watched, clients)?;
    let said = printed::all(&watched);
    ensure!(watched.status.code() == Some(1), "{said}");
    ensure!(said.contains("the change was made and taken back"), "{said}");
    ensure!(said.contains("of the last commands were refused or failed"), "{said}");
    everyone_runs(&cluster, "1").await?;
    cluster.everyone_has_one_hash().await?;
    for n in 0..3 {
        ensure!(get(&cluster, n, "before").await?.version == 10);
        // The old version ran what the new one refused, so that no command of the log is lost.
        let refused = get(&cluster, n, "refused").await?;
        ensure!(refused.version > 100, "{refused:?}");
    }
    Ok(())
}

/// The new version takes some hundred times as long for these commands. So much is seen also where
/// the machine is busy: both versions wait for it alike.
#[tokio::test]
async fn a_version_that_takes_longer_is_taken_back() -> Result<()> {
    let cluster = formed(Options::member()).await?;
    // The figures from before the change are those of the node that leads when it is made.
    let mut leader = cluster.leader().await?;
    loop {
        for _ in 0..150 {
            put_slow(&cluster, leader).await?;
        }
        let now = cluster.leader().await?;
        if std::mem::replace(&mut leader, now) == now {
            break;
        }
    }
    let planted = kv_planted_wasm();
    let flags = ["--auto_rollback", "--max_failed", "100%", "--max_slower", "4x"];
    let watched = operator::upgrade(&cluster, leader, &planted, &flags);
    let clients = async {
        everyone_runs(&cluster, "1-planted").await?;
        // A change is judged by a hundred commands, each of which takes long. So they are counted,
        // and no time limits them.
        for _ in 0..SLOW_PUTS_MAX {
            put_slow(&cluster, leader).await?;
            if runs(&cluster, leader, "1").await.is_ok() {
                break;
            }
        }
        eventually("the old version is back", || runs(&cluster, leader, "1")).await
    };
    let (watched, ()) = tokio::try_join!(watched, clients)?;
    let said = printed::all(&watched);
    ensure!(watched.status.code() == Some(1), "{said}");
    ensure!(said.contains("the change was made and taken back"), "{said}");
    ensure!(said.contains("us for each of the last commands"), "{said}");
    everyone_runs(&cluster, "1").await
}

#[tokio::test]
async fn a_version_whose_queries_fail_is_taken_back() -> Result<()> {
    let cluster = formed(Options::member()).await?;
    let leader = cluster.leader().await?;
    put(&cluster, leader, "hide").await?;
    for _ in 0..120 {
        get(&cluster, leader, "hide").await?;
    }
    let planted = kv_planted_wasm();
    let flags = ["--auto_rollback", "--max_failed", "5%", "--max_slower", "100000x"];
    let watched = operator::upgrade(&cluster, leader, &planted, &flags);
    let clients = async {
        everyone_runs(&cluster, "1-planted").await?;
        let refused = get(&cluster, leader, "hide").await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("the key begins with hide"), "{refused}");
        eventually("the old version reads it again", || async { get(&cluster, leader, "hide").await }).await
    };
    let (watched, _) = tokio::try_join!(watched, clients)?;
    let said = printed::all(&watched);
    ensure!(watched.status.code() == Some(1), "{said}");
    ensure!(said.contains("the change was made and taken back"), "{said}");
    ensure!(said.contains("of the last queries and steps of watches were refused or failed"), "{said}");
    everyone_runs(&cluster, "1").await
}

/// Writes the slow key through node `n`. A command that waits long for a change, or for a leader,
/// is refused and tried again; nothing else may go wrong.
async fn put_slow(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("the command is taken", || async {
        match put(cluster, n, "slow").await {
            Err(error) if !is_refused_for_now(&error) => Ok(Err(error)),
            put => put.map(Ok),
        }
    })
    .await?
}

fn is_refused_for_now(error: &Error) -> bool {
    let code = error.downcast_ref::<Status>().map(Status::code);
    matches!(code, Some(Code::ResourceExhausted | Code::Unavailable))
}

/// Checks that node `n` runs the guest that declares this version.
async fn runs(cluster: &Cluster, n: usize, version: &str) -> Result<()> {
    let fsm = cluster.nodes[n].status().await?["fsm"].take();
    ensure!(fsm["version"] == version, "{} runs {}", cluster.nodes[n].name, fsm["version"]);
    Ok(())
}
