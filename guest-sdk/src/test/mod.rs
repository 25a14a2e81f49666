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
//! read changes. What other replicas would make of the log is in `replay`.
//!
//! The same file also tests what is deployed, in the sandbox of a node, with one variable:
//!
//! ```text
//! LOCKSTEP_COMPONENT=target/wasm32-unknown-unknown/release/locks.wasm cargo test
//!
//! test ─► Harness: state, log, time, streams ─► guest ─┬► dispatch: handlers, natively
//!                         ▲                            └► component ─► frames ─► lockstep guest serve: wasm
//!                         └──── store, log, snapshots: host ◄───── what it asks for ◄────┘
//! ```
//!
//! The state stays in the harness, so a test sees the same either way, but for this:
//! - Natively the store's rules and limits hold, in a component also those of fuel, memory and stack. Where both have a limit the
//!   texts of a status may differ, its code does not; a panic is INTERNAL, with the guest's backtrace.
//! - In a component every call has an instance of its own, which is what nodes promise at least. A static starts anew with each:
//!   what leaks through one between commands of an entry is found natively, and by `lockstep guest test`.
//! - [`Harness::inspect`] and [`Harness::change`] are code of the test: they run natively, on the same state.
//! - Fuel differs a little from a node's: rows that a command removed and then looks for cost nothing extra here. A query is not timed.

mod backup;
mod component;
#[cfg(test)]
mod component_tests;
mod frames;
mod guest;
pub(crate) mod host;
mod program;
mod replay;
mod watches;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use prost::Message;

use crate::context::Place;
use crate::dispatch::Machine;
use crate::log::Level;
use crate::status::{Reply, Status};
use backup::Backup;
use guest::{Guest, Request};
use host::{Call, Mode, Store, Writes};
use watches::Streams;

pub use component::{Component, ComponentError};
pub use watches::Stream;

/// Milliseconds since 1970 at which a harness begins: 2024-01-01.
const START_MS: u64 = 1_704_067_200_000;

/// One machine under test.
#[derive(Debug)]
pub struct Harness<M> {
    guest: Guest,
    store: Store,
    index: u64,
    /// What the leader's clock shows.
    clock_ms: u64,
    /// Time of the last entry: what guests see.
    log_ms: u64,
    caller: String,
    node_status: String,
    log: Vec<Applied>,
    /// By the number of commands before it: a state that was put in place of what they had made.
    restored: BTreeMap<usize, Store>,
    /// What the commands of the open entry wrote so far; none between entries.
    entry: Option<OpenEntry>,
    lines: Vec<(Level, String)>,
    streams: Streams,
    machine: PhantomData<fn() -> M>,
}

#[derive(Debug, Default)]
struct OpenEntry {
    commands: u32,
    writes: Writes,
}

/// A command as the log has it.
#[derive(Clone, Debug)]
struct Logged {
    place: Place,
    caller: String,
    method: String,
    request: Vec<u8>,
}

/// A command that was run, and what came of it.
#[derive(Clone, Debug)]
struct Applied {
    command: Logged,
    outcome: Reply<Vec<u8>>,
    writes: Writes,
}

impl<M: Machine> Default for Harness<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Harness<M> {
    /// An empty state. The first command has index 1. Handlers run natively, or in the component that `LOCKSTEP_COMPONENT` names.
    ///
    /// # Panics
    /// When that component cannot be run, or is another machine's.
    pub fn new() -> Self {
        match Component::given() {
            None => Self::on(Guest::Native),
            Some(component) => Self::in_component(&component),
        }
    }

    /// [`new`](Self::new) with this component, whatever is set.
    ///
    /// # Panics
    /// When it is another machine's.
    pub fn in_component(component: &Component) -> Self {
        component.assert_serves::<M>();
        Self::on(Guest::Component(component.clone()))
    }

    fn on(guest: Guest) -> Self {
        Self {
            guest,
            store: Store::new(),
            index: 0,
            clock_ms: START_MS,
            log_ms: START_MS,
            caller: String::new(),
            node_status: "{}".to_owned(),
            log: Vec::new(),
            restored: BTreeMap::new(),
            entry: None,
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
        match self.entry {
            Some(_) => self.apply_next(method, request),
            None => self.together(|machine| machine.apply_next(method, request)),
        }
    }

    /// Puts the commands of `commands` into one log entry: they share index and time, and watches run after
    /// all of them, as on a busy node.
    ///
    /// ```ignore
    /// machine.together(|machine| {
    ///     machine.command::<_, AddResponse>("Example/Add", &one)?;
    ///     machine.command::<_, AddResponse>("Example/Add", &two)
    /// })
    /// ```
    ///
    /// # Panics
    /// When called in `commands`.
    pub fn together<T>(&mut self, commands: impl FnOnce(&mut Self) -> T) -> T {
        assert!(self.entry.is_none(), "an entry cannot hold another entry");
        self.begin_entry();
        self.entry = Some(OpenEntry::default());
        let done = commands(self);
        let entry = self.entry.take().expect("the entry is still open");
        self.streams_after_commit(&entry.writes);
        done
    }

    fn apply_next(&mut self, method: &str, request: &[u8]) -> Reply<Vec<u8>> {
        let entry = self.entry.as_mut().expect("an entry is open");
        let place = Place { index: self.index, position: entry.commands, time_ms: self.log_ms };
        entry.commands += 1;
        let (method, request) = (method.to_owned(), request.to_vec());
        let command = Logged { place, caller: self.caller.clone(), method, request };
        let Ran { call, applied } = apply::<M>(&self.guest, std::mem::take(&mut self.store), &command);
        entry.writes.extend(applied.writes.clone());
        self.store = call.store;
        self.lines.extend(call.lines);
        let outcome = applied.outcome.clone();
        self.log.push(applied);
        outcome
    }

    fn between_entries(&self) {
        assert!(self.entry.is_none(), "only commands run inside an entry");
    }

    /// Answers a query.
    ///
    /// # Errors
    /// The status that a client would get; INTERNAL when the handler panicked or wrote.
    ///
    /// # Panics
    /// When the reply is not an `R`: the test names the wrong type.
    pub fn query<Q: Message, R: Message + Default>(&mut self, method: &str, request: &Q) -> Reply<R> {
        self.between_entries();
        let request = request.encode_to_vec();
        let request = Request { place: self.place(), method, bytes: &request };
        let mut call = Call::new(Mode::Query, std::mem::take(&mut self.store));
        call.caller.clone_from(&self.caller);
        call.node_status.clone_from(&self.node_status);
        let (call, outcome) = self.guest.query::<M>(call, request);
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
        self.between_entries();
        let moved = moved::<M>(&self.guest, std::mem::take(&mut self.store));
        self.store = moved.unwrap_or_else(|problem| panic!("{problem}"));
        self.streams_after_reset();
    }

    /// The bytes of a snapshot.
    ///
    /// # Errors
    /// What the guest's snapshot returned.
    pub fn snapshot(&mut self) -> Result<Vec<u8>, Status> {
        let (store, snapshot) = written::<M>(&self.guest, std::mem::take(&mut self.store));
        self.store = store;
        snapshot
    }

    /// Replaces the state with a snapshot's, or with that of a whole backup file, as `lockstep backup` writes it. Streams see a reset.
    ///
    /// A backup has the rows as they are, whatever the guest's own format is; log time and index go on from where it was made, unless the
    /// harness is further. It is read by the program that `LOCKSTEP` names, or `lockstep`.
    ///
    /// ```ignore
    /// machine.restore(std::fs::read("today.backup")?)?;
    /// ```
    ///
    /// # Errors
    /// What the guest's restore returned, or what is wrong with the backup; the old state remains.
    pub fn restore(&mut self, snapshot: Vec<u8>) -> Result<(), Status> {
        self.between_entries();
        if backup::is_backup(&snapshot) {
            let Backup { index, time_ms, store } = backup::read(&self.guest.program(), snapshot)?;
            self.store = store;
            self.index = self.index.max(index);
            self.log_ms = self.log_ms.max(time_ms);
            self.clock_ms = self.clock_ms.max(self.log_ms);
        } else {
            self.store = restored::<M>(&self.guest, snapshot)?;
        }
        self.restored.insert(self.log.len(), self.store.clone());
        self.streams_after_reset();
        Ok(())
    }

    /// Runs all commands so far on other replicas and compares every reply and every write. One of them
    /// runs in another thread; one begins each command, is interrupted, and runs it again; one is moved to
    /// a new node by snapshots between entries. A hash map's order, a static or a clock that got into
    /// the state shows here.
    ///
    /// # Panics
    /// At the first difference, saying which.
    pub fn assert_replicas_agree(&self) {
        self.between_entries();
        if let Err(difference) = replay::agree::<M>(&self.guest, &self.log, &self.restored) {
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

    /// Index of the last log entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Log time, in milliseconds since 1970: that of the last entry. Queries see it, too.
    pub fn time_ms(&self) -> u64 {
        self.log_ms
    }

    /// Lets time pass, for the next command and for watches that asked for it. As on a node, log time stands still until one of them
    /// comes: a query sees the time of the last entry. For a watch that wakes the leader appends an entry without commands, so the
    /// index grows.
    pub fn advance(&mut self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("a test takes less than an age");
        self.advance_to(self.clock_ms + ms);
    }

    /// Takes the lines logged since the last call.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines)
    }

    fn place(&self) -> Place {
        Place { index: self.index, position: 0, time_ms: self.log_ms }
    }

    /// The next entry, which carries the leader's clock.
    fn begin_entry(&mut self) {
        self.index += 1;
        self.log_ms = self.clock_ms;
    }
}

/// A command that was run, and the store after it, in what is left of its call.
struct Ran {
    call: Call,
    applied: Applied,
}

fn apply<M: Machine>(guest: &Guest, store: Store, command: &Logged) -> Ran {
    let mut call = Call::new(Mode::Apply, store);
    call.caller.clone_from(&command.caller);
    let request = Request { place: command.place, method: &command.method, bytes: &command.request };
    let (call, outcome) = guest.apply::<M>(call, request);
    let applied = Applied { command: command.clone(), outcome, writes: call.writes() };
    Ran { call, applied }
}

/// The bytes of a snapshot of a store.
fn written<M: Machine>(guest: &Guest, store: Store) -> (Store, Result<Vec<u8>, Status>) {
    let (call, outcome) = guest.snapshot::<M>(Call::new(Mode::Snapshot, store));
    (call.store, outcome.map(|()| call.sink))
}

fn restored<M: Machine>(guest: &Guest, snapshot: Vec<u8>) -> Result<Store, Status> {
    let mut call = Call::new(Mode::Restore, Store::new());
    call.source = snapshot;
    let (call, outcome) = guest.restore::<M>(call);
    outcome.map(|()| call.store)
}

/// A store on a new node, after a snapshot; or how it differs there.
fn moved<M: Machine>(guest: &Guest, store: Store) -> Result<Store, String> {
    let (store, snapshot) = written::<M>(guest, store);
    let snapshot = snapshot.map_err(|status| format!("snapshot: {status}"))?;
    let restored = restored::<M>(guest, snapshot).map_err(|status| format!("restore: {status}"))?;
    match difference(&store, &restored) {
        Some(difference) => Err(format!("the restored state differs from the original: {difference}")),
        None => Ok(restored),
    }
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
