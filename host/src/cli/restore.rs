//! `lockstep restore`: makes a data directory from a backup, on this machine, with no node running.
//! `node/restore.rs` does the work.

use std::path::PathBuf;

use super::called::as_called;
use super::report::print_line;
use crate::config::NodeConfig;
use crate::node::restore::{Restored, restore};

const AFTER_HELP: &str = "\
The directory <raft_data_dir>/<raft_id> must be empty or not there. What is made is the first node of a *new* cluster, with an id of its
own, that goes on from the state and the index of the backup; the component comes with the backup, and no --raft_bootstrap is needed. Members of the old cluster
do not belong to it. Other nodes are added to it as to any cluster. If members of the old cluster still run and speak to the addresses of this
node, it serves nothing and says so: stop them, or start it once with --raft_bootstrap=force.

Examples:
  lockstep restore --from today.backup --raft_id=nodeA --raft_data_dir /srv/lockstep
  lockstep node --raft_id=nodeA --raft_data_dir /srv/lockstep";

/// Prepare the data directory of a new cluster's first node from a backup.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RestoreArgs {
    /// A file that `lockstep backup` wrote
    #[arg(long = "from", value_name = "FILE")]
    from: PathBuf,

    /// Name of the node, unique in its cluster; also the name of its data directory
    #[arg(long = "raft_id", env = "LOCKSTEP_RAFT_ID", value_name = "NAME")]
    raft_id: String,

    /// Directory that holds one directory for each node
    #[arg(long = "raft_data_dir", env = "LOCKSTEP_RAFT_DATA_DIR", value_name = "DIR", default_value = crate::config::RAFT_DATA_DIR)]
    raft_data_dir: PathBuf,
}

/// Restores one backup.
pub(crate) fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = NodeConfig {
        name: args.raft_id.clone(),
        raft_data_dir: std::path::absolute(&args.raft_data_dir)?,
        ..NodeConfig::default()
    };
    config.validate()?;
    let Restored { directory, index, rows, cluster, component } =
        restore(&args.from, &config.data_dir(), &config.name)?;
    print_line(format!(
        "restored {rows} rows as of index {index} into {}\nnew cluster {cluster}, component {component}",
        directory.display()
    ))?;
    print_line(as_called(&format!(
        "start it with: lockstep node --raft_id={} --raft_data_dir={}",
        args.raft_id,
        args.raft_data_dir.display()
    )))
}
