//! The sending side of a snapshot: a checkpoint becomes frames. The guest writes its own state; should it fail, or have been found
//! unfaithful, the host sends the rows themselves, because a node must never be irreplaceable. Never touches the state in force.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::hash;
use super::overlay::Transaction;
use super::snapshot_frames::{Cutter, FORMAT, Footer, Frame, Header, row_head};
use super::system::{LogPosition, System};
use crate::guest::{self, Component, Context, SnapshotSink, Verdict};
use crate::store::{Checkpoint, Column, Generation, Read, StoreError};

type Out = mpsc::Sender<Result<Bytes, String>>;

/// Why sending ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a checkpoint without a position cannot be sent")]
    Empty,
    /// Nobody to tell.
    #[error("the receiver has gone")]
    Gone,
}

/// Sends everything. Blocks while the receiver is slow; runs guests, so the thread needs their stack.
pub(super) fn send(checkpoint: &Arc<Checkpoint>, component: Option<&Component>, out: &Out) -> Result<(), SendError> {
    let generation = checkpoint.open()?;
    let system = System::read(&*generation)?;
    let applied = system.applied.as_ref().map(LogPosition::from).ok_or(SendError::Empty)?;
    let header = Header { format: FORMAT, applied, time_ms: system.time_ms, component: component.map(Component::hash) };
    put(out, &Frame::Header(header))?;
    match component {
        Some(component) => send_guest(&generation, &system, component, out)?,
        None => send_rows(&generation, Column::Data, Frame::Raw, out)?,
    }
    send_rows(&generation, Column::System, Frame::System, out)?;
    put(out, &Frame::Footer(digest(&*generation)?))
}

/// The digest of everything in a state, and how many rows that is.
pub(super) fn digest(state: &dyn Read) -> Result<Footer, StoreError> {
    let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
    for (tag, column) in [(hash::DATA, Column::Data), (hash::SYSTEM, Column::System)] {
        hasher.update(&[tag]);
        state.scan(column, &[], None, false, &mut |key, value| {
            hasher.update(&row_head(key, value)).update(key).update(value);
            rows += 1;
            ControlFlow::Continue(())
        })?;
    }
    Ok(Footer { digest: hasher.finalize().into(), rows })
}

fn put(out: &Out, frame: &Frame) -> Result<(), SendError> {
    out.blocking_send(Ok(frame.encode())).map_err(|_| SendError::Gone)
}

fn send_guest(
    generation: &Arc<Generation>,
    system: &System,
    component: &Component,
    out: &Out,
) -> Result<(), SendError> {
    let context = Context { index: system.applied_index(), position: 0, time_ms: system.time_ms };
    let cutter = Arc::<Mutex<Cutter>>::default();
    let sink = Sink { cutter: cutter.clone(), out: out.clone() };
    // A transaction whose writes nobody takes; the sandbox refuses them anyway.
    let store = Box::new(Transaction::new(generation.clone()));
    let ended = guest::snapshot(component, context, store, Box::new(sink));
    if out.is_closed() {
        return Err(SendError::Gone);
    }
    let problem = match ended {
        Ok(Verdict::Reply(_)) => return cutter.lock().rest().map_or(Ok(()), |body| put(out, &Frame::Guest(body))),
        Ok(Verdict::Refused(status)) => status.message,
        Ok(Verdict::Failed(failure)) => format!("{:?}: {}", failure.reason, failure.detail),
        Err(fault) => fault.to_string(),
    };
    tracing::error!(%problem, index = context.index, "the guest's snapshot failed; the host sends the rows themselves instead");
    put(out, &Frame::Restart)?;
    send_rows(generation, Column::Data, Frame::Raw, out)
}

fn send_rows(generation: &Generation, column: Column, frame: fn(Vec<u8>) -> Frame, out: &Out) -> Result<(), SendError> {
    let (mut cutter, mut sent) = (Cutter::default(), Ok(()));
    generation.scan(column, &[], None, false, &mut |key, value| {
        for part in [&row_head(key, value)[..], key, value] {
            sent = cutter.push(part, |body| put(out, &frame(body)));
            if sent.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    sent?;
    cutter.rest().map_or(Ok(()), |body| put(out, &frame(body)))
}

/// Frames what the guest writes. What is left in the cutter when the guest has ended is its maker's to send.
struct Sink {
    cutter: Arc<Mutex<Cutter>>,
    out: Out,
}

impl SnapshotSink for Sink {
    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.cutter.lock().push(chunk, |body| put(&self.out, &Frame::Guest(body))).map_err(|error| error.to_string())
    }
}
