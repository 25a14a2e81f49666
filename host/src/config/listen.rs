//! Turns an address into listening sockets. Never accepts a connection.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use super::{Address, ConfigError};

/// Most attempts to bind port 0 on several addresses. The port that the system chose on the first
/// may be taken on the next.
const PORT_ATTEMPTS_MAX: u32 = 32;

/// Why a node cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is malformed.
    #[error(transparent)]
    Address(#[from] ConfigError),
    /// The name does not resolve.
    #[error(
        "cannot listen on {addr} ({flag}): the name does not resolve to an address of this machine; check its spelling"
    )]
    Resolve {
        /// The flag that set it.
        flag: &'static str,
        /// The address as typed.
        addr: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {addr} ({flag}): the port is taken by another process; stop that one, or choose another port with {flag}"
    )]
    Taken {
        /// The flag that set it.
        flag: &'static str,
        /// The socket address that is taken.
        addr: SocketAddr,
    },
    /// Any other error of the system.
    #[error("cannot listen on {addr} ({flag})")]
    Bind {
        /// The flag that set it.
        flag: &'static str,
        /// The socket address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Listens on every address that `addr` resolves to, all on one port, non-blocking.
///
/// A family that this machine lacks is left out as long as another remains. If the port in `addr`
/// is 0, the system chooses it.
pub fn bind(flag: &'static str, addr: &str) -> Result<Vec<TcpListener>, ListenError> {
    let address = Address::parse(flag, addr)?;
    let ips = resolve(flag, &address)?;
    let mut attempt = 1;
    loop {
        match bind_all(flag, &ips, address.port) {
            Err(ListenError::Taken { .. }) if address.port == 0 && attempt < PORT_ATTEMPTS_MAX => attempt += 1,
            result => return result,
        }
    }
}

/// Returns the address that others connect to.
///
/// That is `advertise` if given, else the host as typed with the port that was bound. `listeners`
/// are those that [`bind`] made of `addr`.
pub fn advertised(advertise: Option<&str>, addr: &str, listeners: &[TcpListener]) -> Result<String, ListenError> {
    if let Some(advertise) = advertise {
        return Ok(advertise.to_owned());
    }
    let mut address = Address::parse("the listen address", addr)?;
    if let Some(listener) = listeners.first() {
        let bound = listener.local_addr().map_err(|source| ListenError::Bind {
            flag: "the listen address",
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port),
            source,
        })?;
        address.port = bound.port();
    }
    Ok(address.to_string())
}

fn resolve(flag: &'static str, address: &Address) -> Result<Vec<IpAddr>, ListenError> {
    if address.host.is_empty() {
        return Ok(vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
    }
    let failed = |source| ListenError::Resolve { flag, addr: address.to_string(), source };
    let mut ips = Vec::new();
    for found in (address.host.as_str(), address.port).to_socket_addrs().map_err(failed)? {
        if !ips.contains(&found.ip()) {
            ips.push(found.ip());
        }
    }
    if ips.is_empty() {
        return Err(failed(io::Error::new(ErrorKind::NotFound, "no address")));
    }
    Ok(ips)
}

fn bind_all(flag: &'static str, ips: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    let mut port = port;
    let mut left_out = None;
    for &ip in ips {
        let addr = SocketAddr::new(ip, port);
        match listen(addr) {
            Ok((listener, bound_port)) => {
                port = bound_port;
                listeners.push(listener);
            }
            // ":port" means both families. On most systems the IPv6 socket already serves both.
            Err(error) if error.kind() == ErrorKind::AddrInUse && ip.is_unspecified() && !listeners.is_empty() => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(ListenError::Taken { flag, addr });
            }
            Err(source) if is_missing_family(&source) => left_out = Some(ListenError::Bind { flag, addr, source }),
            Err(source) => return Err(ListenError::Bind { flag, addr, source }),
        }
    }
    match left_out {
        Some(error) if listeners.is_empty() => Err(error),
        Some(error) => {
            tracing::warn!("{error}; this machine has no such address, the others of the name are served");
            Ok(listeners)
        }
        None => Ok(listeners),
    }
}

fn listen(addr: SocketAddr) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Returns whether the machine lacks the address family. A container without IPv6 still resolves
/// `localhost` to `::1`.
fn is_missing_family(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn port_zero_gives_every_address_of_localhost_the_same_port() {
        let listeners = bind("--grpc_addr", "localhost:0").unwrap();
        assert!(!listeners.is_empty());
        assert!(listeners.iter().all(|listener| port(listener) == port(&listeners[0])));
        let advertised = advertised(None, "localhost:0", &listeners).unwrap();
        assert_eq!(advertised, format!("localhost:{}", port(&listeners[0])));
    }

    #[test]
    fn taken_port_is_named_with_its_flag() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = holder.local_addr().unwrap().to_string();
        let error = bind("--raft_addr", &addr).unwrap_err();
        assert!(matches!(error, ListenError::Taken { .. }));
        let text = error.to_string();
        assert!(text.contains(&addr) && text.contains("--raft_addr"), "{text}");
    }

    #[test]
    fn advertise_address_wins_over_the_listen_address() {
        let listeners = bind("--grpc_addr", "127.0.0.1:0").unwrap();
        assert_eq!(advertised(Some("db1:5"), "127.0.0.1:0", &listeners).unwrap(), "db1:5");
    }
}
