//! The host's own records in the `system` column: their types, keys and bytes, and their conversion
//! to openraft's types. They are written in the same batch as the guest's writes, and every
//! snapshot carries them. This module does no IO of its own: callers pass a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use openraft::vote::RaftLeaderId;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Genesis, decode_record, encode_record};
use crate::store::{Column, Read, StoreError};
use crate::types::{Addresses, CommittedLeaderId, LogId, Membership, NodeId, StoredMembership};

/// Keys of the `system` column. Frozen: they are used on disk and in snapshots.
pub(crate) mod key {
    /// The last applied log id. Absent before the first entry.
    pub(crate) const APPLIED: &[u8] = b"applied";
    /// Counters: commands and failures since the cluster began.
    pub(crate) const COUNTERS: &[u8] = b"counters";
    /// The genesis entry and its index.
    pub(crate) const GENESIS: &[u8] = b"genesis";
    /// The rolling hash. It is the only record that the hash itself does not cover.
    pub(crate) const HASH: &[u8] = b"hash";
    /// The last applied membership.
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
    /// Log time, in milliseconds since 1970.
    pub(crate) const TIME: &[u8] = b"time";
}

/// A log id in its form on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    pub(crate) term: u64,
    pub(crate) leader: NodeId,
    pub(crate) index: u64,
}

impl From<&LogId> for LogPosition {
    fn from(log_id: &LogId) -> Self {
        LogPosition { term: log_id.leader_id.term, leader: log_id.leader_id.node_id, index: log_id.index }
    }
}

impl From<LogPosition> for LogId {
    fn from(position: LogPosition) -> Self {
        LogId { leader_id: CommittedLeaderId::new(position.term, position.leader), index: position.index }
    }
}

/// A membership in its form on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    log_id: Option<LogPosition>,
    /// One voter set, or two during a membership change.
    configs: Vec<Vec<NodeId>>,
    nodes: Vec<(NodeId, Addresses)>,
}

impl From<&StoredMembership> for MembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        let membership = stored.membership();
        MembershipRecord {
            log_id: stored.log_id().as_ref().map(LogPosition::from),
            configs: membership.get_joint_config().iter().map(|voters| voters.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for StoredMembership {
    type Error = CodecError;

    fn try_from(record: MembershipRecord) -> Result<Self, CodecError> {
        let configs: Vec<BTreeSet<NodeId>> =
            record.configs.into_iter().map(|voters| voters.into_iter().collect()).collect();
        let nodes: BTreeMap<NodeId, Addresses> = record.nodes.into_iter().collect();
        let membership = Membership::new(configs, nodes).map_err(|error| CodecError::Damaged(error.to_string()))?;
        Ok(StoredMembership::new(record.log_id.map(LogId::from), membership))
    }
}

/// Counts since the cluster began, equal on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Commands that got an outcome other than "not run".
    pub(crate) commands: u64,
    /// How many of these commands failed or were refused by the guest.
    pub(crate) failed: u64,
}

/// The rolling hash in its form on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashRecord {
    pub(crate) index: u64,
    pub(crate) hash: u64,
}

#[derive(Serialize, Deserialize)]
struct GenesisRecord {
    index: u64,
    /// An encoded `lockstep.entry.v1.Genesis`.
    genesis: Vec<u8>,
}

/// All records of the `system` column, as the apply thread keeps them in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct System {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: Arc<StoredMembership>,
    pub(crate) time_ms: u64,
    pub(crate) hash: HashRecord,
    pub(crate) counters: Counters,
    /// The genesis, with the index of its entry.
    pub(crate) genesis: Option<Arc<(u64, Genesis)>>,
}

impl System {
    /// Reads all records. Records that do not exist yet get their initial values.
    pub(crate) fn read(from: &dyn Read) -> Result<System, StoreError> {
        let genesis = record::<GenesisRecord>(from, key::GENESIS)?.map(decode_genesis).transpose()?;
        Ok(System {
            applied: record::<LogPosition>(from, key::APPLIED)?.map(LogId::from),
            membership: record::<MembershipRecord>(from, key::MEMBERSHIP)?
                .map(|record| StoredMembership::try_from(record).map_err(damaged(key::MEMBERSHIP)))
                .transpose()?
                .unwrap_or_default()
                .into(),
            time_ms: record(from, key::TIME)?.unwrap_or_default(),
            hash: record(from, key::HASH)?.unwrap_or_default(),
            counters: record(from, key::COUNTERS)?.unwrap_or_default(),
            genesis: genesis.map(Arc::new),
        })
    }

    /// Reads only the index of the last applied entry and its log time.
    pub(crate) fn read_position(from: &dyn Read) -> Result<(u64, u64), StoreError> {
        let applied = record::<LogPosition>(from, key::APPLIED)?.map_or(0, |applied| applied.index);
        Ok((applied, record(from, key::TIME)?.unwrap_or_default()))
    }

    /// Returns the index of the last applied entry; 0 before the first.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |log_id| log_id.index)
    }

    /// Returns key and bytes of every record that differs from `before`. They are in key order,
    /// without the hash.
    pub(crate) fn changes_since(&self, before: &System) -> Vec<(&'static [u8], Vec<u8>)> {
        let mut writes: Vec<(&'static [u8], Vec<u8>)> = Vec::new();
        if let Some(applied) = self.applied.as_ref().filter(|_| self.applied != before.applied) {
            writes.push((key::APPLIED, encode_record(&LogPosition::from(applied))));
        }
        if self.counters != before.counters {
            writes.push((key::COUNTERS, encode_record(&self.counters)));
        }
        if let Some(genesis) = self.genesis.as_ref().filter(|_| self.genesis != before.genesis) {
            let record = GenesisRecord { index: genesis.0, genesis: genesis.1.encode_to_vec() };
            writes.push((key::GENESIS, encode_record(&record)));
        }
        if self.membership != before.membership {
            writes.push((key::MEMBERSHIP, encode_record(&MembershipRecord::from(self.membership.as_ref()))));
        }
        if self.time_ms != before.time_ms {
            writes.push((key::TIME, encode_record(&self.time_ms)));
        }
        writes
    }
}

fn decode_genesis(record: GenesisRecord) -> Result<(u64, Genesis), StoreError> {
    Genesis::decode(record.genesis.as_slice())
        .map(|genesis| (record.index, genesis))
        .map_err(|error| damaged(key::GENESIS)(CodecError::Damaged(error.to_string())))
}

fn damaged(key: &'static [u8]) -> impl FnOnce(CodecError) -> StoreError {
    move |error| StoreError::Damaged {
        path: PathBuf::from("state"),
        what: format!("record `{}`: {error}", String::from_utf8_lossy(key)),
    }
}

fn record<T: serde::de::DeserializeOwned>(from: &dyn Read, key: &'static [u8]) -> Result<Option<T>, StoreError> {
    from.get(Column::System, key)?.map(|bytes| decode_record(&bytes)).transpose().map_err(damaged(key))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn position(index: u64) -> LogPosition {
        LogPosition { term: 2, leader: 3, index }
    }

    fn membership() -> StoredMembership {
        let nodes =
            [(1, "a"), (2, "b")].map(|(id, name)| (id, Addresses { name: name.into(), ..Addresses::default() }));
        let voters = vec![BTreeSet::from([1])];
        StoredMembership::new(Some(position(5).into()), Membership::new(voters, BTreeMap::from(nodes)).unwrap())
    }

    #[test]
    fn record_bytes_are_frozen() {
        assert_eq!(hex(&encode_record(&position(4))), "01020000000000000003000000000000000400000000000000");
        assert_eq!(hex(&encode_record(&Counters { commands: 1, failed: 2 })), "0101000000000000000200000000000000");
        assert_eq!(hex(&encode_record(&HashRecord { index: 1, hash: 2 })), "0101000000000000000200000000000000");
        let word = |value: u8| format!("{value:02x}00000000000000");
        let node =
            |id: u8, name: &str| format!("{}{}{}{}{}", word(id), word(1), hex(name.as_bytes()), word(0), word(0));
        let wanted = [
            "0101".to_string(),
            word(2) + &word(3) + &word(5),
            word(1) + &word(1) + &word(1),
            word(2) + &node(1, "a") + &node(2, "b"),
        ];
        assert_eq!(hex(&encode_record(&MembershipRecord::from(&membership()))), wanted.concat());
    }

    #[test]
    fn membership_survives_the_disk_with_learners_and_addresses() {
        let record = decode_record::<MembershipRecord>(&encode_record(&MembershipRecord::from(&membership()))).unwrap();
        assert_eq!(StoredMembership::try_from(record).unwrap(), membership());
    }

    #[test]
    fn only_what_changed_is_written() {
        let before = System::default();
        let mut after = before.clone();
        assert!(after.changes_since(&before).is_empty());
        after.applied = Some(position(1).into());
        after.time_ms = 5;
        let keys: Vec<_> = after.changes_since(&before).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [key::APPLIED, key::TIME]);
    }
}
