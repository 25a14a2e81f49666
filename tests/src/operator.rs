//! What an operator of a cluster does with its guest: `lockstep upgrade` and `lockstep rollback`,
//! as processes. This file judges no output.

use std::path::Path;
use std::process::Output;

use anyhow::Result;

use crate::{Cluster, lockstep_beside};

/// Runs `lockstep upgrade` against node `n`, with that file and the flags.
pub async fn upgrade(cluster: &Cluster, n: usize, file: &Path, flags: &[&str]) -> Result<Output> {
    upgrade_at(&cluster.nodes[n].grpc_addr(), file, flags).await
}

/// Runs `lockstep upgrade` against the node with this address, with that file and the flags.
pub async fn upgrade_at(addr: &str, file: &Path, flags: &[&str]) -> Result<Output> {
    let file = file.display().to_string();
    lockstep_beside(&[&["upgrade", addr, &file][..], flags].concat()).await
}

/// Runs `lockstep rollback` against node `n`, with the flags.
pub async fn rollback(cluster: &Cluster, n: usize, flags: &[&str]) -> Result<Output> {
    rollback_at(&cluster.nodes[n].grpc_addr(), flags).await
}

/// Runs `lockstep rollback` against the node with this address, with the flags.
pub async fn rollback_at(addr: &str, flags: &[&str]) -> Result<Output> {
    lockstep_beside(&[&["rollback", addr][..], flags].concat()).await
}
