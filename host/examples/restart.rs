//! Measures how fast a node with many small entries in its log serves again, and how much memory it
//! takes. It fills the log of a one-node cluster through the store's own API, then restarts the
//! real `lockstep` binary. The figures are for people; it judges nothing.
//!
//! `cargo run --release -p lockstep --example restart -- build/lockstep build/kv.wasm 1000000
//! [parent directory]`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::codec;
use lockstep::store::{DataDir, LogDisk};
use lockstep::types::{Entry, Fatal, GROUP, LogId};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};

type Anyhow<T> = Result<T, Box<dyn Error>>;

/// Entries between two waits for the disk.
const ENTRIES_AT_ONCE: u64 = 10_000;

struct Setup {
    program: PathBuf,
    guest: PathBuf,
    directory: PathBuf,
    ports: [u16; 3],
}

/// A running node. It is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> Anyhow<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, guest, count, parent @ ..] = words.as_slice() else {
        return Err("usage: restart <lockstep> <kv.wasm> <entries> [parent directory]".into());
    };
    let place = match parent.first() {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let setup = Setup {
        program: program.into(),
        guest: guest.into(),
        directory: place.path().into(),
        ports: [free_port()?, free_port()?, free_port()?],
    };
    stop(start(&setup)?.0)?;
    fill(&setup.directory.join("node"), count.parse()?)?;
    let (node, replayed) = start(&setup)?;
    println!("the first start, which applies them all: {replayed:.2?}; {}", memory(&node)?);
    stop(node)?;
    for _ in 0..3 {
        let (node, served) = start(&setup)?;
        println!("after a clean stop: ready in {served:.2?}; {}", memory(&node)?);
        stop(node)?;
    }
    for _ in 0..3 {
        let (node, _) = start(&setup)?;
        drop(node);
        let (node, served) = start(&setup)?;
        println!("after kill -9: ready in {served:.2?}; {}", memory(&node)?);
        stop(node)?;
    }
    Ok(())
}

fn free_port() -> Anyhow<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts the node and waits until `/readyz` says that it serves.
fn start(setup: &Setup) -> Anyhow<(Running, Duration)> {
    let [grpc, raft, http] = setup.ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let log = std::fs::File::options().create(true).append(true).open(setup.directory.join("node.log"))?;
    let begun = Instant::now();
    let child = Command::new(&setup.program)
        .args(["node", "--raft_id=node", "--raft_bootstrap", "--trailing_logs=100000000", "--snapshot_interval=24h"])
        .arg(format!("--grpc_addr={grpc}"))
        .arg(format!("--raft_addr={raft}"))
        .arg(format!("--http_addr={http}"))
        .arg(format!("--raft_data_dir={}", setup.directory.display()))
        .arg(format!("--fsm={}", setup.guest.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let mut node = Running(child);
    while !is_ready(http) {
        if let Some(status) = node.0.try_wait()? {
            let log = std::fs::read_to_string(setup.directory.join("node.log"))?;
            return Err(format!("the node ended with {status}:\n{log}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((node, begun.elapsed()))
}

fn is_ready(http: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(http)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn stop(mut node: Running) -> Anyhow<()> {
    let sent = Command::new("kill").args(["-TERM", &node.0.id().to_string()]).status()?;
    let ended = node.0.wait()?;
    if sent.success() && ended.success() { Ok(()) } else { Err(format!("the node ended with {ended}").into()) }
}

fn memory(node: &Running) -> Anyhow<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.0.id()))?;
    let lines = status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"));
    Ok(lines.map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join(", "))
}

/// Appends `count` entries of one small command each, as the leader of the last term would have.
fn fill(data: &Path, count: u64) -> Anyhow<()> {
    let begun = Instant::now();
    let directory = DataDir::open(data)?;
    let mut log = LogDisk::open(&directory, Fatal::default())?.log(GROUP)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let before = log.get_log_state().await?.last_log_id.ok_or("the log is empty")?;
        let log_id = |n: u64| LogId::new(before.leader_id, before.index + n);
        for n in 1..=count {
            log.append([entry(log_id(n), n)], IOFlushed::noop()).await?;
            if n % ENTRIES_AT_ONCE == 0 {
                log.barrier().await?;
            }
        }
        log.save_committed(Some(log_id(count))).await?;
        log.barrier().await?;
        Ok::<_, Box<dyn Error>>(())
    })?;
    log.close();
    println!("{count} entries written in {:.2?}", begun.elapsed());
    Ok(())
}

fn entry(log_id: LogId, n: u64) -> Entry {
    let field = |tag: u8, text: String| [&[tag, text.len() as u8], text.as_bytes()].concat();
    let request = [field(0x0a, format!("key{}", n % 1000)), field(0x12, format!("value{n}"))].concat();
    let command =
        codec::Command { method: "Example/Add".into(), request: Bytes::from(request), ..codec::Command::default() };
    let payload = codec::encode_entry(&codec::entry::Entry { commands: vec![command], ..Default::default() });
    Entry { log_id, payload: EntryPayload::Normal(payload) }
}
