//! Passes the frames of a backup on to a client, or to another node. If the client takes no frame
//! for a minute, this module ends the backup, tells the client why, and frees the backup's turn and
//! its checkpoint. It makes no frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::machine::Sending;

/// Time without taking a frame after which a client counts as stalled. A frame has at most a MiB,
/// so a client that takes 18 KiB a second does not stall. An end of a snapshot between nodes may
/// make no progress for as long.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Returns the frames of `sending` for as long as the client `peer` takes them. `patience` is the
/// longest time for which the client may take no frame.
pub fn attended(
    sending: Sending,
    peer: String,
    patience: Duration,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    // A frame in this channel is not taken yet. A transport that cannot write polls for nothing,
    // not even for the end of the stream, so a separate task must watch the time.
    let (out, taken) = mpsc::channel(1);
    let ended = Arc::new(Mutex::new(None));
    tokio::spawn(pass_on(sending, out, peer, patience, ended.clone()));
    let last = stream::once(async move { ended.lock().take() });
    ReceiverStream::new(taken).chain(last.filter_map(|status| async { status.map(Err) }))
}

async fn pass_on(
    mut sending: Sending,
    out: mpsc::Sender<Result<Bytes, Status>>,
    peer: String,
    patience: Duration,
    ended: Arc<Mutex<Option<Status>>>,
) {
    loop {
        let frame = tokio::select! {
            frame = sending.frames.recv() => frame,
            // The client has disconnected.
            () = out.closed() => return,
        };
        let Some(frame) = frame else { return };
        match timeout(patience, out.send(frame.map_err(Status::internal))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                let seconds = patience.as_secs();
                tracing::warn!(peer, seconds, "a backup was ended: its client took no frame any more");
                *ended.lock() = Some(Status::aborted(format!(
                    "the node ended this backup, because its client took no frame of it (a MiB at most) for {seconds} s, and what was \
                     written is no backup. Take it again, into a file or a pipe that is read all the time"
                )));
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::machine::{Direction, Transfers};

    const PATIENCE: Duration = Duration::from_millis(50);

    /// Returns a backup of that many frames, the task that makes it, and its list of transfers.
    fn backup(frames: usize) -> (Sending, tokio::task::JoinHandle<bool>, Transfers) {
        let (out, waiting) = mpsc::channel(1);
        let transfers = Transfers::default();
        let transfer = Arc::new(transfers.begin(Direction::BackingUp, "a client", None));
        let made = tokio::spawn(async move {
            for frame in 0..frames {
                if out.send(Ok(Bytes::from(vec![frame as u8]))).await.is_err() {
                    return false;
                }
            }
            true
        });
        (Sending { frames: waiting, transfer }, made, transfers)
    }

    #[tokio::test]
    async fn a_client_that_takes_all_gets_all() {
        let (sending, made, transfers) = backup(100);
        let frames: Vec<_> = attended(sending, "a client".into(), PATIENCE * 1_000).collect().await;
        assert_eq!(frames.len(), 100);
        assert!(frames.into_iter().all(|frame| frame.is_ok()) && made.await.unwrap());
        assert!(transfers.running().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_sleeps_frees_the_turn_and_learns_why_when_it_wakes() {
        let (sending, made, transfers) = backup(100);
        let mut frames = Box::pin(attended(sending, "a client".into(), PATIENCE));
        assert!(frames.next().await.unwrap().is_ok());
        assert!(!made.await.unwrap(), "whoever makes the frames is told that nobody wants them");
        while !transfers.running().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = frames.collect().await;
        let last = rest.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.code(), tonic::Code::Aborted);
        assert!(last.message().contains("took no frame"), "{last}");
        assert!(rest.len() < 5, "what was on its way, and the reason");
    }

    #[tokio::test]
    async fn a_client_that_goes_frees_the_turn_at_once() {
        let (sending, made, transfers) = backup(100);
        drop(attended(sending, "a client".into(), Duration::MAX));
        assert!(!made.await.unwrap());
        while !transfers.running().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
