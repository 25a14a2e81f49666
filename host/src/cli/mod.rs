//! The subcommands of `lockstep`: reads the command line, runs one subcommand, and turns its result
//! into an exit code. This module knows no Raft and no storage. It reaches a node through
//! `node::Node`, or over gRPC like any other client.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line or the configuration cannot work, 3 it is
//! not known whether it took effect, 130 stopped by a second signal.

mod admin;
mod argv;
mod backup;
mod bench;
mod call;
mod called;
mod client;
mod credentials;
mod details;
mod dev;
mod door;
mod environment;
mod fsm;
#[cfg(feature = "failpoints")]
mod groups;
mod guest;
mod json;
mod leader;
mod log_entries;
mod logging;
mod manager;
mod node;
mod profile;
mod progress;
mod raise;
mod read_only;
mod recover;
mod reflection;
mod replay;
mod report;
mod restore;
mod resync;
mod rollback;
mod rows;
mod rpcs;
mod set_log_time;
mod similar;
mod status;
mod text;
mod tls;
mod token;
mod trust;
mod upgrade;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use report::report;

const AFTER_HELP: &str = "\
Flags may be written --raft_id, --raft-id or -raft_id.

Examples:
  lockstep dev                                         try it: three nodes on this machine
  lockstep node --raft_bootstrap --raft_id=nodeA --fsm build/kv.wasm
  lockstep admin localhost:40051 add_voter nodeB localhost:50052
  lockstep call localhost:40051 Example/Add '{\"key\": \"a\", \"val\": \"1\"}'
  lockstep upgrade localhost:40051 my_machine-2.wasm
  lockstep backup localhost:40051 > today.backup";

/// A WebAssembly state machine on every node of a Raft cluster, in lockstep.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster
    Node(Box<node::NodeArgs>),
    /// Run a cluster of three nodes on this machine, until Ctrl-C
    Dev(dev::DevArgs),
    /// Call a method of a running cluster, with JSON
    Call(call::CallArgs),
    /// Change or inspect a cluster through the services of its nodes for operators
    Admin(admin::AdminArgs),
    /// Make a cluster of one survivor after the majority is lost for good; the node must be stopped
    Recover(recover::RecoverArgs),
    /// Replace the guest of a running cluster, after every node has rehearsed it on its state
    Upgrade(upgrade::UpgradeArgs),
    /// Take the last change of the guest back, without losing a command
    Rollback(rollback::RollbackArgs),
    /// Write a consistent snapshot of a node's state to stdout
    Backup(backup::BackupArgs),
    /// Prepare the data directory of a new cluster's first node from a backup
    Restore(restore::RestoreArgs),
    /// Run a range of a log again, offline: verify it, look at one entry, or try another guest on
    /// it
    Replay(Box<replay::ReplayArgs>),
    /// Move the rows of a state as JSON lines, from one cluster to another
    Rows(rows::RowsArgs),
    /// Measure how many calls a cluster serves, and how long they take
    Bench(bench::BenchArgs),
    /// Make the certificates of a cluster, and look at them
    Tls(tls::TlsArgs),
    /// Make keys and tokens for clients
    Token(token::TokenArgs),
    /// Make, look at, check, test and measure guests
    Guest(guest::GuestArgs),
    /// Run a process of many groups, for tests
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Groups(groups::GroupsArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    stay_alive_at_file_limit();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => refuse(environment::explain(error)),
    };
    let result = match cli.command {
        Command::Node(args) => exit_at_once(node::run(&args)),
        Command::Dev(args) => dev::run(&args),
        Command::Call(args) => call::run(&args),
        Command::Admin(args) => admin::run(&args),
        Command::Recover(args) => exit_at_once(recover::run(&args)),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => exit_at_once(restore::run(&args)),
        Command::Replay(args) => exit_at_once(replay::run(&args)),
        Command::Rows(args) => rows::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tls(args) => tls::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Guest(args) => exit_at_once(guest::run(&args)),
        #[cfg(feature = "failpoints")]
        Command::Groups(args) => groups::run(&args),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(report(&error)),
    };
    logging::flush();
    code
}

/// Exits as clap does: help and version go to stdout with code 0. Everything else goes to stderr
/// with code 2. A node whose log is JSON prints even that as JSON.
fn refuse(error: clap::Error) -> ! {
    let is_node = std::env::args_os().nth(1).is_some_and(|subcommand| subcommand == "node");
    let format = environment::value("--log_format");
    if is_node && error.use_stderr() && format.as_deref() == Some("json") {
        logging::speak(logging::LogFormat::Json, &environment::value("--raft_id").unwrap_or_default());
        let text = error.to_string();
        let mut parts = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let message = parts.next().unwrap_or_default();
        let hints: Vec<String> = parts.collect();
        logging::say_error(&text, message.trim_start_matches("error: "), &[], &hints);
        logging::flush();
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Ignores the signal of a write beyond `ulimit -f`. The write then fails like one on a full disk
/// and is reported, instead of ending the process without a message.
#[allow(unsafe_code)]
fn stay_alive_at_file_limit() {
    // SAFETY: it is called before any thread is started, and ignoring a signal runs none of this
    // program's code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Ends the process without running C++'s static destructors. RocksDB's background threads live
/// until the end of the process, and the destructors would race with them (seen as an abort, once
/// in some hundred exits). Everything that must be closed is closed by now.
#[allow(unsafe_code)]
fn exit_at_once(result: anyhow::Result<()>) -> ! {
    use std::io::Write;
    let code = match &result {
        Ok(()) => 0,
        Err(error) => report(error),
    };
    logging::flush();
    // An error means a closed pipe, where nothing is lost any more. Stderr has no buffer.
    drop(std::io::stdout().flush());
    // SAFETY: _exit only ends the process; nothing after it can observe a broken invariant.
    unsafe { libc::_exit(i32::from(code)) }
}

fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Cli, clap::Error> {
    let matches = environment::without_empty(called::help_as_called(command()))
        .try_get_matches_from(argv::normalise(arguments))?;
    Cli::from_arg_matches(&matches)
}

/// Returns the command line with the list of RPCs, which only the descriptor knows.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("admin", |command| command.after_help(admin::help()))
}

/// Creates the runtime of the client commands, which wait for one thing at a time.
fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        command().debug_assert();
    }

    /// clap breaks the line at `{n}`, so the help writes the placeholder of scripts with spaces.
    #[test]
    fn the_help_shows_the_placeholders_of_scripts() {
        for tool in ["test", "bench"] {
            let help = parse(["lockstep", "guest", tool, "--help"].map(Into::into).into_iter()).unwrap_err();
            assert!(help.to_string().contains("{{ n }}"), "{help}");
        }
    }

    #[test]
    fn every_subcommand_has_help_with_an_example() {
        let mut lockstep = command();
        let mut unread: Vec<(String, clap::Command)> = Vec::new();
        let below = |name: &str, command: &clap::Command| -> Vec<(String, clap::Command)> {
            command.get_subcommands().map(|sub| (format!("{name} {}", sub.get_name()), sub.clone())).collect()
        };
        lockstep.build();
        unread.extend(below("lockstep", &lockstep));
        while let Some((name, mut subcommand)) = unread.pop() {
            if subcommand.get_name() != "help" {
                unread.extend(below(&name, &subcommand));
                let help = subcommand.render_long_help().to_string();
                assert!(help.contains("Example"), "{name} shows no example");
                assert!(help.contains(&name), "{name}'s example does not call it");
            }
        }
    }

    #[test]
    fn unknown_flag_is_a_usage_error() {
        let arguments = ["lockstep", "node", "--raft_identity=a"].into_iter().map(Into::into);
        assert_eq!(parse(arguments).unwrap_err().exit_code(), 2);
    }
}
