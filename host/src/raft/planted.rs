//! A fault that only a test plants, to see whether the torture test notices it: a follower that
//! reports entries as stored without looking at them. Nothing here runs unless the failpoint
//! `peer-skip-append` is set.

use futures::{Stream, StreamExt};
use lockstep_proto::peer;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;

use super::peers::wire;
use crate::types::TypeConfig;

/// Answers every append as stored, and stores nothing.
pub(super) fn answers(
    requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
) -> impl Stream<Item = peer::AppendResponse> + Send + 'static {
    requests.map(|request| {
        let last = request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id);
        wire::encode_stream_result(&Ok(last))
    })
}
