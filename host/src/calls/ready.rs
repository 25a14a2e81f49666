//! Whether this node may answer: its mode, its place in the cluster, and the read barrier. It runs
//! no call.

use std::future::Future;

use tokio::time::{Instant, timeout_at};

use super::{Call, CallError, Calls};
use crate::machine::QueryError;
use crate::types::NodeMode;
use lockstep_contract::Consistency;

impl Calls {
    /// Returns why this node does not have its cluster's component: it has not joined yet, or it
    /// may not serve.
    pub fn no_component(&self) -> CallError {
        let node = &self.0.parts.me.node;
        CallError::NoComponent(match self.0.parts.machine.mode() {
            NodeMode::Unfit(why) | NodeMode::Quarantined(why) | NodeMode::Disputed(why) | NodeMode::Removed(why) => why,
            NodeMode::Serving | NodeMode::CatchingUp(_) => format!(
                "this node has not joined a cluster yet; add it from the leader with `lockstep admin <leader's grpc address> add_voter \
                 {} {}`",
                node.name, node.raft_addr
            ),
        })
    }

    /// Waits while a member catches up with its own log, but no longer than an election may take. A
    /// client that calls just after a start gets an answer instead of an error. On a node that is
    /// in no cluster, it returns an error at once.
    ///
    /// # Errors
    /// The node does not serve after that time, or was removed. One that is out of service for
    /// another reason is no error here.
    pub async fn ready(&self, deadline: Instant) -> Result<(), CallError> {
        if self.0.parts.machine.mode() == NodeMode::Serving {
            return Ok(());
        }
        let mut mode = self.0.parts.machine.watch_mode();
        let reason = match &*mode.borrow() {
            NodeMode::CatchingUp(reason) => reason.clone(),
            NodeMode::Removed(reason) => return Err(QueryError::Removed(reason.clone()).into()),
            NodeMode::Serving | NodeMode::Quarantined(_) | NodeMode::Disputed(_) | NodeMode::Unfit(_) => return Ok(()),
        };
        if self.0.parts.members.configuration().is_ok_and(|configuration| !configuration.servers.is_empty()) {
            let patience = deadline.min(Instant::now() + self.0.parts.election_timeout);
            let caught_up = mode.wait_for(|mode| !matches!(mode, NodeMode::CatchingUp(_)));
            if timeout_at(patience, caught_up).await.is_ok() {
                return Ok(());
            }
        }
        Err(QueryError::NotReady(reason).into())
    }

    /// Waits as [`Calls::ready`] does. Returns how fresh the state must be that the call reads. If
    /// another component came meanwhile, the call's method is of the one before: a read that is
    /// linearizable is right for both.
    pub(super) async fn ready_to_read(&self, call: &Call, deadline: Instant) -> Result<Consistency, CallError> {
        let machine = &self.0.parts.machine;
        let version = machine.component_version();
        self.ready(deadline).await?;
        Ok(match machine.component_version() == version {
            true => call.method.consistency(&call.request),
            false => Consistency::Linearizable,
        })
    }

    /// Returns why this node cannot say that a method does not exist: as long as it does not serve,
    /// its component may be one that its cluster has replaced. `None` while it serves.
    pub fn not_serving(&self) -> Option<CallError> {
        not_serving(self.0.parts.machine.mode())
    }

    /// Completes when this node has applied everything that was answered before the call.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), CallError> {
        let applied = async {
            let index = self.0.parts.read.read_index(deadline).await?;
            let applied = timeout_at(deadline, self.0.parts.machine.wait_applied(index)).await;
            applied.map_err(|_| CallError::ReadBehind { index })
        };
        tokio::select! {
            biased;
            error = self.out_of_service() => Err(error),
            applied = applied => applied,
        }
    }

    /// Completes when this node may no longer serve, with the error for its clients.
    pub(super) fn out_of_service(&self) -> impl Future<Output = CallError> + Send + use<> {
        let mut mode = self.0.parts.machine.watch_mode();
        async move {
            loop {
                if let Some(error) = out_of_service(&mode.borrow_and_update()) {
                    return error;
                }
                if mode.changed().await.is_err() {
                    // The machine is gone, and with it every client that could get the error.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Returns the error for a call whose method a node of this mode does not have.
fn not_serving(mode: NodeMode) -> Option<CallError> {
    match mode {
        NodeMode::CatchingUp(why) => Some(QueryError::NotReady(why).into()),
        mode => out_of_service(&mode),
    }
}

/// Returns the error for open streams and waiting reads when the node may no longer serve. Such a
/// node was removed, is in quarantine, or has another guest than its cluster. None for a node that
/// only catches up, since it will serve again by itself.
fn out_of_service(mode: &NodeMode) -> Option<CallError> {
    match mode {
        NodeMode::Serving | NodeMode::CatchingUp(_) => None,
        NodeMode::Removed(why) => Some(QueryError::Removed(why.clone()).into()),
        NodeMode::Quarantined(why) | NodeMode::Unfit(why) | NodeMode::Disputed(why) => {
            Some(QueryError::NotReady(why.clone()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_may_not_serve_says_why() {
        let removed = "the cluster removed it";
        assert_eq!(
            out_of_service(&NodeMode::Removed(removed.into())),
            Some(QueryError::Removed(removed.into()).into())
        );
        for mode in [NodeMode::Quarantined("its state differs".into()), NodeMode::Unfit("hashes differ".into())] {
            let why = mode.words().1.to_owned();
            assert_eq!(out_of_service(&mode), Some(QueryError::NotReady(why).into()));
        }
        for mode in [NodeMode::Serving, NodeMode::CatchingUp("replaying".into())] {
            assert_eq!(out_of_service(&mode), None);
        }
    }

    #[test]
    fn a_node_that_does_not_serve_yet_does_not_know_all_methods() {
        let replaying = not_serving(NodeMode::CatchingUp("replaying".into()));
        assert_eq!(replaying, Some(QueryError::NotReady("replaying".into()).into()));
        assert_eq!(not_serving(NodeMode::Removed("gone".into())), Some(QueryError::Removed("gone".into()).into()));
        assert_eq!(not_serving(NodeMode::Serving), None);
    }
}
