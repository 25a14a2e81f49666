//! Runs cases one after the other, each on three fresh nodes: warm-up, baseline, attack, and the
//! time after. It gathers the figures and leaves the verdict to `judge`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::attacker::{Attacker, Did};
use super::case::{Case, Guest, Role};
use super::honest::{self, Honest, Phase, Stage};
use super::judge::{Figures, Judging, Verdict};
use super::processors::Halves;
use super::table;
use super::watched::{self, GROWTH_BYTES_STOP, Watched};
use crate::certificates::Certificates;
use crate::{Cluster, NodeProcess, Options as NodeOptions, PATIENCE, kv_wasm, lean_misbehaving_wasm};

/// Nodes of the cluster.
const NODES: usize = 3;
/// Their names.
const NAMES: [&str; NODES] = ["nodeA", "nodeB", "nodeC"];
/// Time for connections and caches to become warm.
const WARM_UP: Duration = Duration::from_secs(2);
/// Time between two looks whether an attack must be ended.
const LOOK: Duration = Duration::from_millis(50);

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's program.
    pub program: PathBuf,
    /// The program that attacks when its first word is [`ATTACK`](super::ATTACK).
    pub attacker: PathBuf,
    /// Length of the baseline, and of the time after the attack.
    pub calm: Duration,
    /// Length of an attack.
    pub attack: Duration,
    /// What is judged.
    pub judging: Judging,
}

/// A case with its figures and its verdict.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Name of the case.
    pub case: &'static str,
    /// What was seen.
    pub figures: Figures,
    /// What is wrong with it.
    pub verdict: Verdict,
    /// Directory with the nodes' data and logs, of a case that has failed.
    pub kept: Option<PathBuf>,
}

/// Runs the cases, and calls `done` after each.
///
/// # Errors
/// Nodes could not be started, or Ctrl-C. A harmed cluster is no error, but a verdict.
pub fn run(cases: &[&'static Case], options: &Options, mut done: impl FnMut(&Judged)) -> Result<Vec<Judged>> {
    let mut all = Vec::new();
    for case in cases {
        if let Some(flag) = missing(case, &options.program)? {
            eprintln!("SKIPPED: {}, because this node has no {flag}", case.name);
            continue;
        }
        // Each case has a runtime of its own, so that its clients end with it.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let judged = runtime.block_on(async {
            tokio::select! {
                judged = one(case, options) => judged.with_context(|| format!("case {}", case.name)),
                // The nodes end when the cluster is dropped.
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        });
        runtime.shutdown_timeout(PATIENCE);
        let judged = judged?;
        done(&judged);
        all.push(judged);
    }
    Ok(all)
}

async fn one(case: &'static Case, options: &Options) -> Result<Judged> {
    let mut cluster = Cluster::new()?;
    // The files must be there as long as nodes read them.
    let certificates = case.encrypts_peers.then(|| Certificates::made(&NAMES, &[])).transpose()?;
    let figures = match under_attack(&mut cluster, case, options, certificates.as_ref()).await {
        Ok(figures) => figures,
        Err(error) => {
            let kept = cluster.keep();
            return Err(error.context(format!("the nodes' data and logs are in {}", kept.display())));
        }
    };
    let verdict = figures.verdict(options.judging);
    let kept = (!verdict.passed()).then(|| cluster.keep());
    Ok(Judged { case: case.name, figures, verdict, kept })
}

async fn under_attack(
    cluster: &mut Cluster,
    case: &Case,
    options: &Options,
    certificates: Option<&Certificates>,
) -> Result<Figures> {
    form(cluster, case, options, certificates).await?;
    let attacked = match case.role {
        Role::Leader => cluster.leader().await?,
        Role::Follower => cluster.follower().await?,
    };
    let stage = Stage::new();
    let honest = Honest::start(cluster, case.guest, attacked, stage.clone()).await?;
    let processes = cluster.nodes.iter().map(NodeProcess::id).collect::<Result<Vec<u32>>>()?;
    let _halves = if case.reaches_all { None } else { Halves::split(&processes, attacked)? };
    let watched = Watched::start(&processes, stage.clone())?;
    sleep(WARM_UP).await;
    stage.enter(Phase::Baseline);
    let term = cluster_term(cluster).await;
    sleep(options.calm).await;
    stage.enter(Phase::Attack);
    let attack = attack(case, options, &cluster.nodes[attacked], &watched).await?;
    stage.enter(Phase::After);
    let begun = Instant::now();
    let back = match cluster.nodes[attacked].has_ended()? {
        true => None,
        false => honest::serves_again(cluster, case.guest, attacked, PATIENCE).await,
    };
    sleep(options.calm.saturating_sub(begun.elapsed())).await;
    let elections = cluster_term(cluster).await.saturating_sub(term);
    let growth_bytes = watched.growths().into_iter().max().unwrap_or_default();
    let calls = honest.finish().await;
    Ok(Figures {
        promised: case.promised,
        growth_bytes,
        stopped: attack.stopped,
        back,
        ended: ended(cluster).await?,
        elections,
        node_processors: attack.node_processors,
        attacker_processors: attack.attacker_processors,
        deeds: attack.did.deeds(),
        did: table::deeds(&attack.did),
        ..Figures::of(&calls)
    })
}

async fn form(
    cluster: &mut Cluster,
    case: &Case,
    options: &Options,
    certificates: Option<&Certificates>,
) -> Result<()> {
    let fsm = match case.guest {
        Guest::Kv => kv_wasm(),
        Guest::Misbehaving => lean_misbehaving_wasm(cluster.directory())?,
    };
    let member = NodeOptions {
        bootstrap: false,
        fsm: Some(fsm),
        more: if case.verifies_tokens { tokens(cluster)? } else { Vec::new() },
        program: options.program.clone(),
        planted: Vec::new(),
        env: Vec::new(),
        descriptors: case.descriptors.map(|limit| (limit, limit)),
        tls: None,
    };
    match certificates {
        None => cluster.form(NODES, &member).await?,
        Some(certificates) => form_encrypted(cluster, &member, certificates).await?,
    }
    honest::write_large(cluster, case.large_values).await
}

/// Forms a cluster of nodes that require TLS of each other.
async fn form_encrypted(cluster: &mut Cluster, member: &NodeOptions, certificates: &Certificates) -> Result<()> {
    for name in NAMES {
        let mut options = NodeOptions { bootstrap: cluster.nodes.is_empty(), ..member.clone() };
        options.more.extend(certificates.deployed(name)?.peer_flags("require"));
        let n = cluster.push(options)?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    cluster.everyone_knows_everyone().await
}

/// A key that nobody has, in a set of keys as the node reads it.
const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// A policy by which the honest clients need no token.
const POLICY: &str = "[[grant]]\nsubject = \"anonymous\"\nrole = \"admin\"\n";
/// Flag of a node that verifies tokens.
const VERIFIES_TOKENS: &str = "--token_jwks";
/// Flag of a node that speaks TLS with its peers.
const ENCRYPTS_PEERS: &str = "--peer_tls_cert";

/// Writes the files of nodes that verify tokens, and returns their flags.
fn tokens(cluster: &Cluster) -> Result<Vec<String>> {
    let (keys, policy) = (cluster.directory().join("keys.json"), cluster.directory().join("policy.toml"));
    std::fs::write(&keys, KEYS)?;
    std::fs::write(&policy, POLICY)?;
    Ok(vec![format!("{VERIFIES_TOKENS}={}", keys.display()), format!("--policy={}", policy.display())])
}

/// Returns a flag that a case needs and the program does not have.
fn missing(case: &Case, program: &Path) -> Result<Option<&'static str>> {
    let needed = [(case.verifies_tokens, VERIFIES_TOKENS), (case.encrypts_peers, ENCRYPTS_PEERS)];
    let Some((_, flag)) = needed.into_iter().find(|(is_needed, _)| *is_needed) else { return Ok(None) };
    let help = Command::new(program).args(["node", "--help"]).output().context("the program does not start")?;
    Ok((!String::from_utf8_lossy(&help.stdout).contains(flag)).then_some(flag))
}

/// What came of an attack.
struct Attacked {
    did: Did,
    stopped: bool,
    node_processors: f64,
    attacker_processors: f64,
}

async fn attack(case: &Case, options: &Options, node: &NodeProcess, watched: &Watched) -> Result<Attacked> {
    let (process, begun) = (node.id()?, Instant::now());
    let before = watched::processor_time(process)?;
    let mut attacker = Attacker::start(&options.attacker, case, node, options.attack)?;
    let mut stopped = false;
    while begun.elapsed() < options.attack && !stopped {
        sleep(LOOK).await;
        stopped = watched.is_dangerous();
    }
    // A node that has ended has no time to look at.
    let used = watched::processor_time(process).map_or(Duration::ZERO, |after| after.saturating_sub(before));
    let (took, attacker_used) = (begun.elapsed().as_secs_f64(), attacker.processor_time());
    let did = if stopped {
        attacker.kill()?;
        let what = format!("ended when a node had grown by {} MiB", GROWTH_BYTES_STOP >> 20);
        Did { counts: [(what, 1)].into(), last_failure: None }
    } else {
        attacker.finish().await?
    };
    Ok(Attacked {
        did,
        stopped,
        node_processors: used.as_secs_f64() / took,
        attacker_processors: attacker_used.as_secs_f64() / took,
    })
}

/// Returns the highest term that any node knows.
async fn cluster_term(cluster: &Cluster) -> u64 {
    let mut highest = 0;
    for node in &cluster.nodes {
        // A node that has ended says nothing.
        if let Ok(Ok(status)) = tokio::time::timeout(WARM_UP, node.status()).await {
            highest = highest.max(status["raft"]["term"].as_u64().unwrap_or_default());
        }
    }
    highest
}

async fn ended(cluster: &mut Cluster) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for node in &mut cluster.nodes {
        if node.has_ended()? {
            let status = node.wait_exit().await?;
            ended.push(format!("{} with {status}", node.name));
        } else if node.log().contains("panicked at") {
            ended.push(format!("a thread of {}: its log says where", node.name));
        }
    }
    Ok(ended)
}
