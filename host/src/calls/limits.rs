//! The limits of one call: the size of its messages, and its deadline. Whoever reads or writes a
//! message enforces the size; this file only says the numbers.

use std::time::Duration;

use lockstep_contract::Kind;
use tokio::time::Instant;

/// Most bytes of one request or reply message, decompressed. Stock clients have the same limit.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the declared fields of a watch's request. The node keeps them as long as the watch
/// is open.
pub const WATCH_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Deadline of a unary call whose client gave none. The request of any call must arrive within it,
/// if its client gave none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Longest deadline. A deadline further away is shortened to this.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Returns the deadline of a call that begins `now`, whose client waits for `timeout`. `None` only
/// for a watch without one.
pub fn deadline(kind: Kind, timeout: Option<Duration>, now: Instant) -> Option<Instant> {
    match (timeout, kind) {
        (Some(timeout), _) => Some(now + timeout.min(DEADLINE_MAX)),
        (None, Kind::Watch) => None,
        (None, Kind::Command | Kind::Query) => Some(now + DEADLINE_DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_watch_may_have_no_deadline() {
        let now = Instant::now();
        for kind in [Kind::Command, Kind::Query] {
            assert_eq!(deadline(kind, None, now), Some(now + DEADLINE_DEFAULT));
        }
        assert_eq!(deadline(Kind::Watch, None, now), None);
        assert_eq!(deadline(Kind::Watch, Some(Duration::from_secs(1)), now), Some(now + Duration::from_secs(1)));
        assert_eq!(deadline(Kind::Query, Some(Duration::MAX), now), Some(now + DEADLINE_MAX));
    }
}
