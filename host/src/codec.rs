//! The host's own encodings: log entry payloads (protobuf, `lockstep.entry.v1`) and the small
//! internal records of `meta` and `system` (bincode after a version byte). The only file that names
//! bincode. Never does IO.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{EntryData, Origin};

pub use lockstep_proto::entry::{self, Change, Command, Genesis, Rollback};

/// Number of the field `read_only` of an entry.
pub const READ_ONLY_FIELD: u32 = 9;

/// Number of the field `rows` of an entry.
pub const ROWS_FIELD: u32 = 10;

/// Number of the field `needs` of an entry.
pub const NEEDS_FIELD: u32 = 11;

/// Number of the field `operation` of an entry.
pub const OPERATION_FIELD: u32 = 12;

/// The level of entries that this build applies. Members tell each other. Up to [`OPERATION_FIELD`]
/// a level is the number of the newest field of an entry. Every later addition to any message of
/// `entry.proto` raises the level by one, and an entry that has the addition says so in `needs`.
pub const ENTRY_LEVEL: u32 = OPERATION_FIELD;

/// The lowest level of a node that is added to a cluster of this build. A node below
/// [`NEEDS_FIELD`] passes over what it does not know. A node from there on stops at such an entry
/// by itself.
pub const JOINER_LEVEL_MIN: u32 = NEEDS_FIELD;

/// A record on disk that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer version, or not a record.
    #[error("record version {found}, this version reads {RECORD_VERSION}")]
    Version {
        /// The first byte found.
        found: u8,
    },
    /// Cut short or damaged.
    #[error("damaged record: {0}")]
    Damaged(String),
}

/// An entry that this build does not know whole. A build that applied what it knows of it would get
/// another state than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {index} needs a build of Lockstep that applies entries of level {needs}, and this one applies level {ENTRY_LEVEL}; it is \
     passed over by no node: start this node with the build of the leader"
)]
pub struct NeedsNewerBuild {
    /// The index of the entry.
    pub index: u64,
    /// The level that it needs.
    pub needs: u32,
}

/// Checks that this build knows all that an entry needs.
pub fn check_needs(index: u64, entry: &entry::Entry) -> Result<(), NeedsNewerBuild> {
    match entry.needs > ENTRY_LEVEL {
        true => Err(NeedsNewerBuild { index, needs: entry.needs }),
        false => Ok(()),
    }
}

/// First byte of each internal record. Raised when the encoding of any record changes.
pub const RECORD_VERSION: u8 = 1;

/// Most bytes of an internal record. A damaged length must not make the host allocate more than
/// this.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Encodes an internal record. Integers have a fixed width, so that golden bytes are readable.
pub fn encode_record<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    bincode::serde::encode_into_std_write(record, &mut bytes, bincode::config::legacy())
        .expect("records hold only what bincode can encode, and a Vec does not fail");
    bytes
}

/// Decodes an internal record. Trailing bytes are damage.
pub fn decode_record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&version, body) = bytes.split_first().ok_or_else(|| CodecError::Damaged("empty".into()))?;
    if version != RECORD_VERSION {
        return Err(CodecError::Version { found: version });
    }
    let (record, read) =
        bincode::serde::decode_from_slice(body, bincode::config::legacy().with_limit::<RECORD_BYTES_MAX>())
            .map_err(|error| CodecError::Damaged(error.to_string()))?;
    if read != body.len() {
        return Err(CodecError::Damaged(format!("{} bytes follow the record", body.len() - read)));
    }
    Ok(record)
}

/// Encodes a log entry payload.
pub fn encode_entry(entry: &entry::Entry) -> EntryData {
    EntryData(Bytes::from(entry.encode_to_vec()))
}

/// Decodes a log entry payload. The requests share the payload's bytes.
///
/// Fails equally on every replica, because all have the same bytes and the same code.
pub fn decode_entry(data: &EntryData) -> Result<entry::Entry, CodecError> {
    entry::Entry::decode(data.0.clone()).map_err(|error| CodecError::Damaged(error.to_string()))
}

impl From<Origin> for entry::Origin {
    fn from(origin: Origin) -> Self {
        entry::Origin { node: origin.node, boot: origin.boot, counter: origin.counter }
    }
}

impl From<&entry::Origin> for Origin {
    fn from(origin: &entry::Origin) -> Self {
        Origin { node: origin.node, boot: origin.boot, counter: origin.counter }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Cluster, Identity, hex};
    use proptest::prelude::*;

    fn command(counter: u64, method: &str, request: Vec<u8>) -> Command {
        Command {
            origin: Some(Origin { node: 7, boot: 2, counter }.into()),
            method: method.into(),
            request: request.into(),
            caller: String::new(),
        }
    }

    #[test]
    fn entry_bytes_are_frozen() {
        let entry = entry::Entry {
            time_ms: 1000,
            hash_index: 3,
            hash: 0x0102_0304_0506_0708,
            commands: vec![command(9, "Example/Add", b"ab".to_vec())],
            ..entry::Entry::default()
        };
        assert_eq!(
            hex(&encode_entry(&entry).0),
            "08e8071003190807060504030201\
             2a200a0d0907000000000000001002180912\
             0b4578616d706c652f4164641a026162"
        );
    }

    #[test]
    fn an_entry_that_a_later_build_made_is_known_by_its_level() {
        let entry = |needs| entry::Entry { needs, ..entry::Entry::default() };
        assert_eq!(hex(&encode_entry(&entry(13)).0), "580d");
        assert!(check_needs(7, &entry(0)).is_ok() && check_needs(7, &entry(ENTRY_LEVEL)).is_ok());
        let refused = check_needs(7, &entry(ENTRY_LEVEL + 1)).unwrap_err().to_string();
        assert!(refused.starts_with("entry 7 needs a build of Lockstep that applies entries of level"), "{refused}");
        assert!(refused.ends_with("start this node with the build of the leader"), "{refused}");
    }

    /// Whoever adds a field raises the level, has entries with the field say so in `needs`, and
    /// writes the new pair here.
    #[test]
    fn an_addition_to_the_entries_raises_their_level() {
        let proto = include_str!("../../proto/lockstep/entry.proto");
        let is_field = |line: &&str| line.starts_with("  ") && line.contains(" = ") && line.ends_with(';');
        let fields = proto.lines().filter(is_field).filter(|line| !line.trim_start().starts_with("//")).count();
        assert_eq!((fields, ENTRY_LEVEL), (45, 12));
    }

    #[test]
    fn operation_bytes_are_frozen() {
        let settings = vec![entry::Setting { key: "a_max".into(), value: "7".into() }];
        let operation = entry::Operation { expected_index: 5, settings, by: "ann".into() };
        let entry = entry::Entry { operation: Some(operation), ..entry::Entry::default() };
        assert_eq!(hex(&encode_entry(&entry).0), format!("62130805120a0a05{}1201371a03{}", hex(b"a_max"), hex(b"ann")));
    }

    #[test]
    fn record_bytes_are_frozen() {
        let identity = Identity {
            node_id: 1,
            name: "nodeA".into(),
            cluster: Some(Cluster { id: [2; 16], incarnation: 3, component_hash: [4; 32] }),
            boot: 5,
        };
        let bytes = encode_record(&identity);
        assert_eq!(
            hex(&bytes),
            format!(
                "01{}{}{}01{}{}{}{}",
                "0100000000000000",
                "0500000000000000",
                hex(b"nodeA"),
                "02".repeat(16),
                "03000000",
                "04".repeat(32),
                "0500000000000000"
            )
        );
        assert_eq!(decode_record::<Identity>(&bytes).unwrap(), identity);
    }

    #[test]
    fn foreign_records_are_refused_by_name() {
        assert!(matches!(decode_record::<u64>(&[9, 0]), Err(CodecError::Version { found: 9 })));
        assert!(matches!(decode_record::<u64>(&[]), Err(CodecError::Damaged(_))));
        let mut long = encode_record(&5u64);
        long.push(0);
        assert!(matches!(decode_record::<u64>(&long), Err(CodecError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn entries_survive_the_log(
            time_ms: u64, hash_index: u64, hash: u64,
            requests in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8),
        ) {
            let commands = requests.into_iter().enumerate()
                .map(|(n, request)| command(n as u64, "a.b.C/D", request)).collect();
            let entry = entry::Entry { time_ms, hash_index, hash, commands, ..entry::Entry::default() };
            prop_assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            drop(decode_entry(&EntryData(bytes.clone().into())));
            drop(decode_record::<Identity>(&bytes));
        }
    }
}
