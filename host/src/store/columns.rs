//! Describes everything on disk in one place: every column family, key and value, who writes it,
//! and when it disappears. Pure encoding; never does IO.
//!
//! Integers in keys are big-endian and of fixed width, so that byte order is numeric order. Names
//! and tags are frozen.
//!
//! `raft/`: WAL on; each batch is fsynced before anything in it is acknowledged. One writer: the
//! log's writer thread.
//!
//! | family | key | value | written by | disappears |
//! |---|---|---|---|---|
//! | `log` | group u32, index u64 | [`encode_entry`] | append | truncate, purge (see below) |
//! | `meta` | group u32, tag 1 | record of `Vote` | save_vote | never |
//! | `meta` | group u32, tag 2 | record of `LogId`: committed hint | save_committed | never |
//! | `meta` | group u32, tag 3 | record of `LogId`: the last purged | purge | never |
//! | `meta` | group u32, tag 4 | record of `Identity` | start, bootstrap, join | never |
//!
//! - A truncation deletes keys one by one. A purge deletes one range, and writes its `meta` record
//!   with it.
//! - The committed hint is a log id known to be committed. It is written with the next batch.
//! - A record is `codec::encode_record`: a version byte, then the fields.
//!
//! `state/<group>/<generation>/`: WAL off; all families are flushed together. One writer: the apply
//! thread, or an install.
//!
//! | family | key | value | written by | disappears |
//! |---|---|---|---|---|
//! | `data` | the guest's bytes | the guest's bytes | the guest's store calls | see below |
//! | `system` | see `machine` | see below | the apply thread, in the entry's batch | see below |
//!
//! A row of `data` disappears when the guest removes it. Both families disappear with their
//! generation. `system` holds the applied log id, membership, log time, hash, genesis, counters,
//! the profile since a change, the last change that was tried, and the read-only mode; `machine`
//! defines its keys.
//!
//! `state/<group>/<number>.scratch/` has the same families. It is a writable copy of a checkpoint,
//! or a state made from one, on which something is tried out. It shares table files with the
//! checkpoint and is removed when its last reader is dropped, or at the next open.
//!
//! `snapshots/<group>/<index>-<term>/` is a RocksDB checkpoint with the families of `state/`. It is
//! removed when three newer ones exist and nobody reads it or holds it for a change. One that
//! cannot be read, or that stands in a history which was taken back, is renamed to
//! `<index>-<term>.tmp`, like an incomplete one, and is removed at the next open.
//!
//! Small files of one group. Those of group 0 stand in the data directory, those of another group
//! in `groups/<group>/`:
//!
//! - `REMOVED`: the index of the configuration in which the cluster removed this node. It exists
//!   only while the node is removed.
//! - `QUARANTINE` and `QUARANTINE.entry`: why this node must not serve: its state differs from its
//!   cluster's. `QUARANTINE.ended`: the former `QUARANTINE`, once the node has another state.
//! - `RESYNC.tmp`: a backup of another node while it is received. `RESYNC`: the whole one. The next
//!   start takes its state from it and removes it.
//!
//! Other small files:
//!
//! - `FORMAT`: a number. `LOCK`: locked with flock.
//! - `DISPUTED`: why this node serves nothing: another cluster takes it for a member of its own.
//! - `state/<group>/CURRENT`: the number of the generation in force, and the index of the snapshot
//!   that it was installed from, if any. It is replaced by rename.
//! - `SYNCED`: what the last fsync made durable, see `log/synced.rs`.
//! - `SERVED`: how far readers may have seen the state, see `log/served.rs`.
//! - `components/<blake3>.wasm`, and `components/<blake3>.<hash>.code` for its compiled code. The
//!   hash is of the versions and settings that compiled it. Saving code removes the component's
//!   code with another hash.
//! - `BALLAST` and `BALLAST.running`: room that is given up when the disk is full, see `space.rs`.
//!
//! When the tail of `raft/` was torn (`log/opening.rs`): `raft.repairing/` is the copy being
//! repaired. `raft.repaired/` is that copy once it is whole. `raft.damaged/` is the original; it
//! stays until the next start that needs no repair.

use std::ops::Range;

use bytes::Bytes;
use openraft::EntryPayload;

use crate::codec::{CodecError, decode_record, encode_record};
use crate::types::{CommittedLeaderId, Entry, EntryData, LogId};

/// Family of `raft/`: the log entries.
pub(super) const LOG: &str = "log";
/// Family of `raft/`: vote, committed hint, purged log id and identity.
pub(super) const META: &str = "meta";
/// Family of `state/` and of checkpoints: the guest's rows.
pub(super) const DATA: &str = "data";
/// Family of `state/` and of checkpoints: the host's rows.
pub(super) const SYSTEM: &str = "system";

/// The records in `meta`. Each has its own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Meta {
    /// The vote.
    Vote = 1,
    /// The committed hint.
    Committed = 2,
    /// The last purged log id.
    Purged = 3,
    /// This node's identity.
    Identity = 4,
}

/// Bytes of a key in `log`.
pub(super) const LOG_KEY_BYTES: usize = 12;

/// Encodes the key of a log entry.
pub(super) fn encode_log_key(group: u32, index: u64) -> [u8; LOG_KEY_BYTES] {
    let mut key = [0; LOG_KEY_BYTES];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Returns group and index of a key in `log`; `None` when it is not such a key.
pub(super) fn decode_log_key(key: &[u8]) -> Option<(u32, u64)> {
    let (group, index) = key.split_at_checked(4)?;
    Some((u32::from_be_bytes(group.try_into().ok()?), u64::from_be_bytes(index.try_into().ok()?)))
}

/// Returns the keys of the entries `[indexes.start, indexes.end)`.
pub(super) fn log_keys(group: u32, indexes: Range<u64>) -> Range<[u8; LOG_KEY_BYTES]> {
    encode_log_key(group, indexes.start)..encode_log_key(group, indexes.end)
}

/// Encodes the key of a record in `meta`.
pub(super) fn encode_meta_key(group: u32, meta: Meta) -> [u8; 5] {
    let mut key = [0; 5];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4] = meta as u8;
    key
}

const ENTRY_VERSION: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Bytes of an entry's head: version u8, kind u8, term u64, leader u64.
const HEAD_BYTES: usize = 18;
/// Bytes of the head and its checksum.
const ENTRY_OVERHEAD_BYTES: usize = HEAD_BYTES + 4;

/// Encodes the value of a log entry: version, kind, term, leader, crc32c, payload.
///
/// The checksum covers the key, the head and the payload, so that it also reveals a whole record in
/// the wrong place.
pub(super) fn encode_entry(group: u32, entry: &Entry) -> Vec<u8> {
    let (kind, membership);
    let payload: &[u8] = match &entry.payload {
        EntryPayload::Blank => {
            kind = KIND_BLANK;
            &[]
        }
        EntryPayload::Normal(EntryData(bytes)) => {
            kind = KIND_NORMAL;
            bytes
        }
        EntryPayload::Membership(voters_and_nodes) => {
            kind = KIND_MEMBERSHIP;
            membership = encode_record(voters_and_nodes);
            &membership
        }
    };
    let mut value = Vec::with_capacity(ENTRY_OVERHEAD_BYTES + payload.len());
    value.extend([ENTRY_VERSION, kind]);
    value.extend(entry.log_id.leader_id.term.to_be_bytes());
    value.extend(entry.log_id.leader_id.node_id.to_be_bytes());
    value.extend(checksum(&encode_log_key(group, entry.log_id.index), &value, payload).to_be_bytes());
    value.extend(payload);
    value
}

/// Decodes the entry that `value` holds under the key of `index`. Fails on any bit that changed
/// since [`encode_entry`].
pub(super) fn decode_entry(group: u32, index: u64, value: &[u8]) -> Result<Entry, CodecError> {
    let (log_id, kind, payload) = check_entry(group, index, value)?;
    let payload = match kind {
        KIND_BLANK if payload.is_empty() => EntryPayload::Blank,
        KIND_NORMAL => EntryPayload::Normal(EntryData(Bytes::copy_from_slice(payload))),
        KIND_MEMBERSHIP => EntryPayload::Membership(decode_record(payload)?),
        _ => return Err(CodecError::Damaged("unknown kind".to_owned())),
    };
    Ok(Entry { log_id, payload })
}

/// Checks the entry that `value` holds under the key of `index`.
///
/// Returns its log id, kind and payload. Fails on any bit that changed since [`encode_entry`].
/// Copies nothing, so it is fit to check a long log.
pub(super) fn check_entry(group: u32, index: u64, value: &[u8]) -> Result<(LogId, u8, &[u8]), CodecError> {
    let damaged = |what: &str| CodecError::Damaged(what.to_owned());
    let (head, rest) = value.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("shorter than a head"))?;
    let (crc, payload) = rest.split_at_checked(4).ok_or_else(|| damaged("shorter than a checksum"))?;
    if head[0] != ENTRY_VERSION {
        return Err(CodecError::Version { found: head[0] });
    }
    if checksum(&encode_log_key(group, index), head, payload).to_be_bytes() != crc {
        return Err(damaged("the checksum does not fit"));
    }
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of the head"));
    let leader_id = CommittedLeaderId { term: number(2), node_id: number(10) };
    Ok((LogId::new(leader_id, index), head[1], payload))
}

/// Bytes of an entry beside its payload: the struct in the tail, and key and head on disk.
pub(super) const ENTRY_BESIDE_PAYLOAD_BYTES: usize = 96;

/// Returns roughly the bytes that an entry takes in memory and on the wire. The byte limits count
/// these.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Membership(membership) => 128 * (1 + membership.nodes().count()),
    };
    payload + ENTRY_BESIDE_PAYLOAD_BYTES
}

fn checksum(key: &[u8], head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), head), payload)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Addresses, Membership, hex};

    fn entry(term: u64, leader: u64, index: u64, payload: &[u8]) -> Entry {
        Entry {
            log_id: LogId::new(CommittedLeaderId { term, node_id: leader }, index),
            payload: EntryPayload::Normal(EntryData(Bytes::copy_from_slice(payload))),
        }
    }

    #[test]
    fn key_bytes_are_frozen() {
        assert_eq!(hex(&encode_log_key(1, 0x0203)), "000000010000000000000203");
        assert_eq!(hex(&encode_meta_key(0, Meta::Vote)), "0000000001");
        assert_eq!(hex(&encode_meta_key(0, Meta::Committed)), "0000000002");
        assert_eq!(hex(&encode_meta_key(0, Meta::Purged)), "0000000003");
        assert_eq!(hex(&encode_meta_key(7, Meta::Identity)), "0000000704");
        assert_eq!([LOG, META, DATA, SYSTEM], ["log", "meta", "data", "system"]);
    }

    #[test]
    fn entry_bytes_are_frozen() {
        let value = encode_entry(0, &entry(5, 9, 42, b"abc"));
        assert_eq!(hex(&value[..HEAD_BYTES]), "010100000000000000050000000000000009");
        assert_eq!(value.len(), ENTRY_OVERHEAD_BYTES + 3);
        assert_eq!(hex(&value[HEAD_BYTES..]), "d839bbfb616263");
    }

    #[test]
    fn every_kind_survives() {
        let node = Addresses { name: "a".into(), raft_addr: "b:1".into(), grpc_addr: "c:2".into() };
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], BTreeSet::from([3]));
        let named = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, node)])).unwrap();
        for payload in [EntryPayload::Blank, EntryPayload::Membership(membership), EntryPayload::Membership(named)] {
            let entry = Entry { payload, ..entry(2, 1, 3, b"") };
            assert_eq!(decode_entry(0, 3, &encode_entry(0, &entry)).unwrap(), entry);
        }
    }

    #[test]
    fn a_record_in_the_wrong_place_is_damaged() {
        let value = encode_entry(0, &entry(5, 9, 42, b"abc"));
        assert!(decode_entry(0, 43, &value).is_err());
        assert!(decode_entry(1, 42, &value).is_err());
    }

    proptest! {
        #[test]
        fn log_keys_round_trip_and_sort_as_numbers(a: (u32, u64), b: (u32, u64)) {
            let (left, right) = (encode_log_key(a.0, a.1), encode_log_key(b.0, b.1));
            prop_assert_eq!(decode_log_key(&left), Some(a));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        }

        #[test]
        fn foreign_keys_are_not_log_keys(key in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(decode_log_key(&key).is_some(), key.len() == LOG_KEY_BYTES);
        }

        #[test]
        fn entries_round_trip(
            group: u32, term: u64, leader: u64, index: u64,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let entry = entry(term, leader, index, &payload);
            prop_assert_eq!(decode_entry(group, index, &encode_entry(group, &entry)).unwrap(), entry);
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut value = encode_entry(0, &entry(3, 4, 5, &payload));
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(decode_entry(0, 5, &value).is_err());
        }

        #[test]
        fn a_cut_record_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index) {
            let value = encode_entry(0, &entry(3, 4, 5, &payload));
            prop_assert!(decode_entry(0, 5, &value[..at.index(value.len())]).is_err());
        }
    }
}
