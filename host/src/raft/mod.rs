//! openraft and the peers: proposals, replication, votes, membership.

/// Generated messages and services of `proto/lockstep/peer.proto`.
#[allow(missing_docs, clippy::all)]
pub mod peer {
    tonic::include_proto!("lockstep.peer.v1");
}
