//! For tests: an address where nobody listens, and that nobody else gets. Listens only when told
//! to.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A loopback address with a port that the system chose. It is bound, so that it is taken, and not
/// listening, so that it refuses.
///
/// A port that was listening and is closed may belong to another test a moment later. It also
/// continues to accept while a process that is being started has a copy.
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    /// Reserves an address. It refuses connections from now on, and is free again when this value
    /// is dropped.
    pub(crate) fn address() -> (Reserved, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        (Reserved(socket), address)
    }

    /// Listens at the address.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(16).expect("nobody else has the port")
    }
}
