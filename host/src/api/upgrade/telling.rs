//! Tells the caller of a change of its steps, and also the audit and the log of its end. It takes
//! no step, and finds no words for one.

use futures::StreamExt;
use lockstep_proto::v1::UpgradeEvent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Events;
use crate::api::gate::note;
use crate::raft::upgrade::{Step, Stopped};

/// Most steps that wait to be told. There are five.
pub(super) const STEPS_WAITING_MAX: usize = 8;

/// Whom a change is told to.
pub(super) struct Telling {
    /// The call, for what the audit learns.
    call: Request<()>,
    events: mpsc::Sender<Result<UpgradeEvent, Status>>,
}

impl Telling {
    /// Begins to tell of the change that a call asks for. Also returns the response to it.
    pub(super) fn begin(call: Request<()>) -> (Telling, Response<Events>) {
        let (events, told) = mpsc::channel(STEPS_WAITING_MAX);
        (Telling { call, events }, Response::new(ReceiverStream::new(told).boxed()))
    }

    /// Tells of one step. Whoever asked may have left.
    pub(super) async fn tell(&self, event: UpgradeEvent) {
        drop(self.events.send(Ok(event)).await);
    }

    /// Tells of the steps until there are no more, or nobody listens. Whoever takes them sees that.
    /// `words` leaves out a step for which it has none.
    pub(super) async fn tell_steps(
        &self,
        mut taken: mpsc::Receiver<Step>,
        words: impl Fn(&Step) -> Option<UpgradeEvent> + Send,
    ) {
        loop {
            let step = tokio::select! {
                step = taken.recv() => step,
                () = self.events.closed() => None,
            };
            let Some(step) = step else { return };
            let event = words(&step);
            if let Some(event) = event {
                self.tell(event).await;
            }
        }
    }

    /// Tells how `what` ended: by an event, or for a reason that `words` makes one of. A dry run
    /// that went well has no such event.
    pub(super) async fn end(
        self,
        what: &str,
        ended: Result<Option<UpgradeEvent>, Stopped>,
        words: impl FnOnce(&Stopped) -> UpgradeEvent,
    ) {
        let last = match ended {
            Ok(None) => return,
            Ok(Some(event)) => Ok(event),
            Err(stopped @ (Stopped::Unknown | Stopped::ValuesUnknown)) => Err(Status::unknown(stopped.to_string())),
            Err(stopped) => Ok(words(&stopped)),
        };
        let end = last.as_ref().map_or_else(|status| status.message(), |event| event.text.as_str());
        tracing::info!(end, "{what} has ended");
        note(&self.call, "end", end.lines().next().unwrap_or_default());
        drop(self.events.send(last).await);
    }
}
