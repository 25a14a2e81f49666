//! Who is let in at both ports, as other people's clients see it: gRPC for Python and for Go, and
//! OpenSSL. Each shows what it should not, and is told so; and what it should, and is served.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Certificates, Expiry, NodeProcess, Options, Shown, Stock, lockstep, openssl};
use tempfile::TempDir;

/// A node that speaks TLS at both ports, and what it was started with.
struct Guarded {
    node: NodeProcess,
    certificates: Certificates,
    foreign: Certificates,
    _data: TempDir,
}

/// Starts one. Tokens of the key `token.pem` are taken, and the policy knows alice and bob.
async fn guarded() -> Result<Guarded> {
    let certificates = Certificates::made(&["nodeA"], &["alice:admin", "bob:reader"])?;
    let foreign = Certificates::made(&["nodeA"], &["alice:admin"])?;
    certificates.sign("old", "alice", Expiry::Yesterday)?;
    let (key, jwks) = (certificates.word("token.pem"), certificates.word("token.jwks"));
    let made = lockstep(&["token", "keygen", "--key", &key, "--jwks", &jwks])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let deployed = certificates.deployed("nodeA")?;
    let mut options = Options::bootstrap();
    options.more.extend(deployed.client_flags("require"));
    options.more.extend(deployed.peer_flags("require"));
    options.more.push(format!("--policy={}", certificates.word("policy.toml")));
    options.more.push(format!("--token_jwks={jwks}"));
    options.more.push("--token_audience=orders".into());
    options.tls = Some(certificates.client("alice"));
    let data = tempfile::tempdir()?;
    let mut node = NodeProcess::new("nodeA", data.path(), options)?;
    node.start().await?;
    Ok(Guarded { node, certificates, foreign, _data: data })
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

    /// What a client shows, and how what it is told begins.
    fn cases(&self) -> Result<Vec<(&'static str, Shown, &'static str)>> {
        let of = |from: &Certificates, name: &str| {
            Some((from.path(&format!("{name}.pem")), from.path(&format!("{name}.key"))))
        };
        let ours = Shown { ca: Some(self.certificates.path("ca.pem")), ..Shown::default() };
        let with = |from: &Certificates, name: &str| Shown { identity: of(from, name), ..ours.clone() };
        let token = |token: String| Shown { token: Some(token), ..ours.clone() };
        let (alice, bob) = (with(&self.certificates, "alice"), with(&self.certificates, "bob"));
        let forged =
            self.token("alice", "orders")?.rsplit_once('.').context("a token has dots")?.0.to_owned() + ".AAAA";
        // {"alg":"none"} and {"sub":"alice","exp":9999999999}.
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
        Ok(vec![
            ("an admin's certificate", alice.clone(), "OK"),
            ("a token", token(self.token("alice", "orders")?), "OK"),
            ("a reader's certificate", bob.clone(), "PERMISSION_DENIED"),
            ("a token of somebody without a grant", token(self.token("eve", "orders")?), "PERMISSION_DENIED"),
            ("a node's certificate", with(&self.certificates, "nodeA"), "UNAUTHENTICATED"),
            ("nothing", ours.clone(), "UNAUTHENTICATED"),
            ("a forged token", token(forged), "UNAUTHENTICATED"),
            ("a token that is not signed", token(unsigned.into()), "UNAUTHENTICATED"),
            ("a token for others", token(self.token("alice", "billing")?), "UNAUTHENTICATED"),
            ("a certificate that has expired", with(&self.certificates, "old"), "UNAVAILABLE"),
            ("a certificate of a foreign authority", with(&self.foreign, "alice"), "UNAVAILABLE"),
            ("plain text", Shown::default(), "UNAVAILABLE"),
            (
                "trust in a foreign authority",
                Shown { ca: Some(self.foreign.path("ca.pem")), ..alice.clone() },
                "UNAVAILABLE",
            ),
            ("another name", Shown { server_name: Some("nodeB".into()), ..alice }, "UNAVAILABLE"),
        ])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_are_let_in_by_what_they_show() -> Result<()> {
    let guarded = guarded().await?;
    let stocks = tokio::task::spawn_blocking(Stock::all).await?;
    for stock in stocks {
        for (what, shown, expected) in guarded.cases()? {
            let (address, client) = (guarded.node.grpc_addr(), stock.clone());
            let said = tokio::task::spawn_blocking(move || client.add(&address, &shown)).await??;
            println!("{:<8} {what:<38} {said}", stock.name);
            ensure!(said.starts_with(expected), "{} with {what} is told {said:?}, not {expected}", stock.name);
        }
    }
    // The node serves on, and keeps no secret in its log.
    ensure!(guarded.node.status().await?["mode"] == "serving");
    let token = guarded.token("alice", "orders")?;
    let head = token.split('.').nth(2).context("a token has three parts")?;
    ensure!(!guarded.node.log().contains(head), "a signature is in the log");
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
    for (address, what, words, is_served) in [
        (&grpc, "nothing", nothing.clone(), true),
        (&grpc, "a client's certificate", shown(certificates, "alice"), true),
        (&grpc, "an expired certificate", shown(certificates, "old"), false),
        (&grpc, "a foreign certificate", shown(foreign, "alice"), false),
        (&grpc, "TLS 1.2", vec!["-tls1_2".into()], false),
        (&raft, "a node's certificate", shown(certificates, "nodeA"), true),
        (&raft, "nothing", nothing, false),
        (&raft, "an expired certificate", shown(certificates, "old"), false),
        (&raft, "a foreign node's certificate", shown(foreign, "nodeA"), false),
        (&raft, "TLS 1.2", [shown(certificates, "nodeA"), vec!["-tls1_2".into()]].concat(), false),
    ] {
        let words: Vec<String> = [&trust[..], &words].concat();
        let address = address.clone();
        let said = tokio::task::spawn_blocking(move || {
            openssl(&address, &words.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await??;
        // An alert of the server, or no TLS at all. Whoever is served gets the node's settings.
        let is_refused = said.contains("alert") || !said.contains("Verify return code: 0 (ok)");
        println!("{what}: {}", if is_refused { "refused" } else { "served" });
        ensure!(is_refused != is_served, "with {what}, OpenSSL printed:\n{said}");
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
