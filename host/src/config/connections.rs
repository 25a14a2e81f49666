//! Settings of connections to the ports of a node: how many one address may have, and how long one
//! without a call stays.

use std::time::Duration;

use super::{ConfigError, DURATION_MAX};

/// Default time without an open call after which a client's connection is closed.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Fewest connections that one address may be limited to. A node has up to eight to each other one.
const PER_ADDRESS_MIN: usize = 16;

/// Shortest time that may be set. Below that, a client that calls now and then would do nothing but
/// connect.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// What connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Connections of one address to one port: `None` for a share of the port's places, 0 for all
    /// of them.
    pub per_address: Option<usize>,
    /// Time without an open call after which a client's connection is closed; zero for never.
    pub client_idle_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections { per_address: None, client_idle_timeout: CLIENT_IDLE_TIMEOUT }
    }
}

impl Connections {
    /// Returns how many of a port's `places` one address may take, if that is `share` of them by
    /// default.
    pub fn of_one_address(&self, places: usize, share: usize) -> usize {
        match self.per_address {
            Some(0) => places,
            Some(count) => count.min(places),
            None => share.max(PER_ADDRESS_MIN).min(places),
        }
    }

    /// Returns the time of [`Connections::client_idle_timeout`], unless that is never.
    pub fn idle_timeout(&self) -> Option<Duration> {
        Some(self.client_idle_timeout).filter(|timeout| !timeout.is_zero())
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(count) = self.per_address.filter(|count| (1..PER_ADDRESS_MIN).contains(count)) {
            return Err(ConfigError::new(
                "--connections_per_address",
                format!("{count} are fewer than the {PER_ADDRESS_MIN} that a node may need for another one"),
                format!("give {PER_ADDRESS_MIN} or more, or 0 for no such limit"),
            ));
        }
        let timeout = self.client_idle_timeout;
        if timeout.is_zero() || (IDLE_TIMEOUT_MIN..=DURATION_MAX).contains(&timeout) {
            return Ok(());
        }
        let [shown, min, max] = [timeout, IDLE_TIMEOUT_MIN, DURATION_MAX].map(humantime::format_duration);
        Err(ConfigError::new(
            "--client_idle_timeout",
            format!("{shown} is out of range"),
            format!("give a duration from {min} to {max}, such as 10m or 1h, or 0s for never"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_share_unless_told_otherwise() {
        let of = |per_address, places, share| {
            Connections { per_address, ..Connections::default() }.of_one_address(places, share)
        };
        let rows = [
            (None, 4_096, 1_024, 1_024),
            (None, 64, 16, 16),
            (None, 40, 10, 16),
            (None, 8, 2, 8),
            (Some(0), 4_096, 1_024, 4_096),
            (Some(100), 4_096, 1_024, 100),
            (Some(5_000), 4_096, 1_024, 4_096),
        ];
        for (per_address, places, share, expected) in rows {
            assert_eq!(of(per_address, places, share), expected, "{per_address:?} of {places}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let refused = |per_address: Option<usize>, seconds: u64| {
            let client_idle_timeout = Duration::from_secs(seconds);
            Connections { per_address, client_idle_timeout }.validate().err().map(|error| error.flag)
        };
        let rows = [
            (None, 3_600, None),
            (Some(0), 0, None),
            (Some(16), 60, None),
            (Some(15), 60, Some("--connections_per_address")),
            (None, 59, Some("--client_idle_timeout")),
            (None, 365 * 24 * 3_600, Some("--client_idle_timeout")),
        ];
        for (per_address, seconds, flag) in rows {
            assert_eq!(refused(per_address, seconds), flag, "{per_address:?}, {seconds} s");
        }
    }
}
