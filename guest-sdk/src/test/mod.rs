//! The same handlers in an ordinary `cargo test`: no wasm, no ports, no waiting.
//!
//! ```ignore
//! let mut machine = Harness::<Kv>::new();
//! let added: AddResponse = machine.command("Example/Add", &add("a", "1"))?;
//! machine.snapshot_restore();
//! machine.assert_replicas_agree();
//! ```
//!
//! It plays one node: commands in order, rollback of what fails, watches that run again when what they
//! read changes. It keeps the host's rules and limits on the store, but neither fuel nor memory limits.

pub(crate) mod host;
mod watches;

use std::marker::PhantomData;
use std::time::Duration;

use prost::Message;

use crate::context::{Command, Place, Query};
use crate::dispatch::{self, Machine};
use crate::log::Level;
use crate::snapshot::{Format, Sink, Source};
use crate::status::{Reply, Status};
use host::{Call, Mode, Store, Writes};
use watches::Streams;

pub use watches::Stream;

/// Largest reply that clients of any make accept: 4 MiB less 64 KiB.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Milliseconds since 1970 at which a harness begins: 2024-01-01.
const START_MS: u64 = 1_704_067_200_000;

/// One machine under test.
#[derive(Debug)]
pub struct Harness<M> {
    store: Store,
    index: u64,
    now_ms: u64,
    caller: String,
    node_status: String,
    log: Vec<Entry>,
    lines: Vec<(Level, String)>,
    streams: Streams,
    machine: PhantomData<fn() -> M>,
}

/// A command that was run, and what came of it.
#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    caller: String,
    method: String,
    request: Vec<u8>,
    outcome: Reply<Vec<u8>>,
    writes: Writes,
}

impl<M: Machine> Default for Harness<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Harness<M> {
    /// An empty state. The first command has index 1.
    pub fn new() -> Self {
        Self {
            store: Store::new(),
            index: 0,
            now_ms: START_MS,
            caller: String::new(),
            node_status: "{}".to_owned(),
            log: Vec::new(),
            lines: Vec::new(),
            streams: Streams::default(),
            machine: PhantomData,
        }
    }

    /// Applies a command and then runs the watches that it woke.
    ///
    /// # Errors
    /// The status that a client would get: the handler's, or INTERNAL when it panicked. Nothing that
    /// it wrote remains.
    ///
    /// # Panics
    /// When the reply is not an `R`: the test names the wrong type.
    pub fn command<Q: Message, R: Message + Default>(&mut self, method: &str, request: &Q) -> Reply<R> {
        decode_reply(method, self.command_bytes(method, &request.encode_to_vec()))
    }

    /// [`command`](Self::command) with encoded messages.
    ///
    /// # Errors
    /// As there.
    pub fn command_bytes(&mut self, method: &str, request: &[u8]) -> Reply<Vec<u8>> {
        self.index += 1;
        let place = Place { index: self.index, position: 0, time_ms: self.now_ms };
        let store = std::mem::take(&mut self.store);
        let applied = apply::<M>(store, place, &self.caller, method, request);
        self.store = applied.store;
        self.lines.extend(applied.lines);
        self.log.push(applied.entry.clone());
        self.streams_after_commit(&applied.entry.writes);
        applied.entry.outcome
    }

    /// Answers a query.
    ///
    /// # Errors
    /// The status that a client would get; INTERNAL when the handler panicked or wrote.
    ///
    /// # Panics
    /// When the reply is not an `R`: the test names the wrong type.
    pub fn query<Q: Message, R: Message + Default>(&mut self, method: &str, request: &Q) -> Reply<R> {
        let request = request.encode_to_vec();
        let cx = Query::at(self.place());
        let mut call = Call::new(Mode::Query, std::mem::take(&mut self.store));
        call.caller.clone_from(&self.caller);
        call.node_status.clone_from(&self.node_status);
        let (call, outcome) = call.run(|| checked_reply(dispatch::query::<M>(&cx, method, &request)));
        self.store = call.store;
        self.lines.extend(call.lines);
        decode_reply(method, outcome)
    }

    /// Looks at the state from the test, with the same handles.
    ///
    /// # Panics
    /// When `look` panics.
    pub fn inspect<T>(&mut self, look: impl FnOnce(&M) -> T) -> T {
        let call = Call::new(Mode::Query, std::mem::take(&mut self.store));
        let (call, outcome) = call.run(|| Ok(look(&M::open())));
        self.store = call.store;
        outcome.unwrap_or_else(|status| panic!("{status}"))
    }

    /// Changes the state from the test: for preparing it, and for tests of code below the handlers. It
    /// is no command, so it is not in the log and the replicas do not agree afterwards.
    ///
    /// # Panics
    /// When `change` panics.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut M) -> T) -> T {
        let call = Call::new(Mode::Apply, std::mem::take(&mut self.store));
        let (call, outcome) = call.run(|| Ok(change(&mut M::open())));
        let writes = call.writes();
        self.store = call.store;
        self.streams_after_commit(&writes);
        outcome.unwrap_or_else(|status| panic!("{status}"))
    }

    /// Moves the state to a new node through a snapshot. Streams see a reset.
    ///
    /// # Panics
    /// When the snapshot fails or the restored state differs.
    pub fn snapshot_restore(&mut self) {
        let snapshot = self.snapshot().unwrap_or_else(|status| panic!("snapshot: {status}"));
        let restored = Self::restored(snapshot).unwrap_or_else(|status| panic!("restore: {status}"));
        if let Some(difference) = difference(&self.store, &restored) {
            panic!("the restored state differs from the original: {difference}");
        }
        self.store = restored;
        self.streams_after_reset();
    }

    /// The bytes of a snapshot.
    ///
    /// # Errors
    /// What the guest's snapshot returned.
    pub fn snapshot(&mut self) -> Result<Vec<u8>, Status> {
        let call = Call::new(Mode::Snapshot, std::mem::take(&mut self.store));
        let (call, outcome) = call.run(|| {
            let mut sink = Sink::open();
            M::Snapshots::write(&mut sink)?;
            sink.finish();
            Ok(())
        });
        self.store = call.store;
        outcome.map(|()| call.sink)
    }

    /// Replaces the state with a snapshot's. Streams see a reset.
    ///
    /// # Errors
    /// What the guest's restore returned; the old state remains.
    pub fn restore(&mut self, snapshot: Vec<u8>) -> Result<(), Status> {
        self.store = Self::restored(snapshot)?;
        self.streams_after_reset();
        Ok(())
    }

    fn restored(snapshot: Vec<u8>) -> Result<Store, Status> {
        let mut call = Call::new(Mode::Restore, Store::new());
        call.source = snapshot;
        let (call, outcome) = call.run(|| M::Snapshots::read(&mut Source::open()));
        outcome.map(|()| call.store)
    }

    /// Runs all commands so far on a second replica, in another thread, and compares every reply and
    /// every write. A hash map's order, a static or a clock that got into the state shows here.
    ///
    /// # Panics
    /// At the first difference, saying which.
    pub fn assert_replicas_agree(&self) {
        let log = &self.log;
        let verdict = std::thread::scope(|scope| {
            let second = scope.spawn(move || replay::<M>(log));
            second.join().expect("outcomes of the guest do not unwind")
        });
        if let Err(difference) = verdict {
            panic!("the replicas disagree: {difference}");
        }
    }

    /// From now on calls come from a client of this name.
    pub fn as_caller(&mut self, name: &str) -> &mut Self {
        name.clone_into(&mut self.caller);
        self
    }

    /// What queries get from [`Query::node_status`].
    pub fn set_node_status(&mut self, json: &str) {
        json.clone_into(&mut self.node_status);
    }

    /// Log index of the last command.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Time of the log, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.now_ms
    }

    /// Lets time pass; watches wake that asked for it.
    pub fn advance(&mut self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("a test takes less than an age");
        self.advance_to(self.now_ms + ms);
    }

    /// Takes the lines logged since the last call.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines)
    }

    fn place(&self) -> Place {
        Place { index: self.index, position: 0, time_ms: self.now_ms }
    }
}

struct Applied {
    store: Store,
    entry: Entry,
    lines: Vec<(Level, String)>,
}

fn apply<M: Machine>(store: Store, place: Place, caller: &str, method: &str, request: &[u8]) -> Applied {
    let mut call = Call::new(Mode::Apply, store);
    caller.clone_into(&mut call.caller);
    let cx = Command::at(place);
    let (call, outcome) = call.run(|| checked_reply(dispatch::apply::<M>(&cx, method, request)));
    Applied {
        entry: Entry {
            place,
            caller: caller.to_owned(),
            method: method.to_owned(),
            request: request.to_vec(),
            outcome,
            writes: call.writes(),
        },
        store: call.store,
        lines: call.lines,
    }
}

fn replay<M: Machine>(log: &[Entry]) -> Result<(), String> {
    let mut store = Store::new();
    for first in log {
        let applied = apply::<M>(store, first.place, &first.caller, &first.method, &first.request);
        let second = applied.entry;
        store = applied.store;
        let place = format!("{} at index {}", first.method, first.place.index);
        if second.outcome != first.outcome {
            return Err(format!("{place} answered {:?} and then {:?}", first.outcome, second.outcome));
        }
        if second.writes != first.writes {
            return Err(format!("{place} wrote {:?} and then {:?}", first.writes, second.writes));
        }
    }
    Ok(())
}

fn checked_reply(reply: Reply<Vec<u8>>) -> Reply<Vec<u8>> {
    let reply = reply?;
    if reply.len() > REPLY_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the reply has {} bytes; at most {REPLY_BYTES_MAX}",
            reply.len()
        )));
    }
    Ok(reply)
}

fn decode_reply<R: Message + Default>(method: &str, reply: Reply<Vec<u8>>) -> Reply<R> {
    let reply = reply?;
    Ok(R::decode(reply.as_slice()).unwrap_or_else(|error| panic!("{method} replies with another message: {error}")))
}

/// The first key at which two stores differ.
fn difference(one: &Store, other: &Store) -> Option<String> {
    let keys = one.keys().chain(other.keys());
    let mut differing: Vec<_> = keys.filter(|key| one.get(*key) != other.get(*key)).collect();
    differing.sort();
    differing
        .first()
        .map(|key| format!("key \"{}\" had {:?} and has {:?}", key.escape_ascii(), one.get(*key), other.get(*key)))
}
