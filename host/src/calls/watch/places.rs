//! Limits how many watches may be open: on this node, for one client and on one connection, and how
//! many of one client run a step at a time. It counts them, and does not know what a watch does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::calls::budget::{Budget, Share, client_at};

/// Most watches open at a time on one node.
pub const WATCHES_MAX: usize = 4096;

/// Most watches of one client on one node: a quarter of all.
pub const WATCHES_PER_CLIENT_MAX: usize = WATCHES_MAX / 4;

/// Most watches open at a time on one connection. A face whose connections carry a limited number
/// of calls has a higher limit, so that watches alone never fill a connection.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1000;

/// Most watches of one client whose step waits for a query thread or runs on one. When a change
/// wakes a thousand watches of a client, its others and other clients' calls find short queues.
const STEPS_AT_ONCE_OF_ONE_CLIENT: usize = 32;

/// One connection of a client. Each of its requests carries it.
#[derive(Clone, Debug)]
pub struct Connection {
    watches: Arc<Semaphore>,
    share: Share,
    /// The address of the client, as the limit of watches counts it.
    client: Arc<str>,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection::new(Budget::default().share(), IpAddr::from([127, 0, 0, 1]))
    }
}

impl Connection {
    /// Makes the value for a new connection from `address`, with its share of the node's bytes.
    pub fn new(share: Share, address: IpAddr) -> Connection {
        Connection { watches: Arc::new(Semaphore::new(WATCHES_PER_CONNECTION_MAX)), share, client: client_at(address) }
    }

    /// Returns the bytes that the connection may hold.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Returns who the client is: its name if it has one, else its address.
    fn client(&self, caller: &str) -> Arc<str> {
        match caller {
            "" => self.client.clone(),
            name => format!("name {name}").into(),
        }
    }
}

/// The places of one node.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<Open>>);

/// The watches that are open. One lock covers all counts, so that of two watches for the last place
/// one gets it.
#[derive(Debug, Default)]
struct Open {
    on_node: usize,
    /// The watches of each client. A client without watches is not in it.
    of_clients: HashMap<Arc<str>, OfClient>,
}

/// The watches of one client.
#[derive(Debug)]
struct OfClient {
    open: usize,
    steps: Arc<Semaphore>,
}

impl Default for OfClient {
    fn default() -> OfClient {
        OfClient { open: 0, steps: Arc::new(Semaphore::new(STEPS_AT_ONCE_OF_ONE_CLIENT)) }
    }
}

/// The place of one watch. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    /// The turns that the steps of its client's watches take.
    steps: Arc<Semaphore>,
    _on_connection: OwnedSemaphorePermit,
    _on_node: NodePlace,
}

/// The place of a watch on its node, and among those of its client.
#[derive(Debug)]
struct NodePlace {
    open: Arc<Mutex<Open>>,
    client: Arc<str>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The limit of the node.
    #[error("{WATCHES_MAX} watches are open on this node, which is its limit; watch on another one")]
    Node,
    /// The quota of the machine.
    #[error(
        "{0} watches are open on this node, as many as the cluster lets a node have (watches_per_node_max in its profile); watch on another \
         one"
    )]
    Machine(u64),
    /// The limit of one client.
    #[error(
        "{WATCHES_PER_CLIENT_MAX} watches of this client (its name, or else its address) are open on this node, a quarter of all that the node \
         may have; close some, or watch on another node"
    )]
    Client,
    /// The limit of one connection.
    #[error(
        "{WATCHES_PER_CONNECTION_MAX} watches are open on this connection, which is its limit, so that other calls find room on it; \
         open another connection for more"
    )]
    Connection,
}

impl Full {
    /// Returns the name that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Full::Node => "node",
            Full::Machine(_) => "machine",
            Full::Client => "client",
            Full::Connection => "connection",
        }
    }
}

impl Places {
    /// Takes a place for one more watch of `caller`, which is empty if the client has no name.
    /// `quota` is how many the cluster lets a node have. Those that are open stay when it sinks.
    pub fn take_within(&self, quota: Option<u64>, connection: &Connection, caller: &str) -> Result<Place, Full> {
        let on_connection = connection.watches.clone().try_acquire_owned().map_err(|_| Full::Connection)?;
        let client = connection.client(caller);
        let steps = self.0.lock().take(client.clone(), quota)?;
        Ok(Place { steps, _on_connection: on_connection, _on_node: NodePlace { open: self.0.clone(), client } })
    }

    /// Returns the number of open watches.
    pub fn taken(&self) -> u64 {
        self.0.lock().on_node as u64
    }

    /// Returns the number of watches of the client that has most.
    pub fn taken_by_one(&self) -> u64 {
        self.0.lock().of_clients.values().map(|of| of.open).max().unwrap_or(0) as u64
    }
}

impl Open {
    /// Counts one more watch of a client, if there is a place for it.
    fn take(&mut self, client: Arc<str>, quota: Option<u64>) -> Result<Arc<Semaphore>, Full> {
        let of_client = self.of_clients.get(&client).map_or(0, |of| of.open);
        if of_client >= WATCHES_PER_CLIENT_MAX {
            return Err(Full::Client);
        }
        if self.on_node >= WATCHES_MAX {
            return Err(Full::Node);
        }
        if let Some(quota) = quota
            && self.on_node as u64 >= quota
        {
            return Err(Full::Machine(quota));
        }
        self.on_node += 1;
        let of_client = self.of_clients.entry(client).or_default();
        of_client.open += 1;
        Ok(of_client.steps.clone())
    }

    /// Counts one watch of a client less.
    fn give_back(&mut self, client: &Arc<str>) {
        self.on_node -= 1;
        let left = self.of_clients.get_mut(client).map_or(0, |of| {
            of.open -= 1;
            of.open
        });
        if left == 0 {
            self.of_clients.remove(client);
        }
    }
}

impl Place {
    /// Returns the turns of its client's watches. A step holds a permit while it waits for a query
    /// thread and runs.
    pub(super) fn steps(&self) -> Arc<Semaphore> {
        self.steps.clone()
    }
}

impl Drop for NodePlace {
    fn drop(&mut self) {
        self.open.lock().give_back(&self.client);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn from(address: [u8; 4]) -> Connection {
        Connection::new(Budget::default().share(), address.into())
    }

    impl Places {
        /// Takes a place without a quota of the cluster.
        fn take(&self, connection: &Connection, caller: &str) -> Result<Place, Full> {
            self.take_within(None, connection, caller)
        }
    }

    /// Each of two watches for the last place was refused, because both were counted before either
    /// looked. Now they are counted and compared under one lock.
    #[test]
    fn one_of_two_watches_gets_the_last_place() {
        let places = Places::default();
        for _ in 0..200 {
            let start = std::sync::Barrier::new(2);
            let take = |last: u8| {
                start.wait();
                places.take_within(Some(1), &from([10, 0, 0, last]), "")
            };
            let (one, other) = std::thread::scope(|scope| {
                let one = scope.spawn(|| take(1));
                let other = take(2);
                (one.join().unwrap(), other)
            });
            assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        }
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn the_quota_of_the_machine_leaves_open_watches_alone() {
        let (places, one) = (Places::default(), from([10, 0, 0, 1]));
        let mut held: Vec<Place> = (0..3).map(|_| places.take_within(None, &one, "").unwrap()).collect();
        assert_eq!(places.take_within(Some(2), &one, "").unwrap_err(), Full::Machine(2));
        assert_eq!(places.taken(), 3, "a refused watch holds no place");
        held.truncate(1);
        held.push(places.take_within(Some(2), &one, "").unwrap());
        assert_eq!(places.take_within(Some(2), &one, "").unwrap_err(), Full::Machine(2));
    }

    #[test]
    fn a_connection_a_client_and_a_node_have_places_of_their_own() {
        let places = Places::default();
        let (one, mut held) = (from([10, 0, 0, 1]), Vec::new());
        for _ in 0..WATCHES_PER_CONNECTION_MAX {
            held.push(places.take(&one, "").unwrap());
        }
        assert_eq!(places.take(&one, "").unwrap_err(), Full::Connection);
        let again = from([10, 0, 0, 1]);
        for _ in WATCHES_PER_CONNECTION_MAX..WATCHES_PER_CLIENT_MAX {
            held.push(places.take(&again, "").unwrap());
        }
        assert_eq!(places.take(&again, "").unwrap_err(), Full::Client);
        // Others are not affected until the node is full.
        for last in 2.. {
            let next = from([10, 0, 0, last]);
            let free = (WATCHES_MAX - held.len()).min(WATCHES_PER_CONNECTION_MAX);
            if free == 0 {
                break;
            }
            held.extend((0..free).map(|_| places.take(&next, "").unwrap()));
        }
        assert_eq!(places.take(&from([10, 0, 1, 1]), "").unwrap_err(), Full::Node);
        assert_eq!((places.taken(), places.taken_by_one()), (WATCHES_MAX as u64, WATCHES_PER_CLIENT_MAX as u64));
        held.clear();
        assert_eq!((places.taken(), places.taken_by_one()), (0, 0));
        places.take(&one, "").unwrap();
    }

    #[test]
    fn a_name_counts_wherever_it_comes_from_and_beside_others_of_its_address() {
        let places = Places::default();
        let at = |n: usize| from([10, 0, 0, (n / WATCHES_PER_CONNECTION_MAX) as u8]);
        let connections: Vec<Connection> = (0..3).map(|n| at(n * WATCHES_PER_CONNECTION_MAX)).collect();
        let take = |n: usize| places.take(&connections[n / WATCHES_PER_CONNECTION_MAX], "alice");
        let held: Vec<Place> = (0..WATCHES_PER_CLIENT_MAX).map(|n| take(n).unwrap()).collect();
        assert_eq!(places.take(&connections[2], "alice").unwrap_err(), Full::Client);
        places.take(&connections[2], "bob").unwrap();
        places.take(&connections[2], "").unwrap();
        assert_eq!(held.len(), WATCHES_PER_CLIENT_MAX);
    }

    #[test]
    fn the_watches_of_a_client_share_their_turns_and_leave_others_theirs() {
        let places = Places::default();
        let place = |last: u8| places.take(&from([10, 0, 0, last]), "").unwrap();
        let (one, same, other) = (place(1), place(1), place(2));
        let taken: Vec<_> = std::iter::from_fn(|| one.steps().try_acquire_owned().ok()).collect();
        assert_eq!(taken.len(), STEPS_AT_ONCE_OF_ONE_CLIENT);
        assert!(same.steps().try_acquire().is_err() && other.steps().try_acquire().is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let at = |text: &str| client_at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }
}
