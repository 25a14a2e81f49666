//! Tests the log against restarts, damage, a failing disk, a plain model, and openraft's own suite.

use std::fs;
use std::sync::mpsc;

use bytes::Bytes;
use futures::TryStreamExt;
use openraft::storage::{RaftLogReader, RaftLogStorageExt};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, entry::RaftEntry};
use proptest::prelude::*;
use rocksdb::WriteBatch;
use tempfile::TempDir;

use super::super::DataDir;
use super::writer::{Rocks, Sink};
use super::*;
use crate::types::{CommittedLeaderId, EntryData, GROUP, Identity};

mod bounds;
mod damage;
mod groups;
mod suite;

fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    let payload = EntryPayload::Normal(EntryData(Bytes::copy_from_slice(payload)));
    Entry { log_id: log_id(term, index), payload }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term, node_id: 1 }, index)
}

fn vote(term: u64) -> Vote {
    Vote { leader_id: CommittedLeaderId { term, node_id: 1 }, committed: true }
}

fn open(root: &TempDir) -> Result<Log, StoreError> {
    open_disk(root)?.log(GROUP)
}

fn open_disk(root: &TempDir) -> Result<LogDisk, StoreError> {
    LogDisk::open(&DataDir::open(root.path()).unwrap(), Fatal::default())
}

async fn append(log: &mut Log, term: u64, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(|index| entry(term, index, &index.to_be_bytes()))).await.unwrap();
}

async fn indexes(log: &mut Log) -> Vec<(u64, u64)> {
    let entries = log.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

#[tokio::test]
async fn a_restart_keeps_vote_entries_identity_and_hint() {
    let root = tempfile::tempdir().unwrap();
    let identity = Identity { node_id: 9, name: "a".into(), cluster: None, boot: 3 };
    let mut log = open(&root).unwrap();
    assert_eq!(log.0.disk.identity(), None);
    log.0.disk.save_identity(&identity).unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    append(&mut log, 2, 0..5).await;
    log.save_committed(Some(log_id(2, 3))).await.unwrap();
    let written_bytes = log.stats().written_bytes;
    log.close();
    drop(log);
    let mut log = open(&root).unwrap();
    assert_eq!(log.0.disk.identity(), Some(identity));
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(2)));
    assert_eq!(log.committed_hint(), Some(log_id(2, 3)));
    assert_eq!(indexes(&mut log).await, (0..5).map(|index| (2, index)).collect::<Vec<_>>());
    let stats = LogStats { first_index: Some(0), last_index: Some(4), durable_index: 4, tail_bytes: 0, written_bytes };
    assert_eq!(log.stats(), stats, "what was found counts as written");
    append(&mut log, 2, 5..6).await;
}

#[tokio::test]
async fn purge_and_truncate_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..10).await;
    log.purge(log_id(1, 3)).await.unwrap();
    log.truncate_after(Some(log_id(1, 6))).await.unwrap();
    append(&mut log, 2, 7..9).await;
    let expected = [(1, 4), (1, 5), (1, 6), (2, 7), (2, 8)];
    assert_eq!(indexes(&mut log).await, expected);
    drop(log);
    let mut log = open(&root).unwrap();
    assert_eq!(indexes(&mut log).await, expected);
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 3)), Some(log_id(2, 8))));
    // A snapshot beyond the log.
    log.purge(log_id(5, 20)).await.unwrap();
    log.barrier().await.unwrap();
    log.durable().wait(20).unwrap();
    append(&mut log, 5, 21..22).await;
    drop(log);
    let mut log = open(&root).unwrap();
    assert_eq!(indexes(&mut log).await, [(5, 21)]);
    assert_eq!(log.stats().first_index, Some(21));
}

#[tokio::test]
async fn a_gap_or_a_step_back_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 3, 0..3).await;
    for bad in [entry(3, 4, b""), entry(3, 2, b""), entry(2, 3, b"")] {
        assert!(log.append([bad], IOFlushed::noop()).await.is_err());
    }
    append(&mut log, 3, 3..4).await;
}

#[tokio::test]
async fn reads_come_from_disk_and_memory_and_are_bounded_by_bytes() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    let large = vec![7; 400 * 1024];
    log.blocking_append((0..6).map(|index| entry(1, index, &large))).await.unwrap();
    drop(log);
    let mut log = open(&root).unwrap();
    log.blocking_append((6..12).map(|index| entry(1, index, &large))).await.unwrap();
    let mut reader = log.get_log_reader().await;
    let read = |entries: Vec<Entry>| entries.iter().map(|entry| entry.index()).collect::<Vec<_>>();
    assert_eq!(read(reader.try_get_log_entries(..).await.unwrap()), (0..12).collect::<Vec<_>>());
    assert_eq!(read(reader.try_get_log_entries(4..=7).await.unwrap()), [4, 5, 6, 7]);
    assert_eq!(read(reader.limited_get_log_entries(1, 12).await.unwrap()), [1, 2]);
    assert_eq!(read(reader.limited_get_log_entries(5, 12).await.unwrap()), [5]);
    assert_eq!(read(reader.limited_get_log_entries(6, 12).await.unwrap()), [6, 7]);
    assert_eq!(read(reader.limited_get_log_entries(11, 13).await.unwrap()), [11], "what is there, up to the log's end");
    let stream: Vec<Entry> = reader.entries_stream(2..20).await.try_collect().await.unwrap();
    assert_eq!(read(stream), (2..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_task_of_a_past_leader_that_asks_for_what_is_gone_gets_nothing_and_no_error() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..10).await;
    let mut reader = log.get_log_reader().await;
    log.truncate_after(Some(log_id(1, 7))).await.unwrap();
    assert_eq!(reader.limited_get_log_entries(8, 10).await.unwrap(), [], "another leader cut it off");
    assert_eq!(reader.limited_get_log_entries(6, 10).await.unwrap().len(), 2);
    log.purge(log_id(2, 20)).await.unwrap();
    append(&mut log, 2, 21..23).await;
    assert_eq!(reader.limited_get_log_entries(8, 23).await.unwrap(), [], "a snapshot has it");
    assert_eq!(reader.limited_get_log_entries(21, 23).await.unwrap().len(), 2);
}

#[tokio::test]
async fn one_entry_larger_than_the_cap_is_read() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    let huge = vec![7; 3 * 1024 * 1024];
    log.blocking_append((0..2).map(|index| entry(1, index, &huge))).await.unwrap();
    assert_eq!(log.get_log_reader().await.limited_get_log_entries(0, 2).await.unwrap().len(), 1);
    drop(log);
    let mut log = open(&root).unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(0, 2).await.unwrap().len(), 1);
    let stream: Vec<Entry> = reader.entries_stream(..).await.try_collect().await.unwrap();
    assert_eq!(stream.len(), 2);
}

/// `LOCKSTEP_LOG_ENTRIES=1000000` shows how long a log of a million small entries takes to open.
#[tokio::test]
async fn a_long_log_of_small_entries_opens_whole() {
    let count = std::env::var("LOCKSTEP_LOG_ENTRIES").map_or(20_000, |text| text.parse::<u64>().unwrap());
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    for first in (0..count).step_by(10_000) {
        let entries = first..count.min(first + 10_000);
        log.blocking_append(entries.map(|index| entry(1, index, &[7; 100]))).await.unwrap();
    }
    drop(log);
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let log = open(&root).unwrap();
        eprintln!("{count} entries opened in {:?}", begun.elapsed());
        assert_eq!((log.stats().first_index, log.stats().last_index), (Some(0), Some(count - 1)));
    }
}

#[tokio::test]
async fn a_closed_log_refuses_and_wakes_who_waits() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..1).await;
    let durable = log.durable();
    let waiting = std::thread::spawn(move || durable.wait(1));
    log.close();
    log.close();
    assert!(matches!(waiting.join().unwrap(), Err(StoreError::Closed)));
    log.durable().wait(0).unwrap();
    assert!(log.save_vote(&vote(1)).await.is_err());
    assert!(matches!(log.barrier().await, Err(StoreError::Closed)));
    assert!(log.blocking_append([entry(1, 1, b"")]).await.is_err());
}

/// A disk that waits for permission before each batch, and fails when told to.
struct Gate {
    disk: Rocks,
    leave: mpsc::Receiver<bool>,
    panics: bool,
}

impl Sink for Gate {
    fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        assert!(!self.panics, "a bug");
        if self.leave.recv().unwrap_or(true) {
            self.disk.commit(batch)
        } else {
            Err(StoreError::Io { doing: "write", path: "disk".into(), source: io::Error::other("no space left") })
        }
    }

    fn path(&self) -> &std::path::Path {
        self.disk.path()
    }
}

fn gated(root: &TempDir) -> (Log, mpsc::Sender<bool>, Fatal) {
    with_gate(root, false)
}

fn with_gate(root: &TempDir, panics: bool) -> (Log, mpsc::Sender<bool>, Fatal) {
    let (disk, sender, fatal) = gated_disk(root, panics);
    (disk.log(GROUP).unwrap(), sender, fatal)
}

fn gated_disk(root: &TempDir, panics: bool) -> (LogDisk, mpsc::Sender<bool>, Fatal) {
    let directory = DataDir::open(root.path()).unwrap();
    let opened = opening::open(&directory).unwrap();
    let (sender, leave) = mpsc::channel();
    let sink = Gate { disk: Rocks::new(opened.database.clone(), directory.raft()), leave, panics };
    let fatal = Fatal::default();
    let disk = LogDisk::with_sink(&directory, fatal.clone(), opened, sink).unwrap();
    (disk, sender, fatal)
}

/// A thread that appends to a log and purges it until this is dropped.
struct Busy(Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>);

impl Busy {
    fn start(mut log: Log) -> Busy {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for first in (0..).step_by(5) {
                runtime.block_on(append(&mut log, 1, first..first + 5));
                runtime.block_on(log.purge(log_id(1, first + 2))).unwrap();
                assert_eq!(runtime.block_on(indexes(&mut log)), [(1, first + 3), (1, first + 4)]);
                if end.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Busy(Some((ended, thread)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((ended, thread)) = self.0.take() {
            ended.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
    }
}

type Flushed = tokio::sync::oneshot::Receiver<io::Result<()>>;

async fn submit(log: &mut Log, entries: Vec<Entry>) -> Flushed {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.unwrap();
    receiver
}

#[tokio::test]
async fn entries_are_readable_before_and_acknowledged_after_the_fsync() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, _) = gated(&root);
    let mut flushed = submit(&mut log, vec![entry(1, 0, b"a")]).await;
    assert_eq!(indexes(&mut log).await, [(1, 0)]);
    assert!(flushed.try_recv().is_err(), "nobody is told before the fsync");
    leave.send(true).unwrap();
    flushed.await.unwrap().unwrap();
    log.durable().wait(0).unwrap();
    drop(leave);
}

#[tokio::test]
async fn a_failed_write_poisons_the_log() {
    let root = tempfile::tempdir().unwrap();
    let (disk, leave, fatal) = gated_disk(&root, false);
    let mut log = disk.log(GROUP).unwrap();
    let first = submit(&mut log, vec![entry(1, 0, b"a")]).await;
    let second = submit(&mut log, vec![entry(1, 1, b"b")]).await;
    leave.send(false).unwrap();
    assert!(first.await.unwrap().is_err());
    assert!(second.await.unwrap().is_err());
    assert!(fatal.raised().await.contains("no space left"));
    assert!(matches!(log.durable().wait(0), Err(StoreError::Poisoned(_))));
    assert!(log.save_vote(&vote(1)).await.is_err());
    assert!(log.blocking_append([entry(1, 2, b"")]).await.is_err());
    assert!(matches!(log.barrier().await, Err(StoreError::Poisoned(_))));
    log.close();
    // Whoever waits is told before the writer's thread ends. The disk's close waits for the thread.
    disk.close();
    assert!(leave.send(true).is_err(), "nothing was tried again");
}

#[tokio::test]
async fn entries_that_were_applied_are_not_cut_off() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, fatal) = gated(&root);
    leave.send(true).unwrap();
    log.blocking_append([entry(1, 0, b"a"), entry(1, 1, b"b"), entry(1, 2, b"c")]).await.unwrap();
    log.note_served(entry(1, 1, b"b").log_id).unwrap();
    log.truncate_after(Some(entry(1, 1, b"b").log_id)).await.unwrap();
    assert!(!fatal.is_raised(), "what was not applied may go");
    assert!(log.truncate_after(Some(entry(1, 0, b"a").log_id)).await.is_err());
    assert!(fatal.raised().await.contains("this node has applied entry 1, and the leader's log has other entries"));
    assert_eq!(indexes(&mut log).await, [(1, 0), (1, 1)], "it keeps what it has");
}

#[tokio::test]
async fn a_writer_that_panics_leaves_nobody_waiting() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, _leave, fatal) = with_gate(&root, true);
    assert!(log.blocking_append([entry(1, 0, b"a")]).await.is_err());
    assert!(fatal.raised().await.contains("its writer panicked"));
    assert!(matches!(log.durable().wait(0), Err(StoreError::Poisoned(_))));
    assert!(log.save_vote(&vote(1)).await.is_err());
}

#[tokio::test]
async fn an_entry_that_took_the_place_of_a_cut_one_is_not_durable_by_the_old_ones_fsync() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, _) = gated(&root);
    let old = submit(&mut log, (0..10).map(|index| entry(1, index, b"old")).collect()).await;
    // The writer holds the old entries and waits for permission, while they are truncated and
    // replaced.
    while !log.0.shared.queue.is_empty() {
        tokio::task::yield_now().await;
    }
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    let new = submit(&mut log, vec![entry(2, 6, b"new"), entry(2, 7, b"new")]).await;
    leave.send(true).unwrap();
    old.await.unwrap().unwrap();
    assert_eq!(log.durable().index(), 5);
    leave.send(true).unwrap();
    new.await.unwrap().unwrap();
    assert_eq!(log.durable().index(), 7);
    drop(leave);
    drop(log);
    assert_eq!(indexes(&mut open(&root).unwrap()).await.last(), Some(&(2, 7)));
}

#[tokio::test]
async fn the_committed_hint_waits_for_its_entry() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..2).await;
    log.save_committed(Some(log_id(1, 5))).await.unwrap();
    log.save_vote(&vote(1)).await.unwrap();
    drop(log);
    let mut log = open(&root).unwrap();
    assert_eq!(log.committed_hint(), None, "a hint beyond the log would keep the node from starting");
    log.save_committed(Some(log_id(1, 5))).await.unwrap();
    append(&mut log, 1, 2..8).await;
    drop(log);
    assert_eq!(open(&root).unwrap().committed_hint(), Some(log_id(1, 5)));
}

#[tokio::test]
async fn what_was_served_is_known_to_be_committed_after_a_kill() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    assert_eq!(log.seen_before(), Seen::Through(0));
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 6))).await.unwrap();
    log.note_served(log_id(1, 6)).unwrap();
    // The hint waits for a next batch that never comes. A copy of the open directory is what a kill
    // leaves.
    let killed = damage::killed(&root);
    let log = open(&killed).unwrap();
    assert_eq!((log.committed_hint(), log.seen_before()), (Some(log_id(1, 6)), Seen::Through(6)));
    drop(log);
    fs::remove_file(killed.path().join("SERVED")).unwrap();
    let log = open(&killed).unwrap();
    assert_eq!((log.committed_hint(), log.seen_before()), (None, Seen::Perhaps(8)));
}

/// One step of a test, for the log and for a plain model of it.
#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Truncate(u8),
    Purge(u8),
    Vote,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u8..8).prop_map(Step::Append),
        2 => (0u8..6).prop_map(Step::Truncate),
        2 => (0u8..6).prop_map(Step::Purge),
        1 => Just(Step::Vote),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_log_is_what_a_plain_list_would_be(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

async fn follow(steps: Vec<Step>) {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    let mut model: Vec<(u64, u64)> = Vec::new();
    let (mut term, mut purged) = (1, None::<(u64, u64)>);
    for step in steps {
        match step {
            Step::Append(count) => {
                let start = model.last().or(purged.as_ref()).map_or(0, |last| last.1 + 1);
                append(&mut log, term, start..start + u64::from(count)).await;
                model.extend((start..start + u64::from(count)).map(|index| (term, index)));
            }
            Step::Truncate(count) => {
                model.truncate(model.len().saturating_sub(usize::from(count)));
                let kept = model.last().or(purged.as_ref());
                log.truncate_after(kept.map(|(term, index)| log_id(*term, *index))).await.unwrap();
                term += 1;
            }
            Step::Purge(count) => {
                let gone = model.drain(..model.len().min(usize::from(count))).next_back();
                purged = gone.or(purged);
                if let Some((term, index)) = purged {
                    log.purge(log_id(term, index)).await.unwrap();
                }
            }
            Step::Vote => log.save_vote(&vote(term)).await.unwrap(),
            Step::Restart => {
                drop(log);
                log = open(&root).unwrap();
            }
        }
        assert_eq!(indexes(&mut log).await, model);
        log.barrier().await.unwrap();
        let last = model.last().or(purged.as_ref());
        assert_eq!(log.stats().last_index, last.map(|last| last.1));
        assert_eq!(log.stats().durable_index, last.map_or(0, |last| last.1));
    }
}
