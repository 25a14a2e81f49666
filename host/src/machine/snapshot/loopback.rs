//! Both ends of a snapshot in one process: the guest writes a state, and restores another one from
//! what it wrote. Tools and rehearsals use it to find a guest whose two functions are not inverse.
//! It puts no state in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::error::SnapshotError;
use super::frames::Frame;
use super::receive;
use super::send::{self, Author, Outlet};
use super::transfers::{Direction, Transfers};
use crate::codec::Genesis;
use crate::guest::{self, CALLER_STACK_BYTES, Component, Context, HostFault, SnapshotSink, Verdict};
use crate::machine::overlay::Transaction;
use crate::machine::pace::Pace;
use crate::machine::replica::ReplicaError;
use crate::machine::system::System;
use crate::store::{Generation, StoreError};

/// Frames that may wait between the two ends. A frame has at most 1 MiB.
const FRAMES_IN_FLIGHT: usize = 4;

/// Tells whether the caller wants no result any more.
pub(in crate::machine) type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// Lets the guest write a snapshot of `from`, to which nobody writes meanwhile, and restore it into
/// a generation that `create` makes. Returns the restored state, which equals the one before.
/// Blocks, on a thread with the stack size for guests.
pub(in crate::machine) fn pass(
    from: &Arc<Generation>,
    component: &Component,
    create: &dyn Fn() -> Result<Generation, StoreError>,
    is_cancelled: Cancelled,
) -> Result<(Arc<Generation>, System), ReplicaError> {
    let (out, mut frames) = mpsc::channel(FRAMES_IN_FLIGHT);
    let transfer = Arc::new(Transfers::default().begin(Direction::Sending, "the same replica", None));
    let outlet = Arc::new(Outlet { out, transfer, pace: Pace::default() });
    let (sent, sending) = (from.clone(), component.clone());
    let sender = std::thread::Builder::new()
        .name("snapshot-send".into())
        .stack_size(CALLER_STACK_BYTES)
        .spawn(move || {
            let author = Author { component: sending, profile: None };
            send::send_state(&sent, |_| Some(author), &outlet)
        })
        .map_err(ReplicaError::Thread)?;
    let fell_back = Arc::new(AtomicBool::new(false));
    let noted = fell_back.clone();
    let incoming = Box::new(move || {
        if is_cancelled() {
            return Err(SnapshotError::Damaged("it was cancelled".into()));
        }
        let frame = frames.blocking_recv().transpose().map_err(SnapshotError::Damaged)?;
        if frame.as_ref().is_some_and(|frame| Frame::decode(frame) == Ok(Frame::Restart)) {
            noted.store(true, Ordering::Release);
        }
        Ok(frame)
    });
    let find = |hash, _: Option<&Genesis>| Some(component.clone()).filter(|own| own.hash() == hash);
    let received = receive::receive_into(create, &find, incoming, &Arc::default());
    let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    // A node would send the rows instead, so that a faulty guest cannot prevent snapshots. Here the
    // guest is under test.
    if fell_back.load(Ordering::Acquire) {
        return Err(ReplicaError::Snapshot(problem(from, component)?));
    }
    let received = received?;
    match sent {
        Err(send::SendError::Store(error)) => Err(error.into()),
        Err(send::SendError::Empty | send::SendError::Gone) | Ok(()) => Ok(received),
    }
}

/// Makes the snapshot again to find the reason of the failure, which the sender only logs.
fn problem(from: &Arc<Generation>, component: &Component) -> Result<String, ReplicaError> {
    let place =
        guest::snapshot_slot(component).ok_or_else(|| HostFault("all places for snapshots are taken".into()))?;
    let system = System::read(&**from)?;
    let context = Context { index: system.applied_index(), position: 0, time_ms: system.time_ms };
    let rows = Box::new(Transaction::new(from.clone()));
    Ok(match guest::snapshot(component, &place, context, rows, Box::new(Nowhere))? {
        Verdict::Reply(_) => "it failed once and then did not".to_owned(),
        Verdict::Refused(status) => status.message,
        Verdict::Failed(failure) => format!("{:?}: {}", failure.reason, failure.detail),
    })
}

/// A sink for a snapshot that nobody reads.
struct Nowhere;

impl SnapshotSink for Nowhere {
    fn write(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
