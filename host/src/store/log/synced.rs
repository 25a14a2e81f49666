//! `SYNCED`, a file beside the logs: what the last fsync made durable of each group's log. It tells
//! damage from a torn tail: after a crash, data that was not yet synced may be missing, but synced
//! data may not. The slot of group 0 also names the node, which reveals the logs of another node.
//!
//! - It is made, and fsynced, before the logs are. If there are logs and no `SYNCED`, someone
//!   removed `SYNCED`. The slot of another group is made, and fsynced, before that group's log is.
//! - The slots of the groups that an fsync covered are rewritten in place after it, before any
//!   acknowledgement. The file is not fsynced then: it is exact after a process crash, and a lower
//!   bound after a power cut.
//! - A slot is lowered, and then fsynced, before its log is cut. So it never promises more than the
//!   disk holds.
//!
//! Each group has one slot of [`SLOT_BYTES`]. Zeros, and what is beyond the end of the file, belong
//! to groups that were never here; group 0 always has its slot. A slot holds the same record twice,
//! [`COPY_BYTES`] apart, so that one rotten bit loses nothing: version u8, flags u8, two zero
//! bytes, vote term u64, vote node u64, last term u64, last node u64, last index u64, NodeId u64,
//! boot u64, crc32c u32 over the group and all before; big-endian.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::files::{open_in_place, sync_directory};
use crate::faults;
use crate::types::{CommittedLeaderId, GROUP, GroupId, LogId, NodeId, Vote};

/// Number of groups that a data directory has slots for. Bounds this file, of which a start reads
/// every slot.
pub(super) const GROUPS_MAX: GroupId = 1 << 16;

const SLOT_BYTES: usize = 256;
const COPY_BYTES: usize = 128;
const RECORD_BYTES: usize = 64;
/// Bytes of a record before its checksum.
const CHECKED_BYTES: usize = RECORD_BYTES - 4;
const VERSION: u8 = 1;
const FLAG_VOTE: u8 = 1;
const FLAG_VOTE_COMMITTED: u8 = 2;
const FLAG_LAST: u8 = 4;

/// The end of the log with vote and identity: either as synced, or as found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) vote: Option<Vote>,
    pub(super) last: Option<LogId>,
    /// NodeId of the identity; 0 before there is one.
    pub(super) node: NodeId,
    /// Boot number of the identity; 0 before there is one.
    pub(super) boot: u64,
}

impl Ends {
    /// Returns whether this is as empty as a new log.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Ends::default()
    }

    /// Returns what `found` lacks of this, in words; `None` if nothing.
    pub(super) fn missing_in(&self, found: &Ends) -> Option<String> {
        if self.node != 0 && found.node != 0 && found.node != self.node {
            return Some(format!(
                "raft/ is the log of node id {:016x}, and SYNCED belongs to {:016x}: directories of two nodes were mixed",
                found.node, self.node
            ));
        }
        let less = |what: &str, found: String, synced: String| {
            Some(format!("{what} is {found}, and {synced} had been synced"))
        };
        if found.last < self.last {
            return less("the last log id on disk", show(&found.last), show(&self.last));
        }
        if found.vote < self.vote {
            return less("the vote on disk", show(&found.vote), show(&self.vote));
        }
        if (found.node, found.boot) < (self.node, self.boot) {
            let identity = |ends: &Ends| format!("node id {:016x} at start {}", ends.node, ends.boot);
            return less("the identity on disk", identity(found), identity(self));
        }
        None
    }

    fn max(self, other: Ends) -> Ends {
        if other.missing_in(&self).is_some() { other } else { self }
    }
}

/// Formats a value for operators.
fn show(value: &Option<impl std::fmt::Display>) -> String {
    value.as_ref().map_or("none".into(), ToString::to_string)
}

/// What was promised of each group that was ever here.
pub(super) type Promises = BTreeMap<GroupId, Ends>;

pub(super) struct Synced {
    file: File,
    path: PathBuf,
}

impl Synced {
    /// Opens the file, and makes it if the logs at `raft` do not exist yet. Durable on return.
    pub(super) fn open(path: &Path, raft: &Path) -> Result<Synced, StoreError> {
        let is_new = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len() == 0,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(StoreError::io("look at", path)(error)),
        };
        if is_new && raft.join("CURRENT").exists() {
            let text = "it is missing, and there is a log: nobody can tell whether that log is whole";
            return Err(StoreError::damaged(path, text));
        }
        let file = open_in_place(path)?;
        let synced = Synced { file, path: path.to_owned() };
        if is_new {
            synced.lower(&[(GROUP, Ends::default())])?;
            sync_directory(path.parent().expect("a file in the data directory has a parent"))?;
        }
        Ok(synced)
    }

    /// Returns what was synced of every group. Group 0 is always among them.
    ///
    /// Fails when both copies of a record are damaged.
    pub(super) fn read(&self) -> Result<Promises, StoreError> {
        let bytes = self.file.metadata().map_err(StoreError::io("look at", &self.path))?.len();
        let count = bytes.div_ceil(SLOT_BYTES as u64).clamp(1, u64::from(GROUPS_MAX));
        let slots = self.read_slots(GROUP, usize::try_from(count).expect("a bounded number of slots"))?;
        let mut promises = Promises::new();
        for (group, slot) in (GROUP..).zip(slots.chunks_exact(SLOT_BYTES)) {
            if let Some(ends) = self.decode_slot(group, slot)? {
                promises.insert(group, ends);
            }
        }
        Ok(promises)
    }

    /// Returns what was synced of one group; `None` if it was never here.
    pub(super) fn read_group(&self, group: GroupId) -> Result<Option<Ends>, StoreError> {
        self.decode_slot(group, &self.read_slots(group, 1)?)
    }

    /// Returns the bytes of `count` slots from that of `first` on. Zeros stand for what is beyond
    /// the end of the file.
    fn read_slots(&self, first: GroupId, count: usize) -> Result<Vec<u8>, StoreError> {
        let mut slots = vec![0; count * SLOT_BYTES];
        let mut length = 0;
        while length < slots.len() {
            match self.file.read_at(&mut slots[length..], offset(first) + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &self.path)(error)),
            }
        }
        Ok(slots)
    }

    fn decode_slot(&self, group: GroupId, slot: &[u8]) -> Result<Option<Ends>, StoreError> {
        if group != GROUP && slot.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        match [0, COPY_BYTES].map(|at| decode(group, &slot[at..at + RECORD_BYTES])) {
            // A power cut between the two sectors leaves two different records. Both are true.
            [Some(one), Some(other)] => Ok(Some(one.max(other))),
            [Some(one), None] | [None, Some(one)] => {
                let path = self.path.display();
                tracing::warn!(%path, group, "one of the two copies was damaged; the other one counts");
                Ok(Some(one))
            }
            [None, None] => {
                let text = "both copies of its record are damaged: nobody can tell whether the log beside it is whole";
                Err(StoreError::damaged(&self.path, text).of_group(group))
            }
        }
    }

    /// Records the ends of logs after an fsync. `ends` is in the order of the groups.
    ///
    /// The slots of neighbours are written at once.
    pub(super) fn write(&self, ends: &[(GroupId, Ends)]) -> Result<(), StoreError> {
        faults::io("synced-before-write").map_err(StoreError::io("write", &self.path))?;
        for neighbours in ends.chunk_by(|(group, _), (next, _)| group + 1 == *next) {
            let mut slots = vec![0; neighbours.len() * SLOT_BYTES];
            for ((group, ends), slot) in neighbours.iter().zip(slots.chunks_exact_mut(SLOT_BYTES)) {
                let record = encode(*group, ends);
                slot[..RECORD_BYTES].copy_from_slice(&record);
                slot[COPY_BYTES..COPY_BYTES + RECORD_BYTES].copy_from_slice(&record);
            }
            self.file.write_all_at(&slots, offset(neighbours[0].0)).map_err(StoreError::io("write", &self.path))?;
        }
        faults::io("synced-after-write").map_err(StoreError::io("write", &self.path))
    }

    /// Records the ends of logs before they are cut. On disk when it returns.
    pub(super) fn lower(&self, ends: &[(GroupId, Ends)]) -> Result<(), StoreError> {
        self.write(ends)?;
        self.file.sync_data().map_err(StoreError::io("fsync", &self.path))
    }
}

fn offset(group: GroupId) -> u64 {
    u64::from(group) * SLOT_BYTES as u64
}

/// Returns whether `directory` belongs to a node whose log has held an entry.
///
/// Such a node is in a cluster. Opens no database, so another process may be using the directory.
/// An unreadable record counts as no.
pub fn holds_log(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join("SYNCED")) else {
        // A node refuses a log without `SYNCED`, but it is a log.
        return directory.join("raft").join("CURRENT").is_file();
    };
    let mut slot = [0; SLOT_BYTES];
    let is_whole = file.read_exact_at(&mut slot, offset(GROUP)).is_ok();
    let copies = [0, COPY_BYTES].map(|at| decode(GROUP, &slot[at..at + RECORD_BYTES]));
    is_whole && copies.iter().flatten().any(|ends| ends.last.is_some())
}

fn encode(group: GroupId, ends: &Ends) -> [u8; RECORD_BYTES] {
    let mut flags = 0;
    let mut numbers = [0u64; 7];
    if let Some(vote) = ends.vote {
        flags |= FLAG_VOTE | if vote.committed { FLAG_VOTE_COMMITTED } else { 0 };
        numbers[..2].copy_from_slice(&[vote.leader_id.term, vote.leader_id.node_id]);
    }
    if let Some(last) = ends.last {
        flags |= FLAG_LAST;
        numbers[2..5].copy_from_slice(&[last.leader_id.term, last.leader_id.node_id, last.index]);
    }
    numbers[5..].copy_from_slice(&[ends.node, ends.boot]);
    let mut record = [0; RECORD_BYTES];
    record[..2].copy_from_slice(&[VERSION, flags]);
    for (place, number) in record[4..CHECKED_BYTES].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let crc = checksum(group, &record[..CHECKED_BYTES]);
    record[CHECKED_BYTES..].copy_from_slice(&crc.to_be_bytes());
    record
}

fn decode(group: GroupId, record: &[u8]) -> Option<Ends> {
    if record[0] != VERSION || checksum(group, &record[..CHECKED_BYTES]).to_be_bytes() != record[CHECKED_BYTES..] {
        return None;
    }
    let number = |n: usize| u64::from_be_bytes(record[4 + 8 * n..12 + 8 * n].try_into().expect("eight bytes"));
    let flag = |flag: u8| record[1] & flag != 0;
    let leader = |n: usize| CommittedLeaderId { term: number(n), node_id: number(n + 1) };
    Some(Ends {
        vote: flag(FLAG_VOTE).then(|| Vote { leader_id: leader(0), committed: flag(FLAG_VOTE_COMMITTED) }),
        last: flag(FLAG_LAST).then(|| LogId::new(leader(2), number(4))),
        node: number(5),
        boot: number(6),
    })
}

fn checksum(group: GroupId, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&group.to_be_bytes()), record)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn ends(vote: Option<(u64, bool)>, last: Option<(u64, u64)>, boot: u64) -> Ends {
        let leader_id = |term| CommittedLeaderId { term, node_id: 7 };
        Ends {
            vote: vote.map(|(term, committed)| Vote { leader_id: leader_id(term), committed }),
            last: last.map(|(term, index)| LogId::new(leader_id(term), index)),
            node: 5,
            boot,
        }
    }

    fn file(directory: &tempfile::TempDir) -> Synced {
        Synced::open(&directory.path().join("SYNCED"), &directory.path().join("raft")).unwrap()
    }

    #[test]
    fn record_bytes_are_frozen() {
        let full = ends(Some((3, true)), Some((2, 9)), 4);
        let record = encode(0, &full);
        let expected = "01070000 0000000000000003 0000000000000007 0000000000000002 0000000000000007 0000000000000009 \
                        0000000000000005 0000000000000004";
        assert_eq!(hex(&record[..CHECKED_BYTES]), expected.replace(' ', ""));
        assert_eq!(decode(0, &record), Some(full));
        assert_eq!(decode(0, &encode(0, &Ends::default())), Some(Ends::default()));
        assert_eq!(decode(1, &record), None, "a slot belongs to one group");
    }

    #[test]
    fn less_than_synced_is_missing_and_more_is_not() {
        let synced = ends(Some((3, false)), Some((2, 9)), 4);
        let rows = [
            (ends(Some((3, false)), Some((2, 9)), 4), ""),
            (ends(Some((3, true)), Some((3, 4)), 5), ""),
            (ends(Some((2, true)), Some((2, 9)), 4), "the vote on disk is"),
            (ends(Some((3, false)), Some((2, 8)), 4), "the last log id on disk is"),
            (ends(None, Some((2, 9)), 4), "the vote on disk is none"),
            (ends(Some((3, false)), Some((2, 9)), 3), "the identity on disk is"),
            (Ends { node: 6, ..synced }, "directories of two nodes were mixed"),
            (Ends { node: 0, boot: 0, ..synced }, "the identity on disk is"),
        ];
        for (found, expected) in rows {
            let missing = synced.missing_in(&found);
            assert_eq!(missing.is_some(), !expected.is_empty(), "{missing:?}");
            assert!(missing.is_none_or(|text| text.contains(expected)), "{expected}");
        }
    }

    #[test]
    fn what_was_written_is_read_and_one_damaged_copy_takes_nothing_away() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(file(&directory).read().unwrap(), Promises::from([(0, Ends::default())]));
        let written = ends(Some((3, false)), Some((2, 9)), 4);
        for (group, slot) in [(0, 0), (7, 7 * SLOT_BYTES as u64)] {
            file(&directory).write(&[(group, written)]).unwrap();
            assert_eq!(file(&directory).read_group(group).unwrap(), Some(written));
            for at in [20, COPY_BYTES as u64 + 20] {
                file(&directory).write(&[(group, written)]).unwrap();
                file(&directory).file.write_all_at(&[9], slot + at).unwrap();
                assert_eq!(file(&directory).read().unwrap()[&group], written);
            }
            file(&directory).file.write_all_at(&[9], slot + 20).unwrap();
            let error = file(&directory).read().unwrap_err().to_string();
            assert!(error.contains("SYNCED") && error.contains("both copies"), "{error}");
            assert_eq!(error.contains("group 7"), group == 7, "{error}");
            file(&directory).write(&[(group, written)]).unwrap();
        }
    }

    #[test]
    fn each_group_has_its_slot_and_the_others_were_never_here() {
        let directory = tempfile::tempdir().unwrap();
        let of = |index| ends(Some((3, false)), Some((2, index)), 4);
        let written = [(1, of(1)), (2, of(2)), (3, of(3)), (9, of(9))];
        file(&directory).write(&written).unwrap();
        let expected = [(0, Ends::default())].into_iter().chain(written).collect::<Promises>();
        assert_eq!(file(&directory).read().unwrap(), expected);
        assert_eq!(file(&directory).read_group(2).unwrap(), Some(of(2)));
        for never in [4, 8, 10, GROUPS_MAX - 1] {
            assert_eq!(file(&directory).read_group(never).unwrap(), None, "{never}");
        }
    }

    #[test]
    fn it_is_not_made_anew_beside_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let raft = directory.path().join("raft");
        std::fs::create_dir(&raft).unwrap();
        std::fs::write(raft.join("CURRENT"), "MANIFEST-000001").unwrap();
        let error = Synced::open(&directory.path().join("SYNCED"), &raft).err().unwrap().to_string();
        assert!(error.contains("SYNCED: it is missing"), "{error}");
    }
}
