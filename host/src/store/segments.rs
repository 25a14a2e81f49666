//! Segment files: committed entries of one group's log in a directory, outside of RocksDB. A node
//! with `--log_archive` writes them, and so does an incremental backup; restores and replays read
//! them. `segments/format.rs` has the bytes. Decides nothing about which entries are kept.
//!
//! - A file never changes once it has its name `<first>-<last>.segment`. Readers go by its header
//!   and its end, so it may have any other name with that suffix.
//! - A node writes its newest file anew while that is small: the longer one gets its name before
//!   the shorter one goes. So a directory is listed until nothing in it has changed meanwhile, and
//!   of a file that goes later the longer one is read, as far as the shorter one went.
//! - Files may overlap, for instance those of two nodes. All of them must then say the same.

mod following;
mod format;
mod reader;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod writer;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::StoreError;
use super::columns::entry_bytes;
use super::files::{self, TEMPORARY_SUFFIX};
use crate::types::{Entry, LogId};

pub(crate) use format::{End, Header, MAGIC, decode_value, encode_value};
pub(crate) use reader::SegmentReader;
pub(crate) use writer::{SUFFIX, SegmentOut, SegmentWriter, Written};

use following::Following;
use format::{END_BYTES, HEADER_BYTES, unreadable};

/// Most listings of a directory in which files come and go meanwhile.
const LISTINGS_MAX: usize = 100;

/// Header and end of a file, and its length.
type Ends = (Header, End, u64);

/// One segment file with entries.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    header: Header,
    last: LogId,
    bytes: u64,
}

impl Place {
    fn first(&self) -> u64 {
        self.header.first
    }
}

/// The newest file of some segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The file.
    pub(crate) path: PathBuf,
    /// Index of its first entry.
    pub(crate) first: u64,
    /// Its last entry.
    pub(crate) last: LogId,
    /// Its bytes.
    pub(crate) bytes: u64,
}

/// Segment files that together are one log, or parts of one.
pub(crate) struct Segments {
    /// Cluster and group, and the file that said so first.
    of: Option<(Header, PathBuf)>,
    /// Those with entries, by their first index.
    places: Vec<Place>,
    course: Mutex<Course>,
}

/// Where the last read ended, and the files that are open there.
struct Course {
    next: u64,
    open: Vec<Following>,
    /// The first of the places that begin behind `next`.
    upcoming: usize,
}

impl Segments {
    /// Reads the headers and ends of the segment files of a directory. Refuses files of two
    /// clusters or groups, and names them. A missing directory is an error; an empty one is not.
    pub(crate) fn open(directory: &Path) -> Result<Segments, StoreError> {
        Segments::open_all(&[directory.to_owned()])
    }

    /// Does what [`Segments::open`] does, with several directories and files together.
    pub(crate) fn open_all(paths: &[PathBuf]) -> Result<Segments, StoreError> {
        let mut segments = Segments::of_nothing();
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(StoreError::io("look at", path))?;
            if metadata.is_dir() {
                for (name, ends) in found_in(path, || files::names(path))? {
                    segments.add(path.join(name), ends)?;
                }
            } else {
                segments.add(path.clone(), ends_of(path)?)?;
            }
        }
        segments.sort();
        Ok(segments)
    }

    fn of_nothing() -> Segments {
        Segments { of: None, places: Vec::new(), course: Mutex::new(Course::nowhere()) }
    }

    fn sort(&mut self) {
        self.places.sort_by_key(|place| (place.first(), place.last.index));
    }

    fn add(&mut self, path: PathBuf, (header, end, bytes): Ends) -> Result<(), StoreError> {
        match &self.of {
            None => self.of = Some((header, path.clone())),
            Some((other, first)) if (other.cluster, other.group) != (header.cluster, header.group) => {
                let what = format!("this segment is of another cluster or group than {}", first.display());
                return Err(unreadable(&path, what));
            }
            Some(_) => {}
        }
        if end.count > 0 {
            self.places.push(Place { path, header, last: end.last, bytes });
        }
        Ok(())
    }

    /// Returns the cluster whose log this is; `None` if there are no files.
    pub(crate) fn cluster(&self) -> Option<[u8; 16]> {
        self.of.as_ref().map(|(header, _)| header.cluster)
    }

    /// Returns the longest run without a gap that ends with the newest entry.
    pub(crate) fn range(&self) -> Option<RangeInclusive<u64>> {
        self.runs().pop()
    }

    /// Returns all runs without a gap, the oldest first.
    pub(crate) fn runs(&self) -> Vec<RangeInclusive<u64>> {
        joined_runs(self.places.iter().map(|place| place.first()..=place.last.index).collect())
    }

    /// Returns the file with the newest entry. Of several, the one that begins first.
    pub(crate) fn newest(&self) -> Option<Newest> {
        let newest = self.places.iter().max_by_key(|place| (place.last.index, std::cmp::Reverse(place.first())))?;
        let Place { path, header, last, bytes } = newest.clone();
        Some(Newest { path, first: header.first, last, bytes })
    }

    /// Returns the entries from `from` on, in order, until about `bytes_max`, and at least one.
    /// Returns none behind the end. An entry of which two files say different things is an error:
    /// committed entries never differ.
    pub(crate) fn read(&self, from: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let mut course = self.course.lock();
        if course.next != from {
            *course = Course { next: from, ..Course::nowhere() };
        }
        let read = self.read_on(&mut course, bytes_max);
        if read.is_err() {
            *course = Course::nowhere();
        }
        read
    }

    fn read_on(&self, course: &mut Course, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.is_empty() || bytes < bytes_max {
            let next = course.next;
            match self.step(course)? {
                Some(entry) => {
                    bytes += entry_bytes(&entry);
                    entries.push(entry);
                }
                None if entries.is_empty() => return self.nothing_at(next).map(|()| entries),
                None => break,
            }
        }
        Ok(entries)
    }

    /// Returns an error if there are entries behind `next`, which none of the files has.
    fn nothing_at(&self, next: u64) -> Result<(), StoreError> {
        match self.places.iter().find(|place| place.first() > next) {
            None => Ok(()),
            Some(place) => Err(unreadable(
                &place.path,
                format!(
                    "the segments have a gap: entries {next} to {} are in none of them; the archive of another node, or an incremental \
                     backup, may have them",
                    place.first() - 1
                ),
            )),
        }
    }

    /// Reads the next entry from all files that have it; `None` if none has.
    fn step(&self, course: &mut Course) -> Result<Option<Entry>, StoreError> {
        let next = course.next;
        while let Some(place) = self.places.get(course.upcoming).filter(|place| place.first() <= next) {
            if place.last.index >= next {
                course.open.push(Following::open(place, next)?);
            }
            course.upcoming += 1;
        }
        let mut found: Option<(Entry, PathBuf)> = None;
        for following in &mut course.open {
            let entry = following.take(next)?;
            match &found {
                None => found = Some((entry, following.path().to_owned())),
                Some((other, path)) if *other != entry => {
                    let what = format!("entry {next} is another one than in {}", path.display());
                    return Err(unreadable(following.path(), what));
                }
                Some(_) => {}
            }
        }
        course.open.retain(|following| following.last() > next);
        if found.is_some() {
            course.next = next.saturating_add(1);
        }
        Ok(found.map(|(entry, _)| entry))
    }
}

impl Course {
    fn nowhere() -> Course {
        Course { next: u64::MAX, open: Vec::new(), upcoming: 0 }
    }
}

/// Returns the segment files of a directory, by their names. `names` lists it in order, again and
/// again until there is nothing new.
fn found_in(
    directory: &Path,
    names: impl Fn() -> Result<Vec<String>, StoreError>,
) -> Result<BTreeMap<String, Ends>, StoreError> {
    let mut found = BTreeMap::new();
    for _ in 0..LISTINGS_MAX {
        let mut listed = names()?;
        listed.retain(|name| name.ends_with(SUFFIX));
        found.retain(|name, _| listed.binary_search(name).is_ok());
        listed.retain(|name| !found.contains_key(name));
        if listed.is_empty() {
            return Ok(found);
        }
        for name in listed {
            match ends_of(&directory.join(&name)) {
                // The next listing has what replaces it.
                Err(error) if is_gone(&error) => {}
                ends => {
                    found.insert(name, ends?);
                }
            }
        }
    }
    let what = format!("segments came and went during {LISTINGS_MAX} listings of the directory; run this again");
    Err(unreadable(directory, what))
}

fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// Joins ranges of entries that overlap or follow each other. Returns them in order.
pub(crate) fn joined_runs(mut ranges: Vec<RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.sort_by_key(|range| *range.start());
    let mut runs: Vec<RangeInclusive<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if *range.start() <= run.end().saturating_add(1) => {
                *run = *run.start()..=*run.end().max(range.end());
            }
            _ => runs.push(range),
        }
    }
    runs
}

/// Reads header and end of a file, and its length.
fn ends_of(path: &Path) -> Result<Ends, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let bytes = file.metadata().map_err(StoreError::io("look at", path))?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut head).map_err(StoreError::io("read", path))?;
    let header = Header::decode(&head).map_err(|what| unreadable(path, what))?;
    let cut = || unreadable(path, "the segment is cut short: it has no end");
    if bytes < (HEADER_BYTES + END_BYTES) as u64 {
        return Err(cut());
    }
    file.seek(SeekFrom::End(-(END_BYTES as i64))).map_err(StoreError::io("read", path))?;
    let mut tail = Vec::new();
    file.take(END_BYTES as u64).read_to_end(&mut tail).map_err(StoreError::io("read", path))?;
    let end = End::decode(&tail).ok_or_else(cut)?;
    match header.fits(&end) {
        true => Ok((header, end, bytes)),
        false => Err(unreadable(path, "the segment is damaged: its end does not fit its header")),
    }
}

/// What the directory of an archive holds.
pub(crate) struct Archived {
    /// Its sound segments.
    pub(crate) segments: Segments,
    /// The last entry that a file has by its name, though the file is damaged at an end.
    pub(crate) damaged_last: Option<u64>,
}

/// Creates the directory of an archive below `above`, which must exist. Its disk may not be mounted
/// otherwise.
pub(crate) fn create_archive(directory: &Path, above: &Path) -> Result<(), StoreError> {
    match above.is_dir() {
        true => files::create_directory(directory),
        false => Err(StoreError::Unusable {
            path: directory.to_owned(),
            what: format!("there is no directory {}: is its disk mounted?", above.display()),
        }),
    }
}

/// Opens the directory of an archive, and removes files that a crash left unfinished. Returns what
/// it holds. Tells of damaged files, and leaves them. Refuses a file that another cluster, group or
/// incarnation has written than `of` says.
pub(crate) fn open_archive(directory: &Path, of: &Header) -> Result<Archived, StoreError> {
    let unfinished = format!("{SUFFIX}{TEMPORARY_SUFFIX}");
    for name in files::names(directory)?.iter().filter(|name| name.ends_with(&unfinished)) {
        files::remove_file(&directory.join(name))?;
    }
    let mut segments = Segments::of_nothing();
    let mut damaged_last = None;
    for name in files::names(directory)?.iter().filter(|name| name.ends_with(SUFFIX)) {
        let path = directory.join(name);
        match (ends_of(&path), writer::last_of(name)) {
            (Ok(ends), _) => {
                check_owner(&path, &ends.0, of)?;
                segments.add(path, ends)?;
            }
            (Err(error @ StoreError::Unreadable { .. }), Some(last)) => {
                tracing::error!(%error, "a segment of the log archive is damaged; it stays, and the archive goes on behind it");
                damaged_last = damaged_last.max(Some(last));
            }
            (Err(error), _) => return Err(error),
        }
    }
    segments.sort();
    Ok(Archived { segments, damaged_last })
}

fn check_owner(path: &Path, found: &Header, of: &Header) -> Result<(), StoreError> {
    let what = match found.incarnation.cmp(&of.incarnation) {
        _ if (found.cluster, found.group) != (of.cluster, of.group) => {
            "this segment is of another cluster or group than this node: give the node another --log_archive"
        }
        Ordering::Equal => return Ok(()),
        Ordering::Less => "this segment is of a history that a recovery left behind; give another --log_archive",
        Ordering::Greater => {
            "this segment was written behind a recovery that this node has not taken part in; give another --log_archive"
        }
    };
    Err(unreadable(path, what))
}

/// Removes a file whose entries another file has, too.
pub(crate) fn remove_segment(path: &Path) -> Result<(), StoreError> {
    files::remove_file(path)
}
