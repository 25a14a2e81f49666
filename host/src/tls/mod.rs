//! Owns TLS: certificates and keys from files, what a certificate says about its holder, and the
//! two ends of an encrypted connection. rustls has its home here. Knows no service and no Raft, and
//! decides nothing about what a holder may do.

mod certificate;
mod stream;

pub use certificate::Certificate;
pub use stream::Stream;
