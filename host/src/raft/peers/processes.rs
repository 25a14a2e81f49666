//! Decides which process of each node takes part. Raft counts a node once. A copy of a data
//! directory that runs beside its original makes two of it: each would vote, and one would not have
//! what the other has acknowledged. Never stops anything: `node` does.
//!
//! - A process has a nonce, minted at its start, and a boot number, which counts its directory's
//!   starts and is on disk before the process sends anything. If its boot number is not beyond that
//!   of another known process, it runs on a copy, or on a directory put back to an earlier state.
//! - A later boot number means the same directory started again, unless the earlier process still
//!   answers at the address in the membership: a directory's lock admits a second process only when
//!   the first is dead. So that address is checked after the newcomer has spoken; the process that
//!   answers there stays. A timeout decides only when the address neither answers nor refuses.
//! - A response from the address in the membership is the node's; only the first rule applies.
//! - A process without a nonce is of an earlier build. It is neither refused nor remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::peer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::dial::Dialer;
use super::probe;
use super::probe::Answer;
use super::process::{Original, Process};
use crate::logs::{Foreign, Sparse};
use crate::types::NodeId;

/// Longest look at a recorded address. It replies or refuses in milliseconds, or proves nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which a silent process loses its place when its address neither answers nor refuses.
const ALIVE_FOR: Duration = Duration::from_secs(5);

/// A process that speaks this long after its refusal is alive. Earlier messages may come late.
const STRAGGLERS_FOR: Duration = Duration::from_secs(1);

/// Most refused processes remembered of each node, so that restarted copies never fill the memory.
const REFUSED_MAX: usize = 16;

/// More nodes than a large cluster has. Above it, those silent for [`FORGOTTEN_AFTER`] are dropped,
/// and nodes that are no members are not remembered: anybody can speak for them.
const NODES_BEFORE_CLEANUP: usize = 64;
/// Silence after which a node may be forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Returns the address of a node in the membership.
pub type AddressBook = Box<dyn Fn(NodeId) -> Option<String> + Send + Sync>;

/// The processes of all nodes, as this node hears them. Cheap to clone.
#[derive(Clone)]
pub struct Processes(Arc<Inner>);

struct Inner {
    mine: Process,
    dialer: Dialer,
    addresses: RwLock<Option<AddressBook>>,
    known: Mutex<HashMap<NodeId, Known>>,
    /// Set once a member has said that this process runs on a copy.
    original: watch::Sender<Option<Original>>,
    /// Counts the reports of a copy. Anybody can send them, so the members are asked.
    doubts: watch::Sender<u64>,
    doubts_pace: Sparse,
    refused: AtomicU64,
    /// Limits the log lines about refused processes.
    refusals: Sparse,
    /// Limits the log lines about copies of this node's directory.
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
    /// Whether its address has been checked since it was first heard.
    settled: bool,
    refused: Vec<Refused>,
    /// Allows one look at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Refused {
    nonce: u64,
    since: Instant,
    told: bool,
}

/// First judgement of a process that speaks for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    TakesPart,
    /// No process spoke for the node before.
    First,
    /// Another process did; the node's address must be checked.
    Unsure,
    /// It runs on a copy; this process takes part.
    CopyOf(Process),
}

impl Processes {
    /// Creates the record of process `mine`. Checks no address before [`Processes::set_addresses`].
    pub fn new(mine: Process, dialer: Dialer) -> Processes {
        Processes(Arc::new(Inner {
            mine,
            dialer,
            addresses: RwLock::default(),
            known: Mutex::default(),
            original: watch::channel(None).0,
            doubts: watch::channel(0).0,
            doubts_pace: Sparse::default(),
            refusals: Sparse::default(),
            copies: Sparse::default(),
            refused: AtomicU64::new(0),
        }))
    }

    /// Sets the source of the members' addresses, in place of the one before.
    pub fn set_addresses(&self, addresses: AddressBook) {
        *self.0.addresses.write() = Some(addresses);
    }

    /// Returns this process.
    pub fn mine(&self) -> Process {
        self.0.mine
    }

    /// Returns how many copies were noticed.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Follows whether this process was told that it runs on a copy.
    pub fn original(&self) -> watch::Receiver<Option<Original>> {
        self.0.original.subscribe()
    }

    /// Wakes when members must be asked about a copy. [`Processes::note`] reads their answers.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.0.doubts.subscribe()
    }

    /// Checks whether `claim` may speak for `node`. Waits only if it came after another process.
    pub async fn admit(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        match self.judge(node, claim) {
            Judged::TakesPart => Ok(()),
            Judged::First => {
                let processes = self.clone();
                // Nothing contradicts it yet, so it need not wait. A later process does.
                tokio::spawn(async move { processes.look(node, claim, Judged::TakesPart).await });
                Ok(())
            }
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            Judged::Unsure => self.look(node, claim, Judged::Unsure).await,
        }
    }

    /// Like [`Processes::admit`], but only after one check of the recorded address: votes for two
    /// processes of one identity in one term would make two leaders of it.
    pub async fn admit_to_vote(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        self.admit(node, claim).await?;
        match claim.nonce == 0 || self.is_settled(node) {
            true => Ok(()),
            false => self.look(node, claim, Judged::Unsure).await,
        }
    }

    /// Like [`Processes::admit`], for a process that was admitted a moment ago. Checks no address.
    pub fn admit_now(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        match self.judge(node, claim) {
            Judged::TakesPart | Judged::First => Ok(()),
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            Judged::Unsure => Err(Status::unavailable(format!(
                "another process of node {node:016x} has spoken since; trying again shows whether {claim} takes part"
            ))),
        }
    }

    /// Like [`Processes::admit`], but always checks the recorded address. For moves of a node.
    pub async fn admit_elsewhere(&self, node: NodeId, claim: Process) -> Result<(), Status> {
        if claim.nonce == 0 {
            return Ok(());
        }
        match self.judge(node, claim) {
            Judged::CopyOf(known) => Err(self.refuse(node, claim, known)),
            judged => self.look(node, claim, judged).await,
        }
    }

    /// Checks the process that answered at the recorded address of `node`. A later one replaces it.
    pub fn answered(&self, node: NodeId, headers: &MetadataMap) -> Result<(), Status> {
        let Some(process) = Process::that_signed(headers) else { return Ok(()) };
        match self.judge(node, process) {
            Judged::TakesPart => Ok(()),
            Judged::First | Judged::Unsure => {
                self.take_place(node, process);
                Ok(())
            }
            Judged::CopyOf(known) => {
                let refusal = self.refuse(node, process, known);
                // It sends no requests, so no other node tells it.
                self.tell(node, process, known);
                Err(refusal)
            }
        }
    }

    /// Adds this process to the headers of a response.
    pub fn sign(&self, headers: &mut MetadataMap) {
        self.0.mine.sign(headers);
    }

    /// Notes a refusal that says that this process runs on a copy.
    pub fn note(&self, refusal: &Status) {
        let told = Original::named_by(refusal, self.0.mine);
        if let Some(original) = told {
            self.told(original);
        }
    }

    /// Notes a report that this node has two processes. `me`: this node.
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

    /// Checks the recorded address. If the judgement is no longer `open`, another task has looked.
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
            Some(address) => probe::who(&self.0.dialer, &address, None, LOOK_TIMEOUT).await,
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

    /// Returns the process that is known of the node, if `claim` is of no later start.
    fn not_before(&self, node: NodeId, claim: Process) -> Option<Process> {
        let known = self.0.known.lock().get(&node)?.process;
        (known.nonce != claim.nonce && claim.boot <= known.boot).then_some(known)
    }

    fn is_settled(&self, node: NodeId) -> bool {
        self.0.known.lock().get(&node).is_some_and(|known| known.settled)
    }

    /// Returns whether another process of the node was heard just now.
    fn keeps_place(&self, node: NodeId, claim: Process) -> bool {
        let nodes = self.0.known.lock();
        nodes.get(&node).is_some_and(|known| known.process.nonce != claim.nonce && known.heard.elapsed() < ALIVE_FOR)
    }

    fn take_place(&self, node: NodeId, process: Process) {
        let mut nodes = self.0.known.lock();
        // `judge` came first. It keeps every node with a process, except strangers when there are
        // too many.
        let Some(known) = nodes.get_mut(&node) else { return };
        if known.process.nonce != process.nonce && !known.settled {
            // It spoke first, from another address.
            known.remember(known.process.nonce);
        }
        (known.process, known.heard, known.settled) = (process, Instant::now(), true);
    }

    /// Returns the process that takes part, if not `claim`. `there` answered at the node's address.
    fn stays(&self, node: NodeId, claim: Process, there: Process) -> Option<Process> {
        let mut nodes = self.0.known.lock();
        let known = nodes.entry(node).or_insert_with(|| Known::new(there));
        if known.settled && known.process.nonce == claim.nonce && there.boot <= claim.boot {
            // `claim` took the place of a silent process, which is awake now.
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

    /// Remembers a refused process of `node`. Returns whether it is new.
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
        let original = Original { process: known, raft_addr };
        original.name_in(&mut status, claim);
        status
    }

    /// Returns whether to report a refused process: once, and not for late messages of a dead one.
    fn is_to_tell(&self, node: NodeId, claim: Process, known: Process) -> bool {
        let mut nodes = self.0.known.lock();
        let Some(entry) = nodes.get_mut(&node) else { return false };
        entry.remember(claim.nonce);
        let Some(refused) = entry.refused.iter_mut().find(|refused| refused.nonce == claim.nonce) else { return false };
        let is_alive = claim.boot >= known.boot || refused.since.elapsed() > STRAGGLERS_FOR;
        is_alive && !std::mem::replace(&mut refused.told, true)
    }

    /// Tells the process at the recorded address that it runs on a copy.
    fn tell(&self, node: NodeId, refused: Process, known: Process) {
        let Some(address) = self.address(node).filter(|_| refused.boot <= known.boot) else { return };
        let copy =
            peer::Copy { node, nonce: known.nonce, boot: known.boot, raft_addr: String::new(), takes_part: true };
        let dialer = self.0.dialer.clone();
        tokio::spawn(async move { probe::who(&dialer, &address, Some(copy), LOOK_TIMEOUT).await });
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.0.addresses.read().as_ref()?(node)
    }
}

impl Known {
    fn new(process: Process) -> Known {
        Known { process, heard: Instant::now(), settled: false, refused: Vec::new(), turn: Arc::default() }
    }

    /// Remembers a refused process. Returns whether it is new.
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

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
