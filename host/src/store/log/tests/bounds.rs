//! The log's promises under load: nothing is acknowledged before it is on disk, acknowledgements
//! come in order, memory is bounded, and a reader sees one moment.

use futures::FutureExt;

use super::super::tail::TAIL_BYTES_MAX;
use super::*;

const MEBIBYTE: usize = 1 << 20;

fn large(indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let payload = vec![7; MEBIBYTE];
    indexes.map(|index| entry(1, index, &payload)).collect()
}

#[tokio::test]
async fn a_vote_is_on_disk_when_its_saving_returns() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, _) = gated(&root);
    let four = vote(4);
    let mut saving = Box::pin(log.save_vote(&four));
    assert!((&mut saving).now_or_never().is_none(), "a vote was granted before its fsync");
    leave.send(true).unwrap();
    saving.await.unwrap();
    let killed = damage::killed(&root);
    drop(leave);
    let mut log = open(&killed).unwrap();
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(four));
}

#[tokio::test]
async fn completions_arrive_in_the_order_of_submission() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, _) = gated(&root);
    let first = submit(&mut log, vec![entry(1, 0, b"alone")]).await;
    let mut flushed = Vec::new();
    for index in 1..500 {
        flushed.push(submit(&mut log, vec![entry(1, index, b"together")]).await);
    }
    leave.send(true).unwrap();
    first.await.unwrap().unwrap();
    leave.send(true).unwrap();
    let mut told = vec![false; flushed.len()];
    while told.contains(&false) {
        let mut later_told = false;
        for place in (0..told.len()).rev() {
            told[place] = told[place] || flushed[place].try_recv().is_ok();
            assert!(told[place] || !later_told, "a later append was acknowledged before the one at {place}");
            later_told = told[place];
        }
    }
    drop(leave);
}

#[tokio::test]
async fn the_tail_in_memory_is_bounded_and_reads_beyond_it_go_on() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    for start in (0..80).step_by(8) {
        log.blocking_append(large(start..start + 8)).await.unwrap();
    }
    let stats = log.stats();
    assert!(stats.tail_bytes <= TAIL_BYTES_MAX, "{stats:?}");
    assert!(stats.tail_bytes > TAIL_BYTES_MAX / 2, "most of it serves the readers: {stats:?}");
    assert_eq!(indexes(&mut log).await.len(), 80);
}

#[tokio::test]
async fn a_slow_disk_holds_appends_up_instead_of_filling_the_memory() {
    let root = tempfile::tempdir().unwrap();
    let (mut log, leave, _) = gated(&root);
    let mut flushed = Vec::new();
    let mut held = None;
    for start in (0..).step_by(8) {
        let (sender, receiver) = TypeConfig::oneshot();
        let entries = large(start..start + 8);
        flushed.push(receiver);
        if log.append(entries, IOFlushed::signal(sender)).now_or_never().is_none() {
            held = Some(start);
            break;
        }
        assert!(start < 100, "nothing holds appends up");
    }
    assert!(log.stats().tail_bytes <= 80 * MEBIBYTE, "{:?}", log.stats());
    drop(leave);
    log.barrier().await.unwrap();
    log.blocking_append(large(held.unwrap()..held.unwrap() + 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_beside_a_purge_sees_one_moment() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..20_000).await;
    let mut purged = log.clone();
    let purging = tokio::spawn(async move {
        for index in 0..19_000 {
            purged.purge(log_id(1, index)).await.unwrap();
        }
    });
    let mut reader = log.get_log_reader().await;
    while !purging.is_finished() {
        let entries = reader.try_get_log_entries(..19_500).await.unwrap();
        assert_eq!(entries.last().map(|entry| entry.index()), Some(19_499));
        let first = entries[0].index();
        assert_eq!(entries.len() as u64, 19_500 - first, "no holes");
    }
    purging.await.unwrap();
}
