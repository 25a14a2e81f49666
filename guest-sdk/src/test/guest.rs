//! Runs the guest's code: in this process, through `dispatch`, or as the built component, in the
//! host's sandbox. The call's host is `host::Call` in both cases, so the state stays in this
//! process. For native code this file checks what the sandbox checks for a component.

use std::path::PathBuf;

use super::component::{self, Component};
use super::frames::{self, Came, Mode};
use super::host::Call;
use crate::context::{Cause, Command, Migration, Place, Predecessor, Query, Watch};
use crate::dispatch::{self, Machine};
use crate::limits::{CURSOR_BYTES_MAX, DETAILS_BYTES_MAX, MEMO_BYTES_MAX, REPLY_BYTES_MAX, STEP_REPLIES_BYTES_MAX};
use crate::migration::{self, Migrated, Migrates};
use crate::snapshot::{Format, Sink, Source};
use crate::status::{Reply, Status};
use crate::step::Step;

/// Where the code under test runs.
#[derive(Clone, Debug)]
pub(super) enum Guest {
    Native,
    Component(Component),
}

/// A request of a client, or the one that opened a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) place: Place,
    pub(super) method: &'a str,
    pub(super) bytes: &'a [u8],
}

impl Guest {
    /// Returns the program that runs components and reads backups.
    pub(super) fn program(&self) -> PathBuf {
        match self {
            Self::Native => component::program_in(&std::env::current_dir().unwrap_or_default()),
            Self::Component(component) => component.program().to_owned(),
        }
    }

    pub(super) fn apply<M: Machine>(&self, call: Call, request: Request<'_>) -> (Call, Reply<Vec<u8>>) {
        match self {
            Self::Native => call.run(|| {
                let cx = Command::at(request.place);
                checked_reply(dispatch::apply::<M>(&cx, request.method, request.bytes))
            }),
            Self::Component(component) => reply(component.run(call, request.frame(Mode::Apply))),
        }
    }

    pub(super) fn query<M: Machine>(&self, call: Call, request: Request<'_>) -> (Call, Reply<Vec<u8>>) {
        match self {
            Self::Native => call.run(|| {
                let cx = Query::at(request.place);
                checked_reply(dispatch::query::<M>(&cx, request.method, request.bytes))
            }),
            Self::Component(component) => reply(component.run(call, request.frame(Mode::Query))),
        }
    }

    pub(super) fn watch<M: Machine>(
        &self,
        call: Call,
        request: Request<'_>,
        cause: Cause,
        memo: Vec<u8>,
    ) -> (Call, Result<Step<Vec<u8>>, Status>) {
        match self {
            Self::Native => call.run(|| {
                let cx = Watch::at(request.place, cause, memo);
                checked_step(dispatch::watch::<M>(&cx, request.method, request.bytes).map_err(checked_status)?)
            }),
            Self::Component(component) => {
                let cause = frame_cause(cause).into();
                step(component.run(call, frames::Call { cause, memo, ..request.frame(Mode::Watch) }))
            }
        }
    }

    /// Runs one call of a migration.
    pub(super) fn migrate<M: Migrates>(
        &self,
        call: Call,
        place: Place,
        from: &Predecessor,
        cursor: Vec<u8>,
    ) -> (Call, Reply<Migrated>) {
        match self {
            Self::Native => call.run(|| {
                let cx = Migration::at(place, from.clone(), cursor);
                checked_cursor(migration::run::<M>(&cx).map_err(checked_status)?)
            }),
            Self::Component(component) => {
                let from = frames::Predecessor { hash: from.hash.to_vec(), version: from.version.clone() };
                let request = Request { place, method: "", bytes: &[] };
                let frame = frames::Call { from: Some(from), cursor, ..request.frame(Mode::Migrate) };
                migrated(component.run(call, frame))
            }
        }
    }

    /// Writes a snapshot to the call's sink.
    pub(super) fn snapshot<M: Machine>(&self, call: Call) -> (Call, Result<(), Status>) {
        match self {
            Self::Native => call.run(|| {
                let mut sink = Sink::open();
                M::Snapshots::write(&mut sink)?;
                sink.finish();
                Ok(())
            }),
            Self::Component(component) => stream(component.run(call, of_stream(Mode::Snapshot))),
        }
    }

    /// Restores a snapshot from the call's source.
    pub(super) fn restore<M: Machine>(&self, call: Call) -> (Call, Result<(), Status>) {
        match self {
            Self::Native => call.run(|| M::Snapshots::read(&mut Source::open())),
            Self::Component(component) => stream(component.run(call, of_stream(Mode::Restore))),
        }
    }
}

impl Request<'_> {
    fn frame(self, mode: Mode) -> frames::Call {
        frames::Call {
            mode: mode.into(),
            index: self.place.index,
            position: self.place.position,
            time_ms: self.place.time_ms,
            method: self.method.to_owned(),
            request: self.bytes.to_vec(),
            ..frames::Call::default()
        }
    }
}

fn of_stream(mode: Mode) -> frames::Call {
    frames::Call { mode: mode.into(), ..frames::Call::default() }
}

fn frame_cause(cause: Cause) -> frames::Cause {
    match cause {
        Cause::Start => frames::Cause::Start,
        Cause::Change => frames::Cause::Change,
        Cause::Wake => frames::Cause::Wake,
        Cause::Reset => frames::Cause::Reset,
    }
}

type Ran = (Call, Result<Came, Status>);

fn reply((call, came): Ran) -> (Call, Reply<Vec<u8>>) {
    let reply = came.map(|came| match came {
        Came::Reply(reply) => reply,
        other => unexpected(&other),
    });
    (call, reply)
}

fn step((call, came): Ran) -> (Call, Result<Step<Vec<u8>>, Status>) {
    let step = came.map(|came| match came {
        Came::Step(step) => Step {
            replies: step.replies,
            memo: step.memo,
            wake_at_index: step.wake_at_index,
            wake_after_ms: step.wake_after_ms,
            done: step.done,
        },
        other => unexpected(&other),
    });
    (call, step)
}

fn migrated((call, came): Ran) -> (Call, Reply<Migrated>) {
    let migrated = came.map(|came| match came {
        Came::Migrated(migrated) if migrated.done => Migrated::done(),
        Came::Migrated(migrated) => Migrated::more(migrated.cursor),
        other => unexpected(&other),
    });
    (call, migrated)
}

fn stream(ran: Ran) -> (Call, Result<(), Status>) {
    let (call, reply) = reply(ran);
    (call, reply.map(drop))
}

fn unexpected(came: &Came) -> ! {
    panic!("`lockstep guest serve` answers another call than it was told: {came:?}")
}

/// Applies the checks that the host makes before a client gets a reply.
fn checked_reply(reply: Reply<Vec<u8>>) -> Reply<Vec<u8>> {
    let reply = reply.map_err(checked_status)?;
    if reply.len() > REPLY_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the reply has {} bytes; at most {REPLY_BYTES_MAX}",
            reply.len()
        )));
    }
    Ok(reply)
}

fn checked_status(status: Status) -> Status {
    let details = status.details().len();
    if details > DETAILS_BYTES_MAX {
        return Status::resource_exhausted(format!(
            "the details of a refusal have {details} bytes; at most {DETAILS_BYTES_MAX}"
        ));
    }
    status.with_short_message()
}

fn checked_cursor(migrated: Migrated) -> Reply<Migrated> {
    let bytes = migrated.cursor.as_ref().map_or(0, Vec::len);
    if bytes > CURSOR_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the cursor of a migration has {bytes} bytes; at most {CURSOR_BYTES_MAX}"
        )));
    }
    Ok(migrated)
}

fn checked_step(step: Step<Vec<u8>>) -> Result<Step<Vec<u8>>, Status> {
    if step.memo.len() > MEMO_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the memo has {} bytes; at most {MEMO_BYTES_MAX}",
            step.memo.len()
        )));
    }
    for reply in &step.replies {
        checked_reply(Ok(reply.clone()))?;
    }
    let total: usize = step.replies.iter().map(Vec::len).sum();
    if total > STEP_REPLIES_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the replies of a step have {total} bytes together; at most {STEP_REPLIES_BYTES_MAX}"
        )));
    }
    Ok(step)
}
