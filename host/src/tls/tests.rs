//! Tests of both ends together, over connections of loopback.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::made::{Made, Says};
use super::*;

fn peer(mode: Mode, files: &Files, raft_id: &str) -> Result<Server, TlsError> {
    let audience = Audience::Peers { raft_id: raft_id.into() };
    Server::open(ServerSettings { mode, files: files.clone(), audience })
}

fn for_clients(files: &Files, min_version: MinVersion) -> Server {
    let audience = Audience::Clients { min_version };
    Server::open(ServerSettings { mode: Mode::Require, files: files.clone(), audience }).unwrap()
}

fn connector(mode: Mode, files: &Files, raft_id: &str) -> Connector {
    peer(mode, files, raft_id).unwrap().connector(raft_id)
}

type Accepted = io::Result<(Stream, Option<Arc<Certificate>>)>;

/// Accepts connections one after another and answers each with one byte, until one is served.
/// Returns how each ended.
async fn accept(listener: TcpListener, server: Server) -> Vec<Accepted> {
    let mut ended = Vec::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut accepted = server.accept(stream).await;
        if let Ok((stream, _)) = &mut accepted {
            drop(stream.write_all(b"x").await);
            drop(stream.flush().await);
        }
        let is_served = accepted.is_ok();
        ended.push(accepted);
        if is_served {
            return ended;
        }
    }
}

/// Connects once. Returns the first byte of the other end, as the dialling end sees it.
async fn meet(server: &Server, connector: &Connector) -> (io::Result<Option<Arc<Certificate>>>, Option<Accepted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(accept(listener, server.clone()));
    let met = async {
        let (mut stream, certificate) = connector.connect(|| TcpStream::connect(address)).await?;
        match stream.read_u8().await {
            Ok(_) => Ok(certificate),
            Err(error) => Err(io::Error::other(reason(&error))),
        }
    };
    let met = met.await;
    if met.is_err() {
        accepting.abort();
        return (met, None);
    }
    (met, accepting.await.unwrap().pop())
}

fn refusal(met: (io::Result<Option<Arc<Certificate>>>, Option<Accepted>)) -> String {
    met.0.unwrap_err().to_string()
}

#[tokio::test]
async fn two_nodes_of_one_cluster_know_each_other_by_name() {
    let made = Made::new();
    let (server, connector) = (
        peer(Mode::Require, &made.node("nodeA"), "nodeA").unwrap(),
        connector(Mode::Require, &made.node("nodeB"), "nodeB"),
    );
    assert_eq!(connector.cluster(), "prod");
    let (dialled, accepted) = meet(&server, &connector).await;
    assert!(dialled.unwrap().unwrap().is_node("prod", "nodeA"));
    let (stream, shown) = accepted.unwrap().unwrap();
    assert!(matches!(stream, Stream::Encrypted(_)) && shown.unwrap().is_node("prod", "nodeB"));
}

#[tokio::test]
async fn a_name_in_dns_will_do_for_a_node() {
    let made = Made::new();
    let by_dns = |name: &str, dns: &str| made.files(name, Says { dns: Some(dns), ..Says::default() });
    let server = peer(Mode::Require, &by_dns("a", "nodea.lockstep.svc"), "nodeA").unwrap();
    let connector = connector(Mode::Require, &by_dns("b", "nodeB"), "nodeB");
    assert_eq!(connector.cluster(), "");
    let (dialled, _) = meet(&server, &connector).await;
    assert!(dialled.unwrap().unwrap().is_node("", "nodeA"));
}

#[tokio::test]
async fn a_node_of_a_foreign_ca_is_refused_at_either_end() {
    let (made, foreign) = (Made::new(), Made::new());
    let ours = made.node("nodeA");
    let server = peer(Mode::Require, &ours, "nodeA").unwrap();
    let told = refusal(meet(&server, &connector(Mode::Require, &foreign.node("nodeB"), "nodeB")).await);
    assert!(told.contains("no trusted CA"), "{told}");
    // One that trusts us, and is not trusted.
    let both = foreign.write("both.pem", &(made.ca_pem() + &foreign.ca_pem()));
    let files = Files { ca: Some(both), ..foreign.node("nodeB") };
    let told = refusal(meet(&server, &connector(Mode::Require, &files, "nodeB")).await);
    assert!(told.contains("does not trust the CA"), "{told}");
}

#[tokio::test]
async fn a_node_of_another_cluster_and_a_client_are_no_peers() {
    let made = Made::new();
    let connector = connector(Mode::Require, &made.node("nodeB"), "nodeB");
    let other = made.files("other", Says { uri: Some("lockstep://test/node/nodeA"), ..Says::default() });
    let told = refusal(meet(&peer(Mode::Require, &other, "nodeA").unwrap(), &connector).await);
    assert!(told.contains("no node of the cluster prod") && told.contains("lockstep://test/node/nodeA"), "{told}");
    let says = Says { uri: Some("lockstep://prod/client/alice"), ..Says::default() };
    let client = for_clients(&made.files("alice", says), MinVersion::Tls13);
    let told = refusal(meet(&client, &connector).await);
    assert!(told.contains("no node of the cluster prod"), "{told}");
}

#[tokio::test]
async fn plain_text_meets_tls_only_where_tls_is_preferred() {
    let made = Made::new();
    let (a, b) = (made.node("nodeA"), made.node("nodeB"));
    let modes = [Mode::Off, Mode::Prefer, Mode::Require];
    for accepting in modes {
        for dialling in modes {
            let server = peer(accepting, &a, "nodeA").unwrap();
            let connector = connector(dialling, &b, "nodeB");
            let can = |mode: Mode| (mode != Mode::Require, mode != Mode::Off);
            let ((plain_a, tls_a), (plain_b, tls_b)) = (can(accepting), can(dialling));
            let met = meet_or_close(&server, &connector).await;
            let expected = match (tls_a && tls_b, plain_a && plain_b) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            };
            assert_eq!(met, expected, "{accepting:?} is dialled with {dialling:?}");
        }
    }
}

/// Returns whether the connection is encrypted; `None` without one.
///
/// An end in plain text is one that reads a request and does not understand it, as HTTP does.
async fn meet_or_close(server: &Server, connector: &Connector) -> Option<bool> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok((mut stream, _)) = server.accept(stream).await else { continue };
            let mut first = [0];
            if stream.read_exact(&mut first).await.is_ok() {
                let answer: &[u8] = if first == *b"?" { b"!" } else { b"HTTP/1.1 400 Bad Request\r\n\r\n" };
                drop(stream.write_all(answer).await);
                drop(stream.flush().await);
                // Until the other end has gone, so that it reads the answer.
                drop(stream.read_to_end(&mut Vec::new()).await);
            }
        }
    });
    let met = async {
        let (mut stream, certificate) = connector.connect(|| TcpStream::connect(address)).await.ok()?;
        stream.write_all(b"?????????").await.ok()?;
        stream.flush().await.ok()?;
        (stream.read_u8().await.ok()? == b'!').then_some(certificate.is_some())
    };
    let met = met.await;
    accepting.abort();
    met
}

/// A client with any settings, that trusts the CA and shows a certificate if there is one.
async fn client(
    server: &Server,
    ca: &Made,
    shows: Option<&Files>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (io::Result<()>, Accepted) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.ca_pem().as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let dialled = async {
        let mut stream = connector.connect(name, stream).await?;
        stream.read_u8().await.map(drop)
    };
    let accepted = async {
        let mut accepted = server.accept(listener.accept().await.unwrap().0).await;
        if let Ok((stream, _)) = &mut accepted {
            drop(stream.write_all(b"x").await);
            drop(stream.flush().await);
        }
        accepted
    };
    tokio::join!(dialled, accepted)
}

const NEWEST: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const OLD: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

#[tokio::test]
async fn a_client_may_show_a_certificate_and_a_bad_one_is_refused() {
    let (made, foreign) = (Made::new(), Made::new());
    let ca = made.write("clients.pem", &made.ca_pem());
    let server = for_clients(&made.server("server", "localhost", Some(ca)), MinVersion::Tls13);
    let shown = |accepted: Accepted| accepted.unwrap().1.map(|certificate| certificate.subject(""));
    let is_node = |accepted: Accepted| accepted.unwrap().1.is_some_and(|certificate| certificate.is_of_node());
    let (dialled, accepted) = client(&server, &made, None, NEWEST).await;
    assert!(dialled.is_ok() && shown(accepted).is_none(), "none is needed");
    let alice = Says { common_name: "alice", ..Says::default() };
    let (dialled, accepted) = client(&server, &made, Some(&made.files("alice", alice)), NEWEST).await;
    assert!(dialled.is_ok());
    assert_eq!(shown(accepted).as_deref(), Some("alice"));
    let (dialled, accepted) = client(&server, &made, Some(&made.node("nodeA")), NEWEST).await;
    assert!(dialled.is_ok() && is_node(accepted), "whoever asks is told that a node is no client");
    let bad = [
        (foreign.files("alice", alice), "no trusted CA"),
        (made.files("late", Says { is_expired: true, ..alice }), "has expired"),
        (made.files("server2", Says { is_for_server: true, ..alice }), "not for this use"),
    ];
    for (files, why) in bad {
        let (dialled, accepted) = client(&server, &made, Some(&files), NEWEST).await;
        assert!(dialled.is_err(), "{why}");
        let told = reason(&accepted.unwrap_err());
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[tokio::test]
async fn a_peer_port_takes_nobody_without_a_certificate() {
    let made = Made::new();
    let says = Says { dns: Some("localhost"), uri: Some("lockstep://prod/node/nodeA"), ..Says::default() };
    let files = made.files("nodeA", says);
    for mode in [Mode::Require, Mode::Prefer] {
        let (dialled, accepted) = client(&peer(mode, &files, "nodeA").unwrap(), &made, None, NEWEST).await;
        assert!(dialled.is_err());
        let told = reason(&accepted.unwrap_err());
        assert!(told.contains("shows no certificate"), "{told}");
    }
}

#[tokio::test]
async fn tls_1_2_is_for_those_who_ask_for_it() {
    let made = Made::new();
    let files = made.server("server", "localhost", None);
    let (dialled, accepted) = client(&for_clients(&files, MinVersion::Tls13), &made, None, OLD).await;
    assert!(dialled.is_err());
    let told = reason(&accepted.unwrap_err());
    assert!(told.contains("--tls_min_version"), "{told}");
    let (dialled, accepted) = client(&for_clients(&files, MinVersion::Tls12), &made, None, OLD).await;
    assert!(dialled.is_ok() && accepted.is_ok());
}

#[test]
fn each_file_that_cannot_be_used_is_refused_in_words() {
    let (made, foreign) = (Made::new(), Made::new());
    let good = made.node("nodeA");
    let (ca, key) = (made.write("ca.pem", &made.ca_pem()), made.node("nodeB").key);
    let nonsense = made.write("nonsense.pem", "nonsense");
    let encrypted =
        made.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let missing = made.path("missing.pem");
    let half = |path: &std::path::Path, name: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        made.write(name, &text[..text.len() / 2])
    };
    let (half_pem, half_key) = (half(&good.certificate, "half.pem"), half(&good.key, "half.key"));
    let uri = "lockstep://prod/node/nodeA";
    let expired = made.files("late", Says { uri: Some(uri), is_expired: true, ..Says::default() });
    let client_alone = made.files("client", Says { uri: Some(uri), is_for_client: true, ..Says::default() });
    let server_alone = made.files("server", Says { is_for_server: true, dns: Some("b"), ..Says::default() });
    let table: Vec<(Files, Part, &str)> = vec![
        (Files { certificate: missing.clone(), ..good.clone() }, Part::Certificate, "cannot read"),
        (Files { certificate: nonsense.clone(), ..good.clone() }, Part::Certificate, "no certificate in PEM"),
        (Files { certificate: made.path(""), ..good.clone() }, Part::Certificate, "is no file"),
        (Files { certificate: half_pem, ..good.clone() }, Part::Certificate, "before -----END CERTIFICATE-----"),
        (Files { key: half_key, ..good.clone() }, Part::Key, "it is cut off"),
        (expired, Part::Certificate, "expired at"),
        (client_alone, Part::Certificate, "for a client alone"),
        (made.node("nodeB"), Part::Certificate, "not this node, nodeA"),
        (server_alone, Part::Certificate, "not this node, nodeA"),
        (Files { ca: foreign.node("x").ca, ..good.clone() }, Part::Certificate, "no peer would accept"),
        (Files { key: missing.clone(), ..good.clone() }, Part::Key, "cannot read"),
        (Files { key: nonsense.clone(), ..good.clone() }, Part::Key, "no private key"),
        (Files { key: encrypted, ..good.clone() }, Part::Key, "passphrase"),
        (Files { key, ..good.clone() }, Part::Key, "does not belong to the certificate"),
        (Files { ca: Some(missing), ..good.clone() }, Part::Ca, "cannot read"),
        (Files { ca: Some(nonsense), ..good.clone() }, Part::Ca, "no certificate in PEM"),
        (Files { ca: Some(good.certificate.clone()), ..good.clone() }, Part::Ca, "not that of a CA"),
    ];
    for (files, part, problem) in table {
        let error = peer(Mode::Require, &files, "nodeA").unwrap_err();
        assert_eq!(error.part, part, "{error}");
        assert!(error.problem.contains(problem), "{problem:?} not in {error}");
        assert!(!error.hint.is_empty() && !error.problem.contains("-----BEGIN"), "{error}");
    }
    assert!(peer(Mode::Require, &Files { ca: Some(ca), ..good }, "nodeA").is_ok());
}

/// Looks until new contents that stay as they are count.
fn settled(server: &Server) -> Looked {
    assert_eq!(server.look(), Looked::Same, "a file may be half written");
    server.look()
}

#[tokio::test]
async fn a_clients_port_begins_with_an_expired_certificate_and_does_not_take_a_new_one() {
    let made = Made::new();
    let late = Says { dns: Some("localhost"), is_expired: true, ..Says::default() };
    let files = made.files("server", late);
    let server = for_clients(&files, MinVersion::Tls13);
    let first = server.own().unwrap().fingerprint.clone();
    made.files("server", late);
    assert!(matches!(settled(&server), Looked::Refused(error) if error.problem.contains("expired at")));
    made.files("server", Says { is_expired: false, ..late });
    assert_eq!(settled(&server), Looked::Changed);
    assert_ne!(server.own().unwrap().fingerprint, first);
}

#[tokio::test]
async fn a_clients_port_begins_with_a_certificate_of_a_client_and_does_not_take_a_new_one() {
    let made = Made::new();
    let alone = Says { dns: Some("localhost"), is_for_client: true, ..Says::default() };
    let server = for_clients(&made.files("server", alone), MinVersion::Tls13);
    made.files("server", alone);
    assert!(matches!(settled(&server), Looked::Refused(error) if error.problem.contains("for a client alone")));
}

#[tokio::test]
async fn new_files_are_used_and_bad_ones_are_told_once_and_not_used() {
    let made = Made::new();
    let files = made.node("nodeA");
    let server = peer(Mode::Require, &files, "nodeA").unwrap();
    let connector = server.connector("nodeA");
    let first = server.own().unwrap().fingerprint.clone();
    assert_eq!(server.look(), Looked::Same);
    // Written again: another certificate and another key, and for a moment they do not fit.
    let uri = "lockstep://prod/node/nodeA";
    let (certificate, key) = made.issue(Says { uri: Some(uri), ..Says::default() });
    std::fs::write(&files.certificate, &certificate).unwrap();
    assert_eq!(server.look(), Looked::Same, "the key may be on its way");
    assert!(matches!(server.look(), Looked::Refused(error) if error.part == Part::Key));
    assert_eq!(server.look(), Looked::Same, "it is told once");
    assert!(server.are_files_refused());
    assert_eq!(server.own().unwrap().fingerprint, first);
    let (dialled, _) = meet(&server, &connector).await;
    assert_eq!(dialled.unwrap().unwrap().fingerprint, first);
    std::fs::write(&files.key, &key).unwrap();
    assert_eq!(settled(&server), Looked::Changed);
    assert!(!server.are_files_refused());
    let (dialled, _) = meet(&server, &connector).await;
    assert_ne!(dialled.unwrap().unwrap().fingerprint, first, "both ends use it");
}

#[tokio::test]
async fn an_open_connection_ends_once_its_ca_is_gone() {
    let (made, other) = (Made::new(), Made::new());
    let ca = made.write("clients.pem", &made.ca_pem());
    let server = for_clients(&made.server("server", "localhost", Some(ca.clone())), MinVersion::Tls13);
    let alice = made.files("alice", Says { common_name: "alice", ..Says::default() });
    let (_, accepted) = client(&server, &made, Some(&alice), NEWEST).await;
    let mut refused = std::pin::pin!(server.until_refused(accepted.unwrap().0.shown()));
    let before = server.authorities();
    assert!(before.len() == 1 && before[0].describe().starts_with("CN=test CA"), "{before:?}");
    std::fs::write(&ca, made.ca_pem() + &other.ca_pem()).unwrap();
    assert!(futures::poll!(&mut refused).is_pending());
    assert_eq!(settled(&server), Looked::Changed);
    assert!(futures::poll!(&mut refused).is_pending(), "its CA is still there");
    let both = server.authorities();
    assert!(both.len() == 2 && both[0] == before[0] && both[1] != before[0], "{both:?}");
    std::fs::write(&ca, other.ca_pem()).unwrap();
    assert_eq!(settled(&server), Looked::Changed);
    refused.await;
}

#[tokio::test]
async fn a_dialled_connection_ends_once_the_ca_of_the_other_end_is_gone() {
    let (made, other) = (Made::new(), Made::new());
    let both = made.ca_pem() + &other.ca_pem();
    let ca = other.write("ca.pem", &both);
    let a = Files { ca: Some(made.write("both.pem", &both)), ..made.node("nodeA") };
    let b = Files { ca: Some(ca.clone()), ..other.node("nodeB") };
    let (server, dialling) = (peer(Mode::Require, &a, "nodeA").unwrap(), peer(Mode::Require, &b, "nodeB").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(accept(listener, server));
    let (mut stream, _) = dialling.connector("nodeB").connect(|| TcpStream::connect(address)).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let _open = accepting.await.unwrap();
    let mut read = Box::pin(stream.read_u8());
    assert!(futures::poll!(&mut read).is_pending());
    // Its own certificate comes from the CA that stays.
    std::fs::write(&ca, other.ca_pem()).unwrap();
    assert_eq!(settled(&dialling), Looked::Changed);
    assert_eq!(read.await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    drop(stream);
}
