//! Derives openraft's configuration from the two timeouts that an operator sets, with the reason of
//! each setting. Owns no clock.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// Makes a restarted leader be elected anew. A leader fsyncs its log after its followers may
/// already hold the entries. If it resumed its old term after a crash, its new entries could get
/// log ids that followers hold with other contents.
const LEADER_RESTORE: Option<bool> = Some(false);

/// Most commands that may wait for the state machine. The core must never wait for it. Admission
/// keeps the real number far below (`proposer`).
const STATE_MACHINE_CHANNEL: u64 = 65_536;

/// Most entries in one append. The log reader cuts by bytes long before.
const APPEND_ENTRIES_MAX: u64 = 4_096;

/// The shortest `--heartbeat_timeout`. Below it, the scheduler would delay timers of a few
/// milliseconds too much.
pub const HEARTBEAT_TIMEOUT_MIN: Duration = Duration::from_millis(50);

/// Shortest time limit of a probe. It asks a process that may be busy.
const PROBE_MIN: Duration = Duration::from_millis(50);
/// Longest time limit of a probe. The caller waits for it.
const PROBE_MAX: Duration = Duration::from_millis(250);

/// The operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `--heartbeat_timeout`, H: silence of the leader before a follower stands.
    pub heartbeat: Duration,
    /// `--election_timeout`: how long a command waits for a leader. At least H.
    pub election: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { heartbeat: Duration::from_secs(1), election: Duration::from_secs(3) }
    }
}

/// Timeouts that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum TimeoutsError {
    /// Too short for timers.
    #[error("--heartbeat_timeout {0:?} is shorter than {HEARTBEAT_TIMEOUT_MIN:?}")]
    HeartbeatTooShort(Duration),
    /// A command would give up before a leader can be replaced.
    #[error("--election_timeout {election:?} is shorter than --heartbeat_timeout {heartbeat:?}")]
    ElectionBelowHeartbeat {
        /// The value as set.
        election: Duration,
        /// The value as set.
        heartbeat: Duration,
    },
    /// openraft refuses the settings below.
    #[error("openraft refuses the configuration: {0}")]
    Openraft(#[from] Box<ConfigError>),
}

impl Timeouts {
    /// Returns the time between two heartbeats of a leader.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat / 10
    }

    /// Returns the shortest random delay of a candidate. One hand-over may also take this long
    /// before another target is tried.
    pub fn election_min(&self) -> Duration {
        self.heartbeat * 4 / 10
    }

    /// Returns the longest random delay of a candidate, which is also the leader's lease. With
    /// both, a silent leader lasts about H.
    pub fn election_max(&self) -> Duration {
        self.heartbeat * 6 / 10
    }

    /// Returns how long the oldest request of an append stream may be unanswered. Then the stream
    /// is given up and opened anew.
    pub fn append_progress(&self) -> Duration {
        self.heartbeat * 2
    }

    /// Returns the time limit of one look at whether a leader's process is gone. A port that
    /// refuses does so at once; a slower answer proves nothing.
    pub fn probe(&self) -> Duration {
        self.heartbeat_interval().clamp(PROBE_MIN, PROBE_MAX)
    }

    /// Returns openraft's configuration. Errors when the two timeouts contradict each other.
    pub fn config(&self, cluster_name: &str) -> Result<Config, TimeoutsError> {
        if self.heartbeat < HEARTBEAT_TIMEOUT_MIN {
            return Err(TimeoutsError::HeartbeatTooShort(self.heartbeat));
        }
        if self.election < self.heartbeat {
            return Err(TimeoutsError::ElectionBelowHeartbeat { election: self.election, heartbeat: self.heartbeat });
        }
        let election_max_ms = millis(self.election_max());
        let config = Config {
            cluster_name: cluster_name.into(),
            heartbeat_interval: millis(self.heartbeat_interval()),
            election_timeout_min: millis(self.election_min()),
            election_timeout_max: election_max_ms,
            // A leader that reaches no quorum sends nothing for one lease and one election, so that
            // others can stand.
            quorum_loss_probe_interval: Some(2 * election_max_ms),
            enable_pre_vote: Some(true),
            enable_leader_restore: LEADER_RESTORE,
            // `retention` decides when to make checkpoints and what to purge; openraft's own purge
            // never finds anything.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: APPEND_ENTRIES_MAX,
            max_append_entries: Some(APPEND_ENTRIES_MAX),
            state_machine_channel_size: Some(STATE_MACHINE_CHANNEL),
            ..Config::default()
        };
        config.validate().map_err(|error| TimeoutsError::Openraft(Box::new(error)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_tenths_of_the_heartbeat_timeout() {
        let config = Timeouts::default().config("test").unwrap();
        assert_eq!(
            (config.heartbeat_interval, config.election_timeout_min, config.election_timeout_max),
            (100, 400, 600)
        );
        assert_eq!(config.quorum_loss_probe_interval, Some(1200));
        assert_eq!(config.enable_leader_restore, Some(false));
    }

    #[test]
    fn every_permitted_heartbeat_timeout_makes_a_valid_configuration() {
        for ms in (50..2_000).chain([10_000, 600_000]) {
            let heartbeat = Duration::from_millis(ms);
            Timeouts { heartbeat, election: heartbeat }.config("test").unwrap();
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let short = Timeouts { heartbeat: Duration::from_millis(10), election: Duration::from_secs(1) };
        assert!(matches!(short.config("test"), Err(TimeoutsError::HeartbeatTooShort(_))));
        let inverted = Timeouts { heartbeat: Duration::from_secs(2), election: Duration::from_secs(1) };
        assert!(matches!(inverted.config("test"), Err(TimeoutsError::ElectionBelowHeartbeat { .. })));
    }
}
