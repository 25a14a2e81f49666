//! Who is let in at both ports, as other people's clients see it: gRPC for Python and for Go, and
//! OpenSSL. Each shows what it should not, and is told so; and what it should, and is served.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::peer::{IdentifyRequest, IdentifyResponse, Route, StandingRequest};
use lockstep_tests::{
    Certificates, Deployed, Expiry, LEFT_OUT, NodeProcess, Options, Shown, Stock, eventually, in_plain_text, is_served,
    lockstep, openssl, reply, token_of, unsigned_token,
};
use prost::Message;
use tempfile::TempDir;

const ADD: &str = "/Example/Add";
const IDENTIFY: &str = "/lockstep.peer.v1.Peer/Identify";
const STANDING: &str = "/lockstep.peer.v1.Peer/Standing";
/// The id that the first client at the port for peers says to have. Each needs one of its own,
/// since an id belongs to the name that it has proven first.
const FIRST_ID: u64 = 77;

/// A node that speaks TLS at both ports, and what it was started with.
struct Guarded {
    node: NodeProcess,
    certificates: Certificates,
    deployed: Deployed,
    foreign: Certificates,
    _data: TempDir,
}

/// What a client shows, and the code and words that it is told. TLS has words of each client's own.
struct Case(&'static str, Shown, &'static str, &'static str);

/// Starts one. Tokens of the key `token.pem` are taken, and the policy knows alice and bob.
async fn guarded() -> Result<Guarded> {
    let certificates = Certificates::made(&["nodeA", "nodeB"], &["alice:admin", "bob:reader"])?;
    let foreign = Certificates::made(&["nodeA", "nodeB"], &["alice:admin"])?;
    for (suffix, expiry) in [("old", Expiry::Yesterday), ("fresh", Expiry::Tomorrow)] {
        certificates.sign(suffix, "alice", expiry)?;
        certificates.sign_node(&format!("{suffix}-node"), "nodeB", expiry)?;
    }
    for authority in [&certificates, &foreign] {
        let (key, jwks) = (authority.word("token.pem"), authority.word("token.jwks"));
        let made = lockstep(&["token", "keygen", "--key", &key, "--jwks", &jwks])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let deployed = certificates.deployed("nodeA")?;
    let mut options = Options::bootstrap();
    options.more.extend(deployed.client_flags("require"));
    options.more.extend(deployed.peer_flags("require"));
    options.more.push(format!("--policy={}", certificates.word("policy.toml")));
    options.more.push(format!("--token_jwks={}", certificates.word("token.jwks")));
    options.more.push("--token_audience=orders".into());
    options.tls = Some(certificates.client("alice"));
    let data = tempfile::tempdir()?;
    let mut node = NodeProcess::new("nodeA", data.path(), options)?;
    node.start().await?;
    Ok(Guarded { node, certificates, deployed, foreign, _data: data })
}

impl Guarded {
    /// Makes a token of a subject, for an audience.
    fn token(&self, subject: &str, audience: &str) -> Result<String> {
        let key = self.certificates.word("token.pem");
        let words = ["token", "create", "--key", &key, "--subject", subject, "--audience", audience, "--ttl", "1h"];
        let out = lockstep(&words)?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    /// What a client shows that trusts the node's authority, and no more.
    fn ours(&self) -> Shown {
        Shown { ca: Some(self.certificates.path("ca.pem")), ..Shown::default() }
    }

    /// The same, with a certificate.
    fn with(&self, from: &Certificates, name: &str) -> Shown {
        let identity = Some((from.path(&format!("{name}.pem")), from.path(&format!("{name}.key"))));
        Shown { identity, ..self.ours() }
    }

    /// What is shown at the port for clients.
    fn of_clients(&self) -> Result<Vec<Case>> {
        let with = |name: &str| self.with(&self.certificates, name);
        let token = |token: String| Shown { token: Some(token), ..self.ours() };
        let alice = with("alice");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = |end: u64| format!(r#"{{"sub":"alice","aud":"orders","iat":{},"exp":{end}}}"#, now - 3600);
        let good = self.token("alice", "orders")?;
        let signed = |claims: &str, by: &Certificates| token_of(claims, &good, &by.path("token.pem"));
        // A clock that is a minute off is forgiven, and this is two.
        let (expired, lasting) = (claims(now - 120), claims(now + 3600));
        Ok(vec![
            Case("an admin's certificate", alice.clone(), "OK", ""),
            Case("one of the same authority", with("fresh"), "OK", ""),
            Case("a token", token(good.clone()), "OK", ""),
            Case("the same claims, signed", token(signed(&lasting, &self.certificates)?), "OK", ""),
            Case("a reader's certificate", with("bob"), "PERMISSION_DENIED", "bob may not call Example/Add"),
            Case(
                "a token of somebody without a grant",
                token(self.token("eve", "orders")?),
                "PERMISSION_DENIED",
                "eve may not call Example/Add",
            ),
            Case("a node's certificate", with("nodeA"), "UNAUTHENTICATED", ""),
            Case("nothing", self.ours(), "UNAUTHENTICATED", "nobody may do this without a name"),
            Case(
                "a forged token",
                token(signed(&lasting, &self.foreign)?),
                "UNAUTHENTICATED",
                "not signed by a key that this node trusts",
            ),
            Case(
                "an expired token",
                token(signed(&expired, &self.certificates)?),
                "UNAUTHENTICATED",
                "the token has expired",
            ),
            Case(
                "a token that is not signed",
                token(unsigned_token(&lasting)),
                "UNAUTHENTICATED",
                "the token is signed by nobody (`none`)",
            ),
            Case(
                "a token for others",
                token(self.token("alice", "billing")?),
                "UNAUTHENTICATED",
                "not for the audience \"orders\"",
            ),
            Case("a certificate that has expired", with("old"), "UNAVAILABLE", ""),
            Case("a certificate of a foreign authority", self.with(&self.foreign, "alice"), "UNAVAILABLE", ""),
            Case("plain text", Shown::default(), "UNAVAILABLE", ""),
            Case("trust in a foreign authority", self.misled(alice.clone()), "UNAVAILABLE", ""),
            Case("another name", Shown { server_name: Some("nodeB".into()), ..alice }, "UNAVAILABLE", ""),
        ])
    }

    /// A token that has expired, by less than the minute that a clock may be off. It is for a call
    /// that is made at once.
    fn of_late(&self) -> Result<Case> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = format!(r#"{{"sub":"alice","aud":"orders","iat":{},"exp":{}}}"#, now - 3600, now - 1);
        let token = token_of(&claims, &self.token("alice", "orders")?, &self.certificates.path("token.pem"))?;
        Ok(Case("a token that expired just now", Shown { token: Some(token), ..self.ours() }, "OK", ""))
    }

    /// What is shown at the port for peers.
    fn of_peers(&self) -> Vec<Case> {
        let with = |name: &str| self.with(&self.certificates, name);
        let node = with("nodeB");
        vec![
            Case("a node's certificate", node.clone(), "OK", ""),
            Case("one of the same authority", with("fresh-node"), "OK", ""),
            Case("a client's certificate", with("alice"), "PERMISSION_DENIED", "names no node"),
            Case("nothing", self.ours(), "UNAVAILABLE", ""),
            Case("a node's certificate that has expired", with("old-node"), "UNAVAILABLE", ""),
            Case("a node's certificate of a foreign authority", self.with(&self.foreign, "nodeB"), "UNAVAILABLE", ""),
            Case("plain text", Shown::default(), "UNAVAILABLE", ""),
            Case("trust in a foreign authority", self.misled(node.clone()), "UNAVAILABLE", ""),
            Case("another name", Shown { server_name: Some("nodeC".into()), ..node }, "UNAVAILABLE", ""),
        ]
    }

    /// The same, with trust in an authority that is not the node's.
    fn misled(&self, shown: Shown) -> Shown {
        Shown { ca: Some(self.foreign.path("ca.pem")), ..shown }
    }

    /// Shows what a case says, and checks what it is told.
    async fn tries(&self, stock: &Stock, method: &'static str, case: Case, request: impl Asked) -> Result<()> {
        let Case(what, shown, code, words) = case;
        let said = self.says(stock, method, &shown, request).await?;
        println!("{:<8} {method:<32} {what:<44} {said}", stock.name);
        ensure!(said.starts_with(code), "{} with {what} is told {said:?}, not {code}", stock.name);
        ensure!(said.contains(words), "{} with {what} is told {said:?}, not {words:?}", stock.name);
        Ok(())
    }

    /// Makes a call at the port to which the method belongs, and returns what it came to.
    async fn says(&self, stock: &Stock, method: &'static str, shown: &Shown, request: impl Asked) -> Result<String> {
        let address = if method == ADD { self.node.grpc_addr() } else { self.node.raft_addr() };
        let (stock, shown) = (stock.clone(), shown.clone());
        tokio::task::spawn_blocking(move || stock.call(&address, &shown, method, &request)).await?
    }
}

/// A request that a stock client sends.
trait Asked: Message + Send + 'static {}

impl<M: Message + Send + 'static> Asked for M {}

fn added() -> AddRequest {
    AddRequest { key: "stock".into(), val: "value".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_are_let_in_by_what_they_show() -> Result<()> {
    let stocks = tokio::task::spawn_blocking(Stock::all).await??;
    if stocks.is_empty() {
        eprintln!("NOT TESTED: {LEFT_OUT} leaves no client in another language");
        return Ok(());
    }
    let guarded = guarded().await?;
    let mut signatures = Vec::new();
    for (id, stock) in (FIRST_ID..).zip(&stocks) {
        for case in guarded.of_clients()? {
            let token = case.1.token.as_deref().unwrap_or_default();
            signatures.extend(token.rsplit_once('.').map(|(_, signature)| signature.to_owned()));
            guarded.tries(stock, ADD, case, added()).await?;
        }
        // Made when it is tried: a minute later it would be refused.
        guarded.tries(stock, ADD, guarded.of_late()?, added()).await?;
        for case in guarded.of_peers() {
            guarded.tries(stock, IDENTIFY, case, IdentifyRequest::default()).await?;
        }
        a_node_speaks_as_itself_alone(&guarded, stock, id).await?;
    }
    // The node serves on, and keeps no secret in its log.
    ensure!(guarded.node.status().await?["mode"] == "serving");
    let log = guarded.node.log();
    signatures.retain(|signature| !signature.is_empty());
    ensure!(!signatures.is_empty() && !signatures.iter().any(|one| log.contains(one)), "a signature is in the log");
    an_authority_is_forgotten_at_both_ports(&guarded, &stocks).await
}

/// A certificate that is good at the port for peers is not good for a message of another node.
async fn a_node_speaks_as_itself_alone(guarded: &Guarded, stock: &Stock, id: u64) -> Result<()> {
    let of = |name: &str| guarded.with(&guarded.certificates, name);
    let told: IdentifyResponse =
        reply(&guarded.says(stock, IDENTIFY, &of("nodeB"), IdentifyRequest::default()).await?)?;
    ensure!(told.node.as_ref().is_some_and(|node| node.name == "nodeA"), "{told:?}");
    let route = Route {
        cluster_id: told.cluster_id,
        incarnation: told.incarnation,
        from: id,
        to: told.node_id,
        ..Route::default()
    };
    let speaking_as = |name: &str| StandingRequest { route: Some(Route { from_name: name.into(), ..route.clone() }) };
    let denied = "PERMISSION_DENIED";
    for (case, name) in [
        (Case("another node's certificate", of("nodeB"), denied, "does not name node \"nodeC\""), "nodeC"),
        (Case("its own certificate", of("nodeB"), "OK", ""), "nodeB"),
        (
            Case("the certificate of the node that it calls", of("nodeA"), denied, "does not name node \"nodeB\""),
            "nodeB",
        ),
        (Case("a client's certificate", of("alice"), denied, "does not name node \"nodeB\""), "nodeB"),
    ] {
        guarded.tries(stock, STANDING, case, speaking_as(name)).await?;
    }
    Ok(())
}

/// Certificates that were served are refused once their authority is taken out of the files of the
/// running node, and those of the next authority are served.
async fn an_authority_is_forgotten_at_both_ports(guarded: &Guarded, stocks: &[Stock]) -> Result<()> {
    let (certificates, deployed) = (&guarded.certificates, &guarded.deployed);
    for name in ["alice", "nodeB"] {
        certificates.keep(name, &format!("first-{name}"))?;
    }
    certificates.init(&["--new_ca"])?;
    certificates.init(&["--renew"])?;
    // Whichever certificate the node has, the client takes it.
    let of = |name: &str| Shown { ca: Some(certificates.path("ca-bundle.pem")), ..guarded.with(certificates, name) };
    for stock in stocks {
        guarded.tries(stock, ADD, Case("a certificate, before", of("first-alice"), "OK", ""), added()).await?;
        let case = Case("a certificate, before", of("first-nodeB"), "OK", "");
        guarded.tries(stock, IDENTIFY, case, IdentifyRequest::default()).await?;
    }
    let process = guarded.node.id()?;
    for (name, with) in [("node.key", "nodeA.key"), ("node.pem", "nodeA.pem"), ("ca.pem", "ca-2.pem")] {
        deployed.replace(name, &certificates.path(with))?;
    }
    for stock in stocks {
        for (name, code) in [("first-alice", "UNAVAILABLE"), ("alice", "OK")] {
            let tried = || guarded.tries(stock, ADD, Case("a certificate, after", of(name), code, ""), added());
            eventually("the port for clients has the new authority", tried).await?;
        }
        for (name, code) in [("first-nodeB", "UNAVAILABLE"), ("nodeB", "OK")] {
            let case = || Case("a certificate, after", of(name), code, "");
            let tried = || guarded.tries(stock, IDENTIFY, case(), IdentifyRequest::default());
            eventually("the port for peers has the new authority", tried).await?;
        }
    }
    ensure!(guarded.node.id()? == process, "the node was started again");
    Ok(())
}

/// What OpenSSL shows at a port, and what it prints when that is taken and when it is not.
#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_refused_at_both_ports_unless_it_belongs_there() -> Result<()> {
    let guarded = guarded().await?;
    let (certificates, foreign) = (&guarded.certificates, &guarded.foreign);
    let trust = ["-CAfile".to_owned(), certificates.word("ca.pem"), "-alpn".into(), "h2".into()];
    let shown = |from: &Certificates, name: &str| {
        ["-cert".to_owned(), from.word(&format!("{name}.pem")), "-key".into(), from.word(&format!("{name}.key"))]
            .to_vec()
    };
    let (grpc, raft) = (guarded.node.grpc_addr(), guarded.node.raft_addr());
    let nothing = Vec::new();
    for (address, what, words, is_let_in) in [
        (&grpc, "nothing", nothing.clone(), true),
        (&grpc, "a client's certificate", shown(certificates, "alice"), true),
        (&grpc, "an expired certificate", shown(certificates, "old"), false),
        (&grpc, "a foreign certificate", shown(foreign, "alice"), false),
        (&grpc, "TLS 1.2", vec!["-tls1_2".into()], false),
        (&raft, "a node's certificate", shown(certificates, "nodeA"), true),
        (&raft, "nothing", nothing, false),
        (&raft, "a node's certificate that lasts", shown(certificates, "fresh-node"), true),
        (&raft, "a node's certificate that has expired", shown(certificates, "old-node"), false),
        (&raft, "a foreign node's certificate", shown(foreign, "nodeA"), false),
        (&raft, "TLS 1.2", [shown(certificates, "nodeA"), vec!["-tls1_2".into()]].concat(), false),
    ] {
        let words: Vec<String> = [&trust[..], &words].concat();
        let address = address.clone();
        let said = tokio::task::spawn_blocking(move || {
            openssl(&address, &words.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await??;
        // Whoever is served gets the node's settings.
        let was_served = is_served(said.as_bytes());
        println!("{what}: {}", if was_served { "served" } else { "refused" });
        ensure!(was_served == is_let_in, "with {what}, OpenSSL printed:\n{said}");
        ensure!(!was_served || said.contains("Verify return code: 0 (ok)"), "with {what}, OpenSSL printed:\n{said}");
    }
    // Without TLS, the words come back that say so.
    for address in [grpc, raft] {
        let heard = tokio::task::spawn_blocking(move || in_plain_text(&address)).await??;
        ensure!(String::from_utf8_lossy(&heard).contains("this port speaks TLS alone"), "plain text: {heard:?}");
    }
    ensure!(guarded.node.status().await?["mode"] == "serving");
    Ok(())
}

/// A node shows its peers who it is. One that would show another name does not start.
#[tokio::test]
async fn a_node_with_the_certificate_of_another_does_not_start() -> Result<()> {
    let certificates = Certificates::made(&["nodeA", "nodeB"], &[])?;
    let deployed = certificates.deployed("nodeB")?;
    let mut options = Options::bootstrap();
    options.more.extend(deployed.peer_flags("require"));
    let data = tempfile::tempdir()?;
    let mut node = NodeProcess::new("nodeA", data.path(), options)?;
    node.spawn()?;
    let status = node.wait_exit().await?;
    ensure!(!status.success(), "it started");
    let log = node.log();
    ensure!(log.contains("--peer_tls_cert") && log.contains("nodeA"), "{log}");
    Ok(())
}

/// `lockstep` itself says in words what does not fit, and which flag mends it.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_which_flag_is_missing() -> Result<()> {
    let guarded = guarded().await?;
    let (certificates, foreign) = (&guarded.certificates, &guarded.foreign);
    let address = guarded.node.grpc_addr();
    let ca = ["--tls_ca".to_owned(), certificates.word("ca.pem")].to_vec();
    let identity = |from: &Certificates, name: &str| {
        [
            "--tls_cert".to_owned(),
            from.word(&format!("{name}.pem")),
            "--tls_key".into(),
            from.word(&format!("{name}.key")),
        ]
        .to_vec()
    };
    let alice = identity(certificates, "alice");
    let both = |more: Vec<String>| [ca.clone(), more].concat();
    for (words, expected) in [
        (Vec::new(), "speaks TLS: give --tls_ca"),
        (Vec::new(), "not-applied"),
        (both(Vec::new()), "--tls_cert and --tls_key with the certificate of a client"),
        (both(identity(certificates, "bob")), "policy"),
        (both(identity(foreign, "alice")), "refuses the certificate in --tls_cert"),
        (both(identity(certificates, "old")), "refuses the certificate in --tls_cert"),
        (both([alice.clone(), vec!["--tls_server_name=nodeZ".into()]].concat()), "--tls_server_name"),
        ([vec!["--tls_ca".to_owned(), foreign.word("ca.pem")], alice.clone()].concat(), "no authority in --tls_ca"),
        (alice.clone(), "--tls_ca is not"),
    ] {
        let mut line = vec!["call", &address, "Example/Add", "{\"key\": \"a\", \"val\": \"b\"}"];
        line.extend(words.iter().map(String::as_str));
        let out = lockstep(&line)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        println!("{words:?}: {said}");
        ensure!(!out.status.success() && said.contains(expected), "{words:?}: {said} has no {expected:?}");
    }
    let mut line = vec!["call".to_owned(), address, "Example/Add".into(), "{\"key\": \"a\", \"val\": \"b\"}".into()];
    line.extend(both(alice));
    let out = lockstep(&line.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
