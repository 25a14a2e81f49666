//! How many bytes clients make this node hold: requests, replies that wait, what watches keep. It
//! counts them, for the node, for each address and connection, and for watches, and refuses more
//! than there may be. It knows no call, and holds no byte itself.
//!
//! - A [`Lease`] is a number of bytes that are held. Dropping it gives them back.
//! - Most leases are refused at a limit. The reply of a command that was applied is never refused,
//!   so it is counted by force, and the next call is refused.

mod addresses;
mod short;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::limit::{Limit, Many};
use crate::source::Party;

pub use addresses::client_at;
use addresses::{Addresses, OfAddress};
pub use short::Short;

/// The part of the bytes that one connection may hold: a quarter. So it takes several connections
/// to fill a node.
const CONNECTION_PART: u64 = 4;

/// The part of the bytes that all connections of one address may hold: a half. So it takes several
/// addresses to fill a node.
const ADDRESS_PART: u64 = 2;

/// The part of an address's bytes that is left when its watches get no more: a quarter. So its
/// watches alone never keep its commands and queries out.
const ADDRESS_CALLS_PART: u64 = 4;

/// The part of the bytes that all watches may hold: a half. So watches alone never keep commands
/// and queries out.
const WATCHES_PART: u64 = 2;

/// The part of a limit that is left when it counts as nearly used up.
const NEARLY_PART: u64 = 8;

/// How long a waiting lease waits before it tries again although nobody gave bytes back. Its own
/// connection may have been the one that was full.
const RETRY: Duration = Duration::from_secs(1);

/// What the bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A call: its request, and its reply until the client has taken it.
    Call,
    /// A watch: its request, what its next step depends on, and replies.
    Watch,
}

/// The bytes of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Node>);

#[derive(Debug)]
struct Node {
    max: u64,
    held: AtomicU64,
    /// Those of `held` that are for watches.
    by_watches: AtomicU64,
    addresses: Addresses,
    connections: Many<AtomicU64>,
    refused: AtomicU64,
    /// Leases that wait for room.
    waiting: AtomicU64,
    /// Notified when bytes are given back while somebody waits.
    freed: Notify,
    /// Notified when a lease was refused or has to wait.
    short: Notify,
}

/// The numbers of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetFigures {
    /// Bytes that may be held.
    pub max: u64,
    /// Bytes that calls hold.
    pub by_calls: u64,
    /// Bytes that watches hold.
    pub by_watches: u64,
    /// Leases that were refused since the process started.
    pub refused: u64,
}

/// The bytes of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Share(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    budget: Budget,
    held: Arc<AtomicU64>,
    address: Arc<OfAddress>,
}

/// Bytes that are held.
#[derive(Debug)]
pub struct Lease {
    share: Share,
    of: Use,
    bytes: u64,
}

/// A budget without a limit, for requests that come over no connection of a client.
impl Default for Budget {
    fn default() -> Budget {
        Budget::new(u64::MAX)
    }
}

/// A share without a limit, for calls that come over no connection of a client.
impl Default for Share {
    fn default() -> Share {
        Budget::default().share()
    }
}

impl Budget {
    /// Makes a budget of `max` bytes.
    pub fn new(max: u64) -> Budget {
        Budget(Arc::new(Node {
            max,
            held: AtomicU64::new(0),
            by_watches: AtomicU64::new(0),
            addresses: Addresses::default(),
            connections: Many::default(),
            refused: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            freed: Notify::new(),
            short: Notify::new(),
        }))
    }

    /// Returns the share of a new connection whose address has no other.
    pub fn share(&self) -> Share {
        self.share_with(Arc::default())
    }

    /// Returns the share of a new connection from `address`.
    pub fn share_of(&self, address: IpAddr) -> Share {
        self.share_with(self.0.addresses.of(address))
    }

    fn share_with(&self, address: Arc<OfAddress>) -> Share {
        let held = Arc::default();
        self.0.connections.add(&held);
        Share(Arc::new(Connection { budget: self.clone(), held, address }))
    }

    /// Returns figures for operators.
    pub fn figures(&self) -> BudgetFigures {
        let by_watches = self.0.by_watches.load(Relaxed);
        BudgetFigures {
            max: self.0.max,
            by_calls: self.0.held.load(Relaxed).saturating_sub(by_watches),
            by_watches,
            refused: self.0.refused.load(Relaxed),
        }
    }

    /// Returns how near the limits of one connection and of one address are, for the ones that hold
    /// most.
    pub fn limits(&self) -> [Limit; 2] {
        let connection = self.0.connections.most(|held| held.load(Relaxed));
        let (address, address_max) = (self.0.addresses.most(), self.address_max(Use::Call));
        [
            Limit { name: "client_memory_of_one_connection_bytes", used: connection, max: self.connection_max() },
            Limit { name: "client_memory_of_one_address_bytes", used: address, max: address_max },
        ]
    }

    /// Completes when a lease was refused, or has to wait.
    pub async fn short(&self) {
        self.0.short.notified().await;
    }

    /// Returns the most bytes that one connection may hold.
    pub fn connection_max(&self) -> u64 {
        self.0.max / CONNECTION_PART
    }

    /// Returns how many bytes an address may hold for one more of that use.
    fn address_max(&self, of: Use) -> u64 {
        let max = self.0.max / ADDRESS_PART;
        match of {
            Use::Call => max,
            Use::Watch => max - max / ADDRESS_CALLS_PART,
        }
    }

    /// Returns the most bytes for which a step of a watch waits before it runs. They fit when
    /// nothing is nearly used up.
    pub fn watch_max(&self) -> u64 {
        self.connection_max() / NEARLY_PART
    }

    /// Returns the counter that bounds all bytes of that use, with its limit.
    fn add(&self, of: Use, bytes: u64) -> Result<(), Short> {
        let node = &self.0;
        let watches_max = node.max / WATCHES_PART;
        if of == Use::Watch && !add_within(&node.by_watches, bytes, watches_max) {
            return Err(Short::Watches(watches_max));
        }
        if !add_within(&node.held, bytes, node.max) {
            if of == Use::Watch {
                node.by_watches.fetch_sub(bytes, Relaxed);
            }
            return Err(Short::Node(node.max));
        }
        Ok(())
    }

    fn force(&self, of: Use, bytes: u64) {
        if of == Use::Watch {
            self.0.by_watches.fetch_add(bytes, Relaxed);
        }
        self.0.held.fetch_add(bytes, Relaxed);
    }

    fn give_back(&self, of: Use, bytes: u64) {
        if of == Use::Watch {
            self.0.by_watches.fetch_sub(bytes, Relaxed);
        }
        self.0.held.fetch_sub(bytes, Relaxed);
        if self.0.waiting.load(Relaxed) > 0 {
            self.0.freed.notify_one();
        }
    }

    /// Counts one who waits, until the result is dropped.
    fn wait(&self) -> Waits<'_> {
        self.0.waiting.fetch_add(1, Relaxed);
        Waits(self)
    }
}

/// One who waits for room.
struct Waits<'a>(&'a Budget);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Share {
    /// Returns a lease of `bytes`, unless a limit is reached.
    pub fn lease(&self, of: Use, bytes: u64) -> Result<Lease, Short> {
        self.add(of, bytes).inspect_err(|_| self.refused())?;
        Ok(Lease { share: self.clone(), of, bytes })
    }

    /// Returns a lease of `bytes`, whatever the limits say.
    pub fn force(&self, of: Use, bytes: u64) -> Lease {
        self.add_by_force(of, bytes);
        Lease { share: self.clone(), of, bytes }
    }

    /// Returns a lease of `bytes` once there is room. `None` when there is none for `patience`.
    pub async fn when_room(&self, of: Use, bytes: u64, patience: Duration) -> Option<Lease> {
        if self.add(of, bytes).is_ok() {
            return Some(Lease { share: self.clone(), of, bytes });
        }
        let budget = self.budget();
        let until = Instant::now() + patience;
        let _waits = budget.wait();
        loop {
            let freed = budget.0.freed.notified();
            if self.add(of, bytes).is_ok() {
                // There may be room for the next one, too.
                budget.0.freed.notify_one();
                return Some(Lease { share: self.clone(), of, bytes });
            }
            if Instant::now() >= until {
                return None;
            }
            budget.0.short.notify_one();
            let _or_time = timeout(RETRY.min(patience), freed).await;
        }
    }

    /// Returns who takes turns with others: the caller if it has a name, else the address.
    pub fn party(&self, caller: &str) -> Party {
        match caller {
            "" => self.0.address.party,
            name => Party::named(name),
        }
    }

    /// Returns whether the node, the watches, this address or this connection hold nearly as much
    /// as they may.
    pub fn is_nearly_used_up(&self) -> bool {
        let node = &self.budget().0;
        let nearly = |counter: &AtomicU64, max: u64| counter.load(Relaxed) > max - max / NEARLY_PART;
        nearly(&node.held, node.max)
            || nearly(&node.by_watches, node.max / WATCHES_PART)
            || nearly(&self.0.address.held, self.budget().address_max(Use::Watch))
            || nearly(&self.0.held, self.budget().connection_max())
    }

    /// Returns an error if the node, this address or this connection holds as much as it may.
    /// Replies that were counted by force may have used up what a call found when it was admitted.
    pub fn check(&self) -> Result<(), Short> {
        self.check_but(0)
    }

    /// Returns an error if the node, this address or this connection holds nearly as much as it
    /// may.
    pub fn check_nearly(&self) -> Result<(), Short> {
        self.check_but(NEARLY_PART)
    }

    /// Checks the limits, of which one part in `part` must be left. 0 for nothing.
    fn check_but(&self, part: u64) -> Result<(), Short> {
        let is_full = |counter: &AtomicU64, max: u64| counter.load(Relaxed) > max - max.checked_div(part).unwrap_or(0);
        let node = &self.budget().0;
        let (own_max, address_max) = (self.budget().connection_max(), self.budget().address_max(Use::Call));
        let short = if is_full(&self.0.held, own_max) {
            Short::Connection(own_max)
        } else if is_full(&self.0.address.held, address_max) {
            Short::Address(address_max)
        } else if is_full(&node.held, node.max) {
            Short::Node(node.max)
        } else {
            return Ok(());
        };
        self.refused();
        Err(short)
    }

    fn budget(&self) -> &Budget {
        &self.0.budget
    }

    fn add(&self, of: Use, bytes: u64) -> Result<(), Short> {
        let max = self.budget().connection_max();
        if !add_within(&self.0.held, bytes, max) {
            return Err(Short::Connection(max));
        }
        let address_max = self.budget().address_max(of);
        if !add_within(&self.0.address.held, bytes, address_max) {
            self.0.held.fetch_sub(bytes, Relaxed);
            return Err(Short::Address(address_max));
        }
        self.budget().add(of, bytes).inspect_err(|_| self.take_off(bytes))
    }

    fn take_off(&self, bytes: u64) {
        self.0.held.fetch_sub(bytes, Relaxed);
        self.0.address.held.fetch_sub(bytes, Relaxed);
    }

    fn add_by_force(&self, of: Use, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.0.held.fetch_add(bytes, Relaxed);
        self.0.address.held.fetch_add(bytes, Relaxed);
        self.budget().force(of, bytes);
    }

    fn refused(&self) {
        self.budget().0.refused.fetch_add(1, Relaxed);
        self.budget().0.short.notify_one();
    }
}

/// Adds if the sum is at most `max`. Returns whether it did.
fn add_within(counter: &AtomicU64, bytes: u64, max: u64) -> bool {
    let sum = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= max);
    counter.fetch_update(Relaxed, Relaxed, sum).is_ok()
}

impl Lease {
    /// Returns the number of bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns what the bytes are held for.
    pub fn held_for(&self) -> Use {
        self.of
    }

    /// Returns the share that the bytes belong to.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Adds bytes, unless a limit is reached.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Short> {
        self.share.add(self.of, bytes).inspect_err(|_| self.share.refused())?;
        self.bytes += bytes;
        Ok(())
    }

    /// Adds bytes, whatever the limits say.
    pub fn grow_by_force(&mut self, bytes: u64) {
        self.share.add_by_force(self.of, bytes);
        self.bytes += bytes;
    }

    /// Makes the lease one of `bytes`. It is unchanged if a limit is reached.
    pub fn set(&mut self, bytes: u64) -> Result<(), Short> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                drop(self.split(self.bytes - bytes));
                Ok(())
            }
        }
    }

    /// Takes bytes from this lease into a lease of their own. At most those that it has.
    pub fn split(&mut self, bytes: u64) -> Lease {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Lease { share: self.share.clone(), of: self.of, bytes }
    }

    /// Ties the lease to `bytes`. It is given back when the last copy of them is dropped.
    pub fn tied_to(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Tied { bytes, _lease: self })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.take_off(self.bytes);
            self.share.budget().give_back(self.of, self.bytes);
        }
    }
}

struct Tied {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "budget_tests.rs"]
mod tests;
