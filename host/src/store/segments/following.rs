//! One segment file that is read in order. If its node has written it anew since it was listed, the
//! longer file is found and read. Does not know of other segments.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::format::unreadable;
use super::{LISTINGS_MAX, Place, SegmentReader, StoreError, found_in, is_gone};
use crate::store::files;
use crate::types::Entry;

/// A file that is read, up to the last entry that its place has.
pub(super) struct Following {
    reader: SegmentReader<BufReader<File>>,
    path: PathBuf,
    last: u64,
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
        let mut following = Following { reader, path, last: place.last.index, is_longer };
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
        self.last
    }

    /// Returns the next entry, which is `index`. Behind the last one the file is checked as a
    /// whole.
    pub(super) fn take(&mut self, index: u64) -> Result<Entry, StoreError> {
        let missing = || unreadable(&self.path, format!("the segment is damaged: entry {index} is missing"));
        let entry = self.reader.next_entry()?.ok_or_else(missing)?;
        if index == self.last {
            self.check_end()?;
        }
        Ok(entry)
    }

    fn check_end(&mut self) -> Result<(), StoreError> {
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
        let found = found_in(directory, || files::names(directory))?;
        let longer =
            found.iter().find(|(_, (header, end, _))| *header == place.header && end.last.index >= place.last.index);
        let Some((name, _)) = longer else { break };
        let path = directory.join(name);
        match opened(&path) {
            // It was small, too. The next listing has what replaces it.
            Err(error) if is_gone(&error) => {}
            file => return Ok((file?, path)),
        }
    }
    let what = "the segment is gone since the directory was listed, and no longer one has its entries; run this again";
    Err(unreadable(&place.path, what))
}
