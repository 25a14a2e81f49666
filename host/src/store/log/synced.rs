//! `SYNCED`: what the last fsync of the log made durable, beside the log itself. Tells damage from a torn tail: what was not yet
//! synced may be missing after a crash, what was synced may not.
//!
//! - Rewritten in place after each fsync and before anyone is told. Not fsynced itself: exact after a process crash, a lower bound
//!   after a power cut.
//! - Lowered, and then fsynced, before the log is cut: so it is never above the disk.
//!
//! One slot of [`SLOT_BYTES`] per group: version u8, flags u8, two zero bytes, vote term u64, vote node u64, last term u64, last node
//! u64, last index u64, crc32c u32 over the group and all before; big-endian.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::StoreError;
use crate::types::{CommittedLeaderId, LogId, Vote};

const SLOT_BYTES: u64 = 64;
const RECORD_BYTES: usize = 48;
const VERSION: u8 = 1;
const FLAG_VOTE: u8 = 1;
const FLAG_VOTE_COMMITTED: u8 = 2;
const FLAG_LAST: u8 = 4;

/// What was synced: the vote and the last log id.
type Ends = (Option<Vote>, Option<LogId>);

pub(super) struct Synced {
    file: File,
    path: PathBuf,
    group: u32,
}

impl Synced {
    pub(super) fn open(path: &Path, group: u32) -> Result<Synced, StoreError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(StoreError::io("open", path))?;
        Ok(Synced { file, path: path.to_owned(), group })
    }

    /// Refuses a log that holds less than was synced.
    pub(super) fn compare(&self, vote: Option<Vote>, last: Option<LogId>) -> Result<(), StoreError> {
        let Some((synced_vote, synced_last)) = self.read()? else { return Ok(()) };
        let less = |what: &str, found: String, synced: String| {
            let text = format!("the {what} on disk is {found}, and {synced} had been synced");
            Err(StoreError::damaged(&self.path, text))
        };
        if vote < synced_vote {
            return less("vote", format!("{vote:?}"), format!("{synced_vote:?}"));
        }
        if last < synced_last {
            return less("last log id", format!("{last:?}"), format!("{synced_last:?}"));
        }
        Ok(())
    }

    /// After an fsync of the log.
    pub(super) fn write(&self, vote: Option<Vote>, last: Option<LogId>) -> Result<(), StoreError> {
        self.file
            .write_all_at(&encode(self.group, vote, last), self.offset())
            .map_err(StoreError::io("write", &self.path))
    }

    /// Before the log is cut down to `last`. On disk when it returns.
    pub(super) fn lower(&self, vote: Option<Vote>, last: Option<LogId>) -> Result<(), StoreError> {
        self.write(vote, last)?;
        self.file.sync_data().map_err(StoreError::io("fsync", &self.path))
    }

    /// `None` when there is no record or a power cut tore it.
    fn read(&self) -> Result<Option<Ends>, StoreError> {
        let mut record = [0; RECORD_BYTES];
        match self.file.read_exact_at(&mut record, self.offset()) {
            Ok(()) => Ok(decode(self.group, &record)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(StoreError::io("read", &self.path)(error)),
        }
    }

    fn offset(&self) -> u64 {
        u64::from(self.group) * SLOT_BYTES
    }
}

fn encode(group: u32, vote: Option<Vote>, last: Option<LogId>) -> [u8; RECORD_BYTES] {
    let mut flags = 0;
    let mut numbers = [0u64; 5];
    if let Some(vote) = vote {
        flags |= FLAG_VOTE | if vote.committed { FLAG_VOTE_COMMITTED } else { 0 };
        numbers[..2].copy_from_slice(&[vote.leader_id.term, vote.leader_id.node_id]);
    }
    if let Some(last) = last {
        flags |= FLAG_LAST;
        numbers[2..].copy_from_slice(&[last.leader_id.term, last.leader_id.node_id, last.index]);
    }
    let mut record = [0; RECORD_BYTES];
    record[..2].copy_from_slice(&[VERSION, flags]);
    for (place, number) in record[4..44].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let crc = checksum(group, &record[..44]);
    record[44..].copy_from_slice(&crc.to_be_bytes());
    record
}

fn decode(group: u32, record: &[u8; RECORD_BYTES]) -> Option<Ends> {
    if record[0] != VERSION || checksum(group, &record[..44]).to_be_bytes() != record[44..] {
        return None;
    }
    let number = |n: usize| u64::from_be_bytes(record[4 + 8 * n..12 + 8 * n].try_into().expect("eight bytes"));
    let flag = |flag: u8| record[1] & flag != 0;
    let leader = |n: usize| CommittedLeaderId { term: number(n), node_id: number(n + 1) };
    let vote = flag(FLAG_VOTE).then(|| Vote { leader_id: leader(0), committed: flag(FLAG_VOTE_COMMITTED) });
    let last = flag(FLAG_LAST).then(|| LogId::new(leader(2), number(4)));
    Some((vote, last))
}

fn checksum(group: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&group.to_be_bytes()), record)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn vote(term: u64, committed: bool) -> Vote {
        Vote { leader_id: CommittedLeaderId { term, node_id: 7 }, committed }
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term, node_id: 7 }, index)
    }

    #[test]
    fn record_bytes_are_frozen() {
        let record = encode(0, Some(vote(3, true)), Some(log_id(2, 9)));
        assert_eq!(
            hex(&record[..44]),
            "01070000000000000000000300000000000000070000000000000002000000000000000700000000000000 09"
                .replace(' ', "")
        );
        assert_eq!(decode(0, &record), Some((Some(vote(3, true)), Some(log_id(2, 9)))));
        assert_eq!(decode(0, &encode(0, None, None)), Some((None, None)));
        assert_eq!(decode(1, &record), None, "a slot belongs to one group");
    }

    #[test]
    fn less_than_synced_is_damage_and_more_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let synced = Synced::open(&directory.path().join("SYNCED"), 0).unwrap();
        synced.compare(None, None).unwrap();
        synced.write(Some(vote(3, false)), Some(log_id(2, 9))).unwrap();
        synced.compare(Some(vote(3, false)), Some(log_id(2, 9))).unwrap();
        synced.compare(Some(vote(3, true)), Some(log_id(3, 4))).unwrap();
        assert!(synced.compare(Some(vote(2, true)), Some(log_id(2, 9))).is_err());
        assert!(synced.compare(Some(vote(3, false)), Some(log_id(2, 8))).is_err());
        assert!(synced.compare(None, Some(log_id(2, 9))).is_err());
        synced.lower(Some(vote(3, false)), Some(log_id(2, 5))).unwrap();
        synced.compare(Some(vote(3, false)), Some(log_id(2, 8))).unwrap();
    }

    #[test]
    fn a_torn_record_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("SYNCED");
        let synced = Synced::open(&path, 0).unwrap();
        synced.write(Some(vote(3, false)), Some(log_id(2, 9))).unwrap();
        synced.file.write_all_at(&[9], 20).unwrap();
        synced.compare(None, None).unwrap();
    }
}
