//! How a peer is dialled: the settings of every channel to a peer port, and the limits that all
//! peers keep. It keeps no channel and knows no node.

use std::time::Duration;

use lockstep_proto::peer::peer_client::PeerClient;
use tonic::transport::{Channel, Endpoint};

/// Largest message between peers, in both directions. One log entry must fit: the proposer packs at
/// most 1 MiB into one, or a single command of 2 MiB; a genesis entry is small. The log reader cuts
/// appends at 1 MiB, or one entry.
pub const PEER_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Time between keepalive pings, also while nothing is being sent. A dead TCP connection is noticed
/// after this time and [`KEEPALIVE_TIMEOUT`].
pub(in crate::raft) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a keepalive ping.
pub(in crate::raft) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to reach a peer, over all of its addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

pub(in crate::raft) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(in crate::raft) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address of the form host:port: {source}")]
pub struct AddressError {
    address: String,
    source: tonic::transport::Error,
}

/// Returns the endpoint for an address given as text. Dials nothing yet.
pub fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| AddressError { address: address.to_owned(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// Creates a client with the limits that all peers keep.
pub fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}
