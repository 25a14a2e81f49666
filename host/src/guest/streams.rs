//! The guest's own snapshot and restore: one call each, in a fresh instance. The caller supplies
//! the other side of the stream. This module does not know frames, digests or the host's records.

use bytes::Bytes;
use wasmtime::component::ComponentExportIndex;

use super::component::Component;
use super::engine::Slot;
use super::imports::Mode;
use super::instance::Sandbox;

use super::outcome::{self, Interrupts};
use super::wire::Stream;
use super::{Context, HostFault, Rows, SnapshotSink, SnapshotSource, Verdict};

/// Most milliseconds that a guest may compute without moving its stream. Fuel alone would not end
/// such a guest, because it must be enough for states of any size. The limit is less than the time
/// after which the other side of a transfer gives up, so that the host can still send the rows
/// itself.
pub(super) const QUIET_MS: u32 = 20_000;

/// Takes a slot for one snapshot; `None` while as many snapshots are written as the pool has slots
/// for. Dropping the slot gives it back. Without a slot, a snapshot could take the instance that
/// apply needs.
pub fn snapshot_slot(component: &Component) -> Option<Slot> {
    component.engine().snapshot_slot()
}

/// Takes a slot for one restore, as [`snapshot_slot`] does.
pub fn restore_slot(component: &Component) -> Option<Slot> {
    component.engine().restore_slot()
}

/// Lets the guest write the state in `store` to `sink`. An empty reply means that the snapshot is
/// complete.
pub fn snapshot(
    component: &Component,
    _place: &Slot,
    context: Context,
    store: Box<dyn Rows>,
    sink: Box<dyn SnapshotSink>,
) -> Result<Verdict, HostFault> {
    let mut sandbox = Sandbox::new(component)?;
    sandbox.state().sink = Some(sink);
    run(&mut sandbox, &component.exports().snapshot, Mode::Snapshot, context, store, QUIET_MS).0
}

/// Lets the guest build the state in `store`, which is empty, from `source`. A guest that writes
/// far more than it reads is ended. The caller keeps the writes after an empty reply, and drops
/// them otherwise.
pub fn restore(
    component: &Component,
    _place: &Slot,
    context: Context,
    store: Box<dyn Rows>,
    source: Box<dyn SnapshotSource>,
) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
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
    store: Box<dyn Rows>,
    quiet_ms: u32,
) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
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
