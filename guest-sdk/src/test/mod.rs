//! Runs the same handlers in an ordinary `cargo test`: no wasm, no ports, no waiting.
//!
//! ```ignore
//! let mut machine = Harness::<Kv>::new();
//! let added: AddResponse = machine.command("Example/Add", &add("a", "1"))?;
//! machine.snapshot_restore();
//! machine.assert_replicas_agree();
//! ```
//!
//! The harness acts as one node: it runs commands in order, rolls back those that fail, and runs
//! watches again when something that they read changes. `replay` runs the log on other replicas.
//!
//! With one variable the same test file also tests the deployed component, in the sandbox of a
//! node:
//!
//! ```text
//! LOCKSTEP_COMPONENT=target/wasm32-unknown-unknown/release/locks.wasm cargo test
//!
//! test ─► Harness: state, log, time, streams ─► guest ─┬► dispatch: handlers, natively
//!                         ▲                            └► component ─► frames ─► lockstep guest serve: wasm
//!                         └──── store, log, snapshots: host ◄───── what it asks for ◄────┘
//! ```
//!
//! The state stays in the harness, so a test sees the same in both cases, with these exceptions:
//! - Native code has the store's rules and limits; a component also has limits of fuel, memory and
//!   stack. Where both have a limit, the text of a status may differ, but not its code. A panic is
//!   INTERNAL; from a component it contains the guest's backtrace.
//! - In a component every call has an instance of its own, which is the least that nodes guarantee.
//!   A static starts anew with each call. A native run and `lockstep guest test` detect what a
//!   static carries from one command of an entry to the next.
//! - [`Harness::inspect`] and [`Harness::change`] are code of the test: they run natively, on the
//!   same state.
//! - Fuel differs a little from a node's: rows that a command removed and then looks for cost
//!   nothing extra here. A query has no time limit.

mod backup;
mod component;
#[cfg(test)]
mod component_tests;
mod frames;
mod guest;
pub(crate) mod host;
mod migrate;
mod program;
mod replay;
mod watches;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use prost::Message;

use crate::context::{Place, Predecessor};
use crate::dispatch::Machine;
use crate::log::Level;
use crate::status::{Reply, Status};
use backup::Backup;
use guest::{Guest, Request};
use host::{Call, Mode, Store, Writes};
use watches::Streams;

pub use component::{Component, ComponentError};
pub use migrate::AnyMachine;
pub use watches::Stream;

/// Log time at which a harness starts, in milliseconds since 1970: 2024-01-01.
const START_MS: u64 = 1_704_067_200_000;

/// One machine under test.
#[derive(Debug)]
pub struct Harness<M> {
    guest: Guest,
    store: Store,
    index: u64,
    /// Time of the leader's clock.
    clock_ms: u64,
    /// Time of the last entry, which is the time that guests see.
    log_ms: u64,
    caller: String,
    node_status: String,
    log: Vec<Applied>,
    /// States that a restore put in place, each by the number of commands before it.
    restored: BTreeMap<usize, Store>,
    /// Writes of the open entry's commands so far. `None` between entries.
    entry: Option<OpenEntry>,
    lines: Vec<(Level, String)>,
    streams: Streams,
    /// The machine that made the state, if another one did.
    predecessor: Option<Predecessor>,
    machine: PhantomData<fn() -> M>,
}

#[derive(Debug, Default)]
struct OpenEntry {
    commands: u32,
    writes: Writes,
}

/// A command as it is in the log.
#[derive(Clone, Debug)]
struct Logged {
    place: Place,
    caller: String,
    method: String,
    request: Vec<u8>,
}

/// A command that ran, with its outcome and writes.
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
    /// Makes a harness with an empty state.
    ///
    /// The first command has index 1. Handlers run natively, or in the component that
    /// `LOCKSTEP_COMPONENT` names.
    ///
    /// # Panics
    /// When that component cannot be run or belongs to another machine.
    pub fn new() -> Self {
        match Component::given() {
            None => Self::on(Guest::Native),
            Some(component) => Self::in_component(&component),
        }
    }

    /// Makes a harness with this component, whatever `LOCKSTEP_COMPONENT` is.
    ///
    /// # Panics
    /// When the component belongs to another machine.
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
            predecessor: None,
            machine: PhantomData,
        }
    }

    /// Applies a command, then runs the watches that it woke.
    ///
    /// # Errors
    /// The status that a client would get: the handler's status, or INTERNAL when the handler
    /// panicked. All writes of the command are then undone.
    ///
    /// # Panics
    /// When the reply is not an `R`, because the test names the wrong type.
    pub fn command<Q: Message, R: Message + Default>(&mut self, method: &str, request: &Q) -> Reply<R> {
        decode_reply(method, self.command_bytes(method, &request.encode_to_vec()))
    }

    /// Does what [`command`](Self::command) does, with encoded messages.
    ///
    /// # Errors
    /// As for [`command`](Self::command).
    pub fn command_bytes(&mut self, method: &str, request: &[u8]) -> Reply<Vec<u8>> {
        match self.entry {
            Some(_) => self.apply_next(method, request),
            None => self.together(|machine| machine.apply_next(method, request)),
        }
    }

    /// Puts the commands of `commands` into one log entry.
    ///
    /// They share index and time, and watches run after all of them, as on a busy node.
    ///
    /// ```ignore
    /// machine.together(|machine| {
    ///     machine.command::<_, AddResponse>("Example/Add", &one)?;
    ///     machine.command::<_, AddResponse>("Example/Add", &two)
    /// })
    /// ```
    ///
    /// # Panics
    /// When it is called within `commands`.
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
    /// The status that a client would get. It is INTERNAL when the handler panicked or wrote.
    ///
    /// # Panics
    /// When the reply is not an `R`, because the test names the wrong type.
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

    /// Gives the test read access to the state, with the same handles.
    ///
    /// # Panics
    /// When `look` panics.
    pub fn inspect<T>(&mut self, look: impl FnOnce(&M) -> T) -> T {
        let call = Call::new(Mode::Query, std::mem::take(&mut self.store));
        let (call, outcome) = call.run(|| Ok(look(&M::open())));
        self.store = call.store;
        outcome.unwrap_or_else(|status| panic!("{status}"))
    }

    /// Lets the test change the state: to prepare it, or to test code below the handlers.
    ///
    /// The change is no command. It is not in the log, so the replicas do not agree afterwards.
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

    /// Moves the state to a new node through a snapshot. Streams get a reset.
    ///
    /// # Panics
    /// When the snapshot fails or the restored state differs from the original.
    pub fn snapshot_restore(&mut self) {
        self.between_entries();
        let moved = moved::<M>(&self.guest, std::mem::take(&mut self.store));
        self.store = moved.unwrap_or_else(|problem| panic!("{problem}"));
        self.streams_after_reset();
    }

    /// Returns the bytes of a snapshot.
    ///
    /// # Errors
    /// The error of the guest's snapshot function.
    pub fn snapshot(&mut self) -> Result<Vec<u8>, Status> {
        let (store, snapshot) = written::<M>(&self.guest, std::mem::take(&mut self.store));
        self.store = store;
        snapshot
    }

    /// Replaces the state with that of a snapshot or of a whole backup file. Streams get a reset.
    ///
    /// A backup file is what `lockstep backup` writes. It contains the rows as they are, whatever
    /// the guest's own snapshot format is. Log time and index continue from those of the backup,
    /// unless the harness is ahead of them. The program that `LOCKSTEP` names, or `lockstep`, reads
    /// the file.
    ///
    /// ```ignore
    /// machine.restore(std::fs::read("today.backup")?)?;
    /// ```
    ///
    /// # Errors
    /// The error of the guest's restore function, or what is wrong with the backup. The old state
    /// remains.
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

    /// Runs all commands so far on other replicas and compares every reply and every write.
    ///
    /// One replica runs in another thread. One runs each command, undoes it, and runs it again. One
    /// is moved to a new node by snapshots between entries. This detects state that depends on the
    /// order of a hash map, on a static or on a clock.
    ///
    /// # Panics
    /// At the first difference, which the message names.
    pub fn assert_replicas_agree(&self) {
        self.between_entries();
        if let Err(difference) = replay::agree::<M>(&self.guest, &self.log, &self.restored) {
            panic!("the replicas disagree: {difference}");
        }
    }

    /// Sets the client name of all further calls.
    pub fn as_caller(&mut self, name: &str) -> &mut Self {
        name.clone_into(&mut self.caller);
        self
    }

    /// Sets what queries get from [`Query::node_status`].
    pub fn set_node_status(&mut self, json: &str) {
        json.clone_into(&mut self.node_status);
    }

    /// Returns the index of the last log entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the log time of the last entry, in milliseconds since 1970. Queries see the same
    /// time.
    pub fn time_ms(&self) -> u64 {
        self.log_ms
    }

    /// Advances the leader's clock, for the next command and for watches that asked for a time.
    ///
    /// As on a node, log time changes only with the next entry: until then a query sees the time of
    /// the last entry. For a watch that wakes, the leader appends an entry without commands, so the
    /// index grows.
    pub fn advance(&mut self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("a test takes less than an age");
        self.advance_to(self.clock_ms + ms);
    }

    /// Returns the lines logged since the last call.
    pub fn take_log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines)
    }

    fn place(&self) -> Place {
        Place { index: self.index, position: 0, time_ms: self.log_ms }
    }

    /// Begins the next entry, which has the time of the leader's clock.
    fn begin_entry(&mut self) {
        self.index += 1;
        self.log_ms = self.clock_ms;
    }
}

/// The result of a command, and its call, which contains the store after it.
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

/// Writes a snapshot of a store and returns its bytes.
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

/// Moves a store to a new node through a snapshot. The error says how the restored store differs.
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

/// Describes the first key at which two stores differ.
fn difference(one: &Store, other: &Store) -> Option<String> {
    let keys = one.keys().chain(other.keys());
    let mut differing: Vec<_> = keys.filter(|key| one.get(*key) != other.get(*key)).collect();
    differing.sort();
    differing
        .first()
        .map(|key| format!("key \"{}\" had {:?} and has {:?}", key.escape_ascii(), one.get(*key), other.get(*key)))
}
