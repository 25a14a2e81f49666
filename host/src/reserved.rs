//! For tests: an address where nobody listens, and that nobody else gets. Listens only when it is told to.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A loopback address at a port that the system picked: bound, so that it is taken, and not listened on, so that it refuses. (One that was
/// listened on and closed may be another test's a moment later, and goes on accepting while a process that is being started has a copy.)
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    /// Picks one; it is refused from now on, and free again with the end of this value.
    pub(crate) fn address() -> (Reserved, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        (Reserved(socket), address)
    }

    /// Listens there.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(16).expect("nobody else has the port")
    }
}
