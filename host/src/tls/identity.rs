//! Whom a certificate names: a node, a client, or neither. Knows nothing of what they may do.
//!
//! | alternative name | names |
//! |---|---|
//! | URI `lockstep://<cluster>/node/<raft_id>` | the node of that cluster |
//! | DNS `<raft_id>` or `<raft_id>.more`, and no URI of ours | the node, if we know no cluster |
//! | URI `lockstep://<cluster>/client/<name>` | the client of that cluster |
//! | common name, else DNS, and no URI of ours | the client |

use super::Certificate;

/// How a URI of Lockstep begins.
const SCHEME: &str = "lockstep://";

/// Most names, and most characters of each, that people are shown.
const SHOWN_NAMES_MAX: usize = 4;
const SHOWN_CHARS_MAX: usize = 128;

/// One URI of Lockstep.
struct Named<'a> {
    cluster: &'a str,
    /// `node` or `client`.
    kind: &'a str,
    name: &'a str,
}

impl Named<'_> {
    fn parse(uri: &str) -> Option<Named<'_>> {
        let (cluster, rest) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let (kind, name) = rest.split_once('/')?;
        (!cluster.is_empty() && !name.is_empty()).then_some(Named { cluster, kind, name })
    }
}

impl Certificate {
    /// Returns the nodes that it names in that cluster, by their `--raft_id`. An empty `cluster`
    /// stands for any, and only then a name from DNS counts.
    ///
    /// A name from DNS may differ in case; [`Certificate::is_node`] knows.
    pub fn node_of(&self, cluster: &str) -> Vec<&str> {
        if self.has_uri() {
            let of_cluster = |named: &Named<'_>| cluster.is_empty() || named.cluster == cluster;
            return self.named("node").filter(of_cluster).map(|named| named.name).collect();
        }
        if !cluster.is_empty() {
            return Vec::new();
        }
        self.first_labels().collect()
    }

    /// Returns whether it names that node of that cluster. An empty `cluster` stands for any, and
    /// only then a name from DNS counts: it does not say of which cluster it is.
    pub fn is_node(&self, cluster: &str, raft_id: &str) -> bool {
        if self.has_uri() || !cluster.is_empty() {
            return self.node_of(cluster).contains(&raft_id);
        }
        // A --raft_id may have dots, so the whole name counts as well.
        let names = self.dns_names.iter().map(String::as_str).chain(self.first_labels());
        names.into_iter().any(|name| name.eq_ignore_ascii_case(raft_id))
    }

    /// Returns the cluster of which it names that node. `None` if it names no cluster.
    pub fn cluster_of(&self, raft_id: &str) -> Option<&str> {
        self.named("node").find(|named| named.name == raft_id).map(|named| named.cluster)
    }

    /// Returns whether it says in so many words that its holder is a node. Such a holder is no
    /// client.
    pub fn is_of_node(&self) -> bool {
        self.named("node").next().is_some()
    }

    /// Returns the name of the client of that cluster. An empty `cluster` stands for any.
    ///
    /// With a URI of Lockstep it is the one in a client's URI of that cluster, and otherwise the
    /// common name, else the first DNS name. Empty if there is none.
    pub fn subject(&self, cluster: &str) -> String {
        if self.has_uri() {
            let mut clients = self.named("client").filter(|named| cluster.is_empty() || named.cluster == cluster);
            return clients.next().map(|named| named.name).unwrap_or_default().to_owned();
        }
        let common_name = Some(self.common_name.as_str()).filter(|name| !name.is_empty());
        let dns_name = self.dns_names.first().map(String::as_str);
        common_name.or(dns_name).unwrap_or_default().to_owned()
    }

    /// Returns whom it names, for people. At most the first few names.
    pub fn describe(&self) -> String {
        let short = |name: &String| name.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        let names: Vec<String> = self.uris.iter().chain(&self.dns_names).take(SHOWN_NAMES_MAX).map(short).collect();
        match names.is_empty() {
            false => names.join(", "),
            true if self.common_name.is_empty() => "nobody".into(),
            true => format!("CN={}", short(&self.common_name)),
        }
    }

    fn has_uri(&self) -> bool {
        self.uris.iter().any(|uri| uri.starts_with(SCHEME))
    }

    fn named(&self, kind: &'static str) -> impl Iterator<Item = Named<'_>> {
        self.uris.iter().filter_map(|uri| Named::parse(uri)).filter(move |named| named.kind == kind)
    }

    fn first_labels(&self) -> impl Iterator<Item = &str> {
        let labels = self.dns_names.iter().filter_map(|name| name.split('.').next());
        // A wildcard names no node.
        labels.filter(|label| !label.is_empty() && *label != "*")
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn certificate(uris: &[&str], dns_names: &[&str], common_name: &str) -> Certificate {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Certificate {
            common_name: common_name.into(),
            uris: owned(uris),
            dns_names: owned(dns_names),
            not_after: UNIX_EPOCH,
            fingerprint: String::new(),
        }
    }

    #[test]
    fn a_uri_names_one_node_of_one_cluster_and_then_dns_names_nobody() {
        let node = certificate(&["lockstep://prod/node/nodeA"], &["nodeB", "localhost"], "nodeC");
        assert_eq!(node.node_of("prod"), ["nodeA"]);
        assert_eq!(node.node_of(""), ["nodeA"]);
        assert!(node.node_of("test").is_empty());
        assert!(node.is_node("prod", "nodeA") && node.is_node("", "nodeA") && !node.is_node("test", "nodeA"));
        for other in ["nodeB", "nodea", "localhost", "nodeC", ""] {
            assert!(!node.is_node("prod", other), "{other}");
        }
        assert_eq!(node.cluster_of("nodeA"), Some("prod"));
        assert!(node.is_of_node());
    }

    #[test]
    fn without_a_uri_of_ours_the_first_label_of_a_dns_name_is_the_node() {
        let node = certificate(&["spiffe://x/y"], &["nodea.lockstep.svc", "*.example", "db.1"], "nodeC");
        assert!(node.is_node("", "nodeA") && node.is_node("", "NODEA") && node.is_node("", "db.1"));
        assert!(!node.is_node("", "nodeC") && !node.is_node("", "*") && !node.is_node("", "lockstep"));
        assert_eq!(node.node_of(""), ["nodea", "db"]);
        assert!(node.node_of("prod").is_empty() && !node.is_node("prod", "nodeA"), "it names no cluster");
        assert_eq!(node.cluster_of("nodeA"), None);
        assert!(!node.is_of_node());
    }

    #[test]
    fn a_client_is_no_node_and_has_a_name() {
        let client = certificate(&["lockstep://prod/client/team/alice"], &["nodeA"], "Alice");
        assert!(client.node_of("").is_empty() && !client.is_node("", "nodeA") && !client.is_of_node());
        assert_eq!((client.subject("prod"), client.subject("")), ("team/alice".into(), "team/alice".into()));
        assert_eq!(client.subject("test"), "", "it is of another cluster, and its other names do not count");
        let of_two = certificate(&["lockstep://test/client/bob", "lockstep://prod/client/alice"], &[], "");
        assert_eq!((of_two.subject("prod"), of_two.subject("test")), ("alice".into(), "bob".into()));
        assert_eq!(certificate(&["lockstep://prod/node/nodeA"], &[], "Alice").subject(""), "");
        assert_eq!(certificate(&[], &["a.example"], "bob").subject("prod"), "bob");
        assert_eq!(certificate(&["http://x"], &["a.example"], "").subject("prod"), "a.example");
        assert_eq!(certificate(&[], &[], "").subject(""), "");
    }

    #[test]
    fn a_uri_that_is_cut_short_names_nobody() {
        let uris =
            ["lockstep://", "lockstep://prod", "lockstep://prod/node", "lockstep://prod/node/", "lockstep:///node/a"];
        for uri in uris {
            let node = certificate(&[uri], &["nodeA"], "");
            assert!(node.node_of("").is_empty() && !node.is_node("", "nodeA") && !node.is_node("", "a"), "{uri}");
        }
    }
}
