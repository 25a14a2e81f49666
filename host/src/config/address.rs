//! `host:port` as an operator types it. Parses and compares; never asks a name server.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::ConfigError;

/// A host and a port. An empty host (`:40051`) means every interface, as in Go programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP, without brackets.
    pub host: String,
    /// 0: the system chooses.
    pub port: u16,
}

impl Address {
    /// Parses `host:port`, `[ipv6]:port` or `:port`. An error names `flag`.
    pub fn parse(flag: &'static str, text: &str) -> Result<Address, ConfigError> {
        let hint = "give host:port, such as localhost:40051 or [::1]:40051";
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(ConfigError::new(flag, format!("{text:?} has no port"), hint));
        };
        let port = port
            .parse()
            .map_err(|_| ConfigError::new(flag, format!("{port:?} in {text:?} is not a port (0 to 65535)"), hint))?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_host = match bracketed {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => !host.contains([':', '[', ']', '/', '@']) && !host.contains(char::is_whitespace),
        };
        let host = bracketed.unwrap_or(host);
        if !is_host {
            return Err(ConfigError::new(flag, format!("{text:?} is not host:port"), hint));
        }
        Ok(Address { host: host.to_owned(), port })
    }

    /// Returns whether only this machine can reach the address.
    ///
    /// A name other than `localhost` counts as reachable, because it may resolve to something else
    /// later.
    pub fn is_loopback(&self) -> bool {
        self.is_localhost() || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Returns whether the address means every interface.
    pub fn is_unspecified(&self) -> bool {
        self.host.is_empty() || self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Returns whether listening on both would fail.
    pub fn collides_with(&self, other: &Address) -> bool {
        let one_covers_the_other = self.is_unspecified()
            || other.is_unspecified()
            || self.host.eq_ignore_ascii_case(&other.host)
            || self.is_localhost_as(other)
            || other.is_localhost_as(self);
        self.port != 0 && self.port == other.port && one_covers_the_other
    }

    fn is_localhost(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
    }

    fn is_localhost_as(&self, other: &Address) -> bool {
        self.is_localhost() && matches!(other.host.as_str(), "127.0.0.1" | "::1")
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_were_typed() {
        for text in ["localhost:40051", "127.0.0.1:0", "[::1]:5", ":7", "db-1.example:65535"] {
            assert_eq!(Address::parse("--x", text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "localhost", "localhost:", "::1:5", "[::1:5", "[name]:5", "http://a:5", "a b:5", "a:-1"] {
            assert!(Address::parse("--x", text).is_err(), "{text:?} was accepted");
        }
    }
}
