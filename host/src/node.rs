//! Wires the rooms from bottom to top, and stops them from top to bottom. The only file that sees everything.

use std::future::Future;

use crate::config::NodeConfig;

/// A running node.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Opens the disk, binds the ports, joins the rooms.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Node> {
        anyhow::bail!("{} cannot run: this build has no node in it", config.name)
    }

    /// Serves until `stop` completes or the node cannot go on.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        stop.await;
        Ok(())
    }
}
