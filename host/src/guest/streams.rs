//! The guest's own snapshot and restore: one call each, in a fresh instance, with the stream's other
//! side given by the caller. Frames, digests and what belongs to the host are not known here.

use bytes::Bytes;
use wasmtime::component::ComponentExportIndex;

use super::imports::Mode;
use super::instance::Sandbox;
use super::load::Component;
use super::outcome::{self, Interrupts};
use super::wire::Stream;
use super::{Context, HostFault, SnapshotSink, SnapshotSource, Store, Verdict};

/// Lets the guest write the state that `store` shows into `sink`. An empty reply means it is complete.
pub fn snapshot(
    component: &Component,
    context: Context,
    store: Box<dyn Store>,
    sink: Box<dyn SnapshotSink>,
) -> Result<Verdict, HostFault> {
    let mut sandbox = Sandbox::new(component)?;
    sandbox.state().sink = Some(sink);
    let (verdict, _) = run(&mut sandbox, &component.exports().snapshot, Mode::Snapshot, context, store);
    verdict
}

/// Lets the guest build the state in `store`, which is empty, from `source`. The caller keeps what was
/// written after an empty reply, and drops it otherwise.
pub fn restore(
    component: &Component,
    context: Context,
    store: Box<dyn Store>,
    source: Box<dyn SnapshotSource>,
) -> (Result<Verdict, HostFault>, Box<dyn Store>) {
    let mut sandbox = match Sandbox::new(component) {
        Ok(sandbox) => sandbox,
        Err(fault) => return (Err(fault), store),
    };
    sandbox.state().source = Some(source);
    run(&mut sandbox, &component.exports().restore, Mode::Restore, context, store)
}

fn run(
    sandbox: &mut Sandbox,
    export: &ComponentExportIndex,
    mode: Mode,
    context: Context,
    store: Box<dyn Store>,
) -> (Result<Verdict, HostFault>, Box<dyn Store>) {
    let function: Stream = match sandbox.admitted(export) {
        Ok(function) => function,
        Err(fault) => return (Err(fault), store),
    };
    let started = sandbox.start(mode, sandbox.limits().fuel_per_snapshot, store);
    let verdict = started.and_then(|()| {
        let returned = sandbox.call(&function, (context.into(),), Interrupts::Fault)?;
        Ok(match returned {
            Ok((Ok(()),)) => Verdict::Reply(Bytes::new()),
            Ok((Err(status),)) => outcome::refusal(status.into(), sandbox.limits()),
            Err(failure) => Verdict::Failed(failure),
        })
    });
    (verdict, sandbox.finish())
}
