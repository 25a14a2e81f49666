//! The bytes of each address that has connections. It knows which addresses are one client, and no
//! limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Bits of an IPv6 address that one client has for itself.
const IPV6_CLIENT_BITS: u32 = 64;

/// Returns the client at an address. A client with IPv6 usually has the last half of it to choose.
pub fn client_at(address: IpAddr) -> Arc<str> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string().into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> (u128::BITS - IPV6_CLIENT_BITS);
            format!("network {network:x}").into()
        }
    }
}

type Table = Arc<Mutex<HashMap<Arc<str>, Weak<OfAddress>>>>;

/// The addresses that have a connection, or bytes yet. The others are not in it.
#[derive(Debug, Default)]
pub(super) struct Addresses(Table);

/// What all connections of one address hold.
#[derive(Debug, Default)]
pub(super) struct OfAddress {
    pub(super) held: AtomicU64,
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
        let new = Arc::new(OfAddress { held: AtomicU64::new(0), place: Some((self.0.clone(), client.clone())) });
        table.insert(client, Arc::downgrade(&new));
        new
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
