//! The end of a cycle, whatever struck the cluster in it: the clients stop, every node must be
//! live, every key is read, all states must be equal, and both judges read what the clients saw.
//! This file strikes nothing. The torture and the changes of the guest use it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::history::{self, Clock, Kind, Operation, Outcome, Record};
use super::judge::Verdict;
use super::load::{self, Load, Session, Tokens};
use crate::{Cluster, PATIENCE};

/// One cycle: its keys, and where its history is saved if it does not pass.
pub(crate) struct Cycle {
    pub(crate) clock: Clock,
    pub(crate) tokens: Tokens,
    pub(crate) keys: Range<u32>,
    pub(crate) history: PathBuf,
}

impl Cycle {
    /// Ends the load and judges it. `struck` is what became of the fault.
    ///
    /// The history is judged in any case: a violation says more than a fault that could not be
    /// applied.
    pub(crate) async fn judge<T>(
        &self,
        cluster: &mut Cluster,
        load: Load,
        struck: Result<T>,
        memory: &mut Memory,
    ) -> Result<(T, Vec<Operation>)> {
        let mut seen = load.finish().await?;
        let mut ends_at = None;
        let live = match &struck {
            Ok(_) => self.closing(cluster, &mut seen, &mut ends_at).await,
            Err(_) => Ok(()),
        };
        let (verdict, seen) = tokio::task::spawn_blocking(move || (Verdict::of(&seen, ends_at), seen)).await?;
        if !verdict.passed() || live.is_err() || struck.is_err() {
            history::save(&seen, &self.history)?;
        }
        if !verdict.passed() {
            let also = struck.err().or(live.err()).map(|error| format!("and {error:#}")).unwrap_or_default();
            bail!("{verdict}{also}");
        }
        let told = struck?;
        live?;
        memory.keep(&seen);
        Ok((told, seen))
    }

    /// Checks the cluster after a fault and takes the last reads.
    ///
    /// All nodes must run and be live, and all states must be equal.
    async fn closing(&self, cluster: &mut Cluster, seen: &mut Vec<Operation>, ends_at: &mut Option<u64>) -> Result<()> {
        nobody_died(cluster).await?;
        seen.extend(load::liveness(cluster, self.keys.clone(), self.clock, &self.tokens).await?);
        *ends_at = Some(self.clock.now());
        seen.extend(load::final_reads(cluster, self.keys.clone(), self.clock).await?);
        states_agree(cluster).await?;
        nobody_died(cluster).await
    }
}

/// Fails when a node has ended by itself, or panicked.
async fn nobody_died(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        if node.has_ended()? {
            let status = node.wait_exit().await?;
            bail!("{} ended with {status} although nobody struck it:\n{}", node.name, node.last_words());
        }
        ensure!(!node.log().contains("panicked at"), "{} panicked: its log says where", node.name);
    }
    Ok(())
}

/// Waits until every node has applied the same index, and checks that all have the same state hash.
async fn states_agree(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut places = HashSet::new();
        let mut hashes = HashSet::new();
        let mut statuses = Vec::new();
        for node in &cluster.nodes {
            let status = node.status().await?;
            places.insert(status["fsm"]["state_hash_index"].as_u64().context("no index of the state hash")?);
            hashes.insert(status["fsm"]["state_hash"].as_str().context("no state hash")?.to_owned());
            let mismatches = status["fsm"]["state_hash_mismatches"].as_u64();
            ensure!(mismatches == Some(0), "{} counts {mismatches:?} mismatches of state hashes", node.name);
            statuses.push(format!("{}: {}", node.name, status["fsm"]));
        }
        if places.len() == 1 {
            ensure!(hashes.len() == 1, "states differ at one index:\n{}", statuses.join("\n"));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the nodes do not reach one index within {PATIENCE:?}:\n{}", statuses.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The newest record of each key of earlier cycles. This is all that is kept of a history. When the
/// cluster ends, the records are looked up.
#[derive(Default)]
pub(crate) struct Memory {
    newest: HashMap<u32, Record>,
    /// Writes of unknown outcome. Each may still be applied.
    maybes: HashSet<u64>,
}

impl Memory {
    /// Keeps the newest records of a history.
    pub(crate) fn keep(&mut self, history: &[Operation]) {
        for operation in history {
            let record = match operation.outcome {
                Outcome::Wrote(record, _) | Outcome::Read(Some(record)) => record,
                Outcome::Maybe => {
                    if let Kind::Put(token) = operation.kind {
                        self.maybes.insert(token);
                    }
                    continue;
                }
                Outcome::Read(None) | Outcome::Refused => continue,
            };
            let newest = self.newest.entry(operation.key).or_insert(record);
            if newest.version < record.version {
                *newest = record;
            }
        }
    }

    /// Looks every record up at every node.
    pub(crate) async fn is_still_there(&self, cluster: &Cluster, clock: Clock) -> Result<()> {
        for (node, process) in (0..).zip(&cluster.nodes) {
            let mut session = Session::new(0, node, process.grpc_addr(), clock);
            for (key, kept) in &self.newest {
                let deadline = Instant::now() + PATIENCE;
                let found = loop {
                    match session.get(*key, true).await?.map(|operation| operation.outcome) {
                        Some(Outcome::Read(found)) => break found,
                        _ if Instant::now() > deadline => bail!("{} does not answer", process.name),
                        _ => {}
                    }
                };
                let later = |record: Record| record.version > kept.version && self.maybes.contains(&record.token);
                ensure!(
                    found.is_some_and(|record| record == *kept || later(record)),
                    "lost: key {key} was {kept:?} and is {found:?} at {} when the cluster ends",
                    process.name
                );
            }
        }
        Ok(())
    }
}
