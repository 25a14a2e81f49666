//! Several nodes as one cluster: formed as an operator forms it, and called as a client calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lockstep_processes::Node;
use tempfile::TempDir;

use crate::eventually;
use crate::network::Network;
use crate::pb::{
    AddRequest, AddVoterRequest, AppliedIndexRequest, Future, GetRequest, LeaderRequest,
    LeadershipTransferToServerRequest, RemoveServerRequest,
};
use crate::place::Place;
use crate::process::{NodeProcess, Options};
use crate::torture::disk::Disk;

/// Nodes in one temporary directory, which is removed when the value is dropped.
pub struct Cluster {
    /// Nodes in the order in which they were added. Their names are nodeA, nodeB, ...
    pub nodes: Vec<NodeProcess>,
    directory: TempDir,
    disk: Option<Disk>,
    network: Option<Network>,
}

/// Forms a cluster of `size` voters with the KV guest, all running.
pub async fn formed(size: usize, more: &[&str]) -> Result<Cluster> {
    formed_of(size, Options::member().with(more)).await
}

/// Forms a cluster of `size` voters that all have the same options.
pub async fn formed_of(size: usize, member: Options) -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    cluster.form(size, &member).await?;
    Ok(cluster)
}

/// Forms a cluster of `size` voters with the KV guest, in a network whose links can be cut.
pub async fn formed_in(network: Network, size: usize, more: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::inside(network)?;
    cluster.form(size, &Options::member().with(more)).await?;
    Ok(cluster)
}

impl Cluster {
    /// Makes a cluster without nodes.
    pub fn new() -> Result<Cluster> {
        Ok(Cluster { nodes: Vec::new(), directory: tempfile::tempdir()?, disk: None, network: None })
    }

    /// Makes a cluster without nodes whose nodes will be in a network with links that can be cut.
    pub fn inside(network: Network) -> Result<Cluster> {
        Ok(Cluster { network: Some(network), ..Cluster::new()? })
    }

    /// Starts `size` nodes with the same options and makes them voters. The first one bootstraps.
    pub async fn form(&mut self, size: usize, member: &Options) -> Result<()> {
        let first = self.push(Options { bootstrap: true, ..member.clone() })?;
        self.nodes[first].start().await?;
        for _ in 1..size {
            let n = self.push(member.clone())?;
            self.nodes[n].start().await?;
            self.add_voter(n).await?;
        }
        self.everyone_knows_everyone().await
    }

    /// Puts the data of all further nodes on a disk that can lose its power. Their logs stay where
    /// they are.
    pub fn on_disk(&mut self, disk: Disk) {
        self.disk = Some(disk);
    }

    /// Tells whether the nodes' data is on a disk that can lose its power.
    pub fn has_power_to_cut(&self) -> bool {
        self.disk.is_some()
    }

    /// Cuts the power: everything that no node has synced is lost. All nodes must have been killed.
    pub fn cut_power(&self) -> Result<()> {
        ensure!(self.nodes.iter().all(|node| !node.running()), "a node runs without power");
        self.disk.as_ref().context("an ordinary disk")?.cut_power();
        Ok(())
    }

    /// Ends all nodes and keeps their directory, for inspection.
    ///
    /// The content of the disk that loses its power is copied to `disk` in that directory.
    pub fn keep(mut self) -> PathBuf {
        self.nodes.clear();
        if let Some(disk) = &self.disk {
            let copied = Command::new("cp").arg("-r").arg(disk.path()).arg(self.directory.path().join("disk")).status();
            if !copied.is_ok_and(|status| status.success()) {
                eprintln!("what was on the disk could not be kept");
            }
        }
        self.directory.disable_cleanup(true);
        self.directory.path().to_path_buf()
    }

    /// Returns the nodes' `--raft_data_dir`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the network of [`formed_in`].
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("formed by formed_in")
    }

    /// Adds another node, not yet started, and returns its place.
    pub fn push(&mut self, options: Options) -> Result<usize> {
        let n = self.nodes.len();
        let name = Node::name_at(n);
        let place = match &mut self.network {
            Some(network) => network.place()?,
            None => Place::on_loopback()?,
        };
        let mut node = NodeProcess::at(place, &name, self.directory.path(), options);
        if let Some(disk) = &self.disk {
            node.data_dir = disk.path().to_path_buf();
        }
        self.nodes.push(node);
        Ok(n)
    }

    /// Adds node `n` as a voter through the leader, and waits for the operation.
    pub async fn add_voter(&self, n: usize) -> Result<u64> {
        let leader = self.leader().await?;
        let mut manager = self.nodes[leader].manager().await?;
        let previous_index = manager.applied_index(AppliedIndexRequest {}).await?.into_inner().index;
        let request =
            AddVoterRequest { id: self.nodes[n].name.clone(), address: self.nodes[n].raft_addr(), previous_index };
        let operation = manager.add_voter(request).await?.into_inner();
        self.finish(leader, operation).await
    }

    /// Removes node `n` from the membership through the leader, and waits for the operation.
    /// Its process keeps running.
    pub async fn remove(&self, n: usize) -> Result<u64> {
        let leader = self.leader().await?;
        let mut manager = self.nodes[leader].manager().await?;
        let previous_index = manager.applied_index(AppliedIndexRequest {}).await?.into_inner().index;
        let request = RemoveServerRequest { id: self.nodes[n].name.clone(), previous_index };
        let operation = manager.remove_server(request).await?.into_inner();
        self.finish(leader, operation).await
    }

    /// Ends the last node, deletes its data and returns its name.
    pub fn drop_last(&mut self) -> Result<String> {
        let mut last = self.nodes.pop().context("no node")?;
        last.kill()?;
        std::fs::remove_dir_all(last.data_dir.join(&last.name))?;
        // Without the sync a power cut would restore the directory.
        std::fs::File::open(&last.data_dir)?.sync_all()?;
        Ok(last.name.clone())
    }

    /// Waits until every node has applied the configuration with all of them as voters.
    pub async fn everyone_knows_everyone(&self) -> Result<()> {
        eventually("every node knows every voter", || async {
            for node in &self.nodes {
                let stat = node.status().await?;
                let voters = stat["nodes"].as_array().context("no nodes")?.iter();
                let voters = voters.filter(|node| node["suffrage"] == "Voter").count();
                ensure!(voters == self.nodes.len() && stat["mode"] == "serving", "{} sees {voters} voters", node.name);
            }
            Ok(())
        })
        .await
    }

    /// Awaits and forgets an operation of node `n`. Fails if the operation failed.
    pub async fn finish(&self, n: usize, operation: Future) -> Result<u64> {
        let mut manager = self.nodes[n].manager().await?;
        let done = manager.r#await(operation.clone()).await?.into_inner();
        manager.forget(operation).await?;
        ensure!(done.error.is_empty(), "{}", done.error);
        Ok(done.index)
    }

    /// Returns the place of the leader, once all running nodes agree on it.
    pub async fn leader(&self) -> Result<usize> {
        eventually("all running nodes agree on a leader", || async {
            let mut seen = None;
            for node in self.nodes.iter().filter(|node| node.running()) {
                let name = node.manager().await?.leader(LeaderRequest {}).await?.into_inner().server_id;
                // A node that was not yet added knows no leader.
                if name.is_empty()
                    && !node.status().await.is_ok_and(|stat| stat["nodes"].as_array().is_some_and(|n| !n.is_empty()))
                {
                    continue;
                }
                ensure!(!name.is_empty(), "{} knows no leader", node.name);
                ensure!(seen.replace(name.clone()).is_none_or(|before| before == name), "two opinions");
            }
            let name = seen.context("nobody runs")?;
            let place = self.nodes.iter().position(|node| node.name == name).context("an unknown leader")?;
            ensure!(self.nodes[place].running(), "{name} is dead");
            Ok(place)
        })
        .await
    }

    /// Returns the place of the leader on which all nodes but `without` agree. It is another node
    /// than `without`.
    pub async fn leader_without(&self, without: usize) -> Result<usize> {
        eventually("the others have a leader", || async {
            let mut leaders = Vec::new();
            for node in self.nodes.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, node)| node) {
                let name = node.stat().await?["leader"]["node_id"].clone();
                leaders.push(self.nodes.iter().position(|node| name == node.name.as_str()).context("no leader")?);
            }
            ensure!(leaders.iter().all(|leader| *leader == leaders[0]), "two opinions");
            ensure!(leaders[0] != without, "they still follow {}", self.nodes[without].name);
            Ok(leaders[0])
        })
        .await
    }

    /// Makes node `to` the leader, whoever is at the moment. Returns when all running nodes agree.
    pub async fn hand_over(&self, to: usize) -> Result<()> {
        eventually("the lead is handed over", || async {
            let leader = self.leader().await?;
            if leader != to {
                let (id, address) = (self.nodes[to].name.clone(), self.nodes[to].raft_addr());
                let request = LeadershipTransferToServerRequest { id, address };
                let mut manager = self.nodes[leader].manager().await?;
                let operation = manager.leadership_transfer_to_server(request).await?.into_inner();
                self.finish(leader, operation).await?;
            }
            ensure!(self.leader().await? == to, "another node leads");
            Ok(())
        })
        .await
    }

    /// Returns the highest term of all nodes.
    pub async fn term(&self) -> Result<u64> {
        let mut highest = 0;
        for node in &self.nodes {
            let stat = node.stat().await?;
            highest = highest.max(stat["raft"]["term"].as_u64().context("Stat holds no raft.term")?);
        }
        Ok(highest)
    }

    /// Returns a running node that is not the leader.
    pub async fn follower(&self) -> Result<usize> {
        let leader = self.leader().await?;
        (0..self.nodes.len()).find(|n| *n != leader && self.nodes[*n].running()).context("no follower runs")
    }

    /// Writes through node `n` and returns the commit index.
    pub async fn add(&self, n: usize, key: &str, val: &str) -> Result<u64> {
        let request = AddRequest { key: key.into(), val: val.into() };
        Ok(self.nodes[n].client().await?.add(request).await?.into_inner().commit_index)
    }

    /// Reads at node `n`.
    pub async fn get(&self, n: usize, key: &str, linearizable: bool) -> Result<String> {
        let request = GetRequest { key: key.into(), linearizable };
        Ok(self.nodes[n].client().await?.get(request).await?.into_inner().value)
    }

    /// Waits until all running nodes have the same state hash at the same index.
    /// Fails if a node ever saw another hash.
    pub async fn everyone_has_one_hash(&self) -> Result<()> {
        self.hashes_agree().await?;
        for node in self.nodes.iter().filter(|node| node.running()) {
            let fsm = node.status().await?["fsm"].take();
            ensure!(fsm["state_hash_mismatches"] == 0, "{} saw another hash: {fsm}", node.name);
        }
        Ok(())
    }

    /// Waits until all running nodes have the same state hash at the same index.
    /// Earlier differences do not matter.
    pub async fn hashes_agree(&self) -> Result<()> {
        eventually("one state hash", || async {
            let mut seen = None;
            for node in self.nodes.iter().filter(|node| node.running()) {
                let fsm = node.status().await?["fsm"].take();
                let here = (fsm["state_hash_index"].as_u64(), fsm["state_hash"].to_string());
                let before = seen.get_or_insert(here.clone());
                ensure!(*before == here, "{}: {here:?}, others {before:?}", node.name);
            }
            Ok(())
        })
        .await
    }

    /// Checks that every running node returns `value` for a linearizable read.
    pub async fn everyone_reads(&self, key: &str, value: &str) -> Result<()> {
        for n in (0..self.nodes.len()).filter(|n| self.nodes[*n].running()) {
            let got = self.get(n, key, true).await?;
            if got != value {
                bail!("{} reads {got:?} at {key:?} instead of {value:?}", self.nodes[n].name);
            }
        }
        Ok(())
    }
}
