//! The calls of a guest's methods, and what else is asked of a node that serves them: command,
//! query, watch, read barrier, and what the leader alone does. This room decides when a call may
//! run, how long it waits, and how it ends. It knows no transport: a call comes as a method, bytes,
//! a caller and a deadline, and ends as a value of the guest or as a [`CallError`]. The faces above
//! say that in their protocol's words.
//!
//! ```text
//! a face ─┬─ command ─► ready ─► raft/path, until an outcome is known
//!         ├─ query ───► ready ─► read barrier (linearizable) ─► machine/query
//!         └─ watch ───► ready ─► read barrier (linearizable) ─► machine, step by step ─► replies
//! ```
//!
//! - `limits` says how large a message and how long a call may be.
//! - `ready` waits until this node may answer; it knows the mode, the barrier and the removal.
//! - `leader` is what only the leader answers.
//! - `error` is how a call ends without the guest's word.
//! - `budget` counts the bytes that clients make this node hold, and says when there are too many.

pub mod budget;
mod command;
mod error;
mod leader;
mod limits;
mod query;
mod ready;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lockstep_contract::Method;
use tokio::sync::watch as watch_channel;
use tokio::time::Instant;

use crate::limit::Limit;
use crate::machine::Machine;
use crate::raft::{Clock, LeaderWatch, Me, Members, Propose, Proposer, RaftCell, ReadIndex};
use budget::{Budget, Share};
use command::{Commands, CommandsParts};
use watch::Watches;

pub use error::{APPLIED, CallError, NOT_APPLIED, UNKNOWN, fate_of};
pub use limits::{DEADLINE_DEFAULT, MESSAGE_BYTES_MAX, WATCH_REQUEST_BYTES_MAX, deadline};
pub use watch::WatchFigures;
pub use watch::places::{Connection, Full, WATCHES_MAX, WATCHES_PER_CLIENT_MAX, WATCHES_PER_CONNECTION_MAX};
pub use watch::replies::{Replies, WatchEnd};

/// One call of a guest's method.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method, from the contract of this node's component.
    pub method: Arc<Method>,
    /// The encoded request. The host does not decode it.
    pub request: Bytes,
    /// Authenticated name of the client. Empty when there is none.
    pub caller: String,
    /// Time at which the client stops waiting. Without one, a watch has no end, and the beginning
    /// of every call ends after [`DEADLINE_DEFAULT`].
    pub deadline: Option<Instant>,
    /// The bytes that its connection may hold. A command runs only while there are some left.
    pub share: Share,
}

impl Call {
    /// Returns the time until which the call waits for its beginning, and a unary call for its end.
    fn deadline(&self) -> Instant {
        self.deadline.unwrap_or_else(|| Instant::now() + DEADLINE_DEFAULT)
    }
}

/// The parts of a group that calls use.
pub struct CallsParts {
    /// This node. Its id, `boot` and a counter form the origin of a command.
    pub me: Me,
    /// The number of this run of the process. See `me`.
    pub boot: u64,
    /// The state machine.
    pub machine: Machine,
    /// The running Raft instance, if any.
    pub raft: RaftCell,
    /// Shows who leads.
    pub leader: LeaderWatch,
    /// Knows the members.
    pub members: Members,
    /// Proposes a command when this node leads.
    pub local: Arc<dyn Propose>,
    /// The same, for those who want to know how much waits there.
    pub proposer: Proposer,
    /// Sends a command to the leader when another node leads.
    pub forward: Arc<dyn Propose>,
    /// Serves linearizable reads.
    pub read: ReadIndex,
    /// Advances log time on an idle cluster.
    pub clock: Clock,
    /// How long a call waits for a leader, and for a node that catches up.
    pub election_timeout: Duration,
    /// The bytes that clients may make this node hold.
    pub budget: Budget,
}

/// Runs calls. Cheap to clone.
#[derive(Clone)]
pub struct Calls(Arc<Inner>);

struct Inner {
    parts: CallsParts,
    commands: Commands,
    watches: Watches,
    /// Set when open watches must end.
    stopping: watch_channel::Sender<bool>,
}

impl Calls {
    /// Creates the value from the parts that `group` wires.
    pub fn new(parts: CallsParts) -> Calls {
        let (machine, modes) = (parts.machine.clone(), parts.machine.clone());
        let commands = Commands::new(CommandsParts {
            node: parts.me.node_id,
            boot: parts.boot,
            leader: parts.leader.clone(),
            waiters: parts.machine.waiters().clone(),
            local: parts.local.clone(),
            forward: parts.forward.clone(),
            mode: Arc::new(move || machine.mode()),
            refuses_method: Arc::new(move |method: &str| modes.refuses_method(method)),
            election_timeout: parts.election_timeout,
        });
        let stopping = watch_channel::channel(false).0;
        Calls(Arc::new(Inner { parts, commands, watches: Watches::default(), stopping }))
    }

    /// Returns what a new connection carries with each of its requests.
    pub fn connection(&self, address: IpAddr) -> Connection {
        Connection::new(self.0.parts.budget.share_of(address), address)
    }

    /// Returns how often commands were offered again, because their log entries or the turns of
    /// their clients had left them over.
    pub fn offered_again(&self) -> u64 {
        self.0.commands.offered_again()
    }

    /// Returns the bytes that clients make this node hold.
    pub fn budget(&self) -> &Budget {
        &self.0.parts.budget
    }

    /// Returns how near the limits of calls are: what they hold, and what waits.
    pub fn limits(&self) -> Vec<Limit> {
        let Inner { parts, commands, .. } = &*self.0;
        let waiting = parts.proposer.limits().into_iter().chain(parts.machine.query_limits());
        parts.budget.limits().into_iter().chain(commands.limits()).chain(waiting).collect()
    }

    /// Ends open watches. The value of [`Calls::stopping`] becomes true.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    /// Shows whether [`Calls::stop`] was called.
    pub fn stopping(&self) -> watch_channel::Receiver<bool> {
        self.0.stopping.subscribe()
    }
}
