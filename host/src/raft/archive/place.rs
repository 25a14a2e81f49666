//! The directory of a log archive while it is open: what it holds, and the next segment in it.
//! Decides neither when something is written nor how far.

use super::{ArchiveParts, SEGMENT_BYTES};
use crate::store::{
    Archived, Log, SegmentHeader, SegmentNewest, SegmentWriter, Segments, StoreError, create_archive, open_archive,
    remove_segment,
};

/// A segment that is smaller is written anew with the entries that follow it.
const SMALL_BYTES: u64 = 1 << 20;
/// Most bytes of entries that are copied from a small segment at once.
const COPY_BYTES: usize = 1 << 20;

/// An open directory.
pub(super) struct Place {
    /// The header of its files, but for the first entry.
    of: SegmentHeader,
    newest: Option<SegmentNewest>,
    /// The entry behind the last one of which there is a file; 0 if there is none.
    end: u64,
    /// The entry that is archived next.
    next: u64,
}

impl Place {
    /// Opens the directory. `kept` is the entry behind the last one that this process has seen in
    /// it; without one the directory is made if there is none. `None`: the node is in no cluster
    /// yet, and has nothing to archive.
    pub(super) fn open(parts: &ArchiveParts, kept: Option<u64>) -> Result<Option<Place>, StoreError> {
        let ArchiveParts { directory, group, cell, log, .. } = parts;
        let Some(cluster) = cell.get() else { return Ok(None) };
        let of = SegmentHeader { cluster: cluster.id, group: *group, incarnation: cluster.incarnation, first: 0 };
        match kept {
            None => create_archive(directory, &parts.above)?,
            Some(_) if !directory.is_dir() => return Err(lost(parts)),
            Some(_) => {}
        }
        let Archived { segments, damaged_last } = open_archive(directory, &of)?;
        let newest = segments.newest();
        newest.as_ref().map_or(Ok(()), |newest| check_history(newest, log))?;
        let last = newest.as_ref().map(|newest| newest.last.index).max(damaged_last);
        let next = last.map_or(0, |last| last.saturating_add(1));
        if kept > Some(next) {
            return Err(lost(parts));
        }
        let run = segments.range().map_or_else(|| "none".to_owned(), |run| format!("{} to {}", run.start(), run.end()));
        tracing::info!(directory = %directory.display(), entries = run, "the log is archived");
        Ok(Some(Place { of, newest, end: next, next }))
    }

    /// Returns the entry that is archived next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the entry behind the last one that is archived; 0 if there is none.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Goes on at a later entry.
    pub(super) fn skip_to(&mut self, next: u64) {
        self.next = next;
    }

    /// Writes one segment with entries up to `upto`. Returns whether there was something to write.
    pub(super) fn write(&mut self, parts: &ArchiveParts, upto: u64) -> Result<bool, StoreError> {
        let ArchiveParts { directory, space, log, .. } = parts;
        if let Some(newest) = &self.newest {
            if !newest.path.is_file() {
                return Err(lost(parts));
            }
            check_history(newest, log)?;
        }
        if let Some(what) = space.refuses_beside(directory, SEGMENT_BYTES)? {
            return Err(StoreError::NoRoom { path: directory.clone(), what });
        }
        let (mut writer, small) = self.begin(parts)?;
        let mut next = self.next;
        while next <= upto && writer.bytes() < SEGMENT_BYTES {
            let entries = log.read_here(next..upto.saturating_add(1))?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                writer.push(entry)?;
                next = entry.log_id.index + 1;
            }
        }
        if next == self.next {
            // The log was replaced meanwhile.
            return Ok(false);
        }
        let (first, bytes) = (writer.first(), writer.bytes());
        let (path, last) = writer.finish()?;
        if let Some(small) = small {
            remove_segment(&small.path)?;
        }
        self.newest = Some(SegmentNewest { path, first, last, bytes });
        (self.end, self.next) = (next, next);
        Ok(true)
    }

    /// Begins a segment: with the entries of the newest one while that is small, which it replaces.
    /// One that is damaged stays as it is.
    fn begin(&self, parts: &ArchiveParts) -> Result<(SegmentWriter, Option<SegmentNewest>), StoreError> {
        let create = |first| SegmentWriter::create(&parts.directory, SegmentHeader { first, ..self.of });
        let is_continued = |newest: &&SegmentNewest| newest.bytes < SMALL_BYTES && newest.last.index + 1 == self.next;
        if let Some(small) = self.newest.as_ref().filter(is_continued) {
            let mut writer = create(small.first)?;
            match copy(small, &mut writer) {
                Ok(()) => return Ok((writer, Some(small.clone()))),
                Err(error @ StoreError::Unreadable { .. }) => {
                    let path = small.path.display();
                    tracing::error!(%error, %path, "a segment of the log archive is damaged; it stays, and the next one begins behind it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok((create(self.next)?, None))
    }
}

fn lost(parts: &ArchiveParts) -> StoreError {
    let what = "it does not hold what was archived before: is its disk mounted?".to_owned();
    StoreError::Unusable { path: parts.directory.clone(), what }
}

/// Refuses a segment that ends with another entry than the log has there.
fn check_history(newest: &SegmentNewest, log: &Log) -> Result<(), StoreError> {
    let SegmentNewest { path, last, .. } = newest;
    match log.log_id_at(last.index)? {
        Some(ours) if ours != *last => {
            let index = last.index;
            let what = format!(
                "its entry {index} is another one than in this node's log: this segment is of a history that a recovery left behind; give \
                 another --log_archive"
            );
            Err(StoreError::Unusable { path: path.clone(), what })
        }
        _ => Ok(()),
    }
}

/// Copies the entries of a segment.
fn copy(from: &SegmentNewest, writer: &mut SegmentWriter) -> Result<(), StoreError> {
    let segment = Segments::open_all(std::slice::from_ref(&from.path))?;
    let mut next = from.first;
    while next <= from.last.index {
        let entries = segment.read(next, COPY_BYTES)?;
        let missing = || StoreError::Unreadable { path: from.path.clone(), what: format!("entry {next} is not in it") };
        next = entries.last().ok_or_else(missing)?.log_id.index + 1;
        entries.iter().try_for_each(|entry| writer.push(entry))?;
    }
    Ok(())
}
