//! The name of the cluster that a node's own certificates give it. Reads no file.

use super::Server;

/// What names a node's cluster. It follows new files. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwnCluster {
    /// This node's `--raft_id`.
    pub raft_id: String,
    /// Has the certificate for peers.
    pub peers: Server,
    /// Has the certificate for clients, which counts if the one for peers names no cluster.
    pub clients: Server,
}

impl OwnCluster {
    /// Returns the name of the cluster. Empty if no certificate names one.
    pub fn name(&self) -> String {
        let named = |port: &Server| port.own().and_then(|own| own.cluster_of(&self.raft_id).map(str::to_owned));
        named(&self.peers).or_else(|| named(&self.clients)).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::made::{Made, Says};
    use super::super::{Audience, MinVersion, Mode, ServerSettings};
    use super::*;

    #[test]
    fn the_certificate_for_peers_names_the_cluster_before_that_for_clients() {
        let made = Made::new();
        let says = Says { uri: Some("lockstep://other/node/nodeA"), dns: Some("nodeA"), ..Says::default() };
        let open = |files, audience| Server::open(ServerSettings { mode: Mode::Require, files, audience }).unwrap();
        let clients = open(made.files("clients", says), Audience::Clients { min_version: MinVersion::Tls13 });
        let peers = open(made.node("nodeA"), Audience::Peers { raft_id: "nodeA".into() });
        let name = |peers: &Server, clients: &Server| {
            OwnCluster { raft_id: "nodeA".into(), peers: peers.clone(), clients: clients.clone() }.name()
        };
        assert_eq!(name(&peers, &clients), "prod");
        assert_eq!(name(&Server::plain(), &clients), "other");
        assert_eq!(name(&Server::plain(), &Server::plain()), "");
    }
}
