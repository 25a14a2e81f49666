//! `lockstep tls init`: makes what is missing in a directory of certificates, and says what it made
//! and how nodes and clients are started with it.

use std::path::{Path, PathBuf};

use super::authority::{Authority, BUNDLE};
use super::certificate::{Certificate, date};
use super::files::{Files, Found};
use super::holder::{ClientRole, Host, Kind, NodeNames, cluster_name};
use super::policy;
use crate::cli::called::as_called;
use crate::cli::report::{Failure, print_line};

const AFTER_HELP: &str = "\
It is meant for a trial, or for a cluster without an authority of its own. Called again, it makes only what is missing:
another node, another client. Keep ca.key where no node is; each node needs its own two files and ca.pem, each client, too.

A change of authority takes three steps, with copies of the files to nodes and clients between them: --new_ca makes ca-2.pem and
ca-bundle.pem, which trusts both; --renew makes all certificates anew, by the newest authority; then ca-2.pem alone is trusted.

Examples:
  lockstep tls init certs --node nodeA=db1.example,10.0.0.1 --node nodeB=db2.example --client alice:admin
  lockstep tls init certs --client bob:writer
  lockstep tls init certs --renew
  lockstep tls init certs --new_ca";

/// Make a certificate authority, certificates for nodes and clients, and a policy.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct InitArgs {
    /// Directory of the files; it is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// A node, by its --raft_id, and the names and IP addresses under which others reach it; may be
    /// given several times
    #[arg(long = "node", value_name = "NAME=HOST,IP,…", value_parser = NodeNames::parse)]
    nodes: Vec<NodeNames>,

    /// A client and its role in the policy: reader, writer, operator or admin; may be given several
    /// times
    #[arg(long = "client", value_name = "NAME:ROLE", value_parser = ClientRole::parse)]
    clients: Vec<ClientRole>,

    /// Name of the cluster, which stands in every certificate [default: lockstep, or that of the
    /// authority that is there]
    #[arg(long = "cluster_name", value_name = "NAME", value_parser = cluster_name)]
    cluster_name: Option<String>,

    /// How long the certificates hold
    #[arg(long = "days", value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,

    /// Leave localhost, 127.0.0.1 and ::1 out of the nodes' certificates
    #[arg(long = "no_localhost")]
    no_localhost: bool,

    /// Make the named certificates anew, or all of the directory when none is named; those of nodes
    /// keep their hosts unless others are given
    #[arg(long = "renew")]
    renew: bool,

    /// Make another authority, and a bundle of all that trusts each of them
    #[arg(long = "new_ca", conflicts_with = "renew")]
    new_authority: bool,
}

/// What is to be in the directory.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) directory: PathBuf,
    pub(crate) nodes: Vec<NodeNames>,
    pub(crate) clients: Vec<ClientRole>,
    pub(crate) cluster_name: Option<String>,
    pub(crate) days: u32,
    /// Whether the certificates of nodes also name this machine as it names itself.
    pub(crate) localhost: bool,
    pub(crate) renew: bool,
    pub(crate) new_authority: bool,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) cluster: String,
    /// A line for each thing that was made.
    pub(crate) lines: Vec<String>,
    /// A line for each thing that was there.
    pub(crate) kept: Vec<String>,
    /// A line for each client whose role is not what the caller may think.
    pub(crate) notes: Vec<String>,
}

/// Makes what is missing, and prints it.
pub(super) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let wanted = Wanted {
        directory: args.directory.clone(),
        nodes: args.nodes.clone(),
        clients: args.clients.clone(),
        cluster_name: args.cluster_name.clone(),
        days: args.days,
        localhost: !args.no_localhost,
        renew: args.renew,
        new_authority: args.new_authority,
    };
    let made = make(&wanted)?;
    let place = wanted.directory.display();
    match made.lines.is_empty() {
        true => print_line(format!("everything was there in {place}, for the cluster {:?}", made.cluster))?,
        false => print_line(format!("made in {place}, for the cluster {:?}:", made.cluster))?,
    }
    made.lines.iter().try_for_each(|line| print_line(format!("  {line}")))?;
    made.kept.iter().try_for_each(|line| print_line(format!("kept: {line}")))?;
    made.notes.iter().try_for_each(|line| print_line(format!("note: {line}")))?;
    tell_flags(&wanted)
}

/// Makes what is missing.
pub(crate) fn make(wanted: &Wanted) -> anyhow::Result<Made> {
    check(wanted)?;
    let files = Files::open(&wanted.directory)?;
    let found = Authority::newest(&files, wanted.cluster_name.as_deref());
    let (found, is_new) = match found {
        // An expired authority is no reason against another one.
        Err(_) if wanted.new_authority => (None, true),
        found => (found?, wanted.new_authority),
    };
    let mut made = Made { cluster: String::new(), lines: Vec::new(), kept: Vec::new(), notes: Vec::new() };
    let authority = match found {
        Some(found) if !is_new => {
            made.kept.push(format!("{}.pem, the authority, until {}", found.name, date(found.not_after)));
            found
        }
        before => {
            let named = wanted.cluster_name.clone().or_else(|| before.map(|before| before.cluster));
            let cluster = named.unwrap_or_else(|| super::holder::CLUSTER_NAME.to_owned());
            let authority = Authority::make(&files, &cluster, wanted.days)?;
            let (name, end) = (&authority.name, date(authority.not_after));
            made.lines
                .push(format!("{name}.pem {name}.key  the authority, until {end}; keep {name}.key away from nodes"));
            if name != "ca" {
                made.lines.push(format!("{BUNDLE}  trusts every authority of this directory"));
            }
            authority
        }
    };
    made.cluster.clone_from(&authority.cluster);
    let work = Work { wanted, files: &files, authority: &authority };
    work.nodes(&mut made)?;
    work.clients(&mut made)?;
    let policy = policy::add(&files, &wanted.clients)?;
    for client in policy.added {
        made.lines.push(format!("{}  {} is {}", policy::FILE, client.name, client.role.unwrap_or_default()));
    }
    made.notes = policy.notes;
    Ok(made)
}

fn check(wanted: &Wanted) -> anyhow::Result<()> {
    let names = wanted.nodes.iter().map(|node| &node.name).chain(wanted.clients.iter().map(|client| &client.name));
    let mut seen: Vec<&String> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            let problem = format!("{name:?} is named twice; its certificate and key lie in files of that name");
            return Err(Failure::usage(problem).hint("give every node and client a name of its own").into());
        }
        seen.push(name);
    }
    if !wanted.directory.join("ca.pem").exists() && seen.is_empty() && !wanted.renew {
        let failure = Failure::usage("neither a node nor a client is named, and there is no authority yet");
        return Err(failure.hint("name them, for example --node nodeA=db1.example --client alice:admin").into());
    }
    Ok(())
}

/// Making certificates by one authority.
struct Work<'a> {
    wanted: &'a Wanted,
    files: &'a Files,
    authority: &'a Authority,
}

impl Work<'_> {
    fn nodes(&self, made: &mut Made) -> anyhow::Result<()> {
        let mut nodes: Vec<NodeNames> = self.wanted.nodes.clone();
        if self.renews_all() {
            let found = self.found(Kind::Node)?.into_iter();
            nodes.extend(found.map(|(name, certificate)| NodeNames { name, hosts: certificate.hosts() }));
        }
        for node in &nodes {
            let hosts = self.hosts_of(node)?;
            let shown: Vec<String> = hosts.iter().map(Host::to_string).collect();
            self.one(Kind::Node, &node.name, &hosts, &format!("node {}: {}", node.name, shown.join(", ")), made)?;
        }
        Ok(())
    }

    fn clients(&self, made: &mut Made) -> anyhow::Result<()> {
        let mut names: Vec<String> = self.wanted.clients.iter().map(|client| client.name.clone()).collect();
        if self.renews_all() {
            names.extend(self.found(Kind::Client)?.into_iter().map(|(name, _)| name));
        }
        names.iter().try_for_each(|name| self.one(Kind::Client, name, &[], &format!("client {name}"), made))
    }

    fn renews_all(&self) -> bool {
        self.wanted.renew && self.wanted.nodes.is_empty() && self.wanted.clients.is_empty()
    }

    /// Returns the certificates of a kind that are there.
    fn found(&self, kind: Kind) -> anyhow::Result<Vec<(String, Certificate)>> {
        let mut found = Vec::new();
        for name in self.files.names()? {
            let certificate = self.files.certificate(&name)?;
            if certificate.holder().is_some_and(|holder| holder.kind == kind && holder.name == name) {
                found.push((name, certificate));
            }
        }
        Ok(found)
    }

    /// Returns the names that a node's certificate gets.
    fn hosts_of(&self, node: &NodeNames) -> anyhow::Result<Vec<Host>> {
        if self.wanted.renew
            && node.hosts.is_empty()
            && let Found::Certificate(before) = self.files.find(&node.name)?
        {
            return Ok(before.hosts());
        }
        let mut hosts = node.all_hosts();
        if self.wanted.localhost && !self.renews_all() {
            hosts.extend(Host::this_machine().into_iter().filter(|host| !node.hosts.contains(host)));
        }
        Ok(hosts)
    }

    /// Makes one certificate, if it is missing or renewed.
    fn one(&self, kind: Kind, name: &str, hosts: &[Host], what: &str, made: &mut Made) -> anyhow::Result<()> {
        if let Found::Certificate(before) = self.files.find(name)? {
            let holder = before.holder();
            if !holder.as_ref().is_some_and(|holder| holder.kind == kind && holder.name == name) {
                let path = self.files.path(&format!("{name}.pem"));
                let is = holder.map_or_else(|| "somebody else's".to_owned(), |holder| format!("that of {holder}"));
                return Err(Failure::new(format!(
                    "{} is not for the {} {name}: it is {is}",
                    path.display(),
                    kind.word()
                ))
                .into());
            }
            if !self.wanted.renew {
                made.kept.push(self.kept(name, hosts, &before));
                return Ok(());
            }
        }
        self.authority.sign(self.files, kind, name, hosts, self.wanted.days)?;
        let end = date(self.files.certificate(name)?.not_after);
        made.lines.push(format!("{name}.pem {name}.key  {what}, until {end}"));
        Ok(())
    }

    fn kept(&self, name: &str, hosts: &[Host], before: &Certificate) -> String {
        let has = before.hosts();
        let missing: Vec<String> = hosts.iter().filter(|host| !has.contains(host)).map(Host::to_string).collect();
        match missing.is_empty() {
            true => format!("{name}.pem, until {}", date(before.not_after)),
            false => format!("{name}.pem, which does not name {}; --renew makes it anew", missing.join(", ")),
        }
    }
}

/// Prints how nodes and clients are started with the files.
fn tell_flags(wanted: &Wanted) -> anyhow::Result<()> {
    let ca = newest_trust(&wanted.directory);
    if let Some(node) = wanted.nodes.first() {
        print_line("\nStart each node with its own files:")?;
        print_line(as_called(&format!("  lockstep node --raft_id={} … \\", node.name)))?;
        print_line(format!("    {}", node_flags(&wanted.directory, &ca, &node.name).join(" \\\n    ")))?;
    }
    if let Some(client) = wanted.clients.first() {
        print_line(format!("\nCall a node as {}:", client.name))?;
        let flags = client_flags(&wanted.directory, &ca, &client.name).join(" ");
        print_line(as_called(&format!("  lockstep call localhost:40051 {flags}")))?;
    }
    Ok(())
}

/// Returns the file of the authorities that are to be trusted.
fn newest_trust(directory: &Path) -> PathBuf {
    let bundle = directory.join(BUNDLE);
    if bundle.exists() { bundle } else { directory.join("ca.pem") }
}

/// Returns the flags of a node, for both ports. There is no policy before a client has a role.
pub(crate) fn node_flags(directory: &Path, ca: &Path, name: &str) -> Vec<String> {
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
    let (certificate, key, ca) = (file("pem"), file("key"), ca.display());
    let policy = Some(directory.join(policy::FILE)).filter(|policy| policy.exists());
    let mut flags = vec![
        format!("--tls_cert={certificate}"),
        format!("--tls_key={key}"),
        format!("--tls_client_ca={ca}"),
        format!("--peer_tls_cert={certificate}"),
        format!("--peer_tls_key={key}"),
        format!("--peer_tls_ca={ca}"),
    ];
    flags.extend(policy.map(|policy| format!("--policy={}", policy.display())));
    flags
}

/// Returns the flags of a client.
pub(crate) fn client_flags(directory: &Path, ca: &Path, name: &str) -> Vec<String> {
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).display().to_string();
    vec![
        format!("--tls_ca={}", ca.display()),
        format!("--tls_cert={}", file("pem")),
        format!("--tls_key={}", file("key")),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wanted(directory: &Path) -> Wanted {
        Wanted {
            directory: directory.to_owned(),
            nodes: vec![NodeNames::parse("nodeA=db1.example,10.0.0.1").unwrap()],
            clients: vec![ClientRole::parse("alice:admin").unwrap()],
            cluster_name: None,
            days: 30,
            localhost: true,
            renew: false,
            new_authority: false,
        }
    }

    fn text(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn what_is_made_says_who_it_is_for_and_keys_are_for_their_owner() {
        let place = tempfile::tempdir().unwrap();
        make(&wanted(place.path())).unwrap();
        let files = Files::open(place.path()).unwrap();
        let (node, alice) = (files.certificate("nodeA").unwrap(), files.certificate("alice").unwrap());
        let ca = files.certificate("ca").unwrap();
        assert_eq!(node.uris, ["lockstep://lockstep/node/nodeA"]);
        assert_eq!(node.dns_names, ["nodeA", "db1.example", "localhost"]);
        assert_eq!(
            node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1", "127.0.0.1", "::1"]
        );
        assert_eq!(
            (alice.common_name.as_str(), &*alice.uris),
            ("alice", &["lockstep://lockstep/client/alice".to_owned()][..])
        );
        assert_eq!(
            (node.uses, alice.uses, ca.is_authority, node.is_authority),
            ((true, true), (false, true), true, false)
        );
        assert!(node.is_signed_by(&ca) && alice.is_signed_by(&ca) && ca.is_signed_by(&ca) && !ca.is_signed_by(&node));
        assert_eq!(files.key("nodeA").unwrap().public_key_raw(), node.public_key);
        for key in ["ca.key", "nodeA.key", "alice.key"] {
            assert_eq!(place.path().join(key).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
        assert!(text(place.path(), "policy.toml").contains("subject = \"alice\"\nrole = \"admin\""));
    }

    #[test]
    fn a_second_call_makes_only_what_is_missing() {
        let place = tempfile::tempdir().unwrap();
        make(&wanted(place.path())).unwrap();
        let before = ["ca.pem", "nodeA.pem", "alice.key", "policy.toml"].map(|name| text(place.path(), name));
        let more = Wanted { clients: vec![ClientRole::parse("bob:reader").unwrap()], ..wanted(place.path()) };
        let made = make(&more).unwrap();
        assert_eq!(made.lines.len(), 2, "{made:?}");
        let [ca, node, alice, policy] = before;
        assert_eq!(
            [&ca, &node, &alice],
            [&text(place.path(), "ca.pem"), &text(place.path(), "nodeA.pem"), &text(place.path(), "alice.key")]
        );
        assert!(text(place.path(), "policy.toml").starts_with(&policy));
        let again = make(&more).unwrap();
        assert!(again.lines.is_empty(), "{again:?}");
        assert!(again.notes.is_empty(), "{again:?}");
        let role = |client: &str| {
            let clients = vec![ClientRole::parse(client).unwrap()];
            make(&Wanted { nodes: Vec::new(), clients, ..wanted(place.path()) }).unwrap().notes.join("\n")
        };
        assert_eq!(
            role("bob:writer"),
            "bob stays reader in policy.toml, and is not made writer: change the role there"
        );
        assert!(role("carol").contains("nothing in policy.toml names carol") && role("bob").is_empty());
        let elsewhere = Wanted { nodes: vec![NodeNames::parse("nodeA=db9.example").unwrap()], ..more };
        assert!(make(&elsewhere).unwrap().kept.iter().any(|line| line.contains("does not name db9.example")));
    }

    #[test]
    fn a_change_of_authority_takes_three_steps() {
        let place = tempfile::tempdir().unwrap();
        make(&wanted(place.path())).unwrap();
        let none = Wanted { nodes: Vec::new(), clients: Vec::new(), ..wanted(place.path()) };
        make(&Wanted { new_authority: true, ..none.clone() }).unwrap();
        assert_eq!(text(place.path(), BUNDLE), text(place.path(), "ca.pem") + &text(place.path(), "ca-2.pem"));
        let files = Files::open(place.path()).unwrap();
        let before = files.certificate("nodeA").unwrap();
        make(&Wanted { renew: true, ..none }).unwrap();
        let (node, second) = (files.certificate("nodeA").unwrap(), files.certificate("ca-2").unwrap());
        assert!(node.is_signed_by(&second) && !node.is_signed_by(&files.certificate("ca").unwrap()));
        assert!(files.certificate("alice").unwrap().is_signed_by(&second));
        assert_eq!((node.uris, node.dns_names, node.addresses), (before.uris, before.dns_names, before.addresses));
    }

    #[test]
    fn what_cannot_be_done_is_said_and_nothing_is_lost() {
        let place = tempfile::tempdir().unwrap();
        let none = Wanted { nodes: Vec::new(), clients: Vec::new(), ..wanted(place.path()) };
        assert!(make(&none).unwrap_err().to_string().contains("neither a node nor a client"));
        let nobody = Wanted { clients: Vec::new(), directory: place.path().join("nobody"), ..wanted(place.path()) };
        make(&nobody).unwrap();
        let flags = node_flags(&nobody.directory, Path::new("ca.pem"), "nodeA").join(" ");
        assert!(!nobody.directory.join("policy.toml").exists() && !flags.contains("--policy"), "{flags}");
        make(&wanted(place.path())).unwrap();
        let refused = |wanted: Wanted| make(&wanted).unwrap_err().to_string();
        let other = Wanted { cluster_name: Some("orders".into()), ..wanted(place.path()) };
        assert!(refused(other).contains("the authority of the cluster \"lockstep\""));
        let twice = Wanted { clients: vec![ClientRole::parse("nodeA:admin").unwrap()], ..wanted(place.path()) };
        assert!(refused(twice.clone()).contains("named twice"));
        assert!(refused(Wanted { nodes: Vec::new(), ..twice }).contains("it is that of node nodeA"));
        std::fs::remove_file(place.path().join("nodeA.pem")).unwrap();
        assert!(refused(wanted(place.path())).contains("nodeA.key is there without"));
    }
}
