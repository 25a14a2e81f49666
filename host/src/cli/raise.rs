//! `lockstep admin <addr> raise` raises the semantics of the cluster. The leader decides and does
//! all; this file only asks, and says how it ended.

use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::upgrade_event::Step;
use lockstep_proto::v1::{RaiseRequest, UpgradeEvent};

use super::report::Failure;
use super::upgrade::{Asked, MESSAGE_BYTES_MAX, REHEARSE_DEFAULT, REHEARSE_MAX, failed, tell};
use super::{leader, profile};

/// Name of the command.
pub(crate) const NAME: &str = "raise";

/// How it is used.
pub(crate) const USAGE: &str = "raise [to=<semantics>] [dry_run] [rehearse=<count>] [allow_failing]";

/// A sentence for the help.
pub(crate) const ABOUT: &str = "raise raises the semantics of the cluster to the newest of the leader's build, or to a number, when every member's \
    build runs it; it is never lowered. Exit code 3: not known whether it was raised.";

/// What is not known if the answer breaks off.
const WHETHER: &str = "the semantics were raised";

/// Has the leader raise the number, and prints its steps.
pub(crate) async fn run(asked: Asked<'_>, words: &[String]) -> anyhow::Result<()> {
    let Asked { addr, credentials, timeout, json } = asked;
    let request = read(words)?;
    let whether = (!request.dry_run).then_some(WHETHER);
    let (is_dry_run, is_rehearsed) = (request.dry_run, request.rehearse > 0);
    let manager = leader::find(addr, credentials, timeout).await?;
    let server = manager.server();
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let events = match client.raise(request).await {
        Ok(events) => events.into_inner(),
        Err(status) => return Err(failed(server, status, whether).await),
    };
    let next = |event: Option<&UpgradeEvent>| match event?.step() {
        Step::Checked => Some("every member says what its build runs, and compiles the component"),
        Step::Prepared if is_rehearsed => Some("every member rehearses it"),
        _ => None,
    };
    profile::end(is_dry_run, json, tell(server, events, json, whether, next).await?)
}

/// Reads the words after `raise`.
fn read(words: &[String]) -> Result<RaiseRequest, Failure> {
    let mut request = RaiseRequest { rehearse: REHEARSE_DEFAULT, ..RaiseRequest::default() };
    for word in words {
        let number = |value: &str, max: u32| value.parse::<u32>().ok().filter(|number| *number <= max);
        match (word.as_str(), word.split_once('=')) {
            ("dry_run", _) => request.dry_run = true,
            ("allow_failing", _) => request.allow_failing = true,
            (_, Some(("to", value))) => {
                let to = number(value, u32::MAX).filter(|to| *to > 0);
                request.to =
                    to.ok_or_else(|| Failure::usage(format!("raise: {word:?}: semantics are a number from 1 up")))?;
            }
            (_, Some(("rehearse", value))) => {
                request.rehearse = number(value, REHEARSE_MAX)
                    .ok_or_else(|| Failure::usage(format!("raise: {word:?}: the count is 0 to {REHEARSE_MAX}")))?;
            }
            _ => {
                let failure = Failure::usage(format!("raise: {word:?} is unknown here"));
                return Err(failure.hint(format!("it is used as: {USAGE}")));
            }
        }
    }
    Ok(request)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn without_words_it_goes_as_far_as_the_leader_does() {
        let request = read(&[]).unwrap();
        assert_eq!((request.to, request.dry_run, request.rehearse), (0, false, REHEARSE_DEFAULT));
        let request = read(&words(&["to=5", "dry_run", "rehearse=0", "allow_failing"])).unwrap();
        assert_eq!(request, RaiseRequest { to: 5, dry_run: true, rehearse: 0, allow_failing: true });
        for wrong in ["to=", "to=0", "to=-1", "to=five", "5", "--dry_run=1", "rehearse=-1", "rehearse=70000"] {
            assert!(read(&words(&[wrong])).is_err(), "{wrong}");
        }
    }
}
