//! What new users meet in the first hour apart from refused flags: `dev`, a wrong port, a node that
//! is in no cluster, and a quiet log.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use lockstep_tests::{NodeProcess, Options, eventually, formed, kv_wasm, lockstep, lockstep_binary};
use tempfile::tempdir;

use crate::printed::all as said;

/// A `lockstep dev` in a temporary directory of its own.
struct Dev {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Dev {
    fn start(place: &Path, more: &[&str]) -> Result<Dev> {
        let mut child = Command::new(lockstep_binary())
            .arg("dev")
            .arg(kv_wasm())
            .args(more)
            .env("TMPDIR", place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("piped")?);
        let stderr = child.stderr.take().context("piped")?;
        Ok(Dev { child, stdout, stderr })
    }

    /// Returns what it prints until it waits for Ctrl-C.
    fn greeting(&mut self) -> Result<String> {
        let mut text = String::new();
        while !text.contains("Ctrl-C stops") {
            if self.stdout.read_line(&mut text)? == 0 {
                bail!("dev ended: {text}{}", self.words()?);
            }
        }
        Ok(text)
    }

    /// Returns the rest of what it printed, once it has ended.
    fn words(&mut self) -> Result<String> {
        let mut words = String::new();
        self.stderr.read_to_string(&mut words)?;
        Ok(words)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn dev_directories(place: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(place)?.map(|entry| Ok(entry?.path()));
    paths.collect()
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "does not say {word:?}:\n{text}");
    }
}

/// A killed `dev` used to leave 357 MB behind, and its first command, typed at once, met a closed
/// port.
#[tokio::test]
async fn what_dev_prints_works_at_once_and_what_a_killed_one_left_goes_with_the_next() -> Result<()> {
    let place = tempdir()?;
    let mut killed = Dev::start(place.path(), &[])?;
    let greeting = killed.greeting()?;
    let commands: Vec<&str> = greeting
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(&lockstep_binary().display().to_string()))
        .collect();
    assert_eq!(commands.len(), 3, "commands name the program as it was called:\n{greeting}");
    for command in commands {
        let output = Command::new("sh").args(["-c", command]).output()?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
    }
    let left = dev_directories(place.path())?;
    assert_eq!(left.len(), 1, "{left:?}");
    killed.child.kill()?;
    killed.child.wait()?;
    let lock = std::fs::File::open(left[0].join("nodeA/LOCK"))?;
    eventually("the nodes end with dev", || async { Ok(lock.try_lock()?) }).await?;
    lock.unlock()?;

    let mut next = Dev::start(place.path(), &[])?;
    next.greeting()?;
    let stopped = Command::new("kill").args(["-INT", &next.child.id().to_string()]).status()?;
    ensure!(stopped.success());
    let words = next.words()?;
    assert_eq!(next.child.wait()?.code(), Some(0), "{words}");
    assert_says(&words, &[&format!("removed {}", left[0].display()), "which a killed run left"]);
    assert!(!words.contains("WARN") && !words.contains("ERROR"), "an ordinary stop is quiet:\n{words}");
    assert!(dev_directories(place.path())?.is_empty());
    Ok(())
}

/// Everything that `dev --tls` prints to try is one script. Without its variables nobody is let in.
#[tokio::test]
async fn what_dev_with_tls_prints_lets_in_and_nothing_else_does() -> Result<()> {
    let place = tempdir()?;
    let mut dev = Dev::start(place.path(), &["--tls"])?;
    let greeting = dev.greeting()?;
    let program = lockstep_binary().display().to_string();
    let (exports, commands): (Vec<&str>, Vec<&str>) = greeting
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("export ") || line.starts_with(&program))
        .partition(|line| line.starts_with("export "));
    assert_eq!((exports.len(), commands.len()), (3, 3), "{greeting}");
    assert_says(&greeting, &["grpcurl -cacert $LOCKSTEP_CLIENT_TLS_CA"]);
    let script = |lines: &[&str]| Command::new("sh").args(["-e", "-c", &lines.join("\n")]).output();
    let output = script(&[&exports[..], &commands[..]].concat())?;
    ensure!(output.status.success() && said(&output).contains("world"), "{}", said(&output));
    let output = script(&commands[..1])?;
    ensure!(!output.status.success(), "{}", said(&output));
    assert_says(&said(&output), &["speaks TLS", "--tls_ca"]);
    let output = script(&[exports[0], commands[0]])?;
    ensure!(!output.status.success(), "{}", said(&output));
    assert_says(&said(&output), &["UNAUTHENTICATED", "--tls_cert"]);
    Ok(())
}

/// The other cluster used to answer in its place, so it reported success first.
#[test]
fn dev_on_a_taken_port_says_so_before_anything_else() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let base = port.saturating_sub(2).to_string();
    let output = lockstep(&["dev", &kv_wasm().display().to_string(), "--base_port", &base])?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(output.stdout.is_empty(), "{}", said(&output));
    assert_says(&said(&output), &["is taken", "--base_port", "the system chooses"]);
    Ok(())
}

#[test]
fn dev_refuses_what_no_node_would_take_before_it_starts_one() -> Result<()> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md").display().to_string();
    let output = lockstep(&["dev", &readme])?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_says(&said(&output), &["README.md is no state machine", "not WebAssembly", "cargo xtask guests"]);
    assert!(!said(&output).contains("starting"), "{}", said(&output));
    let output = lockstep(&["dev", &kv_wasm().display().to_string(), "--log_level", "loud"])?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_says(&said(&output), &["--log_level", "\"loud\" is no level"]);
    assert!(!said(&output).contains("starting"), "{}", said(&output));
    Ok(())
}

#[test]
fn a_refused_start_leaves_no_directory() -> Result<()> {
    let directory = tempdir()?;
    let fsm = directory.path().join("guest.wasm");
    std::fs::write(&fsm, "no guest")?;
    let (fsm, data) = (fsm.display().to_string(), directory.path().join("data"));
    let data_text = data.display().to_string();
    let output =
        lockstep(&["node", "--raft_bootstrap", "--raft_id=nodeA", "--raft_data_dir", &data_text, "--fsm", &fsm])?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!data.exists(), "{}", said(&output));
    Ok(())
}

#[tokio::test]
async fn a_node_outside_of_every_cluster_says_how_to_enter_one() -> Result<()> {
    let directory = tempdir()?;
    let mut node = NodeProcess::new("nodeB", directory.path(), Options { fsm: None, ..Options::member() })?;
    node.start().await?;
    let add_voter =
        format!("{} admin <the leader's grpc_addr> add_voter nodeB {}", lockstep_binary().display(), node.raft_addr());
    let output = lockstep(&["call", &node.grpc_addr(), "Example/Add", "{}"])?;
    assert_eq!(output.status.code(), Some(1));
    assert_says(&said(&output), &["in no cluster yet", &add_voter, "--raft_bootstrap"]);
    let output = lockstep(&["call", &node.grpc_addr()])?;
    assert_says(&said(&output), &["RaftManager  of the node", "in no cluster yet", &add_voter]);
    Ok(())
}

#[tokio::test]
async fn a_call_without_its_service_or_its_request_says_how_it_is_made() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    for called in ["Add", "Example.Add"] {
        let output = lockstep(&["call", &addr, called])?;
        assert_eq!(output.status.code(), Some(1));
        assert_says(&said(&output), &["SERVICE/METHOD", "did you mean Example/Add?"]);
    }
    let before = cluster.nodes[0].stat().await?["fsm"]["commands_applied"].clone();
    for words in [["call", &addr, "Example", "{}"], ["call", &addr, "Example/Add", ""]] {
        let output = lockstep(&words)?;
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert_says(&said(&output), &["hint: "]);
    }
    assert_eq!(cluster.nodes[0].stat().await?["fsm"]["commands_applied"], before, "no command came of it");
    assert_says(&said(&lockstep(&["call", &addr, "Example/Ad"])?), &["did you mean Example/Add?"]);
    Ok(())
}

#[tokio::test]
async fn the_peer_port_says_that_it_is_one_and_where_clients_go() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let node = &cluster.nodes[0];
    for words in [
        &["admin", &node.raft_addr(), "state"][..],
        &["call", &node.raft_addr()],
        &["call", &node.raft_addr(), "Example/Get"],
    ] {
        let output = lockstep(words)?;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_says(&said(&output), &["--raft_addr", &node.name, "--grpc_addr", &node.grpc_addr()]);
    }
    let output = lockstep(&["call", &node.grpc_addr(), "Example/Get", r#"{"key": "k"}"#])?;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    Ok(())
}

#[tokio::test]
async fn a_watch_that_ends_by_its_timeout_leaves_nothing_in_doubt() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let output =
        lockstep(&["call", &cluster.nodes[0].grpc_addr(), "Example/Watch", r#"{"key": "k"}"#, "--timeout", "300ms"])?;
    assert_eq!(output.status.code(), Some(1));
    assert_says(&said(&output), &["currentIndex", "ended after 300ms, as --timeout asks"]);
    assert!(!said(&output).contains("effect"), "{}", said(&output));
    Ok(())
}

#[tokio::test]
async fn many_addresses_without_a_node_are_told_once() -> Result<()> {
    let output = lockstep(&["admin", "--leader", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "state"])?;
    assert_eq!(output.status.code(), Some(1));
    assert_says(&said(&output), &["127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3: cannot connect", "--grpc_addr"]);
    assert_eq!(said(&output).matches("refused").count(), 1, "{}", said(&output));
    Ok(())
}

#[tokio::test]
async fn recovering_the_only_voter_says_why_not_and_what_to_do() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.nodes[0].stop().await?;
    let directory = cluster.directory().display().to_string();
    for more in [&[][..], &["--yes_i_lose_what_the_others_had"]] {
        let words = ["recover", "--raft_id=nodeA", "--raft_data_dir", &directory];
        let output = lockstep(&[&words[..], more].concat())?;
        assert_eq!(output.status.code(), Some(1));
        assert_says(
            &said(&output),
            &["nothing was changed, because", "only voter", "node --raft_id=nodeA", "add_voter"],
        );
    }
    cluster.nodes[0].start().await?;
    cluster.everyone_reads("nothing", "").await
}

/// The start of a restored node used to warn of addresses that could not have been recorded, and of
/// the flag that the restore had told the user to give.
#[tokio::test]
async fn a_restored_node_starts_and_stops_without_a_warning() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let directory = tempdir()?;
    let file = directory.path().join("today.backup");
    let out = std::fs::File::create(&file)?;
    let status =
        Command::new(lockstep_binary()).args(["backup", &cluster.nodes[0].grpc_addr()]).stdout(out).status()?;
    ensure!(status.success());
    let (file, place) = (file.display().to_string(), directory.path().display().to_string());
    let output = lockstep(&["restore", "--from", &file, "--raft_id=nodeX", "--raft_data_dir", &place])?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    assert_says(&said(&output), &[&format!("start it with: {} node", lockstep_binary().display())]);
    let mut node = NodeProcess::new("nodeX", directory.path(), Options { fsm: None, ..Options::member() })?;
    node.start().await?;
    let read = lockstep(&["call", &node.grpc_addr(), "Example/Get", r#"{"key": "key", "linearizable": true}"#])?;
    ensure!(read.status.success(), "{}", said(&read));
    let reply: serde_json::Value = serde_json::from_slice(&read.stdout)?;
    assert_eq!(reply["value"], "value");
    assert_eq!(node.stop().await?.code(), Some(0));
    assert!(!node.log().contains("WARN") && !node.log().contains("ERROR"), "{}", node.log());
    Ok(())
}
