//! The bytes of each address that has connections. It knows no limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::source::{Party, Source};

/// Returns the name of the client at an address, where nothing else names it.
pub fn client_at(address: IpAddr) -> Arc<str> {
    Source::of(address).to_string().into()
}

type Table = Arc<Mutex<HashMap<Arc<str>, Weak<OfAddress>>>>;

/// The addresses that have a connection, or bytes yet. The others are not in it.
#[derive(Debug, Default)]
pub(super) struct Addresses(Table);

/// What all connections of one address hold.
#[derive(Debug, Default)]
pub(super) struct OfAddress {
    pub(super) held: AtomicU64,
    /// The clients at this address that have no names.
    pub(super) party: Party,
    /// Where it is found, and under which name.
    place: Option<(Table, Arc<str>)>,
}

impl Addresses {
    /// Returns the counter of an address.
    pub(super) fn of(&self, address: IpAddr) -> Arc<OfAddress> {
        let client = client_at(address);
        let mut table = self.0.lock();
        if let Some(known) = table.get(&client).and_then(Weak::upgrade) {
            return known;
        }
        let place = Some((self.0.clone(), client.clone()));
        let new = Arc::new(OfAddress { held: AtomicU64::new(0), party: Party::at(&client), place });
        table.insert(client, Arc::downgrade(&new));
        new
    }

    /// Returns the most bytes that one address holds.
    pub(super) fn most(&self) -> u64 {
        let all: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        // Not under the lock, which the last owner of a counter takes.
        all.iter().map(|address| address.held.load(Relaxed)).max().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let Some((table, client)) = &self.place else { return };
        let mut table = table.lock();
        // A new connection of the address may have made another counter meanwhile.
        if table.get(client).is_some_and(|counter| counter.strong_count() == 0) {
            table.remove(client);
        }
    }
}
