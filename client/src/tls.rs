//! How a client proves its nodes and itself: authorities, certificate and key, as PEM. Opens no
//! connection. Files are read at every new connection, so a renewed certificate needs no restart.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Encryption of the connections of a client. It trusts the authorities that it is given, and no
/// others.
///
/// The name in a node's certificate must be the host of the address that the client uses: the one
/// in its list, or the one that a node names as the leader's.
#[derive(Clone)]
pub struct Tls {
    authorities: Pem,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
}

/// PEM text, or the file that holds it.
#[derive(Clone)]
enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

/// Why there is no encryption.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What should be PEM has no such section.
    #[error("{what} holds no {section}")]
    Missing {
        /// Where it was looked for: a file, or the text that the program gave.
        what: String,
        /// What is missing: `BEGIN CERTIFICATE`, or `PRIVATE KEY`.
        section: &'static str,
    },
}

impl Tls {
    /// Trusts nodes whose certificates one of these authorities signed. `pem` may hold several.
    pub fn trusting(pem: impl Into<Vec<u8>>) -> Tls {
        Tls { authorities: Pem::Text(pem.into()), identity: None, server_name: None }
    }

    /// Trusts the authorities in a file. The file is read at every new connection.
    pub fn trusting_file(path: impl Into<PathBuf>) -> Tls {
        Tls { authorities: Pem::File(path.into()), identity: None, server_name: None }
    }

    /// Shows nodes this certificate and proves it with its private key.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Tls {
        self.identity = Some((Pem::Text(certificate.into()), Pem::Text(key.into())));
        self
    }

    /// Shows nodes the certificate in a file and proves it with the private key in another one. The
    /// files are read at every new connection.
    #[must_use]
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        self.identity = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// Expects this name in the certificate of every node, whatever the address. For nodes that are
    /// reached through a tunnel or under an address that their certificates do not name.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.server_name = Some(name.into());
        self
    }

    /// Reads what is needed for one connection.
    ///
    /// # Errors
    /// A file cannot be read, or something holds no PEM.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config().map(drop)
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Makes the configuration of one connection.
    pub(crate) fn config(&self) -> Result<ClientTlsConfig, TlsError> {
        let authorities = self.authorities.read("the list of authorities", CERTIFICATE)?;
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        if let Some((certificate, key)) = &self.identity {
            let certificate = certificate.read("the certificate of the client", CERTIFICATE)?;
            config = config.identity(Identity::from_pem(certificate, key.read("the key of the client", KEY)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

const CERTIFICATE: &str = "BEGIN CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

impl Pem {
    fn read(&self, named: &str, section: &'static str) -> Result<Vec<u8>, TlsError> {
        let (bytes, what) = match self {
            Pem::Text(bytes) => (bytes.clone(), named.to_owned()),
            Pem::File(path) => (read(path)?, path.display().to_string()),
        };
        match String::from_utf8_lossy(&bytes).contains(section) {
            true => Ok(bytes),
            false => Err(TlsError::Missing { what, section }),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

/// A key is never shown.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("has_identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_named_before_anything_is_sent() {
        let error = Tls::trusting("hello").check().unwrap_err();
        assert_eq!(error.to_string(), "the list of authorities holds no BEGIN CERTIFICATE");
        let error = Tls::trusting_file("/nowhere/ca.pem").check().unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/ca.pem cannot be read");
        let authorities = "-----BEGIN CERTIFICATE-----";
        let error = Tls::trusting(authorities).identity(authorities, authorities).check().unwrap_err();
        assert_eq!(error.to_string(), "the key of the client holds no PRIVATE KEY");
    }

    #[test]
    fn a_key_is_not_shown() {
        let tls = Tls::trusting("a").identity("certificate", "secret").server_name("nodeA");
        let shown = format!("{tls:?}");
        assert!(!shown.contains("secret") && shown.contains("nodeA"), "{shown}");
    }
}
