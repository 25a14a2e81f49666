//! Asks the kernel whether the leader's process is gone: whether anything listens at its peer port,
//! and which process. Never takes silence for death: a host that does not answer may only be slow
//! or cut off.

use std::io::ErrorKind;
use std::time::Duration;

use futures::future::join_all;
use lockstep_proto::peer::{Copy, IdentifyRequest, IdentifyResponse};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::dial::{Dialer, Expect, small_client};
use crate::faults;
use crate::types::NodeId;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Every address refuses, or another process than the one that led answers there.
    Gone,
    /// The process answers.
    There,
    /// Neither is certain.
    Unclear,
}

/// The process that a probe looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The node.
    pub node: NodeId,
    /// The boot number of the node's process that streamed to us; `None` if none has since we
    /// started.
    pub boot: Option<u64>,
}

/// Which node answers at an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Every address refuses.
    Nobody,
    /// This node answers.
    Somebody(Box<IdentifyResponse>),
    /// Neither is certain.
    Unclear,
}

/// Looks for the suspect at `address` within `limit`.
pub async fn probe(dialer: &Dialer, address: &str, suspect: Suspect, limit: Duration) -> Found {
    match who(dialer, address, None, limit).await {
        Answer::Nobody => Found::Gone,
        Answer::Somebody(answer) => judge(suspect, &answer),
        Answer::Unclear => Found::Unclear,
    }
}

/// Asks which node is at `address`, within `limit`. Reports `copy` to it, if there is one.
pub async fn who(dialer: &Dialer, address: &str, copy: Option<Copy>, limit: Duration) -> Answer {
    let asked = async {
        match listeners(address).await {
            Listeners::None => Answer::Nobody,
            Listeners::Some => identity(dialer, address, copy)
                .await
                .map_or(Answer::Unclear, |answer| Answer::Somebody(Box::new(answer))),
            Listeners::Unclear => Answer::Unclear,
        }
    };
    timeout(limit, asked).await.unwrap_or(Answer::Unclear)
}

/// Returns whether nothing listens at `address`. False when that is not certain within `limit`.
pub async fn refuses(address: &str, limit: Duration) -> bool {
    matches!(timeout(limit, listeners(address)).await, Ok(Listeners::None))
}

enum Listeners {
    /// Every address refused.
    None,
    /// A connection was made, and is closed again.
    Some,
    Unclear,
}

async fn listeners(address: &str) -> Listeners {
    if faults::io("probe-refused").is_err() {
        return Listeners::None;
    }
    let Ok(addresses) = lookup_host(address).await else { return Listeners::Unclear };
    let attempts = join_all(addresses.map(TcpStream::connect)).await;
    if attempts.iter().any(Result::is_ok) {
        return Listeners::Some;
    }
    let refused = |attempt: &std::io::Result<TcpStream>| {
        attempt.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    match !attempts.is_empty() && attempts.iter().all(refused) {
        true => Listeners::None,
        false => Listeners::Unclear,
    }
}

async fn identity(dialer: &Dialer, address: &str, copy: Option<Copy>) -> Option<IdentifyResponse> {
    let dialled = dialer.connect(address, Expect::AnyNode).await.ok()?;
    let request = IdentifyRequest { copy, ..IdentifyRequest::default() };
    let answer = small_client(dialled.channel.clone()).identify(request).await.ok()?.into_inner();
    dialer.check_answer(&dialled, &answer).ok()?;
    Some(answer)
}

/// Judges the process that answered. A process that leads is there: if it is a later one, it was
/// elected anew and we have yet to hear. A process that does not lead and is not the one that
/// streamed to us, or none streamed to us, has lost what it led before it started: a leader that
/// restarts is elected anew.
fn judge(suspect: Suspect, answer: &IdentifyResponse) -> Found {
    if answer.node_id != suspect.node {
        // The suspect may have moved, and we have not heard.
        return Found::Unclear;
    }
    match answer.leads || suspect.boot == Some(answer.boot) {
        true => Found::There,
        false => Found::Gone,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reserved::Reserved;

    const LIMIT: Duration = Duration::from_secs(10);

    fn suspect(boot: Option<u64>) -> Suspect {
        Suspect { node: 7, boot }
    }

    fn answer(node_id: u64, boot: u64, leads: bool) -> IdentifyResponse {
        IdentifyResponse { node_id, boot, leads, ..IdentifyResponse::default() }
    }

    #[test]
    fn another_boot_that_does_not_lead_is_another_process() {
        assert_eq!(judge(suspect(Some(3)), &answer(7, 3, false)), Found::There);
        assert_eq!(judge(suspect(Some(3)), &answer(7, 4, false)), Found::Gone);
        assert_eq!(judge(suspect(Some(3)), &answer(7, 4, true)), Found::There);
        assert_eq!(judge(suspect(Some(3)), &answer(8, 4, false)), Found::Unclear);
    }

    #[test]
    fn a_process_of_unknown_boot_is_there_while_it_leads() {
        assert_eq!(judge(suspect(None), &answer(7, 4, true)), Found::There);
        assert_eq!(judge(suspect(None), &answer(7, 4, false)), Found::Gone);
    }

    #[tokio::test]
    async fn a_port_that_refuses_is_gone_and_one_that_is_silent_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // The kernel accepts the connection, and nothing is sent.
        assert_eq!(
            probe(&Dialer::plain(), &address, suspect(Some(1)), Duration::from_millis(200)).await,
            Found::Unclear
        );
        let (_reserved, address) = Reserved::address();
        assert_eq!(probe(&Dialer::plain(), &address.to_string(), suspect(Some(1)), LIMIT).await, Found::Gone);
    }

    #[tokio::test]
    async fn a_name_without_an_address_proves_nothing() {
        assert_eq!(probe(&Dialer::plain(), "no-such-host.invalid:1", suspect(Some(1)), LIMIT).await, Found::Unclear);
        assert_eq!(probe(&Dialer::plain(), "no port", suspect(Some(1)), LIMIT).await, Found::Unclear);
    }
}
