//! The guest's own snapshot and restore: one call each, in a fresh instance, with the stream's other
//! side given by the caller. Frames, digests and what belongs to the host are not known here.

use bytes::Bytes;
use wasmtime::component::ComponentExportIndex;

use super::engine::Slot;
use super::imports::Mode;
use super::instance::Sandbox;
use super::load::Component;
use super::outcome::{self, Interrupts};
use super::wire::Stream;
use super::{Context, HostFault, SnapshotSink, SnapshotSource, Store, Verdict};

/// A guest that computes for so long without moving its stream is ended. Fuel alone would not do it: it must do for states of any size.
/// Less than the time after which the other side of a transfer gives up, so that the host can still send the rows itself.
pub(super) const QUIET_MS: u32 = 20_000;

/// A place for one snapshot, given back on drop; none while as many are being written as the pool has for them. Without one a snapshot
/// could take the instance that apply needs.
pub fn snapshot_slot(component: &Component) -> Option<Slot> {
    component.engine().snapshot_slot()
}

/// A place for one restore, as [`snapshot_slot`].
pub fn restore_slot(component: &Component) -> Option<Slot> {
    component.engine().restore_slot()
}

/// Lets the guest write the state that `store` shows into `sink`. An empty reply means it is complete.
pub fn snapshot(
    component: &Component,
    _place: &Slot,
    context: Context,
    store: Box<dyn Store>,
    sink: Box<dyn SnapshotSink>,
) -> Result<Verdict, HostFault> {
    let mut sandbox = Sandbox::new(component)?;
    sandbox.state().sink = Some(sink);
    run(&mut sandbox, &component.exports().snapshot, Mode::Snapshot, context, store, QUIET_MS).0
}

/// Lets the guest build the state in `store`, which is empty, from `source`. The caller keeps what was
/// written after an empty reply, and drops it otherwise.
pub fn restore(
    component: &Component,
    _place: &Slot,
    context: Context,
    store: Box<dyn Store>,
    source: Box<dyn SnapshotSource>,
) -> (Result<Verdict, HostFault>, Box<dyn Store>) {
    let mut sandbox = match Sandbox::new(component) {
        Ok(sandbox) => sandbox,
        Err(fault) => return (Err(fault), store),
    };
    sandbox.state().source = Some(source);
    run(&mut sandbox, &component.exports().restore, Mode::Restore, context, store, QUIET_MS)
}

pub(super) fn run(
    sandbox: &mut Sandbox,
    export: &ComponentExportIndex,
    mode: Mode,
    context: Context,
    store: Box<dyn Store>,
    quiet_ms: u32,
) -> (Result<Verdict, HostFault>, Box<dyn Store>) {
    let function: Stream = match sandbox.admitted(export) {
        Ok(function) => function,
        Err(fault) => return (Err(fault), store),
    };
    let started = sandbox.start(mode, sandbox.limits().fuel_per_snapshot, store);
    let _running = sandbox.start_quiet_deadline(quiet_ms);
    let verdict = started.and_then(|()| {
        let returned = sandbox.call(&function, (context.into(),), Interrupts::Deadline)?;
        Ok(match returned {
            Ok((Ok(()),)) => Verdict::Reply(Bytes::new()),
            Ok((Err(status),)) => outcome::refusal(status.into(), sandbox.limits()),
            Err(failure) => Verdict::Failed(failure),
        })
    });
    (verdict, sandbox.finish())
}
