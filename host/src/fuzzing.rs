//! The fuzz targets: each takes bytes as a stranger might send them, gives them to one parser, and
//! panics where the parser breaks a promise. The targets are run by `fuzz/`, which looks for such
//! bytes with a nightly compiler, and by the tests, which give them every file of `fuzz/corpus/`.
//! Only those two builds have this module.
//!
//! Every parser promises that it never panics, that it allocates in proportion to its input, and
//! that whatever it reads means the same after it was encoded and read again. The rooms say in
//! their own `fuzzing.rs` what else they promise.

mod allocations;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod seeds;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use bytes::Bytes;

use crate::codec::{check_needs, decode_entry, encode_entry};
use crate::guest::{Anatomy, Component, hidden_stack, with_descriptor, with_version};
use crate::machine::limits_of;
use crate::types::EntryData;
use allocations::{Counting, assert_within};

/// Only a build for fuzzing and one for tests count their allocations.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gives bytes to a parser, and panics if it breaks a promise.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and corpora.
pub const TARGETS: [(&str, Target); 18] = [
    ("entry", entry),
    ("record", record),
    ("log", log),
    ("segment", segment),
    ("frame", frame),
    ("backup", backup),
    ("peer", peer),
    ("framing", framing),
    ("refusal", refusal),
    ("http2", http2),
    ("message", message),
    ("descriptor", descriptor),
    ("component", component),
    ("depth", depth),
    ("policy", policy),
    ("token", token),
    ("jwks", jwks),
    ("certificate", certificate),
];

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The decoder of records believes a length of up to 16 MiB before the bytes are there.
const RECORD_BYTES: usize = 20 * MIB;
/// A body of 1 MiB may arrive in a few dozen bytes, and holds up to 131,072 empty rows, which the
/// targets collect.
const ROWS_BYTES: usize = 64 * MIB;

/// The payload of a log entry: commands, and the genesis.
pub fn entry(bytes: &[u8]) {
    // An empty command has two bytes in the log and 112 in memory, and vectors grow by doubling.
    assert_within(64 * KIB, 256, bytes, || {
        let Ok(entry) = decode_entry(&EntryData(Bytes::copy_from_slice(bytes))) else { return };
        assert_eq!(decode_entry(&encode_entry(&entry)).ok().as_ref(), Some(&entry));
        if let Some(genesis) = &entry.genesis {
            drop(limits_of(genesis));
        }
        if let Some(operation) = &entry.operation {
            crate::machine::fuzzing::operation(operation);
        }
        drop(check_needs(5, &entry).map_err(|needs| needs.to_string()));
    });
}

/// The small records of the disk and of snapshots.
pub fn record(bytes: &[u8]) {
    assert_within(RECORD_BYTES, 256, bytes, || crate::machine::fuzzing::record(bytes));
}

/// The rows of the log, and the files of records that RocksDB would read.
pub fn log(bytes: &[u8]) {
    assert_within(RECORD_BYTES, 64, bytes, || crate::store::fuzzing::log(bytes));
}

/// Segment files of a log archive, and of incremental backups.
pub fn segment(bytes: &[u8]) {
    // An entry without a payload has one byte in the input, and two hundred in a file and in
    // memory.
    assert_within(RECORD_BYTES, 1024, bytes, || crate::store::fuzzing::segment(bytes));
}

/// Frames of a snapshot, and the rows that they carry.
pub fn frame(bytes: &[u8]) {
    assert_within(ROWS_BYTES, 64, bytes, || crate::machine::fuzzing::frame(bytes));
}

/// Backup files.
pub fn backup(bytes: &[u8]) {
    assert_within(ROWS_BYTES, 256, bytes, || crate::machine::fuzzing::backup(bytes));
}

/// The messages of peers, up to where openraft gets them.
pub fn peer(bytes: &[u8]) {
    // An empty voter set has two bytes in a message, and a tree's node in memory.
    assert_within(64 * KIB, 512, bytes, || crate::raft::fuzzing::peer(bytes));
}

/// The messages of peers as gRPC frames them, up to where they are decoded.
pub fn framing(bytes: &[u8]) {
    assert_within(MIB, 64, bytes, || crate::raft::peers::fuzzing::framing(bytes));
}

/// What the answers of peers say in their headers.
pub fn refusal(bytes: &[u8]) {
    assert_within(256 * KIB, 64, bytes, || crate::raft::fuzzing::refusal(bytes));
}

/// The bytes of a client's connection, up to where the HTTP library gets them.
pub fn http2(bytes: &[u8]) {
    assert_within(MIB, 64, bytes, || crate::net::fuzzing::connection(bytes));
}

/// The messages of clients, up to where a guest gets them.
pub fn message(bytes: &[u8]) {
    // A message of 4 MiB may arrive in a few kilobytes. Its buffer grows by doubling.
    assert_within(32 * MIB, 64, bytes, || crate::api::fuzzing::message(bytes));
}

/// The descriptor that a guest brings.
pub fn descriptor(bytes: &[u8]) {
    use lockstep_contract::{Contract, differences};
    // Descriptors have bounds of their own, in numbers of declarations.
    assert_within(64 * MIB, 4096, bytes, || {
        let Ok(contract) = Contract::new(Some(bytes), true) else { return };
        assert!(!contract.services().is_empty(), "a contract without services");
        for method in contract.methods() {
            assert_eq!(contract.method(&method.name).map(|found| &found.name), Some(&method.name));
            // Any bytes may be the request of a query.
            drop((method.consistency(bytes), method.nature()));
        }
        let again = Contract::new(Some(contract.encoded()), true);
        let again = again.expect("what a component carries is read by the next node, too");
        assert_eq!((again.services(), again.imported()), (contract.services(), contract.imported()));
        assert!(differences(&contract, &again).is_empty(), "a contract differs from itself");
    });
}

/// A section of a few bytes can say that it has up to a million imports. The validator makes room
/// for all of them before it reads the first one: 83 MB for 654,589.
const ANNOUNCED_BYTES: usize = 160 * MIB;

/// A component, up to where it would be compiled.
pub fn component(bytes: &[u8]) {
    assert_within(ANNOUNCED_BYTES, 4096, bytes, || {
        drop(hidden_stack(bytes));
        // Others send components alone. Modules are encoded in a process of their own.
        if bytes.get(4..8).is_none_or(|version| version == [1, 0, 0, 0]) {
            return;
        }
        if let Ok(checked) = Component::check(bytes)
            && let Some(descriptor) = checked.descriptor
        {
            drop(lockstep_contract::Contract::new(Some(&descriptor), checked.has_watcher));
        }
        drop(Anatomy::of(bytes));
        if let Ok(packed) = with_descriptor(bytes, b"a descriptor") {
            let anatomy = Anatomy::of(&packed).expect("a component stays one when it is packed");
            assert_eq!(anatomy.descriptor.as_deref(), Some(&b"a descriptor"[..]));
        }
        if let Ok(packed) = with_version(bytes, "1.0") {
            assert_eq!(Anatomy::of(&packed).expect("a component stays one when it is packed").version, "1.0");
        }
    });
}

/// A component whose depth of recursion is metered, up to where it would be compiled.
pub fn depth(bytes: &[u8]) {
    // A function of four bytes gets thirty more, and a few numbers in memory.
    assert_within(ANNOUNCED_BYTES, 4096, bytes, || crate::guest::fuzzing::depth(bytes));
}

/// Policies.
pub fn policy(bytes: &[u8]) {
    // The document is a tree before it is a policy.
    assert_within(MIB, 2048, bytes, || crate::trust::fuzzing::policy(bytes));
}

/// Tokens of clients, and the header that shows one.
pub fn token(bytes: &[u8]) {
    assert_within(MIB, 1024, bytes, || crate::trust::fuzzing::token(bytes));
}

/// Files with the keys of tokens.
pub fn jwks(bytes: &[u8]) {
    assert_within(MIB, 1024, bytes, || crate::trust::fuzzing::keys(bytes));
}

/// What a certificate says about its holder. rustls has verified it by then, and yet a stranger may
/// have written what it says.
pub fn certificate(bytes: &[u8]) {
    use crate::tls::Certificate;
    assert_within(MIB, 1024, bytes, || {
        let Some(certificate) = Certificate::read(bytes) else { return };
        for name in certificate.node_of("lockstep") {
            assert!(certificate.is_node("lockstep", name), "{name:?} is named and is not the node");
            assert!(certificate.is_node("", name), "{name:?} is a node of one cluster and of none");
        }
        for name in certificate.node_of("") {
            let cluster = certificate.cluster_of(name).unwrap_or_default();
            assert!(certificate.is_node(cluster, name), "{name:?} is not the node of its own cluster");
        }
        assert!(!certificate.is_of_node() || !certificate.node_of("").is_empty(), "a node without a name");
        assert!(certificate.fingerprint.len() == 64);
        drop((certificate.subject(""), certificate.subject("lockstep"), certificate.describe()));
    });
}
