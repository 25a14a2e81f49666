//! From where a connection comes, as far as limits are concerned: what one machine can choose
//! freely counts as one. Places of a port, bytes and watches of an address all count by it. Knows
//! no connection and no limit.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

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
}
