//! A running cluster moves from plain text to TLS, node by node, then to another authority without
//! a restart, and then all the way back to plain text. Writers go on all the time. What they were
//! told stays, and a call fails only where the restart of its node may have ended it in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_client::{Outcome, Tls, outcome};
use lockstep_tests::pb::example_client::ExampleClient;
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{
    Certificates, Cluster, Deployed, PATIENCE, eventually, formed, is_served, lockstep, one_node, openssl,
};
use tokio::task::JoinHandle;

/// Everybody may do everything. It lasts while clients get their certificates.
const FOR_EVERYBODY: &str = "\n[[grant]]\nsubject = \"anonymous\"\nrole = \"admin\"\n";

/// One client that writes without a pause.
struct Writer {
    name: String,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<Result<Told>>,
}

/// What a writer was told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    acknowledged: u64,
    last: u64,
    unknown: u64,
}

fn addresses(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|node| node.grpc_addr()).collect::<Vec<_>>().join(",")
}

impl Writer {
    /// Starts one that follows the leader. A call ends with an error only when nobody can say
    /// whether it ran.
    async fn start(cluster: &Cluster, name: &str, tls: Option<Tls>) -> Result<Writer> {
        let options = lockstep_client::Options { tls, ..lockstep_client::Options::default() };
        let client = options.connect(&addresses(cluster)).await?;
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (key, stopping, count) = (name.to_owned(), stop.clone(), written.clone());
        let task = tokio::spawn(async move {
            let mut example = ExampleClient::new(client);
            let mut told = Told::default();
            for n in 1_u64.. {
                if stopping.load(Relaxed) {
                    break;
                }
                let mut request = tonic::Request::new(AddRequest { key: key.clone(), val: n.to_string() });
                request.set_timeout(PATIENCE);
                match example.add(request).await {
                    Ok(_) => told = Told { acknowledged: told.acknowledged + 1, last: n, ..told },
                    Err(status) if outcome(&status) == Outcome::Unknown => told.unknown += 1,
                    Err(status) => return Err(anyhow::Error::from(status).context(format!("write {n} of {key}"))),
                }
                count.fetch_add(1, Relaxed);
            }
            Ok(told)
        });
        Ok(Writer { name: name.to_owned(), stop, written, task })
    }

    /// Waits until it has written some more.
    async fn goes_on(&self) -> Result<()> {
        let before = self.written.load(Relaxed);
        eventually("the writer goes on", || async {
            ensure!(!self.task.is_finished(), "the writer has ended");
            ensure!(self.written.load(Relaxed) > before + 10, "{} more", self.written.load(Relaxed) - before);
            Ok(())
        })
        .await
    }

    /// Stops it, and checks that its key has what it was told last, or what came after.
    async fn finish(self, cluster: &Cluster) -> Result<Told> {
        self.stop.store(true, Relaxed);
        let told = self.task.await??;
        for node in 0..cluster.nodes.len() {
            let request = GetRequest { key: self.name.clone(), linearizable: true };
            let read: u64 = cluster.nodes[node].client().await?.get(request).await?.into_inner().value.parse()?;
            ensure!(read >= told.last, "{} was told of {}, and node {node} has {read}", self.name, told.last);
        }
        println!("{}: {told:?}", self.name);
        Ok(told)
    }
}

/// Restarts the nodes one by one, each with these flags, while the others serve.
async fn restart_each(cluster: &mut Cluster, writer: &Writer, flags: impl Fn(usize) -> Vec<String>) -> Result<()> {
    for n in 0..cluster.nodes.len() {
        ensure!(cluster.nodes[n].stop().await?.success(), "{} did not stop cleanly", cluster.nodes[n].name);
        cluster.nodes[n].options.more = flags(n);
        cluster.nodes[n].start().await?;
        all_serve(cluster).await?;
        writer.goes_on().await?;
    }
    Ok(())
}

/// Waits until every node serves and has applied what the leader has.
async fn all_serve(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let target = applied(cluster, leader).await?;
    eventually("every node has caught up", || async {
        for n in 0..cluster.nodes.len() {
            let status = cluster.nodes[n].status().await?;
            ensure!(status["mode"] == "serving", "{} is {}", cluster.nodes[n].name, status["mode"]);
            let here = applied(cluster, n).await?;
            ensure!(here >= target, "{} is at {here} of {target}", cluster.nodes[n].name);
        }
        Ok(())
    })
    .await
}

async fn applied(cluster: &Cluster, n: usize) -> Result<u64> {
    let mut manager = cluster.nodes[n].manager().await?;
    Ok(manager.applied_index(lockstep_tests::pb::AppliedIndexRequest {}).await?.into_inner().index)
}

/// Waits until an attempt to call node `n` so ends as expected.
async fn eventually_called(cluster: &Cluster, n: usize, tls: &Tls, is_taken: bool) -> Result<()> {
    let address = cluster.nodes[n].grpc_addr();
    eventually("a change of files is taken", || async {
        let options = lockstep_client::Options { tls: Some(tls.clone()), ..one_node() };
        let called = match options.connect(&address).await {
            Ok(node) => {
                let request = GetRequest { key: "nothing".into(), linearizable: false };
                ExampleClient::new(node).get(request).await.map(drop).map_err(|status| status.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        ensure!(called.is_ok() == is_taken, "node {n}: {called:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_to_tls_to_another_authority_and_back_and_loses_nothing() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let certificates = Certificates::made(&names.iter().map(String::as_str).collect::<Vec<_>>(), &["alice:admin"])?;
    let deployed: Vec<Deployed> = names.iter().map(|name| certificates.deployed(name)).collect::<Result<_>>()?;
    let plain = Writer::start(&cluster, "plain", None).await?;

    // Peers: first each takes both, then nothing plain.
    restart_each(&mut cluster, &plain, |n| deployed[n].peer_flags("prefer")).await?;
    restart_each(&mut cluster, &plain, |n| deployed[n].peer_flags("require")).await?;

    // Clients, in the same way. Everybody may do everything until they have moved.
    let policy = certificates.path("policy.toml");
    let closed = std::fs::read_to_string(&policy)?;
    std::fs::write(&policy, closed.clone() + FOR_EVERYBODY)?;
    restart_each(&mut cluster, &plain, |n| flags(&certificates, &deployed[n], "prefer")).await?;
    let of_client = certificates.deployed("alice")?;
    let alice = Tls::trusting_file(of_client.path("ca.pem"))
        .identity_files(of_client.path("node.pem"), of_client.path("node.key"));
    let encrypted = Writer::start(&cluster, "encrypted", Some(alice.clone())).await?;
    encrypted.goes_on().await?;
    cluster.nodes.iter_mut().for_each(|node| node.options.tls = Some(alice.clone()));
    plain.finish(&cluster).await?;
    replace(&policy, &closed)?;
    for n in 0..3 {
        eventually_called(&cluster, n, &certificates.anonymous(), false).await?;
    }
    restart_each(&mut cluster, &encrypted, |n| flags(&certificates, &deployed[n], "require")).await?;
    let error = lockstep(&["call", &cluster.nodes[0].grpc_addr()])?;
    ensure!(!error.status.success(), "a node still speaks plain text");

    change_the_authority(&cluster, &certificates, &deployed, &of_client, &encrypted).await?;
    move_back(&mut cluster, &certificates, &deployed, encrypted, &closed).await?;
    cluster.everyone_has_one_hash().await
}

/// Returns the flags of a node that encrypts both ports, and clients' as `mode` says.
fn flags(certificates: &Certificates, deployed: &Deployed, mode: &str) -> Vec<String> {
    let policy = vec![format!("--policy={}", certificates.word("policy.toml"))];
    [deployed.peer_flags("require"), deployed.client_flags(mode), policy].concat()
}

/// Moves a cluster that requires TLS back to plain text, in the steps of the page on security:
/// clients first, then peers.
async fn move_back(
    cluster: &mut Cluster,
    certificates: &Certificates,
    deployed: &[Deployed],
    encrypted: Writer,
    closed: &str,
) -> Result<()> {
    replace(&certificates.path("policy.toml"), &(closed.to_owned() + FOR_EVERYBODY))?;
    let anonymous = Tls::trusting_file(certificates.path("ca-2.pem"));
    for n in 0..cluster.nodes.len() {
        eventually_called(cluster, n, &anonymous, true).await?;
    }
    restart_each(cluster, &encrypted, |n| flags(certificates, &deployed[n], "prefer")).await?;

    // Clients leave their certificates out.
    let plain = Writer::start(cluster, "plain-again", None).await?;
    plain.goes_on().await?;
    cluster.nodes.iter_mut().for_each(|node| node.options.tls = None);
    let told = encrypted.finish(cluster).await?;
    ensure!(told.acknowledged > 100, "{told:?}");
    eventually("no client shows a certificate any more", || async {
        let before = shown_certificates(cluster).await?;
        plain.goes_on().await?;
        let after = shown_certificates(cluster).await?;
        ensure!(before == after, "{before:?}, then {after:?}");
        Ok(())
    })
    .await?;
    restart_each(cluster, &plain, |n| deployed[n].peer_flags("require")).await?;
    for n in 0..cluster.nodes.len() {
        eventually_called(cluster, n, &anonymous, false).await.context("a node still speaks TLS")?;
    }

    restart_each(cluster, &plain, |n| deployed[n].peer_flags("prefer")).await?;
    restart_each(cluster, &plain, |_| Vec::new()).await?;
    let told = plain.finish(cluster).await?;
    ensure!(told.acknowledged > 100, "{told:?}");
    Ok(())
}

/// Returns how many calls each node has let in for a certificate or a token.
async fn shown_certificates(cluster: &Cluster) -> Result<Vec<String>> {
    let mut shown = Vec::new();
    for node in &cluster.nodes {
        let (_, metrics) = node.http("/metrics").await?;
        let proofs = ["certificate", "token"].map(|proof| format!("calls_by_proof_total{{proof=\"{proof}\"}} "));
        let is_one = |line: &&str| proofs.iter().any(|proof| line.contains(proof));
        shown.extend(metrics.lines().filter(is_one).map(ToOwned::to_owned));
    }
    ensure!(!shown.is_empty(), "the metrics say nothing about proofs");
    Ok(shown)
}

/// Puts other content in place of a file in one step.
fn replace(path: &std::path::Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, path)?)
}

/// How the client speaks that the first authority signed. It takes a node's certificate of either.
fn of_first(certificates: &Certificates) -> Tls {
    Tls::trusting_file(certificates.path("ca-bundle.pem"))
        .identity_files(certificates.path("before.pem"), certificates.path("before.key"))
}

/// Shows a certificate at a port for peers. Returns whether it is served there.
async fn dialled_as(certificates: &Certificates, name: &str, address: &str) -> Result<bool> {
    let (cert, key) = (certificates.word(&format!("{name}.pem")), certificates.word(&format!("{name}.key")));
    let (ca, address) = (certificates.word("ca-bundle.pem"), address.to_owned());
    let words = move || openssl(&address, &["-CAfile", &ca, "-cert", &cert, "-key", &key, "-alpn", "h2"]);
    Ok(is_served(tokio::task::spawn_blocking(words).await??.as_bytes()))
}

/// Both authorities are trusted, then all certificates are made anew, then the old one is
/// forgotten. No process is started again.
async fn change_the_authority(
    cluster: &Cluster,
    certificates: &Certificates,
    deployed: &[Deployed],
    of_client: &Deployed,
    writer: &Writer,
) -> Result<()> {
    let processes: Vec<u32> = cluster.nodes.iter().map(|node| node.id()).collect::<Result<_>>()?;
    let unknown_before = writer.written.load(Relaxed);
    // What the first authority signed, for the proof at the end. Both are served before it.
    certificates.keep("alice", "before")?;
    certificates.keep("nodeB", "before-node")?;

    certificates.init(&["--new_ca"])?;
    for (n, node) in cluster.nodes.iter().enumerate() {
        let served_before = dialled_as(certificates, "before-node", &node.raft_addr()).await?;
        ensure!(served_before, "{} refuses a node's certificate of its own authority", node.name);
        eventually_called(cluster, n, &of_first(certificates), true).await?;
    }
    for place in deployed.iter().chain([of_client]) {
        place.replace("ca.pem", &certificates.path("ca-bundle.pem"))?;
    }
    // A certificate by the second authority is taken once the bundle is in use.
    certificates.init(&["--client", "carol:admin"])?;
    let carol = certificates.client("carol");
    for n in 0..cluster.nodes.len() {
        eventually_called(cluster, n, &carol, true).await?;
    }
    writer.goes_on().await?;

    certificates.init(&["--renew"])?;
    for (node, place) in cluster.nodes.iter().zip(deployed) {
        place.replace("node.key", &certificates.path(&format!("{}.key", node.name)))?;
        place.replace("node.pem", &certificates.path(&format!("{}.pem", node.name)))?;
        writer.goes_on().await?;
    }
    of_client.replace("node.key", &certificates.path("alice.key"))?;
    of_client.replace("node.pem", &certificates.path("alice.pem"))?;
    // Whoever trusts the second authority alone is content with every node.
    let second = Tls::trusting_file(certificates.path("ca-2.pem"))
        .identity_files(certificates.path("alice.pem"), certificates.path("alice.key"));
    for n in 0..cluster.nodes.len() {
        eventually_called(cluster, n, &second, true).await?;
    }
    writer.goes_on().await?;

    for place in deployed.iter().chain([of_client]) {
        place.replace("ca.pem", &certificates.path("ca-2.pem"))?;
    }
    for n in 0..cluster.nodes.len() {
        eventually_called(cluster, n, &of_first(certificates), false)
            .await
            .context("the first authority still counts")?;
        eventually_called(cluster, n, &second, true).await?;
    }
    // The port for peers has forgotten it, too, and takes the same node's new certificate.
    for node in &cluster.nodes {
        let address = node.raft_addr();
        eventually("a peer of the first authority is refused", || async {
            ensure!(!dialled_as(certificates, "before-node", &address).await?, "it is served");
            Ok(())
        })
        .await?;
        ensure!(dialled_as(certificates, "nodeB", &address).await?, "{} refuses the second authority", node.name);
    }
    writer.goes_on().await?;
    // A node that is cut off from the others by its certificates would fall behind.
    all_serve(cluster).await?;
    let after: Vec<u32> = cluster.nodes.iter().map(|node| node.id()).collect::<Result<_>>()?;
    ensure!(processes == after && writer.written.load(Relaxed) > unknown_before, "a node was started again");
    Ok(())
}

/// A subject whose grant is taken away is refused, and so is a certificate whose authority is. Open
/// connections count as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_is_refused_without_a_restart() -> Result<()> {
    let certificates = Certificates::made(&["nodeA"], &["alice:admin", "bob:writer"])?;
    let other = Certificates::made(&["nodeA"], &["alice:admin"])?;
    let deployed = certificates.deployed("nodeA")?;
    let mut options = lockstep_tests::Options::member();
    options.more.extend(deployed.client_flags("require"));
    options.more.push(format!("--policy={}", certificates.word("policy.toml")));
    options.tls = Some(certificates.client("alice"));
    let mut cluster = Cluster::new()?;
    cluster.form(1, &options).await?;
    let connect = |tls: Tls| lockstep_client::Options { tls: Some(tls), ..one_node() };
    let bob = connect(certificates.client("bob")).connect(&cluster.nodes[0].grpc_addr()).await?;
    let mut bob = ExampleClient::new(bob);
    let add = || AddRequest { key: "key".into(), val: "bob".into() };
    bob.add(add()).await?;

    let policy = std::fs::read_to_string(certificates.path("policy.toml"))?;
    let without_bob = policy.split("\n[[grant]]").filter(|part| !part.contains("\"bob\"")).collect::<Vec<_>>();
    replace(&certificates.path("policy.toml"), &without_bob.join("\n[[grant]]"))?;
    let refused = eventually("bob is refused", || {
        let mut bob = bob.clone();
        async move { bob.add(add()).await.err().context("bob still writes") }
    })
    .await?;
    ensure!(refused.code() == tonic::Code::PermissionDenied, "{refused}");

    // A broken file changes nothing.
    replace(&deployed.path("ca.pem"), "nonsense")?;
    eventually("the bad file is refused in the log", || async {
        ensure!(cluster.nodes[0].log().contains("--tls_client_ca"), "nothing is said");
        Ok(())
    })
    .await?;
    eventually_called(&cluster, 0, &certificates.client("alice"), true).await?;

    // Another authority: the connection that rests on the first one is closed.
    let open = connect(certificates.client("alice")).connect(&cluster.nodes[0].grpc_addr()).await?;
    let mut open = ExampleClient::new(open);
    open.add(add()).await?;
    deployed.replace("ca.pem", &other.path("ca.pem"))?;
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            match open.add(add()).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(status) => return status,
            }
        }
    })
    .await
    .context("the certificate is still taken")?;
    println!("refused: {refused}");
    // The node's own certificate is still of the first authority.
    let of_other = certificates.anonymous().identity_files(other.path("alice.pem"), other.path("alice.key"));
    eventually_called(&cluster, 0, &of_other, true).await?;
    // The harness looks no more.
    cluster.nodes[0].options.tls = Some(of_other);
    Ok(())
}
