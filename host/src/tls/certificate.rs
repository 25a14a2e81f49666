//! What a certificate says about its holder. It is read after rustls has verified the certificate.

use std::time::SystemTime;

/// A verified certificate of the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of the subject. Empty if there is none.
    pub common_name: String,
    /// The URIs among the alternative names, such as `lockstep://lockstep/node/nodeA`.
    pub uris: Vec<String>,
    /// The DNS names among the alternative names.
    pub dns_names: Vec<String>,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: String,
}
