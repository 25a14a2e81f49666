//! The log time of a group, as this node's clock and disk feed it. Sets no clock.

use std::time::Duration;

use crate::machine::Machine;
use crate::raft::time::log_time::{LogTimeParts, voters_of};
use crate::raft::{LogTime, RaftCell};
use crate::types::NodeId;

/// Makes the log time that stamps this node's entries, and that its clock is compared with.
pub(super) fn log_time(me: NodeId, machine: &Machine, raft: &RaftCell, heartbeat: Duration) -> LogTime {
    let applied = machine.applied();
    LogTime::new(LogTimeParts {
        me,
        applied_ms: Box::new(move || applied.borrow().time_ms),
        voters: voters_of(raft.clone()),
        heartbeat,
    })
}
