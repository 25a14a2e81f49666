//! From where a connection comes, as far as limits are concerned: what one machine can choose
//! freely counts as one. Places of a port, bytes and watches of an address all count by it. And
//! who takes turns with whom: a name, or else such a source. Knows no connection and no limit.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// An address of IPv4, or a network of IPv6 with 64 bits, which is the least that one machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// All of it.
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6([u16; 4]),
}

impl Source {
    /// Returns the source that an address belongs to. An address of IPv4 that is written as one of
    /// IPv6, as a socket for both shows it, stays one of IPv4.
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Source::V6([a, b, c, d])
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::V4(address) => address.fmt(f),
            Source::V6([a, b, c, d]) => write!(f, "network {a:x}:{b:x}:{c:x}:{d:x}"),
        }
    }
}

/// One who takes turns with others: a client by its name, or else by the source of its connection.
/// A number that is the same on every node, so that it travels with each command. Two parties with
/// one number share their turns, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    number: u64,
    /// Whether it stands for all clients of a node that did not tell whose commands it forwards.
    is_untold: bool,
}

impl Party {
    /// Returns the party of a client that has shown its name.
    pub fn named(name: &str) -> Party {
        Party::told(xxh3_64_with_seed(name.as_bytes(), 1))
    }

    /// Returns the party of the clients of one source, by the text of the source.
    pub fn at(source: &str) -> Party {
        Party::told(xxh3_64_with_seed(source.as_bytes(), 2))
    }

    /// Returns the party that another node told by number. 0 says that it did not tell: then all
    /// its commands are of one party.
    pub fn told_by(node: u64, number: u64) -> Party {
        match number {
            0 => Party { number: xxh3_64_with_seed(&node.to_le_bytes(), 3), is_untold: true },
            told => Party::told(told),
        }
    }

    fn told(number: u64) -> Party {
        Party { number, is_untold: false }
    }

    /// Returns the number that other nodes are told.
    pub fn number(self) -> u64 {
        self.number
    }

    /// Returns whether it stands for all clients of a node of an earlier build, which does not tell
    /// whose commands it forwards.
    pub fn is_untold(self) -> bool {
        self.is_untold
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_of_ipv4_or_64_bits_of_ipv6() {
        let rows = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::7", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("127.0.0.1", "::1", false),
        ];
        for (one, other, is_same) in rows {
            let same = Source::of(one.parse().unwrap()) == Source::of(other.parse().unwrap());
            assert_eq!(same, is_same, "{one} and {other}");
        }
    }

    #[test]
    fn a_party_is_told_by_number_and_is_known_again() {
        let alice = Party::named("alice");
        assert_eq!(Party::told_by(7, alice.number()), alice);
        assert_ne!(Party::named("10.0.0.1"), Party::at("10.0.0.1"), "a name is no address");
        assert_ne!(Party::told_by(1, 0), Party::told_by(2, 0), "who tells nothing is one party by node");
        assert!(Party::told_by(1, 0).is_untold() && !Party::told_by(1, 7).is_untold() && !alice.is_untold());
    }
}
