//! The steps of a rollback, in order, on the leader: every member makes its shadow, the states that
//! these have made are compared, and an entry puts them in force.
//!
//! - It has its turn among the changes, and takes all steps in one term.
//! - Nothing changes before the entry is proposed. Until then it ends when nobody waits for it any
//!   more. From then on it goes on to its end.

use std::future::Future;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::asking::ROLLBACK_TIMEOUT;
use super::leader::{Ended, Step, Upgrades, is_same, of_all, tell};
use super::stopped::{AtMember, Stopped};
use crate::codec::{Rollback, entry};
use crate::machine::rollback::report::objections;
use crate::machine::{ChangeVerdict, Probation, RollbackReport, RollbackTrial};
use crate::raft::membership::Server;

/// How to take the last change back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollbackPlan {
    /// Ends before anything is changed.
    pub is_dry_run: bool,
    /// Names of members that do not prepare.
    pub without: Vec<String>,
}

/// A rollback for which the members are ready.
struct Ready {
    term: u64,
    change: Probation,
    servers: Vec<Server>,
}

impl Upgrades {
    /// Takes the last change back, and tells of each step. When nobody receives `steps` any more,
    /// it ends, unless the rollback was proposed.
    ///
    /// # Errors
    /// Nothing has changed, except that after [`Stopped::Unknown`] it may have.
    pub async fn roll_back(&self, plan: RollbackPlan, steps: mpsc::Sender<Step>) -> Result<Ended, Stopped> {
        let _turn = self.0.turn.try_lock().map_err(|_| Stopped::Busy)?;
        let ready = tokio::select! {
            biased;
            () = steps.closed() => return Err(Stopped::Left),
            ready = self.make_ready_to_roll_back(&plan, &steps) => ready?,
        };
        if plan.is_dry_run {
            return Ok(Ended::Tried);
        }
        if !is_same(&self.servers()?, &ready.servers) {
            return Err(Stopped::MembersChanged);
        }
        let rollback = Rollback { change_index: ready.change.change_index };
        let entry = entry::Entry { rollback: Some(rollback), ..entry::Entry::default() };
        let report = self.decide(ready.term, entry, &ready.change.before).await?;
        let behind = match report.verdict {
            ChangeVerdict::RolledBack => self.behind(&ready.servers, &report).await,
            _ => Vec::new(),
        };
        Ok(Ended::Decided { report, behind })
    }

    async fn make_ready_to_roll_back(&self, plan: &RollbackPlan, steps: &mpsc::Sender<Step>) -> Result<Ready, Stopped> {
        let term = self.term()?;
        let change = self.0.parts.machine.probation().ok_or(Stopped::NotOnProbation)?;
        let servers = self.servers()?;
        let preparing = prepared_of(&servers, &plan.without, self.0.parts.me.node_id)?;
        let trial = RollbackTrial { change_index: change.change_index, at: None };
        let first = self.ask_all(&preparing, trial).await?;
        // All of them run this entry soon, since one of them has applied it.
        let at = first.iter().map(|(_, report)| report.index).max();
        let compared = self.ask_all(&preparing, RollbackTrial { at, ..trial }).await?;
        let objections = objections(&compared);
        if !objections.is_empty() {
            return Err(Stopped::Objections(objections));
        }
        tell(steps, Step::ReadyToRollBack { change_index: change.change_index, reports: compared }).await;
        Ok(Ready { term, change, servers })
    }

    async fn ask_all(
        &self,
        servers: &[Server],
        trial: RollbackTrial,
    ) -> Result<Vec<(String, RollbackReport)>, Stopped> {
        let said = join_all(servers.iter().map(|server| async move {
            match self.asked(server) {
                Some(asked) => asked.prepare_rollback(trial).await,
                None => in_time(self.0.parts.member.prepare_rollback_here(trial)).await,
            }
        }));
        of_all(servers, said.await).map_err(Stopped::Unready)
    }
}

async fn in_time<T>(preparing: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = timeout(ROLLBACK_TIMEOUT, preparing).await;
    done.unwrap_or_else(|_| Err(format!("it was not ready within {ROLLBACK_TIMEOUT:?}")))
}

/// Returns the members that prepare. Without those that are left out, a majority must remain, or
/// the cluster could not go on.
fn prepared_of(servers: &[Server], without: &[String], me: u64) -> Result<Vec<Server>, Stopped> {
    let unknown = without.iter().filter(|name| !servers.iter().any(|server| server.node.name == **name));
    let of_the_leader =
        servers.iter().filter(|server| server.id == me && without.contains(&server.node.name)).map(|me| &me.node.name);
    let at = |name: &String, words: &str| AtMember { name: name.clone(), words: words.to_owned() };
    let wrong: Vec<AtMember> = unknown
        .map(|name| at(name, "no member has this raft_id"))
        .chain(of_the_leader.map(|name| at(name, "it leads; move the lead to a member that is ready first")))
        .collect();
    if !wrong.is_empty() {
        return Err(Stopped::Unready(wrong));
    }
    let (left_out, prepare): (Vec<Server>, Vec<Server>) =
        servers.iter().cloned().partition(|server| without.contains(&server.node.name));
    let voters = |servers: &[Server]| servers.iter().filter(|server| server.voter).count();
    if voters(&left_out) > 0 && voters(&prepare) <= voters(servers) / 2 {
        let words = "without it, no majority of the voters would be left";
        return Err(Stopped::Unready(left_out.iter().map(|server| at(&server.node.name, words)).collect()));
    }
    Ok(prepare)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Addresses;

    fn server(id: u64, voter: bool) -> Server {
        let node = Addresses { name: format!("node{id}"), ..Addresses::default() };
        Server { id, node, voter, leader: false }
    }

    #[test]
    fn a_majority_must_remain_and_the_leader_with_it() {
        let servers = [server(1, true), server(2, true), server(3, true), server(4, false)];
        let without = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = prepared_of(&servers, &names, 1);
            found.map(|found| found.iter().map(|server| server.id).collect::<Vec<_>>()).map_err(|why| why.to_string())
        };
        assert_eq!(without(&[]).unwrap(), [1, 2, 3, 4]);
        assert_eq!(without(&["node2", "node4"]).unwrap(), [1, 3]);
        for (names, words) in [
            (&["node2", "node3"][..], "no majority"),
            (&["node1"], "it leads"),
            (&["node2", "nodeX"], "nodeX: no member has this raft_id"),
        ] {
            assert!(without(names).unwrap_err().contains(words), "{names:?}");
        }
    }
}
