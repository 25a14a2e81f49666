//! Compares the engine build of this node with the builds of the other members, and says which
//! semantics a build runs. Warns of differences, and of a member whose build does not know
//! retention and quotas while some are set. Refuses no node: otherwise no cluster could be upgraded
//! node by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lockstep_proto::peer::IdentifyResponse;
use openraft::async_runtime::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::join;
use super::join::Host;
use crate::codec::OPERATION_FIELD;
use crate::machine::SemanticsRange;
use crate::raft::peers::dial::Dialer;
use crate::raft::{Me, Raft};
use crate::types::{Addresses, NodeId};

/// Time between two comparisons when nothing changes in the cluster. An upgraded member is noticed
/// by then.
const PAUSE: Duration = Duration::from_secs(60);

/// What a node tells of its build of Lockstep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Its version; empty from a build that does not say.
    pub version: String,
    /// The semantics that it runs. `None` from a build that does not say: it is older than every
    /// one that does.
    pub semantics: Option<SemanticsRange>,
}

impl Build {
    /// Returns the build of this node.
    pub fn own() -> Build {
        Build { version: env!("CARGO_PKG_VERSION").to_owned(), semantics: Some(SemanticsRange::of_this_build()) }
    }

    /// Reads what a node said.
    pub(in crate::raft) fn of(found: &IdentifyResponse) -> Build {
        let range = SemanticsRange { oldest: found.semantics_oldest, newest: found.semantics_newest };
        Build { version: found.version.clone(), semantics: (range.newest > 0).then_some(range) }
    }

    /// Says why a node of this build does not run a number, and what to do.
    pub fn check(&self, semantics: u32) -> Result<(), String> {
        let version = if self.version.is_empty() { String::new() } else { format!(" ({})", self.version) };
        let runs = match self.semantics {
            Some(range) if range.holds(semantics) => return Ok(()),
            Some(range) => format!("runs semantics {range}, and not {semantics}"),
            None => format!("does not say which semantics it runs, so it is too old for {semantics}"),
        };
        Err(format!("its build of Lockstep{version} {runs}; start it with a build that does, such as the leader's"))
    }
}

/// Asks the other members for as long as Raft runs. Warns once of each member's build that differs,
/// and of each that does not know retention and quotas while `values_are_set`.
pub async fn compare(
    me: Me,
    dialer: Dialer,
    raft: Raft,
    host: Arc<dyn Host>,
    values_are_set: impl Fn() -> bool + Send + 'static,
) {
    let mut metrics = raft.server_metrics();
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut warned, mut too_old) = (BTreeMap::new(), BTreeSet::new());
    loop {
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            _ = pause.tick() => {}
        }
        let members: Vec<(NodeId, Addresses)> = {
            let now = metrics.borrow_watched();
            now.membership_config.membership().nodes().map(|(id, node)| (*id, node.clone())).collect()
        };
        let others = members.into_iter().filter(|(id, _)| *id != me.node_id);
        let dialer = &dialer;
        let asked = others.map(|(id, node)| async move { (identify(dialer, id, &node).await, id, node) });
        let (answers, ours) = (join_all(asked).await, host.build());
        for (found, id, node) in answers {
            let Some(found) = found else { continue };
            if passes_over_values(&mut too_old, id, found.entry_field, values_are_set()) {
                tracing::error!(
                    member = %node,
                    "that node's build of Lockstep knows no retention and quotas of the cluster, and some are set: it does not obey them, and \
                     stands still before the next entry about them; start it with the build of the other nodes"
                );
            }
            // A node that runs no guest yet tells no build.
            let theirs = Some(found.build).filter(|build| !build.is_empty());
            if let (Some(theirs), Some(ours)) = (theirs, &ours)
                && differs(&mut warned, id, &theirs, ours)
            {
                tracing::warn!(
                    member = %node,
                    theirs,
                    ours,
                    "that node runs guests by another build of the engine; outcomes are meant to be the same, except that before semantics 5 \
                     a guest that recurses until its stack is full may end elsewhere there: give all nodes the same build of Lockstep"
                );
            }
        }
    }
}

/// Asks a member who it is. `None`: the member does not answer, or another node now has its
/// address.
async fn identify(dialer: &Dialer, id: NodeId, node: &Addresses) -> Option<IdentifyResponse> {
    let found = join::identify(dialer, &node.raft_addr, Duration::ZERO).await.ok()?;
    (found.node_id == id).then_some(found)
}

/// Returns whether to tell of a member that would pass over the values which are set: it applies
/// entries of a lower level, and no error has named it yet.
fn passes_over_values(told: &mut BTreeSet<NodeId>, id: NodeId, level: u32, values_are_set: bool) -> bool {
    if !values_are_set || level >= OPERATION_FIELD {
        told.remove(&id);
        return false;
    }
    told.insert(id)
}

/// Returns whether to warn of a node's build: it differs from ours, and no warning has named it
/// yet.
fn differs(told: &mut BTreeMap<NodeId, String>, id: NodeId, theirs: &str, ours: &str) -> bool {
    if theirs == ours {
        told.remove(&id);
        return false;
    }
    told.insert(id, theirs.to_owned()).as_deref() != Some(theirs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_build_runs_what_it_says_and_no_more() {
        let found = |oldest, newest| IdentifyResponse {
            semantics_oldest: oldest,
            semantics_newest: newest,
            version: "9.8.7".into(),
            ..Default::default()
        };
        let build = Build::of(&found(3, 4));
        assert!(build.check(3).is_ok() && build.check(4).is_ok());
        let words = build.check(5).unwrap_err();
        assert!(words.starts_with("its build of Lockstep (9.8.7) runs semantics 3 to 4, and not 5"), "{words}");
        assert!(build.check(2).is_err());
        let silent = Build::of(&IdentifyResponse::default()).check(3).unwrap_err();
        assert!(silent.starts_with("its build of Lockstep does not say"), "{silent}");
        assert!(Build::own().check(crate::machine::SEMANTICS).is_ok());
    }

    #[test]
    fn a_member_that_does_not_know_values_that_are_set_is_told_once() {
        let mut told = BTreeSet::new();
        let (known, unknown) = (OPERATION_FIELD, OPERATION_FIELD - 1);
        let rows = [
            (7, unknown, false, false),
            (7, unknown, true, true),
            (7, unknown, true, false),
            (8, known, true, false),
            (8, unknown, true, true),
            (7, known, true, false),
            (7, unknown, true, true),
        ];
        for (n, (id, level, are_set, tells)) in rows.into_iter().enumerate() {
            assert_eq!(passes_over_values(&mut told, id, level, are_set), tells, "row {n}");
        }
    }

    #[test]
    fn each_difference_is_told_once() {
        let mut told = BTreeMap::new();
        let rows = [
            (7, "a", false),
            (7, "b", true),
            (7, "b", false),
            (8, "b", true),
            (7, "c", true),
            (7, "a", false),
            (7, "c", true),
        ];
        for (n, (id, theirs, tells)) in rows.into_iter().enumerate() {
            assert_eq!(differs(&mut told, id, theirs, "a"), tells, "row {n}");
        }
    }
}
