//! Implements the exports of `machine.wit` for any machine. Contains only conversions and the panic
//! hook; `export!` and `migrate!` connect them to the author's type.

use std::marker::PhantomData;
use std::sync::Once;

use crate::bindings::exports::lockstep::machine::{machine, watcher};
use crate::bindings::lockstep::machine::types;
use crate::context::{Cause, Command, Migration, Place, Predecessor, Query, Watch};
use crate::dispatch::{self, Machine};
use crate::migration::{self, Migrates};
use crate::migrator_bindings::exports::lockstep::machine::migrator;
use crate::snapshot::{self, Format};
use crate::{Status, host, missing};

/// The type that `export!` exports.
#[derive(Debug)]
pub struct Exports<M>(PhantomData<M>);

impl<M: Machine> machine::Guest for Exports<M> {
    fn apply(context: types::Context, method: String, request: Vec<u8>) -> Result<Vec<u8>, types::Status> {
        report_panics();
        dispatch::apply::<M>(&Command::at(place(context)), &method, &request).map_err(status)
    }

    fn query(context: types::Context, method: String, request: Vec<u8>) -> Result<Vec<u8>, types::Status> {
        report_panics();
        dispatch::query::<M>(&Query::at(place(context)), &method, &request).map_err(status)
    }

    fn snapshot(_: types::Context) -> Result<(), types::Status> {
        report_panics();
        let mut sink = snapshot::Sink::open();
        M::Snapshots::write(&mut sink).map_err(status)?;
        sink.finish();
        Ok(())
    }

    fn restore(_: types::Context) -> Result<(), types::Status> {
        report_panics();
        M::Snapshots::read(&mut snapshot::Source::open()).map_err(status)
    }
}

impl<M: Machine> watcher::Guest for Exports<M> {
    fn watch(
        context: types::Context,
        method: String,
        request: Vec<u8>,
        cause: watcher::Cause,
        memo: Vec<u8>,
    ) -> Result<watcher::Step, types::Status> {
        report_panics();
        let cause = match cause {
            watcher::Cause::Start => Cause::Start,
            watcher::Cause::Change => Cause::Change,
            watcher::Cause::Wake => Cause::Wake,
            watcher::Cause::Reset => Cause::Reset,
        };
        let cx = Watch::at(place(context), cause, memo);
        let step = dispatch::watch::<M>(&cx, &method, &request).map_err(status)?;
        Ok(watcher::Step {
            replies: step.replies,
            memo: step.memo,
            wake_at_index: step.wake_at_index,
            wake_after_ms: step.wake_after_ms,
            done: step.done,
        })
    }
}

/// The type that `migrate!` exports.
#[derive(Debug)]
pub struct Migrator<M>(PhantomData<M>);

impl<M: Migrates> migrator::Guest for Migrator<M> {
    fn migrate(
        context: types::Context,
        from: migrator::Predecessor,
        cursor: Vec<u8>,
    ) -> Result<migrator::Migration, types::Status> {
        report_panics();
        let hash = from.hash.try_into().expect("a hash has 32 bytes");
        let predecessor = Predecessor { hash, version: from.version };
        let cx = Migration::at(place(context), predecessor, cursor);
        let migrated = migration::run::<M>(&cx).map_err(status)?;
        Ok(migrator::Migration { done: migrated.cursor.is_none(), cursor: migrated.cursor.unwrap_or_default() })
    }
}

fn place(context: types::Context) -> Place {
    Place { index: context.index, position: context.position, time_ms: context.time_ms }
}

fn status(status: Status) -> types::Status {
    types::Status {
        code: status.code() as u32,
        message: status.message().to_owned(),
        details: status.details().to_vec(),
    }
}

/// Installs a panic hook that calls `abort` with the message and place of the panic.
///
/// Otherwise the host would see only `unreachable`. If the panic comes from something that guests
/// do not have, the message also says what to use instead.
fn report_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| host::abort(&missing::explained(panic.to_string()))));
    });
}
