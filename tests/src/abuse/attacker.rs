//! The attacker's process: how the run starts it, and what it does. A process of its own, so that
//! the honest clients do not wait for its work and its memory and processor time are its own. It
//! refuses to attack anything but loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lockstep_processes::{Output, Process, Stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::case::{Case, FAILED, Target, named};
use super::{processors, watched};
use crate::{NodeProcess, descriptors};

/// First word of the command line of an attacker's process.
pub const ATTACK: &str = "attack";

/// How nice the attacker is to the nodes, which share its processors. Their threads for clients are
/// nice, too, but less so.
const NICENESS: &str = "10";
/// Time that an attacker may take to end after its time.
const GRACE: Duration = Duration::from_secs(3);
/// Time between two looks at the attacker's process.
const LOOK: Duration = Duration::from_millis(20);

/// An attacker that runs.
pub(crate) struct Attacker {
    process: Process,
    said: mpsc::Receiver<String>,
}

/// What an attacker did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Did {
    /// How often it did what.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Why its last failed attempt failed.
    pub(crate) last_failure: Option<String>,
}

impl Attacker {
    /// Starts `program attack ...` against a node.
    pub(crate) fn start(program: &Path, case: &Case, node: &NodeProcess, time: Duration) -> Result<Attacker> {
        let mut command = Command::new("nice");
        command.args(["-n", NICENESS]).arg(program).arg(ATTACK).arg(case.name);
        command.args([node.grpc_addr(), node.raft_addr(), node.http_addr()]);
        command.arg(node.id()?.to_string()).arg(time.as_millis().to_string());
        let (sender, said) = mpsc::channel();
        let output = Output::lines(move |stream, line| match stream {
            Stream::Stdout => drop(sender.send(line.to_owned())),
            Stream::Stderr => eprintln!("attacker: {line}"),
        });
        let process = Process::start("attacker", &mut command, output).context("nice(1) does not start")?;
        Ok(Attacker { process, said })
    }

    /// Returns the processor time that the attacker has used.
    pub(crate) fn processor_time(&self) -> Duration {
        watched::processor_time(self.process.id()).unwrap_or_default()
    }

    /// Ends the attack now. What it did is then unknown.
    pub(crate) fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().map(drop)?)
    }

    /// Waits until the attacker has ended, kills it when it does not, and returns what it did.
    pub(crate) async fn finish(mut self) -> Result<Did> {
        let deadline = Instant::now() + GRACE;
        while self.process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.process.kill()?;
            }
            tokio::time::sleep(LOOK).await;
        }
        let Some(line) = self.said.try_iter().last() else { return Ok(Did::default()) };
        Did::parse(&line)
    }
}

impl Did {
    /// Returns how much it did, without the attempts that failed.
    pub(crate) fn deeds(&self) -> u64 {
        self.counts.iter().filter(|(what, _)| *what != FAILED).map(|(_, number)| number).sum()
    }

    fn parse(line: &str) -> Result<Did> {
        let told: Value = serde_json::from_str(line).with_context(|| format!("the attacker said {line:?}"))?;
        let counts = told["did"].as_object().context("it did not say what it did")?.iter();
        Ok(Did {
            counts: counts.map(|(what, number)| (what.clone(), number.as_u64().unwrap_or_default())).collect(),
            last_failure: told["last_failure"].as_str().map(str::to_owned),
        })
    }
}

/// Runs the attack that the words behind [`ATTACK`] name, and prints what it did.
///
/// # Errors
/// The words are wrong, the target is not on loopback, or the attack could not begin.
pub fn attack_by_words(words: &[String]) -> Result<()> {
    let [name, clients, peers, http, process, milliseconds] = words else {
        bail!("usage: {ATTACK} CASE CLIENT_ADDRESS PEER_ADDRESS HTTP_ADDRESS PROCESS MILLISECONDS");
    };
    for address in [clients, peers, http] {
        let parsed: SocketAddr = address.parse().with_context(|| format!("'{address}' is no address"))?;
        ensure!(parsed.ip().is_loopback(), "{address} is not on loopback: nothing else is attacked");
    }
    let case = named(name).with_context(|| format!("there is no case '{name}'"))?;
    let process = process.parse().with_context(|| format!("'{process}' is no process"))?;
    let time = Duration::from_millis(milliseconds.parse().with_context(|| format!("'{milliseconds}' is no time"))?);
    descriptors::raise();
    processors::join(process)?;
    // One thread: an attacker has no more than one of the processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let target = Target {
            clients: clients.clone(),
            peers: peers.clone(),
            http: http.clone(),
            attacked: case.port,
            process,
            until: Instant::now() + time,
            did: Arc::default(),
            last_failure: Arc::default(),
        };
        // An attack ends by itself. This also ends one that a busy node holds up.
        if let Ok(failed) = tokio::time::timeout(time + GRACE / 2, (case.attack)(target.clone())).await {
            failed?;
        }
        println!("{}", json!({ "did": *target.did.lock(), "last_failure": *target.last_failure.lock() }));
        // Without the destructors of thousands of connections the nodes see the end at once.
        std::process::exit(0)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_loopback_is_attacked() {
        let words: Vec<String> =
            ["pings", "127.0.0.1:1", "10.0.0.1:1", "127.0.0.1:1", "1", "1"].map(str::to_owned).to_vec();
        let error = attack_by_words(&words).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1:1 is not on loopback"), "{error}");
    }

    #[test]
    fn attempts_that_failed_are_no_deeds() {
        let did = |told: Value| Did::parse(&json!({ "did": told, "last_failure": "refused" }).to_string()).unwrap();
        assert_eq!(did(json!({ "failed": 7 })).deeds(), 0);
        assert_eq!(did(json!({ "failed": 7, "pings": 2, "calls": 1 })).deeds(), 3);
    }

    #[test]
    fn what_an_attacker_did_is_read_back() {
        let did = Did::parse(r#"{"did": {"pings": 7}, "last_failure": "reset"}"#).unwrap();
        assert_eq!((did.counts["pings"], did.last_failure.as_deref()), (7, Some("reset")));
        assert!(Did::parse("{}").is_err());
    }
}
