//! A client of another node's admin service. It fetches that node's state as the frames of a
//! backup. It stores nothing and checks nothing.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use lockstep_proto::v1::BackupRequest;
use lockstep_proto::v1::admin_client::AdminClient;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// Longest time for one attempt to connect to the other node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a source before it is given up. The source makes a checkpoint before its
/// first frame.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Most bytes of one message: a frame and its envelope.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A fetched state that is now on this node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The grpc_addr of the node that sent the state.
    pub from: String,
    /// The last log index that the state holds.
    pub index: u64,
    /// Rows of the guest and of the host together.
    pub rows: u64,
}

/// Fetches a backup of the node at `grpc_addr` as frames. The backup holds everything that was
/// acknowledged before the call.
pub async fn fetch_backup(grpc_addr: &str) -> Result<impl Stream<Item = Result<Bytes, String>> + Send, String> {
    let text = |error: tonic::transport::Error| format!("cannot connect: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{grpc_addr}")).map_err(text)?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.map_err(text)?;
    let mut client = AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let silent = || format!("it said nothing for {SILENCE_MAX:?}");
    let answer = timeout(SILENCE_MAX, client.backup(BackupRequest { local: false })).await.map_err(|_| silent())?;
    let frames = answer.map_err(|status| words(&status))?.into_inner();
    Ok(stream::try_unfold(frames, move |mut frames| async move {
        let frame = timeout(SILENCE_MAX, frames.message()).await.map_err(|_| silent())?;
        let frame = frame.map_err(|status| words(&status))?;
        Ok(frame.map(|answer| (answer.frame, frames)))
    }))
}

/// Returns the reason of a refusal. A server without this service answers with a bare code and no
/// message. Most often that is the peer port of a node.
fn words(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, "") => {
            "what answers there knows no backups: it is a peer port (--raft_addr) perhaps; give the client port of that node (--grpc_addr)".to_owned()
        }
        (code, "") => format!("it refused without a word: {}", code.description()),
        (_, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_always_has_words() {
        assert_eq!(words(&Status::unavailable("no leader")), "no leader");
        assert!(words(&Status::new(Code::Unimplemented, "")).contains("peer port (--raft_addr)"));
        assert!(words(&Status::new(Code::Internal, "")).contains("Internal error"));
    }
}
