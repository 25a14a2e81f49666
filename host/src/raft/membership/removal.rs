//! The refusal of a node that was removed from the cluster: how it is written and read. `standing`
//! decides who was removed.

use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::types::NodeId;

/// Header of a refusal: the index of the configuration without the node.
const REMOVED_AT: &str = "lockstep-removed-at";

/// Returns the refusal for a removed node.
pub(in crate::raft) fn refusal(id: NodeId, index: u64) -> Status {
    let mut status = Status::failed_precondition(format!(
        "node {id:016x} was removed from the cluster: it is not in the configuration of entry {index}"
    ));
    status.metadata_mut().insert(REMOVED_AT, MetadataValue::from(index));
    status
}

/// Returns the index in a refusal, if the refusal is of this kind.
pub(in crate::raft) fn told(status: &Status) -> Option<u64> {
    status.metadata().get(REMOVED_AT)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_carries_the_index() {
        assert_eq!(told(&refusal(7, 42)), Some(42));
        assert_eq!(told(&Status::failed_precondition("something else")), None);
    }
}
