//! Many groups over one disk: each has its own log, and they share the writer, its fsync, its
//! failure and `SYNCED`.

use std::os::unix::fs::FileExt;
use std::process::Command;

use super::*;

/// A data directory that the first release wrote. The scenarios start a node on it.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/data-directory-0.1.0.tar.gz");

/// Returns an entry that no other group has.
fn entry_of(group: GroupId, index: u64) -> Entry {
    entry(1, index, format!("{index} of group {group}").as_bytes())
}

async fn entries(log: &mut Log) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

fn open_all(disk: &LogDisk, groups: std::ops::Range<GroupId>) -> Vec<Log> {
    groups.map(|group| disk.log(group).unwrap()).collect()
}

/// Waits until the writer holds everything that was submitted.
async fn taken(log: &Log) {
    while !log.0.shared.queue.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn interleaved_appends_are_read_back_by_each_group() {
    for count in [2, 20] {
        let root = tempfile::tempdir().unwrap();
        let disk = open_disk(&root).unwrap();
        let mut logs = open_all(&disk, 0..count);
        for index in 0..30 {
            let mut flushed = Vec::new();
            for (group, log) in (0..).zip(&mut logs) {
                flushed.push(submit(log, vec![entry_of(group, index)]).await);
            }
            for flushed in flushed {
                flushed.await.unwrap().unwrap();
            }
        }
        drop((logs, disk));
        let disk = open_disk(&root).unwrap();
        for (group, mut log) in (0..).zip(open_all(&disk, 0..count)) {
            let expected: Vec<_> = (0..30).map(|index| entry_of(group, index)).collect();
            assert_eq!(entries(&mut log).await, expected, "group {group} of {count}");
            assert_eq!(log.durable().index(), 29);
        }
    }
}

#[tokio::test]
async fn what_waits_in_all_groups_is_written_with_one_fsync() {
    let root = tempfile::tempdir().unwrap();
    let (disk, leave, _) = gated_disk(&root, false);
    let mut logs = open_all(&disk, 0..20);
    let first = submit(&mut logs[3], vec![entry_of(3, 0)]).await;
    taken(&logs[3]).await;
    let mut flushed = Vec::new();
    for index in 1..11 {
        for (group, log) in (0..).zip(&mut logs) {
            let index = if group == 3 { index } else { index - 1 };
            flushed.push(submit(log, vec![entry_of(group, index)]).await);
        }
    }
    assert_eq!(disk.stats(), LogDiskStats::default());
    assert!(logs[7].writing_for() > Duration::ZERO, "every group waits for the disk");
    leave.send(true).unwrap();
    first.await.unwrap().unwrap();
    assert!(flushed.iter_mut().all(|flushed| flushed.try_recv().is_err()), "nobody is told before the fsync");
    leave.send(true).unwrap();
    for flushed in flushed {
        flushed.await.unwrap().unwrap();
    }
    assert_eq!(disk.stats(), LogDiskStats { fsyncs: 2, operations: 201, entries: 201 });
    assert!(logs.iter().all(|log| log.durable().index() == log.stats().last_index.unwrap()));
    drop(leave);
}

#[tokio::test]
async fn the_bytes_of_a_batch_are_bounded_for_all_groups_and_the_first_come_is_served_first() {
    let root = tempfile::tempdir().unwrap();
    let (disk, leave, _) = gated_disk(&root, false);
    let mut logs = open_all(&disk, 0..4);
    let large = |index| entry(1, index, &vec![7; 8 << 20]);
    let mut flushed = vec![submit(&mut logs[1], vec![large(0)]).await];
    taken(&logs[1]).await;
    flushed.push(submit(&mut logs[1], vec![large(1)]).await);
    flushed.push(submit(&mut logs[2], vec![large(0)]).await);
    flushed.push(submit(&mut logs[0], vec![entry_of(0, 0)]).await);
    flushed.push(submit(&mut logs[1], vec![large(2)]).await);
    for batch in [0..1, 1..2, 2..3, 3..5] {
        leave.send(true).unwrap();
        for one in &mut flushed[batch.clone()] {
            one.await.unwrap().unwrap();
        }
        assert!(flushed[batch.end..].iter_mut().all(|later| later.try_recv().is_err()), "{batch:?}");
    }
    drop(leave);
}

#[tokio::test]
async fn a_failed_write_poisons_every_group_and_is_not_tried_again() {
    let root = tempfile::tempdir().unwrap();
    let (disk, leave, fatal) = gated_disk(&root, false);
    let mut logs = open_all(&disk, 0..3);
    let mut flushed = vec![submit(&mut logs[1], vec![entry_of(1, 0)]).await];
    taken(&logs[1]).await;
    flushed.push(submit(&mut logs[0], vec![entry_of(0, 0)]).await);
    flushed.push(submit(&mut logs[1], vec![entry_of(1, 1)]).await);
    leave.send(false).unwrap();
    for flushed in flushed {
        assert!(flushed.await.unwrap().is_err());
    }
    let reason = fatal.raised().await;
    assert!(reason.starts_with("the log could not be written: ") && reason.contains("no space left"), "{reason}");
    for log in &mut logs {
        assert!(matches!(log.durable().wait(0), Err(StoreError::Poisoned(_))));
        assert!(matches!(log.barrier().await, Err(StoreError::Poisoned(_))));
        assert!(log.save_vote(&vote(1)).await.is_err());
    }
    let identity = Identity { node_id: 9, name: "a".into(), cluster: None, boot: 3 };
    assert!(matches!(disk.save_identity(&identity), Err(StoreError::Poisoned(_))));
    logs.remove(2).close();
    assert!(matches!(disk.log(2), Err(StoreError::Poisoned(_))), "a group is not opened again");
    assert_eq!(disk.stats(), LogDiskStats::default());
    disk.close();
    assert!(leave.send(true).is_err(), "nothing was tried again");
}

#[tokio::test]
async fn a_writer_that_panics_leaves_nobody_waiting_in_any_group() {
    let root = tempfile::tempdir().unwrap();
    let (disk, _leave, fatal) = gated_disk(&root, true);
    let mut logs = open_all(&disk, 0..3);
    assert!(logs[1].blocking_append([entry_of(1, 0)]).await.is_err());
    assert!(fatal.raised().await.contains("its writer panicked"));
    for log in logs {
        assert!(matches!(log.durable().wait(0), Err(StoreError::Poisoned(_))));
    }
}

#[tokio::test]
async fn one_log_is_closed_and_opened_again_while_others_go_on() {
    let root = tempfile::tempdir().unwrap();
    let (disk, leave, fatal) = gated_disk(&root, false);
    let (mut zero, mut seven) = (disk.log(0).unwrap(), disk.log(7).unwrap());
    let first = submit(&mut zero, vec![entry_of(0, 0)]).await;
    taken(&zero).await;
    let queued = submit(&mut seven, vec![entry_of(7, 0), entry_of(7, 1)]).await;
    seven.save_committed(Some(log_id(1, 1))).await.unwrap();
    let closing = std::thread::spawn({
        let seven = seven.clone();
        move || seven.close()
    });
    while !seven.0.shared.is_closing() {
        std::thread::yield_now();
    }
    assert!(seven.blocking_append([entry_of(7, 2)]).await.is_err(), "nothing more is taken,");
    let error = disk.log(7).err().unwrap().to_string();
    assert!(error.contains("the log of group 7 is open already"), "{error}");
    drop(leave);
    closing.join().unwrap();
    first.await.unwrap().unwrap();
    queued.await.unwrap().unwrap();
    assert!(matches!(seven.durable().wait(2), Err(StoreError::Closed)));
    append(&mut zero, 1, 1..3).await;

    let mut again = disk.log(7).unwrap();
    assert_eq!(entries(&mut again).await, [entry_of(7, 0), entry_of(7, 1)], "what was queued is there,");
    assert_eq!(again.committed_hint(), Some(log_id(1, 1)), "and so is the hint");
    drop(seven);
    again.blocking_append([entry_of(7, 2)]).await.unwrap();
    drop(again);
    append(&mut zero, 1, 3..4).await;
    assert!(!fatal.is_raised());
    disk.close();
    assert!(matches!(zero.barrier().await, Err(StoreError::Closed)), "the end of the disk is that of every log");
    assert!(matches!(disk.log(7), Err(StoreError::Closed)));
    drop((zero, disk));
    let disk = open_disk(&root).unwrap();
    assert_eq!(indexes(&mut disk.log(0).unwrap()).await.len(), 4);
    assert_eq!(entries(&mut disk.log(7).unwrap()).await.len(), 3);
}

#[tokio::test]
async fn a_log_keeps_the_disk_and_the_last_one_lets_it_go() {
    let root = tempfile::tempdir().unwrap();
    let mut seven = open_disk(&root).unwrap().log(7).unwrap();
    append(&mut seven, 1, 0..3).await;
    drop(seven);
    let mut seven = open_disk(&root).unwrap().log(7).unwrap();
    assert_eq!(indexes(&mut seven).await.len(), 3);
}

#[tokio::test]
async fn truncation_and_purge_leave_the_keys_of_other_groups() {
    let root = tempfile::tempdir().unwrap();
    let disk = open_disk(&root).unwrap();
    let mut logs = open_all(&disk, 0..3);
    for log in &mut logs {
        append(log, 1, 0..10).await;
        log.save_vote(&vote(3)).await.unwrap();
    }
    logs[1].truncate_after(Some(log_id(1, 6))).await.unwrap();
    logs[1].purge(log_id(1, 3)).await.unwrap();
    logs[1].barrier().await.unwrap();
    drop((logs, disk));
    let disk = open_disk(&root).unwrap();
    for (mut log, kept) in open_all(&disk, 0..3).into_iter().zip([0..10, 4..7, 0..10]) {
        assert_eq!(indexes(&mut log).await, kept.map(|index| (1, index)).collect::<Vec<_>>());
        assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(3)));
    }
}

#[tokio::test]
async fn what_one_group_lost_is_refused_and_the_group_is_named() {
    let root = tempfile::tempdir().unwrap();
    let disk = open_disk(&root).unwrap();
    let (mut zero, mut seven) = (disk.log(0).unwrap(), disk.log(7).unwrap());
    append(&mut zero, 1, 0..5).await;
    append(&mut seven, 1, 0..4).await;
    append(&mut seven, 1, 4..5).await;
    let whole = damage::killed(&root);
    drop((zero, seven, disk));

    // RocksDB itself drops a record that ends too early, and refuses one that is wrong.
    for break_tail in [
        |wal: &std::path::Path| damage::cut(wal, 3),
        |wal: &std::path::Path| {
            damage::flip(wal, fs::metadata(wal).unwrap().len() - 3, 2);
        },
    ] {
        let image = damage::killed(&whole);
        break_tail(&damage::wal(&image));
        let error = open_disk(&image).err().unwrap().to_string();
        let expected = "group 7: the last log id on disk is T1-N1.3, and T1-N1.4 had been synced";
        assert!(error.contains(expected) && error.contains("remove_server"), "{error}");
        // As after a power cut that lost the newer content of `SYNCED`.
        let synced = damage::synced(&image);
        let promised = synced.read().unwrap()[&7];
        synced.write(&[(7, synced::Ends { last: Some(log_id(1, 3)), ..promised })]).unwrap();
        let disk = open_disk(&image).unwrap();
        assert_eq!(disk.log(7).unwrap().stats().last_index, Some(3));
        assert_eq!(disk.log(0).unwrap().stats().last_index, Some(4));
    }
    let file = fs::File::options().write(true).open(whole.path().join("SYNCED")).unwrap();
    file.write_all_at(&[0; 256], 7 * 256).unwrap();
    let error = open_disk(&whole).err().unwrap().to_string();
    assert!(error.contains("a log of group 7, and SYNCED has no record of that group"), "{error}");
}

#[tokio::test]
async fn a_group_with_a_state_and_without_a_log_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let disk = open_disk(&root).unwrap();
    fs::create_dir_all(root.path().join("state/7/1")).unwrap();
    let error = disk.log(7).err().unwrap().to_string();
    assert!(error.contains("group 7: it holds no log, and") && error.contains("state/7"), "{error}");
    disk.log(8).unwrap();
    let error = disk.log(synced::GROUPS_MAX).err().unwrap().to_string();
    assert!(error.contains("group 65536: a data directory holds groups below 65536"), "{error}");
}

#[tokio::test]
async fn the_identity_is_of_the_process_and_kept_without_any_log() {
    let root = tempfile::tempdir().unwrap();
    let identity = Identity { node_id: 9, name: "a".into(), cluster: None, boot: 3 };
    let disk = open_disk(&root).unwrap();
    disk.save_identity(&identity).unwrap();
    let mut zero = disk.log(0).unwrap();
    append(&mut zero, 1, 0..2).await;
    zero.close();
    disk.save_identity(&Identity { boot: 4, ..identity.clone() }).unwrap();
    drop((zero, disk));
    let promised = damage::synced(&root).read().unwrap();
    assert_eq!((promised[&0].node, promised[&0].boot, promised[&0].last), (9, 4, Some(log_id(1, 1))));
    assert_eq!(open_disk(&root).unwrap().identity().unwrap().boot, 4);
}

#[tokio::test]
async fn a_directory_of_an_earlier_build_opens_unchanged_and_takes_more_groups() {
    let root = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(GOLDEN).arg("-C").arg(root.path()).output().unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let place = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).next().unwrap();
    let open = || LogDisk::open(&DataDir::open(&place).unwrap(), Fatal::default()).unwrap();
    let small = || ["SYNCED", "SERVED"].map(|name| fs::read(place.join(name)).unwrap());

    let before = small();
    let disk = open();
    let mut zero = disk.log(0).unwrap();
    let (identity, stats, found) = (disk.identity().unwrap(), zero.stats(), entries(&mut zero).await);
    assert!(stats.last_index.is_some() && !found.is_empty(), "{stats:?}");
    drop((zero, disk));
    assert!(small() == before, "an open without a write changes nothing");

    let disk = open();
    append(&mut disk.log(7).unwrap(), 1, 0..3).await;
    drop(disk);
    assert_eq!(small()[0][..256], before[0][..256], "another group leaves the record of group 0");
    let disk = open();
    let mut zero = disk.log(0).unwrap();
    assert_eq!((disk.identity(), zero.stats().last_index), (Some(identity), stats.last_index));
    assert_eq!(entries(&mut zero).await, found);
    assert_eq!(indexes(&mut disk.log(7).unwrap()).await.len(), 3);
}
