//! Who is at the other end of an accepted connection. A service gets it with each connection, and
//! finds it in the extensions of each request.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::tls::Certificate;

/// The other end of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate that it has shown and that was verified; `None` if it has shown none.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
}
