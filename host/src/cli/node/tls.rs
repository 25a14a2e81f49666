//! The flags of TLS of `lockstep node`. `config/tls.rs` says what belongs together.

use std::path::PathBuf;

use crate::config::{PortTls, TlsConfig};
use crate::tls::{MinVersion, Mode};

/// Flags of TLS.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArgs {
    /// Certificate for clients in PEM, followed by those between it and the CA. With it --grpc_addr
    /// and --http_addr speak TLS. This file and those below may change while the node runs
    #[arg(long = "tls_cert", env = "LOCKSTEP_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls_cert in PEM
    #[arg(long = "tls_key", env = "LOCKSTEP_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// CAs of client certificates in PEM. Clients may then show one, or a token instead
    #[arg(long = "tls_client_ca", env = "LOCKSTEP_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Whether connections of clients are encrypted [default: require with --tls_cert, else off]
    #[arg(long = "tls_mode", env = "LOCKSTEP_TLS_MODE", value_name = "off|prefer|require", value_parser = mode)]
    tls_mode: Option<Mode>,

    /// Oldest TLS that clients may speak; peers always speak 1.3
    #[arg(long = "tls_min_version", env = "LOCKSTEP_TLS_MIN_VERSION", value_name = "1.2|1.3",
        default_value = "1.3", value_parser = min_version)]
    tls_min_version: MinVersion,

    /// Certificate of this node for its peers in PEM. It names the node, by the URI
    /// lockstep://<cluster>/node/<raft_id> or by a DNS name that begins with the raft_id
    #[arg(long = "peer_tls_cert", env = "LOCKSTEP_PEER_TLS_CERT", value_name = "FILE")]
    peer_tls_cert: Option<PathBuf>,

    /// Private key of --peer_tls_cert in PEM
    #[arg(long = "peer_tls_key", env = "LOCKSTEP_PEER_TLS_KEY", value_name = "FILE")]
    peer_tls_key: Option<PathBuf>,

    /// CAs of the peers' certificates in PEM
    #[arg(long = "peer_tls_ca", env = "LOCKSTEP_PEER_TLS_CA", value_name = "FILE")]
    peer_tls_ca: Option<PathBuf>,

    /// Whether connections between nodes are encrypted; prefer is for a cluster on its way to TLS
    /// [default: require with --peer_tls_cert, else off]
    #[arg(long = "peer_tls_mode", env = "LOCKSTEP_PEER_TLS_MODE", value_name = "off|prefer|require", value_parser = mode)]
    peer_tls_mode: Option<Mode>,
}

fn mode(word: &str) -> Result<Mode, &'static str> {
    word.parse()
}

fn min_version(word: &str) -> Result<MinVersion, &'static str> {
    word.parse()
}

impl TlsArgs {
    pub(super) fn config(&self) -> TlsConfig {
        TlsConfig {
            clients: PortTls {
                cert: self.tls_cert.clone(),
                key: self.tls_key.clone(),
                ca: self.tls_client_ca.clone(),
                mode: self.tls_mode,
            },
            peers: PortTls {
                cert: self.peer_tls_cert.clone(),
                key: self.peer_tls_key.clone(),
                ca: self.peer_tls_ca.clone(),
                mode: self.peer_tls_mode,
            },
            min_version: self.tls_min_version,
        }
    }
}
