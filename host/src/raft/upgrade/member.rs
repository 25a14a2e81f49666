//! What a member does for a change: it makes itself ready, and tries the change out on the
//! checkpoint of a marked entry. One of each at a time. It takes no step by itself, and leaves the
//! component to the node's [`Host`].

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::window;
use crate::codec::{Change, entry};
use crate::machine::{Machine, Operation, Rehearsal, RehearsalReport, RollbackReport, RollbackTrial, STATE_QUOTA};
use crate::raft::GroupCell;
use crate::raft::membership::join::Host;
use crate::raft::peers::handlers::{ChangeHandler, PreparedChange, Trial};
use crate::raft::retention::RetentionLimits;
use crate::store::Log;
use crate::types::{Addresses, NodeId};

/// Longest wait for the marked entry to be applied here.
const MARK_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of the words of a failure, which travel in the head of a message.
const WORDS_BYTES_MAX: usize = 2 << 10;

/// A member, by what it needs. Cheap to clone.
#[derive(Clone)]
pub struct Member(Arc<Inner>);

struct Inner {
    me: NodeId,
    cell: GroupCell,
    machine: Machine,
    log: Log,
    host: Arc<dyn Host>,
    /// Those of this node's flags.
    retention: RetentionLimits,
    preparing: Arc<Mutex<()>>,
    rehearsing: Mutex<()>,
}

impl Member {
    /// Makes the member that this node is.
    pub fn new(
        me: NodeId,
        cell: GroupCell,
        machine: Machine,
        log: Log,
        host: Arc<dyn Host>,
        retention: RetentionLimits,
    ) -> Member {
        let (preparing, rehearsing) = Default::default();
        Member(Arc::new(Inner { me, cell, machine, log, host, retention, preparing, rehearsing }))
    }

    /// Compiles and keeps the component. With `holder`, a node and its addresses, it is fetched
    /// from there if it is not here.
    pub(super) async fn prepare_here(
        &self,
        change: Change,
        holder: Option<(NodeId, Addresses)>,
    ) -> Result<PreparedChange, String> {
        let inner = &self.0;
        let holder = match holder {
            Some((id, node)) => {
                let route = inner.cell.route(inner.me, id);
                Some((node, route.ok_or_else(|| "this node is in no cluster".to_owned())?))
            }
            None => None,
        };
        let preparing = inner.preparing.clone().lock_owned().await;
        let prepare = inner.host.prepare(change, holder);
        // Compiling cannot be ended, so the turn is over when it has ended, whoever still waits.
        let prepared = tokio::spawn(async move {
            let _turn = preparing;
            prepare.await
        });
        let build = prepared.await.map_err(|error| error.to_string())?.map_err(cut)?;
        crate::faults::point_beside("change-prepared").await;
        let log_first = first_index(&inner.log);
        Ok(PreparedChange { build, log_first })
    }

    /// Tries the change out.
    pub(super) async fn rehearse_here(&self, trial: Trial) -> Result<RehearsalReport, String> {
        let inner = &self.0;
        let _turn = inner.rehearsing.lock().await;
        let Trial { change, mark, index, first } = trial;
        if timeout(MARK_TIMEOUT, inner.machine.wait_applied(index)).await.is_err() {
            let applied = inner.machine.applied_index();
            return Err(format!("it has applied entry {applied}, and did not apply {index} within {MARK_TIMEOUT:?}"));
        }
        let entries = window::read(&inner.log, first, index).await?;
        inner.machine.rehearse(Rehearsal { change, mark, entries }).await.map_err(cut)
    }
}

impl Member {
    /// Makes this node ready to take a change back.
    pub(super) async fn prepare_rollback_here(&self, trial: RollbackTrial) -> Result<RollbackReport, String> {
        self.0.machine.prepare_rollback(trial).await.map_err(cut)
    }
}

impl Member {
    /// Says what speaks against these values here: this node's flags, or its state. A node that has
    /// not applied the values from which these were made says nothing: it does not know what they
    /// change.
    pub(super) fn object_here(&self, values: &entry::Operation) -> Option<String> {
        let inner = &self.0;
        let (now, then) = (inner.machine.operation(), Operation::set_by(0, 0, values));
        if now.index < values.expected_index {
            return None;
        }
        let found = [inner.retention.contradiction(&now, &then), beyond(&now, &then, inner.machine.state_bytes())];
        let words: Vec<String> = found.into_iter().flatten().collect();
        (!words.is_empty()).then(|| cut(words.join("; ")))
    }
}

impl ChangeHandler for Member {
    fn object(&self, values: &entry::Operation) -> Option<String> {
        self.object_here(values)
    }

    fn prepare(
        &self,
        from: NodeId,
        change: Change,
        holder: Addresses,
    ) -> BoxFuture<'static, Result<PreparedChange, String>> {
        let member = self.clone();
        async move { member.prepare_here(change, Some((from, holder))).await }.boxed()
    }

    fn rehearse(&self, trial: Trial) -> BoxFuture<'static, Result<String, String>> {
        let member = self.clone();
        let rehearse = async move {
            let report = member.rehearse_here(trial).await?;
            serde_json::to_string(&report).map_err(|error| format!("the report cannot be sent: {error}"))
        };
        rehearse.boxed()
    }

    fn prepare_rollback(&self, trial: RollbackTrial) -> BoxFuture<'static, Result<String, String>> {
        let member = self.clone();
        let prepare = async move {
            let report = member.prepare_rollback_here(trial).await?;
            serde_json::to_string(&report).map_err(|error| format!("the report cannot be sent: {error}"))
        };
        prepare.boxed()
    }
}

/// Returns the first index that the log has, or will have.
pub(super) fn first_index(log: &Log) -> u64 {
    let stats = log.stats();
    stats.first_index.unwrap_or(stats.last_index.map_or(0, |last| last + 1))
}

/// Says that a quota which changes is below the size of the state here. The leader's size alone
/// counts, but any member may lead.
fn beyond(now: &Operation, then: &Operation, state_bytes: u64) -> Option<String> {
    let max = then.number(STATE_QUOTA).filter(|max| now.number(STATE_QUOTA) != Some(*max) && state_bytes > *max)?;
    Some(format!(
        "the state has {state_bytes} bytes there, more than {STATE_QUOTA}={max}: commands are refused when it leads"
    ))
}

fn cut(mut words: String) -> String {
    words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_below_the_state_of_a_member_is_named_when_it_changes() {
        let quota = |max: &str| Operation {
            settings: [(STATE_QUOTA.to_owned(), max.to_owned())].into(),
            ..Operation::default()
        };
        let none = Operation::default();
        let words = beyond(&none, &quota("10"), 11);
        assert!(words.is_some_and(|words| words.contains("11 bytes there, more than state_bytes_max=10")));
        assert_eq!(beyond(&none, &quota("10"), 10), None);
        assert_eq!(beyond(&quota("10"), &quota("10"), 11), None, "it is in force already");
        assert_eq!(beyond(&quota("10"), &none, 11), None);
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let words = "é".repeat(WORDS_BYTES_MAX);
        assert_eq!(cut(words).len(), WORDS_BYTES_MAX);
        assert_eq!(cut("short".into()), "short");
    }
}
