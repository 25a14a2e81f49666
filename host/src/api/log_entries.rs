//! The call of `lockstep.v1.Admin` that sends committed log entries. `raft/log_source` reads them.
//! This file sends them for as long as the client takes them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockstep_proto::v1::{LogEntriesRequest, LogEntriesResponse, LogEntry};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::gate::note;
use super::{Shared, status};
use crate::calls::DEADLINE_DEFAULT;
use crate::raft::log_source::{LogSource, LogSourceError};
use crate::raft::peers::attended::STALLED_AFTER;
use crate::types::{Cluster, CommittedLeaderId};

/// The messages of the call.
pub(super) type Entries = BoxStream<'static, Result<LogEntriesResponse, Status>>;

/// Sends the entries that a request asks for.
pub(super) async fn send(shared: &Shared, request: Request<LogEntriesRequest>) -> Result<Response<Entries>, Status> {
    let LogEntriesRequest { from, to, local, term_before, leader_before } = *request.get_ref();
    note(&request, "from", from);
    note(&request, "to", to.map_or_else(|| "the end".to_owned(), |to| to.to_string()));
    if to.is_some_and(|to| to < from) {
        return Err(Status::invalid_argument("the last entry that is asked for stands before the first one"));
    }
    if !local {
        let barrier = shared.parts.calls.read_barrier(Instant::now() + DEADLINE_DEFAULT).await;
        barrier.map_err(|error| status::ended(&error))?;
    }
    let source = shared.parts.log_source.clone();
    let cluster = source.cluster().map_err(|error| failed(&error))?;
    let before = term_before.zip(leader_before).map(|(term, node_id)| CommittedLeaderId { term, node_id });
    let range = source.range(from, to, before).await.map_err(|error| failed(&error))?;
    note(&request, "entries", range.end - range.start);
    let Cluster { id, incarnation, .. } = cluster;
    let head = LogEntriesResponse { cluster_id: id.to_vec().into(), end: range.end, incarnation, entries: Vec::new() };
    let sent = sent(source, range, STALLED_AFTER);
    Ok(Response::new(stream::iter([Ok(head)]).chain(sent).boxed()))
}

/// Returns the messages with the entries of a range. `patience` is the longest time for which the
/// client may take none.
fn sent(
    source: LogSource,
    range: Range<u64>,
    patience: Duration,
) -> impl Stream<Item = Result<LogEntriesResponse, Status>> + Send + 'static {
    // A task of its own watches the time, as for the frames of a backup.
    let (out, taken) = mpsc::channel(1);
    let ended = Arc::new(Mutex::new(None));
    tokio::spawn(pass_on(source, range, out, patience, ended.clone()));
    let last = stream::once(async move { ended.lock().take() });
    ReceiverStream::new(taken).chain(last.filter_map(|status: Option<Status>| async { status.map(Err) }))
}

async fn pass_on(
    source: LogSource,
    mut range: Range<u64>,
    out: mpsc::Sender<Result<LogEntriesResponse, Status>>,
    patience: Duration,
    ended: Arc<Mutex<Option<Status>>>,
) {
    while !range.is_empty() {
        let read = tokio::select! {
            read = source.read(range.clone()) => read,
            // The client has disconnected.
            () = out.closed() => return,
        };
        let is_last = read.is_err();
        let message = read.map_err(|error| failed(&error)).map(|entries| {
            range.start = entries.last().map_or(range.end, |last| last.index + 1);
            let entries = entries.into_iter().map(|entry| LogEntry { index: entry.index, value: entry.value });
            LogEntriesResponse { entries: entries.collect(), ..LogEntriesResponse::default() }
        });
        match timeout(patience, out.send(message)).await {
            Ok(Ok(())) if !is_last => {}
            Ok(_) => return,
            Err(_) => {
                let seconds = patience.as_secs();
                *ended.lock() = Some(Status::aborted(format!(
                    "the node ended this call, because its client took no message of it for {seconds} s"
                )));
                return;
            }
        }
    }
}

fn failed(error: &LogSourceError) -> Status {
    Status::new(code_of(error), error.to_string())
}

fn code_of(error: &LogSourceError) -> Code {
    match error {
        LogSourceError::Purged { .. } | LogSourceError::Beyond { .. } | LogSourceError::OtherHistory { .. } => {
            Code::OutOfRange
        }
        LogSourceError::Replaced => Code::Unavailable,
        LogSourceError::NoCluster => Code::FailedPrecondition,
        LogSourceError::Store(_) | LogSourceError::Ended(_) => Code::Internal,
    }
}
