//! The record of what the cluster runs: the profile in force since a change. This module owns its
//! bytes on disk. It decides no change.

use std::ops::Range;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::Machine;
use super::log_position::LogPosition;
use crate::codec::{Change, CodecError, Genesis, decode_record, encode_record};

/// A profile that a change put in force, or the rollback of one. A rollback records the change that
/// it took back: its profile as the one before, and its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Index of the entry of the change, or of its rollback.
    pub(crate) index: u64,
    /// The profile, as a genesis entry has it.
    pub(crate) genesis: Genesis,
    /// The profile before it, with the index of the entry that had put that one in force.
    pub(crate) before: (u64, Genesis),
    /// Log time until which the change may be taken back; 0 when it may not.
    pub(crate) probation_until_ms: u64,
    /// The entry before the change. A checkpoint stands there while the change is on probation.
    pub(crate) checkpoint: LogPosition,
}

impl Profile {
    /// Returns the same profile in another cluster, where nothing can be taken back: it has neither
    /// the log nor the checkpoint.
    pub(crate) fn in_cluster(&self, cluster_id: [u8; 16]) -> Profile {
        let cluster_id = bytes::Bytes::copy_from_slice(&cluster_id);
        let renamed = |genesis: &Genesis| Genesis { cluster_id: cluster_id.clone(), ..genesis.clone() };
        Profile {
            genesis: renamed(&self.genesis),
            before: (self.before.0, renamed(&self.before.1)),
            probation_until_ms: 0,
            ..*self
        }
    }

    /// Returns whether the change may be taken back at this log time.
    pub(crate) fn is_on_probation(&self, time_ms: u64) -> bool {
        time_ms < self.probation_until_ms
    }

    /// Returns the profile that a rollback of this one puts in force at entry `index`.
    pub(crate) fn taken_back(&self, index: u64) -> Profile {
        Profile {
            index,
            genesis: self.before.1.clone(),
            before: (self.index, self.genesis.clone()),
            probation_until_ms: 0,
            checkpoint: self.checkpoint,
        }
    }

    /// Returns the indexes at which the state was that of a history which a rollback took back;
    /// none if a change put this profile in force.
    pub(crate) fn abandoned(&self) -> Range<u64> {
        // The entry before a change stands at or behind the one that put the profile before it in
        // force. The change that a rollback took back stands behind its own checkpoint.
        let is_of_a_rollback = self.before.0 > self.checkpoint.index;
        if is_of_a_rollback { self.before.0..self.index } else { 0..0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode_record(&ProfileRecord {
            index: self.index,
            genesis: self.genesis.encode_to_vec(),
            before_index: self.before.0,
            before: self.before.1.encode_to_vec(),
            probation_until_ms: self.probation_until_ms,
            checkpoint: self.checkpoint,
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Profile, CodecError> {
        let record: ProfileRecord = decode_record(bytes)?;
        let genesis =
            |bytes: Vec<u8>| Genesis::decode(bytes.as_slice()).map_err(|error| CodecError::Damaged(error.to_string()));
        Ok(Profile {
            index: record.index,
            genesis: genesis(record.genesis)?,
            before: (record.before_index, genesis(record.before)?),
            probation_until_ms: record.probation_until_ms,
            checkpoint: record.checkpoint,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct ProfileRecord {
    index: u64,
    /// Encoded `lockstep.entry.v1.Genesis`.
    genesis: Vec<u8>,
    before_index: u64,
    /// Encoded `lockstep.entry.v1.Genesis`.
    before: Vec<u8>,
    probation_until_ms: u64,
    checkpoint: LogPosition,
}

/// A change that may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// Index of the entry of the change.
    pub change_index: u64,
    /// Log time from which it cannot be taken back any more, in milliseconds since 1970.
    pub until_ms: u64,
    /// Index of the checkpoint before it.
    pub checkpoint_index: u64,
    /// Whether this node has that checkpoint.
    pub has_checkpoint: bool,
    /// BLAKE3 hash of the component before it.
    pub before: [u8; 32],
}

/// Returns the profile that a change names, as a genesis entry has it.
pub fn profile_of(change: &Change, cluster_id: &[u8]) -> Genesis {
    Genesis {
        cluster_id: bytes::Bytes::copy_from_slice(cluster_id),
        component_hash: change.component_hash.clone(),
        source_hash: change.source_hash.clone(),
        semantics: change.semantics,
        limits_json: change.limits_json.clone(),
    }
}

/// Makes a change to `profile`, to be made while the profile of entry `expected_index` is in force.
pub fn change_to(profile: &Genesis, expected_index: u64, probation_ms: u64) -> Change {
    Change {
        expected_index,
        component_hash: profile.component_hash.clone(),
        source_hash: profile.source_hash.clone(),
        semantics: profile.semantics,
        limits_json: profile.limits_json.clone(),
        probation_ms,
    }
}

impl Machine {
    /// Returns the profile in force, as a genesis entry has it, and the index of the entry that put
    /// it in force: the genesis entry, or the last change that was made.
    pub fn profile(&self) -> Option<(u64, Genesis)> {
        self.shared.profile()
    }

    /// Returns the profile that was in force before the last change that was made.
    pub fn profile_before(&self) -> Option<Genesis> {
        self.shared.changed_profile().map(|profile| profile.before.1.clone())
    }

    /// Returns the change that may be taken back now, if there is one.
    pub fn probation(&self) -> Option<Probation> {
        self.shared.probation()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn profile() -> Profile {
        Profile {
            index: 9,
            genesis: Genesis { semantics: 4, ..Genesis::default() },
            before: (1, Genesis { semantics: 3, ..Genesis::default() }),
            probation_until_ms: 7,
            checkpoint: LogPosition { term: 2, leader: 3, index: 8 },
        }
    }

    #[test]
    fn record_bytes_are_frozen() {
        let word = |value: u8| format!("{value:02x}00000000000000");
        let wanted = [
            "01".to_string() + &word(9),
            word(2) + "2004",
            word(1) + &word(2) + "2003",
            word(7),
            word(2) + &word(3) + &word(8),
        ];
        assert_eq!(hex(&profile().encode()), wanted.concat());
    }

    #[test]
    fn record_survives_the_disk() {
        assert_eq!(Profile::decode(&profile().encode()).unwrap(), profile());
    }

    #[test]
    fn a_change_and_its_profile_name_the_same() {
        let genesis = Genesis {
            cluster_id: vec![7; 16].into(),
            component_hash: vec![1; 32].into(),
            source_hash: vec![2; 32].into(),
            semantics: 4,
            limits_json: "{}".into(),
        };
        let change = change_to(&genesis, 3, 5);
        assert_eq!((change.expected_index, change.probation_ms), (3, 5));
        assert_eq!(profile_of(&change, &[7; 16]), genesis);
    }
}
