//! The settings of TLS: which files, and whether connections are encrypted. Reads no file.

use std::path::PathBuf;

use super::ConfigError;
use crate::tls::{Files, MinVersion, Mode, Part};

/// The settings of TLS of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Of the ports for clients, and for `/livez` and `/metrics`.
    pub clients: PortTls,
    /// Of the port for peers, and of connections to peers.
    pub peers: PortTls,
    /// The oldest TLS that clients may speak.
    pub min_version: MinVersion,
}

/// The settings of one use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTls {
    /// The certificate in PEM.
    pub cert: Option<PathBuf>,
    /// Its private key in PEM.
    pub key: Option<PathBuf>,
    /// The CAs of the other end in PEM.
    pub ca: Option<PathBuf>,
    /// Whether connections are encrypted; by default all are if there is a certificate.
    pub mode: Option<Mode>,
}

/// The flags of one use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFlags {
    /// The flag for the certificate.
    pub cert: &'static str,
    /// The flag for the key.
    pub key: &'static str,
    /// The flag for the CAs.
    pub ca: &'static str,
    /// The flag for the mode.
    pub mode: &'static str,
}

/// The flags for clients.
pub const CLIENT_FLAGS: TlsFlags =
    TlsFlags { cert: "--tls_cert", key: "--tls_key", ca: "--tls_client_ca", mode: "--tls_mode" };
/// The flags for peers.
pub const PEER_FLAGS: TlsFlags =
    TlsFlags { cert: "--peer_tls_cert", key: "--peer_tls_key", ca: "--peer_tls_ca", mode: "--peer_tls_mode" };

impl TlsFlags {
    /// Returns the flag that names a file.
    pub fn of(&self, part: Part) -> &'static str {
        match part {
            Part::Certificate => self.cert,
            Part::Key => self.key,
            Part::Ca => self.ca,
        }
    }
}

impl PortTls {
    /// Returns whether connections are encrypted.
    pub fn mode(&self) -> Mode {
        let default = if self.cert.is_some() { Mode::Require } else { Mode::Off };
        self.mode.unwrap_or(default)
    }

    /// Returns the files. `None` if there is no certificate.
    pub fn files(&self) -> Option<Files> {
        let (certificate, key) = (self.cert.clone()?, self.key.clone()?);
        Some(Files { certificate, key, ca: self.ca.clone() })
    }

    fn validate(&self, flags: &TlsFlags, needs_ca: bool) -> Result<(), ConfigError> {
        let hint = match needs_ca {
            true => format!("give {}, {} and {} together", flags.cert, flags.key, flags.ca),
            false => format!("give {} and {} together", flags.cert, flags.key),
        };
        let given = [(flags.cert, self.cert.is_some()), (flags.key, self.key.is_some()), (flags.ca, self.ca.is_some())];
        let needed = &given[..if needs_ca { 3 } else { 2 }];
        let first = given.iter().find(|(_, is_given)| *is_given);
        let missing = needed.iter().find(|(_, is_given)| !is_given);
        match (first, missing) {
            (Some((given, _)), Some((missing, _))) => {
                Err(ConfigError::new(missing, format!("it is missing, and {given} is given"), hint))
            }
            (None, _) if self.mode() != Mode::Off => {
                let word = self.mode().word();
                Err(ConfigError::new(flags.mode, format!("{word} needs a certificate, and none is given"), hint))
            }
            _ => Ok(()),
        }
    }
}

impl TlsConfig {
    /// Refuses settings that do not belong together.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.clients.validate(&CLIENT_FLAGS, false)?;
        self.peers.validate(&PEER_FLAGS, true)
    }

    /// Returns how the port with that address is used, and its flags.
    pub(super) fn of(&self, addr_flag: &str) -> (Mode, &'static TlsFlags) {
        match addr_flag {
            "--raft_addr" => (self.peers.mode(), &PEER_FLAGS),
            _ => (self.clients.mode(), &CLIENT_FLAGS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(cert: bool, key: bool, ca: bool, mode: Option<Mode>) -> PortTls {
        let path = |is_given: bool| is_given.then(|| PathBuf::from("x.pem"));
        PortTls { cert: path(cert), key: path(key), ca: path(ca), mode }
    }

    #[test]
    fn what_is_given_by_half_is_refused_by_the_flag_that_is_missing() {
        let table = [
            (given(true, false, false, None), "--tls_key", "--peer_tls_key"),
            (given(false, true, false, None), "--tls_cert", "--peer_tls_cert"),
            (given(false, false, true, None), "--tls_cert", "--peer_tls_cert"),
            (given(false, false, false, Some(Mode::Require)), "--tls_mode", "--peer_tls_mode"),
            (given(false, false, false, Some(Mode::Prefer)), "--tls_mode", "--peer_tls_mode"),
            (given(true, true, false, None), "", "--peer_tls_ca"),
            (given(true, true, true, Some(Mode::Off)), "", ""),
            (given(false, false, false, Some(Mode::Off)), "", ""),
        ];
        for (port, of_clients, of_peers) in table {
            let flag = |error: Option<ConfigError>| error.map_or("", |error| error.flag);
            let clients = TlsConfig { clients: port.clone(), ..TlsConfig::default() }.validate();
            assert_eq!(flag(clients.err()), of_clients, "{port:?}");
            let peers = TlsConfig { peers: port.clone(), ..TlsConfig::default() }.validate();
            assert_eq!(flag(peers.err()), of_peers, "{port:?}");
        }
    }

    #[test]
    fn with_a_certificate_everything_is_encrypted_unless_the_mode_says_otherwise() {
        assert_eq!(given(false, false, false, None).mode(), Mode::Off);
        assert_eq!(given(true, true, true, None).mode(), Mode::Require);
        assert_eq!(given(true, true, true, Some(Mode::Prefer)).mode(), Mode::Prefer);
    }
}
