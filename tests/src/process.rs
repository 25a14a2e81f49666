//! One node process with its reserved ports, its directory and its log: start, kill, stop, restart.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lockstep_client::{Client, Tls};
use lockstep_processes::{NodeCommand, Output, Process, Signal};

use crate::call::admin_client::AdminClient;
use crate::pb::example_client::ExampleClient;
use crate::pb::raft_manager_client::RaftManagerClient;
use crate::place::Place;
use crate::{PATIENCE, descriptors, eventually, one_node};

/// Options of a node in addition to its id and addresses.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--raft_bootstrap`.
    pub bootstrap: bool,
    /// `--fsm`; `None` leaves the flag out.
    pub fsm: Option<PathBuf>,
    /// Further arguments, verbatim.
    pub more: Vec<String>,
    /// The program: the product, or its variant with failpoints.
    pub program: PathBuf,
    /// Failpoints that are set at every start and stay set, in addition to those of
    /// [`NodeProcess::fail_at`].
    pub planted: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Soft and hard limit of the files and sockets that the process may have open. `None` means
    /// the limits of the test process.
    pub descriptors: Option<(u64, u64)>,
    /// How the harness speaks to the node at its port for clients. `None` means without TLS.
    pub tls: Option<Tls>,
}

impl Options {
    /// Returns options of a member that will be added, with the KV guest.
    pub fn member() -> Options {
        Options {
            bootstrap: false,
            fsm: Some(kv_wasm()),
            more: Vec::new(),
            program: lockstep_binary(),
            planted: Vec::new(),
            env: Vec::new(),
            descriptors: None,
            tls: None,
        }
    }

    /// Returns options of a member with the torture's guest, in the program with failpoints.
    pub fn tortured() -> Options {
        let (fsm, program) = (Some(chain_wasm()), failpoints_binary());
        Options { fsm, program, ..Options::member() }
    }

    /// Returns options of the node that founds the cluster.
    pub fn bootstrap() -> Options {
        Options { bootstrap: true, ..Options::member() }
    }

    /// Uses the program with failpoints. Comes before [`Options::through`].
    pub fn with_failpoints(mut self) -> Options {
        assert!(!self.env.iter().any(|(name, _)| name == "THROUGH"), "the shell would never run");
        self.program = failpoints_binary();
        self
    }

    /// Runs shell commands before the shell becomes the program.
    /// Examples are `ulimit -f 4096` and `exec 2>/dev/full`.
    pub fn through(mut self, shell: &str) -> Options {
        let program = std::mem::replace(&mut self.program, Path::new(env!("CARGO_MANIFEST_DIR")).join("through"));
        self.env.extend([("THROUGH".into(), shell.into()), ("PROGRAM".into(), program.display().to_string())]);
        self
    }

    /// Adds arguments.
    pub fn with(mut self, more: &[&str]) -> Options {
        self.more.extend(more.iter().map(|word| word.to_string()));
        self
    }
}

/// A node that can be started, killed and started again at the same addresses and directory.
pub struct NodeProcess {
    /// `--raft_id`.
    pub name: String,
    /// `--raft_data_dir`. The node's data is in `<data_dir>/<name>`.
    pub data_dir: PathBuf,
    /// Directory of the log and the failpoints, which is not on the disk that a test may take away.
    side_dir: PathBuf,
    /// Options of the next start.
    pub options: Options,
    process: Option<Process>,
    place: Place,
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            if std::thread::panicking() {
                eprintln!("--- log of {}:\n{}", self.name, self.log());
            }
        }
    }
}

impl NodeProcess {
    /// Reserves addresses on loopback. Starts nothing.
    pub fn new(name: &str, data_dir: &Path, options: Options) -> Result<NodeProcess> {
        Ok(NodeProcess::at(Place::on_loopback()?, name, data_dir, options))
    }

    /// Makes a node at the given addresses.
    pub(crate) fn at(place: Place, name: &str, data_dir: &Path, options: Options) -> NodeProcess {
        NodeProcess {
            name: name.to_string(),
            data_dir: data_dir.to_path_buf(),
            side_dir: data_dir.to_path_buf(),
            options,
            process: None,
            place,
        }
    }

    /// Returns the client address.
    pub fn grpc_addr(&self) -> String {
        self.place.grpc.to_string()
    }

    /// Returns the peer address.
    pub fn raft_addr(&self) -> String {
        self.place.raft.to_string()
    }

    /// Returns the address of `/livez`, `/readyz`, `/metrics` and `/status`.
    pub fn http_addr(&self) -> String {
        self.place.http.to_string()
    }

    /// Returns what starts the process.
    fn command(&self) -> NodeCommand {
        let mut command = NodeCommand::new(&self.options.program, &self.place.node(&self.name), &self.data_dir)
            .flag("http_addr", self.http_addr());
        if let Some(fsm) = &self.options.fsm {
            command = command.flag("fsm", fsm);
        }
        if self.options.bootstrap {
            command = command.bootstrap();
        }
        // The disk of the machine that runs the tests is not under test, unless a scenario sets the
        // flag.
        if !self.options.more.iter().any(|word| word.starts_with("--min_free_bytes")) {
            command = command.flag("min_free_bytes", "0");
        }
        if self.place.namespace.is_some() {
            // The address is not on loopback, but the network is the test's own.
            command = command.arguments(["--insecure"]);
        }
        command = command.arguments(&self.options.more);
        for (name, value) in &self.options.env {
            command = command.variable(name, value);
        }
        if let Some((soft, hard)) = self.options.descriptors {
            let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
            command = command.through(["sh", "-c", &limits]);
        }
        command.variable("LOCKSTEP_FAILPOINTS", self.failpoints_path())
    }

    /// Starts the process and waits until it answers a call on its client port.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_answers().await
    }

    /// Waits until a started process answers a call on its client port.
    pub async fn wait_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.answers().await {
            if let Some(status) = self.exited()? {
                bail!("{} ended with {status} instead of serving:\n{}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer on {}:\n{}", self.name, self.grpc_addr(), self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn answers(&self) -> bool {
        let Ok(node) = self.dial().await else { return false };
        RaftManagerClient::new(node).state(crate::pb::StateRequest {}).await.is_ok()
    }

    /// Starts the process and returns at once.
    pub fn spawn(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("{} runs already", self.name);
        }
        descriptors::raise();
        if !self.failpoints_path().exists() {
            self.fail_at(&[])?;
        }
        let log = Output::File(File::options().create(true).append(true).open(self.log_path())?);
        let command = self.command();
        let started = match &self.place.namespace {
            Some(namespace) => namespace.enter(|| command.start(log))?,
            None => command.start(log),
        };
        self.process = Some(started.with_context(|| format!("{} does not start", self.options.program.display()))?);
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.side_dir.join(format!("{}.log", self.name))
    }

    fn failpoints_path(&self) -> PathBuf {
        self.side_dir.join(format!("{}.failpoints", self.name))
    }

    /// Sets the node's failpoints to `tasks`, and to nothing else.
    ///
    /// A task is `name=task`, one a line; `host/src/faults.rs` describes them. A running node reads
    /// them within a few milliseconds, a stopped one at its start. Needs
    /// [`Options::with_failpoints`].
    pub fn fail_at(&self, tasks: &[&str]) -> Result<()> {
        let whole = self.failpoints_path().with_extension("new");
        let planted = self.options.planted.iter().map(String::as_str);
        let lines: Vec<&str> = planted.chain(tasks.iter().copied()).collect();
        std::fs::write(&whole, lines.join("\n"))?;
        Ok(std::fs::rename(whole, self.failpoints_path())?)
    }

    /// Sets the failpoints of a running node and waits until the node has read them.
    /// They are those of [`NodeProcess::fail_at`].
    pub async fn fail_now(&self, tasks: &[&str]) -> Result<()> {
        let before = self.log().len();
        self.fail_at(tasks)?;
        eventually("the failpoints are set", || async {
            let log = self.log();
            for task in tasks {
                let said = task.replacen('=', " is now ", 1);
                ensure!(log[before..].contains(&said), "{} did not say that {said}", self.name);
            }
            Ok(())
        })
        .await
    }

    /// Returns what the node has printed, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Sends SIGKILL and reaps the process.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("not running")?.kill()?;
        Ok(())
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit().await
    }

    /// Sends a signal. After SIGSTOP no thread of the process runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("not running")?.signal(signal)?;
        if signal == Signal::SIGSTOP {
            // The system stops threads one after the other, and a busy machine takes its time.
            let deadline = Instant::now() + PATIENCE;
            while !is_stopped(self.id()?)? {
                ensure!(Instant::now() < deadline, "the process was told to stop, and runs on");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Returns the process id.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("not running")?.id())
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited()? {
                self.process = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end:\n{}", self.name, self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Tells whether the started process has ended by itself. [`NodeProcess::wait_exit`] then
    /// returns its status.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.exited()?.is_some())
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().context("not running")?.try_wait()?)
    }

    /// Tells whether there is a process.
    pub fn running(&self) -> bool {
        self.process.is_some()
    }

    /// Returns the processor time of the process so far, of all its threads together.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> Result<Duration> {
        let id = self.id()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // After the name: the state, then numbers. User and system time are the 12th and 13th of
        // these fields, in hundredths of a second.
        let fields = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace();
        let hundredths: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(hundredths * 10))
    }

    /// Makes a new connection to the client port, as [`one_node`] says.
    pub async fn connect(&self) -> Result<Client> {
        eventually("a connection", || async { Ok(self.dial().await?) }).await
    }

    async fn dial(&self) -> Result<Client, lockstep_client::ConnectError> {
        let options = lockstep_client::Options { tls: self.options.tls.clone(), ..one_node() };
        options.connect(&self.grpc_addr()).await
    }

    /// Returns raft-example's client.
    pub async fn client(&self) -> Result<ExampleClient<Client>> {
        Ok(ExampleClient::new(self.connect().await?))
    }

    /// Returns the manager's client.
    pub async fn manager(&self) -> Result<RaftManagerClient<Client>> {
        Ok(RaftManagerClient::new(self.connect().await?))
    }

    /// Returns the parsed reply of `Stat`.
    pub async fn stat(&self) -> Result<serde_json::Value> {
        let reply = self.client().await?.stat(crate::pb::StatRequest {}).await?.into_inner();
        serde_json::from_str(&reply.stats).with_context(|| format!("Stat answered {:?}", reply.stats))
    }

    /// Returns the parsed reply of `GET /status`.
    /// It has the content of `Stat`, for a node with any guest.
    ///
    /// A node that speaks TLS is asked at its port for clients.
    pub async fn status(&self) -> Result<serde_json::Value> {
        if self.options.tls.is_some() {
            let mut admin = AdminClient::new(self.connect().await?);
            let json = admin.status(crate::call::StatusRequest {}).await?.into_inner().json;
            return serde_json::from_str(&json).with_context(|| format!("Status answered {json:?}"));
        }
        let (code, body) = self.http("/status").await?;
        anyhow::ensure!(code == 200, "/status answered {code}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/status answered {body:?}"))
    }

    /// Sends GET to the HTTP port and returns status code and body.
    /// Fails if the node does not answer in time.
    pub async fn http(&self, path: &str) -> Result<(u16, String)> {
        let answer = tokio::time::timeout(PATIENCE, self.http_answer(path)).await;
        answer.with_context(|| format!("{} does not answer GET {path} for {PATIENCE:?}", self.name))?
    }

    async fn http_answer(&self, path: &str) -> Result<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.http_addr()).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default();
        Ok((status, body))
    }
}

/// Returns the binary under test: `build/lockstep`, as `cargo xtask build` makes it.
pub fn lockstep_binary() -> PathBuf {
    built("lockstep")
}

/// Returns the same node with failpoints, `build/lockstep-failpoints`.
/// `cargo xtask test` makes it.
pub fn failpoints_binary() -> PathBuf {
    built("lockstep-failpoints")
}

/// Returns the example of the client crate.
pub fn kv_client_binary() -> PathBuf {
    built("kv-client")
}

/// Returns the default guest.
pub fn kv_wasm() -> PathBuf {
    built("kv.wasm")
}

/// Returns the torture's guest, `build/chain.wasm`, which is not part of the product.
/// `cargo xtask test` makes it.
pub fn chain_wasm() -> PathBuf {
    built("chain.wasm")
}

/// Returns a version of the lock service, from 1 to 3.
pub fn locks_wasm(version: u32) -> PathBuf {
    version_wasm("locks", version)
}

/// Returns a version, from 1 to 3, of the guest `kv`, `locks` or `orders` of the tests, such as
/// `build/kv-1.wasm`. `cargo xtask test` makes them.
pub fn version_wasm(guest: &str, version: u32) -> PathBuf {
    built(&format!("{guest}-{version}.wasm"))
}

/// Returns `kv-1` with planted differences, `build/kv-planted.wasm`.
/// `cargo xtask test` makes it.
pub fn kv_planted_wasm() -> PathBuf {
    built("kv-planted.wasm")
}

/// Returns the guest whose command does a little of everything, `build/medley.wasm`.
/// `cargo xtask test` makes it.
pub fn medley_wasm() -> PathBuf {
    built("medley.wasm")
}

/// Returns the guest whose `.proto` has every difficult name, `build/names.wasm`.
/// `cargo xtask test` makes it.
pub fn names_wasm() -> PathBuf {
    built("names.wasm")
}

/// Returns the guest that does one thing as often as requested, `build/prices.wasm`.
/// `cargo xtask build` makes it.
pub fn prices_wasm() -> PathBuf {
    built("prices.wasm")
}

/// Returns the guest that keeps state in a static, `build/statics.wasm`.
/// `cargo xtask test` makes it.
pub fn statics_wasm() -> PathBuf {
    built("statics.wasm")
}

fn built(name: &str) -> PathBuf {
    let directory = std::env::var_os("LOCKSTEP_BUILD_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../build"));
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: `cargo xtask build` makes it", path.display());
    path
}

/// Runs a short `lockstep` command to its end.
pub fn lockstep(arguments: &[&str]) -> Result<std::process::Output> {
    Ok(Command::new(lockstep_binary()).args(arguments).stdin(Stdio::null()).output()?)
}

/// Returns whether all threads of a process are stopped.
fn is_stopped(process: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that has just ended has no state.
        let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, Some('T' | 'Z' | 'X')) {
            return Ok(false);
        }
    }
    Ok(true)
}
