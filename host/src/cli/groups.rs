//! `lockstep groups`, in a build for tests: a process of many groups, told by lines what to do.
//! `node/many.rs` has its lines.

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::logging::{self, LogFormat};
use super::report::{print_line, print_notice};
use crate::node::many::{self, Many};

/// Run a process of many groups, for tests.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupsArgs {
    /// Directory of its data
    #[arg(value_name = "DIR")]
    data: PathBuf,

    /// Which of the processes it is, from 1
    #[arg(value_name = "NUMBER")]
    number: u64,

    /// How many groups it holds
    #[arg(value_name = "GROUPS")]
    groups: u32,

    /// The key-value guest
    #[arg(value_name = "FSM")]
    fsm: PathBuf,

    /// The peer address of each process, in the order of their numbers
    #[arg(value_name = "HOST:PORT", required = true)]
    peers: Vec<String>,
}

/// Runs the process until its input ends.
pub(crate) fn run(args: &GroupsArgs) -> anyhow::Result<()> {
    logging::init("info", LogFormat::Text, &args.number.to_string())?;
    let many = Many {
        data: args.data.clone(),
        number: args.number,
        groups: args.groups,
        fsm: args.fsm.clone(),
        peers: args.peers.clone(),
    };
    let say = |line: String| {
        if let Err(error) = print_line(line) {
            print_notice(format_args!("an answer is lost: {error:#}"));
        }
    };
    let (lines, told) = mpsc::channel(16);
    // Nobody waits for this thread: it may wait for input for ever.
    std::thread::spawn(move || {
        let sent = std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| lines.blocking_send(line));
        drop(sent);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(many::run(many, told, say))
}
