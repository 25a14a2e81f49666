//! Owns the append stream to one peer: it is pipelined and bounded, and given up when its oldest
//! request stays unanswered. Does not know who leads or what the entries hold.
//!
//! - Each request has one response, in the same order.
//! - The stream ends after the first response that is not a success; openraft then opens another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use lockstep_proto::peer;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::acks::Acks;
use super::bounds::check_term;
use super::wire;
use crate::types::{LogId, NodeId, TypeConfig};

/// Most requests on their way at once. A higher limit would only make them smaller: waiting entries
/// go into the next request.
const REQUESTS_IN_FLIGHT_MAX: usize = 16;

/// One request on its way.
#[derive(Clone, Copy)]
struct Sent {
    at: Instant,
    /// The end of the log that it carries. Its receiver can have flushed no more.
    last: Option<LogId>,
}

/// Requests that were sent and not yet answered.
pub(in crate::raft) struct Outstanding {
    sent: Mutex<VecDeque<Sent>>,
    /// The term of the leader that sends.
    term: AtomicU64,
    room: Semaphore,
    /// Wakes the reading half, which sets no timer while nothing is outstanding.
    began: Notify,
}

impl Outstanding {
    pub(in crate::raft) fn new() -> Arc<Self> {
        Arc::new(Outstanding {
            sent: Mutex::default(),
            term: AtomicU64::new(0),
            room: Semaphore::new(REQUESTS_IN_FLIGHT_MAX),
            began: Notify::new(),
        })
    }

    /// Returns the outgoing requests. Waits for room *before* it takes a request, so the request is
    /// built as late as possible and carries all entries that came meanwhile. `boot` tells the
    /// receiver which process of this node sends.
    pub(in crate::raft) fn requests<S>(
        self: &Arc<Self>,
        input: S,
        route: peer::Route,
        boot: u64,
    ) -> impl Stream<Item = peer::AppendRequest> + Send + use<S>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        stream::unfold((input, self.clone(), route), move |(mut input, outstanding, route)| async move {
            let permit = outstanding.room.acquire().await.expect("the semaphore is never closed");
            let request = input.next().await?;
            permit.forget();
            outstanding.term.store(request.vote.leader_id.term, Ordering::Relaxed);
            outstanding.sent(request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id));
            let message = peer::AppendRequest { boot, ..wire::encode_append(route.clone(), &request) };
            Some((message, (input, outstanding, route)))
        })
    }

    fn sent(&self, last: Option<LogId>) {
        self.sent.lock().push_back(Sent { at: Instant::now(), last });
        self.began.notify_one();
    }

    /// Notes an answer and returns its request.
    fn answered(&self) -> Option<Sent> {
        let sent = self.sent.lock().pop_front();
        if sent.is_some() {
            self.room.add_permits(1);
        }
        sent
    }

    fn oldest(&self) -> Option<Instant> {
        self.sent.lock().front().map(|sent| sent.at)
    }
}

/// The reading half.
pub(in crate::raft) struct Answers<R> {
    pub(in crate::raft) responses: R,
    pub(in crate::raft) outstanding: Arc<Outstanding>,
    /// Longest time for which the oldest request may be unanswered.
    pub(in crate::raft) progress_timeout: Duration,
    /// Where it is noted that the peer accepts this leader.
    pub(in crate::raft) acks: Acks,
    /// The peer.
    pub(in crate::raft) target: NodeId,
}

/// Why the reading half ended.
#[derive(Debug)]
pub(in crate::raft) enum Broken {
    /// The status that the peer or the connection returned.
    Status(tonic::Status),
    /// The peer sent no answer.
    Silent,
}

type AppendError = RPCError<TypeConfig>;

impl<R> Answers<R>
where
    R: Stream<Item = Result<peer::AppendResponse, tonic::Status>> + Send + Unpin,
{
    /// Returns the answers in openraft's form. `explain` turns the end of the stream into its
    /// error.
    pub(in crate::raft) fn into_stream<'s>(
        self,
        explain: impl Fn(Broken) -> AppendError + Send + 's,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, AppendError>> + Send + 's
    where
        R: 's,
    {
        stream::unfold(Some((self, explain)), |state| async move {
            let (mut answers, explain) = state?;
            let answer = match answers.next().await? {
                Ok(answer) => Ok(answer),
                Err(broken) => Err(explain(broken)),
            };
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some((answers, explain))))
        })
    }

    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, Broken>> {
        loop {
            let deadline = self.outstanding.oldest().map(|oldest| oldest + self.progress_timeout);
            tokio::select! {
                biased;
                response = self.responses.next() => {
                    let sent = self.outstanding.answered();
                    return Some(self.accepted(sent, response?));
                }
                () = self.outstanding.began.notified(), if deadline.is_none() => {}
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Some(Err(Broken::Silent));
                }
            }
        }
    }

    /// Decodes the answer to a request. Notes it before openraft hears of it.
    fn accepted(
        &self,
        sent: Option<Sent>,
        response: Result<peer::AppendResponse, tonic::Status>,
    ) -> Result<StreamAppendResult<TypeConfig>, Broken> {
        let term = self.outstanding.term.load(Ordering::Relaxed);
        let answer = decode(term, sent.and_then(|sent| sent.last), response);
        if let (Some(sent), Ok(Ok(_) | Err(StreamAppendError::Conflict(_)))) = (sent, &answer) {
            self.acks.accepted(self.target, term, sent.at);
        }
        answer
    }
}

fn decode(
    term: u64,
    sent: Option<LogId>,
    response: Result<peer::AppendResponse, tonic::Status>,
) -> Result<StreamAppendResult<TypeConfig>, Broken> {
    let response = response.map_err(Broken::Status)?;
    let answer = wire::decode_stream_result(response).and_then(|answer| {
        match &answer {
            // The leader would save the vote.
            Err(StreamAppendError::HigherVote(vote)) => check_term(term, vote.leader_id.term)?,
            Ok(flushed) => wire::check_flushed(*flushed, sent)?,
            Err(StreamAppendError::Conflict(_)) => {}
        }
        Ok(answer)
    });
    answer.map_err(|error| Broken::Status(error.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Vote;
    use futures::FutureExt;
    use std::collections::BTreeSet;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    const PROGRESS: Duration = Duration::from_millis(50);

    fn request() -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        }
    }

    fn success() -> peer::AppendResponse {
        wire::encode_stream_result(&Ok(None))
    }

    fn explain(broken: Broken) -> AppendError {
        RPCError::Network(openraft::errors::NetworkError::from_string(format!("{broken:?}")))
    }

    type Response = Result<peer::AppendResponse, tonic::Status>;

    fn answers(outstanding: &Arc<Outstanding>) -> (mpsc::Sender<Response>, Answers<ReceiverStream<Response>>) {
        let (sender, receiver) = mpsc::channel(64);
        let answers = Answers {
            responses: ReceiverStream::new(receiver),
            outstanding: outstanding.clone(),
            progress_timeout: PROGRESS,
            acks: Acks::default(),
            target: 2,
        };
        (sender, answers)
    }

    #[tokio::test]
    async fn no_more_than_the_bound_is_in_flight_until_an_answer_comes() {
        let outstanding = Outstanding::new();
        let input = stream::iter(std::iter::repeat_with(request).take(40));
        let mut requests = Box::pin(outstanding.requests(input, peer::Route::default(), 1));
        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            requests.next().await.unwrap();
        }
        assert!(futures::poll!(requests.next()).is_pending());
        let (sender, mut answers) = answers(&outstanding);
        sender.send(Ok(success())).await.unwrap();
        assert!(matches!(answers.next().await, Some(Ok(Ok(None)))));
        assert!(requests.next().await.is_some());
    }

    #[tokio::test]
    async fn a_silent_peer_is_given_up_and_an_idle_stream_is_not() {
        let outstanding = Outstanding::new();
        let (_sender, answers) = answers(&outstanding);
        let mut answers = Box::pin(answers.into_stream(explain));
        let idle = tokio::time::timeout(PROGRESS * 4, answers.next()).await;
        assert!(idle.is_err(), "nothing was asked, so nothing is late");
        outstanding.sent(None);
        let error = answers.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("Silent"), "{error}");
        assert!(answers.next().await.is_none(), "the stream ends");
    }

    /// An answer is that to the oldest request, whatever was sent since.
    #[tokio::test]
    async fn an_answer_counts_as_of_the_time_of_its_own_request() {
        let outstanding = Outstanding::new();
        let input = stream::iter([request(), request()]).chain(stream::pending());
        let mut requests = Box::pin(outstanding.requests(input, peer::Route::default(), 1));
        requests.next().await.unwrap();
        let since = Instant::now() + Duration::from_nanos(1);
        while Instant::now() <= since {
            tokio::task::yield_now().await;
        }
        requests.next().await.unwrap();
        let (sender, mut answers) = answers(&outstanding);
        let (acks, voters) = (answers.acks.clone(), [BTreeSet::from([1, 2, 3])]);
        let confirmed = || acks.quorum(1, 1, since, &voters).now_or_never().is_some();
        for is_confirmed in [false, true] {
            sender.send(Ok(success())).await.unwrap();
            assert!(matches!(answers.next().await, Some(Ok(Ok(None)))));
            assert_eq!(confirmed(), is_confirmed);
        }
    }

    #[tokio::test]
    async fn the_stream_ends_after_a_conflict() {
        let outstanding = Outstanding::new();
        let (sender, answers) = answers(&outstanding);
        let at = wire::decode_log_id("at", &peer::LogId { term: 1, leader: 2, index: 3 }).unwrap();
        let conflict = Err(openraft::raft::StreamAppendError::Conflict(at));
        sender.send(Ok(wire::encode_stream_result(&conflict))).await.unwrap();
        sender.send(Ok(success())).await.unwrap();
        let all: Vec<_> = answers.into_stream(explain).collect().await;
        assert_eq!(all.len(), 1);
        assert_eq!(all.into_iter().next().unwrap().unwrap(), conflict);
    }
}
