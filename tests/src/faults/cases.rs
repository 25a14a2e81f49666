//! The faults: their names, the nodes that they touch, and how they are applied and undone.
//! Measures nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use lockstep_tests::torture::plan::Random;
use lockstep_tests::{Cluster, Cut, Load, Signal, eventually};

use crate::round::all_well;

/// Shortest time of a pause or a cut.
const HELD: Duration = Duration::from_secs(4);

/// A case that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Kill,
    Stop,
    Pause,
    KillAll,
    Rolling,
    NoFault,
    CutOff,
    OneWay,
    Refused,
    NoFaultInNetwork,
}

/// Facts about a fault that is over.
#[derive(Default)]
pub(crate) struct Told {
    /// The variant of the case.
    pub(crate) variant: Option<&'static str>,
    /// Time of the restart. All nodes were dead until then.
    pub(crate) restarted_at: Option<Duration>,
}

impl Case {
    pub(crate) const ALL: [Case; 8] =
        [Case::Kill, Case::Stop, Case::Pause, Case::KillAll, Case::Rolling, Case::CutOff, Case::OneWay, Case::Refused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Case::Kill => "kill",
            Case::Stop => "stop",
            Case::Pause => "pause",
            Case::KillAll => "kill-all",
            Case::Rolling => "rolling",
            Case::CutOff => "cut-off",
            Case::OneWay => "one-way",
            Case::Refused => "refused",
            Case::NoFault | Case::NoFaultInNetwork => "no-fault",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Case::Kill => "leader killed",
            Case::Stop => "planned stop",
            Case::Pause => "leader paused",
            Case::KillAll => "all killed at once, from their restart",
            Case::Rolling => "rolling restart of all three",
            Case::CutOff => "leader cut off",
            Case::OneWay => "one direction cut",
            Case::Refused => "link between leader and one follower refused",
            Case::NoFault => "no fault, on loopback",
            Case::NoFaultInNetwork => "no fault, in namespaces",
        }
    }

    /// Tells whether the case cuts links, so that the cluster must run in network namespaces.
    pub(crate) fn needs_network(self) -> bool {
        matches!(self, Case::CutOff | Case::OneWay | Case::Refused | Case::NoFaultInNetwork)
    }

    /// Applies the fault and undoes it. Marks nodes as touched before anything happens to them.
    pub(crate) async fn happen(
        self,
        cluster: &mut Cluster,
        load: &Load,
        random: &mut Random,
        calm: Duration,
    ) -> Result<Told> {
        let leader = cluster.leader().await?;
        match self {
            Case::Kill => {
                load.touch(&[leader]);
                let at = load.now();
                cluster.nodes[leader].kill()?;
                cluster.leader().await?;
                others_served(load, at).await?;
                cluster.nodes[leader].start().await?;
            }
            Case::Stop => stop_and_start(cluster, load, leader).await?,
            Case::Pause => {
                load.touch(&[leader]);
                cluster.nodes[leader].signal(Signal::SIGSTOP)?;
                tokio::time::sleep(HELD).await;
                cluster.nodes[leader].signal(Signal::SIGCONT)?;
            }
            Case::KillAll => return kill_all(cluster, load).await,
            Case::Rolling => {
                for node in 0..cluster.nodes.len() {
                    stop_and_start(cluster, load, node).await?;
                    all_well(cluster, load).await?;
                }
            }
            Case::CutOff => {
                load.touch(&[leader]);
                cluster.network().isolate(leader)?;
                hold(cluster, load).await?;
            }
            Case::OneWay => return one_way(cluster, load, random, leader).await,
            Case::Refused => {
                let follower = (leader + 1 + random.below(2) as usize) % 3;
                load.touch(&[follower]);
                cluster.network().cut(&[Cut::Refused(leader, follower)])?;
                hold(cluster, load).await?;
            }
            Case::NoFault | Case::NoFaultInNetwork => tokio::time::sleep(calm).await,
        }
        Ok(Told::default())
    }
}

async fn stop_and_start(cluster: &mut Cluster, load: &Load, node: usize) -> Result<()> {
    load.touch(&[node]);
    let status = cluster.nodes[node].stop().await?;
    ensure!(status.success(), "{} ended with {status} on SIGTERM", cluster.nodes[node].name);
    cluster.nodes[node].start().await
}

/// Kills all three with SIGKILL and starts them at once.
async fn kill_all(cluster: &mut Cluster, load: &Load) -> Result<Told> {
    load.touch(&[0, 1, 2]);
    for node in &cluster.nodes {
        node.signal(Signal::SIGKILL)?;
    }
    for node in &mut cluster.nodes {
        node.wait_exit().await?;
    }
    let restarted_at = Some(load.now());
    for node in &mut cluster.nodes {
        node.spawn()?;
    }
    Ok(Told { restarted_at, ..Told::default() })
}

/// Cuts one direction of each follower's link with the leader, drawn at random.
async fn one_way(cluster: &Cluster, load: &Load, random: &mut Random, leader: usize) -> Result<Told> {
    let mut deaf = 0;
    let cuts: Vec<Cut> = (0..3)
        .filter(|node| *node != leader)
        .map(|follower| {
            let cannot_hear = random.below(2) == 1;
            deaf += usize::from(cannot_hear);
            if cannot_hear {
                Cut::Lost { from: follower, to: leader }
            } else {
                Cut::Lost { from: leader, to: follower }
            }
        })
        .collect();
    load.touch(&[leader]);
    cluster.network().cut(&cuts)?;
    hold(cluster, load).await?;
    let variant = ["leader cannot send", "leader cannot send to one, hear the other", "leader cannot hear"][deaf];
    Ok(Told { variant: Some(variant), ..Told::default() })
}

/// Keeps the network cut for a while, and until the untouched nodes serve again; then heals it.
async fn hold(cluster: &Cluster, load: &Load) -> Result<()> {
    tokio::time::sleep(HELD).await;
    let others = others_served(load, load.now()).await;
    cluster.network().heal()?;
    others
}

/// Waits for a write that began after `since` at an untouched node.
async fn others_served(load: &Load, since: Duration) -> Result<()> {
    eventually("the nodes that were left alone serve", || async {
        let (_, others) = load.served_since(since);
        ensure!(others > 0, "no write since {since:?}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_xtask_knows_every_case_before_it_builds() {
        let words = include_str!("../../../xtask/src/words.rs");
        let names: Vec<String> = Case::ALL.iter().map(|case| format!("{:?}", case.name())).collect();
        let expected = format!("const FAULTS_CASES: [&str; {}] = [{}];", names.len(), names.join(", "));
        assert!(words.contains(&expected), "xtask/src/words.rs has other cases than {expected}");
    }
}
