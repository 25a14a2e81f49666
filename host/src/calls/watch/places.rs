//! Limits how many watches may be open, on this node and on one connection. It counts them, and
//! does not know what a watch does.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most watches open at a time on one node.
pub const WATCHES_MAX: usize = 4096;

/// Most watches open at a time on one connection. A face whose connections carry a limited number
/// of calls has a higher limit, so that watches alone never fill a connection.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1000;

/// One connection of a client. Each of its requests carries it.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Semaphore>);

impl Default for Connection {
    fn default() -> Connection {
        Connection(Arc::new(Semaphore::new(WATCHES_PER_CONNECTION_MAX)))
    }
}

/// The places of one node.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Places {
        Places(Arc::new(Semaphore::new(WATCHES_MAX)))
    }
}

/// The place of one watch. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    _on_node: OwnedSemaphorePermit,
    _on_connection: OwnedSemaphorePermit,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The limit of the node.
    #[error("{WATCHES_MAX} watches are open on this node, which is its limit; watch on another one")]
    Node,
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
            Full::Connection => "connection",
        }
    }
}

impl Places {
    /// Takes a place for one more watch.
    pub fn take(&self, connection: &Connection) -> Result<Place, Full> {
        let on_connection = connection.0.clone().try_acquire_owned().map_err(|_| Full::Connection)?;
        let on_node = self.0.clone().try_acquire_owned().map_err(|_| Full::Node)?;
        Ok(Place { _on_node: on_node, _on_connection: on_connection })
    }

    /// Returns the number of open watches.
    pub fn taken(&self) -> u64 {
        (WATCHES_MAX - self.0.available_permits()) as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_and_a_node_have_places_of_their_own() {
        let places = Places::default();
        let (one, mut held) = (Connection::default(), Vec::new());
        for _ in 0..WATCHES_PER_CONNECTION_MAX {
            held.push(places.take(&one).unwrap());
        }
        assert_eq!(places.take(&one).unwrap_err(), Full::Connection);
        // Other connections are not affected until the node is full.
        while held.len() < WATCHES_MAX {
            let next = Connection::default();
            let free = (WATCHES_MAX - held.len()).min(WATCHES_PER_CONNECTION_MAX);
            held.extend((0..free).map(|_| places.take(&next).unwrap()));
        }
        assert_eq!(places.take(&Connection::default()).unwrap_err(), Full::Node);
        assert_eq!(places.taken(), WATCHES_MAX as u64);
        held.clear();
        assert_eq!(places.taken(), 0);
        places.take(&one).unwrap();
    }
}
