//! Tests of a rollback: no command is lost, replicas agree whether or not they had made ready, what
//! belongs to the history before is gone, and who cannot follow says so.

use std::sync::Arc;

use tempfile::TempDir;

use super::super::{Change, ChangeVerdict, RollbackTrial, change_to, genesis_of};
use super::guest_text::{faithful, short};
use super::harness::*;
use super::logged::Logged;
use crate::codec::{self, Rollback};
use crate::guest::{Component, Verdict};
use crate::types::{Entry, NodeMode};

/// A node and its log.
struct Logging {
    node: TestNode,
    log: Arc<Logged>,
}

impl Logging {
    /// Starts a node that has both components, over that directory and log.
    fn start(place: TempDir, log: Arc<Logged>) -> Logging {
        let node = start_in(place, log.clone());
        for component in [faithful(), short()] {
            match node.machine.profile() {
                None => node.machine.set_component(faithful()),
                Some(_) => node.machine.offer_component(component),
            }
        }
        node.machine.offer_component(short());
        node.machine.set_mode(NodeMode::Serving);
        Logging { node, log }
    }

    /// Makes a node whose change at index 3 may be taken back until log time 9000. It has a command
    /// before the change, and two behind it.
    async fn changed() -> Logging {
        let mut this = Logging::start(tempfile::tempdir().unwrap(), Arc::default());
        this.apply(vec![genesis(1, &faithful()), puts(2, &[("a", "11")]), change(3, &short(), 6000)]).await;
        this.apply(vec![puts(4, &[("b", "22")]), puts(5, &[("c", "33"), ("d", "4")])]).await;
        assert_eq!(this.value("b").await, "2", "the new component is in use");
        this
    }

    async fn apply(&mut self, entries: Vec<Entry>) {
        self.log.0.lock().extend(entries.iter().cloned());
        self.node.apply(entries).await;
    }

    async fn restarted(self) -> Logging {
        let Logging { node, log } = self;
        Logging::start(node.stop().await, log)
    }

    async fn value(&self, key: &str) -> String {
        match self.node.get(key).await.verdict {
            Verdict::Reply(reply) => String::from_utf8(reply.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn checkpoints(&self) -> Vec<u64> {
        self.node.options.checkpoints.list().iter().map(|checkpoint| checkpoint.index).collect()
    }
}

fn change(index: u64, component: &Component, probation_ms: u64) -> Entry {
    let change = change_to(&genesis_of([7; 16], component, [9; 32]), 1, probation_ms);
    normal(1, index, &codec::entry::Entry { time_ms: 3000, change: Some(change), ..Default::default() })
}

fn rollback(index: u64, change_index: u64, time_ms: u64) -> Entry {
    let rollback = Some(Rollback { change_index });
    normal(1, index, &codec::entry::Entry { time_ms, rollback, ..Default::default() })
}

const TRIAL: RollbackTrial = RollbackTrial { change_index: 3, at: None };

#[tokio::test]
async fn a_rollback_keeps_every_command() {
    let mut this = Logging::changed().await;
    let step = this.node.watch("a").await;
    let changed = this.node.machine.changed(step.index, step.reads);
    let report = this.node.machine.prepare_rollback(TRIAL).await.unwrap();
    assert_eq!((report.index, report.commands, report.different), (5, 3, 2), "one byte is the same");
    assert_eq!((report.differences[0].index, report.differences.len()), (Some(4), 2));
    assert_eq!(this.value("b").await, "2", "nothing has changed yet");
    // The shadow follows.
    this.apply(vec![membership(6), puts(7, &[("e", "55")])]).await;
    let report = this.node.machine.prepare_rollback(RollbackTrial { at: Some(7), ..TRIAL }).await.unwrap();
    assert_eq!((report.commands, report.hash.len()), (4, 16));
    this.apply(vec![rollback(8, 3, 4000)]).await;
    assert_eq!(changed.await, Change::Reset);
    for (key, value) in [("a", "11"), ("b", "22"), ("c", "33"), ("d", "4"), ("e", "55")] {
        assert_eq!(this.value(key).await, value);
    }
    let machine = &this.node.machine;
    let (index, profile) = machine.profile().unwrap();
    assert_eq!((index, profile.component_hash.as_ref()), (8, &faithful().hash()[..]));
    let tried = machine.last_change().unwrap();
    assert_eq!((tried.index, tried.verdict), (8, ChangeVerdict::RolledBack));
    assert!(tried.detail.contains("4 commands") && tried.detail.contains("3 of them"), "{}", tried.detail);
    assert_eq!((machine.probation(), machine.log_needed_after()), (None, None));
    assert_eq!(*machine.watch_rolled_back().borrow(), 8);
    assert_eq!(machine.status().commands_applied, 5);
    this.apply(vec![puts(9, &[("f", "66")])]).await;
    assert_eq!(this.value("f").await, "66");
    // It can be changed again.
    let again = change_to(&genesis_of([7; 16], &short(), [9; 32]), 8, 0);
    let again = codec::entry::Entry { time_ms: 5000, change: Some(again), ..Default::default() };
    this.apply(vec![normal(1, 10, &again)]).await;
    assert_eq!(this.node.machine.profile().unwrap().0, 10);
}

#[tokio::test]
async fn replicas_agree_whether_or_not_they_had_made_ready() {
    let mut ready = Logging::changed().await;
    ready.node.machine.prepare_rollback(TRIAL).await.unwrap();
    let mut restarted = Logging::changed().await.restarted().await;
    let entries = || vec![rollback(6, 3, 4000), puts(7, &[("b", "77")])];
    ready.apply(entries()).await;
    restarted.apply(entries()).await;
    assert_eq!(ready.node.machine.hash_tip(), restarted.node.machine.hash_tip());
    assert_eq!((ready.value("c").await, restarted.value("c").await), ("33".into(), "33".into()));
    let again = restarted.restarted().await;
    assert_eq!(ready.node.machine.hash_tip(), again.node.machine.hash_tip());
    assert_eq!(again.node.machine.profile().unwrap().0, 6);
}

#[tokio::test]
async fn a_rollback_that_comes_too_late_changes_nothing() {
    for late in [rollback(6, 2, 4000), rollback(6, 3, 9000)] {
        let mut this = Logging::changed().await;
        this.apply(vec![late]).await;
        let tried = this.node.machine.last_change().unwrap();
        assert_eq!((tried.index, tried.verdict), (6, ChangeVerdict::Outdated));
        assert_eq!((this.value("b").await, this.node.machine.profile().unwrap().0), ("2".into(), 3));
    }
}

#[tokio::test]
async fn checkpoints_of_the_history_before_are_gone() {
    let mut this = Logging::changed().await;
    assert_eq!(this.node.machine.snapshots().take().await.unwrap(), 5);
    assert_eq!(this.checkpoints(), [2, 5]);
    let before = this.node.options.state.current();
    this.apply(vec![rollback(6, 3, 4000)]).await;
    assert_eq!(this.checkpoints(), [2, 6]);
    // One that was begun before comes too late.
    assert!(this.node.machine.snapshots().make(&before).is_err());
    drop(before);
    let this = this.restarted().await;
    assert_eq!((this.checkpoints(), this.value("b").await), (vec![2, 6], "22".to_owned()));
}

#[tokio::test]
async fn a_node_without_the_checkpoint_says_that_it_cannot_follow() {
    let this = Logging::changed().await;
    let before = this.node.options.checkpoints.list().remove(0);
    assert!(this.node.options.checkpoints.set_aside(&before));
    let this = this.restarted().await;
    let refused = this.node.machine.prepare_rollback(TRIAL).await.unwrap_err();
    assert!(refused.contains("no checkpoint from before the change at entry 3"), "{refused}");
    let (machine, mut left_behind) = (this.node.machine.clone(), this.node.machine.watch_left_behind());
    let entries = futures::stream::iter([Ok((rollback(6, 3, 4000), None))]);
    let mut state_machine = this.node.state_machine.clone();
    let applying =
        tokio::spawn(async move { openraft::storage::RaftStateMachine::apply(&mut state_machine, entries).await });
    let words = left_behind.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(words.contains("resync"), "{words}");
    assert_eq!(machine.applied_index(), 5);
    machine.close().await.unwrap();
    assert!(applying.await.unwrap().is_err());
}

#[tokio::test]
async fn whoever_asks_for_another_change_is_told() {
    let this = Logging::changed().await;
    let machine = &this.node.machine;
    let trial = |change_index, at| RollbackTrial { change_index, at };
    assert!(machine.prepare_rollback(trial(2, None)).await.unwrap_err().contains("not in force"));
    let at_the_change = machine.prepare_rollback(trial(3, Some(3))).await.unwrap();
    assert_eq!((at_the_change.index, at_the_change.hash.len()), (3, 16));
}
