//! Tests of an archive over a log on disk, in which the test is Raft and apply.

use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use tempfile::TempDir;

use super::*;
use crate::raft::ClusterCell;
use crate::store::{DataDir, LogDisk, Segments};
use crate::types::{Cluster, CommittedLeaderId, Entry, EntryData, Fatal, GROUP, LogId};

/// A log, what is applied of it, and a directory for its archive.
struct Bench {
    applied: watch::Sender<Position>,
    log: Log,
    cell: GroupCell,
    space: Space,
    data: DataDir,
    place: TempDir,
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term, node_id: 1 }, index)
}

fn entry_of(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(EntryData(vec![7; bytes].into())) }
}

fn entry(term: u64, index: u64) -> Entry {
    entry_of(term, index, 100)
}

impl Bench {
    fn new() -> Bench {
        Bench::of_incarnation(0)
    }

    fn of_incarnation(incarnation: u32) -> Bench {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDir::open(&place.path().join("data")).unwrap();
        let log = LogDisk::open(&directory, Fatal::default()).unwrap().log(GROUP).unwrap();
        let cluster = Cluster { id: [1; 16], incarnation, component_hash: [2; 32] };
        let cell = GroupCell::new(ClusterCell::new(Some(cluster)), GROUP);
        let (applied, space) = (watch::channel(Position::default()).0, Space::open(&directory, 0).unwrap());
        Bench { applied, log, cell, space, data: directory, place }
    }

    /// Where the archive is.
    fn directory(&self) -> PathBuf {
        self.place.path().join("archive")
    }

    /// An archive as a process has it that has just started.
    fn archive(&self) -> (Inner, Course) {
        (Inner::new(self.parts()), Course::new())
    }

    fn parts(&self) -> ArchiveParts {
        ArchiveParts {
            directory: self.directory(),
            above: self.place.path().to_owned(),
            group: GROUP,
            cell: self.cell.clone(),
            applied: self.applied.subscribe(),
            replays_to: 0,
            log: self.log.clone(),
            space: self.space.clone(),
        }
    }

    async fn append(&mut self, term: u64, indexes: std::ops::RangeInclusive<u64>) {
        self.log.append(indexes.map(|index| entry(term, index)), IOFlushed::noop()).await.unwrap();
        self.log.barrier().await.unwrap();
    }

    fn apply(&self, term: u64, index: u64) {
        self.applied.send_replace(Position { log_id: Some(log_id(term, index)), time_ms: 0 });
    }

    async fn purge(&mut self, term: u64, index: u64) {
        self.log.purge(log_id(term, index)).await.unwrap();
        self.log.barrier().await.unwrap();
    }

    /// Returns the segments, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.directory()).unwrap();
        let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Returns the log ids that the archive has from an index on, until its end or a gap.
    fn archived(&self, from: u64) -> Vec<(u64, u64)> {
        let segments = Segments::open(&self.directory()).unwrap();
        let (mut next, mut found) = (from, Vec::new());
        while let Some(entries) = segments.read(next, 1).ok().filter(|entries| !entries.is_empty()) {
            found.extend(entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)));
            next += entries.len() as u64;
        }
        found
    }
}

fn of_term(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    indexes.map(|index| (term, index)).collect()
}

#[tokio::test]
async fn what_is_applied_is_archived_and_a_restart_goes_on_behind_it() {
    let mut bench = Bench::new();
    let (archive, mut course) = bench.archive();
    archive.pass(&mut course).unwrap();
    bench.append(1, 0..=20).await;
    bench.apply(1, 9);
    archive.pass(&mut course).unwrap();
    assert_eq!(bench.archived(0), of_term(1, 0..=9));
    let (archive, mut course) = bench.archive();
    bench.apply(1, 20);
    archive.pass(&mut course).unwrap();
    assert_eq!(bench.archived(0), of_term(1, 0..=20));
    assert_eq!(bench.segments().len(), 1, "a small segment is written anew with what follows it");
}

/// Regression test: a snapshot was installed over a log whose end another leader had replaced, and
/// that end was archived as if it had been committed.
#[tokio::test]
async fn a_stale_tail_is_not_archived() {
    let mut bench = Bench::new();
    let (archive, mut course) = bench.archive();
    bench.append(1, 0..=30).await;
    bench.apply(1, 9);
    archive.pass(&mut course).unwrap();
    // The state is that of a snapshot already, and the log is still that of a former leader.
    for index in [25, 40] {
        bench.apply(2, index);
        archive.pass(&mut course).unwrap();
        assert_eq!(bench.archived(0), of_term(1, 0..=9), "entry {index} of term 2 is applied");
    }
    bench.log.truncate_after(Some(log_id(1, 19))).await.unwrap();
    bench.append(2, 20..=40).await;
    archive.pass(&mut course).unwrap();
    assert_eq!(bench.archived(0), [of_term(1, 0..=19), of_term(2, 20..=40)].concat());
}

/// Regression test: a gap was counted again by every attempt to write the segment behind it, and
/// its end was shown as archived.
#[tokio::test]
async fn a_gap_is_counted_once_and_is_not_archived() {
    let mut bench = Bench::new();
    let (archive, mut course) = bench.archive();
    bench.append(1, 0..=9).await;
    bench.apply(1, 9);
    archive.pass(&mut course).unwrap();
    // A snapshot at entry 50.
    bench.apply(1, 50);
    bench.purge(1, 50).await;
    for _ in 0..3 {
        archive.pass(&mut course).unwrap();
        course.place = None;
    }
    let status = ArchiveStatus { archived_index: 9, gaps: 1, ..ArchiveStatus::default() };
    assert_eq!(archive.status(), status);
    assert_eq!(archive.next.load(Relaxed), 51, "what has left the log does not hold a purge");
    bench.append(1, 51..=60).await;
    bench.apply(1, 60);
    archive.pass(&mut course).unwrap();
    assert_eq!(archive.status(), ArchiveStatus { archived_index: 60, ..status });
    assert_eq!((bench.archived(0), bench.archived(51)), (of_term(1, 0..=9), of_term(1, 51..=60)));
}

/// Regression test: an archive that was many segments behind was said to hang when its node ended.
#[tokio::test]
async fn an_archive_that_is_behind_ends_between_two_segments() {
    const MIB: usize = 1 << 20;
    let mut bench = Bench::new();
    for index in 0..40 {
        bench.log.append([entry_of(1, index, MIB)], IOFlushed::noop()).await.unwrap();
    }
    bench.log.barrier().await.unwrap();
    bench.apply(1, 39);
    let (archive, mut course) = bench.archive();
    archive.asked.lock().stop = true;
    archive.pass(&mut course).unwrap();
    let archived = archive.status().archived_index;
    assert!((10..=17).contains(&archived), "one segment of 16 MiB ends at entry {archived}");
    assert_eq!(archive.behind(), 39 - archived);
    archive.asked.lock().stop = false;
    archive.pass(&mut course).unwrap();
    assert_eq!((archive.status().archived_index, archive.behind()), (39, 0));
}

/// Regression test: one damaged byte in the newest segment, while that was small, ended archiving
/// and purging for ever.
#[tokio::test]
async fn behind_a_damaged_segment_the_archive_goes_on() {
    let mut bench = Bench::new();
    let (archive, mut course) = bench.archive();
    bench.append(1, 0..=30).await;
    bench.apply(1, 9);
    archive.pass(&mut course).unwrap();
    // In the middle, which only a reader of the whole file notices; then at the end.
    for (half, (applied, from)) in [(1, (19, 10)), (2, (30, 20))] {
        let newest = bench.segments().pop().unwrap();
        let good = std::fs::read(&newest).unwrap();
        let mut damaged = good.clone();
        damaged[(good.len() - 70) * half / 2] ^= 1;
        std::fs::write(&newest, &damaged).unwrap();
        let (archive, mut course) = bench.archive();
        bench.apply(1, applied);
        archive.pass(&mut course).unwrap();
        assert_eq!(archive.status().archived_index, applied);
        assert_eq!(std::fs::read(&newest).unwrap(), damaged, "it stays as it is");
        std::fs::write(&newest, &good).unwrap();
        assert_eq!(bench.archived(from), of_term(1, from..=applied));
    }
    assert_eq!((bench.segments().len(), bench.archived(0)), (3, of_term(1, 0..=30)));
}

/// Regression test: an archive on the disk of the data directory took the room that the node keeps
/// to be able to vote and purge, and could end it.
#[tokio::test]
async fn no_segment_is_written_where_the_node_needs_the_room() {
    let mut bench = Bench::new();
    bench.append(1, 0..=9).await;
    bench.apply(1, 9);
    bench.space = Space::open(&bench.data, 1 << 60).unwrap();
    let (archive, mut course) = bench.archive();
    let error = archive.pass(&mut course).unwrap_err();
    assert!(error.room_advice().is_some() && error.to_string().contains("--min_free_bytes"), "{error}");
    assert_eq!((bench.segments(), archive.next.load(Relaxed)), (Vec::new(), 0));
    bench.space = Space::open(&bench.data, 0).unwrap();
    let (archive, mut course) = bench.archive();
    archive.pass(&mut course).unwrap();
    assert_eq!(bench.archived(0), of_term(1, 0..=9));
}

/// Regression test: when the disk of an archive was unmounted, the archive began anew on the disk
/// below, and the log was purged of what is nowhere else.
#[tokio::test]
async fn an_archive_that_has_gone_is_not_begun_anew() {
    let mut bench = Bench::new();
    let (archive, mut course) = bench.archive();
    bench.append(1, 0..=30).await;
    bench.apply(1, 9);
    archive.pass(&mut course).unwrap();
    let elsewhere = bench.place.path().join("elsewhere");
    std::fs::rename(bench.directory(), &elsewhere).unwrap();
    bench.apply(1, 20);
    // The open directory is gone, then another one is there.
    for makes in [false, true, true] {
        if makes {
            std::fs::create_dir_all(bench.directory()).unwrap();
        }
        let error = archive.pass(&mut course).unwrap_err();
        assert!(error.to_string().contains("is its disk mounted?"), "{error}");
        archive.fails(&mut course, &error);
        assert_eq!((bench.directory().is_dir(), archive.status().archived_index), (makes, 9));
    }
    std::fs::remove_dir(bench.directory()).unwrap();
    std::fs::rename(&elsewhere, bench.directory()).unwrap();
    archive.pass(&mut course).unwrap();
    assert_eq!(bench.archived(0), of_term(1, 0..=20));
    // Nothing is made above the archive, whenever the process began.
    let (mut archive, mut course) = bench.archive();
    archive.parts.directory = bench.place.path().join("unmounted/log/nodeA");
    archive.parts.above = bench.place.path().join("unmounted");
    let error = archive.pass(&mut course).unwrap_err();
    assert!(error.to_string().contains("is its disk mounted?") && !archive.parts.above.exists(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_replaces_is_waited_for_but_not_for_long() {
    let mut bench = Bench::new();
    bench.append(1, 0..=9).await;
    // A file stands where the directory belongs.
    std::fs::write(bench.directory(), "in the way").unwrap();
    let archive = Archive::start(bench.parts()).unwrap();
    archive.settle(Duration::from_secs(600)).await;
    bench.apply(1, 9);
    archive.settle(Duration::from_millis(50)).await;
    assert_eq!(archive.status().archived_index, 0, "it waits no longer than it may");
    std::fs::remove_file(bench.directory()).unwrap();
    archive.settle(Duration::from_secs(600)).await;
    assert_eq!(archive.status().archived_index, 9);
    tokio::task::spawn_blocking(move || archive.end()).await.unwrap();
    assert_eq!(bench.archived(0), of_term(1, 0..=9));
}

/// Regression test: after a recovery from a lost majority, an archive that reached further than the
/// survivor's log was continued, and had two histories in one file.
#[tokio::test]
async fn an_archive_of_a_history_that_a_recovery_left_behind_is_not_continued() {
    let mut bench = Bench::new();
    bench.append(2, 0..=100).await;
    bench.apply(2, 100);
    let (archive, mut course) = bench.archive();
    archive.pass(&mut course).unwrap();
    // The survivor had entries 0 to 90, and went on alone.
    let mut survivor = Bench::of_incarnation(1);
    survivor.append(2, 0..=90).await;
    survivor.append(3, 91..=120).await;
    survivor.apply(3, 120);
    let refused = |parts: ArchiveParts| {
        let (directory, above) = (bench.directory(), bench.place.path().to_owned());
        let archive = Inner::new(ArchiveParts { directory, above, ..parts });
        let text = archive.pass(&mut Course::new()).unwrap_err().to_string();
        assert!(text.contains("of a history that a recovery left behind; give another --log_archive"), "{text}");
        assert_eq!(archive.next.load(Relaxed), 0, "nothing may be purged");
    };
    refused(survivor.parts());
    // Within one incarnation, the last entry tells.
    refused(ArchiveParts { cell: bench.cell.clone(), ..survivor.parts() });
    let (archive, mut course) = survivor.archive();
    archive.pass(&mut course).unwrap();
    assert_eq!(survivor.archived(0), [of_term(2, 0..=90), of_term(3, 91..=120)].concat());
}
