//! No cluster is founded by a clock that cannot be right. Sets no clock.

use anyhow::bail;

use crate::types::{CLOCK_MAX_MS, CLOCK_MIN_MS, date};

/// Refuses to found a cluster by a clock that cannot be right.
///
/// Log time begins at this clock and never goes back, so leases and timers would stand still for
/// years.
pub(super) fn check_to_found(clock_ms: u64) -> anyhow::Result<()> {
    let wrong = match clock_ms {
        ..CLOCK_MIN_MS => format!("before {}, the date of this program", date(CLOCK_MIN_MS)),
        CLOCK_MIN_MS..=CLOCK_MAX_MS => return Ok(()),
        _ => format!("after {}, ten years past the date of this program ({})", date(CLOCK_MAX_MS), date(CLOCK_MIN_MS)),
    };
    bail!(
        "this machine's clock says {}, which is {wrong}: no cluster is founded by it, because its log time, which leases and timers go \
         by, would begin there and never goes back. Set the clock (`date -u` shows it), and start this node again",
        date(clock_ms)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_founded_by_a_clock_that_may_be_right() {
        for right in [CLOCK_MIN_MS, CLOCK_MIN_MS + 86_400_000, CLOCK_MAX_MS] {
            check_to_found(right).unwrap();
        }
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_refused_with_both_dates_and_what_to_do() {
        let before = check_to_found(0).unwrap_err().to_string();
        assert!(before.contains("says 1970-01-01T00:00:00Z, which is before 2026-04-14T00:00:00Z"), "{before}");
        let after = check_to_found(10_413_792_000_000).unwrap_err().to_string();
        assert!(after.contains("says 2300-01-01T00:00:00Z, which is after 2036-04-14T00:00:00Z"), "{after}");
        for text in [before, after] {
            assert!(text.contains("Set the clock"), "{text}");
        }
    }
}
