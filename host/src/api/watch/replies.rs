//! What a watch sends, between its task and its connection: a few replies, and how it ended. The end needs no room in the queue, so a
//! client that is slow learns it, too. Runs no step.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::places::Place;
use crate::api::status;

/// Replies of one step that wait for a slow client.
const QUEUED_MAX: usize = 4;

/// The task's end. Dropped without [`Outlet::end`], it says that this node failed.
pub(super) struct Outlet {
    queue: mpsc::Sender<Bytes>,
    end: oneshot::Sender<Option<Status>>,
}

/// The client has left.
pub(super) struct Left;

/// The connection's end: the body of the response. The watch has its place until this is dropped.
pub struct Replies {
    queue: mpsc::Receiver<Bytes>,
    /// `None` once it was told.
    end: Option<oneshot::Receiver<Option<Status>>>,
    _place: Place,
}

pub(super) fn channel(place: Place) -> (Outlet, Replies) {
    let (queue, received) = mpsc::channel(QUEUED_MAX);
    let (end, ended) = oneshot::channel();
    (Outlet { queue, end }, Replies { queue: received, end: Some(ended), _place: place })
}

impl Outlet {
    /// What sends; the rest is for the end.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.queue.clone())
    }

    /// Completes when the client has left.
    pub(super) async fn left(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream, behind what was sent: with OK, or with a status.
    pub(super) fn end(self, status: Option<Status>) {
        // A client that has left does not mind.
        let _left = self.end.send(status);
    }
}

/// Sends replies.
pub(super) struct Sender(mpsc::Sender<Bytes>);

impl Sender {
    /// Completes when the client has taken all that was sent: what is made then is new when it gets it, and little waits here.
    pub(super) async fn taken(&self) -> Result<(), Left> {
        self.0.reserve_many(QUEUED_MAX).await.map(drop).map_err(|_| Left)
    }

    pub(super) async fn send(&self, reply: Bytes) -> Result<(), Left> {
        self.0.send(reply).await.map_err(|_| Left)
    }
}

impl Stream for Replies {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(reply) = ready!(this.queue.poll_recv(context)) {
            return Poll::Ready(Some(Ok(reply)));
        }
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(end).poll(context));
        this.end = None;
        Poll::Ready(ended.unwrap_or_else(|_| Some(status::watch_broken())).map(Err))
    }
}
