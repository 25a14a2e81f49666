//! The host's own records in the `system` column: their types, keys and bytes, and their conversion
//! to openraft's types. They are written in the same batch as the guest's writes, and every
//! snapshot carries them. This module does no IO of its own: callers pass a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::log_position::LogPosition;
use super::operation::Operation;
use super::profile::Profile;
use super::read_only::ReadOnly;
use super::tried::Tried;
use crate::codec::{CodecError, Genesis, decode_record, encode_record};
use crate::store::{Column, Read, StoreError};
use crate::types::{Addresses, LogId, Membership, NodeId, StoredMembership};

/// Keys of the `system` column. Frozen: they are used on disk and in snapshots.
pub(crate) mod key {
    /// The last applied log id. Absent before the first entry.
    pub(crate) const APPLIED: &[u8] = b"applied";
    /// The last change that was tried. Absent before the first.
    pub(crate) const CHANGE: &[u8] = b"change";
    /// Counters: commands and failures since the cluster began.
    pub(crate) const COUNTERS: &[u8] = b"counters";
    /// The genesis entry and its index.
    pub(crate) const GENESIS: &[u8] = b"genesis";
    /// The rolling hash. It is the only record that the hash itself does not cover.
    pub(crate) const HASH: &[u8] = b"hash";
    /// The last applied membership.
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
    /// Retention and quotas. Absent before they were set for the first time.
    pub(crate) const OPERATION: &[u8] = b"operation";
    /// The profile in force since a change. Absent while that of the genesis entry is in force.
    pub(crate) const PROFILE: &[u8] = b"profile";
    /// The read-only mode. Absent before it was set for the first time.
    pub(crate) const READ_ONLY: &[u8] = b"read_only";
    /// Log time, in milliseconds since 1970.
    pub(crate) const TIME: &[u8] = b"time";
    /// All keys. A record under another key is of a newer build.
    pub(crate) const ALL: [&[u8]; 10] =
        [APPLIED, CHANGE, COUNTERS, GENESIS, HASH, MEMBERSHIP, OPERATION, PROFILE, READ_ONLY, TIME];
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
    /// The profile in force since a change.
    pub(crate) profile: Option<Arc<Profile>>,
    /// The last change that was tried.
    pub(crate) change: Option<Tried>,
    /// The read-only mode, since it was set for the first time.
    pub(crate) read_only: Option<Arc<ReadOnly>>,
    /// Retention and quotas, since they were set for the first time.
    pub(crate) operation: Option<Arc<Operation>>,
}

impl System {
    /// Reads all records. Records that do not exist yet get their initial values. A record that
    /// this build does not know is an error: whoever passes over it computes another state.
    pub(crate) fn read(from: &dyn Read) -> Result<System, StoreError> {
        refuse_unknown(from)?;
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
            profile: bytes_of(from, key::PROFILE, Profile::decode)?.map(Arc::new),
            change: bytes_of(from, key::CHANGE, Tried::decode)?,
            read_only: bytes_of(from, key::READ_ONLY, ReadOnly::decode)?.map(Arc::new),
            operation: bytes_of(from, key::OPERATION, Operation::decode)?.map(Arc::new),
        })
    }

    /// Returns the profile in force, and the index of the entry that put it in force: the genesis
    /// entry, or the last change that was made.
    pub(crate) fn in_force(&self) -> Option<(u64, &Genesis)> {
        let changed = self.profile.as_ref().map(|profile| (profile.index, &profile.genesis));
        changed.or_else(|| self.genesis.as_ref().map(|genesis| (genesis.0, &genesis.1)))
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
        if let Some(change) = self.change.as_ref().filter(|_| self.change != before.change) {
            writes.push((key::CHANGE, change.encode()));
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
        if let Some(operation) = self.operation.as_ref().filter(|_| self.operation != before.operation) {
            writes.push((key::OPERATION, operation.encode()));
        }
        if let Some(profile) = self.profile.as_ref().filter(|_| self.profile != before.profile) {
            writes.push((key::PROFILE, profile.encode()));
        }
        if let Some(mode) = self.read_only.as_ref().filter(|_| self.read_only != before.read_only) {
            writes.push((key::READ_ONLY, mode.encode()));
        }
        if self.time_ms != before.time_ms {
            writes.push((key::TIME, encode_record(&self.time_ms)));
        }
        writes
    }
}

fn refuse_unknown(from: &dyn Read) -> Result<(), StoreError> {
    let mut unknown = None;
    from.scan(Column::System, &[], None, false, &mut |key, _| match key::ALL.contains(&key) {
        true => ControlFlow::Continue(()),
        false => {
            unknown = Some(String::from_utf8_lossy(key).into_owned());
            ControlFlow::Break(())
        }
    })?;
    match unknown {
        Some(key) => Err(StoreError::Newer { what: format!("the state has a record `{}`", key.escape_debug()) }),
        None => Ok(()),
    }
}

/// Returns the id of the cluster in the bytes of the record under [`key::GENESIS`].
pub(crate) fn cluster_of_genesis(bytes: &[u8]) -> Result<[u8; 16], CodecError> {
    let record: GenesisRecord = decode_record(bytes)?;
    let damaged = |what: String| CodecError::Damaged(what);
    let genesis = Genesis::decode(record.genesis.as_slice()).map_err(|error| damaged(error.to_string()))?;
    let id = genesis.cluster_id.as_ref().try_into();
    id.map_err(|_| damaged("the id of the cluster has another length".into()))
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
    bytes_of(from, key, decode_record)
}

fn bytes_of<T>(
    from: &dyn Read,
    key: &'static [u8],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) -> Result<Option<T>, StoreError> {
    from.get(Column::System, key)?.map(|bytes| decode(&bytes)).transpose().map_err(damaged(key))
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
        let keys =
            |after: &System| -> Vec<_> { after.changes_since(&before).into_iter().map(|(key, _)| key).collect() };
        assert_eq!(keys(&after), [key::APPLIED, key::TIME]);
        let (index, genesis) = (1, Genesis::default());
        after.genesis = Some(Arc::new((index, genesis.clone())));
        after.counters.commands = 1;
        after.membership = Arc::new(membership());
        after.change =
            Some(Tried { index, from: [0; 32], to: [0; 32], verdict: super::super::ChangeVerdict::TooLarge, rows: 0 });
        after.profile = Some(Arc::new(Profile {
            index,
            genesis: genesis.clone(),
            before: (index, genesis),
            probation_until_ms: 0,
            checkpoint: position(0),
        }));
        let (methods, by) = (Vec::new(), String::new());
        after.read_only = Some(Arc::new(ReadOnly { index, time_ms: 5, on: true, methods, by }));
        after.operation = Some(Arc::new(Operation { index, ..Operation::default() }));
        let all = keys(&after);
        assert_eq!(all.len(), 9);
        assert!(all.is_sorted(), "the hash takes them in key order");
        let known: Vec<_> = key::ALL.into_iter().filter(|key| *key != key::HASH).collect();
        assert_eq!(all, known, "whoever reads them refuses any other");
    }
}
