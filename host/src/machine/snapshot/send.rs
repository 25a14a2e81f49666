//! The sending side of a snapshot: turns a checkpoint into frames. The guest writes its own state.
//! If the guest fails, or was found unfaithful, the host sends the rows themselves, because a
//! faulty guest must not make it impossible to replace a node. This module never touches the state
//! in use.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;

use super::frames::{BODY_BYTES_MAX, Cutter, FORMAT, Frame, Header, row_head};
use super::transfers::Running;
use crate::codec::Genesis;
use crate::faults;
use crate::guest::{self, Component, Context, SnapshotSink, Verdict};
use crate::machine::digest::{Digester, Seen, Watched};
use crate::machine::log_position::LogPosition;
use crate::machine::pace::Pace;
use crate::machine::system::System;
use crate::store::{Checkpoint, Column, Generation, Read, StoreError};

/// How often a waiting frame or guest checks whether the receiver has gone.
const PACE_LOOK: Duration = Duration::from_millis(100);

/// The guest that writes a snapshot.
pub(in crate::machine) struct Author {
    pub(in crate::machine) component: Component,
    /// Its profile, if the receiver may not have the component yet.
    pub(in crate::machine) profile: Option<Genesis>,
}

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
pub(in crate::machine) enum SendError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a checkpoint without a position cannot be sent")]
    Empty,
    /// The receiver has gone, so there is nobody to report to.
    #[error("the receiver has gone")]
    Gone,
}

/// Sends frames to the receiver, counts them and limits their rate.
pub(in crate::machine) struct Outlet {
    pub(in crate::machine) out: mpsc::Sender<Result<Bytes, String>>,
    pub(in crate::machine) transfer: Arc<Running>,
    pub(in crate::machine) pace: Pace,
}

impl Outlet {
    fn put(&self, frame: &Frame) -> Result<(), SendError> {
        faults::point("snapshot-send-frame");
        let frame = frame.encode();
        let bytes = frame.len();
        self.wait(self.pace.book(bytes))?;
        self.out.blocking_send(Ok(frame)).map_err(|_| SendError::Gone)?;
        self.transfer.moved(bytes);
        Ok(())
    }

    /// Returns a slot for a guest that writes a snapshot. Waits while all slots are taken. The
    /// steps show the receiver that this node is still alive.
    fn place_for(&self, component: &Component) -> Result<guest::Slot, SendError> {
        loop {
            if let Some(place) = guest::snapshot_slot(component) {
                return Ok(place);
            }
            self.wait(PACE_LOOK)?;
        }
    }

    fn wait(&self, pause: Duration) -> Result<(), SendError> {
        let turn = Instant::now() + pause;
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.out.is_closed() {
                return Err(SendError::Gone);
            }
            std::thread::sleep(left.min(PACE_LOOK));
            self.transfer.step();
        }
    }
}

/// Sends a whole snapshot to a node. `author` finds the guest that writes it, from the host's
/// records in it; without one, the rows are sent. Blocks while the receiver is slow. It runs
/// guests, so the thread needs the stack size for guests.
pub(in crate::machine) fn send(
    checkpoint: &Arc<Checkpoint>,
    author: impl FnOnce(&System) -> Option<Author>,
    outlet: &Arc<Outlet>,
) -> Result<(), SendError> {
    send_state(&checkpoint.open()?, author, outlet)
}

/// Sends a state to which nobody writes meanwhile, as [`send`] does.
pub(in crate::machine) fn send_state(
    generation: &Arc<Generation>,
    author: impl FnOnce(&System) -> Option<Author>,
    outlet: &Arc<Outlet>,
) -> Result<(), SendError> {
    let system = System::read(&**generation)?;
    let author = author(&system);
    begin(&system, author.as_ref().map(|author| &author.component), outlet)?;
    let digester = match author {
        Some(Author { component, profile }) => {
            if let Some(profile) = profile {
                outlet.put(&Frame::Profile(profile.encode_to_vec()))?;
            }
            send_guest(generation, &system, &component, outlet)?
        }
        None => send_data(generation, outlet)?,
    };
    finish(generation, digester, outlet)
}

/// Sends a whole snapshot as a backup: the component, and always the rows themselves, so that
/// reading it back depends on no guest.
pub(in crate::machine) fn send_backup(
    checkpoint: &Arc<Checkpoint>,
    component: &Component,
    outlet: &Arc<Outlet>,
) -> Result<(), SendError> {
    let generation = checkpoint.open()?;
    begin(&System::read(&*generation)?, None, outlet)?;
    for chunk in component.encoded().chunks(BODY_BYTES_MAX) {
        outlet.put(&Frame::Component(chunk.to_vec()))?;
    }
    let digester = send_data(&generation, outlet)?;
    finish(&generation, digester, outlet)
}

fn begin(system: &System, component: Option<&Component>, outlet: &Outlet) -> Result<(), SendError> {
    let applied = system.applied.as_ref().map(LogPosition::from).ok_or(SendError::Empty)?;
    let header = Header { format: FORMAT, applied, time_ms: system.time_ms, component: component.map(Component::hash) };
    outlet.put(&Frame::Header(header))
}

fn finish(generation: &Generation, mut digester: Digester, outlet: &Outlet) -> Result<(), SendError> {
    digester.begin(Column::System);
    send_rows(generation, Column::System, Frame::System, &mut digester, outlet)?;
    outlet.put(&Frame::Footer(digester.finish()))
}

/// Sends the guest's own snapshot, and returns the digest of the rows that it was made from.
fn send_guest(
    generation: &Arc<Generation>,
    system: &System,
    component: &Component,
    outlet: &Arc<Outlet>,
) -> Result<Digester, SendError> {
    let context = Context { index: system.applied_index(), position: 0, time_ms: system.time_ms };
    let cutter = Arc::<Mutex<Cutter>>::default();
    let seen = Arc::new(Mutex::new(Seen::new()));
    let sink = Sink { cutter: cutter.clone(), outlet: outlet.clone() };
    let store = Watched::new(generation.clone(), seen.clone(), outlet.transfer.shared());
    let place = outlet.place_for(component)?;
    let ended = guest::snapshot(component, &place, context, Box::new(store), Box::new(sink));
    drop(place);
    if outlet.out.is_closed() {
        return Err(SendError::Gone);
    }
    let problem = match ended {
        Ok(Verdict::Reply(_)) => {
            if let Some(body) = cutter.lock().rest() {
                outlet.put(&Frame::Guest(body))?;
            }
            let digested = seen.lock().whole();
            return match digested {
                Some(digester) => Ok(digester),
                None => {
                    let mut digester = Digester::new();
                    digester.scan(&**generation, Column::Data, &outlet.transfer)?;
                    Ok(digester)
                }
            };
        }
        Ok(Verdict::Refused(status)) => status.message,
        Ok(Verdict::Failed(failure)) => format!("{:?}: {}", failure.reason, failure.detail),
        Err(fault) => fault.to_string(),
    };
    tracing::error!(%problem, index = context.index, "the guest's snapshot failed; the host sends the rows themselves instead");
    outlet.put(&Frame::Restart)?;
    send_data(generation, outlet)
}

fn send_data(generation: &Generation, outlet: &Outlet) -> Result<Digester, SendError> {
    let mut digester = Digester::new();
    send_rows(generation, Column::Data, Frame::Raw, &mut digester, outlet)?;
    Ok(digester)
}

fn send_rows(
    generation: &Generation,
    column: Column,
    frame: fn(Vec<u8>) -> Frame,
    digester: &mut Digester,
    outlet: &Outlet,
) -> Result<(), SendError> {
    let (mut cutter, mut sent) = (Cutter::default(), Ok(()));
    generation.scan(column, &[], None, false, &mut |key, value| {
        digester.row(key, value);
        outlet.transfer.passed(1);
        for part in [&row_head(key, value)[..], key, value] {
            sent = cutter.push(part, |body| outlet.put(&frame(body)));
            if sent.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    sent?;
    cutter.rest().map_or(Ok(()), |body| outlet.put(&frame(body)))
}

/// Makes frames of the bytes that the guest writes. The caller of the guest sends the bytes that
/// are left in the cutter at the end.
struct Sink {
    cutter: Arc<Mutex<Cutter>>,
    outlet: Arc<Outlet>,
}

impl SnapshotSink for Sink {
    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        let put = |body| self.outlet.put(&Frame::Guest(body));
        self.cutter.lock().push(chunk, put).map_err(|error| error.to_string())
    }
}
