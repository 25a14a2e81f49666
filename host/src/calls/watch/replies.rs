//! The queue between the task of a watch and its connection: a few replies, and how the watch
//! ended. The end needs no room in the queue, so a slow client learns it, too. This file runs no
//! step.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{mpsc, oneshot};

use super::places::Place;
use crate::calls::CallError;
use crate::guest::{Failure, Status};

/// Most replies that wait for a slow client.
const QUEUED_MAX: usize = 4;

/// How a watch ends that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The guest refused.
    Refused {
        /// What it said.
        refusal: Status,
        /// Index of the last entry in the state that it read.
        index: u64,
    },
    /// The guest failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Index of the last entry in the state that it read.
        index: u64,
    },
    /// The host ended it.
    Host(CallError),
}

/// The end of the queue that the task holds. If it is dropped without [`Outlet::end`], the client
/// is told that this node failed.
pub(super) struct Outlet {
    queue: mpsc::Sender<Bytes>,
    end: oneshot::Sender<Option<WatchEnd>>,
}

/// The client has left.
pub(super) struct Left;

/// The replies of a watch, as its connection takes them. An error is the last item. The watch keeps
/// its place until this is dropped.
pub struct Replies {
    queue: mpsc::Receiver<Bytes>,
    /// `None` once the end was reported.
    end: Option<oneshot::Receiver<Option<WatchEnd>>>,
    _place: Place,
}

pub(super) fn channel(place: Place) -> (Outlet, Replies) {
    let (queue, received) = mpsc::channel(QUEUED_MAX);
    let (end, ended) = oneshot::channel();
    (Outlet { queue, end }, Replies { queue: received, end: Some(ended), _place: place })
}

impl Outlet {
    /// Returns the sender for replies. The outlet itself is only for the end.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.queue.clone())
    }

    /// Completes when the client has left.
    pub(super) async fn left(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream after everything that was sent. `None` says that the watch is done.
    pub(super) fn end(self, end: Option<WatchEnd>) {
        // An error means that the client has left, which needs no handling.
        let _left = self.end.send(end);
    }
}

/// Sends replies.
pub(super) struct Sender(mpsc::Sender<Bytes>);

impl Sender {
    /// Completes when the client has taken everything that was sent. A reply that is made only then
    /// is still new when the client gets it, and few replies wait here.
    pub(super) async fn taken(&self) -> Result<(), Left> {
        self.0.reserve_many(QUEUED_MAX).await.map(drop).map_err(|_| Left)
    }

    pub(super) async fn send(&self, reply: Bytes) -> Result<(), Left> {
        self.0.send(reply).await.map_err(|_| Left)
    }
}

impl Stream for Replies {
    type Item = Result<Bytes, WatchEnd>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(reply) = ready!(this.queue.poll_recv(context)) {
            return Poll::Ready(Some(Ok(reply)));
        }
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(end).poll(context));
        this.end = None;
        Poll::Ready(ended.unwrap_or(Some(WatchEnd::Host(CallError::WatchBroken))).map(Err))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::calls::watch::places::{Connection, Places};
    use futures::{FutureExt, StreamExt};

    fn begun() -> (Outlet, Sender, Replies) {
        let (outlet, replies) = channel(Places::default().take_within(None, &Connection::default(), "").unwrap());
        let sender = outlet.sender();
        (outlet, sender, replies)
    }

    #[tokio::test]
    async fn a_client_that_is_slow_learns_how_its_stream_ended() {
        let (outlet, sender, mut replies) = begun();
        while sender.send(Bytes::from_static(b"reply")).now_or_never().is_some() {}
        outlet.end(Some(WatchEnd::Host(CallError::WatchStopping)));
        drop(sender);
        for _ in 0..QUEUED_MAX {
            assert_eq!(replies.next().await.unwrap().unwrap(), "reply");
        }
        assert_eq!(replies.next().await, Some(Err(WatchEnd::Host(CallError::WatchStopping))));
        assert!(replies.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_whose_task_fails_does_not_look_done() {
        let (outlet, sender, mut replies) = begun();
        drop((outlet, sender));
        assert_eq!(replies.next().await, Some(Err(WatchEnd::Host(CallError::WatchBroken))));
        assert!(replies.next().await.is_none());
        let (outlet, sender, mut replies) = begun();
        outlet.end(None);
        drop(sender);
        assert!(replies.next().await.is_none(), "done is no error");
    }

    #[tokio::test]
    async fn the_next_step_waits_until_all_is_taken() {
        let (outlet, sender, mut replies) = begun();
        assert!(sender.taken().now_or_never().is_some());
        for _ in 0..2 {
            assert!(sender.send(Bytes::new()).await.is_ok());
        }
        replies.next().await.unwrap().unwrap();
        assert!(sender.taken().now_or_never().is_none(), "one is there yet");
        replies.next().await.unwrap().unwrap();
        assert!(sender.taken().now_or_never().is_some());
        drop(replies);
        assert!(sender.taken().await.is_err() && outlet.left().now_or_never().is_some());
    }
}
