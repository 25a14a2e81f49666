//! Which process of each node takes part. Raft counts a node once, and a copy of a data directory that is started beside its original
//! makes two of it: each would vote, and what one of them acknowledges the other one does not have. Never stops anything: `node` does.
//!
//! - A process is known by its nonce, minted at its start, and by its boot number, which counts the starts of its directory and is on disk
//!   before anything is said. So a process whose boot number is not beyond that of another one known here runs on a copy, or on a
//!   directory that was put back to an earlier state.
//! - One with a later boot number is the same directory started again, unless the process before still answers at the address that the
//!   membership holds: the lock on a directory lets a second process begin only when the first one is dead. So it is looked at, after
//!   the newcomer has spoken; the one that answers there stays. Nothing is judged by a timeout but the silence of an address that
//!   neither answers nor refuses.
//! - What comes back from the address that the membership holds is that node's, and is held to the first rule only.
//! - A process without a nonce is of an earlier build. It is neither refused nor remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::logs::{Foreign, Sparse};
use crate::raft::peer::{self, Route};
use crate::raft::probe::{self, Answer};
use crate::types::NodeId;

/// One look at a recorded address. It either answers or refuses within milliseconds, or proves nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A process that was heard so recently keeps its place when its address neither answers nor refuses.
const ALIVE_FOR: Duration = Duration::from_secs(5);

/// A refused process that speaks again after this is alive: what came before may have been on its way when it died.
const STRAGGLERS_FOR: Duration = Duration::from_secs(1);

/// Refused processes that are remembered of each node. A copy that is started again and again must not fill the memory.
const REFUSED_MAX: usize = 16;

/// More nodes than a large cluster has: those not heard for long are forgotten, and who is no member, as anybody can be, is not remembered.
const NODES_BEFORE_CLEANUP: usize = 64;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// In the answers of a peer: the process that answers.
const PROCESS: &str = "lockstep-process";

/// In a refusal: which process is refused, and which one takes part.
const COPY: &str = "lockstep-copy";

/// One process of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Which start of its directory it is.
    pub boot: u64,
    /// Random; 0 for a build that has none.
    pub nonce: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {:016x} of start {}", self.nonce, self.boot)
    }
}

impl Process {
    /// The one that sent a message.
    pub fn of(route: &Route) -> Process {
        Process { boot: route.boot, nonce: route.nonce }
    }

    fn parse(text: &str) -> Option<Process> {
        let (nonce, boot) = text.split_once(' ')?;
        Some(Process { nonce: u64::from_str_radix(nonce, 16).ok()?, boot: boot.parse().ok()? })
    }

    fn text(self) -> String {
        format!("{:016x} {}", self.nonce, self.boot)
    }
}

/// What a process is told that runs on a copy: who takes part in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// That process.
    pub process: Process,
    /// Its peer port, where the members know it; empty when they do not.
    pub raft_addr: String,
}

/// Where the membership says that a node is.
pub type Addresses = Box<dyn Fn(NodeId) -> Option<String> + Send + Sync>;

/// The processes of all nodes, as this one hears them. Cheap to clone.
#[derive(Clone)]
pub struct Processes(Arc<Inner>);

struct Inner {
    mine: Process,
    addresses: OnceLock<Addresses>,
    known: Mutex<HashMap<NodeId, Known>>,
    /// Set once a member has said that this process runs on a copy.
    original: watch::Sender<Option<Original>>,
    /// Counts the news that this process may run on a copy. Anybody can write them, so the members are asked.
    doubts: watch::Sender<u64>,
    doubts_pace: Sparse,
    refused: AtomicU64,
    /// Lines about refused processes, and about copies of this node's directory.
    refusals: Sparse,
    copies: Sparse,
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Processes({})", self.0.mine)
    }
}

/// What is known of one node.
struct Known {
    process: Process,
    heard: Instant,
    /// Whether anybody has looked at its address since it was first heard.
    settled: bool,
    refused: Vec<Refused>,
    /// One look at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Refused {
    nonce: u64,
    since: Instant,
    told: bool,
}

/// What can be said at once of a process that speaks for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    TakesPart,
    /// Nobody spoke for the node before.
    First,
    /// Another one did; its address must be looked at.
    Unsure,
    /// A copy of this one.
    CopyOf(Process),
}

impl Processes {
    /// Of a node whose own process is `mine`. Without [`Processes::set_addresses`] nothing is looked at.
    pub fn new(mine: Process) -> Processes {
        Processes(Arc::new(Inner {
            mine,
            addresses: OnceLock::new(),
            known: Mutex::default(),
            original: watch::channel(None).0,
            doubts: watch::channel(0).0,
            doubts_pace: Sparse::default(),
            refusals: Sparse::default(),
            copies: Sparse::default(),
            refused: AtomicU64::new(0),
        }))
    }

    /// Where members are looked for.
    pub fn set_addresses(&self, addresses: Addresses) {
        assert!(self.0.addresses.set(addresses).is_ok(), "a node has one membership");
    }

    /// This process.
    pub fn mine(&self) -> Process {
        self.0.mine
    }

    /// How many copies were noticed.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Follows whether this process was told that it runs on a copy.
    pub fn original(&self) -> watch::Receiver<Option<Original>> {
        self.0.original.subscribe()
    }

    /// Wakes when the members must be asked whether this process runs on a copy. They answer as [`Processes::note`] understands it.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.0.doubts.subscribe()
    }

    /// Whether `claim` may speak for `node`. Returns at once but for a process that took another one's place.
    pub async fn admit(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        match self.judge(node, claim) {
            Judged::TakesPart => Ok(()),
            Judged::First => {
                let processes = self.clone();
                // Nothing contradicts it yet, so it need not wait; whoever comes meanwhile does.
                tokio::spawn(async move { processes.look(node, claim, Judged::TakesPart).await });
                Ok(())
            }
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            Judged::Unsure => self.look(node, claim, Judged::Unsure).await,
        }
    }

    /// As [`Processes::admit`], never before the recorded address was looked at once: a vote that two members give to two processes of
    /// one identity in one term makes two leaders of it.
    pub async fn admit_to_vote(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        self.admit(node, claim).await?;
        match claim.nonce == 0 || self.is_settled(node) {
            true => Ok(()),
            false => self.look(node, claim, Judged::Unsure).await,
        }
    }

    /// As [`Processes::admit`], of a process that was admitted a moment ago: without a look.
    pub fn admit_now(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        match self.judge(node, claim) {
            Judged::TakesPart | Judged::First => Ok(()),
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            Judged::Unsure => Err(Status::unavailable(format!(
                "another process of node {node:016x} has spoken since; trying again shows whether {claim} takes part"
            ))),
        }
    }

    /// As [`Processes::admit`], never before the recorded address was looked at: for what moves a node there.
    pub async fn admit_elsewhere(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        if claim.nonce == 0 {
            return Ok(());
        }
        match self.judge(node, claim) {
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            judged => self.look(node, claim, judged).await,
        }
    }

    /// Whether the process that answered at the address of `node` in the membership may: one that took its place there has.
    pub fn answered(&self, node: NodeId, headers: &MetadataMap) -> Result<(), Status> {
        let process = headers.get(PROCESS).and_then(|value| Process::parse(value.to_str().ok()?));
        let Some(process) = process else { return Ok(()) };
        match self.judge(node, process) {
            Judged::TakesPart => Ok(()),
            Judged::First | Judged::Unsure => {
                self.take_place(node, process);
                Ok(())
            }
            Judged::CopyOf(known) => {
                let refusal = self.refuse(node, process, known);
                // It asks nobody, so nobody else tells it.
                self.tell(node, process, known);
                Err(refusal)
            }
        }
    }

    /// What the answers of this process carry.
    pub fn sign(&self, headers: &mut MetadataMap) {
        if self.0.mine.nonce != 0 {
            headers.insert(PROCESS, ascii(&self.0.mine.text()));
        }
    }

    /// Notes it if a refusal says that this process runs on a copy.
    pub fn note(&self, refusal: &Status) {
        let told = refusal.metadata().get(COPY).and_then(|value| {
            let (refused, rest) = value.to_str().ok()?.split_once(", ")?;
            let (original, raft_addr) = rest.split_once(", ")?;
            let original = Original { process: Process::parse(original)?, raft_addr: raft_addr.to_owned() };
            (Process::parse(refused)? == self.0.mine && original.process != self.0.mine).then_some(original)
        });
        if let Some(original) = told {
            self.told(original);
        }
    }

    /// Somebody says that there are two processes of this node. `me`: this node.
    pub fn news(&self, me: NodeId, copy: &peer::Copy) {
        let process = Process { boot: copy.boot, nonce: copy.nonce };
        if copy.node != me || process.nonce == self.0.mine.nonce {
            return;
        }
        if copy.takes_part && self.0.doubts_pace.due().is_some() {
            self.0.doubts.send_modify(|doubts| *doubts += 1);
        }
        if copy.takes_part || !self.remember_refused(me, process) {
            return;
        }
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.0.copies.due() {
            let address = Foreign(&copy.raft_addr);
            tracing::error!(
                other = %process, %address, mine = %self.0.mine, left_out,
                "another process runs on a copy of this node's data directory; it is refused, and this one goes on. Stop it and delete its directory"
            );
        }
    }

    fn told(&self, original: Original) {
        self.0.original.send_if_modified(|told| {
            let is_news = told.is_none();
            if is_news {
                *told = Some(original);
            }
            is_news
        });
    }

    fn judge(&self, node: NodeId, claim: Process) -> Judged {
        if claim.nonce == 0 {
            return Judged::TakesPart;
        }
        let mut nodes = self.0.known.lock();
        let Some(known) = nodes.get_mut(&node) else {
            if nodes.len() >= NODES_BEFORE_CLEANUP {
                nodes.retain(|_, known| known.heard.elapsed() < FORGOTTEN_AFTER);
                if nodes.len() >= NODES_BEFORE_CLEANUP && self.address(node).is_none() {
                    return Judged::TakesPart;
                }
            }
            nodes.insert(node, Known::new(claim));
            return Judged::First;
        };
        if known.process.nonce == claim.nonce {
            known.heard = Instant::now();
            return Judged::TakesPart;
        }
        let is_refused = known.refused.iter().any(|refused| refused.nonce == claim.nonce);
        match is_refused || (known.settled && claim.boot <= known.process.boot) {
            true => Judged::CopyOf(known.process),
            false => Judged::Unsure,
        }
    }

    /// Looks at the recorded address. `open`: what the judgement was; when it is another one meanwhile, somebody else has looked.
    async fn look(&self, node: NodeId, claim: Process, open: Judged) -> Result<(), Status> {
        let turn = self.0.known.lock().get(&node).map(|known| known.turn.clone());
        let _turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        match self.judge(node, claim) {
            Judged::CopyOf(known) => return Err(self.refuse(node, claim, known)),
            Judged::TakesPart if open == Judged::Unsure && self.is_settled(node) => return Ok(()),
            Judged::TakesPart | Judged::First | Judged::Unsure => {}
        }
        let found = match self.address(node) {
            Some(address) => probe::who(&address, None, LOOK_TIMEOUT).await,
            None => Answer::Nobody,
        };
        self.decide(node, claim, found)
    }

    fn decide(&self, node: NodeId, claim: Process, found: Answer) -> Result<(), Status> {
        let found = match found {
            // Another node has the address now.
            Answer::Somebody(answer) if answer.node_id != node => None,
            Answer::Somebody(answer) => Some(Process { boot: answer.boot, nonce: answer.nonce }),
            Answer::Nobody => None,
            Answer::Unclear if self.keeps_place(node, claim) => {
                return Err(Status::unavailable(format!(
                    "another process of node {node:016x} was heard a moment ago, and its address neither answers nor refuses; \
                     trying again shows whether {claim} takes its place"
                )));
            }
            Answer::Unclear => None,
        };
        let takes_part = match found.filter(|found| found.nonce != 0) {
            Some(there) if there.nonce != claim.nonce => self.stays(node, claim, there),
            Some(_) => None,
            None => self.not_before(node, claim),
        };
        match takes_part {
            Some(known) => Err(self.refuse(node, claim, known)),
            None => {
                self.take_place(node, claim);
                Ok(())
            }
        }
    }

    /// The process that was heard of the node, if `claim` is of no later start.
    fn not_before(&self, node: NodeId, claim: Process) -> Option<Process> {
        let known = self.0.known.lock().get(&node)?.process;
        (known.nonce != claim.nonce && claim.boot <= known.boot).then_some(known)
    }

    fn is_settled(&self, node: NodeId) -> bool {
        self.0.known.lock().get(&node).is_some_and(|known| known.settled)
    }

    /// Whether another process of the node was heard just now.
    fn keeps_place(&self, node: NodeId, claim: Process) -> bool {
        let nodes = self.0.known.lock();
        nodes.get(&node).is_some_and(|known| known.process.nonce != claim.nonce && known.heard.elapsed() < ALIVE_FOR)
    }

    fn take_place(&self, node: NodeId, process: Process) {
        let mut nodes = self.0.known.lock();
        let known = nodes.entry(node).or_insert_with(|| Known::new(process));
        if known.process.nonce != process.nonce && !known.settled {
            // It spoke first, from somewhere else.
            known.remember(known.process.nonce);
        }
        (known.process, known.heard, known.settled) = (process, Instant::now(), true);
    }

    /// `there` answered at the recorded address, and not `claim`. Says which process takes part, if it is not `claim` itself.
    fn stays(&self, node: NodeId, claim: Process, there: Process) -> Option<Process> {
        let mut nodes = self.0.known.lock();
        let known = nodes.entry(node).or_insert_with(|| Known::new(there));
        if known.settled && known.process.nonce == claim.nonce && there.boot <= claim.boot {
            // It took the place of one that was silent, and is awake now.
            return None;
        }
        if !known.settled || known.process.boot < there.boot {
            known.process = there;
        }
        known.settled = true;
        known.heard = Instant::now();
        known.remember(claim.nonce);
        Some(known.process)
    }

    /// Whether it is news.
    fn remember_refused(&self, node: NodeId, process: Process) -> bool {
        let mut nodes = self.0.known.lock();
        nodes.entry(node).or_insert_with(|| Known::new(self.0.mine)).remember(process.nonce)
    }

    fn refuse(&self, node: NodeId, claim: Process, known: Process) -> Status {
        let raft_addr = self.address(node).unwrap_or_default();
        let is_to_tell = self.is_to_tell(node, claim, known);
        if is_to_tell {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        if is_to_tell && let Some(left_out) = self.0.refusals.due() {
            tracing::error!(
                node = format_args!("{node:016x}"), takes_part = %known, refused = %claim, address = raft_addr, left_out,
                "a second process has the identity of a member: it runs on a copy of its data directory, or on one that was put back to \
                 an earlier state. It is refused; stop it and delete its directory"
            );
        }
        let mut status = Status::failed_precondition(format!(
            "node {node:016x} takes part as {known} at {raft_addr:?}; {claim} runs on a copy of its data directory, or on one that was put \
             back to an earlier state, and is refused"
        ));
        let words = format!("{}, {}, {raft_addr}", claim.text(), known.text());
        status.metadata_mut().insert(COPY, ascii(&words));
        status
    }

    /// Once for each refused process. One that was there earlier may be dead, and its last words late.
    fn is_to_tell(&self, node: NodeId, claim: Process, known: Process) -> bool {
        let mut nodes = self.0.known.lock();
        let Some(entry) = nodes.get_mut(&node) else { return false };
        entry.remember(claim.nonce);
        let Some(refused) = entry.refused.iter_mut().find(|refused| refused.nonce == claim.nonce) else { return false };
        let is_alive = claim.boot >= known.boot || refused.since.elapsed() > STRAGGLERS_FOR;
        is_alive && !std::mem::replace(&mut refused.told, true)
    }

    /// Says to the process at the recorded address that it runs on a copy.
    fn tell(&self, node: NodeId, refused: Process, known: Process) {
        let Some(address) = self.address(node).filter(|_| refused.boot <= known.boot) else { return };
        let copy =
            peer::Copy { node, nonce: known.nonce, boot: known.boot, raft_addr: String::new(), takes_part: true };
        tokio::spawn(async move { probe::who(&address, Some(copy), LOOK_TIMEOUT).await });
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.0.addresses.get()?(node)
    }
}

impl Known {
    fn new(process: Process) -> Known {
        Known { process, heard: Instant::now(), settled: false, refused: Vec::new(), turn: Arc::default() }
    }

    /// Whether it is news.
    fn remember(&mut self, nonce: u64) -> bool {
        if self.refused.iter().any(|refused| refused.nonce == nonce) {
            return false;
        }
        if self.refused.len() == REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push(Refused { nonce, since: Instant::now(), told: false });
        true
    }
}

fn ascii(text: &str) -> MetadataValue<tonic::metadata::Ascii> {
    // An address in the membership may hold anything.
    MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""))
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
