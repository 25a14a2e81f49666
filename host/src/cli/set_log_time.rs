//! `lockstep admin <addr> set_log_time`: moves a cluster's log time ahead, as a last resort. The
//! leader does it, and says what it ends.

use std::time::{Duration, UNIX_EPOCH};

use lockstep_proto::v1::SetLogTimeRequest;
use lockstep_proto::v1::admin_client::AdminClient;
use tonic::{Code, Request};

use super::client::Client;
use super::report::{Failure, print_line};
use crate::types::date;

/// Usage, as the list of RPCs shows it.
pub(crate) const USAGE: &str = "set_log_time <time> [sure]";

/// Returns the request that these words describe.
pub(crate) fn request(words: &[String]) -> Result<SetLogTimeRequest, Failure> {
    let usage = |what: String| Failure::usage(format!("set_log_time: {what}")).hint(format!("it is used as: {USAGE}"));
    match words {
        [time] => Ok(SetLogTimeRequest { time_ms: milliseconds(time).ok_or_else(|| unreadable(time))?, sure: false }),
        [time, word] if word == "sure" => {
            Ok(SetLogTimeRequest { time_ms: milliseconds(time).ok_or_else(|| unreadable(time))?, sure: true })
        }
        [_, word] => Err(usage(format!("{word:?} is not \"sure\""))),
        _ => Err(usage(format!("it was given {} arguments", words.len()))),
    }
}

fn unreadable(time: &str) -> Failure {
    let failure = Failure::usage(format!("set_log_time: {time:?} is no time"));
    failure.hint("write it in UTC, as `date -u +%FT%TZ` does: 2026-11-29T08:30:00Z; or as milliseconds since 1970")
}

fn milliseconds(time: &str) -> Option<u64> {
    if let Ok(ms) = time.parse() {
        return Some(ms);
    }
    let since = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// Sends the request to the leader behind `server`.
pub(crate) async fn run(server: Client, request: SetLogTimeRequest, limit: Option<Duration>) -> anyhow::Result<()> {
    let mut message = Request::new(request);
    if let Some(limit) = limit {
        message.set_timeout(limit);
    }
    let SetLogTimeRequest { time_ms, sure } = request;
    match AdminClient::new(server).set_log_time(message).await {
        Ok(done) => {
            let done = done.into_inner();
            let (before, after) = (date(done.before_ms), date(time_ms));
            print_line(format!("log time was {before} and is {after} as of index {}", done.index))
        }
        Err(status) => {
            let failure = Failure::from_status(&status);
            let asks = status.code() == Code::FailedPrecondition && status.message().ends_with("say that you are sure");
            Err(if asks && !sure { failure.hint(format!("set_log_time {} sure", date(time_ms))) } else { failure }
                .into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<SetLogTimeRequest, String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        request(&words).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_time_is_a_date_or_milliseconds() {
        let wanted = |sure| Ok(SetLogTimeRequest { time_ms: 1_790_000_000_000, sure });
        assert_eq!(of(&["1790000000000"]), wanted(false));
        assert_eq!(of(&["2026-09-21T14:13:20Z", "sure"]), wanted(true));
        assert_eq!(of(&["2026-09-21 14:13:20", "sure"]), wanted(true));
    }

    #[test]
    fn what_is_no_time_is_refused_with_one_that_is() {
        for words in [&["tomorrow"][..], &["-5"], &["1969-01-01T00:00:00Z"], &["5", "yes"], &[], &["5", "sure", "6"]] {
            assert!(of(words).unwrap_err().contains("set_log_time"), "{words:?}");
        }
    }
}
