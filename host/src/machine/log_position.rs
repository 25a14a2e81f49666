//! A log id as the host's records and the frames of a snapshot hold it. This file owns its bytes,
//! and does no IO.

use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::types::{CommittedLeaderId, LogId, NodeId};

/// A log id in its form on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) index: u64,
}

impl From<&LogId> for LogPosition {
    fn from(log_id: &LogId) -> Self {
        LogPosition { term: log_id.leader_id.term, leader: log_id.leader_id.node_id, index: log_id.index }
    }
}

impl From<LogPosition> for LogId {
    fn from(position: LogPosition) -> Self {
        LogId { leader_id: CommittedLeaderId::new(position.term, position.leader), index: position.index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_record;
    use crate::types::hex;

    #[test]
    fn record_bytes_are_frozen() {
        let position = LogPosition { term: 2, leader: 3, index: 4 };
        assert_eq!(hex(&encode_record(&position)), "01020000000000000003000000000000000400000000000000");
    }
}
