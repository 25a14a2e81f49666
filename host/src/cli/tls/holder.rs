//! Who a certificate is for, and how its names say so: nodes and clients of a named cluster. This
//! file owns the form `lockstep://<cluster>/node/<raft_id>` on the side that makes certificates,
//! and reads names from the command line. It makes no certificate.

use std::net::IpAddr;

use rustls::pki_types::DnsName;

use crate::trust::Role;

/// Name of a cluster whose operator gives it none.
pub(super) const CLUSTER_NAME: &str = "lockstep";
/// Longest name of a node, a client or a cluster. The same limit holds for --raft_id.
const NAME_BYTES_MAX: usize = 64;
/// Names of the other files in the directory.
const RESERVED: [&str; 2] = ["ca", "policy"];

/// Who holds a certificate, as its URI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) cluster: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

/// What a holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Client,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Client => "client",
        }
    }
}

impl Holder {
    /// Returns the URI that names the holder in its certificate.
    pub(super) fn uri(&self) -> String {
        format!("lockstep://{}/{}/{}", self.cluster, self.kind.word(), self.name)
    }

    /// Reads such a URI. `None` for every other one.
    pub(super) fn of_uri(uri: &str) -> Option<Holder> {
        let mut parts = uri.strip_prefix("lockstep://")?.split('/');
        let (cluster, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = [Kind::Node, Kind::Client].into_iter().find(|known| known.word() == kind)?;
        let is_whole = parts.next().is_none() && !cluster.is_empty() && !name.is_empty();
        is_whole.then(|| Holder { cluster: cluster.to_owned(), kind, name: name.to_owned() })
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} of the cluster {:?}", self.kind.word(), self.name, self.cluster)
    }
}

/// A node and the names under which others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeNames {
    /// Its --raft_id.
    pub(crate) name: String,
    /// Host names and IP addresses.
    pub(crate) hosts: Vec<Host>,
}

/// One name of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Dns(String),
    Ip(IpAddr),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Dns(name) => f.write_str(name),
            Host::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

impl NodeNames {
    /// Reads `nodeA=host,ip,…`; the hosts may be left out.
    pub(crate) fn parse(text: &str) -> Result<NodeNames, String> {
        let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
        let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        Ok(NodeNames { name: file_name(name)?, hosts: hosts.map(Host::parse).collect::<Result<_, _>>()? })
    }

    /// Returns all names of the certificate: the node's own name, as far as it can be one of a
    /// machine, then the hosts. None stands twice.
    pub(super) fn all_hosts(&self) -> Vec<Host> {
        let own = DnsName::try_from(self.name.as_str()).is_ok().then(|| Host::Dns(self.name.clone()));
        let mut hosts: Vec<Host> = own.into_iter().collect();
        for host in &self.hosts {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        hosts
    }
}

impl Host {
    /// Returns the names of this machine for itself.
    pub(super) fn this_machine() -> [Host; 3] {
        [
            Host::Dns("localhost".into()),
            Host::Ip(IpAddr::from([127, 0, 0, 1])),
            Host::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ]
    }

    fn parse(text: &str) -> Result<Host, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Host::Ip(ip));
        }
        if text.contains(':') {
            return Err(format!("{text:?} has a port; a certificate names a host, such as db1.example or 10.0.0.1"));
        }
        let plain = text.strip_prefix("*.").unwrap_or(text);
        match DnsName::try_from(plain) {
            Ok(_) => Ok(Host::Dns(text.to_owned())),
            Err(_) => Err(format!("{text:?} is neither a host name nor an IP address")),
        }
    }
}

/// A client and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientRole {
    pub(crate) name: String,
    pub(crate) role: Option<&'static str>,
}

impl ClientRole {
    /// Reads `alice:admin`. Without a role the policy is not touched.
    pub(crate) fn parse(text: &str) -> Result<ClientRole, String> {
        let Some((name, role)) = text.split_once(':') else {
            return Ok(ClientRole { name: file_name(text)?, role: None });
        };
        match Role::named(role) {
            Some(role) => Ok(ClientRole { name: file_name(name)?, role: Some(role.name()) }),
            None => {
                let roles = Role::ALL.map(Role::name).join(", ");
                Err(format!("there is no role {role:?}; the roles are {roles}"))
            }
        }
    }
}

/// Checks the name of a cluster. It stands in a URI.
pub(super) fn cluster_name(text: &str) -> Result<String, String> {
    plain(text).map(str::to_owned)
}

/// Checks a name that becomes a part of a URI and the name of a file.
fn file_name(text: &str) -> Result<String, String> {
    let name = plain(text)?;
    match RESERVED.contains(&name) || name.starts_with("ca-") {
        true => Err(format!("{name:?} is the name of another file of the directory; choose another name")),
        false => Ok(name.to_owned()),
    }
}

fn plain(name: &str) -> Result<&str, String> {
    let odd = name.chars().find(|&c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.' | '@'));
    match odd {
        Some(odd) => Err(format!("{odd:?} in {name:?} is not a letter, digit, '-', '_', '.' or '@'")),
        None if name.is_empty() => Err("the name is empty".into()),
        None if name.starts_with(['.', '-']) => Err(format!("{name:?} begins with '.' or '-'")),
        None if name.len() > NAME_BYTES_MAX => Err(format!("{name:?} is longer than {NAME_BYTES_MAX} bytes")),
        None => Ok(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_with_its_hosts() {
        let node = NodeNames::parse("nodeA=db1.example, 10.0.0.1,[::1],*.example").unwrap();
        let shown: Vec<String> = node.all_hosts().iter().map(Host::to_string).collect();
        assert_eq!(shown, ["nodeA", "db1.example", "10.0.0.1", "::1", "*.example"]);
        assert_eq!(NodeNames::parse("n_1").unwrap().hosts, []);
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_in_words() {
        for (text, expected) in [
            ("", "is empty"),
            ("a/b", "'/' in"),
            ("..=x", "begins with"),
            ("ca=x", "another file"),
            ("ca-2", "another file"),
            ("nodeA=db1:40051", "has a port"),
            ("nodeA=d b", "neither a host name"),
        ] {
            let refused = NodeNames::parse(text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
        assert!(ClientRole::parse("alice:root").unwrap_err().contains("reader, writer, operator, admin"));
        assert_eq!(ClientRole::parse("alice:admin").unwrap().role, Some("admin"));
    }

    #[test]
    fn a_uri_names_a_holder_and_other_uris_name_none() {
        let holder = Holder { cluster: "orders".into(), kind: Kind::Node, name: "nodeA".into() };
        assert_eq!(holder.uri(), "lockstep://orders/node/nodeA");
        assert_eq!(Holder::of_uri(&holder.uri()), Some(holder));
        for other in [
            "https://orders/node/nodeA",
            "lockstep://orders/node",
            "lockstep://orders/robot/x",
            "lockstep://a/node/b/c",
        ] {
            assert_eq!(Holder::of_uri(other), None, "{other}");
        }
    }
}
