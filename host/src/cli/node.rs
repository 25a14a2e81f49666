//! `lockstep node`: turns flags and environment into a `NodeConfig`, and signals into a clean stop.
//! It does not wire the parts of a node; `node::Node` does.

mod connections;
mod costs;
mod tls;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ArgAction;
use clap::builder::BoolishValueParser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::fsm;
use super::logging::{self, LogFormat};
use super::trust::TrustArgs;
use crate::config::{self, ConfigError, NodeConfig};
use crate::guest::apart;
use crate::node::{Ended, Node};
use crate::threads::{Handles, Runtimes};

/// Exit code that shells report for a process that Ctrl-C ended.
const STOPPED_BY_SIGNAL: i32 = 130;

const AFTER_HELP: &str = "\
A node keeps everything in <raft_data_dir>/<raft_id>. Durations are written 500ms, 2s, 5m.
Every flag can be set in the environment as well; the flag wins, and an empty variable is not set.

Examples:
  The first node forms the cluster and brings its state machine:
    lockstep node --raft_bootstrap --raft_id=nodeA --raft_data_dir /tmp/cluster \\
      --fsm build/kv.wasm \\
      --grpc_addr=localhost:40051 --raft_addr=localhost:50051
  Others start empty; the leader adds them:
    lockstep node --raft_id=nodeB --raft_data_dir /tmp/cluster \\
      --grpc_addr=localhost:40052 --raft_addr=localhost:50052
    lockstep admin localhost:40051 add_voter nodeB localhost:50052";

/// Run one node of a cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct NodeArgs {
    /// Form a new cluster of this one node; does nothing when its data directory is in a cluster
    /// already. `force`, given once, says that it is meant although other nodes' data lies beside
    /// it, or members of another cluster take this node for one of theirs
    #[arg(long = "raft_bootstrap", env = "LOCKSTEP_RAFT_BOOTSTRAP", value_name = "true|false|force",
        default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        value_parser = bootstrap, action = ArgAction::Set)]
    raft_bootstrap: Bootstrap,

    /// Name of the node, unique in its cluster; also the name of its data directory
    #[arg(long = "raft_id", env = "LOCKSTEP_RAFT_ID", value_name = "NAME")]
    raft_id: String,

    /// Address on which clients and operators are served
    #[arg(long = "grpc_addr", env = "LOCKSTEP_GRPC_ADDR", value_name = "HOST:PORT", default_value = config::GRPC_ADDR)]
    grpc_addr: String,

    /// Address on which the other nodes are served
    #[arg(long = "raft_addr", env = "LOCKSTEP_RAFT_ADDR", value_name = "HOST:PORT", default_value = config::RAFT_ADDR)]
    raft_addr: String,

    /// Address that clients and other nodes connect to instead of --grpc_addr
    #[arg(long = "grpc_advertise_addr", env = "LOCKSTEP_GRPC_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    grpc_advertise_addr: Option<String>,

    /// Address that other nodes connect to instead of --raft_addr
    #[arg(long = "raft_advertise_addr", env = "LOCKSTEP_RAFT_ADVERTISE_ADDR", value_name = "HOST:PORT")]
    raft_advertise_addr: Option<String>,

    /// Address on which /livez, /readyz, /metrics and /status are served [default: nowhere]
    #[arg(long = "http_addr", env = "LOCKSTEP_HTTP_ADDR", value_name = "HOST:PORT")]
    http_addr: Option<String>,

    /// Directory that holds one sub-directory for each node
    #[arg(long = "raft_data_dir", env = "LOCKSTEP_RAFT_DATA_DIR", value_name = "DIR", default_value = config::RAFT_DATA_DIR)]
    raft_data_dir: PathBuf,

    /// The state machine, a WebAssembly file; needed with --raft_bootstrap, otherwise it must match
    /// the cluster's
    #[arg(long = "fsm", env = "LOCKSTEP_FSM", value_name = "FILE")]
    fsm: Option<PathBuf>,

    /// Allow addresses that other machines can reach, although nothing is encrypted there, or
    /// everybody there may do everything
    #[arg(long = "insecure", env = "LOCKSTEP_INSECURE", value_name = "true|false",
        default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    insecure: bool,

    #[command(flatten)]
    tls: tls::TlsArgs,

    /// Time between two checks whether to make a snapshot
    #[arg(long = "snapshot_interval", env = "LOCKSTEP_SNAPSHOT_INTERVAL", value_name = "DURATION",
        default_value_t = Time(config::SNAPSHOT_INTERVAL), value_parser = time)]
    snapshot_interval: Time,

    /// Commands since the last snapshot after which a check makes another one
    #[arg(long = "snapshot_threshold", env = "LOCKSTEP_SNAPSHOT_THRESHOLD", value_name = "COMMANDS",
        default_value_t = config::SNAPSHOT_THRESHOLD)]
    snapshot_threshold: u64,

    /// Silence of the leader before a follower starts an election
    #[arg(long = "heartbeat_timeout", env = "LOCKSTEP_HEARTBEAT_TIMEOUT", value_name = "DURATION",
        default_value_t = Time(config::HEARTBEAT_TIMEOUT), value_parser = time)]
    heartbeat_timeout: Time,

    /// How long a command waits for a leader
    #[arg(long = "election_timeout", env = "LOCKSTEP_ELECTION_TIMEOUT", value_name = "DURATION",
        default_value_t = Time(config::ELECTION_TIMEOUT), value_parser = time)]
    election_timeout: Time,

    /// How long a node that is added as a voter may take to catch up, before it is taken out again
    #[arg(long = "catch_up_timeout", env = "LOCKSTEP_CATCH_UP_TIMEOUT", value_name = "DURATION",
        default_value_t = Time(config::CATCH_UP_TIMEOUT), value_parser = time)]
    catch_up_timeout: Time,

    /// Commands that stay in the log behind the newest snapshot
    #[arg(long = "trailing_logs", env = "LOCKSTEP_TRAILING_LOGS", value_name = "COMMANDS",
        default_value_t = config::TRAILING_LOGS)]
    trailing_logs: u64,

    /// Log entries that stay in any case (an entry holds a batch of commands)
    #[arg(long = "trailing_entries_min", env = "LOCKSTEP_TRAILING_ENTRIES_MIN", value_name = "ENTRIES",
        default_value_t = config::TRAILING_ENTRIES_MIN)]
    trailing_entries_min: u64,

    /// Free bytes on the disk below which commands are refused, while reads go on; 0 for never
    #[arg(long = "min_free_bytes", env = "LOCKSTEP_MIN_FREE_BYTES", value_name = "SIZE",
        default_value_t = Size(config::MIN_FREE_BYTES), value_parser = size)]
    min_free_bytes: Size,

    /// Log bytes since the last snapshot after which a check makes another one, however few the
    /// commands; 0 for never
    #[arg(long = "snapshot_threshold_bytes", env = "LOCKSTEP_SNAPSHOT_THRESHOLD_BYTES", value_name = "SIZE",
        default_value_t = Size(config::SNAPSHOT_THRESHOLD_BYTES), value_parser = size)]
    snapshot_threshold_bytes: Size,

    /// Most bytes a second that leave this node as snapshots and backups, all together; 0 for no
    /// limit
    #[arg(long = "snapshot_rate_limit", env = "LOCKSTEP_SNAPSHOT_RATE_LIMIT", value_name = "SIZE",
        default_value_t = Size(config::SNAPSHOT_RATE_LIMIT), value_parser = size)]
    snapshot_rate_limit: Size,

    /// A log larger than this is an alarm, and keeps no trailing commands any more; 0 for never
    #[arg(long = "log_quota", env = "LOCKSTEP_LOG_QUOTA", value_name = "SIZE",
        default_value_t = Size(config::LOG_QUOTA), value_parser = size)]
    log_quota: Size,

    /// Directory that keeps every committed log entry for good; each node has a sub-directory of
    /// its own there. The directory above it must exist, and the log is purged of nothing that is
    /// not there yet [default: nowhere]
    #[arg(long = "log_archive", env = "LOCKSTEP_LOG_ARCHIVE", value_name = "DIR")]
    log_archive: Option<PathBuf>,

    /// Do not restore a state that is behind the newest snapshot from that snapshot: the log brings
    /// it up, or the node refuses to start. (A state on disk is never behind by itself; a state
    /// that was deleted is)
    #[arg(long = "no_snapshot_restore_on_start", env = "LOCKSTEP_NO_SNAPSHOT_RESTORE_ON_START", value_name = "true|false",
        default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    no_snapshot_restore_on_start: bool,

    #[command(flatten)]
    trust: TrustArgs,

    #[command(flatten)]
    connections: connections::ConnectionArgs,

    #[command(flatten)]
    costs: costs::CostArgs,

    /// Refused, because there is no discovery by gossip yet;
    /// add nodes with `lockstep admin ... add_voter`
    #[arg(long = "gossip_addr", env = "LOCKSTEP_GOSSIP_ADDR", value_name = "HOST:PORT")]
    gossip_addr: Option<String>,

    /// Refused, because there is no discovery by gossip yet;
    /// add nodes with `lockstep admin ... add_voter`
    #[arg(long = "gossip_seeds", env = "LOCKSTEP_GOSSIP_SEEDS", value_name = "HOST:PORT,…")]
    gossip_seeds: Option<String>,

    /// off, error, warn, info, debug or trace, or a filter such as info,lockstep::raft=debug
    #[arg(long = "log_level", env = "LOCKSTEP_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,

    /// Format of the log lines on stderr
    #[arg(long = "log_format", env = "LOCKSTEP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Stop cleanly when stdin is closed, so that the node ends with the process that started it
    #[arg(long = "exit_on_stdin_close", hide = true)]
    exit_on_stdin_close: bool,
}

/// Whether the node forms a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bootstrap {
    No,
    Yes,
    Force,
}

fn bootstrap(text: &str) -> Result<Bootstrap, String> {
    // Takes the same words as clap's own parser of booleans.
    match &*text.to_ascii_lowercase() {
        "force" => Ok(Bootstrap::Force),
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(Bootstrap::Yes),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(Bootstrap::No),
        _ => Err("expected true, false or force".into()),
    }
}

/// A number of bytes, read and shown as people write it.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&config::format_size(self.0))
    }
}

fn size(text: &str) -> Result<Size, String> {
    config::parse_size(text).map(Size)
}

/// A duration, read and shown as people write it.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => humantime::format_duration(self.0).fmt(f),
        }
    }
}

fn time(text: &str) -> Result<Time, humantime::DurationError> {
    humantime::parse_duration(text).map(Time)
}

/// Runs a node until a signal, or until it cannot go on.
pub(crate) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    logging::speak(args.log_format, &args.raft_id);
    let config = config_of(args)?;
    // A node with data runs what its data directory says. A node without data must not leave a data
    // directory behind when its file cannot be run, so the file is checked first.
    if let (Some(fsm), false) = (&config.fsm, config.data_dir().exists()) {
        fsm::check("--fsm: ", fsm)?;
    }
    logging::init(&args.log_level, args.log_format, &config.name)?;
    let runtimes = Runtimes::start().context("cannot start the threads of this process")?;
    let ended = runtimes.main.block_on(serve(config, runtimes.handles(), args.exit_on_stdin_close));
    // Dropped last. It waits for its blocking threads, and one of them may be waiting for a
    // compiler. The next line ends the compiler.
    let _main = runtimes.end();
    apart::end();
    match ended? {
        Ended::Stopped => Ok(()),
        Ended::Restart => Err(start_again()).context("cannot start this node again; start it by hand"),
    }
}

/// Replaces this process by a fresh process of the same program with the same arguments. Returns
/// only when that fails.
fn start_again() -> std::io::Error {
    // The thread that writes the log ends with this process.
    logging::flush();
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    }
}

async fn serve(config: NodeConfig, threads: Handles, exit_on_stdin_close: bool) -> anyhow::Result<Ended> {
    let stop = stop_on_signals(exit_on_stdin_close)?;
    let name = config.name.clone();
    let node = tokio::select! {
        node = Node::start(config, threads) => node.with_context(|| format!("node {name} could not start"))?,
        () = stopped(stop.clone()) => return Ok(Ended::Stopped),
    };
    node.run(stopped(stop)).await.with_context(|| format!("node {name} stopped"))
}

/// Returns a watch that turns true at the first SIGINT or SIGTERM. A second signal ends the process
/// at once.
fn stop_on_signals(exit_on_stdin_close: bool) -> anyhow::Result<watch::Receiver<bool>> {
    let interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let (stop, stopping) = watch::channel(false);
    if exit_on_stdin_close {
        let stop = stop.clone();
        // Uses its own thread: when the runtime ends, it waits for its blocking threads, and this
        // read may never return.
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                wait_for_end_of_stdin();
                stop.send_replace(true);
            })
            .context("cannot start a thread")?;
    }
    tokio::spawn(count_signals(interrupt, terminate, stop));
    Ok(stopping)
}

async fn count_signals(mut interrupt: Signal, mut terminate: Signal, stop: watch::Sender<bool>) {
    loop {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if stop.send_replace(true) {
            tracing::warn!("{name} while stopping: exiting at once");
            logging::flush();
            std::process::exit(STOPPED_BY_SIGNAL);
        }
        tracing::info!("{name}: stopping; once more to exit at once");
    }
}

fn wait_for_end_of_stdin() {
    // Typed input is ignored. An error counts as the end of stdin, too.
    if let Err(error) = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()) {
        tracing::warn!(%error, "stdin broke, taken as its end");
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender lives in a task that never ends. If that task did end, no later request to stop
    // could arrive.
    if stopping.wait_for(|&stop| stop).await.is_err() {
        tracing::warn!("nothing listens for signals any more: stopping");
    }
}

fn config_of(args: &NodeArgs) -> Result<NodeConfig, ConfigError> {
    for (flag, value) in [("--gossip_addr", &args.gossip_addr), ("--gossip_seeds", &args.gossip_seeds)] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(ConfigError::new(
                flag,
                "nodes do not discover each other by gossip yet",
                "leave it out, and add this node with `lockstep admin <a node's grpc_addr> add_voter <raft_id> <raft_addr>`",
            ));
        }
    }
    let config = NodeConfig {
        bootstrap: args.raft_bootstrap != Bootstrap::No,
        bootstrap_forced: args.raft_bootstrap == Bootstrap::Force,
        name: args.raft_id.clone(),
        grpc_addr: args.grpc_addr.clone(),
        raft_addr: args.raft_addr.clone(),
        grpc_advertise_addr: args.grpc_advertise_addr.clone(),
        raft_advertise_addr: args.raft_advertise_addr.clone(),
        http_addr: args.http_addr.clone(),
        raft_data_dir: args.raft_data_dir.clone(),
        fsm: args.fsm.clone(),
        insecure: args.insecure,
        tls: args.tls.config(),
        snapshot_interval: args.snapshot_interval.0,
        snapshot_threshold: args.snapshot_threshold,
        snapshot_threshold_bytes: args.snapshot_threshold_bytes.0,
        snapshot_rate_limit: args.snapshot_rate_limit.0,
        log_quota: args.log_quota.0,
        log_archive: args.log_archive.clone(),
        heartbeat_timeout: args.heartbeat_timeout.0,
        election_timeout: args.election_timeout.0,
        catch_up_timeout: args.catch_up_timeout.0,
        trailing_logs: args.trailing_logs,
        trailing_entries_min: args.trailing_entries_min,
        min_free_bytes: args.min_free_bytes.0,
        no_snapshot_restore_on_start: args.no_snapshot_restore_on_start,
        trust: args.trust.config(),
        connections: args.connections.settings(),
        costs: (&args.costs).into(),
    };
    config.validate()?;
    Ok(config)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::{Command, argv};
    use clap::FromArgMatches;

    fn config(flags: &[&str]) -> Result<NodeConfig, String> {
        let arguments = ["lockstep", "node"].iter().chain(flags).map(Into::into);
        let matches = crate::cli::command()
            .try_get_matches_from(argv::normalise(arguments))
            .map_err(|error| error.to_string())?;
        match crate::cli::Cli::from_arg_matches(&matches).map_err(|error| error.to_string())?.command {
            Command::Node(args) => config_of(&args).map_err(|error| error.to_string()),
            other => Err(format!("not a node: {other:?}")),
        }
    }

    #[test]
    fn defaults_are_those_of_the_configuration() {
        let expected = NodeConfig { name: "nodeA".into(), ..NodeConfig::default() };
        assert_eq!(config(&["--raft_id=nodeA"]).unwrap(), expected);
    }

    #[test]
    fn every_spelling_of_a_flag_is_understood() {
        let snake = config(&["--raft_id=a", "--heartbeat_timeout=500ms", "--election_timeout", "2s"]).unwrap();
        assert_eq!(snake, config(&["--raft-id=a", "--heartbeat-timeout=500ms", "--election-timeout", "2s"]).unwrap());
        assert_eq!(snake, config(&["-raft_id=a", "-heartbeat_timeout=500ms", "-election_timeout", "2s"]).unwrap());
        assert_eq!(snake.heartbeat_timeout, Duration::from_millis(500));
    }

    #[test]
    fn tls_is_given_by_files_and_a_mode() {
        let files = ["--raft_id=a", "--tls_cert=a.pem", "--tls-key", "a.key"];
        let given = |more: &str| config(&[&files[..], &[more]].concat()).map(|config| config.tls);
        let tls = given("--tls_min_version=1.2").unwrap();
        assert_eq!((tls.clients.mode().word(), tls.peers.mode().word()), ("require", "off"));
        assert_eq!(tls.min_version.word(), "1.2");
        assert_eq!(given("--tls-mode=prefer").unwrap().clients.mode().word(), "prefer");
        let error = given("--tls_mode=perhaps").unwrap_err();
        assert!(error.contains("--tls_mode") && error.contains("off, prefer or require"), "{error}");
        let error = given("--peer_tls_cert=b.pem").unwrap_err();
        assert!(error.contains("--peer_tls_key"), "{error}");
        let error = given("--tls_min_version=1.1").unwrap_err();
        assert!(error.contains("1.2 or 1.3"), "{error}");
    }

    #[test]
    fn booleans_take_an_optional_value() {
        let read = |flag: &str| config(&["--raft_id=a", "--fsm=/dev/null", flag]);
        let bootstrap = |flag: &str| read(flag).map(|config| (config.bootstrap, config.bootstrap_forced)).unwrap();
        assert_eq!(bootstrap("--raft_bootstrap"), (true, false));
        assert_eq!(bootstrap("-raft_bootstrap=True"), (true, false));
        assert_eq!(bootstrap("--raft-bootstrap=false"), (false, false));
        assert_eq!(bootstrap("--raft_bootstrap=force"), (true, true));
        let error = read("--raft_bootstrap=perhaps").unwrap_err();
        assert!(error.contains("--raft_bootstrap") && error.contains("true, false or force"), "{error}");
    }

    #[test]
    fn gossip_is_refused_by_name() {
        let error = config(&["--raft_id=a", "--gossip_seeds=x:1"]).unwrap_err();
        assert!(error.contains("--gossip_seeds") && error.contains("gossip yet"), "{error}");
    }

    #[test]
    fn sizes_are_written_with_a_unit_or_as_bytes() {
        let free = |flag: &str| config(&["--raft_id=a", flag]).map(|config| config.min_free_bytes);
        assert_eq!(free("--min_free_bytes=64MiB").unwrap(), 64 << 20);
        assert_eq!(free("--min_free_bytes=67108864").unwrap(), 64 << 20);
        assert_eq!(free("--min_free_bytes=0").unwrap(), 0);
        let memory = |flag: &str| config(&["--raft_id=a", flag]).map(|config| config.costs.client_memory);
        assert_eq!(memory("--client_memory=1GiB").unwrap(), 1 << 30);
        assert!(memory("--client_memory=1MiB").unwrap_err().contains("64MiB to 1TiB"));
        let error = free("--min_free_bytes=lots").unwrap_err();
        assert!(error.contains("--min_free_bytes") && error.contains("256MiB"), "{error}");
    }

    #[test]
    fn bad_duration_names_its_flag() {
        let error = config(&["--raft_id=a", "--heartbeat_timeout=fast"]).unwrap_err();
        assert!(error.contains("--heartbeat_timeout"), "{error}");
    }
}
