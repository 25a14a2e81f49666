//! Keeps committed entries in segment files, before they are purged (`--log_archive`). A thread of
//! its own copies what this node has applied out of the log. Never on the path of a command, and
//! never ends the node. `raft/retention` asks it what may be purged, and `store/segments` has the
//! files.
//!
//! - Only applied entries are archived, and only while the log has the one that was applied last.
//!   So they are committed.
//! - Nothing is purged that is not in a durable segment. While the archive cannot be written, the
//!   log grows, and an error says so again and again.
//! - On the disk of the data directory it takes no room that the node needs.
//! - What this node has applied is archived before a snapshot replaces it (`raft/peers/install`).
//!   What it skips by the snapshot is in no log of its own. Its archive then has a gap. The
//!   archives of other nodes may have these entries.
//! - The newest segment is written anew with what follows it while it is small, so that an archive
//!   of a quiet cluster does not consist of many tiny files.

mod place;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::GroupCell;
use crate::machine::Position;
use crate::store::{Log, Space, StoreError};
use crate::threads;
use crate::types::{GroupId, LogId};
use place::Place;

/// Longest time for which an applied entry is not archived, while the archive can be written.
pub const LAG_MAX: Duration = Duration::from_secs(10);
/// Bytes of log after which entries are archived sooner, and of a segment that is complete.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Time between two looks whether there is something to archive.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Time after a failure before the next attempt.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Time after which an archive that still cannot be written is reported again.
const ALARM_AGAIN: Duration = Duration::from_secs(60);
/// Time between two looks whether all is archived that a snapshot is about to replace.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for the thread at the end of a group: its disk may hang.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Figures of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// Index of the last archived entry; 0 also when there is none.
    pub archived_index: u64,
    /// Attempts that failed, since the process began.
    pub failures: u64,
    /// Times that entries had left the log before they were archived, since the process began.
    pub gaps: u64,
    /// Whether the last attempt failed. The log is then not purged.
    pub is_failing: bool,
}

/// What an archive works with.
pub struct ArchiveParts {
    /// The directory of this node and group.
    pub directory: PathBuf,
    /// The directory above `--log_archive`. It is never made.
    pub above: PathBuf,
    /// The group whose log it is.
    pub group: GroupId,
    /// Knows the cluster.
    pub cell: GroupCell,
    /// Says what is applied.
    pub applied: watch::Receiver<Position>,
    /// The last entry that was committed before the start, and that the state may still lack; 0 if
    /// it lacks none.
    pub replays_to: u64,
    /// Has the entries.
    pub log: Log,
    /// Watches the disk of the data directory.
    pub space: Space,
}

/// The archive of one group's log. Cheap to clone.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    parts: ArchiveParts,
    /// The entry behind the last archived one; 0 before the first.
    end: AtomicU64,
    /// The entry that is archived next. It is later than `end` if the log does not have those
    /// between any more.
    next: AtomicU64,
    /// The entry behind the last gap that was counted.
    gap_end: AtomicU64,
    failures: AtomicU64,
    gaps: AtomicU64,
    is_failing: AtomicBool,
    asked: Mutex<Asked>,
    /// Signalled when something is asked, and when the thread has ended.
    changed: Condvar,
}

/// What others ask of the thread.
#[derive(Default)]
struct Asked {
    /// The entry up to which the log would be purged.
    upto: Option<u64>,
    stop: bool,
    has_ended: bool,
}

/// What the thread remembers from pass to pass.
struct Course {
    place: Option<Place>,
    /// The entry behind the last one that was seen in the directory; `None` until it is opened.
    kept: Option<u64>,
    /// When everything that was applied then had been archived.
    level: Instant,
    /// Bytes of the log at that time.
    level_bytes: u64,
    told: Option<Instant>,
}

impl Archive {
    /// Starts the thread.
    pub fn start(parts: ArchiveParts) -> std::io::Result<Archive> {
        let archive = Archive(Arc::new(Inner::new(parts)));
        let inner = archive.0.clone();
        std::thread::Builder::new().name("archive".into()).spawn(move || {
            threads::give_way();
            let _ending = Ending(&inner);
            inner.run();
        })?;
        Ok(archive)
    }

    /// Returns the last entry up to which the log may be purged; `None` if nothing may be. `wanted`
    /// is how far it would be: the archive hurries to get there.
    pub fn lets_purge(&self, wanted: u64) -> Option<u64> {
        let archived = self.0.next.load(Relaxed).checked_sub(1);
        if archived.is_none_or(|archived| archived < wanted) {
            let mut asked = self.0.asked.lock();
            asked.upto = asked.upto.max(Some(wanted));
            self.0.changed.notify_all();
        }
        archived.map(|archived| archived.min(wanted))
    }

    /// Waits until everything is archived that is applied, or was when the node ended before, but
    /// no longer than `patience`. Then warns: a snapshot is about to replace the log, and what is
    /// missing is in no log of this node any more.
    pub async fn settle(&self, patience: Duration) {
        let before = Some(self.0.parts.replays_to).filter(|index| *index > 0);
        let Some(last) = self.0.applied().map(|applied| applied.index).max(before) else { return };
        self.lets_purge(last);
        let settled = async {
            while self.0.next.load(Relaxed) <= last {
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        };
        if tokio::time::timeout(patience, settled).await.is_err() {
            let first = self.0.next.load(Relaxed);
            tracing::warn!(
                first,
                last,
                "a snapshot replaces the log before these entries are archived, because the archive cannot be written or is behind; the \
                 archive of another node may have them"
            );
        }
    }

    /// Returns figures for operators.
    pub fn status(&self) -> ArchiveStatus {
        self.0.status()
    }

    /// Writes one more segment with what is applied, and ends the thread. Blocks, but not for long:
    /// what is missing is archived by the next start, since it is not purged.
    pub fn end(&self) {
        let mut asked = self.0.asked.lock();
        asked.stop = true;
        self.0.changed.notify_all();
        let until = Instant::now() + END_PATIENCE;
        while !asked.has_ended {
            if self.0.changed.wait_until(&mut asked, until).timed_out() {
                tracing::warn!(directory = %self.0.parts.directory.display(), "the log archive hangs; the node stops without it");
                return;
            }
        }
    }
}

/// Tells the end of the thread, also if it panics.
struct Ending<'a>(&'a Inner);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.asked.lock().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Course {
    fn new() -> Course {
        Course { place: None, kept: None, level: Instant::now(), level_bytes: 0, told: None }
    }
}

impl Inner {
    fn new(parts: ArchiveParts) -> Inner {
        Inner {
            parts,
            end: AtomicU64::new(0),
            next: AtomicU64::new(0),
            gap_end: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            asked: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn status(&self) -> ArchiveStatus {
        ArchiveStatus {
            archived_index: self.end.load(Relaxed).saturating_sub(1),
            failures: self.failures.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            is_failing: self.is_failing.load(Relaxed),
        }
    }

    fn run(&self) {
        let mut course = Course::new();
        loop {
            let stops = self.wait(LOOK_PAUSE);
            if stops || course.place.is_none() || self.is_due(&course) {
                match self.pass(&mut course) {
                    Ok(()) => self.works(&mut course),
                    Err(error) => {
                        self.fails(&mut course, &error);
                        if !stops && self.wait(TRY_AGAIN) {
                            return self.tell_behind();
                        }
                    }
                }
            }
            if stops {
                return self.tell_behind();
            }
        }
    }

    /// Says how much of what is applied is not archived when the node ends.
    fn tell_behind(&self) {
        let behind = self.behind();
        if behind > 0 {
            let directory = self.parts.directory.display();
            tracing::warn!(%directory, "the log archive is {behind} entries behind; the next start archives them");
        }
    }

    /// Returns how many entries are applied and not archived.
    fn behind(&self) -> u64 {
        let applied = self.applied().map_or(0, |applied| applied.index + 1);
        applied.saturating_sub(self.next.load(Relaxed))
    }

    /// Waits until something is asked, or for `pause`. Returns whether the thread is to end.
    fn wait(&self, pause: Duration) -> bool {
        let mut asked = self.asked.lock();
        if !asked.stop {
            self.changed.wait_for(&mut asked, pause);
        }
        asked.stop
    }

    fn is_level(&self, upto: Option<u64>) -> bool {
        upto.is_none_or(|upto| upto < self.next.load(Relaxed))
    }

    fn is_due(&self, course: &Course) -> bool {
        let bytes = self.parts.log.stats().written_bytes.saturating_sub(course.level_bytes);
        let asked = !self.is_level(self.asked.lock().upto);
        asked || bytes >= SEGMENT_BYTES || course.level.elapsed() >= LAG_MAX
    }

    /// Archives everything that was applied when it began.
    fn pass(&self, course: &mut Course) -> Result<(), StoreError> {
        let bytes = self.parts.log.stats().written_bytes;
        if course.place.is_none() {
            course.place = Place::open(&self.parts, course.kept)?;
            course.place.iter().for_each(|place| self.note(place));
        }
        // A node that is in no cluster yet has nothing to archive.
        let Some(place) = &mut course.place else { return Ok(()) };
        course.kept = Some(place.end());
        let Some(applied) = self.applied() else { return Ok(()) };
        while place.next() <= applied.index {
            self.skip_purged(place);
            if place.next() > applied.index {
                break;
            }
            // A snapshot may have replaced the state while the log still holds what was never
            // committed there. If the log has the very entry that is applied, all before it are the
            // committed ones, and no log cuts those off.
            if self.parts.log.log_id_at(applied.index)? != Some(applied) || !place.write(&self.parts, applied.index)? {
                return Ok(());
            }
            self.note(place);
            course.kept = Some(place.end());
            // What is missing at the end of the node is archived by the next start.
            if self.asked.lock().stop {
                return Ok(());
            }
        }
        (course.level, course.level_bytes) = (Instant::now(), bytes);
        Ok(())
    }

    fn applied(&self) -> Option<LogId> {
        self.parts.applied.borrow().log_id
    }

    fn note(&self, place: &Place) {
        self.end.store(place.end(), Relaxed);
        self.next.store(place.next(), Relaxed);
    }

    /// Goes on behind the entries that have left the log. A gap is told and counted once, however
    /// often the next segment fails.
    fn skip_purged(&self, place: &mut Place) {
        let stats = self.parts.log.stats();
        let first = stats.first_index.or(stats.last_index.map(|last| last + 1)).unwrap_or(0);
        if first <= place.next() {
            return;
        }
        if self.gap_end.fetch_max(first, Relaxed) < first {
            self.tell_gap(place, first);
        }
        place.skip_to(first);
        self.note(place);
    }

    fn tell_gap(&self, place: &Place, first: u64) {
        if place.end() == 0 {
            tracing::info!(first, "the log archive begins here: what is before is not in this node's log any more");
            return;
        }
        self.gaps.fetch_add(1, Relaxed);
        tracing::warn!(
            first = place.next(),
            last = first - 1,
            "the log archive has a gap: these entries are not in this node's log, because it has installed a snapshot behind them, or ran \
             for a time without --log_archive; the archive of another node may have them"
        );
    }

    fn works(&self, course: &mut Course) {
        if self.is_failing.swap(false, Relaxed) {
            course.told = None;
            tracing::info!(directory = %self.parts.directory.display(), "the log is archived again");
        }
    }

    fn fails(&self, course: &mut Course, error: &StoreError) {
        // What the directory holds is looked at anew when it is back.
        course.place = None;
        self.failures.fetch_add(1, Relaxed);
        self.is_failing.store(true, Relaxed);
        if course.told.is_none_or(|told| told.elapsed() >= ALARM_AGAIN) {
            course.told = Some(Instant::now());
            let advice = error.room_advice().unwrap_or("see that the directory can be written and is this node's own");
            tracing::error!(
                %error,
                advice,
                archived = self.end.load(Relaxed).saturating_sub(1),
                "the log cannot be archived; it is not purged, and grows, until that works again"
            );
        }
    }
}
