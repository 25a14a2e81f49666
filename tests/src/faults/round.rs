//! One round: a quiet time, a fault, a quiet time again, and the figures from what the clients saw.
//! This file knows no particular fault.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::torture::plan::Random;
use lockstep_tests::{Cluster, Failure, Load, Seen, eventually};

use crate::cases::Case;

/// Undisturbed time before each fault.
const CALM: Duration = Duration::from_millis(500);

/// The figures of one round.
pub(crate) struct Round {
    /// The variant of the case.
    pub(crate) variant: Option<&'static str>,
    /// Longest time in which no client had a write acknowledged.
    pub(crate) gap: Duration,
    /// Longest time in which a client had no write acknowledged, among the clients of nodes that
    /// the fault never touched in this round.
    pub(crate) client_gap: Option<Duration>,
    /// Time from the restart of dead processes to the first acknowledged write.
    pub(crate) from_restart: Option<Duration>,
    /// Failed calls at nodes that were untouched when the call failed.
    pub(crate) failed_alone: Vec<String>,
    /// Failed calls at touched nodes.
    pub(crate) failed_touched: Vec<String>,
    /// Number of acknowledged writes.
    pub(crate) acknowledged: usize,
    /// Number of new terms.
    pub(crate) terms: u64,
    /// Whether the leader after the round is another node than before.
    pub(crate) leader_changed: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(variant) = self.variant {
            write!(f, "{variant}: ")?;
        }
        write!(f, "{:.3} s without a write", self.gap.as_secs_f64())?;
        if let Some(from_restart) = self.from_restart {
            write!(f, ", {:.3} s from the restart", from_restart.as_secs_f64())?;
        }
        write!(
            f,
            ", {} failed at nodes left alone, {} at the victim, {} acknowledged, {} terms",
            self.failed_alone.len(),
            self.failed_touched.len(),
            self.acknowledged,
            self.terms
        )?;
        let examples = self.failed_alone.iter().take(3).chain(self.failed_touched.first());
        examples.into_iter().try_for_each(|reason| write!(f, "\n    {reason}"))
    }
}

pub(crate) async fn run(
    case: Case,
    cluster: &mut Cluster,
    load: &Load,
    random: &mut Random,
    calm: Duration,
) -> Result<Round> {
    let (leader, term) = (cluster.leader().await?, cluster.term().await?);
    load.take();
    let from = load.now();
    tokio::time::sleep(CALM).await;
    let told = case.happen(cluster, load, random, calm).await?;
    all_well(cluster, load).await?;
    let until = load.now();
    let seen = load.take();
    load.touch(&[]);
    let failed = |touched: bool| -> Vec<String> {
        let failures = seen.iter().flat_map(|seen| seen.failures.iter().map(|failure| (seen.node, failure)));
        let told = |(node, failure): (usize, &Failure)| {
            let after = failure.at.saturating_sub(from).as_secs_f64();
            format!("{}, {after:.3} s after the beginning: {}", cluster.nodes[node].name, failure.reason)
        };
        failures.filter(|(_, failure)| failure.touched == touched).map(told).collect()
    };
    let mut all: Vec<Duration> = seen.iter().flat_map(|seen| seen.acknowledged.iter().copied()).collect();
    all.sort_unstable();
    let after = |at: Duration| all.iter().find(|acknowledged| **acknowledged > at).map(|first| *first - at);
    Ok(Round {
        variant: told.variant,
        gap: longest_gap(&all, from, until),
        client_gap: longest_of_a_client(&seen, from, until),
        from_restart: told.restarted_at.and_then(after),
        failed_alone: failed(false),
        failed_touched: failed(true),
        acknowledged: all.len(),
        terms: cluster.term().await?.saturating_sub(term),
        leader_changed: cluster.leader().await? != leader,
    })
}

/// Waits until the cluster is healthy.
///
/// All nodes run and know one leader, every client has written, and every node has applied what was
/// committed.
pub(crate) async fn all_well(cluster: &Cluster, load: &Load) -> Result<()> {
    load.everyone_served().await?;
    let leader = cluster.leader().await?;
    let committed = number(&cluster.nodes[leader].stat().await?["raft"]["commit_index"])?;
    eventually("every node has applied everything", || async {
        for node in &cluster.nodes {
            let applied = number(&node.stat().await?["last_applied_index"])?;
            ensure!(applied >= committed, "{} has applied {applied} of {committed}", node.name);
        }
        Ok(())
    })
    .await
}

fn number(value: &serde_json::Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

/// Returns the longest time between two successive `times`, which are in order.
///
/// `from` and `until` count as the first and the last time.
fn longest_gap(times: &[Duration], from: Duration, until: Duration) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for time in times.iter().copied().chain([until]) {
        longest = longest.max(time.saturating_sub(last));
        last = time;
    }
    longest
}

fn longest_of_a_client(seen: &[Seen], from: Duration, until: Duration) -> Option<Duration> {
    let alone = seen.iter().filter(|seen| !seen.touched);
    alone.map(|seen| longest_gap(&seen.acknowledged, from, until)).max()
}
