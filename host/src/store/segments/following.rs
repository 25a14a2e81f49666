//! One segment file that is read in order. If its node has written it anew since it was listed, the
//! longer file is found and read. Does not know of other segments.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::format::unreadable;
use super::{LISTINGS_MAX, Place, SUFFIX, SegmentReader, StoreError, ends_of, is_gone};
use crate::store::files;
use crate::types::{Entry, LogId};

/// A file that is read, up to the last entry that its place has.
pub(super) struct Following {
    reader: SegmentReader<BufReader<File>>,
    path: PathBuf,
    last: LogId,
    /// Whether a longer file is read in place of the one that was listed.
    is_longer: bool,
}

impl Following {
    /// Opens a file, and reads up to the entry before `next`. If the file is gone, the longer one
    /// is read that has replaced it.
    pub(super) fn open(place: &Place, next: u64) -> Result<Following, StoreError> {
        let (file, path) = match opened(&place.path) {
            Err(error) if is_gone(&error) => longer_than(place)?,
            file => (file?, place.path.clone()),
        };
        let is_longer = path != place.path;
        let reader = SegmentReader::new(BufReader::new(file), &path)?;
        let mut following = Following { reader, path, last: place.last, is_longer };
        for before in place.first()..next {
            following.take(before)?;
        }
        Ok(following)
    }

    /// Returns the file that is read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the index of the last entry that is read.
    pub(super) fn last(&self) -> u64 {
        self.last.index
    }

    /// Returns the next entry, which is `index`. Behind the last one the file is checked as a
    /// whole.
    pub(super) fn take(&mut self, index: u64) -> Result<Entry, StoreError> {
        let missing = || unreadable(&self.path, format!("the segment is damaged: entry {index} is missing"));
        let entry = self.reader.next_entry()?.ok_or_else(missing)?;
        if index == self.last.index {
            self.check_end(&entry)?;
        }
        Ok(entry)
    }

    fn check_end(&mut self, last: &Entry) -> Result<(), StoreError> {
        if last.log_id != self.last {
            let what = format!("the segment has another entry {} than when the directory was listed", self.last.index);
            return Err(unreadable(&self.path, what));
        }
        while self.reader.next_entry()?.is_some() {
            if !self.is_longer {
                return Err(unreadable(&self.path, "the segment is damaged: its end is not where it says"));
            }
        }
        Ok(())
    }
}

fn opened(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(StoreError::io("open", path))
}

/// Opens the file that its node has written in place of a small one: of the same log, from the same
/// entry on, and with all of its entries.
fn longer_than(place: &Place) -> Result<(File, PathBuf), StoreError> {
    let directory = place.path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for _ in 0..LISTINGS_MAX {
        let mut has_changed = false;
        for name in files::names(directory)?.iter().filter(|name| name.ends_with(SUFFIX)) {
            let path = directory.join(name);
            let found = ends_of(&path).and_then(|ends| Ok((ends, opened(&path)?)));
            match found {
                Ok(((header, end, _), file)) if header == place.header && end.last.index >= place.last.index => {
                    return Ok((file, path));
                }
                // It was small, too. The next listing has what replaces it.
                Err(error) if is_gone(&error) => has_changed = true,
                // Another one, and whether it is sound does not matter here.
                Ok(_) | Err(StoreError::Unreadable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !has_changed {
            break;
        }
    }
    let what = "the segment is gone since the directory was listed, and no longer one has its entries; run this again";
    Err(unreadable(&place.path, what))
}
