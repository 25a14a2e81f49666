//! `SERVED`, a file beside the logs: how far readers of this node may have seen each group's state.
//! After a crash the state is at its last flush. With this record a node knows how far it must
//! apply again before it answers anyone, without asking a leader.
//!
//! - It is rewritten in place before each entry becomes visible, and never fsynced. It is exact
//!   after a crash of the process, and as good as lost after a crash of the machine. So it holds
//!   the machine's boot id, and only a record of this boot counts as exact.
//! - It never goes back: an entry that is applied again after a crash changes nothing. Otherwise a
//!   second crash, before all were applied again, would hide what the first run had served.
//! - While a node does not know what an earlier run had served, it writes a boot id of zeros.
//!   Otherwise a second crash could make a lower record look exact.
//!
//! Each group has one slot of [`SLOT_BYTES`]: version u8, three zero bytes, boot id (16 bytes),
//! term u64, node u64, index u64, crc32c u32 over the group and all before; big-endian.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::StoreError;
use super::super::files::open_in_place;
use crate::types::{CommittedLeaderId, GroupId, LogId};

const SLOT_BYTES: u64 = 64;
const RECORD_BYTES: usize = 48;
const CRC_AT: usize = RECORD_BYTES - 4;
const VERSION: u8 = 1;
/// Stands in place of a boot id: the record is not exact.
const UNKNOWN: [u8; 16] = [0; 16];

/// How far readers may have seen the state before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing beyond this index.
    Through(u64),
    /// Unknown, because the machine crashed or the record is gone. Nothing beyond this index, where
    /// the log ended at the start.
    Perhaps(u64),
}

/// The file with the records of all groups.
pub(super) struct ServedFile {
    file: File,
    path: PathBuf,
}

impl ServedFile {
    pub(super) fn open(path: &Path) -> Result<ServedFile, StoreError> {
        Ok(ServedFile { file: open_in_place(path)?, path: path.to_owned() })
    }
}

/// The record of one group. The head of this file describes it.
pub(super) struct Served {
    at: Arc<ServedFile>,
    group: GroupId,
    /// This machine's boot id; `UNKNOWN` if it has none.
    boot: [u8; 16],
    before: Seen,
    beyond: Option<LogId>,
    state: Mutex<State>,
}

struct State {
    log_id: Option<LogId>,
    exact: bool,
}

impl Served {
    /// Opens the record beside a log that ends at `last`.
    pub(super) fn open(at: Arc<ServedFile>, group: GroupId, last: Option<LogId>) -> Result<Served, StoreError> {
        Served::open_in_boot(at, group, last, boot_id())
    }

    fn open_in_boot(
        at: Arc<ServedFile>,
        group: GroupId,
        last: Option<LogId>,
        boot: [u8; 16],
    ) -> Result<Served, StoreError> {
        let found = read(&at.file, group).map_err(StoreError::io("read", &at.path))?;
        // A record beyond the log belongs to another log, or to a log that has lost its end.
        let beyond = found.filter(|(log_id, of_boot)| last < Some(*log_id) && *of_boot == boot && boot != UNKNOWN);
        let found = found.filter(|(log_id, _)| last >= Some(*log_id));
        let exact = match &found {
            Some((_, of_boot)) => *of_boot == boot && boot != UNKNOWN,
            None => last.is_none(),
        };
        let log_id = found.map(|(log_id, _)| log_id);
        let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
        let before = if exact { Seen::Through(index(log_id)) } else { Seen::Perhaps(index(last)) };
        let state = Mutex::new(State { log_id, exact });
        let beyond = beyond.map(|(log_id, _)| log_id);
        Ok(Served { at, group, boot, before, beyond, state })
    }

    /// Returns what readers may have seen before this start.
    pub(super) fn before(&self) -> Seen {
        self.before
    }

    /// Returns an entry that readers have seen although the log does not reach it.
    ///
    /// If no snapshot reaches it either, the log was lost.
    pub(super) fn beyond(&self) -> Option<LogId> {
        self.beyond
    }

    /// Returns the last entry that is known to have been applied here, and so to be committed.
    pub(super) fn log_id(&self) -> Option<LogId> {
        self.state.lock().log_id
    }

    /// Records that entry `log_id`, which is on disk, becomes visible next.
    pub(super) fn write(&self, log_id: LogId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.log_id >= Some(log_id) {
            return Ok(());
        }
        state.log_id = Some(log_id);
        self.put(&state)
    }

    /// Makes the record exact from now on: the state has reached all that earlier runs can have
    /// served.
    pub(super) fn recovered(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.exact = true;
        self.put(&state)
    }

    fn put(&self, state: &State) -> Result<(), StoreError> {
        let Some(log_id) = state.log_id else { return Ok(()) };
        let boot = if state.exact { self.boot } else { UNKNOWN };
        let offset = u64::from(self.group) * SLOT_BYTES;
        let ServedFile { file, path } = &*self.at;
        file.write_all_at(&encode(self.group, boot, log_id), offset).map_err(StoreError::io("write", path))
    }
}

/// Reads a record; `None` when there is none, or a crash of the machine tore it.
fn read(file: &File, group: GroupId) -> std::io::Result<Option<(LogId, [u8; 16])>> {
    let mut record = [0; RECORD_BYTES];
    match file.read_exact_at(&mut record, u64::from(group) * SLOT_BYTES) {
        Ok(()) => Ok(decode(group, &record)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the boot id. It changes whenever the kernel starts, which is when unsynced pages may
/// have been lost.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) if digits.len() == 32 => number.to_be_bytes(),
        _ => UNKNOWN,
    }
}

fn encode(group: GroupId, boot: [u8; 16], log_id: LogId) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0] = VERSION;
    record[4..20].copy_from_slice(&boot);
    let numbers = [log_id.leader_id.term, log_id.leader_id.node_id, log_id.index];
    for (place, number) in record[20..CRC_AT].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let crc = checksum(group, &record[..CRC_AT]);
    record[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
    record
}

fn decode(group: GroupId, record: &[u8; RECORD_BYTES]) -> Option<(LogId, [u8; 16])> {
    if record[0] != VERSION || checksum(group, &record[..CRC_AT]).to_be_bytes() != record[CRC_AT..] {
        return None;
    }
    let number = |n: usize| u64::from_be_bytes(record[20 + 8 * n..28 + 8 * n].try_into().expect("eight bytes"));
    let boot = record[4..20].try_into().expect("sixteen bytes");
    Some((LogId::new(CommittedLeaderId { term: number(0), node_id: number(1) }, number(2)), boot))
}

fn checksum(group: GroupId, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&group.to_be_bytes()), record)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;
    use tempfile::TempDir;

    const BOOT: [u8; 16] = [7; 16];

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term: 2, node_id: 9 }, index)
    }

    fn file(root: &TempDir) -> Arc<ServedFile> {
        Arc::new(ServedFile::open(&root.path().join("SERVED")).unwrap())
    }

    fn open(root: &TempDir, last: u64, boot: u8) -> Served {
        Served::open_in_boot(file(root), 0, Some(log_id(last)), [boot; 16]).unwrap()
    }

    #[test]
    fn record_bytes_are_frozen() {
        let record = encode(0, BOOT, log_id(5));
        let expected = ["01000000", &"07".repeat(16), "0000000000000002", "0000000000000009", "0000000000000005"];
        assert_eq!(hex(&record[..CRC_AT]), expected.concat());
        assert_eq!(decode(0, &record), Some((log_id(5), BOOT)));
        assert_eq!(decode(1, &record), None, "a slot belongs to one group");
    }

    #[test]
    fn a_crash_of_the_process_leaves_it_exact() {
        let root = tempfile::tempdir().unwrap();
        let new = Served::open_in_boot(file(&root), 0, None, BOOT).unwrap();
        assert_eq!(new.before(), Seen::Through(0), "an empty log has served nothing");
        new.write(log_id(4)).unwrap();
        let next = open(&root, 6, 7);
        assert_eq!((next.before(), next.log_id()), (Seen::Through(4), Some(log_id(4))));
    }

    #[test]
    fn a_crash_of_the_machine_leaves_a_lower_bound_until_the_node_has_recovered() {
        let root = tempfile::tempdir().unwrap();
        let new = Served::open_in_boot(file(&root), 0, None, BOOT).unwrap();
        new.write(log_id(4)).unwrap();
        let after = open(&root, 6, 8);
        assert_eq!((after.before(), after.log_id()), (Seen::Perhaps(6), Some(log_id(4))));
        after.write(log_id(5)).unwrap();
        assert_eq!(open(&root, 6, 8).before(), Seen::Perhaps(6), "5 is not all that the first run can have served");
        after.recovered().unwrap();
        assert_eq!(open(&root, 6, 8).before(), Seen::Through(5));
    }

    /// Regression test: each entry that was applied again lowered the record. A second kill then
    /// let readers see an older state than before the first one.
    #[test]
    fn entries_that_are_applied_again_do_not_lower_it() {
        let root = tempfile::tempdir().unwrap();
        let new = Served::open_in_boot(file(&root), 0, None, BOOT).unwrap();
        new.write(log_id(4)).unwrap();
        let again = open(&root, 6, 7);
        again.write(log_id(2)).unwrap();
        assert_eq!(again.log_id(), Some(log_id(4)));
        assert_eq!(open(&root, 6, 7).before(), Seen::Through(4));
        again.write(log_id(5)).unwrap();
        assert_eq!(open(&root, 6, 7).before(), Seen::Through(5));
    }

    #[test]
    fn a_record_that_is_gone_torn_or_beyond_the_log_says_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(open(&root, 6, 7).before(), Seen::Perhaps(6));
        open(&root, 6, 7).write(log_id(6)).unwrap();
        assert_eq!(open(&root, 5, 7).before(), Seen::Perhaps(5));
        let served = open(&root, 6, 7);
        served.recovered().unwrap();
        assert_eq!(open(&root, 6, 7).before(), Seen::Through(6));
        served.at.file.write_all_at(&[1], 30).unwrap();
        let torn = open(&root, 6, 7);
        assert_eq!((torn.before(), torn.log_id()), (Seen::Perhaps(6), None));
    }

    #[test]
    fn without_a_boot_id_nothing_is_exact() {
        let root = tempfile::tempdir().unwrap();
        let served = open(&root, 6, 0);
        served.write(log_id(6)).unwrap();
        served.recovered().unwrap();
        assert_eq!(open(&root, 6, 0).before(), Seen::Perhaps(6));
        assert_ne!(boot_id(), UNKNOWN, "this system has one");
    }
}
