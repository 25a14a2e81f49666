//! The steps of a change, in order, on the leader.
//!
//! - One change at a time. All steps are taken in one term: a leader that lost the lead takes none.
//! - Nothing changes before the entry of the change is proposed. Until then the change ends when
//!   nobody waits for it any more. From then on it goes on to its end.
//! - Every member, voter or not, prepares and rehearses. One that does not ends the change.

mod builds;
mod import;
mod operation;
mod read_only;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout_at};

use super::asking::Asked;
use super::member::Member;
use super::stopped::{AtMember, Stopped};
use super::window;
use crate::codec::{Change, Genesis, entry};
use crate::guest::Limits;
use crate::machine::rehearsal::agreement::{objections, worsened};
use crate::machine::{ChangeReport, ChangeVerdict, Machine, RehearsalReport, RollbackReport, limits_json};
use crate::raft::membership::{Members, Server};
use crate::raft::peers::handlers::{PreparedChange, Trial};
use crate::raft::{GroupCell, LeaderWatch, Me, NotProposed, Proposer};
use crate::store::Log;

pub use import::{Import, ImportError, Imported};
pub use operation::Heard;
pub use read_only::ModeError;

/// Longest wait for the members to apply the change after the leader has.
const EVERYWHERE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait to learn how a change ended whose proposal was left unanswered.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(30);

/// What to change, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// BLAKE3 hash of the new component, which this node keeps.
    pub component: [u8; 32],
    /// BLAKE3 hash of the file that it was encoded from.
    pub source: [u8; 32],
    /// Index of the entry that must have put the profile in force. `None`: any will do.
    pub expected_index: Option<u64>,
    /// The limits under which it runs from then on. `None`: those in force.
    pub limits: Option<Limits>,
    /// The semantics from then on, which every member's build must run. `None`: those in force.
    pub semantics: Option<u32>,
    /// Ends if calls of the rehearsal that were answered end otherwise.
    pub keeps_answers: bool,
    /// Most commands that the rehearsal runs again. 0: there is no rehearsal.
    pub rehearse: u32,
    /// Ends before the change is made.
    pub is_dry_run: bool,
    /// How long the change may be taken back, in milliseconds of log time.
    pub probation_ms: u64,
}

/// A step that was taken. Members have the leader's order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Every member has the component. The words of each are facts about its build.
    Prepared(Vec<AtMember>),
    /// Every member has tried the change out, with the same result.
    Rehearsed {
        /// Index of the marked entry.
        index: u64,
        /// The first entry whose commands were run again; `index` if none were.
        first: u64,
        /// The report of each member, by its name.
        reports: Vec<(String, RehearsalReport)>,
    },
    /// Every member is ready to take the change back, over equal states.
    ReadyToRollBack {
        /// Index of the entry of the change.
        change_index: u64,
        /// Each member's report, by its name.
        reports: Vec<(String, RollbackReport)>,
    },
}

/// How the steps ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was a dry run, and all went well.
    Tried,
    /// The change was in the log, and this is its verdict.
    Decided {
        /// How it ended.
        report: ChangeReport,
        /// Members that have not applied it yet, by name.
        behind: Vec<String>,
    },
}

/// What the steps need.
pub struct UpgradesParts {
    /// This node.
    pub me: Me,
    /// The group's place in the cluster.
    pub cell: GroupCell,
    /// Its machine.
    pub machine: Machine,
    /// Its log.
    pub log: Log,
    /// Who leads.
    pub leader: LeaderWatch,
    /// Its members.
    pub members: Members,
    /// Proposes the entries.
    pub proposer: Proposer,
    /// Takes the steps of this node.
    pub member: Member,
}

/// Changes what the cluster runs, while this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Upgrades(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) parts: UpgradesParts,
    pub(super) turn: Mutex<()>,
}

/// A change for which every member is ready.
struct Ready {
    term: u64,
    change: Change,
    servers: Vec<Server>,
}

impl Upgrades {
    /// Makes the handle. It does nothing by itself.
    pub fn new(parts: UpgradesParts) -> Upgrades {
        Upgrades(Arc::new(Inner { parts, turn: Mutex::default() }))
    }

    /// Takes all steps and tells of each. When nobody receives `steps` any more, it ends, unless
    /// the change was proposed.
    ///
    /// # Errors
    /// Nothing has changed, except that after [`Stopped::Unknown`] it may have.
    pub async fn run(&self, plan: Plan, steps: mpsc::Sender<Step>) -> Result<Ended, Stopped> {
        let _turn = self.0.turn.try_lock().map_err(|_| Stopped::Busy)?;
        let ready = tokio::select! {
            biased;
            () = steps.closed() => return Err(Stopped::Left),
            ready = self.make_ready(&plan, &steps) => ready?,
        };
        if plan.is_dry_run {
            return Ok(Ended::Tried);
        }
        if !is_same(&self.servers()?, &ready.servers) {
            return Err(Stopped::MembersChanged);
        }
        let entry = entry::Entry { change: Some(ready.change.clone()), ..entry::Entry::default() };
        crate::faults::point_beside("change-before-propose").await;
        let report = self.decide(ready.term, entry, &ready.change.component_hash).await?;
        let behind = match report.verdict {
            ChangeVerdict::Changed => self.behind(&ready.servers, &report).await,
            _ => Vec::new(),
        };
        Ok(Ended::Decided { report, behind })
    }

    async fn make_ready(&self, plan: &Plan, steps: &mpsc::Sender<Step>) -> Result<Ready, Stopped> {
        let parts = &self.0.parts;
        let term = self.term()?;
        let (in_force, profile) = parts.machine.profile().ok_or(Stopped::NoProfile)?;
        if plan.expected_index.is_some_and(|index| index != in_force) {
            return Err(Stopped::Outdated);
        }
        let change = change_of(plan, in_force, profile);
        let servers = self.servers()?;
        if let Some(semantics) = plan.semantics {
            self.require_builds(semantics, &servers).await?;
        }
        let prepared = self.prepare(&change, &servers).await?;
        let log_first = prepared.iter().map(|(_, prepared)| prepared.log_first).max().unwrap_or(0);
        let said = prepared.into_iter().map(|(name, prepared)| AtMember { name, words: prepared.build });
        tell(steps, Step::Prepared(said.collect())).await;
        if plan.rehearse > 0 {
            let trial = self.mark(term, &change, log_first, plan.rehearse).await?;
            let reports = self.rehearse(&trial, &servers).await?;
            let worse = if plan.keeps_answers { worsened(&reports) } else { Vec::new() };
            tell(steps, Step::Rehearsed { index: trial.index, first: trial.first, reports }).await;
            if !worse.is_empty() {
                return Err(Stopped::Worsened(worse));
            }
        }
        Ok(Ready { term, change, servers })
    }

    pub(super) fn term(&self) -> Result<u64, Stopped> {
        match self.0.parts.leader.current() {
            Some(leader) if leader.is_me => Ok(leader.term),
            leader => Err(Stopped::NotLeader(leader.map(|leader| leader.node))),
        }
    }

    /// Returns all members, voters or not. This node is one of them.
    pub(super) fn servers(&self) -> Result<Vec<Server>, Stopped> {
        let configuration = self.0.parts.members.configuration();
        configuration.map(|found| found.servers).map_err(|_| Stopped::NotLeader(None))
    }

    pub(super) fn asked(&self, server: &Server) -> Option<Asked> {
        let Inner { parts, .. } = &*self.0;
        (server.id != parts.me.node_id).then(|| Asked::new(parts.me.node_id, &parts.cell, server))
    }

    async fn prepare(&self, change: &Change, servers: &[Server]) -> Result<Vec<(String, PreparedChange)>, Stopped> {
        let parts = &self.0.parts;
        let prepared = join_all(servers.iter().map(|server| async move {
            match self.asked(server) {
                Some(asked) => asked.prepare(change, &parts.me.node).await,
                None => parts.member.prepare_here(change.clone(), None).await,
            }
        }));
        of_all(servers, prepared.await).map_err(Stopped::Unprepared)
    }

    /// Marks a place in the log, and chooses the commands that are run again there.
    async fn mark(&self, term: u64, change: &Change, log_first: u64, commands: u32) -> Result<Trial, Stopped> {
        let parts = &self.0.parts;
        let mut mark = [0; 16];
        getrandom::fill(&mut mark).expect("the system has randomness");
        let entry = entry::Entry { mark: mark.to_vec().into(), ..entry::Entry::default() };
        let written = parts.proposer.propose_entry(term, entry).await.map_err(not_proposed)?;
        let index = written.ok_or(Stopped::LeadLost)?;
        let first = window::begins_at(&parts.log, log_first, index, commands).await;
        let first = first.map_err(|error| Stopped::NoWindow(error.to_string()))?;
        Ok(Trial { change: change.clone(), mark, index, first })
    }

    async fn rehearse(&self, trial: &Trial, servers: &[Server]) -> Result<Vec<(String, RehearsalReport)>, Stopped> {
        let parts = &self.0.parts;
        let rehearsed = join_all(servers.iter().map(|server| async move {
            match self.asked(server) {
                Some(asked) => asked.rehearse(trial).await,
                None => parts.member.rehearse_here(trial.clone()).await,
            }
        }));
        let reports = of_all(servers, rehearsed.await).map_err(Stopped::Unrehearsed)?;
        let objections = objections(&reports);
        if objections.is_empty() { Ok(reports) } else { Err(Stopped::Objections(objections)) }
    }

    /// Proposes an entry that puts the component `to` in force, and returns how that ended.
    pub(super) async fn decide(&self, term: u64, entry: entry::Entry, to: &[u8]) -> Result<ChangeReport, Stopped> {
        let parts = &self.0.parts;
        let tried_before = parts.machine.last_change().map_or(0, |report| report.index);
        match parts.proposer.propose_entry(term, entry).await.map_err(not_proposed)? {
            Some(index) => {
                let report = parts.machine.last_change().filter(|report| report.index == index);
                report.ok_or(Stopped::Unknown)
            }
            None => self.learn(term, to, tried_before).await,
        }
    }

    /// Looks in the state for the end of a change that this node has proposed in `of_term`, and
    /// that may have been dropped from the log when it lost the lead.
    async fn learn(&self, of_term: u64, to: &[u8], tried_before: u64) -> Result<ChangeReport, Stopped> {
        let machine = &self.0.parts.machine;
        let deadline = Instant::now() + VERDICT_TIMEOUT;
        let mut applied = machine.applied();
        loop {
            // The position comes first: whatever is before it is in the state.
            let term = applied.borrow_and_update().log_id.as_ref().map_or(0, |log_id| log_id.leader_id.term);
            let report = machine.last_change().filter(|report| report.index > tried_before);
            if let Some(report) = report.filter(|report| report.to[..] == *to) {
                return Ok(report);
            }
            if term > of_term {
                return Err(Stopped::LeadLost);
            }
            match timeout_at(deadline, applied.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Stopped::Unknown),
            }
        }
    }

    /// Waits for the members to apply the change, and returns the names of those that have not.
    pub(super) async fn behind(&self, servers: &[Server], report: &ChangeReport) -> Vec<String> {
        let until = Instant::now() + EVERYWHERE_TIMEOUT;
        let Some(hash) = self.0.parts.machine.hash_at(report.index) else { return Vec::new() };
        let waited = join_all(servers.iter().map(|server| async move {
            match self.asked(server) {
                Some(asked) => asked.has_applied(report.index, hash, until).await,
                None => true,
            }
        }));
        let applied = waited.await;
        servers.iter().zip(applied).filter(|(_, has)| !has).map(|(server, _)| server.node.name.clone()).collect()
    }
}

pub(super) async fn tell(steps: &mpsc::Sender<Step>, step: Step) {
    // Nobody receives it: the caller ends then.
    drop(steps.send(step).await);
}

/// Returns the change to a component that runs under the profile in force, or under other limits.
fn change_of(plan: &Plan, in_force: u64, profile: Genesis) -> Change {
    Change {
        expected_index: in_force,
        component_hash: plan.component.to_vec().into(),
        source_hash: plan.source.to_vec().into(),
        semantics: plan.semantics.unwrap_or(profile.semantics),
        limits_json: plan.limits.as_ref().map_or(profile.limits_json, limits_json),
        probation_ms: plan.probation_ms,
    }
}

/// Returns whether the members are still those that were asked.
pub(super) fn is_same(now: &[Server], then: &[Server]) -> bool {
    now.iter().map(|server| server.id).eq(then.iter().map(|server| server.id))
}

/// Returns what every member said, or those that failed.
pub(super) fn of_all<T>(servers: &[Server], said: Vec<Result<T, String>>) -> Result<Vec<(String, T)>, Vec<AtMember>> {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (server, said) in servers.iter().zip(said) {
        let name = server.node.name.clone();
        match said {
            Ok(said) => found.push((name, said)),
            Err(words) => failed.push(AtMember { name, words }),
        }
    }
    if failed.is_empty() { Ok(found) } else { Err(failed) }
}

fn not_proposed(why: NotProposed) -> Stopped {
    match why {
        NotProposed::NotLeader => Stopped::LeadLost,
        why => Stopped::NotProposed(why.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Addresses;

    fn server(name: &str) -> Server {
        let node = Addresses { name: name.into(), ..Addresses::default() };
        Server { id: 1, node, voter: true, leader: false }
    }

    fn plan(limits: Option<Limits>) -> Plan {
        Plan {
            component: [1; 32],
            source: [2; 32],
            expected_index: None,
            limits,
            semantics: None,
            keeps_answers: false,
            rehearse: 10,
            is_dry_run: false,
            probation_ms: 5,
        }
    }

    #[test]
    fn a_change_of_limits_carries_them() {
        let limits = Limits { fuel_per_command: 7_000_000, ..Limits::DEFAULT };
        let profile = Genesis { semantics: 4, limits_json: "{}".into(), ..Genesis::default() };
        let change = change_of(&plan(Some(limits.clone())), 7, profile);
        assert_eq!((change.semantics, serde_json::from_str(&change.limits_json).ok()), (4, Some(limits)));
    }

    #[test]
    fn a_change_keeps_the_limits_that_are_in_force() {
        let profile = Genesis { semantics: 4, limits_json: "{}".into(), ..Genesis::default() };
        let change = change_of(&plan(None), 7, profile);
        assert_eq!((change.expected_index, change.semantics, &*change.limits_json), (7, 4, "{}"));
        assert_eq!(
            (change.component_hash, change.source_hash, change.probation_ms),
            (vec![1; 32].into(), vec![2; 32].into(), 5)
        );
    }

    #[test]
    fn a_raise_carries_its_number_and_the_rest_stays() {
        let profile = Genesis { semantics: 4, limits_json: "{}".into(), ..Genesis::default() };
        let change = change_of(&Plan { semantics: Some(5), ..plan(None) }, 7, profile);
        assert_eq!((change.semantics, &*change.limits_json), (5, "{}"));
    }

    #[test]
    fn one_member_that_fails_ends_the_step_and_is_named() {
        let servers = [server("nodeA"), server("nodeB")];
        assert_eq!(of_all(&servers, vec![Ok(1), Ok(2)]).unwrap(), [("nodeA".into(), 1), ("nodeB".into(), 2)]);
        let failed = of_all(&servers, vec![Ok(1), Err("no room".into())]).unwrap_err();
        assert_eq!(failed, [AtMember { name: "nodeB".into(), words: "no room".into() }]);
    }

    #[test]
    fn who_lost_the_lead_has_changed_nothing() {
        assert_eq!(not_proposed(NotProposed::NotLeader), Stopped::LeadLost);
        assert!(matches!(not_proposed(NotProposed::Stopping), Stopped::NotProposed(_)));
    }
}
