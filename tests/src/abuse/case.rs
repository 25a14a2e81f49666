//! What a case is, and the table of all cases. A case says which node it attacks, what that node
//! runs, and what the attacker does. It neither measures nor judges.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::cases;

/// What attempts that failed are counted as. They are no deeds.
pub(crate) const FAILED: &str = "failed";

/// Pause of an attacker whose attempt failed. Without it, an attacker whom a node refuses would
/// take the processor that the nodes need.
const PAUSE: Duration = Duration::from_millis(5);

/// Which node is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The leader. Every put of the others goes through it.
    Leader,
    /// A node that does not lead.
    Follower,
}

/// A port of the attacked node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The port for clients.
    Clients,
    /// The port for peers.
    Peers,
    /// The port for whoever runs the process.
    Http,
}

/// Which calls at the attacked node are judged as those at the other nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promised {
    /// None: the node must only serve again after the attack.
    #[default]
    Nothing,
    /// Commands. A flood of queries may delay a query.
    Commands,
    /// All.
    Everything,
}

/// What the nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// The key-value guest.
    Kv,
    /// The guest that breaks the rules when a call says so.
    Misbehaving,
}

/// An attack that runs until its end is due.
pub(crate) type Attack = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One way to abuse a node.
pub struct Case {
    /// Name on the command line and in the table.
    pub name: &'static str,
    /// What the attacker does, in a line.
    pub does: &'static str,
    /// The attacked node.
    pub role: Role,
    /// What its honest clients are promised.
    pub promised: Promised,
    /// The attacked port, in cases that attack one and could attack another.
    pub(crate) port: Port,
    pub(crate) guest: Guest,
    /// Files and sockets that a node's process may have open. `None` leaves what the shell allows.
    pub(crate) descriptors: Option<u64>,
    /// Values of [`LARGE_BYTES`] that are written before.
    pub(crate) large_values: usize,
    /// Whether the nodes verify tokens. Callers without a token may do everything.
    pub(crate) verifies_tokens: bool,
    /// Whether the nodes require TLS of their peers. Clients speak without it.
    pub(crate) encrypts_peers: bool,
    /// Whether what the attacker wants is done by every node. Then the attacked node and the others
    /// have no halves of the processors: two nodes would have as much as one.
    pub(crate) reaches_all: bool,
    pub(crate) attack: fn(Target) -> Attack,
}

/// Size of a large value.
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// Returns the key of a large value.
pub(crate) fn large_key(number: usize) -> String {
    format!("large-{number}")
}

impl Case {
    /// A case in which nothing is special. Each case names what differs.
    pub(crate) const PLAIN: Case = Case {
        name: "",
        does: "",
        role: Role::Leader,
        promised: Promised::Nothing,
        port: Port::Clients,
        guest: Guest::Kv,
        descriptors: None,
        large_values: 0,
        verifies_tokens: false,
        encrypts_peers: false,
        reaches_all: false,
        attack: |target| Box::pin(async move { target.end().await }),
    };

    /// The same attack at the port for peers, of the leader, where other nodes' commands come in.
    pub(crate) const fn at_peers(self, name: &'static str, does: &'static str) -> Case {
        Case { name, does, port: Port::Peers, role: Role::Leader, promised: Promised::Nothing, ..self }
    }

    /// The same attack at the http port, of a follower.
    pub(crate) const fn at_http(self, name: &'static str, does: &'static str) -> Case {
        Case { name, does, port: Port::Http, role: Role::Follower, promised: Promised::Nothing, ..self }
    }
}

/// Returns every case that is shown, in the order in which they run.
pub fn shown() -> Vec<&'static Case> {
    cases::ALL.iter().copied().filter(|case| case.name != cases::PLANTED).collect()
}

/// Returns the case of this name, also one that is not shown.
pub fn named(name: &str) -> Option<&'static Case> {
    cases::ALL.iter().copied().find(|case| case.name == name)
}

/// Returns the list of cases for people.
pub fn list() -> String {
    let role = |case: &Case| if case.role == Role::Leader { "leader" } else { "follower" };
    shown().iter().map(|case| format!("{:<20} {:<9} {}\n", case.name, role(case), case.does)).collect()
}

/// The attacked node, as the attacker sees it. Clones belong to one attack.
#[derive(Clone)]
pub(crate) struct Target {
    /// The port for clients.
    pub(crate) clients: String,
    /// The port for peers.
    pub(crate) peers: String,
    /// The port for whoever runs the process.
    pub(crate) http: String,
    /// Which of them [`Target::port`] is.
    pub(crate) attacked: Port,
    /// The process. Only the planted case uses it: no network gives this away.
    pub(crate) process: u32,
    pub(crate) until: Instant,
    pub(crate) did: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    pub(crate) last_failure: Arc<Mutex<Option<String>>>,
}

impl Target {
    /// Returns the address of the port that the case attacks.
    pub(crate) fn port(&self) -> &str {
        match self.attacked {
            Port::Clients => &self.clients,
            Port::Peers => &self.peers,
            Port::Http => &self.http,
        }
    }

    /// Returns a path that this port serves, and the encoded message of a small request to it.
    pub(crate) fn small_call(&self) -> (&'static str, &'static [u8]) {
        match self.attacked {
            // A linearizable Get of the key `k`.
            Port::Clients => ("/Example/Get", b"\x0a\x01k\x10\x01"),
            Port::Peers => ("/lockstep.peer.v1.Peer/Identify", b""),
            // It takes GET only, and refuses this at once.
            Port::Http => ("/livez", b""),
        }
    }

    /// Tells whether the attack is still on.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Counts what was done, for the table.
    pub(crate) fn count(&self, what: &'static str, number: usize) {
        *self.did.lock().entry(what).or_default() += number as u64;
    }

    /// Waits until the attack is over.
    pub(crate) async fn end(&self) -> Result<()> {
        sleep_until(self.until).await;
        Ok(())
    }

    /// Runs `number` attackers at the same time, each again and again until the attack is over.
    ///
    /// An attempt that fails is counted: a node that defends itself makes attempts fail.
    pub(crate) async fn together<F, W>(&self, number: usize, work: F) -> Result<()>
    where
        F: Fn(Target, usize) -> W + Clone + Send + 'static,
        W: Future<Output = Result<()>> + Send,
    {
        let mut attackers = JoinSet::new();
        for n in 0..number {
            let (target, work) = (self.clone(), work.clone());
            attackers.spawn(async move {
                let attacked = target.clone();
                target.again_and_again(move || work(attacked.clone(), n)).await;
            });
        }
        attackers.join_all().await;
        Ok(())
    }

    async fn again_and_again<W: Future<Output = Result<()>>>(&self, work: impl Fn() -> W) {
        while self.goes_on() {
            if let Ok(Err(error)) = timeout_at(self.until, work()).await {
                self.count(FAILED, 1);
                *self.last_failure.lock() = Some(format!("{error:#}"));
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn cargo_xtask_knows_every_case_before_it_builds() {
        let words = include_str!("../../../xtask/src/words.rs");
        let known = words.split("const ABUSE_CASES").nth(1).and_then(|rest| rest.split("];").next());
        let known: BTreeSet<&str> = known.unwrap_or_default().split('"').skip(1).step_by(2).collect();
        let all: BTreeSet<&str> = cases::ALL.iter().map(|case| case.name).collect();
        assert_eq!(known, all, "xtask/src/words.rs has other cases");
    }

    #[test]
    fn the_page_describes_every_case() {
        let page = include_str!("../../../docs/abuse.md");
        let silent: Vec<&str> =
            shown().into_iter().map(|case| case.name).filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(silent.is_empty(), "docs/abuse.md does not say what these do: {silent:?}");
    }

    #[test]
    fn leaders_and_followers_are_attacked_about_as_often() {
        let leaders = shown().iter().filter(|case| case.role == Role::Leader).count();
        let others = shown().len() - leaders;
        assert!(leaders.abs_diff(others) <= shown().len() / 4, "{leaders} attack the leader, {others} do not");
    }
}
