//! `lockstep recover`: shows what a survivor of a lost majority holds and, if it is confirmed,
//! makes it a new cluster. `node/recover.rs` changes the directory.

use std::path::PathBuf;

use super::logging::{self, LogFormat};
use super::report::{Failure, print_line};
use crate::node::recover::{Found, Survivor};
use crate::types::LogId;

/// The confirmation, as it is typed.
const CONFIRM: &str = "--yes_i_lose_what_the_others_had";

const AFTER_HELP: &str = "\
Only for a cluster whose majority will never come back. What the lost nodes had acknowledged and this one never got is lost;
of several survivors, take the one with the greatest term and index of its last log entry. Run it without the confirmation
to see what a node holds; that changes nothing beyond what any start does (a torn tail is cut off the log).

Afterwards this node is a cluster of one, with its log, its state and its cluster id, in the cluster's next incarnation.
Start it and add nodes again. The old members must come back with empty data directories: what they hold is of the old
incarnation and is refused. Two old members that are started on their old data would form the old cluster again, beside
this one: remove their data first.

Examples:
  lockstep recover --raft_id=nodeA --raft_data_dir /tmp/cluster
  lockstep recover --raft_id=nodeA --raft_data_dir /tmp/cluster --yes_i_lose_what_the_others_had";

/// Make a cluster of one survivor after the majority is lost for good; the node must be stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RecoverArgs {
    /// Name of the surviving node, the same as when the node is started
    #[arg(long = "raft_id", env = "LOCKSTEP_RAFT_ID", value_name = "NAME")]
    raft_id: String,

    /// Directory that holds one sub-directory for each node, the same as when the node is started
    #[arg(long = "raft_data_dir", env = "LOCKSTEP_RAFT_DATA_DIR", value_name = "DIR", default_value = crate::config::RAFT_DATA_DIR)]
    raft_data_dir: PathBuf,

    /// Recover. Without this flag, only show what the node holds
    #[arg(long = "yes_i_lose_what_the_others_had")]
    confirmed: bool,
}

/// Shows what the node holds, and recovers it if confirmed.
pub(crate) fn run(args: &RecoverArgs) -> anyhow::Result<()> {
    logging::init("warn", LogFormat::Text, &args.raft_id)?;
    super::client_runtime()?.block_on(async {
        let survivor = Survivor::open(&args.raft_data_dir.join(&args.raft_id)).await?;
        for line in describe(survivor.found()) {
            print_line(line)?;
        }
        if let Some(failure) = nothing_to_recover(survivor.found(), args) {
            return Err(failure.into());
        }
        if !args.confirmed {
            let what = "nothing was changed: the old members' configuration is still in force";
            let hint = format!("if they are lost for good, run this again with {CONFIRM}");
            return Err(Failure::new(what).hint(hint).into());
        }
        let name = survivor.found().name.clone();
        let cluster = survivor.recover().await?;
        print_line(format!(
            "{name} is the only member now, in incarnation {} of cluster {}.",
            cluster.incarnation,
            cluster.id_hex()
        ))?;
        print_line("Start it, then add the other nodes again; each must begin with an empty data directory.")
    })
}

/// Returns the failure for a node that is the only voter: it would be a cluster of one before and
/// after.
fn nothing_to_recover(found: &Found, args: &RecoverArgs) -> Option<Failure> {
    let mut voters = found.members.iter().filter(|member| member.voter);
    let is_alone = voters.next().is_some_and(|voter| voter.me) && voters.next().is_none();
    is_alone.then(|| {
        let (name, directory) = (&found.name, args.raft_data_dir.display());
        Failure::new(format!(
            "nothing was changed, because there is nothing to recover: {name} is the only voter of its cluster, so it needs nobody to lead it"
        ))
        .hint(format!("start it with `lockstep node --raft_id={name} --raft_data_dir={directory}` and its addresses"))
        .hint("then add other nodes with `lockstep admin <its grpc_addr> add_voter <raft_id> <raft_addr>`")
    })
}

fn describe(found: &Found) -> Vec<String> {
    let place = |log_id: Option<LogId>| {
        log_id.map_or("none".into(), |log_id| format!("index {} of term {}", log_id.index, log_id.leader_id.term))
    };
    let mut lines = vec![
        format!(
            "{}: node {} of cluster {}, incarnation {}",
            found.path.display(),
            found.name,
            found.cluster.id_hex(),
            found.cluster.incarnation
        ),
        format!("last log entry:   {}", place(Some(found.last))),
        format!("known committed:  {}", place(found.committed)),
        format!("applied to state: {}", place(found.applied)),
        "members:".into(),
    ];
    for member in &found.members {
        let suffrage = if member.voter { "voter" } else { "nonvoter" };
        let here = if member.me { ", this node" } else { "" };
        lines.push(format!("  {}, {suffrage}{here}", member.node));
    }
    if let Some(index) = found.removed_at {
        lines.push(format!(
            "WARNING: this node was removed from the cluster before entry {index}; it misses what came after. Any other member is a \
             better survivor."
        ));
    }
    lines
}
