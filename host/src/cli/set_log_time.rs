//! What `set_log_time` has beyond other RPCs on the command line: `lockstep admin <addr>
//! set_log_time` moves a cluster's log time ahead, as a last resort. The leader does it, and says
//! what it ends.

use std::time::UNIX_EPOCH;

use lockstep_proto::v1::{SetLogTimeRequest, SetLogTimeResponse};
use prost_reflect::{DynamicMessage, Value};
use tonic::{Code, Status};

use super::report::Failure;
use super::rpcs::{Answered, Argument, Extra};
use crate::types::date;

/// The addition to the RPC.
pub(crate) const EXTRA: Extra = Extra {
    rpc: "lockstep.v1.Admin.SetLogTime",
    about: "set_log_time moves log time ahead, for clocks that cannot bring it where it belongs; it says what that ends until you are sure.",
    arguments: &[
        Argument { field: "time_ms", name: "time", is_optional: false, read: Some(read_time) },
        Argument { field: "sure", name: "sure", is_optional: true, read: Some(read_sure) },
    ],
    answer: Some(answer),
    hint: Some(hint),
    ..Extra::NONE
};

fn read_time(word: &str) -> Result<Value, Failure> {
    milliseconds(word).map(Value::U64).ok_or_else(|| {
        let failure = Failure::usage(format!("set_log_time: {word:?} is no time"));
        failure.hint("write it in UTC, as `date -u +%FT%TZ` does: 2026-11-29T08:30:00Z; or as milliseconds since 1970")
    })
}

fn read_sure(word: &str) -> Result<Value, Failure> {
    match word {
        "sure" => Ok(Value::Bool(true)),
        _ => Err(Failure::usage(format!("set_log_time: {word:?} is not \"sure\""))
            .hint("it is used as: set_log_time <time> [sure]")),
    }
}

/// Reads a time as a date in UTC, or as milliseconds since 1970.
pub(super) fn milliseconds(time: &str) -> Option<u64> {
    if let Ok(ms) = time.parse() {
        return Some(ms);
    }
    let since = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

fn answer(answered: &Answered<'_>) -> anyhow::Result<String> {
    let SetLogTimeRequest { time_ms, .. } = answered.request.transcode_to()?;
    let SetLogTimeResponse { index, before_ms } = answered.reply.transcode_to()?;
    Ok(format!("log time was {} and is {} as of index {index}", date(before_ms), date(time_ms)))
}

/// Returns the words to type for the same time, if the leader asks whether the operator is sure.
fn hint(request: &DynamicMessage, status: &Status) -> Option<String> {
    let SetLogTimeRequest { time_ms, sure } = request.transcode_to().ok()?;
    let asks = status.code() == Code::FailedPrecondition && status.message().ends_with("say that you are sure");
    (asks && !sure).then(|| format!("set_log_time {} sure", date(time_ms)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::admin;
    use crate::cli::rpcs::find;

    fn of(words: &[&str]) -> Result<SetLogTimeRequest, String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let request = find(&admin::rpcs(), "set_log_time").unwrap().request(&words);
        request.map(|message| message.transcode_to().unwrap()).map_err(|failure| format!("{failure:?}"))
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
        for words in [&["tomorrow"][..], &["-5"], &["1969-01-01T00:00:00Z"]] {
            assert!(of(words).unwrap_err().contains("2026-11-29T08:30:00Z"), "{words:?}");
        }
        for words in [&["5", "yes"][..], &["5", "true"], &[], &["5", "sure", "6"]] {
            assert!(of(words).unwrap_err().contains("it is used as: set_log_time <time> [sure]"), "{words:?}");
        }
    }

    #[test]
    fn the_hint_comes_only_when_the_leader_asks() {
        let asked = Status::failed_precondition("it ends leases: say that you are sure");
        let rpcs = admin::rpcs();
        let request = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            find(&rpcs, "set_log_time").unwrap().request(&words).unwrap()
        };
        let expected = Some("set_log_time 2026-09-21T14:13:20Z sure");
        assert_eq!(hint(&request(&["1790000000000"]), &asked).as_deref(), expected);
        assert_eq!(hint(&request(&["1790000000000", "sure"]), &asked), None);
        assert_eq!(hint(&request(&["1790000000000"]), &Status::failed_precondition("other")), None);
    }
}
