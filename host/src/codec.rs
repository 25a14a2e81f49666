//! The host's own encodings: log entry payloads (protobuf, `lockstep.entry.v1`) and the small
//! internal records of `meta` and `system` (bincode after a version byte). The only file that names
//! bincode. Never does IO.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{EntryData, Origin};

pub use lockstep_proto::entry::{self, Command, Genesis};

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
            genesis: None,
            commands: vec![command(9, "Example/Add", b"ab".to_vec())],
        };
        assert_eq!(
            hex(&encode_entry(&entry).0),
            "08e8071003190807060504030201\
             2a200a0d0907000000000000001002180912\
             0b4578616d706c652f4164641a026162"
        );
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
            let entry = entry::Entry { time_ms, hash_index, hash, genesis: None, commands };
            prop_assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            drop(decode_entry(&EntryData(bytes.clone().into())));
            drop(decode_record::<Identity>(&bytes));
        }
    }
}
