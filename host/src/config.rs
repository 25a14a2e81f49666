//! The settings of a node, with their defaults and limits, and the listening sockets that follow
//! from them. Knows no command line (that is `cli/`), starts nothing and reads no file. Binds
//! nothing until asked.

mod address;
mod connections;
mod costs;
mod exposed;
mod listen;
mod size;
mod tls;
mod trust;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::Address;
pub use connections::Connections;
pub use costs::{CLIENT_MEMORY, Costs};
pub use listen::{ListenError, advertised, bind};
pub use size::{format_size, parse_size};
pub use tls::{CLIENT_FLAGS, PEER_FLAGS, PortTls, TlsConfig, TlsFlags};
pub use trust::TrustConfig;

/// Default address that serves clients and operators.
pub const GRPC_ADDR: &str = "localhost:40051";
/// Default address that serves peers.
pub const RAFT_ADDR: &str = "localhost:50051";
/// Default directory that holds one sub-directory for each node.
pub const RAFT_DATA_DIR: &str = "/tmp";
/// Default time between two decisions about a checkpoint.
pub const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(120);
/// Default number of commands since the last checkpoint at which another one is made.
pub const SNAPSHOT_THRESHOLD: u64 = 8192;
/// Default bytes of log since the last checkpoint at which another one is made, however few the
/// commands are.
pub const SNAPSHOT_THRESHOLD_BYTES: u64 = 256 << 20;
/// Default bytes per second of all snapshots that leave a node: what a fast network carries, so
/// that a fast disk keeps some throughput for the log.
pub const SNAPSHOT_RATE_LIMIT: u64 = 128 << 20;
/// Default bytes of log above which a node warns, and keeps no more behind its newest checkpoint
/// than it must.
pub const LOG_QUOTA: u64 = 4 << 30;
/// Default time without a leader's message after which a follower stands for election.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// Default time that a command waits for a leader.
pub const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Default time in which a node that is being added as a voter must catch up.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Default number of commands that stay in the log behind the newest checkpoint.
pub const TRAILING_LOGS: u64 = 10_240;
/// Default number of entries that stay in the log in any case, so that large batches do not leave a
/// follower with nothing.
pub const TRAILING_ENTRIES_MIN: u64 = 10_240;
/// Default free bytes on the disk below which commands are refused.
pub const MIN_FREE_BYTES: u64 = 512 << 20;

/// Shortest heartbeat timeout. Below this, an fsync a little slower than usual would look like a
/// dead leader.
pub const HEARTBEAT_TIMEOUT_MIN: Duration = Duration::from_millis(50);
/// Longest duration of a setting. A longer one is surely a wrong unit, and adding it to a clock
/// could overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most bytes of a `--raft_id`. It is a directory name, and is in every membership entry.
pub const RAFT_ID_BYTES_MAX: usize = 64;

/// All settings with which a node is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Whether to form a new cluster of this one node, if the data directory is in none yet.
    pub bootstrap: bool,
    /// Whether to form it even beside other nodes' data, and to continue although members of
    /// another cluster take this node for one of theirs.
    pub bootstrap_forced: bool,
    /// The operator's name for the node, unique in the cluster (`--raft_id`).
    pub name: String,
    /// The address that serves clients and operators.
    pub grpc_addr: String,
    /// The address that serves peers.
    pub raft_addr: String,
    /// The address that other nodes and clients connect to instead of `grpc_addr`.
    pub grpc_advertise_addr: Option<String>,
    /// The address that peers connect to instead of `raft_addr`.
    pub raft_advertise_addr: Option<String>,
    /// The address that serves `/livez`, `/readyz`, `/metrics` and `/status`; `None` for no such
    /// port.
    pub http_addr: Option<String>,
    /// The directory that holds one sub-directory for each node (`--raft_data_dir`).
    pub raft_data_dir: PathBuf,
    /// The state machine: a component, or a core module with an embedded component type.
    pub fsm: Option<PathBuf>,
    /// Whether plain text beyond loopback is allowed.
    pub insecure: bool,
    /// Which connections are encrypted, and with what.
    pub tls: TlsConfig,
    /// Time between two decisions about a checkpoint, spread over one to two times this value.
    pub snapshot_interval: Duration,
    /// Commands since the last checkpoint below which none is made.
    pub snapshot_threshold: u64,
    /// Bytes of log since the last checkpoint at which one is made in any case; 0: never.
    pub snapshot_threshold_bytes: u64,
    /// Bytes per second of all snapshots that leave this node; 0: no limit.
    pub snapshot_rate_limit: u64,
    /// Bytes of log above which the node warns and keeps only what it must; 0: never.
    pub log_quota: u64,
    /// The directory that holds one archive of committed log entries for each node. `None`: the log
    /// is not archived.
    pub log_archive: Option<PathBuf>,
    /// H: time without a leader's message after which a follower stands for election.
    pub heartbeat_timeout: Duration,
    /// How long a command waits for a leader; at least `heartbeat_timeout`.
    pub election_timeout: Duration,
    /// Time in which a node that this one adds as a voter must catch up. After that it is removed
    /// again.
    pub catch_up_timeout: Duration,
    /// Commands that stay in the log behind the newest checkpoint.
    pub trailing_logs: u64,
    /// Entries that stay in any case. One entry holds a batch of commands.
    pub trailing_entries_min: u64,
    /// Free bytes on the disk of the data directory below which commands are refused; 0: never.
    pub min_free_bytes: u64,
    /// Whether the state is never made from a snapshot at start, even if it is behind the newest
    /// one.
    pub no_snapshot_restore_on_start: bool,
    /// Who may do what.
    pub trust: TrustConfig,
    /// What connections to the ports may do.
    pub connections: Connections,
    /// What clients may cost.
    pub costs: Costs,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            bootstrap: false,
            bootstrap_forced: false,
            name: String::new(),
            grpc_addr: GRPC_ADDR.into(),
            raft_addr: RAFT_ADDR.into(),
            grpc_advertise_addr: None,
            raft_advertise_addr: None,
            http_addr: None,
            raft_data_dir: PathBuf::from(RAFT_DATA_DIR),
            fsm: None,
            insecure: false,
            tls: TlsConfig::default(),
            snapshot_interval: SNAPSHOT_INTERVAL,
            snapshot_threshold: SNAPSHOT_THRESHOLD,
            snapshot_threshold_bytes: SNAPSHOT_THRESHOLD_BYTES,
            snapshot_rate_limit: SNAPSHOT_RATE_LIMIT,
            log_quota: LOG_QUOTA,
            log_archive: None,
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            election_timeout: ELECTION_TIMEOUT,
            catch_up_timeout: CATCH_UP_TIMEOUT,
            trailing_logs: TRAILING_LOGS,
            trailing_entries_min: TRAILING_ENTRIES_MIN,
            min_free_bytes: MIN_FREE_BYTES,
            no_snapshot_restore_on_start: false,
            trust: TrustConfig::default(),
            connections: Connections::default(),
            costs: Costs::default(),
        }
    }
}

/// A setting that cannot work: its flag, the problem, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct ConfigError {
    /// The flag, as it is typed.
    pub flag: &'static str,
    /// One sentence without its full stop.
    pub problem: String,
    /// What to do instead.
    pub hint: String,
}

impl ConfigError {
    /// Makes an error about `flag`.
    pub fn new(flag: &'static str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        ConfigError { flag, problem: problem.into(), hint: hint.into() }
    }
}

impl NodeConfig {
    /// Returns the directory of this node alone: `<raft_data_dir>/<raft_id>`.
    pub fn data_dir(&self) -> PathBuf {
        self.raft_data_dir.join(&self.name)
    }

    /// Returns the directory of this node's archive of the log: `<log_archive>/<raft_id>`.
    pub fn archive_dir(&self) -> Option<PathBuf> {
        self.log_archive.as_ref().map(|directory| directory.join(&self.name))
    }

    /// Refuses settings that cannot work, before anything is opened or bound. Reports the first
    /// problem found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_name()?;
        self.tls.validate()?;
        self.validate_addresses()?;
        self.validate_times()?;
        self.validate_archive()?;
        self.trust.validate(self.http_addr.as_deref())?;
        self.connections.validate()?;
        self.costs.validate()?;
        self.validate_fsm()
    }

    fn validate_name(&self) -> Result<(), ConfigError> {
        let refuse = |problem: String| {
            let hint = "choose a short name that is unique in the cluster, such as --raft_id=nodeA";
            Err(ConfigError::new("--raft_id", problem, hint))
        };
        if self.name.is_empty() {
            return refuse("the node needs a name".into());
        }
        if self.name.len() > RAFT_ID_BYTES_MAX {
            return refuse(format!("{} bytes are more than the {RAFT_ID_BYTES_MAX} that are allowed", self.name.len()));
        }
        let odd = self.name.chars().find(|&c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'));
        if let Some(odd) = odd {
            return refuse(format!(
                "{odd:?} in {:?} is not a letter, digit, '-', '_' or '.'; the name becomes a directory",
                self.name
            ));
        }
        if self.name.starts_with(['.', '-']) {
            return refuse(format!("{:?} begins with '.' or '-', but it becomes the name of a directory", self.name));
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let mut listening: Vec<(&'static str, Address)> = Vec::new();
        let listen = [
            ("--grpc_addr", Some(&self.grpc_addr), Some(("--grpc_advertise_addr", &self.grpc_advertise_addr))),
            ("--raft_addr", Some(&self.raft_addr), Some(("--raft_advertise_addr", &self.raft_advertise_addr))),
            ("--http_addr", self.http_addr.as_ref(), None),
        ];
        for (flag, text, advertise) in listen {
            let Some(text) = text else { continue };
            let address = Address::parse(flag, text)?;
            if let Some((advertise_flag, advertised)) = advertise {
                validate_advertised(flag, &address, advertise_flag, advertised.as_deref())?;
            }
            if !address.is_loopback() && !self.insecure {
                exposed::validate(self, flag, &address)?;
            }
            if let Some((other, _)) = listening.iter().find(|(_, earlier)| earlier.collides_with(&address)) {
                let hint = "give each its own port, or port 0 to let the system choose";
                return Err(ConfigError::new(flag, format!("{address} is the same port as {other}"), hint));
            }
            listening.push((flag, address));
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        let durations = [
            ("--snapshot_interval", self.snapshot_interval, Duration::from_millis(1)),
            ("--heartbeat_timeout", self.heartbeat_timeout, HEARTBEAT_TIMEOUT_MIN),
            ("--election_timeout", self.election_timeout, HEARTBEAT_TIMEOUT_MIN),
            ("--catch_up_timeout", self.catch_up_timeout, Duration::from_secs(1)),
        ];
        for (flag, value, min) in durations {
            if value < min || value > DURATION_MAX {
                let shown = humantime::format_duration(value);
                let (min, max) = (humantime::format_duration(min), humantime::format_duration(DURATION_MAX));
                let hint = format!("give a duration from {min} to {max}, such as 500ms or 2s");
                return Err(ConfigError::new(flag, format!("{shown} is out of range"), hint));
            }
        }
        if self.election_timeout < self.heartbeat_timeout {
            let (election, heartbeat) =
                (humantime::format_duration(self.election_timeout), humantime::format_duration(self.heartbeat_timeout));
            return Err(ConfigError::new(
                "--election_timeout",
                format!(
                    "{election} is shorter than --heartbeat_timeout {heartbeat}, so commands would give up before a new leader can be found"
                ),
                "make it at least as long as --heartbeat_timeout; three times that is a good value",
            ));
        }
        Ok(())
    }

    /// Refuses an archive that would lie in the data directory, and go with it, and one whose disk
    /// is not mounted.
    fn validate_archive(&self) -> Result<(), ConfigError> {
        let (Some(archive), Some(place)) = (self.archive_dir(), &self.log_archive) else { return Ok(()) };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let refuse = |problem, hint: &str| Err(ConfigError::new("--log_archive", problem, hint));
        if absolute(&archive).starts_with(absolute(&self.data_dir())) {
            return refuse(
                format!("{} lies in the data directory of this node", archive.display()),
                "give a directory beside --raft_data_dir, best on another disk; each node has a sub-directory of its own there",
            );
        }
        match absolute(place).parent() {
            Some(above) if !above.is_dir() => refuse(
                format!("there is no directory {}", above.display()),
                "mount its disk, or make it; a node makes only the last directory of the path",
            ),
            _ => Ok(()),
        }
    }

    fn validate_fsm(&self) -> Result<(), ConfigError> {
        let build = guests_hint();
        match &self.fsm {
            // A node with data ignores the flag, or its data says which component it needs.
            None if self.bootstrap && !self.data_dir().exists() => Err(ConfigError::new(
                "--fsm",
                "a node that bootstraps a cluster must bring the cluster's state machine",
                format!("add --fsm path/to/machine.wasm; {build}"),
            )),
            Some(path) if path.is_dir() => Err(ConfigError::new(
                "--fsm",
                format!("{} is a directory", path.display()),
                "name the .wasm file in it",
            )),
            Some(path) if !path.exists() => Err(ConfigError::new(
                "--fsm",
                format!("there is no file {}", path.display()),
                format!("check the path; {build}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Returns advice on where to get a state machine: the examples if the current directory is in a
/// checkout, else a new project.
pub(crate) fn guests_hint() -> &'static str {
    let is_checkout = |place: &Path| place.join("xtask/Cargo.toml").is_file() && place.join("guests").is_dir();
    if std::env::current_dir().is_ok_and(|here| here.ancestors().any(is_checkout)) {
        "`cargo xtask guests` builds the crates under guests/ into build/, among them build/kv.wasm"
    } else {
        "`lockstep guest new my-machine` makes a project that builds one"
    }
}

/// Checks that the advertised address is one that others can connect to.
fn validate_advertised(
    flag: &'static str,
    listen: &Address,
    advertise_flag: &'static str,
    advertised: Option<&str>,
) -> Result<(), ConfigError> {
    let Some(advertised) = advertised else {
        if listen.is_unspecified() {
            return Err(ConfigError::new(
                flag,
                format!("{listen} means every interface, which is no address that other nodes could dial"),
                format!("add {advertise_flag}=<name or IP of this machine>:<port>, and give the port here too"),
            ));
        }
        return Ok(());
    };
    let advertised = Address::parse(advertise_flag, advertised)?;
    if advertised.is_unspecified() || advertised.port == 0 {
        return Err(ConfigError::new(
            advertise_flag,
            format!("{advertised} is no address that other nodes could dial"),
            "give the name or IP of this machine and the port, such as 10.0.0.5:50051",
        ));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tls::Mode;

    fn good() -> NodeConfig {
        NodeConfig { name: "nodeA".into(), ..NodeConfig::default() }
    }

    #[test]
    fn defaults_with_a_name_are_valid() {
        good().validate().unwrap();
        assert_eq!(good().data_dir(), PathBuf::from("/tmp/nodeA"));
    }

    #[test]
    fn each_mistake_names_its_flag_and_says_what_to_do() {
        type Change = fn(&mut NodeConfig);
        let table: &[(&str, &str, Change)] = &[
            ("--raft_id", "needs a name", |c| c.name.clear()),
            ("--raft_id", "'/' in", |c| c.name = "a/b".into()),
            ("--raft_id", "begins with", |c| c.name = "..".into()),
            ("--raft_id", "65 bytes", |c| c.name = "a".repeat(65)),
            ("--fsm", "must bring", |c| {
                c.bootstrap = true;
                c.raft_data_dir = PathBuf::from("/nowhere");
            }),
            ("--fsm", "no file", |c| c.fsm = Some("/nonexistent/x.wasm".into())),
            ("--fsm", "is a directory", |c| c.fsm = Some("/".into())),
            ("--log_archive", "lies in the data", |c| c.log_archive = Some(c.data_dir())),
            ("--log_archive", "no directory /nonexistent", |c| c.log_archive = Some("/nonexistent/log".into())),
            ("--grpc_addr", "reached from other machines", |c| c.grpc_addr = "10.0.0.1:1".into()),
            ("--raft_addr", "reached from other machines", |c| c.raft_addr = "db1.example:1".into()),
            ("--http_addr", "reached from other machines", |c| c.http_addr = Some("0.0.0.0:80".into())),
            ("--raft_addr", "plain text are accepted", |c| {
                c.raft_addr = "10.0.0.1:1".into();
                let file = || Some("x.pem".into());
                (c.tls.peers.cert, c.tls.peers.key, c.tls.peers.ca) = (file(), file(), file());
                c.tls.peers.mode = Some(Mode::Prefer);
            }),
            ("--raft_addr", "neither encrypted", |c| {
                c.raft_addr = "10.0.0.1:1".into();
                (c.tls.clients.cert, c.tls.clients.key) = (Some("x.pem".into()), Some("x.key".into()));
            }),
            ("--raft_addr", "every interface", |c| {
                c.insecure = true;
                c.raft_addr = "0.0.0.0:5".into();
            }),
            ("--grpc_addr", "every interface", |c| {
                c.insecure = true;
                c.grpc_addr = ":5".into();
            }),
            ("--raft_advertise_addr", "no address", |c| c.raft_advertise_addr = Some("[::]:5".into())),
            ("--raft_advertise_addr", "no address", |c| c.raft_advertise_addr = Some("host:0".into())),
            ("--grpc_advertise_addr", "has no port", |c| c.grpc_advertise_addr = Some("host".into())),
            ("--grpc_addr", "has no port", |c| c.grpc_addr = "localhost".into()),
            ("--grpc_addr", "is not a port", |c| c.grpc_addr = "localhost:70000".into()),
            ("--raft_addr", "same port as --grpc_addr", |c| c.raft_addr = "127.0.0.1:40051".into()),
            ("--http_addr", "same port as --raft_addr", |c| c.http_addr = Some("[::1]:50051".into())),
            ("--election_timeout", "shorter than", |c| c.heartbeat_timeout = Duration::from_secs(4)),
            ("--heartbeat_timeout", "out of range", |c| c.heartbeat_timeout = Duration::from_millis(1)),
            ("--snapshot_interval", "out of range", |c| c.snapshot_interval = Duration::ZERO),
        ];
        for (flag, problem, change) in table {
            let mut config = good();
            change(&mut config);
            let error = config.validate().expect_err(problem);
            assert_eq!(error.flag, *flag, "{error}");
            assert!(error.problem.contains(problem), "{problem:?} not in {error}");
            assert!(!error.hint.is_empty(), "{error} has no hint");
        }
    }

    #[test]
    fn what_looks_odd_but_works_is_accepted() {
        type Change = fn(&mut NodeConfig);
        let table: &[Change] = &[
            |c| (c.grpc_addr, c.raft_addr) = ("localhost:0".into(), "localhost:0".into()),
            |c| (c.grpc_addr, c.raft_addr) = ("127.0.0.1:7".into(), "127.0.0.2:7".into()),
            |c| c.raft_addr = "[::1]:50052".into(),
            |c| {
                c.insecure = true;
                c.raft_addr = "0.0.0.0:5".into();
                c.raft_advertise_addr = Some("db1.example:5".into());
            },
            |c| c.election_timeout = c.heartbeat_timeout,
            |c| {
                c.grpc_addr = "10.0.0.1:1".into();
                c.http_addr = Some("10.0.0.1:2".into());
                (c.tls.clients.cert, c.tls.clients.key) = (Some("x.pem".into()), Some("x.key".into()));
                c.tls.clients.ca = Some("ca.pem".into());
            },
        ];
        for (row, change) in table.iter().enumerate() {
            let mut config = good();
            change(&mut config);
            assert_eq!(config.validate(), Ok(()), "row {row}");
        }
    }
}
