//! The guests that are changed, each in three versions, and what must hold of the whole state of a
//! version. This file changes nothing.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::locks_pb::locks_client::LocksClient;
use crate::orders_pb::orders_client::OrdersClient;
use crate::{Cluster, eventually, locks_pb, orders_pb, version_wasm};

/// A guest with the versions 1, 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Keys and values. Each version adds a field to the rows and has no migration.
    Kv,
    /// A lock service. Each version migrates all rows.
    Locks,
    /// An order book. Version 2 makes an index, version 3 makes it anew.
    Orders,
}

impl Guest {
    /// All guests.
    pub const ALL: [Guest; 3] = [Guest::Kv, Guest::Locks, Guest::Orders];

    /// Returns its name on the command line, which is also that of its files.
    pub fn name(self) -> &'static str {
        match self {
            Guest::Kv => "kv",
            Guest::Locks => "locks",
            Guest::Orders => "orders",
        }
    }

    /// Returns the guest with this name.
    pub fn named(name: &str) -> Option<Guest> {
        Guest::ALL.into_iter().find(|guest| guest.name() == name)
    }

    /// Returns the component of a version.
    pub fn component(self, version: u32) -> PathBuf {
        version_wasm(self.name(), version)
    }

    /// Checks the whole state of every node, which runs this version: no row is left as an earlier
    /// version wrote it, and every index finds every row.
    pub async fn check(self, cluster: &Cluster, version: u32) -> Result<()> {
        for n in 0..cluster.nodes.len() {
            eventually("the state can be read", || async {
                match self {
                    Guest::Kv => Ok(()),
                    Guest::Locks => check_locks(cluster, n, version).await,
                    Guest::Orders => check_orders(cluster, n, version).await,
                }
            })
            .await?;
        }
        Ok(())
    }
}

async fn check_locks(cluster: &Cluster, n: usize, version: u32) -> Result<()> {
    if version == 1 {
        return Ok(());
    }
    let mut client = LocksClient::new(cluster.nodes[n].connect().await?);
    let counted = client.count(locks_pb::CountRequest { linearizable: true }).await?.into_inner();
    ensure!(counted.texts == 0 && counted.locks > 0, "node {n}, version {version}: {counted:?}");
    Ok(())
}

async fn check_orders(cluster: &Cluster, n: usize, version: u32) -> Result<()> {
    let mut client = OrdersClient::new(cluster.nodes[n].connect().await?);
    let checked = client.check(orders_pb::CheckRequest { linearizable: true }).await?.into_inner();
    let entries = if version == 1 { 0 } else { checked.orders };
    ensure!(
        checked.orders > 0 && checked.entries == entries && checked.missed == 0,
        "node {n}, version {version}: {checked:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for guest in Guest::ALL {
            assert_eq!(Guest::named(guest.name()), Some(guest));
        }
        assert_eq!(Guest::named("tally"), None);
    }
}
