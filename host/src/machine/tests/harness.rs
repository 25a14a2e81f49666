//! A node's disk and machine in a temporary directory. A gate replaces the log in tests that have
//! no log.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;
use tempfile::TempDir;

use super::super::apply::LogGate;
use super::super::{
    Answer, Executor, Machine, Options, QueryCall, QueryPool, StateMachine, WatchCall, Watched, genesis_of, open_behind,
};
use super::guest_text::request;
use crate::codec::{self, Command};
use crate::guest::{Cause, Component};
use crate::source::Party;
use crate::store::{Checkpoints, Column, DataDir, LogDisk, Read, Space, State, StoreError};
use crate::types::{CommittedLeaderId, Entry, Fatal, GROUP, Identity, LogId, Membership, NodeMode, Origin};

/// A gate with which everything is durable at once.
pub(super) struct Open;

impl LogGate for Open {
    fn wait_durable(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn note_served(&self, _: LogId) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, _: std::ops::Range<u64>) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct TestNode {
    pub(super) machine: Machine,
    pub(super) state_machine: StateMachine,
    pub(super) options: Options,
    /// Held so that the lock and the directory are released last.
    pub(super) directory: (DataDir, TempDir),
}

pub(super) fn start() -> TestNode {
    start_in(tempfile::tempdir().unwrap(), Arc::new(Open))
}

pub(super) fn start_in(place: TempDir, gate: Arc<dyn LogGate>) -> TestNode {
    start_on(place, gate, Executor::default())
}

/// Starts a node whose threads come from `executor`.
pub(super) fn start_on(place: TempDir, gate: Arc<dyn LogGate>, executor: Executor) -> TestNode {
    let directory = DataDir::open(place.path()).unwrap();
    let fatal = Fatal::default();
    let disk = LogDisk::open(&directory, fatal.clone()).unwrap();
    // A node does this before it has a state. A state beside a log without an owner would mean that
    // the log was lost.
    if disk.identity().is_none() {
        disk.save_identity(&Identity { node_id: 1, name: "a".into(), cluster: None, boot: 1 }).unwrap();
    }
    let options = Options {
        state: State::open(&directory, GROUP).unwrap(),
        checkpoints: Checkpoints::open(&directory, GROUP).unwrap(),
        log: disk.log(GROUP).unwrap(),
        space: Space::open(&directory, 0).unwrap(),
        fatal,
        snapshot_pace: Default::default(),
        queries: QueryPool::start(2, 16).unwrap(),
        executor,
        restores_snapshot: true,
    };
    let (machine, state_machine) = open_behind(gate, options.clone()).unwrap();
    TestNode { machine, state_machine, options, directory: (directory, place) }
}

impl TestNode {
    /// Starts a node with a component and the genesis entry at index 1.
    pub(super) async fn begun(component: Component) -> TestNode {
        let mut node = start();
        node.machine.set_component(component.clone());
        node.machine.set_mode(NodeMode::Serving);
        node.apply(vec![genesis(1, &component)]).await;
        node
    }

    pub(super) async fn apply(&mut self, entries: Vec<Entry>) {
        let entries = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.state_machine.apply(entries).await.unwrap();
    }

    pub(super) async fn get(&self, key: &str) -> Answer {
        let call = QueryCall {
            method: "Test/Get".into(),
            request: request(key, "").into(),
            caller: String::new(),
            party: Party::default(),
            deadline: Instant::now() + Duration::from_secs(60),
            status: Arc::new(|| "{}".into()),
        };
        self.machine.query(call).await.unwrap()
    }

    pub(super) async fn watch(&self, key: &str) -> Watched {
        let call = WatchCall {
            method: "Test/Watch".into(),
            request: request(key, "").into(),
            caller: String::new(),
            party: Party::default(),
            cause: Cause::Start,
            memo: Default::default(),
        };
        self.machine.watch_step(call).await.unwrap()
    }

    /// Returns the number of rows in the current state, including the host's.
    pub(super) fn state_rows(&self) -> usize {
        let mut rows = 0;
        for column in [Column::Data, Column::System] {
            let mut count = |_: &[u8], _: &[u8]| {
                rows += 1;
                ControlFlow::Continue(())
            };
            self.options.state.current().scan(column, &[], None, false, &mut count).unwrap();
        }
        rows
    }

    /// Flushes and stops the node, and returns its directory. It is as a kill after a flush would
    /// leave it.
    pub(super) async fn stop(self) -> TempDir {
        self.machine.close().await.unwrap();
        self.options.log.close();
        self.directory.1
    }
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term, 1), index }
}

pub(super) fn normal(term: u64, index: u64, entry: &codec::entry::Entry) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(codec::encode_entry(entry)) }
}

pub(super) fn genesis(index: u64, component: &Component) -> Entry {
    let genesis = Some(genesis_of([7; 16], component, [8; 32]));
    normal(1, index, &codec::entry::Entry { time_ms: 1000, genesis, ..Default::default() })
}

/// Makes an entry whose commands set keys. The origins' counters are 0, 1, ...
pub(super) fn puts(index: u64, rows: &[(&str, &str)]) -> Entry {
    normal(1, index, &commands(rows))
}

pub(super) fn commands(rows: &[(&str, &str)]) -> codec::entry::Entry {
    let command = |(counter, (key, value)): (usize, &(&str, &str))| Command {
        origin: Some(origin(counter as u64).into()),
        method: "Test/Put".into(),
        request: request(key, value).into(),
        caller: String::new(),
    };
    codec::entry::Entry {
        time_ms: 2000,
        commands: rows.iter().enumerate().map(command).collect(),
        ..Default::default()
    }
}

pub(super) fn origin(counter: u64) -> Origin {
    Origin { node: 1, boot: 1, counter }
}

pub(super) fn membership(index: u64) -> Entry {
    let membership = Membership::new_with_defaults(vec![BTreeSet::from([1])], BTreeSet::from([2]));
    Entry { log_id: log_id(1, index), payload: EntryPayload::Membership(membership) }
}
