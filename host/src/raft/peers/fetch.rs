//! Fetches the state of another member over its peer port, as the frames of a backup. It stores
//! nothing and checks no frame.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use lockstep_proto::peer::{FetchStateRequest, Route};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::dial::{Dialer, Expect, small_client};
use super::network::describe;
use crate::types::Addresses;

/// Longest silence of a source before it is given up. The source makes a checkpoint before its
/// first frame.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Fetches the state of `node` as frames. It holds everything that was acknowledged before the
/// call. `route` is the one to that node.
pub async fn fetch_state(
    dialer: &Dialer,
    node: &Addresses,
    route: Route,
) -> Result<impl Stream<Item = Result<Bytes, String>> + Send + use<>, String> {
    let channel = dialer.lazy(&node.raft_addr, Expect::of(node)).map_err(|error| error.to_string())?;
    let mut client = small_client(channel);
    let silent = || format!("it said nothing for {SILENCE_MAX:?}");
    let asked = client.fetch_state(FetchStateRequest { route: Some(route) });
    let answer = timeout(SILENCE_MAX, asked).await.map_err(|_| silent())?;
    let frames = answer.map_err(|status| words(&status))?.into_inner();
    Ok(stream::try_unfold(frames, move |mut frames| async move {
        let frame = timeout(SILENCE_MAX, frames.message()).await.map_err(|_| silent())?;
        let frame = frame.map_err(|status| words(&status))?;
        Ok(frame.map(|answer| (answer.frame, frames)))
    }))
}

/// Returns the reason of a refusal. An earlier build does not know the call, and answers with a
/// bare code.
fn words(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            "its build cannot hand its state to another node: start it with the build of this one".to_owned()
        }
        (Code::Unavailable, _) => format!("cannot connect, or the connection broke: {}", describe(status)),
        (code, "") => format!("it refused without a word: {}", code.description()),
        (_, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_always_has_words() {
        assert_eq!(words(&Status::failed_precondition("in quarantine")), "in quarantine");
        assert!(words(&Status::new(Code::Unimplemented, "")).contains("its build"));
        assert!(words(&Status::unavailable("no leader")).ends_with("no leader"));
        assert!(words(&Status::new(Code::Internal, "")).contains("Internal error"));
    }
}
