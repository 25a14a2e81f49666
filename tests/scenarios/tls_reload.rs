//! TLS for clients, with OpenSSL as the client: new files are used without a restart and without an
//! end to open connections, bad ones are refused, and a connection ends once its CA is gone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{NodeProcess, Options, PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// Makes certificates in a directory.
struct Authority {
    directory: PathBuf,
    name: &'static str,
}

fn openssl(directory: &Path, arguments: &str) -> Result<Vec<u8>> {
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .context("this test needs the program openssl")?;
    ensure!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    Ok(made.stdout)
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Authority {
    fn new(directory: &Path, name: &'static str) -> Result<Authority> {
        let usage = "-addext basicConstraints=critical,CA:TRUE";
        openssl(
            directory,
            &format!("req -x509 {NEW_KEY} -keyout {name}.key -out {name}.pem -days 30 -subj /CN={name} {usage}"),
        )?;
        Ok(Authority { directory: directory.into(), name })
    }

    /// Writes `<of>.pem` and `<of>.key`.
    fn issue(&self, of: &str) -> Result<()> {
        self.issue_for(20, of)
    }

    /// Writes such files that hold for so many days.
    fn issue_for(&self, days: u32, of: &str) -> Result<()> {
        let says = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n";
        std::fs::write(self.path("says"), says)?;
        openssl(&self.directory, &format!("req -new {NEW_KEY} -keyout {of}.key -out {of}.csr -subj /CN={of}"))?;
        let ca = self.name;
        let signed =
            format!("x509 -req -in {of}.csr -CA {ca}.pem -CAkey {ca}.key -days {days} -extfile says -out {of}.pem");
        openssl(&self.directory, &signed).map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Copies a file over another one, as an operator does.
    fn replace(&self, name: &str, by: &str) -> Result<()> {
        let fresh = self.path("fresh");
        std::fs::copy(self.path(by), &fresh)?;
        Ok(std::fs::rename(fresh, self.path(name))?)
    }
}

/// An open connection of OpenSSL's client to the HTTP port.
struct Client {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Client {
    /// Connects, and accepts the node only if its certificate is from `ca`.
    fn connect(node: &NodeProcess, ca: &Path, more: &[&str]) -> Result<Client> {
        let mut process = tokio::process::Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-servername", "localhost", "-connect"])
            .arg(node.http_addr())
            .arg("-CAfile")
            .arg(ca)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (process.stdin.take().context("stdin")?, process.stdout.take().context("stdout")?);
        Ok(Client { process, input, output })
    }

    /// Sends a request and reads the reply, which the connection survives.
    async fn livez(&mut self) -> Result<()> {
        self.input.write_all(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n").await?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"ok\n") {
            let read = tokio::time::timeout(PATIENCE, self.output.read_buf(&mut heard)).await??;
            ensure!(read > 0, "the connection has ended: {}", String::from_utf8_lossy(&heard));
        }
        ensure!(heard.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Waits until the node ends the connection.
    async fn ends(mut self) -> Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.output.read_to_end(&mut Vec::new())).await;
        ended.context("the connection stays")??;
        self.process.wait().await?;
        Ok(())
    }
}

/// Asks once over a connection of its own.
async fn livez(node: &NodeProcess, ca: &Path, more: &[&str]) -> Result<()> {
    Client::connect(node, ca, more)?.livez().await
}

/// Waits for something while the open connection is used all the time.
async fn beside<T>(open: &mut Client, what: impl Future<Output = Result<T>>) -> Result<T> {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return done,
            () = tokio::time::sleep(Duration::from_millis(500)) => open.livez().await.context("the open connection")?,
        }
    }
}

/// Returns a node whose client ports take TLS and plain text, so that the harness gets in as well.
fn node(ours: &Authority, more: &[&str]) -> Result<NodeProcess> {
    let file = |name: &str| ours.path(name).display().to_string();
    let options = Options::bootstrap()
        .with(&["--tls_cert", &file("node.pem"), "--tls_key", &file("node.key"), "--tls_mode=prefer"])
        .with(more);
    NodeProcess::new("nodeA", &ours.directory, options)
}

async fn says(node: &NodeProcess, words: &str) -> Result<()> {
    eventually(words, || async {
        ensure!(node.log().contains(words), "not said: {words}");
        Ok(())
    })
    .await
}

async fn metric(node: &NodeProcess, line: &str) -> Result<bool> {
    Ok(node.http("/metrics").await?.1.lines().any(|found| found == line))
}

/// Compares the metric with what OpenSSL says about `node.pem`, within an hour.
async fn expires_as_told(node: &NodeProcess, directory: &Path) -> Result<()> {
    let (_, metrics) = node.http("/metrics").await?;
    let name = "lockstep_tls_certificate_expiry_timestamp_seconds{use=\"client\"} ";
    let expires = metrics.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
    let left = expires.parse::<u64>()?.saturating_sub(UNIX_EPOCH.elapsed()?.as_secs());
    let holds = |seconds: u64| openssl(directory, &format!("x509 -in node.pem -noout -checkend {seconds}")).is_ok();
    ensure!(left > 3_600 && holds(left - 3_600) && !holds(left + 3_600), "{expires} is not its end");
    Ok(())
}

#[tokio::test]
async fn new_files_are_used_without_a_restart_and_bad_ones_are_refused() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (ours, other) = (Authority::new(place.path(), "ours")?, Authority::new(place.path(), "other")?);
    let (our_ca, other_ca) = (ours.path("ours.pem"), ours.path("other.pem"));
    ours.issue("node")?;
    other.issue_for(10, "next")?;
    let mut node = node(&ours, &[])?;
    node.start().await?;
    says(&node, "grpc (plain text as well), http (plain text as well)").await?;
    let mut open = Client::connect(&node, &our_ca, &[])?;
    open.livez().await?;
    ensure!(livez(&node, &other_ca, &[]).await.is_err(), "it has no certificate of the other CA");
    expires_as_told(&node, &ours.directory).await?;
    let soon = "the certificate expires soon";
    ensure!(!node.log().contains(soon), "it holds for 20 days");

    // The key of another certificate: refused, and everything goes on.
    ours.replace("node.key", "next.key")?;
    beside(&mut open, says(&node, "new files of TLS cannot be used")).await?;
    ensure!(metric(&node, "lockstep_tls_files_refused{use=\"client\"} 1").await?, "the metric says so");
    livez(&node, &our_ca, &[]).await?;

    // The certificate follows: now both belong together.
    ours.replace("node.pem", "next.pem")?;
    beside(&mut open, eventually("the new certificate", || livez(&node, &other_ca, &[]))).await?;
    ensure!(metric(&node, "lockstep_tls_files_refused{use=\"client\"} 0").await?, "the metric says so");
    ensure!(livez(&node, &our_ca, &[]).await.is_err(), "the old certificate is gone");
    expires_as_told(&node, &ours.directory).await?;
    says(&node, soon).await?;
    open.livez().await.context("the connection from before")?;
    node.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_once_the_ca_of_its_certificate_is_gone() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (ours, other) = (Authority::new(place.path(), "ours")?, Authority::new(place.path(), "other")?);
    let our_ca = ours.path("ours.pem");
    ours.issue("node")?;
    ours.issue("alice")?;
    other.issue("mallory")?;
    std::fs::copy(&our_ca, ours.path("clients.pem"))?;
    let clients = ours.path("clients.pem").display().to_string();
    let mut node = node(&ours, &["--tls_client_ca", &clients])?;
    node.spawn()?;
    says(&node, "encrypted=").await?;
    let file = |name: &str| ours.path(name).display().to_string();
    let (cert, key) = (file("alice.pem"), file("alice.key"));
    let alice = ["-cert", &cert, "-key", &key];
    let (cert, key) = (file("mallory.pem"), file("mallory.key"));
    let mallory = ["-cert", &cert, "-key", &key];
    let (mut of_alice, mut of_nobody) =
        (Client::connect(&node, &our_ca, &alice)?, Client::connect(&node, &our_ca, &[])?);
    of_alice.livez().await?;
    of_nobody.livez().await?;
    ensure!(livez(&node, &our_ca, &mallory).await.is_err(), "nobody knows the CA");
    says(&node, "no trusted CA has signed its certificate").await?;

    ours.replace("clients.pem", "other.pem")?;
    of_alice.ends().await?;
    says(&node, "the new CAs do not accept its certificate").await?;
    of_nobody.livez().await.context("one that has shown no certificate")?;
    ensure!(livez(&node, &our_ca, &alice).await.is_err(), "the CA is gone");
    livez(&node, &our_ca, &mallory).await?;
    node.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_node_does_not_start_with_files_that_it_cannot_use() -> Result<()> {
    let place = tempfile::tempdir()?;
    let ours = Authority::new(place.path(), "ours")?;
    ours.issue("node")?;
    ours.issue("other")?;
    let file = |name: &str| ours.path(name).display().to_string();
    let table: [(&[&str], &str, &str); 4] = [
        (&["--tls_cert", &file("node.pem")], "--tls_key", "is missing"),
        (&["--tls_cert", &file("node.pem"), "--tls_key", &file("other.key")], "--tls_key", "does not belong"),
        (&["--tls_cert", &file("none.pem"), "--tls_key", &file("node.key")], "--tls_cert", "cannot read"),
        (
            &[
                "--peer_tls_cert",
                &file("node.pem"),
                "--peer_tls_key",
                &file("node.key"),
                "--peer_tls_ca",
                &file("ours.pem"),
            ],
            "--peer_tls_cert",
            "not this node, nodeA",
        ),
    ];
    for (more, flag, problem) in table {
        let mut node = NodeProcess::new("nodeA", place.path(), Options::bootstrap().with(more))?;
        node.spawn()?;
        ensure!(!node.wait_exit().await?.success(), "{more:?}");
        let said = node.log();
        ensure!(said.contains(flag) && said.contains(problem), "{more:?}: {said}");
        ensure!(!place.path().join("nodeA").exists(), "nothing on the disk was touched");
    }
    Ok(())
}
