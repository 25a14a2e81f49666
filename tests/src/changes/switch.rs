//! Makes one change or rollback of a cluster under load, and kills a node at a step of it. Returns
//! when every node runs the version that was asked for. Judges no history.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::guest::Guest;
use super::plan::{Leg, Step};
use crate::torture::history::Clock;
use crate::torture::nemesis::with_role;
use crate::torture::points::{BEFORE_CHANGE, BEFORE_ROLLBACK};
use crate::{Cluster, eventually, operator};

/// Most times that a change is asked for. A member that has just started may not be reached yet.
const ATTEMPTS_MAX: u32 = 10;

/// Time between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// Time between two looks whether the node has died.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What became of a change or a rollback.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switched {
    /// Times of the run's clock: before the request that was taken, and behind its answer.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// How often it was refused before.
    pub(crate) refused: u64,
    /// The step at which a node died.
    pub(crate) killed_at: Option<&'static str>,
    /// How long the change would hold apply by the rehearsal, and its migration alone, in
    /// milliseconds, on the slowest node.
    pub(crate) expected_ms: Option<(u64, u64)>,
}

/// The node that dies, and where.
#[derive(Clone, Copy)]
struct Victim {
    n: usize,
    point: &'static str,
}

/// Makes the change or the rollback of a leg.
///
/// A leg that was rehearsed by itself is not rehearsed again.
pub(crate) async fn switch(
    cluster: &mut Cluster,
    guest: Guest,
    leg: &Leg,
    clock: Clock,
    rehearsed: Option<&Switched>,
) -> Result<Switched> {
    let mut victim = arm(cluster, leg).await?;
    let mut switched = Switched::default();
    let flag = rehearsed.map(|_| "--no_rehearsal");
    for _ in 0..ATTEMPTS_MAX {
        switched.from = clock.now();
        let asked = ask(cluster, guest, leg, flag).await?;
        let died = revive_beside(cluster, &mut victim, &asked).await?;
        let output = asked.await??;
        switched.to = clock.now();
        let said = words(&output);
        let code = output.status.code();
        ensure!(code != Some(2), "it cannot work as it was typed: {said}");
        if !output.status.success() {
            // The end of the victim may be seen a moment later than its broken connections.
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
        let died = match died {
            None => revive(cluster, &mut victim).await?,
            died => died,
        };
        switched.killed_at = switched.killed_at.or(died);
        if !output.status.success() && died.is_some_and(is_before_entry) {
            continue;
        }
        if code == Some(1) && died.is_none() {
            switched.refused += 1;
            if switched.refused == u64::from(ATTEMPTS_MAX) {
                bail!("it was refused {ATTEMPTS_MAX} times, at last with: {said}");
            }
            continue;
        }
        if let Some(victim) = victim {
            let missed = || format!("{} was not reached: {said}", victim.point);
            start_again(cluster, victim.n).await.with_context(missed)?;
            switched.killed_at = Some(victim.point);
        }
        switched.expected_ms = rehearsed.map_or_else(|| expected_ms(&output), |rehearsed| rehearsed.expected_ms);
        is_in_force(cluster, leg.version).await.with_context(|| format!("after {said}"))?;
        return Ok(switched);
    }
    bail!("it was asked for {ATTEMPTS_MAX} times")
}

/// Rehearses the change of a leg on every node, and changes nothing.
pub(crate) async fn rehearse(cluster: &Cluster, guest: Guest, leg: &Leg, clock: Clock) -> Result<Switched> {
    let from = clock.now();
    let output = ask(cluster, guest, leg, Some("--dry_run")).await?.await??;
    ensure!(output.status.success(), "the rehearsal ended with {}", words(&output));
    Ok(Switched { from, to: clock.now(), expected_ms: expected_ms(&output), ..Switched::default() })
}

/// Returns whether who dies there leaves the old version everywhere.
fn is_before_entry(point: &'static str) -> bool {
    BEFORE_CHANGE.contains(&point) || BEFORE_ROLLBACK.contains(&point)
}

/// Sets the failpoint of a leg in the node that has the role now.
async fn arm(cluster: &Cluster, leg: &Leg) -> Result<Option<Victim>> {
    let Some((point, role)) = leg.kill else { return Ok(None) };
    let n = with_role(cluster, role, leg.draw).await?;
    cluster.nodes[n].fail_now(&[&format!("{point}=return(crash)")]).await?;
    Ok(Some(Victim { n, point }))
}

/// Starts the victim again as soon as it has died. The command waits for it at its end, and what
/// the clients write meanwhile has to be run again. Returns the step, if it died before the command
/// ended.
async fn revive_beside(
    cluster: &mut Cluster,
    victim: &mut Option<Victim>,
    asked: &JoinHandle<Result<Output>>,
) -> Result<Option<&'static str>> {
    while victim.is_some() && !asked.is_finished() {
        if let Some(point) = revive(cluster, victim).await? {
            return Ok(Some(point));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(None)
}

/// Starts the victim again if it has died. Returns the step.
async fn revive(cluster: &mut Cluster, victim: &mut Option<Victim>) -> Result<Option<&'static str>> {
    let Some(Victim { n, point }) = *victim else { return Ok(None) };
    if !cluster.nodes[n].has_ended()? {
        return Ok(None);
    }
    start_again(cluster, n).await?;
    *victim = None;
    Ok(Some(point))
}

/// Waits until the node has died, and starts it again.
async fn start_again(cluster: &mut Cluster, n: usize) -> Result<()> {
    let node = &mut cluster.nodes[n];
    node.wait_exit().await?;
    node.fail_at(&[])?;
    node.start().await
}

/// Begins to run the command, at the leader.
async fn ask(
    cluster: &Cluster,
    guest: Guest,
    leg: &Leg,
    flag: Option<&'static str>,
) -> Result<JoinHandle<Result<Output>>> {
    let addr = cluster.nodes[cluster.leader().await?].grpc_addr();
    let (step, file) = (leg.step, guest.component(leg.version));
    let flags: Vec<&str> = ["--json", "--quiet"].into_iter().chain(flag).collect();
    Ok(tokio::spawn(async move {
        match step {
            Step::Change => operator::upgrade_at(&addr, &file, &flags).await,
            Step::Rollback => operator::rollback_at(&addr, &flags).await,
        }
    }))
}

fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    format!("{}, {}", output.status, String::from_utf8_lossy(&text))
}

/// Reads what the rehearsal said, if there was one.
fn expected_ms(output: &Output) -> Option<(u64, u64)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut steps = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let rehearsed = steps.find(|step| step["step"] == "rehearsed")?;
    let of = |report: &Value| {
        let report = &report["report"];
        Some((report["hold_ms"].as_u64()?, report["migration"]["migrate_ms"].as_u64()?))
    };
    rehearsed["reports"].as_array()?.iter().filter_map(of).max()
}

/// Waits until every node runs the version.
async fn is_in_force(cluster: &Cluster, version: u32) -> Result<()> {
    let version = version.to_string();
    eventually("every node runs the version", || async {
        for node in &cluster.nodes {
            let fsm = node.status().await?["fsm"].take();
            ensure!(fsm["version"] == version, "{} runs {}", node.name, fsm["version"]);
        }
        Ok(())
    })
    .await
}
