//! Owns TLS: certificates and keys from files, what a certificate says about its holder, and the
//! two ends of an encrypted connection. rustls has its home here. Knows no service and no Raft, and
//! decides nothing about what a holder may do.
//!
//! ```text
//! files ──► material (what they hold, or why not) ──► keeper (what is in use now)
//!                                                      ├─► server (accepts, net uses it)
//!                                                      └─► connector (dials, raft uses it)
//! certificate (what it says) ◄── identity (whom it names)
//! ```

mod certificate;
mod client_stream;
mod cluster;
mod connector;
mod identity;
mod keeper;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod made;
mod material;
mod pem;
mod reason;
mod server;
mod settings;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod verify;

pub use certificate::Certificate;
pub use client_stream::ClientStream;
pub use cluster::OwnCluster;
pub use connector::Connector;
pub use keeper::Looked;
pub use pem::pem_problem;
pub use reason::{is_not_tls, reason};
pub use server::{Server, speaks_tls};
pub use settings::{Audience, Files, MinVersion, Mode, Part, ServerSettings, TlsError};
pub use stream::{Chain, Stream};
