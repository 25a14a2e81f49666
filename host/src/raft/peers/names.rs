//! Who each node is by name, and whether a certificate may speak for it. A node's certificate has
//! its `--raft_id`, and messages have node ids: this file holds what joins the two. It decides
//! nothing about connections without a certificate: `tls` has decided whether there may be any.
//!
//! - A member's name is the one in the membership.
//! - The cluster of a certificate must be that of this node's own certificate.
//! - Any other node has the name that it has proven first, for as long as this process lives. It
//!   may be new, or this process may not have the membership yet.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_proto::peer::Route;
use parking_lot::{Mutex, RwLock};
use tonic::Status;

use crate::logs::{Foreign, Sparse};
use crate::net::Remote;
use crate::tls::{Certificate, Connector};
use crate::types::NodeId;

/// Most ids that are remembered for one name. A node that starts with an empty directory has a new
/// one. The number of names is limited by the certificates that were made.
const IDS_PER_NAME_MAX: usize = 16;

/// Most bytes of a name in a text.
const NAME_BYTES_MAX: usize = 64;

/// Returns the name of a node in the membership.
pub type NameBook = Box<dyn Fn(NodeId) -> Option<String> + Send + Sync>;

/// The names of the nodes. Clones share them.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    /// Has this node's own certificate, which names the cluster.
    own: Connector,
    mine: String,
    members: RwLock<Option<NameBook>>,
    /// Nodes that are no members and the names that they have proven. The oldest ones are first.
    proven: Mutex<Vec<(NodeId, String)>>,
    refused: AtomicU64,
    /// Limits the log lines about refused certificates.
    refusals: Sparse,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Names({:?} of {:?})", self.0.mine, self.cluster())
    }
}

/// Why a certificate may not speak as a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is no certificate of a node.
    #[error("{certificate} names no node{}", of_cluster(cluster))]
    NoNode {
        /// The certificate, described.
        certificate: String,
        /// This cluster's name.
        cluster: String,
    },
    /// It names another node.
    #[error("{certificate} does not name node {claimed:?}{}, as which the other end speaks", of_cluster(cluster))]
    OtherNode {
        /// The certificate, described.
        certificate: String,
        /// The node for which it speaks.
        claimed: String,
        /// This cluster's name.
        cluster: String,
    },
    /// The sender gives itself a name that is not its own.
    #[error("node {id:016x} is {known:?}, and a message in its name, with {certificate}, says that it is {claimed:?}")]
    OtherName {
        /// The sender.
        id: NodeId,
        /// The name that it has.
        known: String,
        /// The name that it gives itself.
        claimed: String,
        /// The certificate, described.
        certificate: String,
    },
}

impl From<NameError> for Status {
    fn from(error: NameError) -> Status {
        Status::permission_denied(error.to_string())
    }
}

impl Names {
    /// Creates the names as a node knows them. `own` has its certificate, and `mine` is its name.
    pub fn new(own: Connector, mine: impl Into<String>) -> Names {
        Names(Arc::new(Inner {
            own,
            mine: mine.into(),
            members: RwLock::default(),
            proven: Mutex::default(),
            refused: AtomicU64::new(0),
            refusals: Sparse::default(),
        }))
    }

    /// Returns this node's own name.
    pub fn mine(&self) -> &str {
        &self.0.mine
    }

    /// Sets the source of the members' names, in place of the one before.
    pub fn set_members(&self, members: NameBook) {
        *self.0.members.write() = Some(members);
    }

    /// Returns how many messages and answers were refused for their certificate.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Checks whether `remote` may send a message with this route.
    pub fn admit(&self, route: &Route, remote: &Remote) -> Result<(), Status> {
        let Some(certificate) = &remote.certificate else { return Ok(()) };
        let speaks = self.speaks(route.from, &route.from_name, certificate);
        speaks.map_err(|error| self.refuse(error, Some(remote.address)))
    }

    /// Checks whether `remote` may send a message that has no route. Any node may.
    pub fn admit_any(&self, remote: &Remote) -> Result<(), Status> {
        let Some(certificate) = &remote.certificate else { return Ok(()) };
        match certificate.node_of(&self.cluster()).is_empty() {
            false => Ok(()),
            true => Err(self.refuse(self.no_node(certificate), Some(remote.address))),
        }
    }

    /// Checks whether the other end of a connection may be, or may speak of itself as, the node
    /// with that name.
    pub fn admit_as(&self, name: &str, certificate: &Certificate) -> Result<(), Status> {
        self.names(certificate, name).map_err(|error| self.refuse(error, None))
    }

    fn speaks(&self, from: NodeId, claimed: &str, certificate: &Certificate) -> Result<(), NameError> {
        match self.known(from) {
            Some(known) => self.speaks_as(from, known, claimed, certificate),
            None => self.prove(from, claimed, certificate),
        }
    }

    /// Checks a message of a node that has a name.
    fn speaks_as(
        &self,
        from: NodeId,
        known: String,
        claimed: &str,
        certificate: &Certificate,
    ) -> Result<(), NameError> {
        if !claimed.is_empty() && claimed != known {
            return Err(NameError::OtherName {
                id: from,
                known,
                claimed: short(claimed),
                certificate: describe(certificate),
            });
        }
        self.names(certificate, &known)
    }

    /// Gives a node of which nothing is known the name that its certificate proves.
    fn prove(&self, id: NodeId, claimed: &str, certificate: &Certificate) -> Result<(), NameError> {
        let name = match claimed {
            // An earlier build says no name.
            "" => certificate.node_of(&self.cluster()).first().copied().ok_or_else(|| self.no_node(certificate))?,
            claimed => claimed,
        };
        let name = name.to_owned();
        self.names(certificate, &name)?;
        let mut proven = self.0.proven.lock();
        // Another message of the node may have come first.
        if let Some((_, known)) = proven.iter().find(|(proven, _)| *proven == id) {
            return self.speaks_as(id, known.clone(), claimed, certificate);
        }
        let of_name = proven.iter().filter(|(_, known)| *known == name).count();
        if of_name >= IDS_PER_NAME_MAX
            && let Some(oldest) = proven.iter().position(|(_, known)| *known == name)
        {
            proven.remove(oldest);
        }
        proven.push((id, name));
        Ok(())
    }

    fn known(&self, id: NodeId) -> Option<String> {
        let member = self.0.members.read().as_ref().and_then(|members| members(id));
        member.filter(|name| !name.is_empty()).or_else(|| {
            let proven = self.0.proven.lock();
            proven.iter().find(|(proven, _)| *proven == id).map(|(_, name)| name.clone())
        })
    }

    fn names(&self, certificate: &Certificate, name: &str) -> Result<(), NameError> {
        match certificate.is_node(&self.cluster(), name) {
            true => Ok(()),
            false => Err(NameError::OtherNode {
                certificate: describe(certificate),
                claimed: short(name),
                cluster: self.cluster(),
            }),
        }
    }

    fn no_node(&self, certificate: &Certificate) -> NameError {
        NameError::NoNode { certificate: describe(certificate), cluster: self.cluster() }
    }

    fn cluster(&self) -> String {
        self.0.own.cluster()
    }

    fn refuse(&self, error: NameError, address: Option<SocketAddr>) -> Status {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.0.refusals.due() {
            let (text, from) = (error.to_string(), address.map(tracing::field::display));
            tracing::warn!(error = %Foreign(&text), from, left_out, "refused a peer for its certificate");
        }
        error.into()
    }
}

/// Describes a certificate so that an operator finds it.
fn describe(certificate: &Certificate) -> String {
    let print = certificate.fingerprint.get(..16).unwrap_or(&certificate.fingerprint);
    let names = certificate.describe();
    let names = &names[..names.floor_char_boundary(4 * NAME_BYTES_MAX)];
    format!("the certificate of {names:?} (SHA-256 {print}...)")
}

fn of_cluster(cluster: &str) -> String {
    match cluster {
        "" => String::new(),
        cluster => format!(" of the cluster {cluster:?}"),
    }
}

fn short(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

#[cfg(test)]
#[path = "names_tests.rs"]
pub(in crate::raft) mod tests;
